"""The attempts of one client's job: its process is started again when the infrastructure has lost it.

Each attempt is a launch of its own in the loop, with its own Workflow and credentials Secret. FLARE sees one job: its
handle gets a verdict only when the last attempt has ended, because FLARE fails the whole federated job as soon as a
site reports an end. flargo.status.rejoin decides what counts as a loss, and when the next attempt may begin.

Inputs come from three kinds of threads: states from the reconciler's, verdicts from a reporter, and requests to stop
from FLARE's. Each changes the state under a lock, and does its I/O outside of it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from flargo.control.launched_job import LaunchedJob
from flargo.control.submit import SubmitError
from flargo.control.workers import Task
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.rejoin import (
    find_obstacle,
    has_never_started,
    is_loss,
    is_place_free,
    lost_pods,
    may_have_missed_the_server,
    needs_note,
    settle_seconds,
)
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Plan, ServerJob

PROBE_SECONDS = 60.0
"""Seconds for which a server that cannot be asked is asked again before an attempt is given up. FLARE's client takes as
long to reconnect (nvflare's ``max_runner_sync_timeout``)."""
PROBE_INTERVAL = 2.0
"""Seconds between two such questions."""
GONE_ANSWERS = 3
"""Answers in a row after which the server's process of the job counts as gone: it may have lost its connection with the
server for a moment."""
SYNC_SECONDS = 300.0
"""Seconds after which a program that runs has found the server's process. FLARE's own program looks for it for a minute
(nvflare's ``max_runner_sync_timeout``)."""


class Backend(Protocol):
    """What the attempts of a job need from the loop and from FLARE. Its methods may do I/O, except ``launch``."""

    def build_plan(self, number: int) -> Plan:
        """Return the plan of an attempt after the first, and note that the attempt is about to begin.

        Raises:
            SubmitError: no job may be launched any more.
        """

    def on_dropped(self) -> None:
        """Note that the attempt whose plan was built last does not begin: the job has ended."""

    def launch(self, attempts: "Attempts", plan: Plan, number: int) -> LaunchedJob:
        """Start to launch an attempt, which reports to ``attempts`` with its number, and return at once.

        Raises:
            SubmitError: no job may be launched any more.
        """

    def adopt(self, attempts: "Attempts", number: int) -> LaunchedJob:
        """Follow an attempt that an earlier run of this parent has launched, and return at once.

        Raises:
            SubmitError: the parent is shutting down.
        """

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        """Request the end of an attempt, and return at once."""

    def run(self, task: Task) -> bool:
        """Run a task on another thread; return False if there is none."""

    def probe_server(self) -> ServerJob:
        """Return whether the server's process of the job runs."""

    def read_log(self, state: JobState) -> str:
        """Return the end of an attempt's log, or "" if there is none."""

    def on_lost(self, number: int, verdict: Verdict, tail: str, workflow: WorkflowView | None) -> None:
        """Note that an attempt was lost, and that the next one will be tried."""

    def on_next(self, number: int, pods: tuple[str, ...], workflow: str, lost: WorkflowView | None) -> None:
        """Note that an attempt after the first has begun; ``pods`` of the one before may still run on a lost node.

        Args:
            number: which attempt it is.
            pods: those pods.
            workflow: the name of its Workflow.
            lost: the Workflow of the attempt before.
        """

    def on_end(self, verdict: Verdict, workflow: str, tail: str) -> None:
        """Report the verdict on the job."""

    def note_verdict(self, verdict: Verdict, workflows: Sequence[WorkflowView]) -> None:
        """Note the verdict for people, on the first of these Workflows that exists, and return at once."""


class Attempts:
    """The attempts of one job, of which one at a time is followed by the loop."""

    def __init__(
        self,
        backend: Backend,
        max_attempts: int,
        *,
        deleted_counts: bool,
        keeps_logs: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare without launching anything.

        Args:
            backend: the loop and FLARE.
            max_attempts: how many attempts the job may have, at least 1.
            deleted_counts: an attempt whose pod somebody has deleted is followed by another one.
            keeps_logs: read the end of the log of each attempt that may be lost, while its pod is still there.
            clock: returns the current time in seconds, on a monotonic clock.
        """
        self._backend = backend
        self._max_attempts = max_attempts
        self._deleted_counts = deleted_counts
        self._keeps_logs = keeps_logs
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        """Set when FLARE no longer wants the job, or its verdict is known."""
        self._cause: Cause | None = None
        self._number = 1
        self._attempt = LaunchedJob("")
        """The attempt that the loop follows, or the lost one while there is none."""
        self._loss: Verdict | None = None
        """The verdict on the latest attempt that this run of the parent has lost."""
        self._is_loss = self._is_place_free = self._is_in_gap = self._is_server_asked = self._is_server_gone = False
        self._obstacle = ""
        """Why no attempt may follow this one although it was lost."""
        self._has_turn = False
        """A task begins the next attempt, or ends the job. States of the lost attempt may still come."""
        self._began_at: float | None = None
        """When the attempt's program was first seen running."""
        self._lost_pods: tuple[str, ...] = ()
        self._workflow: WorkflowView | None = None
        """The latest view of the attempt's Workflow."""
        self._lost_workflow: WorkflowView | None = None
        """That of the attempt before."""
        self._own_verdict: Verdict | None = None
        """The verdict on the attempt, whatever the verdict on the job will be."""
        self._tail = ""
        self._is_tail_read = False
        self._is_over = False
        self._is_adopted = self._is_attempt_adopted = False
        """An earlier run of this parent has launched the job; the present attempt, too."""
        self.launched = LaunchedJob("")
        """The job as FLARE's handle sees it: with the stage of the attempt that the loop follows."""

    def start(self, plan: Plan) -> None:
        """Launch the first attempt.

        Raises:
            SubmitError: no job may be launched any more.
        """
        with self._lock:
            self._attempt = self._backend.launch(self, plan, 1)
            self.launched.name = plan.name

    def adopt(self, number: int) -> None:
        """Follow an attempt that an earlier run of this parent has launched. FLARE may wait for the job already.

        Args:
            number: which attempt it is, from 1.

        Raises:
            SubmitError: the parent is shutting down. The job has got its verdict then.
        """
        try:
            with self._lock:
                self._is_adopted = self._is_attempt_adopted = self._is_server_asked = True
                self._number = number
                self._attempt = self._backend.adopt(self, number)
                self.launched.name = self._attempt.name
                if self._cause is not None:
                    self._cause = self._end_cause(self._cause)
                attempt, cause = self._attempt, self._cause
        except SubmitError as error:
            self._conclude(Verdict(Reason.ORPHANED, int(ReturnCode.LOST), str(error)))
            raise
        if cause is not None:
            self._backend.stop(attempt, cause)

    def stop(self, cause: Cause) -> None:
        """End the job for good, whichever attempt runs or is about to begin. Returns at once.

        Between two attempts nothing runs, so the job's end is reported before this returns. A queue of tasks could be
        too long for that, or be dropped because the parent shuts down.
        """
        with self._lock:
            if self._is_over or self._cause is Cause.ABORT:
                return
            self._cause = cause = self._end_cause(cause)
            attempt, is_in_gap = self._attempt, self._is_in_gap
        self._stopped.set()
        if is_in_gap:
            self._conclude(_stopped_verdict(cause, "it was between two attempts"))
        else:
            self._backend.stop(attempt, cause)

    def _end_cause(self, requested: Cause) -> Cause:
        """Return why the job ends, for a request of FLARE.

        An adopted job's abort arrives only as the cleanup of a job that the server no longer knows.
        """
        return Cause.ABORT if self._is_adopted and requested is Cause.CLEANUP else requested

    # --- called by the loop, with the number of the attempt

    def on_state(self, number: int, state: JobState) -> None:
        """Take a new state of an attempt. Called on the reconciler's thread; does no I/O."""
        with self._lock:
            if number != self._number or self._is_over:
                return
            ended_unseen = self._is_attempt_adopted and state.pod is None
            self._is_loss = is_loss(state, deleted_counts=self._deleted_counts, ended_unseen=ended_unseen)
            self._is_place_free = is_place_free(state)
            self._obstacle = find_obstacle(state, deleted_counts=self._deleted_counts, ended_unseen=ended_unseen)
            if state.stage is Stage.RUNNING and self._began_at is None:
                self._began_at = self._clock()
            self._lost_pods = lost_pods(state)
            self._workflow = state.observation.workflow or self._workflow
            self._own_verdict = state.verdict
            if self._is_attempt_adopted and Stage.ABSENT < state.stage < Stage.RUNNING:
                self._is_server_asked = False
            asks_server = number > 1 and state.stage is Stage.RUNNING and not self._is_server_asked
            self._is_server_asked |= asks_server
            is_dying = state.pod is not None and state.pod.deleting and number < self._max_attempts
            reads_log = self._keeps_logs and is_dying and not self._is_tail_read
            self._is_tail_read |= reads_log
            task = self._take_turn()
        self.launched.follow(state)
        if reads_log:
            self._backend.run(lambda: self._read_log(number, state))
        if asks_server:
            self._backend.run(lambda: self._check_server(number))
        if task is not None:
            self._do(task)

    def on_verdict(self, number: int, verdict: Verdict, tail: str) -> None:
        """Take the verdict on an attempt: hold it back if another attempt may follow, else report it."""
        with self._lock:
            if number != self._number or self._is_over:
                return
            continues = self._is_loss and self._cause is None and number < self._max_attempts
            if continues:
                self._loss = verdict
                tail = _choose_tail(self._tail, tail)
            workflow = self._workflow
        if not continues:
            self._conclude(self._final_verdict(number, verdict), tail)
            return
        try:
            self._backend.on_lost(number, verdict, tail, workflow)
        finally:
            self._enter_gap()

    # --- between two attempts

    def _enter_gap(self) -> None:
        with self._lock:
            self._is_in_gap = True
            task, cause = self._take_turn(), self._cause
        if cause is not None:
            self._conclude(_stopped_verdict(cause, "it was between two attempts"))
        elif task is not None:
            self._do(task)

    def _take_turn(self) -> Task | None:
        """Return once what is to be done between two attempts, as soon as it is clear; None at any other time."""
        if not self._is_in_gap or self._has_turn or self._cause is not None:
            return None
        self._has_turn = self._is_place_free or bool(self._obstacle)
        if self._obstacle:
            return self._give_up
        return self._begin_next if self._is_place_free else None

    def _give_up(self) -> None:
        self._conclude(self._loss_with(f"not started again: {self._obstacle}"))

    def _begin_next(self) -> None:
        """Launch the next attempt if the server's process of the job still runs."""
        number = self._number + 1
        assert self._loss is not None, "there was no loss"
        seconds = settle_seconds(self._loss)
        if seconds:
            self._stopped.wait(seconds)
        server = self._ask_server()
        if self._cause is not None:
            return  # The request to stop has interrupted the wait or the question, and gives the verdict itself.
        if server is not ServerJob.RUNS:
            what = "runs no longer" if server is ServerJob.GONE else f"could not be reached for {PROBE_SECONDS:g} s"
            self._conclude(self._loss_with(f"not started again: the server's process of the job {what}"))
            return
        try:
            announce = self._launch(self._backend.build_plan(number), number)
        except SubmitError as error:
            self._conclude(self._loss_with(f"not started again: {error}"))
            return
        except Exception:
            self._conclude(self._loss_with("not started again: an unexpected error; the parent's log has it"))
            raise
        announce()

    def _launch(self, plan: Plan, number: int) -> Task:
        """Launch the next attempt, unless what is known has changed while the server was asked; return how to note it.

        Raises:
            SubmitError: no attempt may follow.
        """
        with self._lock:
            if self._cause is not None or self._is_over:
                return self._backend.on_dropped
            if self._obstacle:
                raise SubmitError(self._obstacle)
            if not self._is_place_free:
                self._has_turn = False
                return _do_nothing  # Something of the lost attempt runs again. A later state begins the next one.
            pods, lost = self._lost_pods, self._workflow
            self._attempt = self._backend.launch(self, plan, number)
            self._number = number
            self._is_loss = self._is_place_free = self._is_in_gap = self._is_server_asked = self._is_server_gone = False
            self._has_turn, self._obstacle, self._began_at = False, "", None
            self._is_attempt_adopted = False
            self._is_tail_read, self._tail = False, ""
            self._lost_workflow, self._workflow, self._own_verdict = lost, None, None
        return lambda: self._backend.on_next(number, pods, plan.name, lost)

    def _ask_server(self) -> ServerJob:
        """Ask for the server's process of the job until the answer is clear, for PROBE_SECONDS at most."""
        last_try_at = self._clock() + PROBE_SECONDS - PROBE_INTERVAL
        gone_answers = 0
        while True:
            answer = self._backend.probe_server()
            gone_answers = gone_answers + 1 if answer is ServerJob.GONE else 0
            if answer is ServerJob.RUNS or gone_answers == GONE_ANSWERS:
                return answer
            if self._clock() > last_try_at or self._stopped.wait(PROBE_INTERVAL):
                return ServerJob.UNKNOWN

    def _check_server(self, number: int) -> None:
        """End an attempt whose program begins if the server's process of the job has ended meanwhile.

        The program would look for it for a minute, and then fail a job that may have finished.
        """
        if self._ask_server() is not ServerJob.GONE:
            return
        with self._lock:
            if number != self._number or self._is_over:
                return
            self._is_server_gone = True
            attempt = self._attempt
        self._backend.stop(attempt, Cause.CLEANUP)

    def _read_log(self, number: int, state: JobState) -> None:
        tail = self._backend.read_log(state)
        with self._lock:
            self._tail = tail if number == self._number else self._tail

    # --- the end

    def _final_verdict(self, number: int, verdict: Verdict) -> Verdict:
        """Return the verdict on the job if no attempt follows; it may be the loss before a vain attempt."""
        if self._cause is not None and self._is_loss:
            return _stopped_verdict(self._cause, verdict.detail)
        if self._loss is None or verdict.code == ReturnCode.SUCCESS or self._cause is not None:
            return verdict
        attempt = f"attempt {number} of {self._max_attempts}"
        if self._is_server_gone:
            return self._loss_with(f"{attempt} was ended: the server's process of the job runs no longer")
        if has_never_started(verdict):
            return self._loss_with(f"{attempt} did not start ({verdict.reason.name}): {verdict.detail}")
        if self._has_missed_the_server(verdict):
            return self._loss_with(f"{attempt} found no process of the server's job")
        return replace(verdict, detail=f"{attempt}: {verdict.detail}" if self._is_loss else verdict.detail)

    def _has_missed_the_server(self, verdict: Verdict) -> bool:
        """Return whether an attempt has just begun, and has ended because the server's process had ended before."""
        is_synced = self._began_at is not None and self._clock() >= self._began_at + SYNC_SECONDS
        if is_synced or not may_have_missed_the_server(verdict):
            return False
        return self._backend.probe_server() is ServerJob.GONE

    def _loss_with(self, detail: str) -> Verdict:
        assert self._loss is not None, "there was no loss"
        return replace(self._loss, detail="; ".join(filter(None, (self._loss.detail, detail))))

    def _conclude(self, verdict: Verdict, tail: str = "") -> None:
        """Report the verdict once, then wake the threads that wait for the job."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            workflow, own_verdict = self._attempt.name, self._own_verdict
            workflows = [each for each in (self._workflow, self._lost_workflow) if each is not None]
        self._stopped.set()
        try:
            self._backend.on_end(verdict, workflow, tail)
            if self._max_attempts > 1 and needs_note(verdict, own_verdict):
                self._backend.note_verdict(verdict, workflows)
        finally:
            self.launched.conclude(verdict)

    def _do(self, task: Task) -> None:
        """Run a task on another thread, or on this one if there is none: it must not get lost."""
        if not self._backend.run(task):
            task()


def _do_nothing() -> None:
    pass


def _stopped_verdict(cause: Cause, detail: str) -> Verdict:
    return Verdict(cause.value, int(cause.value.code or ReturnCode.LOST), detail)


def _choose_tail(early: str, late: str) -> str:
    """Return the later end of a log if it continues the earlier one.

    Once the pod is gone, an error is read in its place. The kubelet sends its own errors as if they were the log.
    """
    lines = early.splitlines()
    return late if not lines or lines[-1] in late else early
