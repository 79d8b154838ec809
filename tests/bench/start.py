"""How soon a job's program begins on real Argo, and how soon FLARE hears of its end.

By flargo, by kubectl with the same Workflow, and by the stock launcher; one after the other, again and again, on a
cluster that does nothing else. The program says when it begins, by the machine's one clock. Run inside the test
cluster: ``make start``.
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
from tests.bench.pod_watch import Seen
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
    """Seconds from the order; none: there is no such step."""

    pod: float
    executor: float | None
    program: float
    heard: float | None = None
    """From another moment: see STEPS."""


def main() -> None:
    """Measure, keep the figures in RESULT, print the table."""
    target = find()
    if target is None or target.own:
        sys.exit("needs the test cluster: python -m tests.harness.real_cluster up, then exec")
    cluster = Cluster(target)
    with (
        stock.account(cluster) as token,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Seen(cluster) as sights,
    ):
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(stock.kubeconfig_for(cluster, token)))
        theirs = Cluster(replace(target, launcher_kubeconfig=kubeconfig))
        with Site(cluster) as flargo, stock.StockSite(theirs) as bare:
            measure = _Measure(cluster, sights, flargo, bare)
            measure.round()  # connections, the kit's Secret, pages of the disk
            rounds = [measure.round() for _ in range(ROUNDS)]
    starts = {way: [each[way] for each in rounds] for way in WAYS}
    RESULT.write_text(json.dumps(_figures(starts), indent=2) + "\n")
    print(table(_figures(starts)))


def _figures(starts: dict[str, list[Start]]) -> Figures:
    return {
        way: {step: [round(at, 3) for each in its if (at := getattr(each, step)) is not None] for step in STEPS}
        for way, its in starts.items()
    }


def table(figures: Figures) -> str:
    """Medians, lowest and highest, as a Markdown table."""
    rows = ["| seconds from the order until | " + " | ".join(WAYS.values()) + " |", "|---" + "|---:" * len(WAYS) + "|"]
    for step, what in STEPS.items():
        rows.append(f"| {what} | " + " | ".join(_words(figures[way][step]) for way in WAYS) + " |")
    return "\n".join(rows)


def _words(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})" if seconds else "-"


class _Measure:
    """The three ways."""

    def __init__(self, cluster: Cluster, sights: Seen, flargo: Site, bare: Site) -> None:
        self._world, self._sights, self._flargo, self._bare = cluster, sights, flargo, bare

    def round(self) -> dict[str, Start]:
        """Each way once; the same program, which is ended before the next one begins."""
        begun = time.time()
        job = self._flargo.launch(CODE)
        start = self._start(begun, job.name)
        found = {"kubectl": self._by_kubectl(job), "flargo": replace(start, heard=self._heard(job))}
        begun = time.time()
        job = self._bare.launch(CODE, None, study=stock.PLAIN)
        start = self._start(begun, job.name)
        return {**found, "stock": replace(start, heard=self._heard(job))}

    def _by_kubectl(self, job: Job) -> Start:
        """A second one. The first one's Secret is there as long as that sleeps."""
        name = f"again-{job.name}"[:63]
        twin = {**_again(job.workflow), "metadata": {"name": name}}
        begun = time.time()
        self._world.create(twin)
        try:
            return self._start(begun, name)
        finally:
            self._world.kubectl("delete", "workflows.argoproj.io", name, "--wait=false")
            self._gone(name)

    def _heard(self, job: Job) -> float:
        """Have the program end with 0, and FLARE wait for it."""
        (pod,) = self._sights.pods(job.name)
        write = ("sh", "-c", "echo 0 0 > /tmp/end.new && mv /tmp/end.new /tmp/end")
        self._world.kubectl("exec", pod["metadata"]["name"], f"--container={pod_watch.program(pod)}", "--", *write)
        job.handle.wait()
        heard = time.monotonic()
        eventually(
            lambda: self._sights.first(job.name, pod_watch.ended) is not None,
            START_SECONDS,
            f"{job.name} is seen to end",
        )
        ended = self._sights.first(job.name, pod_watch.ended)
        assert ended is not None
        self._gone(job.name)
        return heard - ended

    def _start(self, begun: float, name: str) -> Start:
        eventually(lambda: self._said(name), START_SECONDS, f"{name} begins")
        # The watch's clock is another one.
        apart = time.time() - time.monotonic() - begun
        pod, copied = (self._sights.first(name, true) for true in (_is_there, _has_executor))
        assert pod is not None
        executor = copied + apart if copied is not None else None
        return Start(pod + apart, executor, float(self._said(name)) - begun)

    def _said(self, name: str) -> str:
        for pod in self._sights.pods(name):
            words = ("logs", pod["metadata"]["name"], f"--container={pod_watch.program(pod)}")
            with contextlib.suppress(AssertionError):  # not begun yet
                found = re.search(r"begins ([\d.]+)", self._world.kubectl(*words))
                if found:
                    return found[1]
        return ""

    def _gone(self, name: str) -> None:
        eventually(lambda: not any(map(pod_watch.may_run, self._sights.pods(name))), START_SECONDS, f"{name} has ended")


def _again(workflow: Object) -> dict[str, Any]:
    """The same, of nobody: no label by which a launcher takes it for its own."""
    spec = {key: value for key, value in workflow["spec"].items() if key not in {"suspend", "podMetadata"}}
    return {"apiVersion": workflow["apiVersion"], "kind": workflow["kind"], "spec": spec}


def _is_there(pod: Object) -> bool:
    return bool(pod["metadata"]["uid"])


def _has_executor(pod: Object) -> bool:
    rows = pod["status"].get("initContainerStatuses") or []
    return any(row["name"] == "init" and "terminated" in (row.get("state") or {}) for row in rows)


if __name__ == "__main__":
    main()
