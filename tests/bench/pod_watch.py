"""When the cluster showed what: each state of each pod of the namespace, by a watch of the administrator's."""

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
"""Label of what is not the job's, though it has its name."""
_STARTING = {"PodInitializing", "ContainerCreating"}
_OVER = {"Succeeded", "Failed"}


@dataclass(frozen=True)
class Sight:
    """A pod as it was told."""

    at: float
    """of the monotonic clock"""
    pod: Object
    gone: bool


class Seen:
    """What was told so far. Use it in a ``with``."""

    def __init__(self, cluster: Cluster) -> None:
        self._namespace = cluster.target.namespace
        self._kubeconfig = cluster.target.kubeconfig
        self._sights: dict[str, list[Sight]] = {}
        self._over = threading.Event()
        self._kubectl: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, name="seen", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._kubectl is not None:
            self._kubectl.terminate()

    def pods(self, job: str) -> list[Object]:
        """The pods there are whose names begin with a job's."""
        latest = [sights[-1] for name, sights in list(self._sights.items()) if name.startswith(job)]
        return [sight.pod for sight in latest if not sight.gone and not is_foreign(sight.pod)]

    def first(self, job: str, true: Callable[[Object], bool]) -> float | None:
        """When something first was true of a pod of a job."""
        sights = [sight for name, sights in list(self._sights.items()) if name.startswith(job) for sight in sights]
        return min((sight.at for sight in sights if not is_foreign(sight.pod) and true(sight.pod)), default=None)

    def _listen(self) -> None:
        while not self._over.is_set():
            path = f"/api/v1/namespaces/{self._namespace}/pods?watch=true"
            words = ("kubectl", f"--kubeconfig={self._kubeconfig}", "get", f"--raw={path}")
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as self._kubectl:
                self._hear(self._kubectl.stdout or ())

    def _hear(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            told = json.loads(line)
            if told["object"].get("kind") == "Pod":
                sight = Sight(time.monotonic(), told["object"], told["type"] == "DELETED")
                self._sights.setdefault(told["object"]["metadata"]["name"], []).append(sight)


def is_foreign(pod: Object) -> bool:
    """Whether a pod is somebody else's."""
    return FOREIGN in (pod["metadata"].get("labels") or {})


def program(pod: Object) -> str:
    """The name of the container that a job's program runs in, by either launcher."""
    names: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    return next(name for name in names if name == "main" or name.startswith("container-"))


def runs(pod: Object) -> bool:
    """The program's container has begun, and not ended."""
    return "running" in _state(pod)


def ended(pod: Object) -> bool:
    """The program's container has ended, or the pod without it."""
    return "terminated" in _state(pod) or over(pod)


def over(pod: Object) -> bool:
    """The pod has ended, and what it held of its node is free."""
    return pod["status"].get("phase") in _OVER


def leaving(pod: Object) -> bool:
    """Somebody has asked for the pod's end."""
    return "deletionTimestamp" in pod["metadata"]


def stuck(pod: Object) -> bool:
    """A container can't be made, and the pod's status says why; or no node can take the pod."""
    rows = [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]
    reasons = [(row.get("state") or {}).get("waiting", {}).get("reason") for row in rows]
    conditions = pod["status"].get("conditions") or []
    return any(reason and reason not in _STARTING for reason in reasons) or any(
        row["type"] == "PodScheduled" and row.get("reason") == "Unschedulable" for row in conditions
    )


def may_run(pod: Object) -> bool:
    """Whether a container of the pod runs, or may yet."""
    return not over(pod) or bool(_running(pod))


def alive(pod: Object) -> str:
    """What of a pod runs, for people."""
    names = {program(pod): "the program", "wait": "Argo's wait", "init": "Argo's init"}
    return ", ".join(names.get(name, name) for name in _running(pod)) or str(pod["status"].get("phase")).lower()


def _running(pod: Object) -> list[str]:
    rows = [*(pod["status"].get("initContainerStatuses") or []), *(pod["status"].get("containerStatuses") or [])]
    return [row["name"] for row in rows if "running" in (row.get("state") or {})]


def _state(pod: Object) -> Object:
    rows = pod["status"].get("containerStatuses") or []
    return next((row.get("state") or {} for row in rows if row["name"] == program(pod)), {})
