"""Play the part of Argo's controller, the scheduler and the kubelet: create pods and patch statuses.

The driver makes the same changes as the recordings of a job that runs and exits with 0 (tests/recordings), with
objects of real size. It notes when the API server answered the patch that shows a job's exit.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.bench.apiserver import ApiServer
from tests.bench.wire import Client, Refusal
from tests.harness.differential.argo import pod_from_workflow

Object = dict[str, Any]
WORKERS = 6
ARGO_LAG_SECONDS = 1.0
"""Seconds from a program's exit until Argo's status shows it; one to three on the test cluster."""
_WORKFLOW = "workflows.argoproj.io/workflow"


class Driver:
    """Drive the jobs of one namespace, each of which is a Workflow or, for the stock launcher, a bare pod."""

    def __init__(self, server: ApiServer, namespace: str, *, argo: bool) -> None:
        """Create the namespace and start the threads; with ``argo``, jobs are Workflows and get pods here."""
        self._server = server
        self._namespace = namespace
        self._argo = argo
        self._tasks: queue.PriorityQueue[tuple[float, int, Callable[[Client], None]]] = queue.PriorityQueue()
        self._count = 0
        self._lock = threading.Lock()
        self._pods: dict[str, Object] = {}
        self._claims: set[str] = set()
        self.running: set[str] = set()
        """Names of the jobs (their Workflows or pods) that run."""
        self.exit_times: dict[str, float] = {}
        """When the API server answered the patch that shows the exit, on CLOCK_MONOTONIC, by name."""
        self.watch_times: dict[str, float] = {}
        """When a watch that does nothing else received the exit: a lower bound for every other watch."""
        self.errors: list[str] = []
        client = server.client()
        meta = {"name": namespace}
        client.request("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        self._threads += [threading.Thread(target=run, daemon=True) for run in (self._watch_jobs, self._watch_exits)]
        for thread in self._threads:
            thread.start()

    def wait_until_running(self, names: list[str], timeout: float) -> None:
        """Wait until these jobs run, for at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not self.running.issuperset(names):
            if time.monotonic() > deadline:
                missing = len(set(names) - self.running)
                raise TimeoutError(f"{missing} of {len(names)} jobs do not run; {self.errors[:3]}")
            time.sleep(0.05)

    def end(self, names: list[str], gap: float, code: int = 0) -> None:
        """End jobs, one every ``gap`` seconds (0: as fast as possible), and return when the API shows every exit.

        Argo's statuses follow ARGO_LAG_SECONDS later.
        """
        start = time.monotonic()
        for number, name in enumerate(names):
            self._put(lambda client, name=name: self._exit(client, name, code), start + number * gap)  # type: ignore[misc]
        while not self.exit_times.keys() >= set(names):
            if self.errors:
                raise RuntimeError(self.errors[0])
            time.sleep(0.02)

    def finish_tasks(self) -> None:
        """Wait until Argo's statuses of all jobs that ended are written."""
        time.sleep(ARGO_LAG_SECONDS)
        while self._tasks.unfinished_tasks:
            time.sleep(0.05)

    def _put(self, task: Callable[[Client], None], at: float = 0.0) -> None:
        with self._lock:
            self._count += 1
            self._tasks.put((at, self._count, task))

    def _work(self) -> None:
        client = self._server.client()
        while True:
            at, number, task = self._tasks.get()
            seconds_left = at - time.monotonic()
            if seconds_left > 0:
                # Sleep briefly: a task that is due sooner may be added meanwhile.
                time.sleep(min(seconds_left, 0.005))
                self._tasks.put((at, number, task))
                self._tasks.task_done()
                continue
            try:
                task(client)
            except (Refusal, OSError) as error:
                self.errors.append(str(error))
            self._tasks.task_done()

    def _watch_jobs(self) -> None:
        base = "/apis/argoproj.io/v1alpha1" if self._argo else "/api/v1"
        plural = "workflows" if self._argo else "pods"
        path = f"{base}/namespaces/{self._namespace}/{plural}?watch=true&timeoutSeconds=3600"
        for event in self._server.client().watch(path):
            item = event["object"]
            name = item["metadata"].get("name", "")
            is_ready = event["type"] in {"ADDED", "MODIFIED"} and not (self._argo and item["spec"].get("suspend"))
            if is_ready and name not in self._claims:
                self._claims.add(name)
                start = self._start_workflow if self._argo else self._start_pod
                self._put(lambda client, item=item, start=start: start(client, item))  # type: ignore[misc]

    def _watch_exits(self) -> None:
        path = self._path("/api/v1", "pods") + "?watch=true&timeoutSeconds=3600"
        for event in self._server.client().watch(path):
            pod, now = event["object"], time.monotonic()
            states = (row["state"] for row in pod.get("status", {}).get("containerStatuses", ()))
            if any("terminated" in state for state in states):
                job = pod["metadata"].get("labels", {}).get(_WORKFLOW, pod["metadata"]["name"])
                self.watch_times.setdefault(job, now)

    def _start_workflow(self, client: Client, workflow: Object) -> None:
        pod, name = argo_pod(workflow), workflow["metadata"]["name"]
        self._pods[name] = pod
        client.request("POST", self._path("/api/v1", "pods"), pod)
        self._patch_pod(client, name, _starting_status(pod))
        self._patch_workflow(client, name, "Running", "Pending")
        self._patch_pod(client, name, _running_status(pod))
        self._patch_workflow(client, name, "Running", "Running")
        self.running.add(name)

    def _start_pod(self, client: Client, pod: Object) -> None:
        name = pod["metadata"]["name"]
        self._pods[name] = pod
        self._patch_pod(client, name, _starting_status(pod))
        self._patch_pod(client, name, _running_status(pod))
        self.running.add(name)

    def _exit(self, client: Client, name: str, code: int) -> None:
        pod, phase = self._pods[name], "Failed" if code else "Succeeded"
        self._patch_pod(client, name, _exited_status(pod, code, "Running" if self._argo else phase))
        self.exit_times[name] = time.monotonic()
        if self._argo:
            self._put(lambda client: self._finish(client, name, code, phase), time.monotonic() + ARGO_LAG_SECONDS)

    def _finish(self, client: Client, name: str, code: int, phase: str) -> None:
        self._patch_pod(client, name, _exited_status(self._pods[name], code, phase))
        self._patch_workflow(client, name, phase, phase, {"outputs": {"exitCode": str(code)}})

    def _patch_pod(self, client: Client, name: str, status: Object) -> None:
        client.request("PATCH", f"{self._path('/api/v1', 'pods', name)}/status", {"status": status})

    def _patch_workflow(
        self, client: Client, name: str, phase: str, node_phase: str, extra: Object | None = None
    ) -> None:
        node = {
            "id": name,
            "name": name,
            "displayName": name,
            "templateName": "job",
            "type": "Pod",
            "phase": node_phase,
            "startedAt": _NOW,
        }
        patch = {"status": {"phase": phase, "startedAt": _NOW, "nodes": {name: {**node, **(extra or {})}}}}
        client.request("PATCH", self._path("/apis/argoproj.io/v1alpha1", "workflows", name), patch)

    def _path(self, base: str, plural: str, name: str = "") -> str:
        return f"{base}/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")


