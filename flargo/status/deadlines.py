"""The deadlines of a job's start, on the healthy clock."""

from typing import NamedTuple

from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason

TAINT_LIMIT = 60.0
"""Seconds for which taints may keep a pod from every node. nvflare's own launcher fails such a job at once, and so
after each outage of the API server fails jobs that are launched before the nodes are ready again. Observed on a
cluster."""
ABSENCE_LIMIT = 10.0
"""Seconds for which a submitted Workflow may be missing from the watch before a fresh read looks for it."""


class Deadline(NamedTuple):
    """A time by which the job must have left its stage."""

    expires_at: float
    """On the healthy clock."""
    reason: Reason
    """The reason that the job ends with."""
    explanation: str
    """What has expired, for messages."""


def deadlines(state: JobState) -> list[Deadline]:
    """Return the deadlines that apply to the job at the moment."""
    if state.stage >= Stage.RUNNING:
        return []
    limits = {
        Stage.ABSENT: (None if state.is_submitting else ABSENCE_LIMIT, Reason.WORKFLOW_DELETED),
        Stage.QUEUED: (state.timeouts.queued, Reason.QUEUED),
        Stage.QUOTA: (state.timeouts.quota, Reason.QUOTA),
        Stage.PULLING: (state.timeouts.pulling, Reason.PULLING),
        Stage.UNCLAIMED: (state.timeouts.unclaimed, Reason.UNCLAIMED),
        Stage.WAITING: (state.timeouts.starting, Reason.START_TIMEOUT),
        Stage.SHORTAGE: (state.timeouts.pending, Reason.SHORTAGE),
        Stage.TAINTED: (TAINT_LIMIT, Reason.UNSCHEDULABLE),
        Stage.STARTING: (state.timeouts.starting, Reason.START_TIMEOUT),
    }
    seconds, reason = limits.get(state.stage, (None, Reason.TIMEOUT))
    found = [Deadline(state.stage_since + seconds, reason, _expired(seconds))] if seconds is not None else []
    placement, total = state.timeouts.placement, state.timeouts.total
    if placement is not None and Stage.SUBMITTED <= state.stage <= Stage.TAINTED:
        limit = f"{_expired(placement)} for a server's job to get a node ('argo.server_pending')"
        found.append(Deadline(state.submitted_at + placement, reason, limit))
    if total is not None:
        found.append(Deadline(state.created_at + total, Reason.TIMEOUT, _expired(total)))
    return found


def _expired(seconds: float) -> str:
    return f"timeout of {seconds:g} s expired"


def expired_deadline(state: JobState, now: float) -> Deadline | None:
    """Return the deadline that expired first, or None if none has."""
    expired = (deadline for deadline in deadlines(state) if deadline.expires_at <= now)
    return min(expired, key=lambda deadline: deadline.expires_at, default=None)
