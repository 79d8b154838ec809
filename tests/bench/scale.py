"""What many jobs cost: flargo beside FLARE's own Kubernetes launcher, at 1 to 5,000 jobs, in one run.

Both are measured on the same kube-apiserver and etcd, each in a process of its own (parent.py), one after the other.
A driver plays the rest of the cluster (driver.py); what it costs is in the result. Requests are counted from the
API server's audit log. ``make scale``; a part of it: ``python -m tests.bench.scale --sizes 1,10``.
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
from collections.abc import Iterator
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
"""Launches at a time once the measured ones are over: the stock launcher's take a second each."""
TIMED = 64
"""Launches that are timed, eight at a time."""
IDLE = 15.0
"""Seconds for which nothing happens, measured."""
ONE_BY_ONE, GAP = 500, 0.01
"""So many jobs, half of them at the most, end one after the other; seconds between."""
AT_ONCE = 1000
FAILING = 100
PATIENCE = 600.0


class Parent:
    """The measured process, from outside."""

    def __init__(self, launcher: str, kubeconfig: Path, namespace: str) -> None:
        """Start it."""
        command = [sys.executable, "-m", "tests.bench.parent", launcher, str(kubeconfig), namespace]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It dies like a parent that is killed: nothing is ended."""
        self._process.kill()
        self._process.wait()

    def ask(self, do: str, **arguments: Any) -> Object:
        """One line to it, one from it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: Object = json.loads(self._process.stdout.readline())
        return answer

    @contextmanager
    def held(self) -> Iterator[None]:
        """It stands still meanwhile: what happens then, it meets all at once."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class Run:
    """One launcher at one size."""

    def __init__(self, server: ApiServer, launcher: str, jobs: int) -> None:
        """In a namespace of its own."""
        self._server = server
        self._launcher = launcher
        self._jobs = jobs
        self._namespace = f"bench-{launcher}-{jobs}"
        self._driver = Driver(server, self._namespace, argo=launcher == "flargo")
        self._kubeconfig = server.kubeconfig(launcher)
        self._mark = 0
        self.result: Object = {"load before": os.getloadavg()[0]}

    def measure(self) -> None:
        """All figures, into ``result``."""
        with self._parent() as parent:
            names = self._start(parent)
            parent.ask("wait", names=names)
            self._idle(parent)
            if self._launcher == "flargo":
                self.result["relist"] = parent.ask("relist")
                self.result["memory"]["after a relist"] = parent.ask("usage")["rss"]
            slow = names[: max(1, min(self._jobs // 2, ONE_BY_ONE))]
            self.result["one by one"] = self._end(parent, slow, GAP)
            self._cleared(parent, len(names) - len(slow))
            self._count("requests in all", self._mark)
            more = self._launch(parent, len(slow))
            left = [*names[len(slow) :], *more]
            fast, rest = left[:AT_ONCE], left[AT_ONCE:]
            self.result["at once"] = self._end(parent, fast, 0.0)
            failing = self._launch(parent, min(self._jobs, FAILING))
            self.result["failures at once"] = self._end(parent, failing, 0.0, code=1)
            wanted = min(self._jobs, AT_ONCE)
            again = self._launch(parent, max(0, wanted - len(rest)))
            self.result["burst"] = self._end(parent, [*rest, *again][:wanted], 0.0, held=True)
            time.sleep(5)
        if self._launcher == "flargo":
            self._track(len(names) + len(more) + len(failing) + len(again))

    def _parent(self) -> Parent:
        return Parent(self._launcher, self._kubeconfig, self._namespace)

    def _start(self, parent: Parent) -> list[str]:
        first = parent.ask("launch", jobs=1, parallel=1)  # connects, and loads what is loaded late
        self._driver.runs(first["names"], PATIENCE)
        time.sleep(2)
        empty, self._mark = parent.ask("usage"), audit.mark(self._server.audit_log)
        begun, server = time.monotonic(), self._server.cpu
        timed = parent.ask("launch", jobs=min(self._jobs, TIMED) - 1, parallel=8)
        rest = parent.ask("launch", jobs=max(0, self._jobs - TIMED), parallel=PARALLEL[self._launcher])
        launched: list[str] = first["names"] + timed["names"] + rest["names"]
        self._driver.runs(launched, PATIENCE)
        self.result["start"] = {
            "seconds until all run": time.monotonic() - begun,
            "API server's cpu a job": (self._server.cpu - server) / (self._jobs - 1) if self._jobs > 1 else None,
            "first launch_job": first["seconds"][0],
            "launch_job": _spread(timed["seconds"]) if timed["seconds"] else None,
        }
        self._count("requests until running", self._mark)
        time.sleep(2)
        full = parent.ask("usage")
        self.result["import cpu"] = full["import_cpu"]
        self.result["memory"] = {
            "one job": empty["rss"],
            "all jobs": full["rss"],
            "a job": (full["rss"] - empty["rss"]) / (self._jobs - 1) if self._jobs > 1 else None,
        }
        if self._jobs > 1:
            self.result["start"]["cpu a job"] = (full["cpu"] - empty["cpu"]) / (self._jobs - 1)
        return launched

    def _idle(self, parent: Parent) -> None:
        time.sleep(8 if self._launcher == "flargo" else 3)  # Argo's forgetfulness is looked for after four seconds
        before, mark, server = parent.ask("usage"), audit.mark(self._server.audit_log), self._server.cpu
        time.sleep(IDLE)
        after = parent.ask("usage")
        seconds = after["at"] - before["at"]
        counted = audit.by(self._launcher, self._server.audit_log, mark)
        self.result["idle"] = {
            "seconds": seconds,
            "requests a second": sum(times for (verb, _), times in counted.items() if verb != "watch") / seconds,
            "watches a second": sum(times for (verb, _), times in counted.items() if verb == "watch") / seconds,
            "cpu": (after["cpu"] - before["cpu"]) / seconds,
            "API server's cpu": (self._server.cpu - server) / seconds,
            "threads": after["threads"],
            "memory with FLARE's waiting threads": after["rss"],
        }

    def _launch(self, parent: Parent, jobs: int) -> list[str]:
        names: list[str] = parent.ask("launch", jobs=jobs, parallel=PARALLEL[self._launcher])["names"]
        parent.ask("wait", names=names)
        self._driver.runs(names, PATIENCE)
        time.sleep(3)
        return names

    def _end(self, parent: Parent, names: list[str], gap: float, code: int = 0, *, held: bool = False) -> Object:
        """Have jobs end; ``held``: for a parent that stands still until all have, so that they end at once for it."""
        before, begun, own = parent.ask("usage"), time.monotonic(), time.process_time()
        with parent.held() if held else nullcontext():
            self._driver.end(names, gap, code)
        free = time.monotonic() if held else begun
        known = {name: max(free, self._driver.shown[name]) for name in names}
        shown, spent = max(known.values()), time.process_time() - own
        limit = time.monotonic() + PATIENCE
        while not (ended := parent.ask("ended"))["at"].keys() >= set(names):
            if time.monotonic() > limit:
                sys.exit(f"{self._namespace}: not all waits have returned")
            time.sleep(0.2)
        after = parent.ask("usage")
        self._driver.rest()
        codes = Counter(ended["codes"][name] for name in names)
        heard = [self._driver.heard[name] - self._driver.shown[name] for name in names if name in self._driver.heard]
        lags = [ended["at"][name] - known[name] for name in names]
        beyond = [ended["at"][name] - self._driver.heard[name] for name in names if name in self._driver.heard]
        return {
            "jobs": len(names),
            "return codes": {str(each): times for each, times in codes.items()},
            "lag": _spread(lags),
            "lag of a bare watch": _spread(heard) if heard else None,
            "lag beyond a bare watch": _spread(beyond) if beyond and not held else None,
            "seconds in which they ended": shown - begun,
            "seconds from the first end to the last wait": max(ended["at"].values()) - min(known.values()),
            "seconds from the last end to the last wait": max(ended["at"][name] for name in names) - shown,
            "cpu a job": (after["cpu"] - before["cpu"]) / len(names),
            "driver's cpu": spent / (shown - begun),
        }

    def _cleared(self, parent: Parent, left: int) -> None:
        limit = time.monotonic() + 60
        while self._launcher == "flargo" and parent.ask("followed")["jobs"] > left and time.monotonic() < limit:
            time.sleep(0.2)
        time.sleep(1)

    def _count(self, what: str, mark: int) -> None:
        counted = audit.by(self._launcher, self._server.audit_log, mark)
        self.result[what] = {f"{verb} {resource}": times for (verb, resource), times in sorted(counted.items())}

    def _track(self, existing: int) -> None:
        with self._parent() as parent:
            self.result["track existing"] = {"jobs": existing, **parent.ask("track", jobs=existing)}


def _spread(values: list[float]) -> Object:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }


def main() -> None:
    """Measure, keep the figures."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--sizes", default=SIZES["flargo"], type=lambda text: [int(each) for each in text.split(",")])
    asked.add_argument("--launchers", default="flargo,stock", type=lambda text: text.split(","))
    asked.add_argument("--to", default=figures.RESULT, type=Path)
    options = asked.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with its daemons
    measured: Object = {"machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "runs": {}}
    with (
        tempfile.TemporaryDirectory(prefix="bench-api-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        apiserver.running(Path(folder), ("flargo", "stock")) as server,
    ):
        for jobs in options.sizes:
            for launcher in options.launchers:
                if jobs not in SIZES[launcher]:
                    continue
                begun, run = time.monotonic(), Run(server, launcher, jobs)
                measured["runs"].setdefault(launcher, {})[str(jobs)] = run.result
                try:
                    run.measure()
                finally:  # what was measured is kept
                    options.to.write_text(json.dumps(measured, indent=1) + "\n")
                print(f"{launcher} {jobs}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    if options.to == figures.RESULT:
        figures.draw(figures.load(), figures.PICTURE)


if __name__ == "__main__":
    main()
