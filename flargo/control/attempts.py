"""The attempts of one client's job: its process is started again when the infrastructure has lost it.

Each attempt is a launch of its own in the loop, with its own Workflow and credentials Secret. FLARE sees one job: its
handle gets a verdict only when the last attempt has ended, because FLARE fails the whole federated job as soon as a
site reports an end. flargo.status.attempts_state decides what follows from what is known.

Inputs come from three kinds of threads: states from the reconciler's, verdicts from a reporter, and requests to stop
from FLARE's. Each changes the state under a lock, and does its I/O outside of it.
"""

import threading
import time
from collections.abc import Callable
from functools import partial

from flargo.control.attempts_backend import Backend
from flargo.control.launched_job import LaunchedJob
from flargo.control.server_probe import PROBE_INTERVAL, PROBE_SECONDS, Inquiry
from flargo.control.submit import SubmitError
from flargo.control.workers import Task
from flargo.status import attempts_state as transitions
from flargo.status.attempts_state import AttemptsState, Rules, Todo
from flargo.status.attempts_verdict import final_verdict, loss_verdict, must_ask_server, stopped_verdict
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.rejoin import needs_note, settle_seconds
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Plan, ServerJob


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
        self._clock = clock
        self._lock = threading.Lock()
        self._state = AttemptsState(Rules(max_attempts, deleted_counts, keeps_logs))
        self._attempt = LaunchedJob("")
        """The attempt that the loop follows, or the lost one while there is none. Changes with the state."""
        self._lost: LaunchedJob | None = None
        """The attempt before, whose credentials are kept until those of the present one can exist."""
        self._stopped = threading.Event()
        """Set when FLARE no longer wants the job, or its verdict is known."""
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

    def adopt(self, number: int, loss: Verdict | None = None) -> None:
        """Follow an attempt that an earlier run of this parent has launched. FLARE may wait for the job already.

        Args:
            number: which attempt it is, from 1.
            loss: the verdict on the attempt before, if there was one.

        Raises:
            SubmitError: the parent is shutting down. The job has got its verdict then.
        """
        try:
            with self._lock:
                self._state = transitions.adopt(self._state, number, loss)
                self._attempt = attempt = self._backend.adopt(self, number)
                self.launched.name = attempt.name
                cause = self._state.cause
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
            if self._state.is_over or self._state.cause is Cause.ABORT:
                return
            self._state = state = transitions.request_stop(self._state, cause)
            attempt = self._attempt
        assert state.cause is not None, "the job is being stopped"
        self._stopped.set()
        if state.is_between:
            self._conclude(_stopped_between(state.cause))
        else:
            self._backend.stop(attempt, state.cause)

    # --- called by the loop, with the number of the attempt

    def on_state(self, number: int, state: JobState) -> None:
        """Take a new state of an attempt. Called on the reconciler's thread; does no I/O."""
        with self._lock:
            if not self._state.follows(number):
                return
            self._state, todo = transitions.observe(self._state, state, self._clock())
            lost = self._lost if not state.is_submitting else None
            self._lost = self._lost if lost is None else None
        self.launched.follow(state)
        if lost is not None:
            self._backend.release_secret(lost)
        for each in todo:
            match each:
                case Todo.READ_LOG:
                    self._backend.run(lambda: self._read_log(number, state))
                case Todo.ASK_SERVER:
                    self._backend.run(lambda: self._ask_server(partial(self._check_server, number)))
                case _:
                    self._do(each)

    def on_verdict(self, number: int, verdict: Verdict, tail: str) -> None:
        """Take the verdict on an attempt: hold it back if another attempt may follow, else report it."""
        with self._lock:
            if not self._state.follows(number):
                return
            continues = self._state.may_continue
            if continues:
                self._state = transitions.lose(self._state, verdict)
            state = self._state
        if not continues:
            self._conclude(self._final_verdict(state, verdict), tail)
            return
        try:
            tail = transitions.choose_tail(state.attempt.tail, tail)
            self._backend.on_lost(number, verdict, tail, state.attempt.workflow)
        finally:
            self._enter_gap()

    # --- between two attempts

    def _enter_gap(self) -> None:
        with self._lock:
            self._state, todo = transitions.enter_gap(self._state)
            cause = self._state.cause
        if cause is not None:
            self._conclude(_stopped_between(cause))
        for each in todo:
            self._do(each)

    def _do(self, turn: Todo) -> None:
        """Take the turn on another thread, or on this one if there is none: it must not get lost."""
        self._run(self._give_up if turn is Todo.GIVE_UP else self._begin_next)

    def _run(self, task: Task, delay: float = 0.0) -> None:
        if not self._backend.run(task, delay):
            self._stopped.wait(delay)
            task()

    def _give_up(self) -> None:
        self._conclude_with_loss(f"not started again: {self._state.attempt.obstacle}")

    def _begin_next(self) -> None:
        """Launch the next attempt if the server's process of the job still runs.

        No thread waits meanwhile: the pressure of a node, or a server that is away, concerns many jobs at once.
        """
        assert self._state.attempt.verdict is not None, "there was no loss"
        seconds = settle_seconds(self._state.attempt.verdict)
        self._run(lambda: self._ask_server(self._launch_next), seconds)

    def _launch_next(self, server: ServerJob) -> None:
        state = self._state
        if state.cause is not None:
            return  # The request to stop gives the verdict itself.
        if server is not ServerJob.RUNS:
            what = "runs no longer" if server is ServerJob.GONE else f"could not be reached for {PROBE_SECONDS:g} s"
            self._conclude_with_loss(f"not started again: the server's process of the job {what}")
            return
        assert state.loss is not None, "there was no loss"
        number = state.attempt.number + 1
        try:
            announce = self._launch(self._backend.build_plan(number, state.loss, state.attempt.workflow), number)
        except SubmitError as error:
            self._conclude_with_loss(f"not started again: {error}")
            return
        except Exception:
            self._conclude_with_loss("not started again: an unexpected error; the parent's log has it")
            raise
        announce()

    def _launch(self, plan: Plan, number: int) -> Task:
        """Launch the next attempt, unless what is known has changed while the server was asked; return how to note it.

        Raises:
            SubmitError: no attempt may follow.
        """
        with self._lock:
            lost = self._state.attempt
            if self._state.cause is not None or self._state.is_over:
                return _do_nothing
            if lost.obstacle:
                raise SubmitError(lost.obstacle)
            if not lost.is_place_free:
                self._state = transitions.wait_again(self._state)
                return _do_nothing  # Something of the lost attempt runs again. A later state begins the next one.
            self._lost, self._attempt = self._attempt, self._backend.launch(self, plan, number)
            self._state = transitions.begin_next(self._state)
        return lambda: self._backend.on_next(number, lost.lost_pods, plan.name, lost.workflow)

    def _ask_server(self, then: Callable[[ServerJob], None], inquiry: Inquiry | None = None) -> None:
        """Ask whether the server's process of the job runs, and do something with the answer once it is clear."""
        if self._stopped.is_set():
            return
        inquiry, result = (inquiry or Inquiry(self._clock())).take(self._backend.probe_server(), self._clock())
        if result is None:
            self._run(lambda: self._ask_server(then, inquiry), PROBE_INTERVAL)
        else:
            then(result)

    # --- while an attempt runs

    def _check_server(self, number: int, server: ServerJob) -> None:
        """End an attempt whose program begins if the server's process of the job has ended meanwhile.

        The program would look for it for a minute, and then fail a job that may have finished.
        """
        if server is not ServerJob.GONE:
            return
        with self._lock:
            if not self._state.follows(number):
                return
            self._state = transitions.note_server_gone(self._state)
            attempt = self._attempt
        self._backend.stop(attempt, Cause.CLEANUP)

    def _read_log(self, number: int, state: JobState) -> None:
        tail = self._backend.read_log(state)
        with self._lock:
            self._state = transitions.note_tail(self._state, number, tail)

    # --- the end

    def _final_verdict(self, state: AttemptsState, verdict: Verdict) -> Verdict:
        """Return the verdict on the job if no attempt follows; asks the server once if that decides it."""
        server = self._backend.probe_server() if must_ask_server(state, verdict, self._clock()) else None
        return final_verdict(state, verdict, server)

    def _conclude_with_loss(self, detail: str) -> None:
        self._conclude(loss_verdict(self._state, detail))

    def _conclude(self, verdict: Verdict, tail: str = "") -> None:
        """Report the verdict once, then wake the threads that wait for the job."""
        with self._lock:
            state, attempt, lost = self._state, self._attempt, self._lost
            if state.is_over:
                return
            self._state = transitions.end(state)
        workflows = [each for each in (state.attempt.workflow, state.lost_workflow) if each is not None]
        self._stopped.set()
        try:
            self._backend.on_end(verdict, attempt.name, tail)
            if state.rules.max_attempts > 1 and needs_note(verdict, state.attempt.verdict):
                self._backend.note_verdict(verdict, workflows)
        finally:
            self.launched.conclude(verdict)
            for each in filter(None, (lost, attempt)):
                self._backend.release_secret(each)


def _do_nothing() -> None:
    pass


def _stopped_between(cause: Cause) -> Verdict:
    return stopped_verdict(cause, "it was between two attempts")
