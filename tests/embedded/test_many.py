"""A hundred concurrent jobs: no event is lost, and the server needs few threads and little memory."""

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
MAX_THREADS = 3
MAX_GROWTH_MEBIBYTES = 120
Reports = dict[str, list[tuple[int, str]]]
"""For each object, the version and phase of each event."""


def sleeper(name: str) -> dict[str, object]:
    """Return a job that ends when the gate, a named pipe, is opened and closed."""
    mount = {"name": "gate", "mountPath": "/gate"}
    container = {"image": "any", "command": ["cat"], "args": ["/gate/pipe"], "volumeMounts": [mount]}
    volume = {"name": "gate", "persistentVolumeClaim": {"claimName": "gate"}}
    spec = {"entrypoint": "job", "executor": {"serviceAccountName": "flargo-executor"}, "volumes": [volume]}
    return {
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {**spec, "templates": [{"name": "job", "container": container}]},
    }


def watch_kind(cluster: EmbeddedCluster, kind: str, version: str, reports: Reports) -> threading.Thread:
    """Follow a kind by one watch in a thread, which adds each event to ``reports``."""

    def follow() -> None:
        query = f"watch=true&resourceVersion={version}&timeoutSeconds=60"
        for line in cluster.stream_lines(f"{cluster.path(kind)}?{query}"):
            item = json.loads(line)["object"]
            phase = (item.get("status") or {}).get("phase", "")
            reports.setdefault(item["metadata"]["name"], []).append((int(item["metadata"]["resourceVersion"]), phase))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def resident_mebibytes() -> float:
    """Return this process's resident memory in mebibytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_watches_report_a_hundred_concurrent_jobs(tmp_path: Path) -> None:
    threads, memory = threading.active_count(), resident_mebibytes() if sys.platform == "linux" else 0.0
    os.mkfifo(tmp_path / "pipe")
    with Embedded(Settings(claims={"gate": tmp_path}), namespace="flare") as embedded:
        cluster = EmbeddedCluster(embedded, tmp_path)
        version = cluster.request("GET", cluster.path("pods"))["metadata"]["resourceVersion"]
        pods: Reports = {}
        workflows: Reports = {}
        listeners = [watch_kind(cluster, "pods", version, pods), watch_kind(cluster, "workflows", version, workflows)]
        start = time.monotonic()
        names = {f"job-{number}" for number in range(JOBS)}
        for name in names:
            cluster.create(sleeper(name))
        eventually(lambda: _count_running(cluster) == JOBS, 60, "all jobs run at once")
        extra = threading.active_count() - threads - len(listeners)
        assert extra <= MAX_THREADS, threading.enumerate()
        start_seconds = time.monotonic() - start
        eventually(lambda: _open_gate(tmp_path / "pipe") and _have_all_succeeded(workflows), 60, "all jobs have ended")
        end_seconds = time.monotonic() - start - start_seconds
        growth = (resident_mebibytes() if sys.platform == "linux" else 0.0) - memory
    durations = f"started in {start_seconds:.1f} s, ended in {end_seconds:.1f} s"
    print(f"{JOBS} jobs: {durations}, {extra} threads, {growth:.0f} MiB more")
    assert growth < MAX_GROWTH_MEBIBYTES
    assert set(pods) == set(workflows) == names
    for reports in (*pods.values(), *workflows.values()):
        versions = [version for version, _ in reports]
        assert versions == sorted(set(versions))
    for name in names:
        phases = list(dict.fromkeys(phase for _, phase in pods[name]))
        assert phases == ["Pending", "Running", "Succeeded"]
        assert [phase for _, phase in workflows[name]][-1] == "Succeeded"


def _open_gate(pipe: Path) -> bool:
    """Open the gate; a program may wait at it only after its container is reported to run, so this is repeated."""
    with contextlib.suppress(OSError):  # no program waits
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return True


def _have_all_succeeded(workflows: Reports) -> bool:
    return {reports[-1][1] for reports in workflows.values()} == {"Succeeded"}


def _count_running(cluster: EmbeddedCluster) -> int:
    return sum(pod["status"]["phase"] == "Running" for pod in cluster.items("pods"))
