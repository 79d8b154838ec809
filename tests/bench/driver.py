"""Plays Argo's controller, the scheduler and the kubelet: pods for released Workflows, and statuses.

It makes the changes that the recordings (tests/recordings) have of a job that runs and ends with 0, with objects of
the real size, and writes down when the API server had answered the one that shows the exit.
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
ARGO_LAG = 1.0
"""Seconds between a program's end and Argo's word of it; on the test cluster it is one to three."""
_WORKFLOW = "workflows.argoproj.io/workflow"


class Driver:
    """For one namespace. ``argo``: Workflows are released and get pods; else pods are created as they are."""

    def __init__(self, server: ApiServer, namespace: str, *, argo: bool) -> None:
        """Begin to watch and to answer."""
        self._server = server
        self._namespace = namespace
        self._argo = argo
        self._tasks: queue.PriorityQueue[tuple[float, int, Callable[[Client], None]]] = queue.PriorityQueue()
        self._count = 0
        self._lock = threading.Lock()
        self._pods: dict[str, Object] = {}
        self._taken: set[str] = set()
        self.running: set[str] = set()
        """Names of the jobs (their Workflows or pods) that run."""
        self.shown: dict[str, float] = {}
        """When the API had answered the patch that shows the exit, on CLOCK_MONOTONIC, by name."""
        self.heard: dict[str, float] = {}
        """When a watch that does nothing else had told of the exit: nobody can hear of it much sooner."""
        self.troubles: list[str] = []
        client = server.client()
        client.request("POST", "/api/v1/namespaces", _named("v1", "Namespace", namespace))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        self._threads += [threading.Thread(target=run, daemon=True) for run in (self._watch, self._hear)]
        for thread in self._threads:
            thread.start()

    def runs(self, names: list[str], within: float) -> None:
        """Wait until these jobs run."""
        limit = time.monotonic() + within
        while not self.running.issuperset(names):
            if time.monotonic() > limit:
                missing = len(set(names) - self.running)
                raise TimeoutError(f"{missing} of {len(names)} jobs do not run; {self.troubles[:3]}")
            time.sleep(0.05)

    def end(self, names: list[str], gap: float, code: int = 0) -> None:
        """Have jobs end, one every ``gap`` seconds, or as fast as it goes; Argo's word follows. Returns when shown."""
        begun = time.monotonic()
        for number, name in enumerate(names):
            self._put(lambda client, name=name: self._exit(client, name, code), begun + number * gap)  # type: ignore[misc]
        while not self.shown.keys() >= set(names):
            if self.troubles:
                raise RuntimeError(self.troubles[0])
            time.sleep(0.02)

    def rest(self) -> None:
        """Wait until all that the cluster had to say is said."""
        time.sleep(ARGO_LAG)
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
            late = at - time.monotonic()
            if late > 0:
                # What is due sooner may come meanwhile.
                time.sleep(min(late, 0.005))
                self._tasks.put((at, number, task))
                self._tasks.task_done()
                continue
            try:
                task(client)
            except (Refusal, OSError) as error:
                self.troubles.append(str(error))
            self._tasks.task_done()

    def _watch(self) -> None:
        base = "/apis/argoproj.io/v1alpha1" if self._argo else "/api/v1"
        plural = "workflows" if self._argo else "pods"
        path = f"{base}/namespaces/{self._namespace}/{plural}?watch=true&timeoutSeconds=3600"
        for event in self._server.client().watch(path):
            item = event["object"]
            name = item["metadata"].get("name", "")
            ready = event["type"] in {"ADDED", "MODIFIED"} and not (self._argo and item["spec"].get("suspend"))
            if ready and name not in self._taken:
                self._taken.add(name)
                start = self._start_workflow if self._argo else self._start_pod
                self._put(lambda client, item=item, start=start: start(client, item))  # type: ignore[misc]

    def _hear(self) -> None:
        path = self._path("/api/v1", "pods") + "?watch=true&timeoutSeconds=3600"
        for event in self._server.client().watch(path):
            pod, now = event["object"], time.monotonic()
            states = (row["state"] for row in pod.get("status", {}).get("containerStatuses", ()))
            if any("terminated" in state for state in states):
                self.heard.setdefault(pod["metadata"].get("labels", {}).get(_WORKFLOW, pod["metadata"]["name"]), now)

    def _start_workflow(self, client: Client, workflow: Object) -> None:
        pod, name = argo_pod(workflow), workflow["metadata"]["name"]
        self._pods[name] = pod
        client.request("POST", self._path("/api/v1", "pods"), pod)
        self._status(client, name, _starting(pod))
        self._workflow(client, name, "Running", "Pending")
        self._status(client, name, _running(pod))
        self._workflow(client, name, "Running", "Running")
        self.running.add(name)

    def _start_pod(self, client: Client, pod: Object) -> None:
        name = pod["metadata"]["name"]
        self._pods[name] = pod
        self._status(client, name, _starting(pod))
        self._status(client, name, _running(pod))
        self.running.add(name)

    def _exit(self, client: Client, name: str, code: int) -> None:
        pod, phase = self._pods[name], "Failed" if code else "Succeeded"
        self._status(client, name, _ended(pod, code, "Running" if self._argo else phase))
        self.shown[name] = time.monotonic()
        if self._argo:
            self._put(lambda client: self._finish(client, name, code, phase), time.monotonic() + ARGO_LAG)

    def _finish(self, client: Client, name: str, code: int, phase: str) -> None:
        self._status(client, name, _ended(self._pods[name], code, phase))
        self._workflow(client, name, phase, phase, {"outputs": {"exitCode": str(code)}})

    def _status(self, client: Client, name: str, status: Object) -> None:
        client.request("PATCH", f"{self._path('/api/v1', 'pods', name)}/status", {"status": status})

    def _workflow(self, client: Client, name: str, phase: str, node: str, more: Object | None = None) -> None:
        step = {"id": name, "name": name, "displayName": name, "type": "Pod", "phase": node, "startedAt": _NOW}
        patch = {"status": {"phase": phase, "startedAt": _NOW, "nodes": {name: {**step, **(more or {})}}}}
        client.request("PATCH", self._path("/apis/argoproj.io/v1alpha1", "workflows", name), patch)

    def _path(self, base: str, plural: str, name: str = "") -> str:
        return f"{base}/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")


