"""The attempts of one job: one at a time, one verdict, nothing begun after a stop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.control.attempts import Attempts
from flargo.control.attempts_backend import Listener
from flargo.control.launched_job import LaunchedJob
from flargo.control.server_probe import GONE_ANSWERS, PROBE_INTERVAL, PROBE_SECONDS
from flargo.control.submit import SubmitError
from flargo.status.attempts_verdict import SYNC_SECONDS
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.rejoin import SETTLE_SECONDS
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import Observation, WorkflowView
from flargo.terms import Plan, ServerJob, Uid
from tests.harness.plans import submit_plan
from tests.harness.story import FAILED, POD_RUNNING, WORKFLOW, Story

LOSS = Verdict(Reason.DISRUPTED, 104, "drained")
DELETED = Verdict(Reason.POD_DELETED, 104)
SUCCESS = Verdict(Reason.SUCCEEDED, 0, exit_code=0)
FAILURE = Verdict(Reason.PROGRAM_FAILED, 1, exit_code=3)
NEVER_RAN = Verdict(Reason.SHORTAGE, 101, "no node")
REPORTED = Verdict(Reason.PROGRAM_REPORTED, 101, exit_code=101)
OTHERS = (SUCCESS, FAILURE, NEVER_RAN, REPORTED, DELETED)


@dataclass
class FakeBackend:
    """Performs tasks when the test wants it, and notes what is asked of it."""

    servers: list[ServerJob] = field(default_factory=list)
    """The next answers about the server's process; RUNS when there are no more."""
    fails: Callable[[int], Exception | None] = lambda _: None
    tasks: list[Callable[[], None]] = field(default_factory=list)
    on_probe: Callable[[], None] = lambda: None
    launched: list[LaunchedJob] = field(default_factory=list)
    stopped: list[tuple[str, Cause]] = field(default_factory=list)
    lost: list[tuple[int, Verdict, str]] = field(default_factory=list)
    ends: list[tuple[Verdict, str]] = field(default_factory=list)
    next_pods: list[tuple[str, ...]] = field(default_factory=list)
    lost_workflows: list[WorkflowView | None] = field(default_factory=list)
    next_workflows: list[tuple[str, WorkflowView | None]] = field(default_factory=list)
    losses: list[tuple[Verdict, WorkflowView | None]] = field(default_factory=list)
    released: list[LaunchedJob] = field(default_factory=list)
    """The attempts whose credentials are needed no more."""
    notes: list[tuple[Verdict, list[str]]] = field(default_factory=list)
    pass_time: Callable[[float], None] = lambda _: None
    """Called with the delay of each task that is performed."""
    has_threads: bool = True
    is_noted: bool = False
    """The job's latest attempt is noted, for a later run of the parent."""

    def build_plan(self, number: int, loss: Verdict, lost: WorkflowView | None) -> Plan:
        self.is_noted = not self.ends
        self.losses.append((loss, lost))
        return replace(submit_plan(), name=f"job-site-r{number - 1}")

    def launch(self, _: Listener, plan: Plan, number: int) -> LaunchedJob:
        error = self.fails(number)
        if error is not None:
            raise error
        self.launched.append(LaunchedJob(plan.name))
        return self.launched[-1]

    def adopt(self, listener: Listener, number: int) -> LaunchedJob:
        name = "job-site" if number == 1 else f"job-site-r{number - 1}"
        return self.launch(listener, replace(submit_plan(), name=name), number)

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        self.stopped.append((launched.name, cause))

    def release_secret(self, launched: LaunchedJob) -> None:
        self.released.append(launched)

    def run(self, task: Callable[[], None], delay: float = 0.0) -> bool:
        def run_later() -> None:
            self.pass_time(delay)
            task()

        if self.has_threads:
            self.tasks.append(run_later)
        return self.has_threads

    def probe_server(self) -> ServerJob:
        self.on_probe()
        return self.servers.pop(0) if self.servers else ServerJob.RUNS

    def read_log(self, state: JobState) -> str:
        return f"log of {state.name}"

    def on_lost(self, number: int, verdict: Verdict, tail: str, workflow: WorkflowView | None) -> None:
        self.lost.append((number, verdict, tail))
        self.lost_workflows.append(workflow)

    def on_next(self, _: int, pods: tuple[str, ...], workflow: str, lost: WorkflowView | None) -> None:
        self.next_pods.append(pods)
        self.next_workflows.append((workflow, lost))

    def on_end(self, verdict: Verdict, workflow: str, _: str) -> None:
        self.is_noted = False
        self.ends.append((verdict, workflow))

    def note_verdict(self, verdict: Verdict, workflows: Sequence[WorkflowView]) -> None:
        self.notes.append((verdict, [each.name for each in workflows]))

    def work(self) -> None:
        """Perform all tasks."""
        while self.tasks:
            self.tasks.pop(0)()


