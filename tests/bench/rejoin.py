"""Measure how soon a drained site trains again, and who takes the time: the kubelet, flargo, Argo or FLARE.

``flargo demo --drain`` runs a real federation on the test cluster several times, one run after the other. Each evicts
the pod of site-1 while it trains. The times are those of the API server's audit log, of a watch of the pods, and of the
program's log as the kubelet has it, all by the machine's one clock. Run it inside the test cluster: ``make rejoin``.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import pod_watch
from tests.bench.pod_watch import PodWatch
from tests.harness.cluster import Cluster
from tests.harness.demo_command import DemoCommand
from tests.harness.real_cluster import audit
from tests.harness.real_cluster.target import Target, find

ROUNDS = 5
DEMO_SECONDS = 300.0
"""The time that one run may take."""
RESULT = Path(__file__).parent / "rejoin.json"
STEPS = {
    "ended": "the kubelet: SIGTERM, and the end of the drained program",
    "submitted": "flargo: the loss, a fresh read that nothing runs, the question to the server, the next Workflow",
    "pod": "Argo: the next pod is there",
    "running": "Argo and the kubelet: the executor is copied, the volumes are mounted, the program's container runs",
    "synced": "FLARE: the program is loaded, connected, and has found the server's process",
    "trains": "FLARE: the first step of the task",
}
"""What happens after the eviction, in this order, and who does it."""
TOTAL = "trains again, from the eviction"

Figures = dict[str, list[float]]


def main() -> None:
    """Measure all rounds, write the figures to RESULT and print the table."""
    target = find()
    if target is None or target.audit_log is None:
        sys.exit("needs the test cluster's audit log: python -m tests.harness.real_cluster up, then exec")
    cluster = Cluster(target)
    with PodWatch(cluster) as watch:
        rounds = [_measure(target, target.audit_log, cluster, watch) for _ in range(ROUNDS)]
    figures = {step: [round(each[step], 3) for each in rounds] for step in (*STEPS, TOTAL)}
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))


def table(figures: Figures) -> str:
    """Render the median, lowest and highest seconds of each step as a Markdown table."""
    rows = ["| who, and what is done | median, s | lowest | highest |", "|---|---:|---:|---:|"]
    rows += [_row(text, figures[step]) for step, text in STEPS.items()]
    rows.append(_row(f"**{TOTAL}**", figures[TOTAL]))
    return "\n".join(rows)


def _row(text: str, seconds: list[float]) -> str:
    return f"| {text} | {median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |"


def steps(times: dict[str, float]) -> dict[str, float]:
    """Return the seconds that each step took, and all of them, from the times of their ends and of the eviction."""
    ends = [times["evicted"], *(times[step] for step in STEPS)]
    taken = {step: end - start for step, start, end in zip(STEPS, ends, ends[1:], strict=False)}
    return {**taken, TOTAL: times["trains"] - times["evicted"]}


def _measure(target: Target, audit_log: Path, cluster: Cluster, watch: PodWatch) -> dict[str, float]:
    """Run the demo once, and return the seconds of each step."""
    since = audit.mark(audit_log)
    words = {"--kubeconfig": str(target.kubeconfig), "--namespace": target.namespace, "--rounds": "3"}
    words |= {"--image": target.job_image, "--address": target.address}
    demo = DemoCommand("--drain", *(word for option in words.items() for word in option))
    try:
        if demo.wait(DEMO_SECONDS) != 0:
            sys.exit(demo.output)
    finally:
        demo.close()
    requests = [event for offset, event in audit.events(audit_log) if offset >= since]
    evicted, name = _first(requests, "create", "pods", "eviction", lambda name: "site-1" in name)
    again = f"{name}-r1"
    log = cluster.kubectl("logs", again, "--container=main", "--timestamps")
    wall = time.time() - time.monotonic()  # the watch uses the monotonic clock
    return steps(
        {
            "evicted": evicted,
            "ended": _known(watch.first_time_of(name, pod_watch.has_exited)) + wall,
            "submitted": _first(requests, "create", "workflows", "", again.__eq__)[0],
            "pod": _first(requests, "create", "pods", "", again.__eq__)[0],
            "running": _known(watch.first_time_of(again, pod_watch.is_running)) + wall,
            "synced": _first_line(log, "synced to"),
            "trains": _first_line(log, "training: round"),
        }
    )


def _first(
    events: list[dict[str, Any]], verb: str, resource: str, subresource: str, is_named: Callable[[str], bool]
) -> tuple[float, str]:
    """Return when the first of these requests was received, and the name of its object."""

    def matches() -> Iterator[tuple[float, str]]:
        for event in events:
            reference = event.get("objectRef") or {}
            facts = (event["verb"], reference.get("resource"), reference.get("subresource", ""))
            if facts == (verb, resource, subresource) and is_named(reference.get("name", "")):
                yield datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(), reference["name"]

    return min(matches())


def _first_line(log: str, text: str) -> float:
    """Return the time of the first line of a log, with ``kubectl``'s timestamps, that has a text."""
    line = next(line for line in log.splitlines() if text in line)
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", line.partition(" ")[0])).timestamp()


def _known(at: float | None) -> float:
    assert at is not None, "the watch has not shown it"
    return at


if __name__ == "__main__":
    main()
