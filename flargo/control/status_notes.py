"""Notes FLARE's final status of a job on the Workflow of the job's server.

Nothing depends on the note but what people see, so it is tried for some seconds, and then given up.
"""

import logging
from collections.abc import Callable

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE
from flargo.control.workers import Task
from flargo.job.names import display_text
from flargo.status.views import WorkflowView
from flargo.terms import Annotation, Object

MAX_ERROR_LENGTH = 500
"""Maximum characters of the error that is noted beside FLARE's status."""
_BACKOFF = Backoff((1.0, 5.0, 15.0))
_MAX_TRIES = 4
_log = logging.getLogger(__name__)


def build_status_patch(workflow: WorkflowView, status: str, error: str) -> Object:
    """Return the merge patch that notes FLARE's final status, and an error if there is one. The uid guards it."""
    annotations = {Annotation.FLARE_STATUS.value: status}
    if error:
        annotations[Annotation.FLARE_ERROR.value] = display_text(error, MAX_ERROR_LENGTH)
    return {"metadata": {"uid": workflow.uid, "annotations": annotations}}


class StatusNotes:
    """Writes the notes of one parent. Its method waits for the API server, and raises nothing."""

    def __init__(self, api: Api) -> None:
        """Write to the namespace of ``api``."""
        self._api = api

    def note(
        self, workflow: WorkflowView, status: str, error: str, run: Callable[[Task, float], bool], tries: int = 1
    ) -> None:
        """Note FLARE's final status of a job on the Workflow of its server.

        Args:
            workflow: the Workflow.
            status: FLARE's status.
            error: an error as public text, or "".
            run: runs a task on another thread after a delay in seconds, unless it returns False.
            tries: which try this is.
        """
        try:
            self._api.merge(Kind.WORKFLOW, workflow.name, build_status_patch(workflow, status, error))
        except ApiError as problem:
            if problem.meaning in GONE:
                return
            seconds = _BACKOFF.seconds(tries)
            may_pass = problem.is_transient and tries < _MAX_TRIES
            if not (may_pass and run(lambda: self.note(workflow, status, error, run, tries + 1), seconds)):
                _log.warning("%s: FLARE's status %s could not be noted: %s", workflow.name, status, problem)
