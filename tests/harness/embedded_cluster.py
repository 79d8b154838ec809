"""The embedded server as somebody other than flargo sees and touches it: by HTTP, without kubectl and argo."""

import contextlib
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flargo.embedded import Delays, Embedded, Policy, Settings
from flargo.terms import Label
from tests.harness.cluster import Cluster, _environment, commands
from tests.harness.real_cluster.target import Target

Object = dict[str, Any]
IMAGE = "flargo.test/job:2.9.0"
"""The name of an image; nobody looks into it."""
REALISTIC_SETTINGS = Settings(
    delays=Delays(init=0.3, remove=2.0), missing_images=frozenset({"flargo.test/job:not-there"})
)
"""Delays like a real cluster's, for scenarios that need them.

A pod starts in about a second, so that what happens before its start can be observed. A pod is removed as slowly as a
real one: else, on a busy machine, its successor is created before flargo has observed the removal."""
CORE, ARGO = "api/v1", "apis/argoproj.io/v1alpha1"
_GROUPS = {"workflows": ARGO}


class RefusedError(Exception):
    """An answer of 400 or more."""

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('message')}")
        self.code, self.status = code, status


class EmbeddedCluster(Cluster):
    """One embedded server, with an administrator's eyes."""

    at_once = 40
    """Its jobs are processes, which mostly wait."""

    def __init__(self, embedded: Embedded, folder: Path) -> None:
        """Look at a server; ``folder`` takes its kubeconfig."""
        kubeconfig = embedded.kubeconfig(folder / "kubeconfig")
        super().__init__(Target(kubeconfig, kubeconfig, embedded.namespace, IMAGE, address="127.0.0.1"))
        self.embedded = embedded
        self._trust = ssl.create_default_context(cadata=embedded.certificate.decode())

    def ask(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json", token: str = ""
    ) -> Any:
        """What the server answers: JSON, or text where it is none.

        Raises:
            RefusedError: it refuses.
        """
        request = urllib.request.Request(  # noqa: S310
            f"{self.embedded.url}/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {token or self.embedded.token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=self._trust, timeout=20) as response:  # noqa: S310
                said = response.read().decode()
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, json.loads(error.read())) from None
        try:
            return json.loads(said)
        except ValueError:
            return said

    def lines(self, path: str) -> Iterator[bytes]:
        """What the server tells line by line, for as long as it does."""
        headers = {"Authorization": f"Bearer {self.embedded.token}"}
        request = urllib.request.Request(f"{self.embedded.url}/{path}", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, context=self._trust, timeout=60) as response:  # noqa: S310
            yield from response

    def path(self, kind: str, name: str = "") -> str:
        """Of a resource, or of an object."""
        plural = kind.partition(".")[0]
        plural = f"{plural.rstrip('s')}s"
        tail = f"/{name}" if name else ""
        return f"{_GROUPS.get(plural, CORE)}/namespaces/{self.target.namespace}/{plural}{tail}"

    # --- as World says it with kubectl

    def items(self, kind: str, selector: str = "") -> list[Object]:
        found: list[Object] = self.ask("GET", f"{self.path(kind)}?labelSelector={quote(selector)}")["items"]
        return found

    def workflow(self, name: str) -> Object:
        found: Object = self.ask("GET", self.path("workflows", name))
        return found

    def log(self, pod: Object) -> str:
        try:
            return str(self.ask("GET", f"{self.path('pods', pod['metadata']['name'])}/log?container=main"))
        except RefusedError:
            return ""

    def evict(self, pod: Object) -> None:
        self.ask("POST", f"{self.path('pods', pod['metadata']['name'])}/eviction", {"kind": "Eviction"})

    def delete(self, kind: str, item: Object) -> None:
        self.ask("DELETE", self.path(kind, item["metadata"]["name"]))

    def sweep(self, selector: str) -> None:
        for kind in ("workflows", "secrets"):
            for item in self.items(kind, selector):
                with contextlib.suppress(RefusedError):  # gone meanwhile, with its owner
                    self.delete(kind, item)

    def patch(self, workflow: Object, **spec: Any) -> None:
        path = self.path("workflows", workflow["metadata"]["name"])
        self.ask("PATCH", path, {"spec": spec}, "application/merge-patch+json")

    def create(self, document: Object) -> None:
        self.ask("POST", self.path(f"{document['kind'].lower()}s"), document)

    @contextlib.contextmanager
    def quota(self, name: str, **hard: str) -> Iterator[None]:
        meta = {"name": name, "namespace": self.target.namespace}
        self.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})
        try:
            yield
        finally:
            self.ask("DELETE", self.path("resourcequotas", name))

    @property
    def node(self) -> str:
        return self.embedded.settings.node.name

    @contextlib.contextmanager
    def denied(self, kind: str, federation: str) -> Iterator[None]:
        policy = Policy(f"flargo-test-{kind}-{federation}", kind, {Label.FEDERATION: federation}, "not on a Tuesday")
        with self.embedded.admission_policy(policy):
            yield

    @contextlib.contextmanager
    def frozen(self, daemon: str) -> Iterator[None]:
        """Only of the Workflow controller, to which it is the same whether it stands still or has ended."""
        if daemon != "workflow-controller":
            raise NotImplementedError(daemon)
        self.embedded.set_controller(running=False)
        try:
            yield
        finally:
            self.embedded.set_controller(running=True)

    stopped = frozen

    def restart(self, daemon: str) -> None:
        with self.stopped(daemon):
            pass

    def kubectl(self, *arguments: str, document: Object | None = None) -> str:
        """What of kubectl the scenarios use themselves."""
        assert document is None
        match arguments:
            case ("create", "token", account):
                made = self.ask("POST", f"{self.path('serviceaccounts', account)}/token", {"kind": "TokenRequest"})
                return str(made["status"]["token"])
            case ("delete", kind, name):
                return str(self.ask("DELETE", self.path(kind, name)))
            case ("exec", name, *_, "sh", "-c", code):
                here = code.replace("/tmp/", f"{self.embedded.pod_folder(name)}/tmp/")
                return subprocess.run(["sh", "-c", here], text=True, capture_output=True, check=True).stdout
        raise NotImplementedError(arguments)

    def argo(self, *arguments: str) -> str:
        """``argo terminate`` and ``argo stop``, which are a patch."""
        word, name = arguments
        self.patch({"metadata": {"name": name}}, shutdown=word.capitalize())
        return ""

    def processes(self, job_id: str) -> list[int]:
        return [pid for pid, command in commands() if job_id.encode() in command]

    def processes_in(self, name: str) -> dict[int, bytes]:
        """Of the pods of a Workflow: a pod's name is in its processes' environment."""
        return {pid: command for pid, command in commands() if f"HOSTNAME={name}".encode() in _environment(pid)}
