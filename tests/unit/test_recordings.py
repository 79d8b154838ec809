"""Replays of what launchers observed on real clusters: in order, and in other orders that watches may deliver.

A recording (tests/harness/recorder.py) is cut into parts where somebody outside, or flargo itself, did something.
Within a part the two watches have no order between them, events may arrive twice, and may be lost if a list follows.
A fresh read returns the state at the part's end, so it may be ahead of the watches, and often is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.control.command import Command
from flargo.control.inputs import (
    Admitted,
    Changed,
    CommandDone,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    TimePassed,
)
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.status.job_state import ActionKind, StopRequested, Submitted
from flargo.status.verdict import Cause, Verdict
from flargo.terms import StartTimeouts
from tests.harness.paths import RECORDED_SCENARIOS

Object = dict[str, Any]
Arrangement = Callable[[list[Object]], list[Object]]

NAME = "job-site"
FLARGO_ACTIONS = frozenset({ActionKind.SHUTDOWN.name, ActionKind.DELETE_POD.name, ActionKind.DELETE_WORKFLOW.name})
"""Actions of flargo that change a job: later observations may be their consequence."""
STREAM = frozenset({"changed", "deleted", "listed"})
MAX_WAIT_SECONDS = 4000
"""Seconds, more than any timeout in the recordings."""


def in_order(events: list[Object]) -> list[Object]:
    return events


def doubled(events: list[Object]) -> list[Object]:
    return [event for event in events for _ in range(2)]


def repeated_at_the_end(events: list[Object]) -> list[Object]:
    """Resume the watch at an old version: all events come again, deletions included."""
    return events + [event for event in events if event["what"] != "listed"]


def pods_first(events: list[Object]) -> list[Object]:
    return sorted(events, key=lambda event: event["kind"] != Kind.POD.name)


def workflows_first(events: list[Object]) -> list[Object]:
    return sorted(events, key=lambda event: event["kind"] == Kind.POD.name)


def half_lost(events: list[Object]) -> list[Object]:
    return events[::2] + lists_of_kinds(events)


def all_lost(events: list[Object]) -> list[Object]:
    return lists_of_kinds(events)


def lists_of_kinds(events: list[Object]) -> list[Object]:
    """Return the lists with which the watches restart; their items are filled in at delivery."""
    return [{"what": "list", "kind": kind} for kind in dict.fromkeys(event["kind"] for event in events)]


@dataclass
class Cluster:
    """The objects on the cluster, according to the recording so far."""

    objects: dict[str, dict[str, Object]] = field(default_factory=lambda: {"WORKFLOW": {}, "POD": {}})

    events: list[Object] = field(default_factory=list)
    """The Events about the pod."""

    def take(self, event: Object) -> None:
        """Apply a recorded event."""
        if event["what"] == "events":
            self.events = event["events"]
            return
        kind = self.objects[event["kind"]]
        if event["what"] == "listed":
            kind.clear()
        for item in event["objects"]:
            uid = item["metadata"]["uid"]
            if event["what"] == "deleted":
                kind.pop(uid, None)
            elif _version(item) >= _version(kind.get(uid)):
                kind[uid] = item

    def items(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        return list(self.objects[kind].values())


def _version(item: Object | None) -> int:
    return int(item["metadata"]["resourceVersion"]) if item is not None else 0


@dataclass
class Replay:
    """A Reconciler that gets a recording's inputs."""

    reconciler: Reconciler = field(default_factory=lambda: Reconciler(lambda _: False, 0.0))
    cluster: Cluster = field(default_factory=Cluster)
    now: float = 0.0
    verdict: Verdict | None = None
    acted: bool = False
    has_shown_the_pod: bool = False
    """A pod has been observed before the verdict."""
    attempt: str = ""
    """The id of the latest recorded launch."""

    def perform_all(self, result: Result | None) -> None:
        """Perform the commands of a result, and those of their results, until there are none."""
        while result is not None and (result.commands or result.states):
            for state in result.states:
                self.verdict = self.verdict or state.verdict
            results = [self.perform(command) for command in result.commands]
            result = Result(
                tuple(command for answer in results for command in answer.commands),
                tuple(state for answer in results for state in answer.states),
            )

    def perform(self, command: Command) -> Result:
        """Let a command succeed; a fresh read returns the cluster's objects."""
        self.acted = self.acted or command.action.kind.name in FLARGO_ACTIONS
        if command.action.kind is ActionKind.LIST_EVENTS:
            return self.reconciler.handle(PodEventsRead(command, tuple(self.cluster.events)), self.now)
        if command.action.kind is not ActionKind.CONFIRM:
            return self.reconciler.handle(CommandDone(command, ok=True), self.now)
        workflows, pods = self.cluster.items("WORKFLOW"), self.cluster.items("POD")
        self.note_pods(pods)
        return self.reconciler.handle(ObjectsRead(command, workflows[-1] if workflows else None, tuple(pods)), self.now)

    def deliver(self, event: Object) -> None:
        """Deliver an event of a watch."""
        kind = Kind[event["kind"]]
        if event["what"] in {"list", "listed"}:
            items = event["objects"] if event["what"] == "listed" else self.cluster.items(event["kind"])
            self.note_pods(items if kind is Kind.POD else ())
            self.perform_all(self.reconciler.handle(Listed(kind, tuple(items)), self.now))
            return
        self.note_pods(event["objects"] if kind is Kind.POD else ())
        for item in event["objects"]:
            self.perform_all(self.reconciler.handle(Changed(kind, item, deleted=event["what"] == "deleted"), self.now))

    def note_pods(self, pods: Sequence[Object]) -> None:
        """Note that these pods are going to be observed."""
        self.has_shown_the_pod |= bool(pods) and self.verdict is None

    def wait_until(self, until: Callable[[], bool]) -> None:
        """Let time pass until a condition holds, up to a limit."""
        end = self.now + MAX_WAIT_SECONDS
        while not until():
            requeue_at = self.reconciler.next_requeue_at()
            assert requeue_at is not None, "nothing is due"
            assert requeue_at < end, "the condition never holds"
            self.now = max(requeue_at, self.now + 0.05)
            self.perform_all(self.reconciler.handle(TimePassed(), self.now))


