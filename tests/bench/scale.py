"""Measure what many jobs cost with flargo and with FLARE's own Kubernetes launcher, at 1 to 5,000 jobs, in one run.

Both launchers are measured on the same kube-apiserver and etcd, one after the other, each in a process of its own
(parent.py). A driver plays the rest of the cluster (driver.py); its CPU time is in the result. Requests are counted
from the API server's audit log. Run ``make scale``, or ``python -m tests.bench.scale --sizes 1,10`` for some sizes.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from tests.bench import apiserver, figures
from tests.bench.apiserver import ApiServer
from tests.bench.driver import Driver
from tests.harness.real_cluster import audit

Object = dict[str, Any]
SIZES = {"flargo": (1, 10, 100, 1000, 5000), "stock": (1, 10, 100, 1000)}
PARALLEL = {"flargo": 8, "stock": 64}
"""Parallel launches once the timed launches are over: the stock launcher needs a second for each."""
TIMED_LAUNCHES = 64
"""Launches whose duration is measured, eight in parallel."""
IDLE_SECONDS = 15.0
"""Length of the period in which nothing happens and the idle cost is measured."""
ONE_BY_ONE, GAP_SECONDS = 500, 0.01
"""Jobs that end one by one (at most half of all jobs), and the time between two ends."""
AT_ONCE = 1000
"""Largest number of jobs that end at once."""
MAX_FAILURES = 100
"""Largest number of jobs that fail at once."""
STEP_TIMEOUT = 600.0
"""Seconds within which all jobs of a step must run or end."""


class Parent:
    """A client of the measured process (parent.py)."""

    def __init__(self, launcher: str, kubeconfig: Path, namespace: str, rejoins: int) -> None:
        """Start the process with one launcher, whose jobs may be started again so many times."""
        argv = [sys.executable, "-m", "tests.bench.parent", launcher, str(kubeconfig), namespace, str(rejoins)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process; like a parent that is killed, it ends no job."""
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **arguments: Any) -> Object:
        """Call a method of MeasuredParent by a line of JSON, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"method": method, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: Object = json.loads(self._process.stdout.readline())
        return answer

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the process meanwhile, so that it receives everything that happens at once afterwards."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class Run:
    """The measurement of one launcher with one number of jobs."""

    def __init__(self, server: ApiServer, launcher: str, jobs: int, rejoins: int) -> None:
        """Create a namespace of the run's own, with a driver."""
        self._server = server
        self._rejoins = rejoins
        self._launcher = launcher
        self._jobs = jobs
        self._namespace = f"bench-{launcher}-{jobs}"
        self._driver = Driver(server, self._namespace, argo=launcher == "flargo")
        self._kubeconfig = server.kubeconfig(launcher)
        self._mark = 0
        self.result: Object = {"load before": os.getloadavg()[0]}

    def measure(self) -> None:
        """Take all measurements and store them in ``result``."""
        with self._parent() as parent:
            names = self._start(parent)
            parent.call("wait", names=names)
            self._measure_idle(parent)
            if self._launcher == "flargo":
                self.result["relist"] = parent.call("relist")
                self.result["memory"]["after a relist"] = parent.call("usage")["rss"]
            one_by_one = names[: max(1, min(self._jobs // 2, ONE_BY_ONE))]
            self.result["one by one"] = self._end(parent, one_by_one, GAP_SECONDS)
            self._wait_until_cleared(parent, len(names) - len(one_by_one))
            self._count("requests in all", self._mark)
            replacements = self._launch(parent, len(one_by_one))
            remaining = [*names[len(one_by_one) :], *replacements]
            at_once, rest = remaining[:AT_ONCE], remaining[AT_ONCE:]
            self.result["at once"] = self._end(parent, at_once, 0.0)
            failures = self._launch(parent, min(self._jobs, MAX_FAILURES))
            self.result["failures at once"] = self._end(parent, failures, 0.0, code=1)
            size = min(self._jobs, AT_ONCE)
            additions = self._launch(parent, max(0, size - len(rest)))
            self.result["burst"] = self._end(parent, [*rest, *additions][:size], 0.0, paused=True)
            time.sleep(5)
        if self._launcher == "flargo":
            existing = len(names) + len(replacements) + len(failures) + len(additions)
            with self._parent() as parent:
                self.result["track existing"] = {"jobs": existing, **parent.call("track")}

    def _parent(self) -> Parent:
        return Parent(self._launcher, self._kubeconfig, self._namespace, self._rejoins)

    def _start(self, parent: Parent) -> list[str]:
        first = parent.call("launch", jobs=1, parallel=1)  # the first launch connects and does the late imports
        self._driver.wait_until_running(first["names"], STEP_TIMEOUT)
        time.sleep(2)
        empty, self._mark = parent.call("usage"), audit.mark(self._server.audit_log)
        start, server_cpu = time.monotonic(), self._server.cpu
        timed = parent.call("launch", jobs=min(self._jobs, TIMED_LAUNCHES) - 1, parallel=8)
        rest = parent.call("launch", jobs=max(0, self._jobs - TIMED_LAUNCHES), parallel=PARALLEL[self._launcher])
        names: list[str] = first["names"] + timed["names"] + rest["names"]
        self._driver.wait_until_running(names, STEP_TIMEOUT)
        self.result["start"] = {
            "seconds until all run": time.monotonic() - start,
            "API server's cpu a job": (self._server.cpu - server_cpu) / (self._jobs - 1) if self._jobs > 1 else None,
            "first launch_job": first["seconds"][0],
            "launch_job": _spread(timed["seconds"]) if timed["seconds"] else None,
        }
        self._count("requests until running", self._mark)
        time.sleep(2)
        full = parent.call("usage")
        self.result["import cpu"] = full["import_cpu"]
        self.result["memory"] = {
            "one job": empty["rss"],
            "all jobs": full["rss"],
            "a job": (full["rss"] - empty["rss"]) / (self._jobs - 1) if self._jobs > 1 else None,
        }
        if self._jobs > 1:
            self.result["start"]["cpu a job"] = (full["cpu"] - empty["cpu"]) / (self._jobs - 1)
        return names

    def _measure_idle(self, parent: Parent) -> None:
        # flargo touches a Workflow that Argo has not started after four seconds: let that pass first.
        time.sleep(8 if self._launcher == "flargo" else 3)
        before, mark, server_cpu = parent.call("usage"), audit.mark(self._server.audit_log), self._server.cpu
        time.sleep(IDLE_SECONDS)
        after = parent.call("usage")
        seconds = after["at"] - before["at"]
        counts = audit.count_by_user(self._launcher, self._server.audit_log, mark)
        self.result["idle"] = {
            "seconds": seconds,
            "requests a second": _rate(counts, seconds, lambda verb, what: verb != "watch" and what != "leases"),
            "watches a second": _rate(counts, seconds, lambda verb, _: verb == "watch"),
            "Lease requests a second": _rate(counts, seconds, lambda _, what: what == "leases"),
            "cpu": (after["cpu"] - before["cpu"]) / seconds,
            "API server's cpu": (self._server.cpu - server_cpu) / seconds,
            "threads": after["threads"],
            "memory with FLARE's waiting threads": after["rss"],
        }

    def _launch(self, parent: Parent, jobs: int) -> list[str]:
        names: list[str] = parent.call("launch", jobs=jobs, parallel=PARALLEL[self._launcher])["names"]
        parent.call("wait", names=names)
        self._driver.wait_until_running(names, STEP_TIMEOUT)
        time.sleep(3)
        return names

    def _end(self, parent: Parent, names: list[str], gap: float, code: int = 0, *, paused: bool = False) -> Object:
        """End jobs and measure how late the waits return.

        With ``paused``, the parent is stopped until all jobs have ended, so that it learns of all ends at once.
        """
        before, start, cpu = parent.call("usage"), time.monotonic(), time.process_time()
        with parent.paused() if paused else nullcontext():
            self._driver.end(names, gap, code)
        resume = time.monotonic() if paused else start
        visible_at = {name: max(resume, self._driver.exit_times[name]) for name in names}
        last_end, driver_cpu = max(visible_at.values()), time.process_time() - cpu
        deadline = time.monotonic() + STEP_TIMEOUT
        while not (ends := parent.call("list_ends"))["at"].keys() >= set(names):
            if time.monotonic() > deadline:
                sys.exit(f"{self._namespace}: not all waits have returned")
            time.sleep(0.2)
        after = parent.call("usage")
        self._driver.finish_tasks()
        codes = Counter(ends["codes"][name] for name in names)
        exit_times, watch_times = self._driver.exit_times, self._driver.watch_times
        watch_lags = [watch_times[name] - exit_times[name] for name in names if name in watch_times]
        lags = [ends["at"][name] - visible_at[name] for name in names]
        beyond_watch = [ends["at"][name] - watch_times[name] for name in names if name in watch_times]
        return {
            "jobs": len(names),
            "return codes": {str(each): times for each, times in codes.items()},
            "lag": _spread(lags),
            "lag of a bare watch": _spread(watch_lags) if watch_lags else None,
            "lag beyond a bare watch": _spread(beyond_watch) if beyond_watch and not paused else None,
            "seconds in which they ended": last_end - start,
            "seconds from the first end to the last wait": max(ends["at"].values()) - min(visible_at.values()),
            "seconds from the last end to the last wait": max(ends["at"][name] for name in names) - last_end,
            "cpu a job": (after["cpu"] - before["cpu"]) / len(names),
            "driver's cpu": driver_cpu / (last_end - start),
        }

    def _wait_until_cleared(self, parent: Parent, jobs: int) -> None:
        """Wait until flargo follows only so many jobs: the requests that clear the others must be counted."""
        deadline = time.monotonic() + 60
        while self._launcher == "flargo" and parent.call("count_jobs")["jobs"] > jobs and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)

    def _count(self, key: str, mark: int) -> None:
        counts = audit.count_by_user(self._launcher, self._server.audit_log, mark)
        self.result[key] = {f"{verb} {resource}": times for (verb, resource), times in sorted(counts.items())}


def _rate(counts: Counter[tuple[str, str]], seconds: float, is_counted: Callable[[str, str], bool]) -> float:
    """Return how many requests a second have a verb and a resource that are counted."""
    return sum(times for (verb, what), times in counts.items() if is_counted(verb, what)) / seconds


def _spread(values: list[float]) -> Object:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


def main() -> None:
    """Measure the launchers at the sizes of the command line, and write the figures after each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=SIZES["flargo"], type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--launchers", default="flargo,stock", type=lambda text: text.split(","))
    parser.add_argument(
        "--rejoins", default=0, type=int, help="flargo's jobs may be started again so many times after a loss"
    )
    parser.add_argument("--to", default=figures.RESULT, type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # an exit, so that the daemons are stopped too
    results: Object = {"machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "runs": {}}
    with (
        tempfile.TemporaryDirectory(prefix="bench-api-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        apiserver.running(Path(folder), ("flargo", "stock")) as server,
    ):
        for jobs in options.sizes:
            for launcher in options.launchers:
                if jobs not in SIZES[launcher]:
                    continue
                start, run = time.monotonic(), Run(server, launcher, jobs, options.rejoins)
                results["runs"].setdefault(launcher, {})[str(jobs)] = run.result
                try:
                    run.measure()
                finally:  # write the figures even if the run fails
                    options.to.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{launcher} {jobs}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if options.to == figures.RESULT:
        figures.draw(figures.load(), figures.PICTURE)


if __name__ == "__main__":
    main()
