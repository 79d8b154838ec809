"""Where the jobs run: the embedded engine or a real cluster, what is seen of a federation there, and its end."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.flare.nvflare_internals import site_key
from flargo.job.names import credentials_secret, startup_secret
from flargo.status.fields import parse_each, value
from flargo.status.views import is_credentials_secret, pod_view, uid_of, workflow_view
from flargo.terms import MAIN_CONTAINER, Label, Object, Uid
from flargo.tools.demo.options import DemoError, Options
from flargo.tools.kit.chart import accounts_command

_LOG_LINES, _LOG_BYTES, _LOG_SECONDS = 5000, 1 << 20, 5.0
_KILL_GRACE = 3
_CLEAN_SECONDS = 20.0
_FILES = {
    "clusters": ("cluster", ("certificate-authority",)),
    "users": ("user", ("client-certificate", "client-key", "tokenFile")),
}
"""Where a kubeconfig names files, which it does from where it is."""


class Cluster:
    """One namespace of a cluster, as far as the demo looks at it."""

    def __init__(self, kubeconfig: Path, namespace: str, *, embedded: bool) -> None:
        """Look at a namespace."""
        self.kubeconfig, self.namespace, self.embedded = kubeconfig, namespace, embedded
        self._api = Api(config_loader(str(kubeconfig)), namespace)

    def check(self) -> None:
        """See that it answers, and has Argo.

        Raises:
            DemoError: it has not, or does not.
        """
        try:
            self._api.list(Kind.WORKFLOW, f"{Label.FEDERATION}=none")
        except ApiError as error:
            raise DemoError(_unusable(error, self.kubeconfig, self.namespace)) from error

    def look(self, selector: str) -> tuple[list[Object], list[Object]]:
        """The Workflows and pods with some labels.

        Raises:
            ApiError: it does not answer.
        """
        return self._api.list(Kind.WORKFLOW, selector)[0], self._api.list(Kind.POD, selector)[0]

    def log(self, pod: Object) -> str:
        """What a job's program has written; nothing where there is no log yet, or no more."""
        try:
            return self._api.log(pod["metadata"]["name"], MAIN_CONTAINER, _LOG_LINES, _LOG_BYTES, _LOG_SECONDS)
        except ApiError:
            return ""

    def wait_over(self, selector: str, seconds: float) -> list[str]:
        """Wait for the end of all Workflows and pods with some labels; the names of those that have not ended."""
        deadline = time.monotonic() + seconds
        while True:
            living = [item["metadata"]["name"] for items in self._living(selector) for item in items]
            if not living or time.monotonic() > deadline:
                return living
            time.sleep(0.5)

    def clean(self, federation: str, names: Sequence[str]) -> list[str]:
        """Take away what a federation has left that must not stay; what could not be taken away.

        Workflows that run are deleted, and their pods; finished ones stay to be looked at, until their time is over.
        Credentials and startup kits are deleted: nobody will use them again.
        """
        left: list[str] = []
        selector = f"{Label.FEDERATION}={federation}"
        try:
            owners = [
                view for view in parse_each(self._api.list(Kind.WORKFLOW, selector)[0], workflow_view) if view.attempt
            ]
            workflows, pods = self._living(selector)
            for workflow in parse_each(workflows, workflow_view):
                self._delete(Kind.WORKFLOW, workflow.name, workflow.uid, left)
            for pod in parse_each(pods, pod_view):
                self._delete(Kind.POD, pod.name, pod.uid, left, grace=_KILL_GRACE)
            for view in owners:
                is_its_own = partial(is_credentials_secret, workflow=view.name, uid=view.uid)
                self._drop_secret(credentials_secret(view.name, view.attempt), is_its_own, left)
            for name in (startup_secret(site_key(site), federation) for site in names):
                self._drop_secret(name, lambda meta: value(meta, "labels", Label.FEDERATION) == federation, left)
            left += [f"{name} has not ended yet" for name in self.wait_over(selector, _CLEAN_SECONDS)]
        except ApiError as error:
            left.append(str(error))
        return left

    def _living(self, selector: str) -> tuple[list[Object], list[Object]]:
        workflows, pods = self.look(selector)
        return (
            [item for item in workflows if not workflow_view(item).is_completed],
            [item for item in pods if not pod_view(item).is_terminal],
        )

    def _drop_secret(self, name: str, is_ours: Callable[[Object], bool], left: list[str]) -> None:
        try:
            meta = self._api.metadata(Kind.SECRET, name)
        except ApiError as error:
            if not error.not_found:
                left.append(str(error))
            return
        if is_ours(meta):
            self._delete(Kind.SECRET, name, uid_of({"metadata": meta}), left)

    def _delete(self, kind: Kind, name: str, uid: Uid, left: list[str], grace: int | None = None) -> None:
        try:
            self._api.delete(kind, name, uid, grace)
        except ApiError as error:
            if not error.not_found:
                left.append(str(error))


@contextlib.contextmanager
def engine(options: Options, root: Path) -> Iterator[Cluster]:
    """The cluster that is asked for; the embedded engine runs as long as this.

    Raises:
        DemoError: it can't be used.
    """
    if options.kubeconfig is not None:
        cluster = Cluster(_of_context(options.kubeconfig, options.context, root), options.namespace, embedded=False)
        cluster.check()
        yield cluster
        return
    try:
        from flargo.embedded import Embedded  # noqa: PLC0415  (an extra's)
    except ImportError as error:
        raise DemoError(f"The embedded engine needs {error.name}: pip install 'flargo[demo]'.") from error
    with Embedded(namespace=options.namespace) as embedded:
        yield Cluster(embedded.kubeconfig(root / "kubeconfig"), options.namespace, embedded=True)


def _of_context(file: Path, context: str | None, root: Path) -> Path:
    """A kubeconfig whose current context is the one that is asked for: a parent takes no other."""
    try:
        said: Any = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DemoError(f"The kubeconfig {file} can't be read: {describe(error)}.") from error
    contexts = [row.get("name") for row in (said or {}).get("contexts") or []] if isinstance(said, dict) else []
    if context is None and contexts:
        return file.resolve()
    if context not in contexts:
        known = ", ".join(map(str, contexts)) or "none"
        raise DemoError(f"The kubeconfig {file} has no context {context}: it has {known}.")
    for group, (inner, keys) in _FILES.items():
        for row in said.get(group) or []:
            fields = row.get(inner) or {}
            fields |= {key: str(file.resolve().parent / fields[key]) for key in keys if fields.get(key)}
    copy = root / "kubeconfig"
    copy.touch(mode=0o600)
    copy.write_text(yaml.safe_dump({**said, "current-context": context}))
    return copy


def _unusable(error: ApiError, kubeconfig: Path, namespace: str) -> str:
    if error.status == HTTPStatus.NOT_FOUND:
        return f"The cluster of {kubeconfig} has no Argo Workflows: install Argo 3.6 or newer, see README.md."
    if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return (
            f"The account of {kubeconfig} has no rights in the namespace {namespace} ({error.status}): "
            f"make them, in a checkout of flargo: {accounts_command(namespace) or 'with deploy/'}"
        )
    cause = " ".join(error.message.split())
    return f"The cluster of {kubeconfig} can't be reached: check that it runs and the context is right ({cause[:160]})."
