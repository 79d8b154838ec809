"""How a person ends a job from outside FLARE. Pure."""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from flargo.terms import Object
from flargo.tools.jobs.site_job import SiteJob


class TerminateResult(Enum):
    """The result of a request to terminate a Workflow. The value is the result's name in JSON (``did``)."""

    REQUESTED = "TOLD"
    ALREADY_ENDING = "ENDING"
    ALREADY_ENDED = "OVER"
    GONE = "GONE"
    FAILED = "FAILED"

    @property
    def text(self) -> str:
        """The result as the end of a sentence that begins with the Workflow's name."""
        return _TEXTS[self]


_TEXTS: Final[Mapping[TerminateResult, str]] = {
    TerminateResult.REQUESTED: "is being terminated",
    TerminateResult.ALREADY_ENDING: "is already being terminated",
    TerminateResult.ALREADY_ENDED: "has already ended",
    TerminateResult.GONE: "no longer exists",
    TerminateResult.FAILED: "could not be terminated",
}


def expected_result(job: SiteJob) -> TerminateResult:
    """Return REQUESTED if the job's Workflow has to be terminated, and otherwise why it need not be."""
    if job.workflow.is_completed:
        return TerminateResult.ALREADY_ENDED
    # A Workflow that was shut down and is suspended goes on only once it is resumed.
    is_ending = job.workflow.shutdown and not job.workflow.suspended
    return TerminateResult.ALREADY_ENDING if is_ending else TerminateResult.REQUESTED


def describe_end(job: SiteJob) -> str:
    """Return why a job has ended whose Workflow needs no termination, and whether it may be started again."""
    reason = job.reason.name if job.reason else ""
    if not job.may_start_again:
        return reason
    return (
        f"{reason}; attempt {job.number + 1} of {job.max_attempts} may follow: abort the job in FLARE, or repeat this"
        " command once that attempt shows"
    )


def terminate_patch(job: SiteJob) -> Object:
    """Build the merge patch that terminates a job's Workflow as ``argo terminate`` does. The uid guards it.

    Argo does not reconcile a suspended Workflow, so the shutdown alone would not end it. The patch therefore resumes it
    in the same step; Argo creates no pod once a Workflow is shut down.
    """
    spec: Object = {"shutdown": "Terminate"}
    if job.workflow.suspended:
        spec["suspend"] = False
    return {"metadata": {"uid": job.workflow.uid}, "spec": spec}
