"""Decides which parent of a site holds the site's Lease: a pure state machine for one parent.

Two parents of one site would end each other's jobs, so only the parent that holds the Lease launches jobs. The machine
says which request comes next and when (``next_request``), and takes the result of each (``advance``). Times are
seconds on one monotonic clock of the parent's machine; no decision compares the wall clocks of two parents, except
that a Lease may be taken early if both the parents' and the API server's clocks say that it is long out of use.

**At most one parent believes that it holds the Lease.** Each write names the version that it replaces, so of two writes
over one version one fails. Let a holder send its last renewal at time s, which creates version v at time t >= s.
It believes in it until s + HOLD_SECONDS, and no longer, whatever happens. Another parent may replace v only if it
received v, at a time r >= t, and sends its write at r + LEASE_SECONDS or later; had the holder renewed meanwhile, the
write would fail. So the other parent believes from t + 15 s at the earliest, and the holder until t + 13 s at the
latest. The two seconds between are for clocks that run at different speeds (up to 1 in 15).

What this does not cover, with the longest time for which two parents may both believe:

- Somebody who is no parent deletes or edits the Lease: HOLD_SECONDS, until the holder must have renewed.
- The early takeover (CLEARLY_OLD_SECONDS) trusts clocks. If the clocks of two API servers differ by more than 16 s, and
  those of the two parents do too: HOLD_SECONDS.
- A belief is checked before a request is sent; the request may arrive later.

**One parent holds the Lease soon after the last fault.** A parent that reads a Lease which nobody holds or renews has
taken it after LEASE_SECONDS; one that reads it seldom (FENCED, LOST) after FENCED_SECONDS more, and one that has failed
before after the longest delay of BACKOFF more. TAKEOVER_SECONDS is the sum, to which the durations of three requests
are added. A parent that is refused for good (UNAVAILABLE) looks only every RECHECK_SECONDS.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum, auto

from flargo.backoff import Backoff
from flargo.control.lease_object import LEASE_SECONDS, LeaseView, away_seconds
from flargo.job.names import display_text

RENEW_SECONDS = 10.0
"""Seconds between two renewals."""
HOLD_SECONDS = 13.0
"""Seconds from the sending of the last successful write for which a parent believes that it holds the Lease."""
WATCH_SECONDS = 2.0
"""Seconds between two reads of a parent that waits for the Lease: it sees soon that another one renews or releases."""
FENCED_SECONDS = 5.0
"""Seconds between two reads of a parent that is fenced."""
CLEARLY_OLD_SECONDS = 30.0
"""Age, by all clocks, of a renewal whose holder counts as gone at once. A parent that was away for longer then takes
its jobs back without a further wait; a job's process waits only 30 s for its parent when it ends."""
REFUSAL_PATIENCE_SECONDS = 15.0
"""Seconds for which refusals are taken for passing: an API server that has just started refuses everything until it has
read its roles (kubernetes/kubernetes#121635)."""
RECHECK_SECONDS = 60.0
"""Seconds between two tries of a parent to which the Lease is refused."""
BACKOFF = Backoff((1.0, 2.0, 5.0))
"""Delays after failures. The first ones fit between a renewal and the end of HOLD_SECONDS."""
TAKEOVER_SECONDS = LEASE_SECONDS + FENCED_SECONDS + BACKOFF.delays[-1]
"""Seconds from the last fault within which one parent holds the Lease, and three requests."""
_MAX_HOLDER_LENGTH = 120
_NEVER = -math.inf


class LeaseStage(Enum):
    """What a parent knows about the Lease of its site."""

    ACQUIRING = auto()
    """Not decided yet, or not known any more: the API server is away, or another parent may be about to renew."""
    HELD = auto()
    """This parent is the site's parent."""
    FENCED = auto()
    """Another parent renews the Lease."""
    LOST = auto()
    """This parent held the Lease, and another one has taken it."""
    UNAVAILABLE = auto()
    """The API server refuses access to the Lease, so nobody knows whether there is another parent."""
    RELEASED = auto()
    """This parent has ended, and holds the Lease no more."""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """What the rest of a parent gets to know about its Lease."""

    stage: LeaseStage
    away_seconds: float | None = None
    """With HELD: seconds for which the site had no parent before this one; None: there is no record of an earlier
    one."""
    holder: str = ""
    """The other parent that holds the Lease or held it last, as ``HOSTNAME_EPOCH``; empty with HELD. Safe to show."""
    problem: str = ""
    """The latest failure of a request, since the last success. For people; may hold text of the API server."""
    other_terms: int = 0
    """How often this parent has seen that another one may have become the site's parent. If the number has grown, the
    site may have jobs that this parent has not taken back."""
    is_refused: bool = False
    """The latest problem is a refusal, for want of a right perhaps."""

    @property
    def is_fenced(self) -> bool:
        """True if another parent of the site is alive, so that this one must leave the site's jobs alone."""
        return self.stage in {LeaseStage.FENCED, LeaseStage.LOST}


