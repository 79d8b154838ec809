"""What is known about the attempts of one client's job, and what is to be done next: transitions of a frozen state.

One attempt at a time is followed. When it is lost, and another one may follow, the job is between two attempts until
nothing of the lost one runs any more; then one task begins the next attempt, or ends the job. flargo.status.rejoin says
what counts as a loss, and flargo.status.attempts_verdict how the job ends. The caller holds a lock, and does the I/O.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.rejoin import find_obstacle, is_loss, is_place_free, lost_pods
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView


class Phase(Enum):
    """Where a job stands between its attempts. From BEGINNING it may go back to WAITING."""

    FOLLOWED = auto()
    """An attempt is followed, or its verdict is being noted."""
    WAITING = auto()
    """The attempt was lost, and something of it may still run."""
    BEGINNING = auto()
    """A task begins the next attempt, or ends the job. States of the lost attempt may still come."""
    OVER = auto()
    """The job has its verdict."""


class Todo(Enum):
    """What a transition leaves to its caller, who does it outside of the lock."""

    READ_LOG = auto()
    """Read the end of the attempt's log, which goes with its pod."""
    ASK_SERVER = auto()
    """Ask whether the server's process of the job still runs, and end the attempt if not."""
    BEGIN_NEXT = auto()
    """Begin the next attempt."""
    GIVE_UP = auto()
    """End the job with the loss: there is an obstacle."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a job and its site have agreed on."""

    max_attempts: int
    """How many attempts the job may have, at least 1."""
    deleted_counts: bool
    """An attempt whose pod somebody has deleted is followed by another one."""
    keeps_logs: bool
    """The end of the log of each attempt that may be lost is read while its pod is still there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that is followed, or the lost one while there is none. Its fields come from its latest state."""

    number: int = 1
    is_adopted: bool = False
    """An earlier run of this parent has launched it."""
    is_loss: bool = False
    is_place_free: bool = False
    obstacle: str = ""
    """Why no attempt may follow this one although it was lost."""
    began_at: float | None = None
    """When its program was first seen running, on the caller's clock."""
    lost_pods: tuple[str, ...] = ()
    """Its pods that may still run on a lost node."""
    workflow: WorkflowView | None = None
    verdict: Verdict | None = None
    """The verdict on the attempt, whatever the verdict on the job will be."""
    is_server_asked: bool = False
    is_server_gone: bool = False
    """It is ended because the server's process of the job runs no longer."""
    is_tail_read: bool = False
    tail: str = ""
    """The end of its log, read while its pod was being deleted."""


@dataclass(frozen=True, slots=True)
class AttemptsState:
    """What is known about the attempts of one job."""

    rules: Rules
    attempt: Attempt = Attempt()
    phase: Phase = Phase.FOLLOWED
    cause: Cause | None = None
    """Why the job ends, if FLARE no longer wants it. No attempt follows then."""
    loss: Verdict | None = None
    """The verdict on the latest attempt that was lost. One that its node has refused has lost nothing that was not lost
    before, so the loss before it stays."""
    lost_workflow: WorkflowView | None = None
    """The Workflow of the attempt before."""
    is_adopted: bool = False
    """An earlier run of this parent has launched the job."""

    @property
    def is_over(self) -> bool:
        """Return whether the job has its verdict."""
        return self.phase is Phase.OVER

    @property
    def is_between(self) -> bool:
        """Return whether the job is between two attempts."""
        return self.phase in {Phase.WAITING, Phase.BEGINNING}

    @property
    def may_continue(self) -> bool:
        """Return whether another attempt may follow the present one, which has ended."""
        return self.attempt.is_loss and self.cause is None and self.attempt.number < self.rules.max_attempts

    def follows(self, number: int) -> bool:
        """Return whether news about an attempt still matter."""
        return number == self.attempt.number and not self.is_over


Step = tuple[AttemptsState, tuple[Todo, ...]]
"""The next state, and what is to be done."""


def adopt(state: AttemptsState, number: int, loss: Verdict | None = None) -> AttemptsState:
    """Follow an attempt that an earlier run of this parent has launched. FLARE may have ended the job already."""
    attempt = Attempt(number, is_adopted=True, is_server_asked=True)
    state = replace(state, is_adopted=True, attempt=attempt, loss=loss)
    return state if state.cause is None else request_stop(state, state.cause)


