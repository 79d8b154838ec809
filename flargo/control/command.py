"""A command: one request to the API server that the Reconciler asks for, with all that performing it requires."""

from dataclasses import dataclass

from flargo.status.job_state import Action
from flargo.status.reasons import Reason
from flargo.terms import Uid


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
    revision: int = 0
    """The number of changes that the watches had delivered about the job at the time of the command."""
    workflow_uid: Uid | None = None
    """The uid of the job's Workflow, which owns the credentials Secret; None if the Workflow was never observed."""

    @property
    def object_uid(self) -> Uid:
        """Return the uid of the Workflow or pod that the request must reach, and no other object of the same name."""
        assert self.action.uid is not None, self.action
        return self.action.uid