class Job:
    """Attempts with a fake backend, and the inputs that a loop would give them."""

    def __init__(
        self, max_attempts: int = 3, *, deleted_counts: bool = False, keeps_logs: bool = False, adopted: int = 0
    ) -> None:
        """Start a job, or adopt its attempt of a number."""
        self.backend = FakeBackend(pass_time=self._pass)
        self.now = 0.0
        self.attempts = Attempts(
            self.backend,
            max_attempts,
            deleted_counts=deleted_counts,
            keeps_logs=keeps_logs,
            clock=lambda: self.now,
        )
        self.before = max(0, adopted - 1)
        """The attempts of earlier runs of the parent that are over."""
        if adopted:
            self.attempts.adopt(adopted)
        else:
            self.attempts.start(submit_plan())

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    @property
    def number(self) -> int:
        return self.before + len(self.backend.launched)

    def runs(self) -> None:
        """The current attempt's program runs."""
        self.attempts.on_state(self.number, running_state())

    def ends(self, verdict: Verdict, *, is_gone: bool = True, is_unseen: bool = False) -> None:
        """The current attempt ends, and nothing of it is left (unless ``is_gone`` is false).

        With ``is_unseen`` this run of the parent has never seen its pod, only what Argo says about it.
        """
        number, state = self.number, ended_state(verdict, is_gone=is_gone, number=self.number)
        if is_unseen:
            state = replace(state, pod=None, observation=replace(state.observation, workflow=FAILED))
        self.attempts.on_state(number, state)
        self.attempts.on_verdict(number, verdict, "")

    @property
    def verdict(self) -> Verdict | None:
        return self.attempts.launched.verdict


def running_state() -> JobState:
    return replace(Story().state, stage=Stage.RUNNING, pod=POD_RUNNING)


def ended_state(verdict: Verdict, *, is_gone: bool = True, number: int = 1) -> JobState:
    ended = replace(running_state(), stage=Stage.ENDED, verdict=verdict, verdict_at=0.0, confirmed_gone=is_gone)
    name = "job-site" if number == 1 else f"job-site-r{number - 1}"
    workflow = replace(WORKFLOW, name=name, uid=Uid(f"w{number}"))
    return replace(ended, observation=replace(ended.observation, workflow=workflow))


def test_a_lost_job_is_started_again() -> None:
    job = Job()
    job.ends(LOSS)
    assert (job.verdict, job.backend.lost) == (None, [(1, LOSS, "")])
    job.backend.work()
    assert [each.name for each in job.backend.launched] == ["job-site", "job-site-r1"]
    job.ends(SUCCESS)
    assert job.verdict is SUCCESS
    assert job.backend.ends == [(SUCCESS, "job-site-r1")]


