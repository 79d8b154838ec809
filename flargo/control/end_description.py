"""The description of a Workflow whose job has ended, as the Argo UI shows it: one line of Markdown.

It begins with the reason, since the UI's list shows its first 20 characters. flargo's own sentences contain nothing
that is active in Markdown, and everything else is in code spans.
"""

from flargo.job.names import markdown_code
from flargo.status.reasons import Reason

MAX_MESSAGE_LENGTH = 300
"""Maximum characters of a foreign message in a description; the annotations beside it have more."""


def describe_end(reason: Reason, ended_by: str = "", *, may_continue: bool = False) -> str:
    """Return what is known about a job's end without the cluster's message.

    Args:
        reason: the reason of the end.
        ended_by: who has ended the job, as public text; empty if the reason says it, or if it is unknown.
        may_continue: the job may have gone on with another attempt, so there is nothing to do yet.
    """
    # The row's own sentence is not true of a job whose results arrived before its pod was drained.
    sentence = reason.sentence if reason is not Reason.SUCCEEDED else "FLARE was told that the job succeeded."
    who = f"Ended by {markdown_code(ended_by)}." if ended_by else ""
    remedy = "Another attempt may follow." if may_continue else reason.remedy
    return " ".join(filter(None, (f"{reason.name}: {sentence}", who, remedy)))


def describe_status(status: str) -> str:
    """Return the description of the Workflow of a server's job that succeeded, and that FLARE counts as failed.

    Args:
        status: FLARE's final status, such as ``FINISHED:EXECUTION_EXCEPTION``.
    """
    name = markdown_code(status.rpartition(":")[2])
    return f"{name} is FLARE's status of the job, although its program ended with exit code 0. Read the job's log."


def with_message(description: str, message: str) -> str:
    """Return a description followed by a foreign message, if there is one. Credentials must be removed from it."""
    return f"{description} Message: {markdown_code(message, MAX_MESSAGE_LENGTH)}" if message else description
