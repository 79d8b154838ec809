"""An administrator's access to the embedded engine: the tests' ``Cluster``, by HTTP instead of kubectl and argo."""

import contextlib
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from flargo.embedded import Delays, Embedded, Policy, Settings
from flargo.terms import Label
from tests.harness.cluster import GPU, Cluster, Downtime, LineStream, list_processes, process_environment
from tests.harness.real_cluster.target import Target

Object = dict[str, Any]
IMAGE = "flargo.test/job:2.9.0"
"""The name of the jobs' image; the embedded engine pulls no image."""
REALISTIC_SETTINGS = Settings(
    delays=Delays(init=0.3, remove=2.0), missing_images=frozenset({"flargo.test/job:not-there"})
)
"""Delays like a real cluster's, for scenarios that need them.

A pod starts in about a second, so that what happens before its start can be observed. A pod is removed as slowly as a
real one: else, on a busy machine, its successor is created before flargo has observed the removal."""
CORE, ARGO = "api/v1", "apis/argoproj.io/v1alpha1"
_GROUPS = {"workflows": ARGO, "leases": "apis/coordination.k8s.io/v1"}


class ResponseError(Exception):
    """A response with a status of 400 or more."""

    def __init__(self, code: int, status: Object) -> None:
        super().__init__(f"{code} {status.get('message')}")
        self.code, self.status = code, status


@dataclass(frozen=True)
class EngineAddress:
    """What another process needs to reach an engine: its jobs, but not what the engine's own process configures."""

    url: str
    token: str
    certificate: bytes
    namespace: str
    file: Path
    """A kubeconfig for it."""

    def kubeconfig(self, _: Path) -> Path:
        """Return the kubeconfig, which exists already."""
        return self.file