def test_credentials_are_kept_until_the_next_attempt_has_its_own() -> None:
    """A run of the parent that begins in between needs them to go on with the job."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    submitting = replace(running_state(), is_submitting=True)
    job.attempts.on_state(2, submitting)
    assert job.backend.released == []
    job.runs()
    job.runs()
    assert job.backend.released == job.backend.launched[:1]
    job.ends(SUCCESS)
    assert job.backend.released == job.backend.launched


@pytest.mark.parametrize("verdict", OTHERS)
def test_credentials_are_released_with_the_verdict(verdict: Verdict) -> None:
    job = Job()
    job.ends(verdict)
    assert job.backend.released == job.backend.launched


def test_credentials_of_a_lost_job_are_released_if_no_attempt_follows() -> None:
    stopped, failed, unseen = Job(), Job(), Job()
    stopped.ends(LOSS)
    stopped.attempts.stop(Cause.ABORT)
    failed.backend.fails = lambda _: SubmitError("shutting down")
    unseen.ends(LOSS)
    unseen.backend.work()
    unseen.attempts.on_verdict(2, NEVER_RAN, "")
    failed.ends(LOSS)
    failed.backend.work()
    for job in (stopped, failed, unseen):
        assert job.verdict is not None
        assert job.backend.released == job.backend.launched


def test_the_next_attempt_waits_for_the_place() -> None:
    job = Job()
    job.ends(LOSS, is_gone=False)
    job.backend.work()
    assert job.number == 1
    job.attempts.on_state(1, ended_state(LOSS))
    job.backend.work()
    assert job.number == 2
    job.attempts.on_state(1, ended_state(LOSS))
    job.backend.work()
    assert job.number == 2, "an old attempt's states begin nothing"


def test_a_place_that_stays_free_begins_one_attempt() -> None:
    """States of the lost attempt go on while the server is asked: Argo completes its Workflow, and time passes."""
    job = Job()
    job.ends(LOSS)
    job.attempts.on_state(1, ended_state(LOSS))
    job.backend.on_probe = lambda: job.attempts.on_state(1, ended_state(LOSS))
    job.backend.work()
    assert (job.number, job.verdict) == (2, None)


NOT_COUNTED = "not started again: the site does not count a pod that somebody has deleted (argo.rejoin_deleted)"


@pytest.mark.parametrize("detail", ["", "pod deleted"])
def test_a_loss_that_does_not_count_is_explained(detail: str) -> None:
    """People would otherwise wait for the attempts that the job may have."""
    deleted = replace(DELETED, detail=detail)
    explained = replace(DELETED, detail=f"pod deleted; {NOT_COUNTED}" if detail else NOT_COUNTED)
    first, last, second = Job(), Job(max_attempts=1), Job()
    second.ends(LOSS)
    second.backend.work()
    for job in (first, last, second):
        job.ends(deleted)
        job.backend.work()
    assert (first.verdict, first.number) == (explained, 1)
    assert (last.verdict, last.number) == (deleted, 1), "there is no other attempt to explain"
    assert (second.verdict, second.number) == (explained, 2)


def test_a_drain_that_somebody_ends_is_explained() -> None:
    job = Job()
    job.attempts.on_state(1, terminated_state())
    job.attempts.on_verdict(1, LOSS, "")
    assert job.verdict == replace(LOSS, detail="drained; not started again: its Workflow was terminated or deleted")


@pytest.mark.parametrize("verdict", [each for each in OTHERS if each is not DELETED])
def test_an_own_end_is_final(verdict: Verdict) -> None:
    job = Job()
    job.ends(verdict)
    job.backend.work()
    assert (job.verdict, job.number) == (verdict, 1)


def test_a_deleted_pod_counts_only_if_the_site_says_so() -> None:
    job = Job(deleted_counts=True)
    job.ends(DELETED)
    job.backend.work()
    assert job.number == 2


def test_the_last_loss_stands_at_the_limit() -> None:
    job = Job(max_attempts=2)
    job.ends(LOSS)
    job.backend.work()
    job.ends(LOSS)
    job.backend.work()
    assert job.number == 2
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.detail) == (Reason.DISRUPTED, "attempt 2 of 2: drained")


GONE = [ServerJob.GONE] * GONE_ANSWERS


def test_no_attempt_without_the_servers_process() -> None:
    job = Job()
    job.backend.servers = [ServerJob.UNKNOWN, *GONE]
    job.ends(LOSS)
    job.backend.work()
    assert job.number == 1
    assert job.verdict is not None
    assert job.verdict.reason is Reason.DISRUPTED
    assert "the server's process of the job runs no longer" in job.verdict.detail


def test_a_process_that_is_back_is_not_gone() -> None:
    """It loses its connection with the server for a moment when that is disturbed."""
    job = Job()
    job.backend.servers = [*GONE[1:], ServerJob.UNKNOWN, *GONE[1:], ServerJob.RUNS]
    job.ends(LOSS)
    job.backend.work()
    assert (job.number, job.verdict) == (2, None)


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_a_silent_server_is_asked_for_a_minute(seconds: float) -> None:
    """However long each question takes."""
    job = Job()

    def wait_for_answer() -> None:
        job.now += seconds

    job.backend.on_probe = wait_for_answer
    job.backend.servers = [ServerJob.UNKNOWN] * 1000
    job.ends(LOSS)
    job.backend.work()
    assert PROBE_SECONDS - PROBE_INTERVAL - seconds <= job.now <= PROBE_SECONDS + seconds
    assert job.verdict is not None
    assert "could not be reached" in job.verdict.detail


def test_no_thread_waits_between_attempts() -> None:
    """A node's pressure, or a server that is away, concerns many jobs at once, and threads are few."""
    job = Job()
    job.backend.servers = [ServerJob.UNKNOWN] * 3
    for loss, expected_steps in ((LOSS, 5), (REFUSED, 2)):
        job.ends(loss)
        steps = 0
        while job.backend.tasks:
            before = time.monotonic()
            job.backend.tasks.pop(0)()
            assert time.monotonic() - before < PROBE_INTERVAL / 2
            steps += 1
        assert steps == expected_steps, "the turn, and each question"
    assert (job.number, job.now) == (3, 3 * PROBE_INTERVAL + SETTLE_SECONDS)


