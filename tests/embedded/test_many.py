"""A hundred jobs at once: nobody's event is lost, and the server stays small."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from flargo.embedded import Embedded, Settings
from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import EmbeddedCluster

JOBS = 100
MOST_THREADS = 3
MOST_MEBIBYTES = 120
Told = dict[str, list[tuple[int, str]]]


def sleeper(name: str) -> dict[str, object]:
    """A job that ends when the gate, a named pipe, is opened and closed."""
    mount = {"name": "gate", "mountPath": "/gate"}
    container = {"image": "any", "command": ["cat"], "args": ["/gate/pipe"], "volumeMounts": [mount]}
    volume = {"name": "gate", "persistentVolumeClaim": {"claimName": "gate"}}
    spec = {"entrypoint": "job", "executor": {"serviceAccountName": "flargo-executor"}, "volumes": [volume]}
    return {
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {**spec, "templates": [{"name": "job", "container": container}]},
    }


def listen(cluster: EmbeddedCluster, kind: str, version: str, told: Told) -> threading.Thread:
    """Follow a kind by one watch; the phases and versions of each object."""

    def follow() -> None:
        query = f"watch=true&resourceVersion={version}&timeoutSeconds=60"
        for line in cluster.stream_lines(f"{cluster.path(kind)}?{query}"):
            item = json.loads(line)["object"]
            phase = (item.get("status") or {}).get("phase", "")
            told.setdefault(item["metadata"]["name"], []).append((int(item["metadata"]["resourceVersion"]), phase))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def resident() -> float:
    """Mebibytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_a_hundred_jobs_at_once_are_all_told_of_from_their_beginning_to_their_end(tmp_path: Path) -> None:
    threads, memory = threading.active_count(), resident() if sys.platform == "linux" else 0.0
    os.mkfifo(tmp_path / "pipe")
    with Embedded(Settings(claims={"gate": tmp_path}), namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        version = cluster.request("GET", cluster.path("pods"))["metadata"]["resourceVersion"]
        pods: Told = {}
        workflows: Told = {}
        listeners = [listen(cluster, "pods", version, pods), listen(cluster, "workflows", version, workflows)]
        begun = time.monotonic()
        names = {f"job-{number}" for number in range(JOBS)}
        for name in names:
            cluster.create(sleeper(name))
        eventually(lambda: _running(cluster) == JOBS, 60, "all run at once")
        extra = threading.active_count() - threads - len(listeners)
        assert extra <= MOST_THREADS, threading.enumerate()
        started = time.monotonic() - begun
        eventually(lambda: _opened(tmp_path / "pipe") and _all_ended(workflows), 60, "all have ended")
        ended = time.monotonic() - begun - started
        grown = (resident() if sys.platform == "linux" else 0.0) - memory
    print(f"{JOBS} jobs: started in {started:.1f} s, ended in {ended:.1f} s, {extra} threads, {grown:.0f} MiB more")
    assert grown < MOST_MEBIBYTES
    assert set(pods) == set(workflows) == names
    for told in (*pods.values(), *workflows.values()):
        versions = [version for version, _ in told]
        assert versions == sorted(set(versions))
    for name in names:
        seen = list(dict.fromkeys(phase for _, phase in pods[name]))
        assert seen == ["Pending", "Running", "Succeeded"]
        assert [phase for _, phase in workflows[name]][-1] == "Succeeded"


def _opened(pipe: Path) -> bool:
    """Open the gate for who waits at it; a program may come to it later than its container is said to run."""
    with contextlib.suppress(OSError):  # nobody waits
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return True


def _all_ended(workflows: Told) -> bool:
    return {told[-1][1] for told in workflows.values()} == {"Succeeded"}


def _running(cluster: EmbeddedCluster) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in cluster.items("pods"))
