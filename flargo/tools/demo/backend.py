"""Opens the cluster for the demo's jobs, embedded or real; lists a federation's objects there and cleans them up."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import ConfigError, config_loader, export_context
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import LACKS_PERMISSION, Meaning
from flargo.flare.nvflare_internals import site_key
from flargo.job.names import credentials_secret, startup_secret
from flargo.status.fields import parse_each, value
from flargo.status.views import is_credentials_secret, pod_view, uid_of, workflow_view
from flargo.terms import MAIN_CONTAINER, Label, Object, Uid
from flargo.tools.demo.options import DemoError, Options
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.kit.chart import accounts_command

KUBECONFIG = "kubeconfig"
"""The name of the kubeconfig that the demo writes into its folder."""
_MAX_LOG_LINES, _MAX_LOG_BYTES, _LOG_TIMEOUT_SECONDS = 5000, 1 << 20, 5.0
_KILL_GRACE_SECONDS = 3
_CLEANUP_SECONDS = 20.0


class ClusterNamespace:
    """The namespace of a cluster in which the demo's jobs run."""

    def __init__(self, kubeconfig: Path, namespace: str, *, embedded: bool) -> None:
        """Connect to a namespace; no request is sent yet."""
        self.kubeconfig, self.namespace, self.embedded = kubeconfig, namespace, embedded
        self._api = Api(config_loader(str(kubeconfig)), namespace)

    def check(self) -> None:
        """Check that the API server answers and that Argo Workflows is installed.

        Raises:
            DemoError: one of them is not the case; says what to do.
        """
        try:
            self._api.list(Kind.WORKFLOW, f"{Label.FEDERATION}=none")
        except ApiError as error:
            raise DemoError(_describe_failure(error, self.kubeconfig, self.namespace)) from error

    def list_objects(self, selector: str) -> tuple[list[Object], list[Object]]:
        """Return the Workflows and the pods that a label selector matches.

        Raises:
            ApiError: the API server does not answer, or refuses.
        """
        return self._api.list(Kind.WORKFLOW, selector)[0], self._api.list(Kind.POD, selector)[0]

    def read_log(self, pod: Object) -> str:
        """Return the log of a job's program; empty if the pod has no log yet, or does not exist any more."""
        try:
            return self._api.log(
                pod["metadata"]["name"], MAIN_CONTAINER, _MAX_LOG_LINES, _MAX_LOG_BYTES, _LOG_TIMEOUT_SECONDS
            )
        except ApiError:
            return ""

    def evict(self, pod: Object) -> None:
        """Evict a pod, as `kubectl drain` does for each pod of a node.

        Raises:
            DemoError: the API server does not answer, or refuses.
        """
        name = pod["metadata"]["name"]
        try:
            self._api.evict(name, uid_of(pod))
        except ApiError as error:
            if error.meaning in LACKS_PERMISSION:
                raise DemoError(
                    f"The account of {self.kubeconfig} may not evict pods in namespace {self.namespace} "
                    f"({error.status}): --drain needs the right to create pods/eviction, which flargo-launcher lacks."
                ) from error
            raise DemoError(f"The pod {name} could not be evicted: {error}.") from error

    def wait_until_finished(self, selector: str, seconds: float) -> list[str]:
        """Wait until the Workflows and pods that a label selector matches have ended.

        Returns:
            The names of those that have not ended within that many seconds.
        """
        deadline = time.monotonic() + seconds
        while True:
            unfinished = [item["metadata"]["name"] for items in self._list_unfinished(selector) for item in items]
            if not unfinished or time.monotonic() > deadline:
                return unfinished
            time.sleep(0.5)

    def clean_up(self, federation: str, names: Sequence[str]) -> list[str]:
        """Delete what a federation must not leave behind.

        Running Workflows and pods are deleted; finished ones stay until their time to live is over, so that users can
        look at them. The Secrets with credentials and startup kits are deleted, because nothing will use them again.

        Returns:
            A message for each object that could not be deleted.
        """
        problems: list[str] = []
        selector = f"{Label.FEDERATION}={federation}"
        try:
            owners = [
                view for view in parse_each(self._api.list(Kind.WORKFLOW, selector)[0], workflow_view) if view.attempt
            ]
            workflows, pods = self._list_unfinished(selector)
            for workflow in parse_each(workflows, workflow_view):
                self._delete(Kind.WORKFLOW, workflow.name, workflow.uid, problems)
            for pod in parse_each(pods, pod_view):
                self._delete(Kind.POD, pod.name, pod.uid, problems, grace=_KILL_GRACE_SECONDS)
            for view in owners:
                is_own = partial(is_credentials_secret, workflow=view.name, uid=view.uid)
                self._delete_secret(credentials_secret(view.name, view.attempt), is_own, problems)
            for name in (startup_secret(site_key(site), federation) for site in names):
                self._delete_secret(name, lambda meta: value(meta, "labels", Label.FEDERATION) == federation, problems)
            problems += [f"{name} has not ended yet" for name in self.wait_until_finished(selector, _CLEANUP_SECONDS)]
        except ApiError as error:
            problems.append(str(error))
        return problems

    def _list_unfinished(self, selector: str) -> tuple[list[Object], list[Object]]:
        workflows, pods = self.list_objects(selector)
        return (
            [item for item in workflows if not workflow_view(item).is_completed],
            [item for item in pods if not pod_view(item).is_terminal],
        )

    def _delete_secret(self, name: str, is_own: Callable[[Object], bool], problems: list[str]) -> None:
        try:
            meta = self._api.metadata(Kind.SECRET, name)
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                problems.append(str(error))
            return
        if is_own(meta):
            self._delete(Kind.SECRET, name, uid_of({"metadata": meta}), problems)

    def _delete(self, kind: Kind, name: str, uid: Uid, problems: list[str], grace: int | None = None) -> None:
        try:
            self._api.delete(kind, name, uid, grace)
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                problems.append(str(error))


@contextlib.contextmanager
def open_cluster(options: Options, root: Path) -> Iterator[ClusterNamespace]:
    """Open the cluster that the options name, or start the embedded engine, which ends with the context.

    Raises:
        DemoError: the cluster cannot be used; says what to do.
    """
    if options.kubeconfig is not None:
        cluster = ClusterNamespace(
            _select_context(options.kubeconfig, options.context, root), options.namespace, embedded=False
        )
        cluster.check()
        yield cluster
        return
    from flargo.embedded import Embedded  # noqa: PLC0415  (a slow import)

    with Embedded(namespace=options.namespace) as embedded:
        yield ClusterNamespace(embedded.kubeconfig(root / KUBECONFIG), options.namespace, embedded=True)


def _select_context(file: Path, context: str | None, root: Path) -> Path:
    """Return a kubeconfig whose current context is the given one, because a FLARE parent uses no other context.

    Raises:
        DemoError: the kubeconfig or its context cannot be used.
    """
    if context is None:
        return file.absolute()
    try:
        content = export_context(str(file), context)
    except ConfigError as error:
        raise DemoError(f"{error}.") from error
    copy = root / KUBECONFIG
    copy.touch(mode=0o600)
    copy.write_text(content)
    return copy


def _describe_failure(error: ApiError, kubeconfig: Path, namespace: str) -> str:
    """Describe why the cluster cannot be used, in the words of the other commands."""
    problem = f"{describe_refusal(error)} (kubeconfig {kubeconfig})."
    if error.meaning is Meaning.FORBIDDEN:
        problem += (
            f" To grant flargo's rights, run in a checkout of flargo: {accounts_command(namespace) or 'see deploy/'}"
        )
    return problem[0].upper() + problem[1:]