class RequestKind(Enum):
    """A request about the Lease."""

    READ = auto()
    CREATE = auto()
    WRITE = auto()
    """Take or renew the Lease over the version that was seen last."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """The next request, and the time from which it is due."""

    kind: RequestKind
    at: float
    over: LeaseView | None = None
    """With WRITE: the version to replace."""


@dataclass(frozen=True, slots=True)
class LeaseRead:
    """The Lease was read."""

    view: LeaseView | None
    """None: there is none."""
    idle_seconds: float = 0.0
    """Age of the last renewal, at least, as :func:`flargo.control.lease_object.idle_seconds` computes it."""


@dataclass(frozen=True, slots=True)
class LeaseWritten:
    """The Lease is written, with this parent as the holder."""

    view: LeaseView


@dataclass(frozen=True, slots=True)
class LeaseRejected:
    """A write was rejected, because the Lease is not the version that it replaces."""


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """A request failed; a write may have taken effect all the same."""

    problem: str
    is_refusal: bool
    """True if the same request will be refused again, as far as one can tell: for want of a right, for example."""


LeaseResult = LeaseRead | LeaseWritten | LeaseRejected | LeaseFailed


@dataclass(frozen=True, slots=True)
class Lease:
    """The state of one parent's Lease. Immutable."""

    identity: str
    """The holder's name of this parent; no other run of a parent has the same."""
    stage: LeaseStage = LeaseStage.ACQUIRING
    """The stage that the last result led to; HELD counts only until ``held_until``."""
    held_until: float = _NEVER
    next_at: float = _NEVER
    """When the next request is due, at the latest."""
    is_current: bool = False
    """True if ``view`` is the result of the last request; else the Lease must be read before anything else."""
    view: LeaseView | None = None
    """The Lease as it was seen last; None: there was none."""
    first_seen_at: float = 0.0
    """When the version of ``view`` was first received, if another parent holds it."""
    is_clearly_old: bool = False
    """True if all clocks say that the holder of ``view`` is gone."""
    predecessor: LeaseView | None = None
    """The last version that this parent did not write."""
    has_acquired: bool = False
    """True if no other holder was seen since this parent took the Lease."""
    away_seconds: float | None = None
    failures: int = 0
    """Failed requests in a row."""
    refused_since: float | None = None
    problem: str = ""
    other_terms: int = 0
    """How often another parent may have held the Lease since this one began."""

    def status_at(self, now: float) -> LeaseStatus:
        """Return what this parent may believe at a time, also if a request has been hanging for a while."""
        stage = self.stage
        if stage is LeaseStage.HELD and now >= self.held_until:
            stage = LeaseStage.ACQUIRING
        if stage is LeaseStage.HELD:
            return LeaseStatus(stage, self.away_seconds, problem=self.problem, other_terms=self.other_terms)
        other = self.predecessor if not self.has_acquired else None
        holder = display_text(other.holder, _MAX_HOLDER_LENGTH) if other is not None else ""
        return LeaseStatus(
            stage,
            holder=holder,
            problem=self.problem,
            other_terms=self.other_terms,
            is_refused=bool(self.problem) and self.refused_since is not None,
        )

    def next_request(self) -> LeaseRequest:
        """Return the next request and when it is due."""
        view = self.view
        if not self.is_current:
            return LeaseRequest(RequestKind.READ, self.next_at)
        if view is None:
            return LeaseRequest(RequestKind.CREATE, self.next_at)
        if self._may_hold(view):
            return LeaseRequest(RequestKind.WRITE, self.next_at, view)
        takeover_at = _NEVER if self.is_clearly_old else self.first_seen_at + view.lease_seconds
        if takeover_at <= self.next_at:
            return LeaseRequest(RequestKind.WRITE, takeover_at, view)
        return LeaseRequest(RequestKind.READ, self.next_at)

    def advance(self, result: LeaseResult, sent_at: float, now: float) -> "Lease":
        """Return the state after the result of a request.

        Args:
            result: the result.
            sent_at: a time before the request was sent.
            now: a time after the result has arrived.
        """
        match result:
            case LeaseWritten(view):
                return self._after_write(view, sent_at)
            case LeaseRejected():
                # The first time, read at once: another parent is faster, or an own write had lost its answer.
                delay = BACKOFF.seconds(self.failures) if self.failures else 0.0
                return replace(self, is_current=False, next_at=now + delay, failures=self.failures + 1)
            case LeaseRead(view, idle_seconds):
                return self._after_read(view, now, is_clearly_old=idle_seconds >= CLEARLY_OLD_SECONDS)
            case LeaseFailed(problem, is_refusal):
                return self._after_failure(problem, now, is_refusal=is_refusal)

    def _may_hold(self, view: LeaseView) -> bool:
        return view.holder in {"", self.identity}

    def _after_read(self, view: LeaseView | None, now: float, *, is_clearly_old: bool) -> "Lease":
        if view is None:
            return replace(self, is_current=True, view=None, next_at=now)
        if not view.is_usable:
            return self._after_failure("an object of the Lease's name is not labelled as this site's", now)
        if self._may_hold(view):
            return self._after_free(view, now)
        return self._after_other(view, now, is_clearly_old=is_clearly_old)

    def _after_write(self, view: LeaseView, sent_at: float) -> "Lease":
        """Hold the Lease, counted from before the write was sent."""
        away = self.away_seconds
        if not self.has_acquired:
            away = away_seconds(self.predecessor, view) if self.predecessor is not None else None
        return replace(
            self,
            stage=LeaseStage.HELD,
            held_until=sent_at + HOLD_SECONDS,
            next_at=sent_at + RENEW_SECONDS,
            is_current=True,
            view=view,
            has_acquired=True,
            away_seconds=away,
            failures=0,
            refused_since=None,
            problem="",
        )

    def _after_free(self, view: LeaseView, now: float) -> "Lease":
        """Write a Lease that nobody else holds: it was released, or an own write had lost its answer."""
        is_released = view.holder != self.identity
        return replace(
            self,
            is_current=True,
            view=view,
            next_at=now,
            predecessor=view if is_released else self.predecessor,
            has_acquired=self.has_acquired and not is_released,
            # Another parent may have held and released it.
            other_terms=self.other_terms + (self.has_acquired and is_released),
        )

    def _after_other(self, view: LeaseView, now: float, *, is_clearly_old: bool) -> "Lease":
        """Wait for another parent's Lease to change; one that does not has no parent any more."""
        before = self.predecessor
        is_same = before is not None and (before.uid, before.version) == (view.uid, view.version)
        was_other = before is not None and not self._may_hold(before)
        stage = self.stage
        if self.has_acquired or stage is LeaseStage.HELD:
            stage = LeaseStage.LOST
        elif stage is not LeaseStage.LOST and was_other and not is_same:
            stage = LeaseStage.FENCED
        is_fenced = stage in {LeaseStage.FENCED, LeaseStage.LOST}
        was_fenced = self.stage in {LeaseStage.FENCED, LeaseStage.LOST}
        return replace(
            self,
            stage=stage,
            other_terms=self.other_terms + (is_fenced and not was_fenced),
            next_at=now + (FENCED_SECONDS if is_fenced else WATCH_SECONDS),
            is_current=True,
            view=view,
            first_seen_at=self.first_seen_at if is_same else now,
            is_clearly_old=is_clearly_old,
            predecessor=view,
            has_acquired=False,
            # A Lease that can be taken at once, and never is, must not be tried without delay for ever.
            failures=self.failures if is_same or is_clearly_old else 0,
            refused_since=None if is_fenced else self.refused_since,
            problem="",
        )

    def _after_failure(self, problem: str, now: float, *, is_refusal: bool = True) -> "Lease":
        """Try again later; give up for a while what has been refused for too long."""
        refused_since, stage, delay = self.refused_since, self.stage, BACKOFF.seconds(self.failures + 1)
        if is_refusal:
            refused_since = now if refused_since is None else refused_since
            is_undecided = self.status_at(now).stage in {LeaseStage.ACQUIRING, LeaseStage.UNAVAILABLE}
            if is_undecided and now - refused_since >= REFUSAL_PATIENCE_SECONDS:
                stage, delay = LeaseStage.UNAVAILABLE, RECHECK_SECONDS
        return replace(
            self,
            stage=stage,
            is_current=False,
            next_at=now + delay,
            failures=self.failures + 1,
            refused_since=refused_since,
            problem=problem,
        )
