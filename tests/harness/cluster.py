"""A cluster as an administrator sees and changes it, without flargo: by kubectl, argo, and the node's processes."""

import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flargo.terms import Label
from tests.harness.real_cluster import control, sandbox, up
from tests.harness.real_cluster.target import Target

Object = dict[str, Any]
POLICY_SECONDS = 5.0
"""Time after which a new admission policy for updates is enforced: the API server reads policies every second."""
GPU = "nvidia.com/gpu"
"""The resource that a job asks for with ``num_of_gpus``."""
FINAL_PHASES = {"Succeeded", "Failed", "Error"}
"""The phases in which a Workflow, or a pod, has ended."""


@dataclasses.dataclass
class Downtime:
    """The time for which a daemon cannot answer."""

    end: float = math.inf
    """When it can answer again (``time.monotonic``); set at the end of the ``with``."""


class LineStream:
    """The lines of a response without an end, such as a watch's."""

    def __init__(self, lines: Iterable[str], close: Callable[[], object]) -> None:
        self._lines = lines
        self.close = close
        """Ends the response, as soon as that is possible."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)


class Cluster:
    """One namespace, with an administrator's rights. Of flargo this class knows only the labels.

    A scenario changes its cluster through these methods only, so that it runs on the embedded engine as well
    (:class:`tests.harness.embedded_cluster.EmbeddedCluster`).
    """

    max_parallel_jobs = 5
    """How many jobs the machine can run at a time, each a pod of three containers."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def kubectl(self, *arguments: str, document: Object | None = None) -> str:
        """Run kubectl in the namespace and return its output; fail the test if it fails."""
        argv = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        stdin = json.dumps(document) if document is not None else None
        process = subprocess.run((*argv, *arguments), input=stdin, text=True, capture_output=True, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    def argo(self, *arguments: str) -> str:
        """Run Argo's own command line in the namespace and return its output; fail the test if it fails."""
        argv = ("argo", *arguments, f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        process = subprocess.run(argv, text=True, capture_output=True, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """Return all objects of a kind that a label selector matches."""
        select = (f"--selector={selector}",) if selector else ()
        items: list[Object] = json.loads(self.kubectl("get", kind, *select, "--output=json"))["items"]
        return items

    def workflows(self, job_id: str) -> dict[str, Object]:
        """Return a job's Workflows by site."""
        return {
            item["metadata"]["annotations"]["flargo.dev/site-name"]: item
            for item in self.items("workflows.argoproj.io", f"flargo.dev/job-id={job_id}")
        }

    def workflow(self, name: str) -> Object:
        """Return a Workflow by its name."""
        workflow: Object = json.loads(self.kubectl("get", "workflows.argoproj.io", name, "--output=json"))
        return workflow

    def unfinished_workflows(self) -> list[str]:
        """Return the names of all Workflows that have not ended, no matter who created them."""
        return [item["metadata"]["name"] for item in self.items("workflows.argoproj.io") if not has_ended(item)]

    def pods(self, job_id: str) -> list[Object]:
        """Return a job's pods."""
        return self.items("pods", f"flargo.dev/job-id={job_id}")

    def log(self, pod: Object) -> str:
        """Return the log of a pod's main container so far; empty if it has not started."""
        argv = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        name = pod["metadata"]["name"]
        return subprocess.run(
            (*argv, "logs", name, "--container=main"), text=True, capture_output=True, check=False
        ).stdout

    def unfinished_pods(self, job_id: str) -> list[str]:
        """Return the names of a job's pods that have not ended."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(job_id)
            if pod["status"]["phase"] not in {"Succeeded", "Failed"}
        ]

    def secrets(self, prefix: str) -> list[str]:
        """Return the names of the Secrets that begin with a prefix."""
        return [name for item in self.items("secrets") if (name := item["metadata"]["name"]).startswith(prefix)]

    def processes(self, job_id: str) -> list[int]:
        """Return a job's processes on the node, whatever any API says about them.

        On a user's own cluster the nodes are out of reach, and a number for each unfinished pod is returned instead.
        """
        if self.target.is_external:
            return [hash(name) for name in self.unfinished_pods(job_id)]
        return [pid for pid, command in list_processes() if job_id.encode() in command]

    def pod_processes(self, name: str) -> dict[int, bytes]:
        """Return the command lines of the processes in a Workflow's pods, Argo's own included, by process id.

        On a user's own cluster the nodes are out of reach, and nothing is returned.
        """
        if self.target.is_external:
            return {}
        return {pid: command for pid, command in list_processes() if name.encode() in process_environment(pid)}

    # --- changes

    def evict(self, pod: Object) -> None:
        """Evict a pod by the API, as a drain does for each of a node's pods."""
        meta = {key: pod["metadata"][key] for key in ("name", "namespace")}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
        self.kubectl("create", f"--raw={path}", "--filename=-", document=eviction)

    def delete(self, kind: str, item: Object) -> None:
        """Delete an object without waiting for the deletion to complete."""
        self.kubectl("delete", kind, item["metadata"]["name"], "--wait=false")

    def delete_without_pods(self, workflow: Object) -> None:
        """Delete a Workflow and leave what it owns, which then has no owner."""
        self.kubectl("delete", "workflows.argoproj.io", workflow["metadata"]["name"], "--cascade=orphan")

    def delete_workflows(self, selector: str) -> None:
        """Delete the Workflows that a label selector matches, and wait until they are gone."""
        self.kubectl("delete", "workflows.argoproj.io", f"--selector={selector}", "--wait", "--timeout=60s")

    def stream(self, path: str) -> LineStream:
        """Send a GET request whose response does not end, such as a watch."""
        argv = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", "get", f"--raw=/{path}")
        process = subprocess.Popen(argv, text=True, stdout=subprocess.PIPE)
        assert process.stdout is not None

        def close() -> None:
            process.kill()
            process.wait()

        return LineStream(process.stdout, close)

    def delete_by_label(self, selector: str) -> None:
        """Delete the Workflows, Secrets and Leases that a label selector matches, without waiting."""
        selection = ("workflows.argoproj.io,secrets,leases", f"--selector={selector}")
        self.kubectl("delete", *selection, "--wait=false", "--ignore-not-found")

    def patch(self, workflow: Object, **spec: Any) -> None:
        """Merge fields into a Workflow's spec; None removes a field."""
        merge = ("--type=merge", f"--patch={json.dumps({'spec': spec})}")
        self.kubectl("patch", "workflows.argoproj.io", workflow["metadata"]["name"], *merge)

    def backdate(self, kind: str, name: str, seconds: float) -> None:
        """Let the API server have noted every write of an object so many seconds earlier (``managedFields``)."""
        item: Object = json.loads(self.kubectl("get", kind, name, "--output=json", "--show-managed-fields"))
        for entry in item["metadata"]["managedFields"]:
            entry["time"] = (datetime.fromisoformat(entry["time"]) - timedelta(seconds=seconds)).isoformat()
        # The API server keeps the old times if nothing else changes.
        item["metadata"].setdefault("annotations", {})["flargo.test/backdated"] = str(seconds)
        self.kubectl("replace", "--filename=-", document=item)

    def create(self, document: Object) -> None:
        """Create an object."""
        self.kubectl("create", "--filename=-", document=document)

    @contextlib.contextmanager
    def apply(self, *documents: Object, namespace: str = "") -> Iterator[None]:
        """Apply objects in one namespace, wait until the pods among them are ready, and delete all at the end."""
        scope = f"--namespace={namespace or self.target.namespace}"
        whole: Object = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        try:
            self.kubectl(scope, "apply", "--filename=-", document=whole)
            for pod in (each["metadata"]["name"] for each in documents if each["kind"] == "Pod"):
                self.kubectl(scope, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=90s")
            yield
        finally:
            self.kubectl(scope, "delete", "--ignore-not-found", "--filename=-", document=whole)

    @contextlib.contextmanager
    def apply_quota(self, name: str, **hard: str) -> Iterator[None]:
        """Apply a ResourceQuota to the namespace until the end of the ``with``."""
        meta = {"name": name, "namespace": self.target.namespace}
        self.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})
        try:
            # Until Kubernetes has counted the usage, a new quota refuses everything, or nothing.
            eventually(lambda: "hard" in self._status("resourcequota", name), 20, "the quota's usage is counted")
            yield
        finally:
            self.kubectl("delete", "resourcequota", name)

    @property
    def node_name(self) -> str:
        """The name of the first node."""
        return str(self.items("nodes")[0]["metadata"]["name"])

    @contextlib.contextmanager
    def drain(self, selector: str, node: str = "") -> Iterator[None]:
        """Drain a node, by default the first, of the pods that a label selector matches; uncordon it at the end.

        Drained pods are evicted by the API, and are gone when this returns.
        """
        name = node or self.node_name
        options = ("--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s")
        try:
            self.kubectl("drain", name, f"--pod-selector={selector}", *options)
            yield
        finally:
            self.kubectl("uncordon", name)

    @contextlib.contextmanager
    def deny(self, kind: str, federation: str) -> Iterator[None]:
        """Refuse a federation's new objects of a kind (``workflows`` or ``pods``) by an admission policy."""
        name = f"flargo-test-{kind}-{federation}"
        group = {"workflows": "argoproj.io"}.get(kind, "")
        rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE"], "resources": [kind]}
        label = f"object.metadata.?labels['{Label.FEDERATION}'].orValue('')"
        probe = _probe(kind, federation)
        with self._admission_policy(name, rule, f"{label} != '{federation}'"):
            eventually(lambda: "not on a Tuesday" in self._refusal(probe), 30, "the policy is enforced")
            yield

    @contextlib.contextmanager
    def refuse_shutdowns(self, federation: str) -> Iterator[None]:
        """Refuse every update of a federation's Workflows that are shut down, by an admission policy."""
        name = f"flargo-test-shutdown-{federation}"
        rule = {
            "apiGroups": ["argoproj.io"],
            "apiVersions": ["*"],
            "operations": ["UPDATE"],
            "resources": ["workflows"],
        }
        label = f"object.metadata.?labels['{Label.FEDERATION}'].orValue('')"
        expression = f"{label} != '{federation}' || object.spec.?shutdown.orValue('') == ''"
        with self._admission_policy(name, rule, expression):
            time.sleep(POLICY_SECONDS)
            yield

    @contextlib.contextmanager
    def _admission_policy(self, name: str, rule: Object, expression: str) -> Iterator[None]:
        """Refuse what does not meet an expression, with the message "not on a Tuesday"."""
        policy = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": expression, "message": "not on a Tuesday"}],
            },
        }
        binding = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }
        self.create(policy)
        try:
            self.create(binding)
            yield
        finally:
            for resource in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
                self.kubectl("delete", resource, name, "--ignore-not-found")

    @contextlib.contextmanager
    def label_node(self, **labels: str) -> Iterator[None]:
        """Label the first node until the end of the ``with``."""
        self.kubectl("label", "node", self.node_name, *(f"{key}={value}" for key, value in labels.items()))
        try:
            yield
        finally:
            self.kubectl("label", "node", self.node_name, *(f"{key}-" for key in labels))

    @contextlib.contextmanager
    def offer_gpus(self, count: int) -> Iterator[None]:
        """Let the first node have GPUs until the end of the ``with``, as far as the scheduler knows."""
        path = f"/status/{{}}/{GPU.replace('/', '~1')}"

        def patch(operation: str, **value: str) -> None:
            rows = [{"op": operation, "path": path.format(field), **value} for field in ("capacity", "allocatable")]
            self.kubectl(
                "patch", "node", self.node_name, "--subresource=status", "--type=json", f"-p={json.dumps(rows)}"
            )

        patch("add", value=str(count))
        try:
            yield
        finally:
            patch("remove")

    @contextlib.contextmanager
    def silent_registry(self) -> Iterator[str]:
        """Run a registry that accepts connections and never answers; yield the name of an image in it.

        It listens on the node's loopback device, where containerd uses plain HTTP: a TLS handshake has a deadline.
        """
        if self.target.is_external:
            pytest.skip("the node is out of reach")
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            yield f"127.0.0.1:{listener.getsockname()[1]}/job:1"

    def _refusal(self, document: Object) -> str:
        """Return the API server's message about an object that it would refuse; empty if it would not."""
        argv = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        create = (*argv, "create", "--dry-run=server", "--filename=-")
        return subprocess.run(create, input=json.dumps(document), text=True, capture_output=True, check=False).stderr

    @contextlib.contextmanager
    def configure_argo(self, **settings: str) -> Iterator[None]:
        """Restart Argo's controller with settings in its ConfigMap; undo both at the end of the ``with``."""

        def apply(data: dict[str, str | None]) -> None:
            merge = ("--type=merge", f"--patch={json.dumps({'data': data})}")
            self.kubectl("patch", "configmap", "workflow-controller-configmap", *merge)
            self.restart("workflow-controller")

        try:
            apply(dict(settings))
            yield
        finally:
            apply(dict.fromkeys(settings))

    def _status(self, kind: str, name: str) -> Object:
        status: Object = json.loads(self.kubectl("get", kind, name, "--output=json")).get("status") or {}
        return status

    @contextlib.contextmanager
    def freeze(self, daemon: str) -> Iterator[Downtime]:
        """Suspend one of the cluster's daemons until the end of the ``with``; its connections stay open."""
        downtime = Downtime()
        control.signal(daemon, "STOP")
        try:
            yield downtime
        finally:
            control.signal(daemon, "CONT")
            downtime.end = time.monotonic()
            if daemon == "kube-apiserver":
                self.wait_until_serving()

    @contextlib.contextmanager
    def stop(self, daemon: str) -> Iterator[Downtime]:
        """End one of the cluster's daemons, and start it again at the end of the ``with``."""
        downtime = Downtime()
        control.stop(daemon)
        try:
            yield downtime
        finally:
            downtime.end = self.restart(daemon)

    def restart(self, daemon: str) -> float:
        """End one of the cluster's daemons, unless it has ended, and start it again.

        Returns the time (``time.monotonic``) from which it accepts connections.
        """
        return up.restart(daemon)

    def wait_until_serving(self) -> None:
        """Wait until the API server answers and the node is ready for pods again."""
        sandbox.wait("the API server", up.is_api_ready, 60, only="kube-apiserver")
        sandbox.wait("the node", up.is_node_ready, 60, only="kubelet")

    # --- leftovers

    def wait_until_clear(self, job_id: str, name: str, within: float = 45.0) -> float:
        """Wait until nothing of a job runs, may run, or holds its credentials; return the seconds that it took."""
        remains: list[str] = []

        def is_clear() -> bool:
            remains[:] = self.leftovers(job_id, name)
            return not remains

        start = check_start = time.monotonic()
        while not is_clear():
            now = time.monotonic()
            assert now - start < within, f"left after {within} s: {remains}"
            _pause(now - check_start)
            check_start = time.monotonic()
        return time.monotonic() - start

    def leftovers(self, job_id: str, name: str) -> list[str]:
        """Describe what of a job, whose Workflow has this name, runs, may run, or holds its credentials."""
        workflows = self.items("workflows.argoproj.io", f"flargo.dev/job-id={job_id}")
        return [
            *(f"Workflow {item['metadata']['name']}" for item in workflows if not has_ended(item)),
            *(f"pod {pod['metadata']['name']}" for pod in self.pods(job_id) if may_run(pod)),
            *(f"Secret {secret}" for secret in self.secrets(f"nvflare-cred-{name}-")),
            *(f"process {pid}" for pid in {*self.processes(job_id), *self.pod_processes(name)}),
        ]


