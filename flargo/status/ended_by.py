"""Who has ended a job that did not end by itself, as far as the job's objects tell."""

from flargo.status.reasons import NOT_STARTED_IN_TIME, Reason
from flargo.status.views import WorkflowView

_DECIDED_BY_FLARGO = NOT_STARTED_IN_TIME | {
    Reason.IMAGE,
    Reason.CONTAINER,
    Reason.VOLUME,
    Reason.SANDBOX,
    Reason.LAUNCH_FAILED,
    Reason.RUN_TWICE,
    Reason.ORPHANED,
    Reason.NOT_LAUNCHED,
    Reason.PARENT_ENDED,
}
"""Reasons for which flargo shuts a Workflow down by its own decision. A container may also end by itself, and then
nobody shuts its Workflow down."""


def ended_by(reason: Reason, workflow: WorkflowView, *, is_shut_down: bool) -> str:
    """Return who has ended a job, as public text; empty if nobody has, if it is unknown, or if the reason says it.

    Args:
        reason: the reason of the job's end.
        workflow: the job's Workflow. Anybody may write the label with the name of a person.
        is_shut_down: somebody has shut the Workflow down, or flargo is about to.
    """
    match reason:
        case Reason.CLEANED_UP:
            return "FLARE"
        case Reason.DEADLINE:
            return "Kubernetes"
        case Reason.SHUT_DOWN:
            return workflow.actor
        case _:
            return "flargo" if is_shut_down and reason in _DECIDED_BY_FLARGO else ""
