"""What the restarts of a client's parent may do to a job: which jobs may be lost, and what FLARE's requests mean then.

It is written from docs/rejoin.md, not from flargo's code.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from flargo.status.reasons import Reason
from tests.soak.attempts import LOSSES, Attempts
from tests.soak.oracle import Case, DoneIntervention, JobHistory, Report, allowed_reports
from tests.soak.plan import FaultKind, Intervention

UNHEARD_SECONDS = 2.0
"""How long before the kill a verdict may have been logged that FLARE has not heard."""
_ORPHANED: Report = (Reason.ORPHANED, 104)
"""What FLARE hears about a job of which nothing is left that could be taken back."""
OBSERVER_SECONDS = 1.0
"""The limit within which the observer receives what has happened on the cluster."""


@dataclass(frozen=True)
class ParentRestart:
    """The client's parent was killed, and started again."""

    killed_at: float
    back_at: float
    """When all jobs were taken back that could be."""
    records: Collection[str]
    """The ids of the jobs whose records were on the site's disk after the kill."""
    credentials: Collection[str]
    """The names of the Workflows that owned a Secret after the kill."""


@dataclass(frozen=True)
class LoggedVerdict:
    """A verdict in a parent's log. FLARE hears it right after that, unless the parent is killed."""

    at: float
    report: Report


def as_understood(case: Case) -> Case:
    """Return a job's case with FLARE's requests as flargo understands them after a restart.

    FLARE's server does not know the participant of an adopted job, so an abort arrives only as the cleanup of a job
    that the server no longer runs. The site then tells it as an abort.
    """
    restarts = [each for each in case.faults if each.kind is FaultKind.PARENT_RESTART and each.start > case.launched_at]
    adopted_at = min((each.end for each in restarts), default=None)
    if adopted_at is None:
        return case
    return replace(case, interventions=[_as_told(each, adopted_at) for each in case.interventions])


def _as_told(done: DoneIntervention, adopted_at: float) -> DoneIntervention:
    is_abort = done.intervention is Intervention.CLEANUP and done.finished_at > adopted_at
    return replace(done, intervention=Intervention.ABORT) if is_abort else done


def why_lost(
    job_id: str, attempts: Attempts, restart: ParentRestart, verdicts: Sequence[LoggedVerdict], *, is_launched: bool
) -> str:
    """Return why a job could not be taken back; "" if it should have been.

    Args:
        job_id: the job's id.
        attempts: what happened to the job.
        restart: the restart after which it was not taken back.
        verdicts: the verdicts on the job in the log of the parent that was killed.
        is_launched: FLARE's launch call had returned.
    """
    killed_at = restart.killed_at
    first = attempts.histories[0]
    if not is_launched or not _is_released(first, killed_at):
        return "its launch had not finished"
    at_kill = _at_kill(attempts, restart)
    if job_id not in restart.records:
        return "FLARE had hardly heard its verdict" if _is_explained(at_kill, verdicts, killed_at) else ""
    return "its Workflow was deleted" if _was_deleted(at_kill, restart) else ""


def allowed_ends(attempts: Attempts, restarts: Sequence[ParentRestart]) -> frozenset[Report]:
    """Return the reports that are right for a job that was not lost with its parent.

    A loss that another attempt should have followed is right if the parent was killed after it had deleted the
    credentials of the lost attempt, and before the next one had its own. A job that was not released yet, or whose
    Workflow somebody deleted before the parent was back, cannot be taken back, which FLARE hears.
    """
    allowed = attempts.allowed_ends()
    launched_at, verdict_at = attempts.whole.launched_at, attempts.whole.verdict_at
    for restart in restarts:
        at_kill = _at_kill(attempts, restart)
        if launched_at < restart.killed_at < verdict_at:
            is_unfinished = not _is_released(attempts.histories[0], restart.killed_at)
            allowed |= {_ORPHANED} if is_unfinished or _was_deleted(at_kill, restart) else set()
        names = {each.name for each in at_kill.histories}
        if restart.killed_at < attempts.whole.verdict_at and names.isdisjoint(restart.credentials):
            for index in range(len(at_kill.histories)):
                allowed |= allowed_reports(at_kill.case_of(index)) & LOSSES
    return allowed


def _at_kill(attempts: Attempts, restart: ParentRestart) -> Attempts:
    """Return what had happened to a job when its parent was killed; there may have been no attempt yet."""
    killed_at = restart.killed_at
    known = [_until(each, killed_at) for each in attempts.histories if (each.workflow_at or killed_at) < killed_at]
    return replace(attempts, whole=replace(attempts.whole, verdict_at=killed_at), histories=known)


def _until(history: JobHistory, killed_at: float) -> JobHistory:
    """Return an attempt's history without what the parent cannot have known when it was killed."""
    limit = killed_at + OBSERVER_SECONDS
    first, last, gone = history.first_end, history.last_end, history.first_pod_gone_at
    return replace(
        history,
        first_end=first if first is not None and first.observed_at < limit else None,
        last_end=last if last is not None and last.observed_at < limit else None,
        first_pod_gone_at=gone if gone is not None and gone < limit else None,
    )


def _was_deleted(at_kill: Attempts, restart: ParentRestart) -> bool:
    """Return whether somebody deleted the latest attempt's Workflow before the parent was back."""
    if not at_kill.histories:
        return False
    last = at_kill.case_of(len(at_kill.histories) - 1)
    deletions = [each for each in last.interventions if each.intervention is Intervention.DELETE_WORKFLOW]
    return any(each.started_at < restart.back_at and not each.error for each in deletions)


def _is_released(history: JobHistory, killed_at: float) -> bool:
    return history.released_at is not None and history.released_at < killed_at - OBSERVER_SECONDS


def _is_explained(at_kill: Attempts, verdicts: Sequence[LoggedVerdict], killed_at: float) -> bool:
    """Return whether the parent had reason to delete the job's record, and no time to tell FLARE about it."""
    allowed = at_kill.allowed_ends()
    return bool(verdicts) and all(each.report in allowed and each.at > killed_at - UNHEARD_SECONDS for each in verdicts)
