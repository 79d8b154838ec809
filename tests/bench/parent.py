"""The measured process: a FLARE parent as a launcher sees it, with one launcher, told what to do line by line.

It holds each job as FLARE does: a thread that waits. What it says of itself (CPU, memory, threads) is its own alone.
"""

import json
import logging
import os
import resource
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.private.fed.app.client import client_train  # noqa: F401  (what a real parent has loaded)

from flargo.terms import Role
from tests.harness.differential.parent import Parent

Object = dict[str, Any]
SITE = "site-1"


class Measured:
    """What can be asked of it; each answer is JSON."""

    def __init__(self, launcher: str, kubeconfig: str, namespace: str) -> None:
        """Load and make a launcher: ``flargo`` or ``stock``."""
        begun = time.process_time()
        self._launcher = _load(launcher)(config_file_path=kubeconfig, namespace=namespace)
        self._import_cpu = time.process_time() - begun
        self._root = Path(tempfile.mkdtemp(prefix="bench-parent-", dir="/tmp"))
        self._parent = Parent(self._root, Role.CLIENT, SITE)
        self._handles: dict[str, Any] = {}
        self._ended: dict[str, float] = {}
        self._codes: dict[str, int] = {}
        self._waiters = 0

    def launch(self, jobs: int, parallel: int) -> Object:
        """Launch so many jobs; how long each call of launch_job took, and the jobs' names on the cluster."""
        with ThreadPoolExecutor(parallel) as pool:
            told = list(pool.map(lambda _: self._launch(), range(jobs)))
        return {"names": [name for name, _ in told], "seconds": [seconds for _, seconds in told]}

    def wait(self, names: list[str]) -> Object:
        """Wait for jobs as FLARE does, a thread for each."""
        for name in names:
            self._waiters += 1
            threading.Thread(target=self._wait, args=(name,), daemon=True).start()
        return {}

    def usage(self) -> Object:
        """What the process has used, and what it holds."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "at": time.monotonic(),
            "cpu": used.ru_utime + used.ru_stime,
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "threads": len(os.listdir("/proc/self/task")) - self._waiters,  # noqa: PTH208
            "import_cpu": self._import_cpu,
        }

    def ended(self) -> Object:
        """When each wait has returned, on CLOCK_MONOTONIC, and the return codes."""
        return {"at": dict(self._ended), "codes": dict(self._codes)}

    def relist(self) -> Object:
        """What a fresh list of both kinds costs: seconds till it is taken in, and of CPU."""
        loop = self._launcher._loop
        begun, used = time.perf_counter(), time.process_time()
        for watch in loop._watches:
            loop.on_listed(watch.kind, *watch.api.list(watch.kind, watch.labels, trim=watch.trim))
        _drain(loop)
        return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}

    def track(self, jobs: int) -> Object:
        """How long it takes to know all that an earlier run has left."""
        begun, used = time.perf_counter(), time.process_time()
        self._launcher.handle_event(EventType.SYSTEM_START, self._parent.context("none"))
        engine = self._launcher._loop._reconciler
        while len(engine._tracked) + len(engine._finished_orphans) < jobs:
            time.sleep(0.005)
        return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - used}

    def followed(self) -> Object:
        """How many jobs the launcher still follows."""
        loop = getattr(self._launcher, "_loop", None)
        return {"jobs": len(loop._jobs) if loop is not None else 0}

    def _launch(self) -> tuple[str, float]:
        job_id = str(uuid.uuid4())
        spec = {"image": "registry.example/flare/job:2.9.0", "cpu": "2", "memory": "4Gi"}
        meta = {"job_id": job_id, "name": "bench", "launcher_spec": {SITE: {"k8s": spec}}}
        context = self._parent.context(job_id)
        begun = time.perf_counter()
        handle = self._launcher.launch_job(meta, context)
        seconds = time.perf_counter() - begun
        name = handle._job.name if hasattr(handle, "_job") else handle.pod_name
        self._handles[name] = handle
        return name, seconds

    def _wait(self, name: str) -> None:
        handle = self._handles[name]
        handle.wait()
        self._ended[name] = time.monotonic()
        self._codes[name] = int(handle.poll())
        self._waiters -= 1


def _load(launcher: str) -> Any:
    if launcher == "flargo":
        from flargo import ClientArgoJobLauncher

        return ClientArgoJobLauncher
    from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher

    return ClientK8sJobLauncher


def _drain(loop: Any) -> None:
    """Wait until the engine's thread has done all that it was given."""
    done = threading.Event()
    loop._enqueue(lambda _: done.set())
    done.wait()


def main() -> None:
    """Answer each line of input with a line of output."""
    logging.basicConfig(filename=os.devnull, level=logging.INFO)
    answers = sys.stdout
    sys.stdout = sys.stderr
    measured = Measured(*sys.argv[1:])
    for line in sys.stdin:
        asked = json.loads(line)
        answer = getattr(measured, asked.pop("do"))(**asked)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
