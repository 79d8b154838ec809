"""Decides what happens to a Workflow of the site: one pure function, which sees only views.

The site's Workflows are found by labels and followed by uid. People may start a Workflow again (Argo's Retry keeps its
uid), copy it with all labels and annotations (Resubmit), or create one themselves; an earlier run of the parent, or a
request whose launch had failed already, may have left one. Its launch's tokens are void in each case, so whatever is
not followed and not over is ended.
"""

from collections.abc import Iterable
from enum import Enum, auto

from flargo.status.views import PodView, WorkflowView


class Decision(Enum):
    """What a parent does with a Workflow of its site."""

    FOLLOWED = auto()
    """A launch of this parent follows it, or it is being ended already."""
    END = auto()
    """Nobody follows it, and it may run or start a program."""
    CLEAN = auto()
    """It is over, and its credentials may be left."""
    OVER = auto()
    """It needs nothing, or is not flargo's."""


def decide(
    view: WorkflowView, pods: Iterable[PodView], epoch: str, *, is_followed: bool, forgotten_at: float | None
) -> Decision:
    """Decide what a parent does with a Workflow.

    Args:
        view: the Workflow.
        pods: the pods that it owns.
        epoch: the epoch of this run of the parent; empty: the parent ends nothing that it has not launched.
        is_followed: the Workflow's uid is followed, or it is what a launch in progress creates.
        forgotten_at: the version of the Workflow at which this parent had done everything about it, infinite if it was
            deleted then; None if this parent never followed it. An older view of it arrives late, and means nothing.
    """
    if is_followed:
        return Decision.FOLLOWED
    is_late = forgotten_at is not None and 0 < view.version <= forgotten_at
    if not (epoch and view.parent and view.name) or is_late:
        return Decision.OVER
    if not view.is_over:
        return Decision.END
    if forgotten_at is not None:
        return Decision.OVER
    if not all(pod.is_terminal for pod in pods):
        return Decision.END
    # The credentials of this run's launches are deleted before the launches are forgotten. The Secret's name contains
    # the launch's id: without an id, no Secret can be identified as the Workflow's own.
    return Decision.OVER if view.parent == epoch or view.cleared or not view.attempt else Decision.CLEAN