def request_stop(state: AttemptsState, requested: Cause) -> AttemptsState:
    """Note that FLARE no longer wants the job. An abort is final; any other cause may become an abort.

    An adopted job's abort arrives only as the cleanup of a job that the server no longer knows.
    """
    return replace(state, cause=Cause.ABORT if state.is_adopted and requested is Cause.CLEANUP else requested)


def observe(state: AttemptsState, job: JobState, now: float) -> Step:
    """Take a new state of the present attempt."""
    old, rules = state.attempt, state.rules
    runs = job.stage is Stage.RUNNING
    counted = {
        "deleted_counts": rules.deleted_counts,
        "ended_unseen": old.is_adopted and job.pod is None,
        "refusal_counts": old.number > 1 and old.began_at is None,
    }
    was_asked = old.is_server_asked and not (old.is_adopted and Stage.ABSENT < job.stage < Stage.RUNNING)
    asks_server = old.number > 1 and runs and not was_asked
    is_dying = job.pod is not None and job.pod.deleting and old.number < rules.max_attempts
    reads_log = rules.keeps_logs and is_dying and not old.is_tail_read
    attempt = replace(
        old,
        is_loss=is_loss(job, **counted),
        is_place_free=is_place_free(job),
        obstacle=find_obstacle(job, **counted),
        began_at=now if runs and old.began_at is None else old.began_at,
        lost_pods=lost_pods(job),
        workflow=job.observation.workflow or old.workflow,
        verdict=job.verdict,
        is_server_asked=was_asked or asks_server,
        is_tail_read=old.is_tail_read or reads_log,
    )
    todo = ((Todo.READ_LOG,) if reads_log else ()) + ((Todo.ASK_SERVER,) if asks_server else ())
    state, turn = take_turn(replace(state, attempt=attempt))
    return state, todo + turn


def lose(state: AttemptsState, verdict: Verdict) -> AttemptsState:
    """Hold back the verdict on the present attempt: another one may follow."""
    is_vain = state.loss is not None and verdict.reason is Reason.NODE_REFUSED
    return state if is_vain else replace(state, loss=verdict)


def enter_gap(state: AttemptsState) -> Step:
    """Enter the time between two attempts: the loss has been noted."""
    return take_turn(replace(state, phase=Phase.WAITING))


def take_turn(state: AttemptsState) -> Step:
    """Return once what is to be done between two attempts, as soon as it is clear; nothing at any other time."""
    attempt = state.attempt
    if state.phase is not Phase.WAITING or state.cause is not None or not (attempt.obstacle or attempt.is_place_free):
        return state, ()
    return replace(state, phase=Phase.BEGINNING), (Todo.GIVE_UP if attempt.obstacle else Todo.BEGIN_NEXT,)


def wait_again(state: AttemptsState) -> AttemptsState:
    """Wait for the place once more: something of the lost attempt runs again."""
    return replace(state, phase=Phase.WAITING)


def begin_next(state: AttemptsState) -> AttemptsState:
    """Follow the next attempt, which has been launched."""
    lost = state.attempt
    return replace(state, attempt=Attempt(lost.number + 1), phase=Phase.FOLLOWED, lost_workflow=lost.workflow)


def end(state: AttemptsState) -> AttemptsState:
    """Note that the job has its verdict."""
    return replace(state, phase=Phase.OVER)


def note_server_gone(state: AttemptsState) -> AttemptsState:
    """Note that the present attempt is ended because the server's process of the job runs no longer."""
    return replace(state, attempt=replace(state.attempt, is_server_gone=True))


def note_tail(state: AttemptsState, number: int, tail: str) -> AttemptsState:
    """Note the end of an attempt's log, read while its pod was being deleted."""
    return replace(state, attempt=replace(state.attempt, tail=tail)) if number == state.attempt.number else state


def choose_tail(early: str, late: str) -> str:
    """Return the later end of a log if it continues the earlier one.

    Once the pod is gone, an error is read in its place. The kubelet sends its own errors as if they were the log.
    """
    lines = early.splitlines()
    return late if not lines or lines[-1] in late else early
