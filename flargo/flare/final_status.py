"""FLARE's own final status of the jobs of a server's parent, noted on their Workflows.

The Workflows alone do not tell whether a job succeeded: FLARE's processes exit with 0 although the training script has
raised. The server's parent decides the status some seconds after the job's process has ended, stores it, and then
fires JOB_COMPLETED; a job that could not be started has only JOB_ABORTED (nvflare 2.9, job_runner.py).
"""

import logging
from dataclasses import dataclass
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, RunStatus

from flargo.control.loop import Loop
from flargo.control.status_notes import StatusNote, StatusNotes
from flargo.parsing import is_final_status
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.views import WorkflowView

FINAL_EVENTS = frozenset({EventType.JOB_COMPLETED, EventType.JOB_ABORTED})
"""The events of a server's parent after which a job's status is final."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServerJobStatus:
    """What is known about a server's job until FLARE has its final status."""

    workflow: WorkflowView | None = None
    """The job's Workflow as it was seen last."""
    error: str = ""
    """The last error in the job's log as public text; empty until the job has ended."""
    has_succeeded: bool = False
    """The job's process has ended by itself, with exit code 0."""

    def on_state(self, state: JobState) -> None:
        """Take over the job's Workflow from a new state."""
        self.workflow = state.observation.workflow or self.workflow
        verdict = state.verdict
        self.has_succeeded = verdict is not None and (verdict.reason, verdict.exit_code) == (Reason.SUCCEEDED, 0)


class FinalStatuses:
    """Notes the final status of each job of a server's parent once. Its methods do no requests to the cluster."""

    def __init__(self, notes: StatusNotes) -> None:
        """Start without jobs."""
        self._notes = notes
        self._jobs: dict[str, ServerJobStatus] = {}

    def follow(self, job_id: str) -> ServerJobStatus:
        """Begin to wait for the status of a job that is launched."""
        self._jobs[job_id] = job = ServerJobStatus()
        return job

    def on_event(self, fl_ctx: FLContext, loop: Loop) -> None:
        """Have the status of the event's job noted, on another thread, if FLARE has a final one and it is not noted."""
        try:
            data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
            job_id = data.get(JobMetaKey.JOB_ID.value, "") if isinstance(data, dict) else ""
            status = read_status(job_id, fl_ctx) if job_id in self._jobs else ""
        except Exception as problem:  # noqa: BLE001  (a job store may raise anything, and FLARE's thread must go on)
            _log.warning("FLARE's status of a job could not be read: %s", type(problem).__name__)
            return
        if not is_final_status(status):
            return
        job = self._jobs.pop(job_id)
        workflow = job.workflow
        if workflow is None or not (workflow.name and workflow.uid) or not loop.may_change(is_followed=True):
            return
        is_failure = status != RunStatus.FINISHED_COMPLETED.value
        is_unexpected = is_failure and job.has_succeeded
        note = StatusNote(workflow, status, job.error if is_failure else "", is_unexpected)
        loop.run(lambda: self._notes.note(note, loop.run))


def read_status(job_id: str, fl_ctx: FLContext) -> str:
    """Return the status of a job in the store of a server's parent; empty if it has none. It may raise anything."""
    engine = fl_ctx.get_engine()
    manager = engine.get_component(SystemComponents.JOB_MANAGER) if engine is not None else None
    job: Any = manager.get_job(job_id, fl_ctx) if manager is not None else None
    status = job.meta.get(JobMetaKey.STATUS.value) if job is not None else ""
    return str(getattr(status, "value", status) or "")
