"""What launchers saw on real clusters, played again: in order, and as streams may tell it otherwise.

A recording (tests/harness/recorder.py) is cut where the outside or flargo itself did something; within such a part the
two streams have no order between them, events may come twice, and may be lost as long as a list follows. A
fresh read is answered by the state at the part's end: it may be ahead of the streams, and often is.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.control.reconciler import Command, Reconciler, Result
from flargo.status.job_state import ActionKind
from flargo.status.verdict import Cause, Verdict
from flargo.terms import StartTimeouts
from tests.harness.paths import RECORDED_SCENARIOS

Object = dict[str, Any]
Arrange = Callable[[list[Object]], list[Object]]

NAME = "job-site"
OURS = frozenset({ActionKind.SHUTDOWN.name, ActionKind.DELETE_POD.name, ActionKind.DELETE_WORKFLOW.name})
"""What flargo does to a job: what is seen after it may be its consequence."""
STREAM = frozenset({"changed", "deleted", "listed"})
LONG = 4000
"""Seconds: more than any patience in the recordings."""


def in_order(events: list[Object]) -> list[Object]:
    return events


def twice(events: list[Object]) -> list[Object]:
    return [event for event in events for _ in range(2)]


def told_again_at_the_end(events: list[Object]) -> list[Object]:
    """The stream is taken up at an old version: everything comes again. What is gone is told to be gone again."""
    return events + [event for event in events if event["what"] != "listed"]


def pods_first(events: list[Object]) -> list[Object]:
    return sorted(events, key=lambda event: event["kind"] != Kind.POD.name)


def workflows_first(events: list[Object]) -> list[Object]:
    return sorted(events, key=lambda event: event["kind"] == Kind.POD.name)


def every_second_lost(events: list[Object]) -> list[Object]:
    return events[::2] + lists(events)


def all_lost(events: list[Object]) -> list[Object]:
    return lists(events)


def lists(events: list[Object]) -> list[Object]:
    """The lists that a stream begins anew with; what they hold is filled in when they are told."""
    return [{"what": "list", "kind": kind} for kind in dict.fromkeys(event["kind"] for event in events)]


@dataclass
class Cluster:
    """What is there, as the recording has it so far."""

    objects: dict[str, dict[str, Object]] = field(default_factory=lambda: {"WORKFLOW": {}, "POD": {}})

    events: list[Object] = field(default_factory=list)
    """Kubernetes' own, of the pod."""

    def take(self, event: Object) -> None:
        """Let something have happened."""
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

    def of(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return list(self.objects[kind].values())


def _version(item: Object | None) -> int:
    return int(item["metadata"]["resourceVersion"]) if item is not None else 0


@dataclass
class Replay:
    """An engine to which a recording happens."""

    engine: Reconciler = field(default_factory=lambda: Reconciler(lambda _: False, 0.0))
    cluster: Cluster = field(default_factory=Cluster)
    now: float = 0.0
    verdict: Verdict | None = None
    acted: bool = False

    def tell(self, outcome: Result | None) -> None:
        """Perform what follows from a fact, until nothing does."""
        while outcome is not None and (outcome.commands or outcome.states):
            for life in outcome.states:
                self.verdict = self.verdict or life.verdict
            answers = [self.perform(order) for order in outcome.commands]
            outcome = Result(
                tuple(order for answer in answers for order in answer.commands),
                tuple(life for answer in answers for life in answer.states),
            )

    def perform(self, order: Command) -> Result:
        """All works, and a fresh read shows what is there."""
        self.acted = self.acted or order.action.kind.name in OURS
        if order.action.kind is ActionKind.LIST_EVENTS:
            return self.engine.on_events_listed(order, self.cluster.events, self.now)
        if order.action.kind is not ActionKind.CONFIRM:
            return self.engine.on_action_done(order, self.now, ok=True)
        workflows, pods = self.cluster.of("WORKFLOW"), self.cluster.of("POD")
        return self.engine.on_confirmed(order, workflows[-1] if workflows else None, pods, self.now)

    def happens(self, event: Object) -> None:
        """An event of a stream arrives."""
        kind = Kind[event["kind"]]
        if event["what"] in {"list", "listed"}:
            items = event["objects"] if event["what"] == "listed" else self.cluster.of(event["kind"])
            self.tell(self.engine.on_listed(kind, items, self.now))
            return
        for item in event["objects"]:
            self.tell(self.engine.on_changed(kind, item, self.now, deleted=event["what"] == "deleted"))

    def waits(self, until: Callable[[], bool]) -> None:
        """Time passes until something is so; not for ever."""
        end = self.now + LONG
        while not until():
            wake_at = self.engine.next_requeue_at()
            assert wake_at is not None, "nothing is due any more"
            assert wake_at < end, "it never comes to it"
            self.now = max(wake_at, self.now + 0.05)
            self.tell(self.engine.tick(self.now))


def parts(lines: Iterable[Object]) -> Iterator[tuple[list[Object], Object | None]]:
    """What the streams told up to each thing that somebody did, and that thing."""
    events: list[Object] = []
    has_acted = False
    for line in lines:
        if line["what"] in {*STREAM, "events", "read"}:
            events.append(line)
        elif line["what"] != "command" or (line["action"] in OURS and not has_acted):
            has_acted = has_acted or line["what"] == "command"
            yield events, line
            events = []
    yield events, None


def play(lines: list[Object], arrange: Arrange) -> Replay:
    """Let a recording happen, its streams arranged anew."""
    replay = Replay()
    for kind in (Kind.WORKFLOW, Kind.POD):
        replay.engine.on_listed(kind, (), 0.0)
    for events, deed in parts(lines):
        for event in events:
            replay.cluster.take(event)
        for event in arrange([event for event in events if event["what"] in STREAM]):
            replay.happens(event)
        if deed is not None:
            do(replay, deed)
    replay.waits(lambda: replay.verdict is not None)
    return replay


def do(replay: Replay, deed: Object) -> None:
    """What somebody did happens; or flargo does it, though it may take its time."""
    engine = replay.engine
    match deed["what"]:
        case "admit":
            engine.admit(NAME, deed["attempt"], StartTimeouts(**deed["timeouts"]), 3, replay.now)
        case "submitted":
            replay.tell(engine.on_submitted(NAME, deed["error"], replay.now))
        case "stop":
            replay.tell(engine.stop(NAME, Cause[deed["cause"]], replay.now))
        case "command":
            replay.waits(lambda: replay.acted or replay.verdict is not None)


UNSEEN = {"node-lost-and-back": frozenset({"POD_DELETED"})}
"""What else may be said where the pod is gone before its last words are heard; FLARE hears the same code."""


@pytest.mark.parametrize(
    "arrange",
    [in_order, twice, told_again_at_the_end, pods_first, workflows_first, every_second_lost, all_lost],
    ids=lambda arrange: arrange.__name__.replace("_", " "),
)
@pytest.mark.parametrize("recording", RECORDED_SCENARIOS, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_recording(recording: Path, arrange: Arrange) -> None:
    *lines, end = map(json.loads, recording.read_text().splitlines())
    verdict = play(lines, arrange).verdict
    assert verdict is not None
    unseen = UNSEEN.get(recording.stem, frozenset()) if arrange is not in_order else frozenset()
    assert verdict.code == end["code"]
    assert verdict.reason.name in {end["verdict"], *unseen}


def test_there_are_recordings() -> None:
    assert RECORDED_SCENARIOS