class EmbeddedCluster(Cluster):
    """One embedded engine, with an administrator's access."""

    max_parallel_jobs = 40
    """Jobs are processes of this machine, most of which only wait."""

    def __init__(self, engine: Embedded | EngineAddress, folder: Path) -> None:
        """Connect to an engine, and write its kubeconfig into ``folder``."""
        kubeconfig = engine.kubeconfig(folder / "kubeconfig")
        super().__init__(Target(kubeconfig, kubeconfig, engine.namespace, IMAGE, address="127.0.0.1"))
        self.address = EngineAddress(engine.url, engine.token, engine.certificate, engine.namespace, kubeconfig)
        self._engine = engine
        self._trust = ssl.create_default_context(cadata=engine.certificate.decode())

    @property
    def embedded(self) -> Embedded:
        """The engine, if it runs in this process."""
        assert isinstance(self._engine, Embedded), "the engine runs in another process"
        return self._engine

    def request(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json", token: str = ""
    ) -> Any:
        """Send a request, with the administrator's token by default; return decoded JSON, or text if it is not JSON.

        Raises:
            ResponseError: the engine refuses the request.
        """
        request = urllib.request.Request(  # noqa: S310
            f"{self.address.url}/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {token or self.address.token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, context=self._trust, timeout=20) as response:  # noqa: S310
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            raise ResponseError(error.code, json.loads(error.read())) from None
        try:
            return json.loads(text)
        except ValueError:
            return text

    def stream_lines(self, path: str) -> Iterator[bytes]:
        """Yield the lines of a response until the engine ends it."""
        with self._open(path, timeout=60) as response:
            yield from response

    def stream(self, path: str) -> LineStream:
        # The engine ends it when the engine stops: nothing can interrupt a thread that reads from a socket.
        response = self._open(path, timeout=None)
        return LineStream(map(bytes.decode, response), lambda: None)

    def _open(self, path: str, timeout: float | None) -> Any:
        headers = {"Authorization": f"Bearer {self.address.token}"}
        request = urllib.request.Request(f"{self.address.url}/{path}", headers=headers)  # noqa: S310
        return urllib.request.urlopen(request, context=self._trust, timeout=timeout)  # noqa: S310

    def path(self, kind: str, name: str = "") -> str:
        """Return the path of a resource in the namespace, or of an object if it is named."""
        plural = kind.partition(".")[0]
        plural = f"{plural.rstrip('s')}s"
        suffix = f"/{name}" if name else ""
        return f"{_GROUPS.get(plural, CORE)}/namespaces/{self.target.namespace}/{plural}{suffix}"

    # --- what Cluster does with kubectl

    def items(self, kind: str, selector: str = "") -> list[Object]:
        items: list[Object] = self.request("GET", f"{self.path(kind)}?labelSelector={quote(selector)}")["items"]
        return items

    def workflow(self, name: str) -> Object:
        workflow: Object = self.request("GET", self.path("workflows", name))
        return workflow

    def log(self, pod: Object) -> str:
        try:
            return str(self.request("GET", f"{self.path('pods', pod['metadata']['name'])}/log?container=main"))
        except ResponseError:
            return ""

    def evict(self, pod: Object) -> None:
        self.request("POST", f"{self.path('pods', pod['metadata']['name'])}/eviction", {"kind": "Eviction"})

    def delete(self, kind: str, item: Object) -> None:
        self.request("DELETE", self.path(kind, item["metadata"]["name"]))

    def delete_workflows(self, selector: str) -> None:
        for item in self.items("workflows", selector):
            with contextlib.suppress(ResponseError):  # its time to live is over
                self.delete("workflows", item)

    def delete_by_label(self, selector: str) -> None:
        for kind in ("workflows", "secrets", "leases"):
            for item in self.items(kind, selector):
                with contextlib.suppress(ResponseError):  # it has been removed with its owner meanwhile
                    self.delete(kind, item)

    def patch(self, workflow: Object, **spec: Any) -> None:
        path = self.path("workflows", workflow["metadata"]["name"])
        self.request("PATCH", path, {"spec": spec}, "application/merge-patch+json")

    def backdate(self, kind: str, name: str, seconds: float) -> None:
        """Do nothing: the engine does not note when an object was written."""

    def create(self, document: Object) -> None:
        self.request("POST", self.path(f"{document['kind'].lower()}s"), document)

    @contextlib.contextmanager
    def apply_quota(self, name: str, **hard: str) -> Iterator[None]:
        meta = {"name": name, "namespace": self.target.namespace}
        self.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})
        try:
            yield
        finally:
            self.request("DELETE", self.path("resourcequotas", name))

    @property
    def node_name(self) -> str:
        return self.embedded.settings.node.name

    @contextlib.contextmanager
    def deny(self, kind: str, federation: str) -> Iterator[None]:
        policy = Policy(f"flargo-test-{kind}-{federation}", kind, {Label.FEDERATION: federation}, "not on a Tuesday")
        with self.embedded.admission_policy(policy):
            yield

    @contextlib.contextmanager
    def refuse_shutdowns(self, federation: str) -> Iterator[None]:
        policy = Policy(
            f"flargo-test-shutdown-{federation}",
            "workflows",
            {Label.FEDERATION: federation},
            "not on a Tuesday",
            operation="UPDATE",
            field=("spec", "shutdown"),
        )
        with self.embedded.admission_policy(policy):
            yield

    @contextlib.contextmanager
    def configure_argo(self, **settings: str) -> Iterator[None]:
        """Set the controller's ``workflowDefaults``, the only part of its ConfigMap that the engine knows."""
        unknown = set(settings) - {"workflowDefaults"}
        if unknown:
            raise NotImplementedError(unknown)
        self.embedded.set_workflow_defaults(yaml.safe_load(settings["workflowDefaults"]))
        try:
            yield
        finally:
            self.embedded.set_workflow_defaults({})

    @contextlib.contextmanager
    def label_node(self, **labels: str) -> Iterator[None]:
        self.embedded.label_node(**labels)
        try:
            yield
        finally:
            self.embedded.label_node(**dict.fromkeys(labels))

    @contextlib.contextmanager
    def offer_gpus(self, count: int) -> Iterator[None]:
        self.embedded.set_allocatable(**{GPU: str(count)})
        try:
            yield
        finally:
            self.embedded.set_allocatable(**{GPU: None})

    @contextlib.contextmanager
    def freeze(self, daemon: str) -> Iterator[Downtime]:
        """Stop the Workflow controller, the only daemon that can be; frozen and stopped are the same for it."""
        if daemon != "workflow-controller":
            raise NotImplementedError(daemon)
        downtime = Downtime()
        self.embedded.set_controller(running=False)
        try:
            yield downtime
        finally:
            self.embedded.set_controller(running=True)
            downtime.end = time.monotonic()

    stop = freeze

    def restart(self, daemon: str) -> float:
        with self.stop(daemon) as downtime:
            pass
        return downtime.end

    def kubectl(self, *arguments: str, document: Object | None = None) -> str:
        """Run one of the few kubectl commands that scenarios use directly."""
        assert document is None
        match arguments:
            case ("create", "token", account):
                path = f"{self.path('serviceaccounts', account)}/token"
                return str(self.request("POST", path, {"kind": "TokenRequest"})["status"]["token"])
            case ("delete", kind, name):
                return str(self.request("DELETE", self.path(kind, name)))
            case ("exec", name, *_, "sh", "-c", code):
                script = code.replace("/tmp/", f"{self.embedded.pod_folder(name)}/tmp/")
                return subprocess.run(["sh", "-c", script], text=True, capture_output=True, check=True).stdout
        raise NotImplementedError(arguments)

    def argo(self, *arguments: str) -> str:
        """Do what a command of argo does to objects (Argo 3.7.18, workflow/util/util.go)."""
        command, name = arguments
        workflow: Object = {"metadata": {"name": name}}
        match command:
            case "terminate" | "stop":
                self.patch(workflow, shutdown=command.capitalize())
            case "suspend":
                self.patch(workflow, suspend=True)
            case "resume":
                self.patch(workflow, suspend=None)
            case "retry":
                self._retry(self.workflow(name))
            case "resubmit":
                self._resubmit(self.workflow(name))
            case _:
                raise NotImplementedError(command)
        return ""

    def _retry(self, workflow: Object) -> None:
        """Delete the pods of failed steps and of the exit handler, and reset the status (FormulateRetryWorkflow)."""
        meta, status, name = workflow["metadata"], workflow["status"], workflow["metadata"]["name"]
        assert status["phase"] in {"Failed", "Error"}, f"Cannot retry a workflow in phase {status['phase']}"
        nodes = status.get("nodes") or {}
        kept = {
            key: node
            for key, node in nodes.items()
            if node["phase"] not in {"Failed", "Error"} and node["name"] != f"{name}.onExit"
        }
        for pod in self.items("pods", f"workflows.argoproj.io/workflow={name}"):
            if pod["metadata"]["annotations"]["workflows.argoproj.io/node-id"] in set(nodes) - set(kept):
                with contextlib.suppress(ResponseError):
                    self.delete("pods", pod)
        labels = {key: value for key, value in meta["labels"].items() if key != "workflows.argoproj.io/completed"}
        spec = {key: value for key, value in workflow["spec"].items() if key != "shutdown"}
        new_meta = {**meta, "labels": {**labels, "workflows.argoproj.io/phase": "Running"}, "resourceVersion": ""}
        new_status = {**status, "phase": "Running", "nodes": kept}
        for key in ("message", "finishedAt"):
            new_status.pop(key, None)
        self.request(
            "PUT", self.path("workflows", name), {**workflow, "metadata": new_meta, "spec": spec, "status": new_status}
        )

    def _resubmit(self, workflow: Object) -> None:
        """Create a Workflow with the same spec, labels and annotations (FormulateResubmitWorkflow)."""
        meta, spec = workflow["metadata"], {key: it for key, it in workflow["spec"].items() if key != "shutdown"}
        left_out = {"workflows.argoproj.io/phase", "workflows.argoproj.io/completed"}
        labels = {key: value for key, value in meta["labels"].items() if key not in left_out}
        new_meta = {
            "generateName": f"{meta['name']}-",
            "labels": {**labels, "workflows.argoproj.io/resubmitted-from-workflow": meta["name"]},
            "annotations": meta["annotations"],
        }
        head = {key: workflow[key] for key in ("apiVersion", "kind")}
        self.create({**head, "metadata": new_meta, "spec": spec})

    def delete_without_pods(self, workflow: Object) -> None:
        path = self.path("workflows", workflow["metadata"]["name"])
        self.request("DELETE", path, {"propagationPolicy": "Orphan"})

    def processes(self, job_id: str) -> list[int]:
        return [pid for pid, command in list_processes() if job_id.encode() in command]

    def pod_processes(self, name: str) -> dict[int, bytes]:
        """Return the processes of a Workflow's pod, whose name is in their environment."""
        return {
            pid: command for pid, command in list_processes() if f"HOSTNAME={name}".encode() in process_environment(pid)
        }
