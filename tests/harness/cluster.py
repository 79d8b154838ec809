"""The cluster as somebody other than flargo sees and touches it: kubectl, argo, and the node's processes."""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flargo.terms import Label
from tests.harness.real_cluster import control, sandbox, up
from tests.harness.real_cluster.target import Target

Object = dict[str, Any]


class Cluster:
    """One namespace, looked at with an administrator's eyes. Knows nothing of flargo but its labels."""

    max_parallel_jobs = 5
    """How many jobs the machine takes at a time, each a pod of three containers."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def kubectl(self, *arguments: str, document: Object | None = None) -> str:
        """What kubectl prints; its failure is the test's."""
        words = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        stdin = json.dumps(document) if document is not None else None
        done = subprocess.run((*words, *arguments), input=stdin, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def argo(self, *arguments: str) -> str:
        """What Argo's own command line prints."""
        words = ("argo", *arguments, f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        done = subprocess.run(words, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind that a label selector matches."""
        select = (f"--selector={selector}",) if selector else ()
        found: list[Object] = json.loads(self.kubectl("get", kind, *select, "--output=json"))["items"]
        return found

    def workflows(self, job_id: str) -> dict[str, Object]:
        """A job's Workflows by site."""
        return {
            item["metadata"]["annotations"]["flargo.dev/site-name"]: item
            for item in self.items("workflows.argoproj.io", f"flargo.dev/job-id={job_id}")
        }

    def workflow(self, name: str) -> Object:
        """A Workflow by its name."""
        found: Object = json.loads(self.kubectl("get", "workflows.argoproj.io", name, "--output=json"))
        return found

    def unfinished_workflows(self) -> list[str]:
        """The names of all Workflows that are not over, whosever they are."""
        return [item["metadata"]["name"] for item in self.items("workflows.argoproj.io") if not has_ended(item)]

    def pods(self, job_id: str) -> list[Object]:
        """A job's pods."""
        return self.items("pods", f"flargo.dev/job-id={job_id}")

    def log(self, pod: Object) -> str:
        """What a pod's main container has said so far; nothing, where it has not begun."""
        words = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        name = pod["metadata"]["name"]
        return subprocess.run(
            (*words, "logs", name, "--container=main"), text=True, capture_output=True, check=False
        ).stdout

    def unfinished_pods(self, job_id: str) -> list[str]:
        """The names of a job's pods that are not over."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(job_id)
            if pod["status"]["phase"] not in {"Succeeded", "Failed"}
        ]

    def secrets(self, prefix: str) -> list[str]:
        """The names of the Secrets that begin so."""
        return [name for item in self.items("secrets") if (name := item["metadata"]["name"]).startswith(prefix)]

    def processes(self, job_id: str) -> list[int]:
        """A job's processes on the node, looked for where no API can be wrong about them.

        On somebody's own cluster the nodes are out of sight, and the pods that run have to do.
        """
        if self.target.own:
            return [hash(name) for name in self.unfinished_pods(job_id)]
        return [pid for pid, command in list_processes() if job_id.encode() in command]

    def pod_processes(self, name: str) -> dict[int, bytes]:
        """The command lines of the processes in the pods of a Workflow, Argo's own included; none out of sight."""
        if self.target.own:
            return {}
        return {pid: command for pid, command in list_processes() if name.encode() in process_environment(pid)}

    # --- what is done to it

    def evict(self, pod: Object) -> None:
        """Evict a pod by the API, as a drain does for each of a node's pods."""
        meta = {key: pod["metadata"][key] for key in ("name", "namespace")}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
        self.kubectl("create", f"--raw={path}", "--filename=-", document=eviction)

    def delete(self, kind: str, item: Object) -> None:
        """Delete an object, and do not wait for it to be gone."""
        self.kubectl("delete", kind, item["metadata"]["name"], "--wait=false")

    def delete_by_label(self, selector: str) -> None:
        """Delete the Workflows and Secrets that a label selector matches, and do not wait."""
        what = ("workflows.argoproj.io,secrets", f"--selector={selector}")
        self.kubectl("delete", *what, "--wait=false", "--ignore-not-found")

    def patch(self, workflow: Object, **spec: Any) -> None:
        """Change a Workflow's spec."""
        merge = ("--type=merge", f"--patch={json.dumps({'spec': spec})}")
        self.kubectl("patch", "workflows.argoproj.io", workflow["metadata"]["name"], *merge)

    def create(self, document: Object) -> None:
        """Create an object."""
        self.kubectl("create", "--filename=-", document=document)

    @contextlib.contextmanager
    def apply(self, *documents: Object, namespace: str = "") -> Iterator[None]:
        """Objects of one namespace are there, pods among them ready, for as long as the ``with`` lasts."""
        space = f"--namespace={namespace or self.target.namespace}"
        whole: Object = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        try:
            self.kubectl(space, "apply", "--filename=-", document=whole)
            for pod in (each["metadata"]["name"] for each in documents if each["kind"] == "Pod"):
                self.kubectl(space, "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=90s")
            yield
        finally:
            self.kubectl(space, "delete", "--ignore-not-found", "--filename=-", document=whole)

    @contextlib.contextmanager
    def apply_quota(self, name: str, **hard: str) -> Iterator[None]:
        """A ResourceQuota of the namespace, for as long as the ``with`` lasts."""
        meta = {"name": name, "namespace": self.target.namespace}
        self.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": hard}})
        try:
            # A quota that has not been counted yet refuses everything, or nothing.
            eventually(lambda: "hard" in self._status("resourcequota", name), 20, "the quota is counted")
            yield
        finally:
            self.kubectl("delete", "resourcequota", name)

    @property
    def node_name(self) -> str:
        """The name of a node."""
        return str(self.items("nodes")[0]["metadata"]["name"])

    @contextlib.contextmanager
    def drain(self, selector: str) -> Iterator[None]:
        """The node takes no pods, and is rid of those that a label selector matches."""
        words = ("--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s")
        try:
            self.kubectl("drain", self.node_name, f"--pod-selector={selector}", *words)
            yield
        finally:
            self.kubectl("uncordon", self.node_name)

    @contextlib.contextmanager
    def deny(self, kind: str, federation: str) -> Iterator[None]:
        """An admission policy refuses a federation's objects of a kind (``workflows`` or ``pods``)."""
        name = f"flargo-test-{kind}-{federation}"
        group = {"workflows": "argoproj.io"}.get(kind, "")
        rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE"], "resources": [kind]}
        label = f"object.metadata.?labels['{Label.FEDERATION}'].orValue('')"
        policy = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": f"{label} != '{federation}'", "message": "not on a Tuesday"}],
            },
        }
        binding = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }
        probe = _probe(kind, federation)
        self.create(policy)
        try:
            self.create(binding)
            eventually(lambda: "not on a Tuesday" in self._refusal(probe), 30, "the policy is in force")
            yield
        finally:
            for of in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
                self.kubectl("delete", of, name, "--ignore-not-found")

    @contextlib.contextmanager
    def silent_registry(self) -> Iterator[str]:
        """A registry that takes connections and says nothing, for as long as the ``with`` lasts; an image's name there.

        On the node's loop-back device, where containerd speaks plain HTTP: a handshake of TLS has a deadline.
        """
        if self.target.own:
            pytest.skip("the node is out of reach")
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            yield f"127.0.0.1:{listener.getsockname()[1]}/job:1"

    def _refusal(self, document: Object) -> str:
        """What the API server has against an object."""
        words = ("kubectl", f"--kubeconfig={self.target.kubeconfig}", f"--namespace={self.target.namespace}")
        create = (*words, "create", "--dry-run=server", "--filename=-")
        return subprocess.run(create, input=json.dumps(document), text=True, capture_output=True, check=False).stderr

    @contextlib.contextmanager
    def configure_argo(self, **settings: str) -> Iterator[None]:
        """Argo's controller, started anew with settings in its ConfigMap."""

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
        found: Object = json.loads(self.kubectl("get", kind, name, "--output=json")).get("status") or {}
        return found

    @contextlib.contextmanager
    def freeze(self, daemon: str) -> Iterator[None]:
        """One of the cluster's daemons stands still (its connections stay open) for as long as the ``with`` lasts."""
        control.signal(daemon, "STOP")
        try:
            yield
        finally:
            control.signal(daemon, "CONT")
            if daemon == "kube-apiserver":
                self.wait_until_serving()

    @contextlib.contextmanager
    def stop(self, daemon: str) -> Iterator[None]:
        """One of the cluster's daemons is ended, and started anew at the end of the ``with``."""
        control.stop(daemon)
        try:
            yield
        finally:
            self.restart(daemon)

    def restart(self, daemon: str) -> None:
        """End one of the cluster's daemons, or find it ended, and start it anew."""
        up.restart(daemon)

    def wait_until_serving(self) -> None:
        """Wait until the API server answers, the kubelet has found it again, and pods may come."""
        sandbox.wait("the API server", up.serving, 60, only="kube-apiserver")
        sandbox.wait("the node", up.node_ready, 60, only="kubelet")

    # --- what is left

    def wait_until_clear(self, job_id: str, name: str, within: float = 45.0) -> float:
        """Wait until nothing of a job runs, may run, or holds its credentials; after how many seconds it was."""
        left: list[str] = []

        def is_clear() -> bool:
            left[:] = self.leftovers(job_id, name)
            return not left

        begun = asked = time.monotonic()
        while not is_clear():
            now = time.monotonic()
            assert now - begun < within, f"left after {within} s: {left}"
            pause(now - asked)
            asked = time.monotonic()
        return time.monotonic() - begun

    def leftovers(self, job_id: str, name: str) -> list[str]:
        """What of a job runs, may run, or holds its credentials."""
        workflows = self.items("workflows.argoproj.io", f"flargo.dev/job-id={job_id}")
        living = [item for item in workflows if not has_ended(item)]
        return [
            *(f"Workflow {item['metadata']['name']}" for item in living),
            *(f"pod {pod['metadata']['name']}" for pod in self.pods(job_id) if may_run(pod)),
            *(f"Secret {found}" for found in self.secrets(f"nvflare-cred-{name}-")),
            *(f"process {pid}" for pid in {*self.processes(job_id), *self.pod_processes(name)}),
        ]


FINAL_PHASES = {"Succeeded", "Failed", "Error"}


def _probe(kind: str, federation: str) -> Object:
    """An object of a kind that nothing but a policy has anything against."""
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
    return (workflow.get("status") or {}).get("phase") in FINAL_PHASES


def may_run(pod: Object) -> bool:
    """Whether a pod has a container that runs, or may have one yet."""
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
    """The processes of the node, with their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            found.append((int(entry.name), (entry / "cmdline").read_bytes()))
        except OSError:
            continue
    return found


def process_environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def eventually(true: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is true; after how many seconds it was."""
    begun = asked = time.monotonic()
    while not true():
        now = time.monotonic()
        assert now - begun < seconds, f"not within {seconds} s: {what}"
        pause(now - asked)
        asked = time.monotonic()
    return time.monotonic() - begun


def pause(took: float) -> None:
    """Wait before a check is repeated that took so many seconds.

    A check is often a run of kubectl, most of it CPU time: repeated without a break, it slows what it waits for.
    """
    time.sleep(min(max(0.25, 2 * took), 1.5))
