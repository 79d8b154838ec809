"""The deadlines of a job's start, on the healthy clock, and when its pod's events are listed.

Every stage has a limit of its own. Being without a node is one clock, whatever the scheduler gives as the reason, and
so is a container's trouble.
"""

import math
from typing import NamedTuple

from flargo.status.diagnosis import STARTING_STAGES, Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.start_clocks import Obstacle

ABSENCE_LIMIT = 10.0
"""Seconds for which a submitted Workflow may be missing from the watch before a fresh read looks for it."""
TAINT_LIMIT = 60.0
"""Seconds for which taints may keep a pod from every node. nvflare's own launcher fails such a job at once, and so
after each outage of the API server fails jobs that are launched before the nodes are ready again. Observed on a
cluster."""
LIST_EVENTS_AFTER = 10.0
"""Seconds that a pod may take to start, or be without a node, before its events are listed."""
_EVENT_LIST_INTERVALS = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds from one list of a pod's events to the next; the last value repeats. A pod that starts for ten minutes has
its events listed six times. A mount or sandbox that fails is found after 80 seconds: it counts from the first minute
on."""
_EVENTS_BEFORE_DEADLINE = 10.0
"""Seconds before a deadline at which the events are listed once more, because they can move the deadline."""


class Deadline(NamedTuple):
    """A time by which the job must have left its stage, or its trouble must have passed."""

    expires_at: float
    """On the healthy clock."""
    reason: Reason
    """The reason that the job ends with."""
    explanation: str
    """What has expired, for messages; empty if the reason needs no explanation."""


def deadlines(state: JobState) -> list[Deadline]:
    """Return the deadlines that apply to the job at the moment."""
    if state.stage >= Stage.RUNNING:
        return []
    clocks = state.start
    seconds, since, reason = (
        _stage_limit(state) if clocks.obstacle is None else _placement_limit(state, clocks.obstacle)
    )
    active_deadlines = []
    if seconds is not None:
        is_immediate = clocks.obstacle is Obstacle.OTHER and not seconds
        active_deadlines.append(Deadline(since + seconds, reason, "" if is_immediate else _expired(seconds)))
    if clocks.is_in_trouble and clocks.trouble is not None:
        patience = clocks.trouble_patience
        lasted = f"lasted {patience:g} s" if patience else ""
        active_deadlines.append(Deadline(clocks.trouble_since + patience, clocks.trouble, lasted))
    placement, total = state.timeouts.placement, state.timeouts.total
    if placement is not None and Stage.SUBMITTED <= state.stage <= Stage.TAINTED:
        limit = f"{_expired(placement)} for a server's job to get a node ('argo.server_pending')"
        active_deadlines.append(Deadline(state.submitted_at + placement, reason, limit))
    if total is not None:
        active_deadlines.append(Deadline(state.created_at + total, Reason.TIMEOUT, _expired(total)))
    return active_deadlines


def _expired(seconds: float) -> str:
    return f"timeout of {seconds:g} s expired"


def _stage_limit(state: JobState) -> tuple[float | None, float, Reason]:
    """Return the seconds that the stage may last, the time since which they count, and the reason."""
    limits = {
        Stage.ABSENT: (None if state.is_submitting else ABSENCE_LIMIT, Reason.WORKFLOW_DELETED),
        Stage.QUEUED: (state.timeouts.queued, Reason.QUEUED),
        Stage.QUOTA: (state.timeouts.quota, Reason.QUOTA),
        Stage.PULLING: (state.timeouts.pulling, Reason.PULLING),
        Stage.UNCLAIMED: (state.timeouts.unclaimed, Reason.UNCLAIMED),
        Stage.WAITING: (state.timeouts.starting, Reason.START_TIMEOUT),
        Stage.STARTING: (state.timeouts.starting, Reason.START_TIMEOUT),
    }
    seconds, reason = limits.get(state.stage, (None, Reason.TIMEOUT))
    return seconds, state.stage_since, reason


def _placement_limit(state: JobState, obstacle: Obstacle) -> tuple[float | None, float, Reason]:
    """Return the same for a pod without a node, by what keeps it from every node at the moment.

    The seconds count since the pod has been without a node, so a change of the obstacle gives no new patience. Neither
    does it take patience away: a new node, for which the pod waited as long as it may, is tainted until it is ready and
    then lacks GPUs until their driver is.
    """
    others = state.start.obstacles - {obstacle}
    pending, unschedulable = _or_infinite(state.timeouts.pending), _or_infinite(state.timeouts.unschedulable)
    if obstacle is Obstacle.SHORTAGE:
        seconds, reason = max(pending, unschedulable if others else 0.0), Reason.SHORTAGE
    elif obstacle is Obstacle.TAINT:
        was_short = Obstacle.SHORTAGE in others
        seconds = max(TAINT_LIMIT, unschedulable, pending if was_short else 0.0)
        reason = Reason.SHORTAGE if was_short else Reason.UNSCHEDULABLE
    else:
        seconds, reason = unschedulable, Reason.UNSCHEDULABLE
    return None if seconds == math.inf else seconds, state.start.unplaced_since, reason


def _or_infinite(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def expired_deadline(state: JobState, now: float) -> Deadline | None:
    """Return the deadline that expired first, or None if none has."""
    expired = (deadline for deadline in deadlines(state) if deadline.expires_at <= now)
    return min(expired, key=lambda deadline: deadline.expires_at, default=None)


def events_due_at(state: JobState) -> float:
    """Return the time at which the pod's events must be listed next; infinite while they are of no use."""
    clocks = state.start
    # Only events show that an autoscaler is creating a node.
    may_scale_up = clocks.obstacle in {Obstacle.TAINT, Obstacle.OTHER} and state.timeouts.unschedulable != 0
    if state.stage not in STARTING_STAGES and not may_scale_up:
        return math.inf
    expires_at = min((deadline.expires_at for deadline in deadlines(state)), default=math.inf)
    if not clocks.event_lists:
        if not may_scale_up:
            return state.stage_since + LIST_EVENTS_AFTER
        # A wait of a few seconds gets its list in the middle.
        since = clocks.unplaced_since
        return min(since + LIST_EVENTS_AFTER, max(since, (since + expires_at) / 2))
    interval = _EVENT_LIST_INTERVALS[min(clocks.event_lists, len(_EVENT_LIST_INTERVALS)) - 1]
    due, last_chance = clocks.events_listed_at + interval, expires_at - _EVENTS_BEFORE_DEADLINE
    return min(due, last_chance) if last_chance > clocks.events_listed_at else due
