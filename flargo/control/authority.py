"""Decides whether a parent may change its site's objects: not while another parent of the site may be alive.

The site's Lease says who the site's parent is (flargo.control.lease). A parent can lose the Lease while it runs: its
machine or its network was suspended, and another parent has begun. That one has taken the jobs back and follows them,
so this one must not end them, nor launch what takes their place, whatever FLARE asks it for.
"""

from typing import Protocol

from flargo.control.lease import LeaseStage

OTHER_PARENT = "another FLARE parent has taken over this site, so this one launches and ends nothing"
"""Why a launch fails in a parent that has lost its site."""


class MayChange(Protocol):
    """Returns whether this parent may send a request that changes an object of a job now. Any thread may call it."""

    def __call__(self, *, is_followed: bool) -> bool:
        """Return whether it may; ``is_followed``: a launch of this parent follows the job, else it is an orphan."""


def unlimited(*, is_followed: bool) -> bool:
    """Allow everything: nothing limits a parent that has no Lease."""
    del is_followed
    return True


def may_change(stage: LeaseStage, *, is_followed: bool) -> bool:
    """Return what a parent whose Lease is at this stage may do.

    While it is not known who holds the Lease, what the parent follows is still its own: no other parent can have taken
    it that does not hold the Lease. What it does not follow may be another parent's.

    Args:
        stage: the stage of the site's Lease.
        is_followed: a launch of this parent follows the job.
    """
    match stage:
        case LeaseStage.HELD | LeaseStage.UNAVAILABLE:
            return True
        case LeaseStage.ACQUIRING:
            return is_followed
        case LeaseStage.FENCED | LeaseStage.LOST | LeaseStage.RELEASED:
            return False