def test_an_attempt_whose_server_ends_before_it_runs_is_ended() -> None:
    """Its program would fail a job that may have finished."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.backend.servers = list(GONE)
    job.runs()
    job.backend.work()
    assert job.backend.stopped == [("job-site-r1", Cause.CLEANUP)]
    job.ends(Verdict(Reason.CLEANED_UP, 1))
    assert job.verdict is not None
    assert job.verdict.reason is Reason.DISRUPTED


def test_what_was_said_of_one_attempts_server_does_not_explain_the_next_ones_end() -> None:
    """The second attempt is drained just when it is to be ended, and the server's process is back by then."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.backend.servers = list(GONE)
    job.runs()
    job.backend.work()
    job.ends(LOSS)
    job.backend.work()
    assert job.number == 3
    job.ends(FAILURE)
    assert job.verdict == FAILURE


def test_the_server_is_asked_once_for_each_attempt() -> None:
    job = Job()
    job.runs()
    assert not job.backend.tasks, "not about the first attempt"
    job.ends(LOSS)
    job.backend.work()
    job.runs()
    job.runs()
    assert len(job.backend.tasks) == 1


@pytest.mark.parametrize("verdict", [NEVER_RAN, replace(NEVER_RAN, reason=Reason.LAUNCH_FAILED)])
def test_an_attempt_that_never_ran_leaves_the_loss(verdict: Verdict) -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.ends(verdict)
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.code) == (Reason.DISRUPTED, 104)
    assert f"attempt 2 of 3 did not start ({verdict.reason.name}): no node" in job.verdict.detail


REFUSED = Verdict(Reason.NODE_REFUSED, 104, "OutOfcpu")


def test_an_attempt_that_its_node_refuses_is_tried_again() -> None:
    """The scheduler's view of a node may be older than the kubelet's, or a pod of another kind may have been faster."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.ends(REFUSED)
    assert (job.verdict, [verdict for _, verdict, _ in job.backend.lost]) == (None, [LOSS, REFUSED])
    job.backend.work()
    assert job.now == SETTLE_SECONDS, "the scheduler would take the same node"
    job.runs()
    job.ends(SUCCESS)
    assert (job.number, job.verdict) == (3, SUCCESS)


def test_a_first_attempt_that_its_node_refuses_is_final() -> None:
    job = Job()
    job.ends(REFUSED)
    job.backend.work()
    assert (job.number, job.verdict) == (1, REFUSED)


def test_refusals_use_up_the_attempts_and_leave_the_loss() -> None:
    job = Job()
    for verdict in (LOSS, REFUSED, REFUSED):
        job.ends(verdict)
        job.backend.work()
    detail = "drained; attempt 3 of 3 did not start (NODE_REFUSED): OutOfcpu"
    assert (job.number, job.verdict) == (3, replace(LOSS, detail=detail))


def test_a_refusal_after_the_program_began_is_final() -> None:
    """A kubelet that restarts may refuse a pod that it has run. Nobody knows what became of its program."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.runs()
    job.backend.work()
    job.ends(REFUSED)
    job.backend.work()
    assert (job.number, job.verdict) == (2, REFUSED)
    assert job.backend.notes == [(REFUSED, ["job-site-r1", "job-site"])], "it looks like one that may be tried again"


@pytest.mark.parametrize("is_unseen", [True, False])
def test_an_adopted_attempt_that_its_node_refuses_is_tried_again(*, is_unseen: bool) -> None:
    """The loss before it is not known any more, so the refusal is the job's end if nothing follows."""
    for number, verdict in ((2, None), (3, REFUSED)):
        job = Job(adopted=number)
        job.ends(REFUSED, is_unseen=is_unseen)
        job.backend.work()
        assert job.verdict == verdict
        assert job.number == 3


@pytest.mark.parametrize(
    ("server", "reason"), [(ServerJob.GONE, Reason.DISRUPTED), (ServerJob.RUNS, Reason.PROGRAM_REPORTED)]
)
def test_a_101_without_a_server_is_the_earlier_loss(server: ServerJob, reason: Reason) -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.backend.servers = [server]
    job.ends(REPORTED)
    assert job.verdict is not None
    assert job.verdict.reason is reason


@pytest.mark.parametrize(
    ("seconds", "reason"), [(SYNC_SECONDS - 1.0, Reason.DISRUPTED), (SYNC_SECONDS, Reason.PROGRAM_REPORTED)]
)
def test_a_101_of_a_program_that_has_trained_is_its_own(seconds: float, reason: Reason) -> None:
    """The server's process ends because this one has failed, or together with it."""
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.runs()
    job.backend.work()
    job.now += seconds
    job.backend.servers = [ServerJob.GONE]
    job.ends(REPORTED)
    assert job.verdict is not None
    assert job.verdict.reason is reason


