"""What the log says about a parent's Lease. Pure."""

from flargo.control.lease import HOLD_SECONDS, LeaseStage, LeaseStatus
from flargo.control.result import Notice

_TODO = "apply deploy/launcher.yaml again, or the kit's chart"


def notice(name: str, before: LeaseStatus, after: LeaseStatus, *, is_same_term: bool) -> Notice | None:
    """Return the line of the log for a change of the status; None if people need not know of it.

    Args:
        name: the Lease's name.
        before: the status at the last call.
        after: the present status.
        is_same_term: no other parent has held the Lease since this one took it.
    """
    had_problem = before.stage is after.stage and bool(before.problem)
    has_new_problem = after.stage is LeaseStage.ACQUIRING and bool(after.problem) and not had_problem
    if (after.stage, after.holder) == (before.stage, before.holder) and not has_new_problem:
        return None
    other = f"by {after.holder}, another parent of this site"
    match after.stage:
        case LeaseStage.HELD:
            return Notice(f"Lease {name} {'renewed again' if is_same_term else _acquired(after.away_seconds)}")
        case LeaseStage.FENCED:
            text = f"is held {other}; this parent launches no jobs until that parent has ended"
        case LeaseStage.LOST:
            text = f"was taken {other}; this parent launches and ends no jobs until that parent has ended"
        case LeaseStage.UNAVAILABLE:
            effect = "a second parent of this site is not noticed, and no job is taken back after a restart"
            text = f"refused; {effect}; {_TODO}: {after.problem}"
        case LeaseStage.ACQUIRING if has_new_problem and after.is_refused and not is_same_term:
            # An API server that has just started refuses everything. The warning comes if it goes on to refuse.
            return Notice(f"Lease {name} refused so far: {after.problem}")
        case LeaseStage.ACQUIRING if has_new_problem:
            # A parent that has begun goes on with what it follows, and launches jobs (flargo.control.authority).
            late = f"not renewed for {HOLD_SECONDS:.0f} s; Workflows that no launch follows are left alone until it is"
            text = f"{late if is_same_term else 'not acquired yet; launches wait until it is'}: {after.problem}"
        case LeaseStage.ACQUIRING if after.holder:
            return Notice(f"Lease {name} was held by {after.holder}; waiting until it renews or expires")
        case _:
            return None
    return Notice(f"Lease {name} {text}", is_warning=True)


def _acquired(away_seconds: float | None) -> str:
    if away_seconds is None:
        return "acquired; no earlier parent of this site is on record"
    return f"acquired; the site had no parent for {away_seconds:.0f} s"
