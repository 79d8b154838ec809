"""Tests of `flargo demo --drain` without processes: when the pod is evicted, and what is shown of that."""

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flargo.cluster.errors import ApiError
from flargo.tools.demo import job_folder
from flargo.tools.demo.backend import ClusterNamespace
from flargo.tools.demo.drain import Drain
from flargo.tools.demo.drain_evidence import Event, Step, count_results, parse_steps, tell
from flargo.tools.demo.federation import Federation
from flargo.tools.demo.options import DemoError
from flargo.tools.demo.screen import Screen
from tests.harness.scripted_api import Response, ScriptedApi

Object = dict[str, Any]

STEP = "2026-01-01 - TaskScriptRunner - INFO - training: round {}, step {} of 12\n"
LOST = "2026-01-01 - report - WARNING - job J at site-1: attempt 1 of 2 lost (DISRUPTED), another one may follow: x\n"
SUBMITTED = "2026-01-01 - client_jobs - INFO - site-1: job J submitted as Workflow w-r1, attempt 2 of 2\n"
NO_RIGHT = (
    'pods "p" is forbidden: User "u" cannot create resource "pods/eviction" in API group "" in the namespace "ns"'
)
RESULT = "got result from client {} for task: name=train, id={}\n"


class Cluster(ClusterNamespace):
    """A cluster whose pods have logs that tests write."""

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}
        self.evicted: list[str] = []

    def list_objects(self, selector: str) -> tuple[list[Object], list[Object]]:
        assert selector == "flargo.dev/job-id=J,flargo.dev/site=site-1"
        return [], [{"metadata": {"name": name, "uid": f"uid-{name}"}} for name in self.logs]

    def read_log(self, pod: Object) -> str:
        return self.logs[pod["metadata"]["name"]]

    def evict(self, pod: Object) -> None:
        self.evicted.append(pod["metadata"]["name"])


class Run:
    """A drain on such a cluster."""

    def __init__(self, folder: Path, rounds: int = 3) -> None:
        self.cluster, self.output = Cluster(), io.StringIO()
        federation = Federation(folder, ("site-1", "site-2"), "127.0.0.1", (1, 2, 3, 4))
        self.parent_log = federation.log_path("site-1")
        self.parent_log.parent.mkdir()
        self.parent_log.touch()
        screen = Screen(Console(file=self.output, width=200))
        self.drain = Drain(screen, self.cluster, federation, "J", rounds)

    def update(self, **logs: str) -> list[str]:
        self.cluster.logs |= logs
        self.drain.update()
        return self.cluster.evicted


@pytest.mark.parametrize(
    ("rounds", "log", "is_evicted"),
    [
        (3, "", False),
        (3, STEP.format(1, 1), False),
        (3, STEP.format(2, 1), True),
        (3, STEP.format(2, 6), True),
        (3, STEP.format(2, 7), False),
        (3, STEP.format(2, 1) + STEP.format(2, 12), False),
        (3, STEP.format(3, 1), True),
        (2, STEP.format(1, 1), True),
        (1, STEP.format(1, 1), True),
    ],
)
def test_pod_is_evicted_early_in_a_round(tmp_path: Path, rounds: int, log: str, *, is_evicted: bool) -> None:
    """An eviction during the upload at a round's end would end the job; round 1 is left alone if there are more."""
    run = Run(tmp_path, rounds)
    assert run.update(pod=log) == ["pod"] * is_evicted


def test_pod_is_evicted_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for log in ("", STEP.format(2, 1), STEP.format(2, 2)):
        run.update(pod=log)
    assert run.update(other=STEP.format(2, 1)) == ["pod"]


def test_each_event_is_shown_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(pod=STEP.format(2, 3))
    for log in (LOST, LOST + SUBMITTED):
        run.parent_log.write_text(log)
        run.update()
        run.update()
    with pytest.raises(DemoError, match="was not seen to train again"):
        run.drain.check()
    run.update(next=STEP.format(2, 1))
    run.drain.check()
    lines = [line[10:].strip() for line in run.output.getvalue().splitlines()]
    assert lines == [
        "drain       site-1 trains round 2: its pod is evicted, as by `kubectl drain`",
        "pod",
        "lost        attempt 1 of 2 at site-1: DISRUPTED; flargo asks the server about the job",
        "attempt 2   the server still runs the job: flargo submits a new Workflow",
        "w-r1",
        "rejoined    site-1 trains round 2 again",
    ]


def test_job_without_drain_is_a_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(pod=STEP.format(3, 12))
    with pytest.raises(DemoError, match="give the job more rounds with --rounds"):
        run.drain.check()


def test_unanswered_requests_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)

    def fail(_: str) -> None:
        raise ApiError("list", "pods", 0)

    with monkeypatch.context() as patch:
        patch.setattr(run.cluster, "list_objects", fail)
        assert run.update(pod=STEP.format(2, 1)) == []
    assert run.update() == ["pod"]


def test_the_next_rounds_task_is_no_repetition() -> None:
    """The server may have got the result just before the pod ended."""
    *_, last = tell("site-1", Step(2, 12, 12), LOST + SUBMITTED, [Step(3, 1, 12)])
    assert last == Event("rejoined", "site-1 trains round 3")


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (403, NO_RIGHT, "may not evict pods in namespace ns (403): --drain needs the right to create pods/eviction"),
        (429, "it would violate the budget", "The pod p could not be evicted: create pods/eviction p: 429"),
    ],
)
def test_refused_eviction_is_explained(tmp_path: Path, status: int, answer: str, message: str) -> None:
    """flargo-launcher has no right to evict pods, and a PodDisruptionBudget may forbid it to anybody."""
    cluster = ClusterNamespace(tmp_path / "kubeconfig", "ns", embedded=False)
    body = {"kind": "Status", "reason": "Forbidden" if status == 403 else "TooManyRequests", "message": answer}
    cluster._api = ScriptedApi(Response(status, json.dumps(body).encode()))
    with pytest.raises(DemoError, match=re.escape(message)):
        cluster.evict({"metadata": {"name": "p", "uid": "u1"}})


@pytest.mark.parametrize("number", ["1" * 5000, "²", "9" * 12])
def test_impossible_steps_are_ignored(number: str) -> None:
    assert parse_steps(STEP.format(number, 1) + STEP.format(1, number) + STEP.format(2, 3)) == [Step(2, 3, 12)]


def test_a_result_counts_once_for_each_task() -> None:
    log = "".join(RESULT.format(*each) for each in (("site-1", "a"), ("site-2", "b"), ("site-1", "a"), ("site-1", "c")))
    assert count_results(log) == Counter({"site-1": 2, "site-2": 1})


@pytest.mark.parametrize("can_be_drained", [False, True])
def test_only_a_drained_job_asks_to_be_started_again(tmp_path: Path, *, can_be_drained: bool) -> None:
    job = job_folder.export_fedavg(tmp_path, 2, 2, "image:1", can_be_drained=can_be_drained)
    spec = json.loads((job / "meta.json").read_text())["launcher_spec"]["default"]["k8s"]
    config = (job / "app/config/config_fed_client.json").read_text()
    assert spec == {"image": "image:1", **({"argo": {"rejoin": 1}} if can_be_drained else {})}
    assert ("--seconds" in config) is can_be_drained