def _probe(kind: str, federation: str) -> Object:
    """Return an object of a kind that only an admission policy would refuse."""
    labels = {str(Label.FEDERATION): federation}
    meta = {"name": "flargo-probe", "labels": labels}
    if kind == "workflows":
        spec: Object = {"entrypoint": "x", "templates": [{"name": "x", "suspend": {}}]}
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": meta, "spec": spec}
    container = {
        "name": "x",
        "image": "x",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": security}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def has_ended(workflow: Object) -> bool:
    """Return whether a Workflow is in a final phase."""
    return (workflow.get("status") or {}).get("phase") in FINAL_PHASES


def may_run(pod: Object) -> bool:
    """Return whether a pod has a running container, or may still get one."""
    status = pod.get("status") or {}
    rows = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    runs = any("running" in (row.get("state") or {}) for row in rows)
    return runs or status.get("phase") not in FINAL_PHASES


def program_times(pod: Object) -> tuple[datetime, datetime]:
    """Return when a pod's main container started and finished, by the node's clock, in whole seconds."""
    (main,) = (row for row in pod["status"]["containerStatuses"] if row["name"] == "main")
    terminated = main["state"]["terminated"]
    return datetime.fromisoformat(terminated["startedAt"]), datetime.fromisoformat(terminated["finishedAt"])


def list_processes() -> list[tuple[int, bytes]]:
    """Return the id and command line of every process of the node but this one."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            processes.append((int(entry.name), (entry / "cmdline").read_bytes()))
        except OSError:
            continue
    return processes


def process_environment(pid: int) -> bytes:
    """Return the environment of a process; empty if it is gone or out of reach."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def eventually(condition: Callable[[], object], seconds: float, description: str) -> float:
    """Wait until a condition holds, and return the seconds that it took; fail with a description if it does not."""
    start = check_start = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now - start < seconds, f"not within {seconds} s: {description}"
        _pause(now - check_start)
        check_start = time.monotonic()
    return time.monotonic() - start


def _pause(check_seconds: float) -> None:
    """Wait before a check is repeated, for as long as the check took.

    A check is often a run of kubectl, which is mostly CPU time: checks without a pause slow down what they wait for.
    """
    time.sleep(min(max(0.25, check_seconds), 1.0))
