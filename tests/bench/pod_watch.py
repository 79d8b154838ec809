"""Record each state of each pod of a namespace, with its time, by a watch of the administrator's."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from tests.harness.cluster import Cluster

Object = dict[str, Any]
FOREIGN = "flargo.test/foreign"
"""Label of objects that have a job's name but belong to somebody else."""
_START_REASONS = {"PodInitializing", "ContainerCreating"}
_FINAL_PHASES = {"Succeeded", "Failed"}


@dataclass(frozen=True)
class PodEvent:
    """A pod as one event of the watch showed it."""

    at: float
    """Time of the event, on the monotonic clock."""
    pod: Object
    is_deleted: bool


class PodWatch:
    """A watch of a namespace's pods that keeps every event. Use it in a ``with``."""

    def __init__(self, cluster: Cluster) -> None:
        self._namespace = cluster.target.namespace
        self._kubeconfig = cluster.target.kubeconfig
        self._events: dict[str, list[PodEvent]] = {}
        self._stop = threading.Event()
        self._kubectl: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="pod-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._kubectl is not None:
            self._kubectl.terminate()

    def pods(self, job: str) -> list[Object]:
        """Return the existing pods whose names begin with a job's name."""
        latest = [events[-1] for name, events in list(self._events.items()) if name.startswith(job)]
        return [event.pod for event in latest if not event.is_deleted and not is_foreign(event.pod)]

    def first_time(self, job: str, condition: Callable[[Object], bool]) -> float | None:
        """Return when a condition was first true of a pod of a job; None if it never was."""
        events = [event for name, events in list(self._events.items()) if name.startswith(job) for event in events]
        return min((event.at for event in events if not is_foreign(event.pod) and condition(event.pod)), default=None)

    def first_time_of(self, pod: str, condition: Callable[[Object], bool]) -> float | None:
        """Return when a condition was first true of the pod with this name; None if it never was."""
        return min((event.at for event in self._events.get(pod, []) if condition(event.pod)), default=None)

    def _run(self) -> None:
        while not self._stop.is_set():
            path = f"/api/v1/namespaces/{self._namespace}/pods?watch=true"
            argv = ("kubectl", f"--kubeconfig={self._kubeconfig}", "get", f"--raw={path}")
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as self._kubectl:
                self._read(self._kubectl.stdout or ())

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            event = json.loads(line)
            if event["object"].get("kind") == "Pod":
                pod_event = PodEvent(time.monotonic(), event["object"], event["type"] == "DELETED")
                self._events.setdefault(event["object"]["metadata"]["name"], []).append(pod_event)


def is_foreign(pod: Object) -> bool:
    """Return whether a pod belongs to somebody else."""
    return FOREIGN in (pod["metadata"].get("labels") or {})


def program_container(pod: Object) -> str:
    """Return the name of the container that runs a job's program, with either launcher."""
    names: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    return next(name for name in names if name == "main" or name.startswith("container-"))


def is_running(pod: Object) -> bool:
    """Return whether the program's container runs."""
    return "running" in _state(pod)


def has_exited(pod: Object) -> bool:
    """Return whether the program's container has exited, or the pod has finished without it."""
    return "terminated" in _state(pod) or has_finished(pod)


def has_finished(pod: Object) -> bool:
    """Return whether the pod has finished, so that its node's resources are free."""
    return pod["status"].get("phase") in _FINAL_PHASES


def is_terminating(pod: Object) -> bool:
    """Return whether somebody has asked for the pod's deletion."""
    return "deletionTimestamp" in pod["metadata"]


def is_stuck(pod: Object) -> bool:
    """Return whether a container cannot be created and the status says why, or no node can take the pod."""
    rows = [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]
    reasons = [(row.get("state") or {}).get("waiting", {}).get("reason") for row in rows]
    conditions = pod["status"].get("conditions") or []
    return any(reason and reason not in _START_REASONS for reason in reasons) or any(
        row["type"] == "PodScheduled" and row.get("reason") == "Unschedulable" for row in conditions
    )


def may_run(pod: Object) -> bool:
    """Return whether a container of the pod runs, or may still start."""
    return not has_finished(pod) or bool(_running_containers(pod))


def describe_running(pod: Object) -> str:
    """Return which of a pod's containers run, or else its phase, as text for the table."""
    names = {program_container(pod): "the program", "wait": "Argo's wait", "init": "Argo's init"}
    running = ", ".join(names.get(name, name) for name in _running_containers(pod))
    return running or str(pod["status"].get("phase")).lower()


def _running_containers(pod: Object) -> list[str]:
    rows = [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]
    return [row["name"] for row in rows if "running" in (row.get("state") or {})]


def _state(pod: Object) -> Object:
    rows = pod["status"].get("containerStatuses") or []
    return next((row.get("state") or {} for row in rows if row["name"] == program_container(pod)), {})
