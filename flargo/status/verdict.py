"""The verdict on a job: the one reason and return code that FLARE gets, from three inputs.

The inputs are the cause (why FLARE wanted the job to end), the diagnosis with which flargo ended a job that was still
running, and the diagnosis of the cluster's objects after the job has ended.

Sources: design decision 5; nvflare 2.9 ``slurm/manager.py`` (a user's abort stays an abort even if a cooperative stop
ends with exit code 0; codes 101-103 are the program's own and are passed on; a heartbeat cleanup is no user's abort).
"""

from dataclasses import dataclass
from enum import Enum

from flargo.status.diagnosis import Diagnosis
from flargo.status.reasons import FLARE_EXIT_CODES, Reason


class Cause(Enum):
    """Why FLARE wants a job to end. The value is the reason that such a job ends with."""

    ABORT = Reason.ABORTED
    """A person aborted the job through FLARE."""
    CLEANUP = Reason.CLEANED_UP
    """The client's heartbeat found that the server no longer runs the job."""
    ORPHANED = Reason.ORPHANED
    """The parent process that launched the job has died, and the job's tokens are void. Its next run finds the job."""
    NOT_LAUNCHED = Reason.NOT_LAUNCHED
    """No launch of this parent process follows the Workflow, although it looks as if this process had launched it."""
    PARENT_END = Reason.PARENT_ENDED
    """The parent process is shutting down."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ended, as FLARE is told. A job gets one verdict, which never changes."""

    reason: Reason
    code: int
    """The return code that FLARE gets."""
    detail: str = ""
    """The message of the cluster: of the kubelet, the scheduler or Argo."""
    exit_code: int | None = None
    """The exit code of the job's program, if it is known."""


UNFOLLOWED = frozenset({Cause.ORPHANED, Cause.NOT_LAUNCHED})
"""The causes of Workflows that FLARE knows nothing about."""
IMPOSED_ENDS = frozenset(
    {Reason.DISRUPTED, Reason.EVICTED, Reason.POD_DELETED, Reason.WORKFLOW_DELETED, Reason.SHUT_DOWN}
)
"""Reasons that somebody else imposed on a program. If the job's results had reached the parent before, its work was not
lost, because FLARE's job process uploads them before its teardown; such a job ends as SUCCEEDED."""


def decide(cause: Cause | None, end_diagnosis: Diagnosis | None, end: Diagnosis, *, has_results: bool) -> Verdict:
    """Return the verdict on a job of which nothing runs any more.

    Args:
        cause: why FLARE wanted the job to end, if it did.
        end_diagnosis: why flargo ended the job while its pod still existed, if it did.
        end: the diagnosis of the latest observation.
        has_results: the job's results have reached the parent.
    """
    exit_code = end.exit.code if end.exit is not None else None
    reason = _reason(cause, end_diagnosis, end, exit_code, has_results=has_results)
    detail = end.detail
    if end_diagnosis is not None and end_diagnosis.reason is reason:
        detail = end_diagnosis.detail or detail
    return_code = exit_code if reason.code is None else reason.code
    if return_code is None:
        raise AssertionError(f"{reason.name} needs the program's exit code")
    return Verdict(reason, int(return_code), detail, exit_code)


def _reason(
    cause: Cause | None, end_diagnosis: Diagnosis | None, end: Diagnosis, exit_code: int | None, *, has_results: bool
) -> Reason:
    if cause is not Cause.ABORT and exit_code == 0:
        return Reason.SUCCEEDED
    if exit_code in FLARE_EXIT_CODES:
        return Reason.PROGRAM_REPORTED
    earlier = cause.value if cause is not None else end_diagnosis.reason if end_diagnosis is not None else None
    reason = earlier or end.reason or Reason.ARGO_FAILED
    return Reason.SUCCEEDED if has_results and reason in IMPOSED_ENDS else reason