def parts(lines: Iterable[Object]) -> Iterator[tuple[list[Object], Object | None]]:
    """Yield the events before each deed, with the deed; the last part has none."""
    events: list[Object] = []
    has_acted = False
    for line in lines:
        if line["what"] in {*STREAM, "events", "read"}:
            events.append(line)
        elif line["what"] != "command" or (line["action"] in FLARGO_ACTIONS and not has_acted):
            has_acted = has_acted or line["what"] == "command"
            yield events, line
            events = []
    yield events, None


def play(lines: list[Object], arrangement: Arrangement) -> Replay:
    """Replay a recording with its events arranged in another order."""
    replay = Replay()
    for kind in (Kind.WORKFLOW, Kind.POD):
        replay.reconciler.handle(Listed(kind, ()), 0.0)
    for events, deed in parts(lines):
        for event in events:
            replay.cluster.take(event)
        for event in arrangement([event for event in events if event["what"] in STREAM]):
            replay.deliver(event)
        if deed is not None:
            repeat_deed(replay, deed)
    replay.wait_until(lambda: replay.verdict is not None)
    return replay


def repeat_deed(replay: Replay, deed: Object) -> None:
    """Repeat a recorded deed; one of flargo itself may take its time."""
    reconciler = replay.reconciler
    match deed["what"]:
        case "admit":
            replay.attempt = deed["attempt"]
            reconciler.handle(Admitted(NAME, deed["attempt"], StartTimeouts(**deed["timeouts"]), 3), replay.now)
        case "submitted":
            replay.perform_all(reconciler.handle(JobInput(NAME, replay.attempt, Submitted(deed["error"])), replay.now))
        case "stop":
            replay.perform_all(
                reconciler.handle(JobInput(NAME, replay.attempt, StopRequested(Cause[deed["cause"]])), replay.now)
            )
        case "command":
            replay.wait_until(lambda: replay.acted or replay.verdict is not None)


ALTERNATIVES = {
    "node-lost-and-back": ("POD_DELETED", 104),
    "handler-after-an-eviction": ("POD_DELETED", 104),
    "handler-while-the-next-attempt-runs": ("POD_DELETED", 104),
    "drained-without-the-sites-permission": ("POD_DELETED", 104),
    "node-without-power-is-back-in-time": ("NODE_LOST", 104),
    "deleted-right-after-its-exit-pod": ("POD_DELETED", 104),
    "deleted-right-after-its-exit-workflow": ("WORKFLOW_DELETED", 104),
}
"""The verdict that is right, too, if the pod is deleted before its last status is observed."""
MAY_HIDE_AN_EXIT = frozenset({workflows_first, half_lost, all_lost})
"""Arrangements in which a fresh read may come before the pod's exit, after which nothing of the pod is left."""


IMPOSED = frozenset({"DISRUPTED", "POD_DELETED"})
"""Verdicts on programs that somebody else has ended through their pod."""


def has_recorded_a_signal(lines: list[Object]) -> bool:
    """Return whether Argo has recorded that a signal ended the program, and nothing of who sent it."""
    text = json.dumps([line for line in lines if line.get("kind") == Kind.WORKFLOW.name])
    return any(f"main: Error (exit code {code})" in text for code in (137, 143))


@pytest.mark.parametrize(
    "arrangement",
    [in_order, doubled, repeated_at_the_end, pods_first, workflows_first, half_lost, all_lost],
    ids=lambda arrangement: arrangement.__name__.replace("_", " "),
)
@pytest.mark.parametrize("recording", RECORDED_SCENARIOS, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_recording(recording: Path, arrangement: Arrangement) -> None:
    *lines, end = map(json.loads, recording.read_text().splitlines())
    replay = play(lines, arrangement)
    verdict = replay.verdict
    assert verdict is not None
    expected = {(end["verdict"], end["code"])}
    if arrangement in MAY_HIDE_AN_EXIT and recording.stem in ALTERNATIVES:
        expected.add(ALTERNATIVES[recording.stem])
    # A fresh read may come before any observation of the pod, after which the pod is gone.
    if not replay.has_shown_the_pod and end["verdict"] in IMPOSED and has_recorded_a_signal(lines):
        expected.add(("PROGRAM_FAILED", 1))
    assert (verdict.reason.name, verdict.code) in expected


def test_recordings_exist() -> None:
    assert RECORDED_SCENARIOS