@pytest.mark.parametrize("error", [SubmitError("shutting down"), ValueError("secret")])
def test_a_launch_that_fails_leaves_the_loss(error: Exception) -> None:
    job = Job()
    job.backend.fails = lambda number: error if number > 1 else None
    job.ends(LOSS)
    try:
        job.backend.work()
    except ValueError:
        assert isinstance(error, ValueError)
    assert job.verdict is not None
    assert job.verdict.reason is Reason.DISRUPTED
    assert "not started again" in job.verdict.detail
    assert "secret" not in job.verdict.detail


def test_the_notes_name_the_workflows() -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    (lost,) = job.backend.lost_workflows
    assert lost is not None
    assert lost.name == "job-site"
    assert job.backend.next_workflows == [("job-site-r1", lost)]


@pytest.mark.parametrize("verdict", [SUCCESS, FAILURE, REPORTED, NEVER_RAN])
def test_a_clear_end_needs_no_note(verdict: Verdict) -> None:
    """The Workflow itself shows such an end, and after it no other attempt can follow."""
    job = Job()
    job.ends(verdict)
    assert job.backend.notes == []


@pytest.mark.parametrize(
    ("verdict", "detail"), [(DELETED, NOT_COUNTED), (replace(SUCCESS, exit_code=143), "")], ids=["deleted", "results"]
)
def test_an_end_that_looks_like_a_loss_is_noted(verdict: Verdict, detail: str) -> None:
    """Only the parent knows that the site does not count it, or that the job's results had arrived."""
    job = Job()
    job.ends(verdict)
    assert job.backend.notes == [(replace(verdict, detail=detail), ["job-site"])]


def test_a_job_with_one_attempt_is_not_noted() -> None:
    job = Job(max_attempts=1)
    job.ends(LOSS)
    assert job.backend.notes == []


def test_a_loss_that_stands_is_noted() -> None:
    job = Job()
    job.backend.servers = list(GONE)
    job.ends(LOSS)
    job.backend.work()
    assert job.backend.notes == [(job.verdict, ["job-site"])]


def test_a_verdict_of_an_earlier_attempt_is_noted_on_the_last_workflow() -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.ends(NEVER_RAN)
    assert job.backend.notes == [(job.verdict, ["job-site-r1", "job-site"])]


def test_an_attempt_without_a_workflow_leaves_the_note_to_the_one_before() -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    never_created = replace(running_state(), observation=Observation(), verdict=NEVER_RAN)
    job.attempts.on_state(2, never_created)
    job.attempts.on_verdict(2, NEVER_RAN, "")
    assert job.backend.notes == [(job.verdict, ["job-site"])]


def test_an_abort_between_attempts_is_an_abort() -> None:
    job = Job()
    job.ends(LOSS)
    job.attempts.stop(Cause.ABORT)
    job.backend.work()
    assert job.number == 1
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.code) == (Reason.ABORTED, 9)
    assert job.backend.notes == [(job.verdict, ["job-site"])], "the Workflow shows the loss"


@pytest.mark.parametrize("server", ServerJob)
def test_an_abort_while_the_server_is_asked_is_an_abort(server: ServerJob) -> None:
    """The abort interrupts the question, whose answer explains nothing then."""
    job = Job()
    job.backend.servers = [server]
    job.backend.on_probe = lambda: job.attempts.stop(Cause.ABORT)
    job.ends(LOSS)
    job.backend.work()
    assert job.number == 1
    assert [verdict.code for verdict, _ in job.backend.ends] == [9]


def test_a_shutdown_between_attempts_needs_no_thread() -> None:
    """A parent that shuts down drops the tasks that wait for a thread."""
    job = Job()
    job.ends(LOSS)
    job.backend.tasks.clear()
    job.attempts.stop(Cause.PARENT_END)
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.code) == (Reason.PARENT_ENDED, 104)


def test_an_attempt_that_is_dropped_is_noted_no_more() -> None:
    """A parent's later run would look for it. The abort comes while the attempt's plan is built."""

    class AbortedBackend(FakeBackend):
        def build_plan(self, number: int, loss: Verdict, lost: WorkflowView | None) -> Plan:
            job.attempts.stop(Cause.ABORT)
            return super().build_plan(number, loss, lost)

    job = Job()
    job.attempts._backend = job.backend = AbortedBackend(launched=job.backend.launched)
    job.ends(LOSS)
    job.backend.work()
    assert (job.number, job.verdict and job.verdict.code, job.backend.is_noted) == (1, 9, False)


