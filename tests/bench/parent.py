"""The measured process: a FLARE parent as a launcher sees it, with one launcher, controlled by lines of JSON.

The process holds each job as FLARE does, by a thread that waits for it. It fires the events of a client's start and of
a job's end, at which flargo keeps its Lease and its records of launches. The CPU, memory and threads that it reports
are those of this process alone.
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
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.private.fed.app.client import client_train  # noqa: F401  (a real parent has loaded it too)

from flargo.terms import Role

Object = dict[str, Any]
SITE = "site-1"


class MeasuredParent:
    """The requests that this process answers: each public method is one, and returns JSON."""

    def __init__(self, launcher: str, kubeconfig: str, namespace: str, rejoins: str) -> None:
        """Import and create a launcher: ``flargo`` or ``stock``. Its jobs may be started again ``rejoins`` times."""
        cpu = time.process_time()
        again: Object = {"argo": {"policy": {"rejoin": int(rejoins)}}} if int(rejoins) else {}
        self._launcher = _load(launcher)(config_file_path=kubeconfig, namespace=namespace, **again)
        self._job_options: Object = {"argo": {"rejoin": int(rejoins)}} if int(rejoins) else {}
        self._import_cpu = time.process_time() - cpu
        # These load flargo, which must not be loaded before its loading is measured.
        from tests.harness.client_parent import ClientParent
        from tests.harness.differential.parent import Parent

        self._root = Path(tempfile.mkdtemp(prefix="bench-parent-", dir="/tmp"))
        self._parent = Parent(self._root, Role.CLIENT, SITE)
        self._engine = ClientParent(self._root, job_ids=())
        self._engine.new_context = lambda: self._context("none")  # type: ignore[method-assign]
        self._handles: dict[str, Any] = {}
        self._job_ids: dict[str, str] = {}
        self._end_times: dict[str, float] = {}
        self._codes: dict[str, int] = {}
        self._waiters = 0
        self._has_started = False

    def launch(self, jobs: int, parallel: int) -> Object:
        """Launch jobs; return their names on the cluster, and the seconds that each call of launch_job took."""
        from tests.harness.executor_site import START_EVENTS

        if not self._has_started:
            for event in START_EVENTS:
                self._launcher.handle_event(event, self._context("none"))
            self._has_started = True
        with ThreadPoolExecutor(parallel) as pool:
            launches = list(pool.map(lambda _: self._launch(), range(jobs)))
        return {"names": [name for name, _ in launches], "seconds": [seconds for _, seconds in launches]}

    def wait(self, names: list[str]) -> Object:
        """Start a thread for each job that waits for it, as FLARE does."""
        for name in names:
            self._waiters += 1
            threading.Thread(target=self._wait, args=(name,), daemon=True).start()
        return {}

    def usage(self) -> Object:
        """Return the process's CPU time, memory and threads."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "at": time.monotonic(),
            "cpu": usage.ru_utime + usage.ru_stime,
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "threads": len(os.listdir("/proc/self/task")) - self._waiters,  # noqa: PTH208
            "import_cpu": self._import_cpu,
        }

    def list_ends(self) -> Object:
        """Return when each wait returned, on CLOCK_MONOTONIC, and the return codes."""
        return {"at": dict(self._end_times), "codes": dict(self._codes)}

    def relist(self) -> Object:
        """List both kinds anew; return the seconds, and the CPU seconds, until the lists are processed."""
        loop = self._launcher._loop
        start, cpu = time.perf_counter(), time.process_time()
        for watch in loop._watches:
            loop.on_listed(watch.kind, *watch.api.list(watch.kind, watch.labels, trim=watch.trim))
        _drain(loop)
        return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    def track(self) -> Object:
        """Return how long the launcher takes to know all jobs that an earlier parent left behind."""
        start, cpu = time.perf_counter(), time.process_time()
        self._launcher.handle_event(EventType.SYSTEM_START, self._context("none"))
        reconciler = self._launcher._loop._reconciler
        while not reconciler._clocks.has_synced:
            time.sleep(0.005)
        _drain(self._launcher._loop)
        return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}

    def count_jobs(self) -> Object:
        """Return how many jobs the launcher still follows."""
        loop = getattr(self._launcher, "_loop", None)
        return {"jobs": len(loop._jobs) if loop is not None else 0}

    def _launch(self) -> tuple[str, float]:
        job_id = str(uuid.uuid4())
        spec = {"image": "registry.example/flare/job:2.9.0", "cpu": "2", "memory": "4Gi", **self._job_options}
        meta = {"job_id": job_id, "name": "bench", "launcher_spec": {SITE: {"k8s": spec}}}
        context = self._context(job_id)
        start = time.perf_counter()
        handle = self._launcher.launch_job(meta, context)
        seconds = time.perf_counter() - start
        name = handle._job.name if hasattr(handle, "_job") else handle.pod_name
        self._handles[name], self._job_ids[name] = handle, job_id
        return name, seconds

    def _wait(self, name: str) -> None:
        handle = self._handles[name]
        handle.wait()
        self._end_times[name] = time.monotonic()
        self._codes[name] = int(handle.poll())
        context = FLContext()  # FLARE has one anyway
        context.set_prop(FLContextKey.CURRENT_JOB_ID, self._job_ids[name], private=True, sticky=False)
        self._launcher.handle_event(EventType.JOB_COMPLETED, context)
        self._waiters -= 1

    def _context(self, job_id: str) -> FLContext:
        context = self._parent.context(job_id)
        context.set_prop(ReservedKey.ENGINE, self._engine, private=True, sticky=False)
        context.set_prop(FLContextKey.CLIENT_TOKEN, "a token", private=True, sticky=False)
        return context


def _load(launcher: str) -> Any:
    if launcher == "flargo":
        from flargo import ClientArgoJobLauncher

        return ClientArgoJobLauncher
    from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher

    return ClientK8sJobLauncher


def _drain(loop: Any) -> None:
    """Wait until the loop has processed all inputs that are queued."""
    from flargo.control.inputs import Contact

    drained, last = threading.Event(), Contact()
    loop._reconciler.on_handled = lambda input_, _: drained.set() if input_ is last else None
    loop._inputs.put(last)
    drained.wait()


def main() -> None:
    """Answer each line of input with a line of output."""
    logging.basicConfig(filename=os.devnull, level=logging.INFO)
    answers = sys.stdout
    sys.stdout = sys.stderr
    parent = MeasuredParent(*sys.argv[1:])
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(parent, request.pop("method"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