_NOW = "2026-01-01T00:00:00Z"


def argo_pod(workflow: Object) -> Object:
    """Return the pod that Argo creates for a Workflow, with Argo's own additions, scheduled to a node."""
    pod, meta = pod_from_workflow(workflow), workflow["metadata"]
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        container.setdefault("image", "quay.io/argoproj/argoexec:v3.7.18")
        if container["name"] in {"init", "wait", "main"}:
            # Argo passes the template to each of its containers in this variable.
            container.setdefault("env", []).append({"name": "ARGO_TEMPLATE", "value": str(workflow["spec"])})
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"]}
    pod["metadata"]["labels"] = {**pod["metadata"].get("labels", {}), _WORKFLOW: meta["name"]}
    pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    pod["spec"]["nodeName"] = "bench"
    return pod


def _container_statuses(pod: Object, field: str, state: Object) -> list[Object]:
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        for container in pod["spec"].get(field, [])
    ]


def _starting_status(pod: Object) -> Object:
    state = {"waiting": {"reason": "PodInitializing"}}
    return _pod_status(pod, "Pending", state, state)


def _running_status(pod: Object) -> Object:
    return _pod_status(pod, "Running", {"running": {"startedAt": _NOW}}, _exit_state(0))


def _exited_status(pod: Object, code: int, phase: str) -> Object:
    return _pod_status(pod, phase, _exit_state(code), _exit_state(0))


def _exit_state(code: int) -> Object:
    reason = "Error" if code else "Completed"
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": _NOW, "finishedAt": _NOW}}


def _pod_status(pod: Object, phase: str, containers: Object, init_containers: Object) -> Object:
    return {
        "phase": phase,
        "conditions": [
            {"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "PodReadyToStartContainers")
        ],
        "containerStatuses": _container_statuses(pod, "containers", containers),
        "initContainerStatuses": _container_statuses(pod, "initContainers", init_containers),
    }
