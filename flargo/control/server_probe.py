"""Decides when it is clear whether the server's process of a job still runs. Pure."""

from dataclasses import dataclass, replace

from flargo.terms import ServerJob

PROBE_SECONDS = 60.0
"""Seconds for which a server that cannot be asked is asked again before an attempt is given up. FLARE's client takes as
long to reconnect (nvflare's ``max_runner_sync_timeout``)."""
PROBE_INTERVAL = 2.0
"""Seconds between two such questions."""
GONE_ANSWERS = 3
"""Answers in a row after which the server's process of the job counts as gone: it may have lost its connection with the
server for a moment."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The question whether the server's process of a job runs, which is repeated until the answer is clear."""

    began_at: float
    """When it was asked for the first time."""
    gone_answers: int = 0
    """How many of the latest answers in a row were GONE."""

    def take(self, answer: ServerJob, now: float) -> "tuple[Inquiry, ServerJob | None]":
        """Take an answer; return the result, or None if the question is to be repeated after PROBE_INTERVAL.

        Args:
            answer: the answer.
            now: the current time in seconds.
        """
        inquiry = replace(self, gone_answers=self.gone_answers + 1 if answer is ServerJob.GONE else 0)
        if answer is ServerJob.RUNS or inquiry.gone_answers == GONE_ANSWERS:
            return inquiry, answer
        is_last = now > self.began_at + PROBE_SECONDS - PROBE_INTERVAL
        return inquiry, ServerJob.UNKNOWN if is_last else None
