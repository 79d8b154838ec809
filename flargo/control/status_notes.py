"""Notes FLARE's final status of a job on the Workflow of the job's server.

Nothing depends on the note but what people see, so it is tried for some seconds, and then given up.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from flargo.backoff import Backoff
from flargo.cluster.api import Api
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE
from flargo.control.described_patch import merge_described
from flargo.control.end_description import describe_status, with_message
from flargo.control.workers import Task
from flargo.job.names import display_text
from flargo.status.views import WorkflowView
from flargo.terms import Annotation, Object

MAX_ERROR_LENGTH = 500
"""Maximum characters of the error that is noted beside FLARE's status."""
_BACKOFF = Backoff((1.0, 5.0, 15.0))
_MAX_TRIES = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StatusNote:
    """FLARE's final status of a job."""

    workflow: WorkflowView
    """The Workflow of the job's server."""
    status: str
    error: str = ""
    """An error as public text; empty if there is none."""
    is_unexpected: bool = False
    """The status is a failure although the server's process of the job has ended with exit code 0."""


def build_status_patch(note: StatusNote) -> Object:
    """Return the merge patch that notes FLARE's final status, and an error if there is one. The uid guards it."""
    annotations = {Annotation.FLARE_STATUS.value: note.status}
    if note.error:
        annotations[Annotation.FLARE_ERROR.value] = display_text(note.error, MAX_ERROR_LENGTH)
    return {"metadata": {"uid": note.workflow.uid, "annotations": annotations}}


class StatusNotes:
    """Writes the notes of one parent. Its method waits for the API server, and raises nothing."""

    def __init__(self, api: Api) -> None:
        """Write to the namespace of ``api``."""
        self._api = api

    def note(self, note: StatusNote, run: Callable[[Task, float], bool], tries: int = 1) -> None:
        """Write a note on its Workflow.

        Args:
            note: the note.
            run: runs a task on another thread after a delay in seconds, unless it returns False.
            tries: which try this is.
        """
        workflow, status = note.workflow, note.status
        description = with_message(describe_status(status), note.error) if note.is_unexpected else ""
        try:
            merge_described(self._api, workflow.name, build_status_patch(note), description)
        except ApiError as problem:
            if problem.meaning in GONE:
                return
            seconds = _BACKOFF.seconds(tries)
            may_pass = problem.is_transient and tries < _MAX_TRIES
            if not (may_pass and run(lambda: self.note(note, run, tries + 1), seconds)):
                _log.warning("%s: FLARE's status %s could not be noted: %s", workflow.name, status, problem)
