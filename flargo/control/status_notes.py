"""Notes FLARE's final status of a job on the Workflow of the job's server.

Nothing depends on the note but what people see, so it is tried for some seconds, and then given up.
"""

import logging
import time
from collections.abc import Callable

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE
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

    def __init__(self, api: Api, pause: Callable[[float], object] = time.sleep) -> None:
        """Write to the namespace of ``api``; ``pause`` sleeps for a number of seconds."""
        self._api = api
        self._pause = pause

    def note(self, workflow: WorkflowView, status: str, error: str) -> None:
        """Note FLARE's final status of a job on the Workflow of its server.

        Args:
            workflow: the Workflow.
            status: FLARE's status.
            error: an error as public text, or "".
        """
        patch = build_status_patch(workflow, status, error)
        for number in range(1, _MAX_TRIES + 1):
            try:
                self._api.merge(Kind.WORKFLOW, workflow.name, patch)
            except ApiError as problem:
                if problem.meaning in GONE:
                    return
                if problem.is_transient and number < _MAX_TRIES:
                    self._pause(_BACKOFF.seconds(number))
                    continue
                _log.warning("%s: FLARE's status %s could not be noted: %s", workflow.name, status, problem)
            return
