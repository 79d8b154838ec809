"""A final description of a Workflow stays, in whatever order those who write descriptions get to the API server."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.attempt_notes import AttemptNotes
from flargo.control.command import build_command
from flargo.control.perform import Performer
from flargo.control.status_notes import StatusNote, StatusNotes
from flargo.status.job_state import Action, ActionKind, JobState
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.status.views import Observation, WorkflowView
from flargo.terms import Annotation, Object, StartTimeouts, Uid
from tests.harness.fake_api import MemoryApi

VIEW = WorkflowView(Uid("uid-1"), "job-site", phase="Failed", is_attempt=True)
KINDS = (ActionKind.SHUTDOWN, ActionKind.NOTE_REASON, ActionKind.MARK_CLEARED)
FINAL = "ABORTED: FLARE aborted the job. Message: `it was between two attempts`"
FAILED = "FINISHED:EXECUTION_EXCEPTION"
SECONDS = 10.0


class TurnApi(MemoryApi):
    """A store that carries out the requests of several threads in an order that a test chooses, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Callable[[], Object]] = []
        """Requests whose clients have got no answer, and which the server has not carried out yet."""
        self.writer: Writer | None = None
        """Whose turn it is."""
        self.create(Kind.WORKFLOW, {"metadata": {"name": VIEW.name}, "spec": {}})

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        if self.writer is not None and self.writer.loses_patches:
            self.late.append(lambda: self._merge(kind, name, patch))
            return self._answer(_get_no_answer)
        return super().merge(kind, name, patch)

    def _answer(self, work: Callable[[], Object]) -> Object:
        if self.writer is not None:
            self.writer.wait()
        return super()._answer(work)

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.store[Kind.WORKFLOW, VIEW.name]["metadata"].get("annotations") or {})


def _get_no_answer() -> Object:
    raise ApiError("patch", VIEW.name, 0)


class Writer:
    """A thread that writes a description, request by request."""

    def __init__(self, api: TurnApi, write: Callable[[TurnApi], object], *, loses_patches: bool = False) -> None:
        self.loses_patches = loses_patches
        self.has_ended = False
        self._api = api
        self._may_go, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(write,), daemon=True)

    def go(self) -> None:
        """Go on to the next request, or to the end."""
        self._api.writer = self
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._may_go.release()
        assert self._rests.acquire(timeout=SECONDS)
        self._api.writer = None

    def wait(self) -> None:
        self._rests.release()
        assert self._may_go.acquire(timeout=SECONDS)

    def _run(self, write: Callable[[TurnApi], object]) -> None:
        write(self._api)
        self.has_ended = True
        self._rests.release()


@dataclass(frozen=True)
class Provisional:
    """What the reconciler wants to tell of one Workflow's end, before it has seen a final description."""

    kind: ActionKind
    reason: Reason
    workflow: WorkflowView = VIEW

    def __call__(self, api: TurnApi) -> object:
        state = JobState(VIEW.name, "a1", StartTimeouts(), 3, created_at=0.0, observation=Observation(self.workflow))
        ended = replace(state, verdict=Verdict(self.reason, 104, exit_code=0))
        return Performer(api).perform(build_command(VIEW.name, ended, Action(self.kind, VIEW.uid)))


def note_verdict(api: TurnApi) -> None:
    AttemptNotes(api).note_verdict([VIEW], Verdict(Reason.ABORTED, 9), "it was between two attempts")


def note_status(api: TurnApi) -> None:
    StatusNotes(api).note(StatusNote(VIEW, FAILED, is_unexpected=True), lambda *_: False)


def run(api: TurnApi, writers: list[Writer], turns: list[int]) -> None:
    """Let writers and late requests take turns; what is left at the end of the turns follows in order."""
    for turn in turns + [0] * 100:
        waiting = [writer for writer in writers if not writer.has_ended]
        if not waiting and not api.late:
            break
        chosen = turn % (len(waiting) + len(api.late))
        if chosen < len(waiting):
            waiting[chosen].go()
        else:
            try:
                api.late.pop(chosen - len(waiting))()
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # it came too late
                    raise
    assert all(writer.has_ended for writer in writers)


provisional = st.builds(Provisional, st.sampled_from(KINDS), st.sampled_from(Reason))
turns_of = st.lists(st.integers(0, 20), max_size=30)


@given(st.lists(st.tuples(provisional, st.booleans()), min_size=1, max_size=4), st.integers(0, 4), turns_of)
def test_a_jobs_verdict_is_never_replaced(writes: list[tuple[Provisional, bool]], place: int, turns: list[int]) -> None:
    """Neither by another thread, nor by a repetition, nor by a request that the server carries out late."""
    api = TurnApi()
    writers = [Writer(api, write, loses_patches=is_late) for write, is_late in writes]
    writers.insert(place, Writer(api, note_verdict))
    run(api, writers, turns)
    assert api.annotations[Annotation.DESCRIPTION] == FINAL
    if any(write.kind is ActionKind.SHUTDOWN and not is_late for write, is_late in writes):
        assert api.store[Kind.WORKFLOW, VIEW.name]["spec"]["shutdown"] == "Terminate"
    if any(write.kind is ActionKind.MARK_CLEARED and not is_late for write, is_late in writes):
        assert api.annotations[Annotation.CLEARED] == "true"


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), turns_of)
def test_flares_status_is_never_replaced(kinds: list[ActionKind], turns: list[int]) -> None:
    """A server's job that had been shut down, and whose program then ended with exit code 0."""
    api, server = TurnApi(), replace(VIEW, is_attempt=False, shutdown="Terminate", ending="CLEANED_UP")
    writers = [Writer(api, Provisional(kind, Reason.SUCCEEDED, server)) for kind in kinds]
    run(api, [*writers, Writer(api, note_status)], turns)
    assert api.annotations[Annotation.DESCRIPTION].startswith("`EXECUTION_EXCEPTION` is FLARE's status")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", ["", "FINISHED:COMPLETED"])
def test_a_provisional_description_is_written_where_there_is_no_final_one(kind: ActionKind, status: str) -> None:
    api = TurnApi()
    if status:
        StatusNotes(api).note(StatusNote(VIEW, status), lambda *_: False)
    Provisional(kind, Reason.DISRUPTED)(api)
    assert api.annotations[Annotation.DESCRIPTION].endswith("Another attempt may follow.")


def fail_reads(api: TurnApi) -> None:
    def trouble(number: int, when: str) -> None:
        if number == 2 and when == "before":
            raise ApiError("get", VIEW.name, 503)

    api.trouble = trouble


def change_after_each_read(api: TurnApi) -> None:
    """Argo changes a Workflow whenever flargo has read it."""
    find = api._find

    def find_and_change(kind: Kind, name: str) -> Any:
        stored = find(kind, name)
        version = int(stored["metadata"]["resourceVersion"])
        stored["metadata"]["resourceVersion"] = str(version + 1)
        return stored

    api._find = find_and_change  # type: ignore[method-assign]


@pytest.mark.parametrize("disturb", [fail_reads, change_after_each_read])
def test_a_shutdown_does_not_depend_on_its_description(disturb: Callable[[TurnApi], None]) -> None:
    api = TurnApi()
    disturb(api)
    Provisional(ActionKind.SHUTDOWN, Reason.DISRUPTED)(api)
    assert api.store[Kind.WORKFLOW, VIEW.name]["spec"]["shutdown"] == "Terminate"
    assert api.annotations[Annotation.ENDING] == "DISRUPTED"
    assert api.requests < 9