_NOW = "2026-01-01T00:00:00Z"


def argo_pod(workflow: Object) -> Object:
    """The pod that Argo makes of a Workflow, with what Argo adds of its own, on a node."""
    pod, meta = pod_from_workflow(workflow), workflow["metadata"]
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        container.setdefault("image", "quay.io/argoproj/argoexec:v3.7.18")
        if container["name"] in {"init", "wait", "main"}:
            # Argo hands its template to each of its containers.
            container.setdefault("env", []).append({"name": "ARGO_TEMPLATE", "value": str(workflow["spec"])})
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"]}
    pod["metadata"]["labels"] = {**pod["metadata"].get("labels", {}), _WORKFLOW: meta["name"]}
    pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    pod["spec"]["nodeName"] = "bench"
    return pod


def _named(version: str, kind: str, name: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _rows(pod: Object, field: str, state: Object) -> list[Object]:
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


def _starting(pod: Object) -> Object:
    state = {"waiting": {"reason": "PodInitializing"}}
    return _status_of(pod, "Pending", state, state)


def _running(pod: Object) -> Object:
    return _status_of(pod, "Running", {"running": {"startedAt": _NOW}}, _done(0))


def _ended(pod: Object, code: int, phase: str) -> Object:
    return _status_of(pod, phase, _done(code), _done(0))


def _done(code: int) -> Object:
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": _NOW, "finishedAt": _NOW}
    return {"terminated": ended}


def _status_of(pod: Object, phase: str, containers: Object, inits: Object) -> Object:
    return {
        "phase": phase,
        "conditions": [
            {"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "PodReadyToStartContainers")
        ],
        "containerStatuses": _rows(pod, "containers", containers),
        "initContainerStatuses": _rows(pod, "initContainers", inits),
    }