def test_flare_sees_the_stage_of_the_current_attempt() -> None:
    job, stages = Job(), []

    def note_stage() -> None:
        stages.append(job.attempts.launched.stage)

    job.runs()
    note_stage()
    job.ends(LOSS)
    job.backend.work()
    job.attempts.on_state(1, running_state())
    note_stage()
    job.runs()
    note_stage()
    assert stages == [Stage.RUNNING, Stage.ENDED, Stage.RUNNING], "an old attempt's states show nothing"


def test_an_abort_before_the_loss_is_reported_is_an_abort() -> None:
    job = Job()
    job.attempts.on_state(1, ended_state(LOSS))
    job.attempts.stop(Cause.ABORT)
    job.attempts.on_verdict(1, LOSS, "")
    job.backend.work()
    assert (job.number, job.verdict and job.verdict.code) == (1, 9)


def test_an_abort_reaches_the_current_attempt() -> None:
    job = Job()
    job.ends(LOSS)
    job.backend.work()
    job.attempts.stop(Cause.CLEANUP)
    job.attempts.stop(Cause.ABORT)
    job.attempts.stop(Cause.CLEANUP)
    assert job.backend.stopped == [("job-site-r1", Cause.CLEANUP), ("job-site-r1", Cause.ABORT)]
    aborted = Verdict(Reason.ABORTED, 9)
    job.ends(aborted)
    assert job.verdict is aborted


def test_the_end_of_a_drained_pods_log_is_kept() -> None:
    """It is read while the pod is being deleted: with the pod goes its log."""
    job = Job(keeps_logs=True)
    state = replace(running_state(), pod=replace(POD_RUNNING, deleting=True))
    job.attempts.on_state(1, state)
    job.attempts.on_state(1, state)
    assert len(job.backend.tasks) == 1
    job.backend.work()
    job.ends(LOSS)
    assert job.backend.lost == [(1, LOSS, "log of job-site")]


def test_no_log_is_read_in_vain() -> None:
    """Neither if the site keeps none, nor if no attempt may follow."""
    for job in (Job(), Job(1, keeps_logs=True)):
        job.attempts.on_state(1, replace(running_state(), pod=replace(POD_RUNNING, deleting=True)))
        assert not job.backend.tasks


@pytest.mark.parametrize(
    ("late", "kept"),
    [
        ("", "log of job-site"),
        ("the log could not be read: 404", "log of job-site"),
        ("log of job-site\nlast words", "log of job-site\nlast words"),
    ],
)
def test_the_later_log_counts_if_it_could_be_read(late: str, kept: str) -> None:
    job = Job(keeps_logs=True)
    job.attempts.on_state(1, replace(running_state(), pod=replace(POD_RUNNING, deleting=True)))
    job.backend.work()
    job.attempts.on_state(1, ended_state(LOSS))
    job.attempts.on_verdict(1, LOSS, late)
    assert job.backend.lost == [(1, LOSS, kept)]


def test_a_missing_thread_loses_no_attempt() -> None:
    job = Job()
    job.backend.has_threads = False
    job.ends(LOSS)
    assert job.number == 2


def test_a_note_that_fails_keeps_no_attempt_from_beginning() -> None:
    job = Job()

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    job.backend.on_lost = fail  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match="a defect"):
        job.ends(LOSS)
    job.backend.work()
    assert job.number == 2


def test_a_note_that_fails_keeps_no_attempt_from_going_on() -> None:
    job = Job()

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    job.backend.on_next = fail  # type: ignore[assignment,method-assign]
    job.ends(LOSS)
    with pytest.raises(ValueError, match="a defect"):
        job.backend.work()
    assert (job.number, job.verdict) == (2, None)


def terminated_state() -> JobState:
    return replace(ended_state(LOSS), is_ended_by_others=True)


def test_no_attempt_follows_a_workflow_that_somebody_ends_first() -> None:
    """Whether that shows before the attempt's place is free, or while the server is asked."""
    waiting, asking = Job(), Job()
    waiting.ends(LOSS, is_gone=False)
    waiting.attempts.on_state(1, replace(terminated_state(), confirmed_gone=False))
    asking.ends(LOSS)
    asking.backend.on_probe = lambda: asking.attempts.on_state(1, terminated_state())
    for job in (waiting, asking):
        job.backend.work()
        assert job.number == 1
        assert job.verdict is not None
        assert job.verdict.reason is Reason.DISRUPTED
        assert "not started again: its Workflow was terminated or deleted" in job.verdict.detail
        assert len(job.backend.ends) == 1


def test_a_place_that_is_taken_again_is_waited_for() -> None:
    """Argo creates another pod, or a person starts the Workflow again, while the server is asked."""
    job = Job()
    job.ends(LOSS)
    job.backend.on_probe = lambda: job.attempts.on_state(1, ended_state(LOSS, is_gone=False))
    job.backend.work()
    assert (job.number, job.verdict) == (1, None)
    job.backend.on_probe = lambda: None
    job.attempts.on_state(1, ended_state(LOSS))
    job.backend.work()
    assert job.number == 2


