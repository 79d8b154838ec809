"""Measure how soon a job's program starts on real Argo, and how soon FLARE learns of its end.

A job is started by flargo, by kubectl with the same Workflow, and by the stock launcher, one after the other and
several times, on a cluster that does nothing else. The program prints when it starts, by the machine's one clock. Run
it inside the test cluster: ``make start``.
"""

import contextlib
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import pod_watch, stock
from tests.bench.pod_watch import PodWatch
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.real_cluster.target import find
from tests.harness.site import EXITS_ON_REQUEST, START_SECONDS, Job, Site

ROUNDS = 10
CODE = f"import time; print('begins', time.time(), flush=True)\n{EXITS_ON_REQUEST}"
RESULT = Path(__file__).parent / "start.json"
WAYS = {
    "flargo": "flargo's `launch_job`",
    "kubectl": "the same Workflow by `kubectl create`",
    "stock": "the stock launcher's bare pod",
}
STEPS = {
    "pod": "the pod is there",
    "executor": "Argo's executor has been copied into it",
    "program": "the program's first line",
    "heard": "`wait` returns, from when the API shows that the program has ended",
}


Figures = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Start:
    """The steps of one start, in seconds from the launch; None for a step that the start does not have."""

    pod: float
    executor: float | None
    program: float
    heard: float | None = None
    """Seconds from the end of the program until ``wait`` returns."""


def main() -> None:
    """Measure all rounds, write the figures to RESULT and print the table."""
    target = find()
    if target is None or target.is_external:
        sys.exit("needs the test cluster: python -m tests.harness.real_cluster up, then exec")
    cluster = Cluster(target)
    with (
        stock.account(cluster) as token,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        PodWatch(cluster) as watch,
    ):
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(stock.kubeconfig_for(cluster, token)))
        stock_cluster = Cluster(replace(target, launcher_kubeconfig=kubeconfig))
        with Site(cluster) as flargo, stock.StockSite(stock_cluster) as bare:
            measurement = _Measurement(cluster, watch, flargo, bare)
            # The first round is not counted: it opens connections, creates the kit's Secret and fills the page cache.
            measurement.run_round()
            rounds = [measurement.run_round() for _ in range(ROUNDS)]
    starts = {way: [each[way] for each in rounds] for way in WAYS}
    RESULT.write_text(json.dumps(_figures(starts), indent=2) + "\n")
    print(table(_figures(starts)))


def _figures(starts: dict[str, list[Start]]) -> Figures:
    return {
        way: {
            step: [round(seconds, 3) for start in way_starts if (seconds := getattr(start, step)) is not None]
            for step in STEPS
        }
        for way, way_starts in starts.items()
    }


def table(figures: Figures) -> str:
    """Render the median, lowest and highest seconds of each step as a Markdown table."""
    rows = ["| seconds from the order until | " + " | ".join(WAYS.values()) + " |", "|---" + "|---:" * len(WAYS) + "|"]
    for step, text in STEPS.items():
        rows.append(f"| {text} | " + " | ".join(_format(figures[way][step]) for way in WAYS) + " |")
    return "\n".join(rows)


def _format(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})" if seconds else "-"


class _Measurement:
    """Starts the program in each of the three ways, and measures the steps."""

    def __init__(self, cluster: Cluster, watch: PodWatch, flargo: Site, bare: Site) -> None:
        self._cluster, self._watch, self._flargo, self._bare = cluster, watch, flargo, bare

    def run_round(self) -> dict[str, Start]:
        """Start the same program once in each way, and end it before the next start."""
        launch_start = time.time()
        job = self._flargo.launch(CODE)
        start = self._measure_start(launch_start, job.name)
        starts = {
            "kubectl": self._start_by_kubectl(job),
            "flargo": replace(start, heard=self._measure_wait(job)),
        }
        launch_start = time.time()
        job = self._bare.launch(CODE, None, study=stock.PLAIN)
        start = self._measure_start(launch_start, job.name)
        return {**starts, "stock": replace(start, heard=self._measure_wait(job))}

    def _start_by_kubectl(self, job: Job) -> Start:
        """Create a second Workflow while the first one's program sleeps, so that its Secret still exists."""
        name = f"again-{job.name}"[:63]
        copy = {**_copy_without_labels(job.workflow), "metadata": {"name": name}}
        launch_start = time.time()
        self._cluster.create(copy)
        try:
            return self._measure_start(launch_start, name)
        finally:
            self._cluster.kubectl("delete", "workflows.argoproj.io", name, "--wait=false")
            self._wait_until_over(name)

    def _measure_wait(self, job: Job) -> float:
        """End the program with 0, and return the seconds from its end until ``wait`` returns."""
        (pod,) = self._watch.pods(job.name)
        write = ("sh", "-c", "echo 0 0 > /tmp/end.new && mv /tmp/end.new /tmp/end")
        container = f"--container={pod_watch.program_container(pod)}"
        self._cluster.kubectl("exec", pod["metadata"]["name"], container, "--", *write)
        job.handle.wait()
        wait_end = time.monotonic()
        eventually(
            lambda: self._watch.first_time(job.name, pod_watch.has_exited) is not None,
            START_SECONDS,
            f"the watch shows the exit of {job.name}",
        )
        exit_at = self._watch.first_time(job.name, pod_watch.has_exited)
        assert exit_at is not None
        self._wait_until_over(job.name)
        return wait_end - exit_at

    def _measure_start(self, launch_start: float, name: str) -> Start:
        eventually(lambda: self._start_time(name), START_SECONDS, f"{name} starts")
        # The watch uses the monotonic clock, the program the wall clock.
        offset = time.time() - time.monotonic() - launch_start
        pod, copied = (self._watch.first_time(name, condition) for condition in (_exists, _has_executor))
        assert pod is not None
        executor = copied + offset if copied is not None else None
        return Start(pod + offset, executor, float(self._start_time(name)) - launch_start)

    def _start_time(self, name: str) -> str:
        """Return the time that the program printed when it started; empty if it has not started."""
        for pod in self._watch.pods(name):
            arguments = ("logs", pod["metadata"]["name"], f"--container={pod_watch.program_container(pod)}")
            with contextlib.suppress(AssertionError):  # the container has not started yet
                match = re.search(r"begins ([\d.]+)", self._cluster.kubectl(*arguments))
                if match:
                    return match[1]
        return ""

    def _wait_until_over(self, name: str) -> None:
        eventually(lambda: not any(map(pod_watch.may_run, self._watch.pods(name))), START_SECONDS, f"{name} is over")


def _copy_without_labels(workflow: Object) -> dict[str, Any]:
    """Copy a Workflow without the labels by which a launcher takes it for its own."""
    spec = {key: value for key, value in workflow["spec"].items() if key not in {"suspend", "podMetadata"}}
    return {"apiVersion": workflow["apiVersion"], "kind": workflow["kind"], "spec": spec}


def _exists(pod: Object) -> bool:
    return bool(pod["metadata"]["uid"])


def _has_executor(pod: Object) -> bool:
    rows = pod["status"].get("initContainerStatuses") or []
    return any(row["name"] == "init" and "terminated" in (row.get("state") or {}) for row in rows)


if __name__ == "__main__":
    main()
