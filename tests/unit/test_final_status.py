"""FLARE's final status of a server's job: read at FLARE's events, and noted once on the job's Workflow."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.status_notes import MAX_ERROR_LENGTH, StatusNotes
from flargo.flare.final_status import FINAL_EVENTS, FinalStatuses, ServerJobStatus
from flargo.flare.report import Report
from flargo.parsing import is_final_status
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.status.views import Observation, WorkflowView
from flargo.terms import Annotation, Role, StartTimeouts, Uid
from tests.harness.fake_api import MemoryApi
from tests.harness.server_jobs import ServerJobs
from tests.harness.site import FakeEngine, FakeJobManager

WORKFLOW = WorkflowView(Uid("uid-1"), "job-server")
FAILED = RunStatus.FINISHED_EXECUTION_EXCEPTION.value


class Loop:
    """The part of the loop that a note needs."""

    def __init__(self, *, may_change: bool = True) -> None:
        self._may_change = may_change
        self.delays: list[float] = []

    def may_change(self, *, is_followed: bool) -> bool:
        assert is_followed
        return self._may_change

    def run(self, task: Callable[[], None], delay: float = 0.0) -> bool:
        self.delays.append(delay)
        task()
        return True


class Story:
    """One server's parent with a job, whose Workflow is stored in memory."""

    def __init__(self, trouble: Callable[[int, str], None] | None = None) -> None:
        self.api = MemoryApi(trouble)
        self.api.store[Kind.WORKFLOW, "job-server"] = {"metadata": {"name": "job-server", "uid": "uid-1"}, "spec": {}}
        self.loop = Loop()
        self.jobs = FakeJobManager()
        self.statuses = FinalStatuses(StatusNotes(self.api))

    def follow(self, error: str = "") -> ServerJobStatus:
        job = self.statuses.follow("job-1")
        job.workflow, job.error = WORKFLOW, error
        return job

    def fire(self, status: str | RunStatus, data: Any = None, loop: Any = None) -> None:
        """Store a status, and let FLARE fire the event of the job's end."""
        self.jobs.status["job-1"] = status
        context = FLContext()
        engine = FakeEngine("server", self.jobs, ServerJobs())
        context.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
        context.set_prop(FLContextKey.EVENT_DATA, data or {"job_id": "job-1"}, private=True, sticky=False)
        self.statuses.on_event(context, loop if loop is not None else cast("Any", self.loop))

    @property
    def notes(self) -> dict[str, str]:
        return dict(self.api.store[Kind.WORKFLOW, "job-server"]["metadata"].get("annotations") or {})


def test_events_are_those_of_a_final_status() -> None:
    assert {EventType.JOB_COMPLETED, EventType.JOB_ABORTED} == FINAL_EVENTS
    finals = {each.value for each in RunStatus if is_final_status(each.value)}
    assert finals == {each.value for each in RunStatus} - {"SUBMITTED", "APPROVED", "DISPATCHED", "RUNNING"}


@pytest.mark.parametrize("status", [FAILED, RunStatus.FINISHED_EXECUTION_EXCEPTION])
def test_failure_is_noted_with_the_servers_error(status: str | RunStatus) -> None:
    story = Story()
    story.follow("Result from site-1 is bad\n{{x}}" + "x" * 1000)
    story.fire(status)
    assert story.notes[Annotation.FLARE_STATUS] == FAILED
    error = story.notes[Annotation.FLARE_ERROR]
    assert error.startswith("Result from site-1 is bad { {x}}")
    assert len(error) == MAX_ERROR_LENGTH


def test_success_is_noted_without_an_error() -> None:
    """A tolerated error, such as that of one of many sites, explains nothing."""
    story = Story()
    story.follow("Result from site-1 is bad")
    story.fire(RunStatus.FINISHED_COMPLETED.value)
    assert story.notes == {Annotation.FLARE_STATUS: "FINISHED:COMPLETED"}


def test_abort_with_two_events_is_noted_once() -> None:
    story = Story()
    story.follow()
    for _ in range(2):
        story.fire(RunStatus.FINISHED_ABORTED.value)
    assert (story.notes[Annotation.FLARE_STATUS], story.api.requests) == ("FINISHED:ABORTED", 1)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        ("RUNNING", None),
        ("FINISHED:\x1b[2J", None),
        ("FINISHED:" + "X" * 100, None),
        (FAILED, {"job_id": "another"}),
        (FAILED, {"job_id": ["x"]}),
        (FAILED, "no dictionary"),
    ],
)
def test_other_events_are_ignored(status: str, data: Any) -> None:
    story = Story()
    story.follow()
    story.fire(status, data)
    assert story.notes == {}
    story.fire(FAILED)
    assert story.notes[Annotation.FLARE_STATUS] == FAILED, "the right event still counts"