def test_a_place_that_does_not_become_free_ends_the_job() -> None:
    job = Job()
    job.ends(LOSS, is_gone=False)
    job.attempts.on_state(1, replace(ended_state(LOSS, is_gone=False), is_end_overdue=True))
    job.backend.work()
    assert job.verdict is not None
    assert "not started again: its Workflow or pod has not ended after 600 s" in job.verdict.detail


def test_an_adopted_job_is_started_again() -> None:
    """Its numbers go on where the earlier run of the parent left off."""
    job = Job(adopted=2)
    assert job.attempts.launched.name == "job-site-r1"
    job.ends(LOSS)
    job.backend.work()
    assert [each.name for each in job.backend.launched] == ["job-site-r1", "job-site-r2"]
    job.ends(LOSS)
    job.backend.work()
    assert job.verdict is not None
    assert (job.number, job.verdict.detail) == (3, "attempt 3 of 3: drained")


@pytest.mark.parametrize("verdict", [DELETED, replace(FAILURE, exit_code=143)])
@pytest.mark.parametrize("is_unseen", [True, False])
def test_a_pod_that_went_with_its_parent_is_a_loss(verdict: Verdict, is_unseen: bool) -> None:  # noqa: FBT001
    """Only of the attempt that was adopted: a later one is seen from its beginning."""
    job = Job(adopted=1)
    job.ends(verdict, is_unseen=is_unseen)
    job.backend.work()
    final = replace(verdict, detail=NOT_COUNTED) if verdict is DELETED else verdict
    assert (job.number, job.verdict) == ((2, None) if is_unseen else (1, final))
    if is_unseen:
        job.ends(verdict, is_unseen=True)
        job.backend.work()
        assert (job.number, job.verdict and job.verdict.reason) == (2, verdict.reason)


@pytest.mark.parametrize("verdict", [SUCCESS, FAILURE, NEVER_RAN, REPORTED])
def test_an_own_end_that_nobody_saw_is_final(verdict: Verdict) -> None:
    job = Job(adopted=2)
    job.ends(verdict, is_unseen=True)
    job.backend.work()
    assert (job.number, job.verdict) == (2, verdict)


def test_the_cleanup_of_an_adopted_job_is_an_abort() -> None:
    """FLARE's server does not tell the parent of an adopted job that the job was aborted."""
    job = Job(adopted=1)
    job.attempts.stop(Cause.CLEANUP)
    assert job.backend.stopped == [("job-site", Cause.ABORT)]
    job.ends(LOSS)
    assert (job.verdict and job.verdict.code, job.number) == (9, 1)


def test_the_cleanup_of_an_adopted_jobs_next_attempt_is_an_abort() -> None:
    job = Job(adopted=1)
    job.ends(LOSS)
    job.backend.work()
    job.attempts.stop(Cause.CLEANUP)
    assert job.backend.stopped == [("job-site-r1", Cause.ABORT)]


@pytest.mark.parametrize(("cause", "expected"), [(Cause.CLEANUP, Cause.ABORT), (Cause.PARENT_END, Cause.PARENT_END)])
def test_a_stop_before_the_adoption_is_not_lost(cause: Cause, expected: Cause) -> None:
    """FLARE has the handle before the loop follows the job."""
    backend = FakeBackend()
    attempts = Attempts(backend, 3, deleted_counts=False, keeps_logs=False)
    attempts.stop(cause)
    attempts.adopt(1)
    assert backend.stopped[-1] == ("job-site", expected)
    attempts.on_state(1, ended_state(LOSS))
    attempts.on_verdict(1, LOSS, "")
    assert [verdict.reason for verdict, _ in backend.ends] == [expected.value]


def test_an_adoption_that_is_refused_leaves_nobody_waiting() -> None:
    backend = FakeBackend(fails=lambda _: SubmitError("this FLARE parent is shutting down"))
    attempts = Attempts(backend, 3, deleted_counts=False, keeps_logs=False)
    with pytest.raises(SubmitError, match="shutting down"):
        attempts.adopt(2)
    assert attempts.launched.verdict is not None
    assert (attempts.launched.verdict.reason, attempts.launched.verdict.code) == (Reason.ORPHANED, 104)


