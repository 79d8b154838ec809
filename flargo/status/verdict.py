"""The one table of what FLARE is told: who wanted the end, what the cluster did, how the program ended.

Sources: design decision 5; nvflare 2.9 ``slurm/manager.py`` (a user's abort is kept where a cooperative stop
ends with 0; codes 101-103 are the program's own and pass; a heartbeat cleanup is no user's abort).
"""

from dataclasses import dataclass
from enum import Enum

from flargo.status.diagnosis import Diagnosis
from flargo.status.reasons import OWN_CODES, Reason


class Cause(Enum):
    """Who in FLARE wanted the job ended."""

    ABORT = Reason.ABORTED
    """A person, through FLARE."""
    CLEANUP = Reason.CLEANED_UP
    """The client's heartbeat: the server no longer runs the job."""
    ORPHANED = Reason.ORPHANED
    """The parent process that launched it has died, and the job's tokens with it; found by its next run."""
    PARENT_END = Reason.PARENT_ENDED
    """The parent process is going away."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a job; set once."""

    reason: Reason
    code: int
    """What FLARE is told."""
    detail: str = ""
    """The cluster's own words."""
    exit_code: int | None = None
    """The program's own, where it ran to an end."""


IMPOSED_ENDS = frozenset(
    {Reason.DISRUPTED, Reason.EVICTED, Reason.POD_DELETED, Reason.WORKFLOW_DELETED, Reason.SHUT_DOWN}
)
"""Ends that were done to a program. If its results had reached the parent by then, its work was not lost: FLARE's job
process uploads them before its teardown."""


def decide(cause: Cause | None, doom: Diagnosis | None, end: Diagnosis, *, published: bool) -> Verdict:
    """The verdict on a job of which nothing runs any more.

    Args:
        cause: FLARE's wish, if it had one.
        doom: what was already known to end the job while its pod was still there.
        end: what is seen now.
        published: the job's results have reached the parent.
    """
    code = end.exit.code if end.exit is not None else None
    reason = _reason(cause, doom, end, code, published=published)
    detail = (doom.detail if doom is not None and doom.reason is reason else "") or end.detail
    told = code if reason.code is None else reason.code
    if told is None:
        raise AssertionError(f"{reason.name} needs the program's exit code")
    return Verdict(reason, int(told), detail, code)


def _reason(
    cause: Cause | None, doom: Diagnosis | None, end: Diagnosis, code: int | None, *, published: bool
) -> Reason:
    if cause is not Cause.ABORT and code == 0:
        return Reason.SUCCEEDED
    if code in OWN_CODES:
        return Reason.PROGRAM_REPORTED
    known = cause.value if cause is not None else doom.reason if doom is not None else None
    reason = known or end.reason or Reason.ARGO_FAILED
    return Reason.SUCCEEDED if published and reason in IMPOSED_ENDS else reason
