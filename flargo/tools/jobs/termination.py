"""How a job is ended from outside FLARE. Pure."""

from enum import Enum

from flargo.terms import Object
from flargo.tools.jobs.site_job import SiteJob


class TerminateResult(Enum):
    """What became of the wish to end a Workflow."""

    TOLD = "is told to end"
    ENDING = "is ending already"
    OVER = "has ended already"
    GONE = "has gone meanwhile"
    FAILED = "could not be told to end"


def standing(part: SiteJob) -> TerminateResult:
    """What is to be done about one, or why nothing is."""
    if part.workflow.is_completed:
        return TerminateResult.OVER
    return TerminateResult.ENDING if part.workflow.shutdown else TerminateResult.TOLD


def patch(part: SiteJob) -> Object:
    """The merge patch that ends it: ``argo terminate``'s, of this very Workflow.

    One that is suspended is not looked at by Argo, and would not end: it is released with the shutdown, after which
    Argo makes no pod.
    """
    spec: Object = {"shutdown": "Terminate"}
    if part.workflow.suspended:
        spec["suspend"] = False
    return {"metadata": {"uid": part.workflow.uid}, "spec": spec}
