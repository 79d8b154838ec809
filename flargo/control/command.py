"""A command: one request to the API server that the Reconciler asks for, with all that performing it requires."""

from dataclasses import dataclass
from types import MappingProxyType

from flargo.control.end_description import describe_end
from flargo.job.names import credentials_secret
from flargo.status.ended_by import ended_by
from flargo.status.job_state import Action, ActionKind, JobState
from flargo.status.reasons import Reason
from flargo.status.rejoin import MAY_BE_LOST
from flargo.status.verdict import IMPOSED_ENDS, UNFOLLOWED
from flargo.status.views import WorkflowView
from flargo.terms import Uid

MOST_URGENT_FIRST = (
    ActionKind.DELETE_POD,
    ActionKind.CONFIRM,
    ActionKind.SHUTDOWN,
    ActionKind.DELETE_WORKFLOW,
    ActionKind.RESUME,
    ActionKind.RELEASE,
    ActionKind.LIST_EVENTS,
    ActionKind.TOUCH,
    ActionKind.NOTE_REASON,
    ActionKind.DELETE_SECRET,
    ActionKind.MARK_CLEARED,
)
"""The kinds of commands by urgency: what ends a program and gives a verdict, then the rest of an end, housekeeping."""
PRIORITIES = MappingProxyType({kind: priority for priority, kind in enumerate(MOST_URGENT_FIRST)})
"""The place of each kind in the order of urgency; 0 is the most urgent."""
_WITH_DESCRIPTION = frozenset({ActionKind.SHUTDOWN, ActionKind.NOTE_REASON, ActionKind.MARK_CLEARED})
"""The changes of a Workflow at its job's end, which are sent anyway."""


@dataclass(frozen=True, slots=True)
class Command:
    """An action of a job, with the names and values that performing it requires."""

    key: str
    """The key under which the job is tracked; the result of the command is reported with it."""
    name: str
    """The name of the Workflow."""
    action: Action
    secret_name: str
    """The name of the job's credentials Secret."""
    attempt: str = ""
    """The id of the launch that issued the command: the same job may be launched again before the result arrives."""
    pod_name: str = ""
    """The name of the pod, if the action is about one."""
    grace: int = 0
    """Seconds between SIGTERM and SIGKILL."""
    end_reason: Reason | None = None
    """Why the job is ended, for the Workflow's annotation."""
    detail: str = ""
    """The message of the cluster that explains the reason."""
    description: str = ""
    """What the Workflow's description is to say about the end, without that message; empty: it stays as it is."""
    is_provisional: bool = False
    """The description gives way to a final one (flargo.control.described_patch), which somebody may write meanwhile."""
    revision: int = 0
    """The number of changes that the watches had delivered about the job at the time of the command."""
    workflow_uid: Uid | None = None
    """The uid of the job's Workflow, which owns the credentials Secret; None if the Workflow was never observed."""

    @property
    def object_uid(self) -> Uid:
        """Return the uid of the Workflow or pod that the request must reach, and no other object of the same name."""
        assert self.action.uid is not None, self.action
        return self.action.uid


def build_command(
    key: str, state: JobState, action: Action, *, revision: int = 0, workflow_uid: Uid | None = None
) -> Command:
    """Return the command that performs an action of a job; for the arguments see the command's fields."""
    is_about_pod = action.kind in {ActionKind.DELETE_POD, ActionKind.LIST_EVENTS}
    pods: dict[Uid | None, str] = {pod.uid: pod.name for pod in state.observation.pods}
    end_reason, detail = _end_reason(state)
    workflow = state.observation.workflow
    return Command(
        key,
        state.name,
        action,
        credentials_secret(state.name, state.attempt),
        state.attempt,
        pods.get(action.uid, "") if is_about_pod else "",
        state.grace,
        end_reason=end_reason,
        detail=detail,
        description=_describe(state, action, end_reason),
        # Of other Workflows nobody else describes the end. FLARE may count a server's job as failed that succeeded.
        is_provisional=end_reason is Reason.SUCCEEDED or (workflow is not None and workflow.is_attempt),
        revision=revision,
        workflow_uid=workflow_uid,
    )


def _describe(state: JobState, action: Action, reason: Reason | None) -> str:
    """Return what a Workflow's description is to say about the end of its job; empty if it is to stay as it is."""
    workflow = state.observation.workflow
    if action.kind not in _WITH_DESCRIPTION or reason is None or workflow is None or workflow.has_verdict:
        return ""
    is_mark = action.kind is ActionKind.MARK_CLEARED
    if is_mark and not _is_news(reason, workflow):
        return ""
    is_shut_down = action.kind is ActionKind.SHUTDOWN or bool(workflow.shutdown)
    may_continue = workflow.is_attempt and reason in MAY_BE_LOST
    return describe_end(reason, ended_by(reason, workflow, is_shut_down=is_shut_down), may_continue=may_continue)


def _is_news(reason: Reason, workflow: WorkflowView) -> bool:
    """Return whether the description of a Workflow about which everything is done does not fit its end.

    A success leaves the description as it was, unless the Workflow was shut down before. A finished Workflow of an
    earlier run, of which only the credentials are deleted, has the reason of an orphan but was not ended as one.
    """
    if reason in {cause.value for cause in UNFOLLOWED}:
        return workflow.ending == reason.name
    return reason is not Reason.SUCCEEDED or bool(workflow.ending)


def _end_reason(state: JobState) -> tuple[Reason | None, str]:
    """Return the reason and the detail that the verdict on a job that is being ended will have (verdict.decide)."""
    if state.verdict is not None:
        return state.verdict.reason, state.verdict.detail
    if state.cause is not None:
        return state.cause.value, ""
    if state.end_diagnosis is None:
        return None, ""
    is_success = state.observation.has_results and state.end_diagnosis.reason in IMPOSED_ENDS
    return Reason.SUCCEEDED if is_success else state.end_diagnosis.reason, state.end_diagnosis.detail
