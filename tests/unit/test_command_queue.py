"""Tests of the CommandQueue: no kind starves another, nothing is queued twice, and every command has a result."""

import threading
from collections.abc import Iterator

import pytest

from flargo.cluster import pool
from flargo.control import loop
from flargo.control.command import MOST_URGENT_FIRST, Command
from flargo.control.command_queue import LIMITS, MAX_WORKERS, CommandQueue
from flargo.control.inputs import CommandDone, SiteInput
from flargo.status.job_state import Action, ActionKind
from flargo.terms import Uid
from tests.harness.fake_api import THREAD_SECONDS


class Queue:
    """A CommandQueue whose commands of some kinds hang until the test ends."""

    def __init__(self, *hanging: ActionKind) -> None:
        self.hanging = hanging
        self.may_go_on = threading.Event()
        self.begun: list[Command] = []
        self.results: list[SiteInput] = []
        self._changed = threading.Condition()
        self.queue = CommandQueue(self._perform, self._take_result)

    def _perform(self, command: Command) -> tuple[SiteInput, ...]:
        with self._changed:
            self.begun.append(command)
            self._changed.notify_all()
        if command.action.kind in self.hanging:
            self.may_go_on.wait(THREAD_SECONDS)
        return (CommandDone(command, ok=True),)

    def _take_result(self, result: SiteInput) -> None:
        with self._changed:
            self.results.append(result)
            self._changed.notify_all()

    def put(self, kind: ActionKind, name: str = "job", revision: int = 0) -> None:
        self.queue.put(Command(name, name, Action(kind, Uid("u1")), "", revision=revision))

    def wait_for(self, *, results: int = 0, begun: int = 0) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.results) >= results and len(self.begun) >= begun, THREAD_SECONDS
            ), (len(self.results), len(self.begun))


@pytest.fixture
def hanging(request: pytest.FixtureRequest) -> Iterator[Queue]:
    queue = Queue(*request.param)
    yield queue
    queue.may_go_on.set()
    queue.queue.close()


def test_every_kind_has_a_limit() -> None:
    assert set(LIMITS) == set(ActionKind) == set(MOST_URGENT_FIRST)


def test_every_thread_has_a_connection() -> None:
    """Two watches, and the threads that submit, wait, report and perform; a full pool would close connections."""
    assert pool._MAX_CONNECTIONS >= 2 + 3 * loop._WORKERS + MAX_WORKERS


@pytest.mark.parametrize(
    ("hanging", "kind"),
    [([other], kind) for kind in LIMITS for other in LIMITS if other is not kind]
    + [([other for other in LIMITS if other is not kind], kind) for kind in LIMITS],
    indirect=["hanging"],
    ids=lambda value: value.name if isinstance(value, ActionKind) else "",
)
def test_no_kind_starves_another(hanging: Queue, kind: ActionKind) -> None:
    """A hundred commands of another kind, or of all others, hang."""
    for number in range(100):
        for other in hanging.hanging:
            hanging.put(other, f"job-{number}")
    hanging.put(kind)
    hanging.wait_for(results=1)
    assert isinstance(hanging.results[0], CommandDone)
    assert hanging.results[0].command.action.kind is kind


@pytest.mark.parametrize("hanging", [list(LIMITS)], indirect=True)
def test_limits_are_kept_and_all_are_performed(hanging: Queue) -> None:
    for number in range(20):
        for kind in LIMITS:
            hanging.put(kind, f"job-{number}")
    hanging.wait_for(begun=sum(LIMITS.values()))
    kinds = [command.action.kind for command in hanging.begun]
    assert {kind: kinds.count(kind) for kind in LIMITS} == LIMITS
    hanging.may_go_on.set()
    hanging.wait_for(results=20 * len(LIMITS))
    assert len(hanging.begun) == 20 * len(LIMITS)


@pytest.mark.parametrize("hanging", [[ActionKind.CONFIRM]], indirect=True)
def test_no_more_threads_than_are_needed(hanging: Queue) -> None:
    for number in range(100):
        hanging.put(ActionKind.CONFIRM, f"job-{number}")
    hanging.wait_for(begun=LIMITS[ActionKind.CONFIRM])
    assert len(hanging.queue._workers._threads) == LIMITS[ActionKind.CONFIRM]


@pytest.mark.parametrize("hanging", [[ActionKind.SHUTDOWN]], indirect=True)
def test_queued_command_is_replaced(hanging: Queue) -> None:
    """The action was derived again while it waited for a worker; the later command is sent, once."""
    for number in range(LIMITS[ActionKind.SHUTDOWN]):
        hanging.put(ActionKind.SHUTDOWN, f"job-{number}")
    hanging.wait_for(begun=LIMITS[ActionKind.SHUTDOWN])
    for revision in range(5):
        hanging.put(ActionKind.SHUTDOWN, revision=revision)
    hanging.may_go_on.set()
    hanging.wait_for(results=LIMITS[ActionKind.SHUTDOWN] + 1)
    assert [command.revision for command in hanging.begun if command.name == "job"] == [4]


def test_command_without_a_thread_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
    queue = Queue()
    queue.put(ActionKind.DELETE_POD)
    queue.put(ActionKind.CONFIRM)
    assert [result.ok for result in queue.results if isinstance(result, CommandDone)] == [False, False]
    monkeypatch.undo()
    queue.put(ActionKind.CONFIRM)
    queue.wait_for(results=3)
    assert [command.action.kind for command in queue.begun] == [ActionKind.CONFIRM], "a failed command is not kept"
    queue.queue.close()


def test_defect_in_one_command_is_its_failure(caplog: pytest.LogCaptureFixture) -> None:
    results: list[SiteInput] = []
    has_result = threading.Event()

    def perform(_: Command) -> tuple[SiteInput, ...]:
        raise ValueError("a defect")

    def take(result: SiteInput) -> None:
        results.append(result)
        has_result.set()

    queue, command = CommandQueue(perform, take), Command("job", "job", Action(ActionKind.SHUTDOWN), "")
    for _ in range(LIMITS[ActionKind.SHUTDOWN] + 1):
        has_result.clear()
        queue.put(command)
        assert has_result.wait(THREAD_SECONDS), "the worker's place was given back"
    assert set(results) == {CommandDone(command, ok=False)}
    assert "job: failed to shut down the Workflow" in caplog.text
    queue.close()