@pytest.mark.parametrize("stage", [Stage.SUBMITTED, Stage.SHORTAGE, Stage.PULLING])
def test_the_server_is_asked_about_an_adopted_attempt_that_waits(stage: Stage) -> None:
    """The server's process may have ended while the attempt waited. A process that runs hears of it by itself."""
    job = Job(adopted=2)
    job.runs()
    assert not job.backend.tasks
    job = Job(adopted=2)
    job.attempts.on_state(2, replace(running_state(), stage=stage, pod=None))
    job.backend.servers = [ServerJob.GONE] * GONE_ANSWERS
    job.runs()
    job.backend.work()
    assert job.backend.stopped == [("job-site-r1", Cause.CLEANUP)]
    cleaned_up = Verdict(Reason.CLEANED_UP, 1)
    job.ends(cleaned_up)
    assert job.verdict is cleaned_up


CAUSES = {"abort": Cause.ABORT, "cleanup": Cause.CLEANUP, "shutdown": Cause.PARENT_END}
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.sampled_from((LOSS, LOSS, LOSS, REFUSED, *OTHERS)), st.booleans()),
        st.tuples(st.sampled_from(("run", "gone", "taken", "ended by others", "work", "work"))),
        st.tuples(st.sampled_from(("run", "gone", "work", "restart", *CAUSES))),
    ),
    min_size=8,
    max_size=25,
)


class Play:
    """Attempts to which moves happen in any order. The parent may restart, and adopt the attempt that runs."""

    def __init__(self, servers: list[ServerJob], max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.servers = list(servers)
        self.ended: set[int] = set()
        self.losses = 0
        self.is_stopped = False
        self.is_ended_by_others = False
        self._begin(Job(max_attempts))

    def _begin(self, job: Job) -> None:
        self.job = job
        job.backend.servers = self.servers

    def restart(self) -> None:
        """Replace the parent while an attempt runs: between two attempts the job's credentials are gone."""
        if self.job.number not in self.ended and not self.is_stopped:
            self._begin(Job(self.max_attempts, adopted=self.job.number))

    def end(self, verdict: Verdict, *, is_gone: bool) -> None:
        """The current attempt ends, unless it has ended before."""
        if self.job.number not in self.ended:
            self.ended.add(self.job.number)
            self.losses += verdict is LOSS
            self.job.ends(verdict, is_gone=is_gone)

    def shows(self, *, is_gone: bool = True) -> None:
        """A state of the attempt that has ended shows whether something of it is left."""
        if self.job.number in self.ended:
            state = ended_state(LOSS, is_gone=is_gone)
            self.job.attempts.on_state(self.job.number, replace(state, is_ended_by_others=self.is_ended_by_others))
            self.is_stopped |= self.is_ended_by_others

    def move(self, name: str, *args: Any) -> None:
        """Make one move."""
        if name == "end":
            self.end(args[0], is_gone=args[1])
        elif name == "run" and self.job.number not in self.ended:
            self.job.runs()
        elif name in {"gone", "taken"}:
            self.shows(is_gone=name == "gone")
        elif name == "ended by others":
            self.is_ended_by_others = True
        elif name == "work" and self.job.backend.tasks:
            self.job.backend.tasks.pop(0)()
        elif name == "restart":
            self.restart()
        elif name in CAUSES:
            self.job.attempts.stop(CAUSES[name])
            self.is_stopped = True

    def check(self, move: Callable[[], None], max_attempts: int) -> None:
        """Make a move, and check what must hold after each."""
        launches, was_stopped = self.job.number, self.is_stopped
        move()
        if self.job.number > launches:
            assert not was_stopped, "an attempt began after the job was stopped"
            assert launches in self.ended, "two attempts ran at once"
        assert self.job.number <= max_attempts
        assert len(self.job.backend.ends) <= 1

    def finish(self, max_attempts: int) -> Verdict:
        """Let the current attempt and all tasks end; return the verdict."""
        for _ in range(self.job.number + 4):
            while self.job.backend.tasks:
                self.check(partial(self.move, "work"), max_attempts)
            self.end(SUCCESS, is_gone=True)
            self.shows()
        assert len(self.job.backend.ends) == 1
        assert not self.job.backend.is_noted
        return self.job.backend.ends[0][0]


@given(MOVES, st.lists(st.sampled_from(ServerJob), max_size=8), st.integers(1, 4))
def test_any_order_gives_one_verdict(moves: list[Any], servers: list[ServerJob], max_attempts: int) -> None:
    """However inputs, tasks, restarts and requests to stop follow each other, one attempt runs, and the job ends once.

    The numbers of attempts go on across restarts, so there are never more than the job may have.
    """
    play = Play(servers, max_attempts)
    for move in moves:
        play.check(partial(play.move, *move), max_attempts)
    verdict = play.finish(max_attempts)
    assert verdict is play.job.verdict
    if verdict.reason is Reason.SUCCEEDED:
        assert play.losses < len(play.ended)
