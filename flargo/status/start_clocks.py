"""The clocks of a job's start that outlive a stage: the lack of a node, a container's trouble, the lists of events.

A job leaves a stage and returns to it while what matters goes on: the scheduler finds a pod's nodes short of GPUs and a
moment later tainted, and a failed image pull alternates with its back-off. All times are on the healthy clock.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum, auto

from flargo.status.diagnosis import Diagnosis, Stage
from flargo.status.reasons import Reason
from flargo.status.views import PodView


class Obstacle(Enum):
    """What keeps a pod from every node."""

    SHORTAGE = auto()
    """Nodes lack something that they can run out of, or a new node is being created."""
    TAINT = auto()
    """Nodes are tainted or cordoned, or there is none."""
    OTHER = auto()
    """Anything else: a node selector, a volume claim."""


@dataclass(frozen=True, slots=True)
class StartClocks:
    """What the state of a starting job remembers besides its stage."""

    obstacle: Obstacle | None = None
    """What keeps the pod from every node at the moment; None if it has a node, or none was looked for."""
    obstacles: frozenset[Obstacle] = frozenset()
    """All obstacles since ``unplaced_since``."""
    unplaced_since: float = math.inf
    """Time since which the pod has been without a node, from the scheduler's first failure on. One obstacle may follow
    another meanwhile."""
    trouble: Reason | None = None
    """Why a container does not start, if that may pass."""
    troubled_container: str = ""
    trouble_since: float = math.inf
    trouble_patience: float = 0.0
    """Seconds for which the trouble must last before the job ends."""
    is_in_trouble: bool = False
    """The latest observation shows the trouble. The trouble may return as long as its container waits."""
    event_lists: int = 0
    """How often the pod's events have been listed since it got a node, or while it has none."""
    events_listed_at: float = -math.inf


def advance(clocks: StartClocks, diagnosis: Diagnosis, pod: PodView | None, now: float) -> StartClocks:
    """Return the clocks after an observation.

    Args:
        clocks: the clocks before.
        diagnosis: the diagnosis of the observation.
        pod: the job's pod, if it exists.
        now: the time, on the healthy clock.
    """
    return _advance_trouble(_advance_placement(clocks, diagnosis, pod, now), diagnosis, pod, now)


def _advance_placement(clocks: StartClocks, diagnosis: Diagnosis, pod: PodView | None, now: float) -> StartClocks:
    if pod is None or pod.scheduled or pod.is_main_done:
        if clocks.unplaced_since == math.inf:
            return clocks
        # What the events say about the start on a node is another question than why there was none.
        return StartClocks()
    obstacle = _obstacle(diagnosis)
    if obstacle is None:
        return replace(clocks, obstacle=None)
    return replace(
        clocks,
        obstacle=obstacle,
        obstacles=clocks.obstacles | {obstacle},
        unplaced_since=now if clocks.unplaced_since == math.inf else clocks.unplaced_since,
    )


def _obstacle(diagnosis: Diagnosis) -> Obstacle | None:
    by_stage = {Stage.SHORTAGE: Obstacle.SHORTAGE, Stage.TAINTED: Obstacle.TAINT}
    if diagnosis.reason is Reason.UNSCHEDULABLE:
        return Obstacle.OTHER
    return by_stage.get(diagnosis.stage)


def _advance_trouble(clocks: StartClocks, diagnosis: Diagnosis, pod: PodView | None, now: float) -> StartClocks:
    """Start, continue or stop the clock of a container's trouble.

    One trouble has one reason, however its messages alternate, and ends when its container no longer waits.
    """
    trouble = diagnosis.trouble
    waiting = {each.container for each in pod.waiting} if pod is not None else set()
    may_return = clocks.troubled_container in waiting
    if trouble is None:
        if may_return:
            return replace(clocks, is_in_trouble=False)
        return replace(
            clocks,
            trouble=None,
            troubled_container="",
            trouble_since=math.inf,
            trouble_patience=0.0,
            is_in_trouble=False,
        )
    is_same = may_return and clocks.trouble is diagnosis.reason
    # The kubelet's back-off does not always repeat why the pull failed, so the longest patience counts.
    patience = max(trouble.patience, clocks.trouble_patience) if is_same and trouble.patience else trouble.patience
    return replace(
        clocks,
        trouble=diagnosis.reason,
        troubled_container=trouble.container,
        trouble_since=clocks.trouble_since if is_same else now,
        trouble_patience=patience,
        is_in_trouble=True,
    )