def test_no_workflow_and_no_lease_write_nothing() -> None:
    story = Story()
    story.follow().workflow = None
    story.fire(FAILED)
    story.follow()
    story.fire(FAILED, loop=Loop(may_change=False))
    assert story.api.requests == 0


def test_job_store_that_raises_does_not_stop_flare(caplog: pytest.LogCaptureFixture) -> None:
    story = Story()
    story.follow()
    story.jobs.get_job = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]
    story.fire(FAILED)
    assert "ZeroDivisionError" in caplog.text


def test_workflow_is_taken_from_the_latest_state_that_has_one() -> None:
    job = ServerJobStatus()
    for workflow in (None, WORKFLOW, None):
        job.on_state(state(workflow))
    assert job.workflow == WORKFLOW


@pytest.mark.parametrize(
    ("verdict", "status", "is_described"),
    [
        (Verdict(Reason.SUCCEEDED, 0, exit_code=0), FAILED, True),
        (Verdict(Reason.SUCCEEDED, 0, exit_code=0), RunStatus.FINISHED_COMPLETED, False),
        # Its pod was drained when its results had arrived.
        (Verdict(Reason.SUCCEEDED, 0, exit_code=143), FAILED, False),
        (Verdict(Reason.ABORTED, 9, exit_code=0), RunStatus.FINISHED_ABORTED, False),
        (Verdict(Reason.OUT_OF_MEMORY, 104, exit_code=137), FAILED, False),
        (None, FAILED, False),
    ],
)
def test_only_a_failure_after_a_success_is_described(
    verdict: Verdict | None,
    status: str | RunStatus,
    is_described: bool,  # noqa: FBT001
) -> None:
    """Any other end has its own description."""
    story = Story()
    story.follow().on_state(state(WORKFLOW, verdict))
    story.fire(status)
    assert (Annotation.DESCRIPTION in story.notes) == is_described
    assert story.api.requests == 1


def state(workflow: WorkflowView | None, verdict: Verdict | None = None) -> JobState:
    observation = Observation(workflow)
    return JobState("job-server", "a1", StartTimeouts(), 1, created_at=0.0, observation=observation, verdict=verdict)


def test_note_is_tried_again_for_some_seconds() -> None:
    def away(number: int, _: str) -> None:
        if number < 4:
            raise ApiError("patch", "workflows job-server", 503, "ServiceUnavailable")

    story = Story(away)
    story.follow()
    story.fire(FAILED)
    assert story.notes[Annotation.FLARE_STATUS] == FAILED
    assert story.loop.delays == [0, 1, 5, 15]


@pytest.mark.parametrize(("status", "reason", "requests"), [(503, "ServiceUnavailable", 4), (422, "Invalid", 1)])
def test_note_that_fails_is_logged(status: int, reason: str, requests: int, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any) -> None:
        raise ApiError("patch", "workflows job-server", status, reason, "no")

    story = Story(refuse)
    story.follow()
    with caplog.at_level(logging.WARNING):
        story.fire(FAILED)
    assert story.api.requests == requests
    assert f"job-server: FLARE's status {FAILED} could not be noted" in caplog.text


def test_deleted_workflow_needs_no_note(caplog: pytest.LogCaptureFixture) -> None:
    story = Story()
    story.follow()
    story.api.store.clear()
    story.fire(FAILED)
    assert not caplog.text


def test_error_log_of_the_server_is_read_safely(tmp_path: Path) -> None:
    """A job delivers the file, so it may be a link, a FIFO, or very long."""
    log = tmp_path / "error_log.txt"
    report = Report("job-1", "server", Role.SERVER, run_dir=tmp_path, error_log=log)
    assert report.read_error() == ""
    line = "2026-11-30 02:04:22,908 - ServerRunner - ERROR - [identity=fed, run=1] - {}\n"
    log.write_text("x\n" * 1_000_000 + line.format("first") + line.format("\x1b[2Jlast"))
    assert report.read_error() == "[2Jlast"
    secret = tmp_path / "secret"
    log.rename(secret)
    log.symlink_to(secret)
    assert report.read_error() == ""
    log.unlink()
    os.mkfifo(log)
    assert report.read_error() == ""
