"""FLARE's own final status of a job, as the server's parent has noted it on the Workflow of the server. Pure.

FLARE's processes exit with 0 although the training script has raised, so a job's Workflows may all succeed while FLARE
counts the job as failed.
"""

from dataclasses import dataclass

from flargo.job.names import display_text
from flargo.parsing import is_final_status
from flargo.status import fields
from flargo.terms import FLARE_COMPLETED, Annotation, Label, Object, Role
from flargo.text import shell_command

_MAX_SHORT_LENGTH = len("FAILED_TO_RUN")
"""The characters of the longest status that a job with a Workflow may have."""
_MAX_ERROR_LENGTH = 500
"""The most characters that are shown of an error: anybody may have written it who may write Workflows."""


@dataclass(frozen=True, slots=True)
class FlareStatus:
    """FLARE's final status of a job, which is the same for all of its sites."""

    text: str
    """FLARE's own word, such as ``FINISHED:EXECUTION_EXCEPTION``."""
    error: str = ""
    """The last error in the log of the job's server; empty after a success."""

    @property
    def is_success(self) -> bool:
        """True if the job has succeeded."""
        return self.text == FLARE_COMPLETED

    @property
    def short_text(self) -> str:
        """The status for a narrow column, without FLARE's prefix and the first word of EXECUTION_EXCEPTION."""
        text = self.text.partition(":")[2].removeprefix("EXECUTION_")
        return text if len(text) <= _MAX_SHORT_LENGTH else f"{text[: _MAX_SHORT_LENGTH - 1]}…"


def parse_flare_status(workflow: Object) -> FlareStatus | None:
    """Return FLARE's final status that is noted on a Workflow; None if there is none, or it is not a server's."""
    status = fields.text(workflow, "metadata", "annotations", Annotation.FLARE_STATUS)
    if fields.text(workflow, "metadata", "labels", Label.ROLE) != Role.SERVER or not is_final_status(status):
        return None
    error = fields.text(workflow, "metadata", "annotations", Annotation.FLARE_ERROR)
    return FlareStatus(status, display_text(error, _MAX_ERROR_LENGTH))


def status_command(job_id: str) -> str:
    """Return the command that prints FLARE's own record of a job."""
    return shell_command("nvflare", "job", "meta", job_id, names=(job_id,)) or "nvflare job meta JOB"
