"""Parents of one site that compete for its Lease, in simulated time: their clocks, requests, faults and deaths.

Nothing here sleeps. The parents' decisions and requests are flargo's own; the server is ``MemoryApi``. A request takes
effect and is answered at times that the simulation chooses, or one of both never happens.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.lease import Lease, LeaseFailed, LeaseRequest, LeaseResult, LeaseStage
from flargo.control.lease_keeper import LeaseClient
from flargo.job.names import site_labels, site_lease
from flargo.terms import Parent, Role
from tests.harness.fake_api import MemoryApi

START = datetime(2026, 1, 1, tzinfo=UTC)
TIMEOUT = 15.0
"""Seconds after which a client gives up a request, as flargo.cluster.http_request's READ_TIMEOUT."""
SITE, FEDERATION = "site-1", "a" * 32
NAME = site_lease(Parent(SITE, FEDERATION, "", Role.CLIENT))
LABELS = site_labels(Parent(SITE, FEDERATION, "", Role.CLIENT))


class FaultKind(Enum):
    """What happens to a request that is sent during a fault."""

    UNANSWERED = auto()
    """It gets lost."""
    ANSWER_LOST = auto()
    """It takes effect, perhaps after its client has given up, and its answer gets lost."""
    SLOW = auto()
    """It takes effect late and is answered late."""
    SERVER_ERROR = auto()
    """The API server fails."""
    FORBIDDEN = auto()
    """The API server refuses it, as one does that has just started."""


@dataclass(frozen=True)
class Fault:
    """A fault of the network or the API server for some time, perhaps for one parent only."""

    start: float
    end: float
    kind: FaultKind
    identity: str = ""
    """The parent; empty: all of them."""


@dataclass
class SimulatedParent:
    """One run of a parent, and its clocks."""

    identity: str
    offset: float
    """Its monotonic clock at the simulation's start."""
    rate: float
    """The speed of its monotonic clock."""
    client: LeaseClient
    lease: Lease
    dies_at: float
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """Times in which the process is stopped."""
    is_dead: bool = False

    def clock(self, now: float) -> float:
        """Return its monotonic clock at a time of the simulation."""
        return self.offset + self.rate * now

    def true_time(self, clock: float) -> float:
        """Return the time of the simulation at which its monotonic clock shows this."""
        return (clock - self.offset) / self.rate

    def resumes_at(self, now: float) -> float:
        """Return the first time at which the process runs."""
        return max((end for start, end in self.pauses if start <= now < end), default=now)

    def believes(self, now: float) -> bool:
        """Return whether it believes to hold the Lease."""
        return not self.is_dead and self.lease.status_at(self.clock(now)).stage is LeaseStage.HELD


@dataclass(frozen=True)
class Overlap:
    """Two parents that believed to hold the Lease at once."""

    at: float
    seconds: float
    identities: tuple[str, str]


class Simulation:
    """All parents, the server, and the events to come."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311  (no secret)
        self.now = 0.0
        self.api = MemoryApi()
        server_skew = self.dice.uniform(-86400, 86400)
        self.api.server_clock = lambda: START + timedelta(seconds=self.now + server_skew)
        self.parents: list[SimulatedParent] = []
        self.faults: list[Fault] = []
        self.overlaps: list[Overlap] = []
        self.trouble_ends_at = 0.0
        """The last time at which a fault, a death, or a consequence of one was felt."""
        self.story: list[str] = []
        """What happened, for a failing test."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Plan an event."""
        heapq.heappush(self._events, (time, next(self._order), event))

    def run(self, until: float) -> None:
        """Let everything happen until a time."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def note(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now:8.3f} {text}")

    def trouble(self, until: float) -> None:
        """Note that something is disturbed until a time."""
        self.trouble_ends_at = max(self.trouble_ends_at, until)

    def add_parent(
        self, starts_at: float, dies_at: float, pauses: list[tuple[float, float]], *, releases: bool = False
    ) -> SimulatedParent:
        """Add a parent whose clocks are all wrong, each in its own way."""
        identity = f"host_{len(self.parents)}"
        skew = self.dice.choice([0.0, 0.0, self.dice.uniform(-30, 30), self.dice.uniform(-86400, 86400)])

        def wall_clock() -> datetime:
            return START + timedelta(seconds=self.now + skew)

        client = LeaseClient(self.api, NAME, LABELS, identity, wall_clock)
        rate = self.dice.uniform(0.94, 1.06)
        parent = SimulatedParent(identity, self.dice.uniform(0, 1e6), rate, client, Lease(identity), dies_at, pauses)
        self.parents.append(parent)
        self.at(starts_at, lambda: self._next(parent))
        self.at(dies_at, lambda: self._die(parent, releases=releases))
        for _, end in pauses:
            self.trouble(end)
        self.trouble(starts_at)
        return parent

    def add_fault(self, fault: Fault) -> None:
        """Plan a fault; of two at once the first that was added counts."""
        self.faults.append(fault)
        self.trouble(fault.end)

    def holders(self) -> list[str]:
        """Return the parents that believe to hold the Lease now."""
        return [parent.identity for parent in self.parents if parent.believes(self.now)]

    def _next(self, parent: SimulatedParent) -> None:
        """Plan a parent's next request."""
        request = parent.lease.next_request()
        due = max(self.now, parent.true_time(request.at))
        # A busy machine is never exactly in time.
        self.at(parent.resumes_at(due + self.dice.uniform(0.0, 0.05)), lambda: self._send(parent, request))

    def _send(self, parent: SimulatedParent, request: LeaseRequest) -> None:
        if parent.is_dead:
            return
        sent_at = parent.clock(self.now)
        effect_at, answer_at, error = self._fate(parent.identity)
        results: list[LeaseResult] = []

        def take_effect() -> None:
            results.append(parent.client.perform(request))
            self.note(f"{parent.identity} {request.kind.name} takes effect: {results[0]}")

        if effect_at is not None:
            self.at(effect_at, take_effect)
        failure = parent.client._failure(request.kind, error) if error is not None else None

        def answer() -> None:
            self._answer(parent, failure or results[0], sent_at)

        self.at(parent.resumes_at(answer_at), answer)

    def _fate(self, identity: str) -> tuple[float | None, float, ApiError | None]:
        """Choose when a request takes effect, when it is answered, and with which error."""
        dice, now = self.dice, self.now
        fault = next(
            (each for each in self.faults if each.start <= now < each.end and each.identity in {"", identity}), None
        )
        effect_at = now + dice.uniform(0.001, 0.2)
        answer_at = effect_at + dice.uniform(0.001, 0.2)
        if fault is None:
            return effect_at, answer_at, None
        effect: float | None
        error: ApiError | None
        late = now + dice.uniform(0.0, 2 * TIMEOUT)
        match fault.kind:
            case FaultKind.UNANSWERED:
                effect, answered_at, error = None, now + TIMEOUT, ApiError("get", "lease", 0)
            case FaultKind.ANSWER_LOST:
                effect, answered_at, error = late, now + TIMEOUT, ApiError("get", "lease", 0)
            case FaultKind.SLOW:
                effect = now + dice.uniform(0.0, TIMEOUT / 2)
                answered_at, error = effect + dice.uniform(0.0, TIMEOUT / 2), None
            case FaultKind.SERVER_ERROR:
                effect, answered_at, error = None, effect_at, ApiError("get", "lease", 500, "InternalError")
            case FaultKind.FORBIDDEN:
                effect, answered_at, error = None, effect_at, ApiError("get", "lease", 403, "Forbidden", _FORBIDDEN)
        self.trouble(max(answered_at, effect or 0.0))
        return effect, answered_at, error

    def _answer(self, parent: SimulatedParent, result: LeaseResult, sent_at: float) -> None:
        if parent.is_dead:
            return
        clock = parent.clock(self.now)
        parent.lease = parent.lease.advance(result, sent_at, clock)
        self.note(f"{parent.identity} {parent.lease.status_at(clock).stage.name} after {type(result).__name__}")
        if isinstance(result, LeaseFailed):
            self.trouble(self.now)
        if parent.believes(self.now):
            self._check(parent)
        self._next(parent)

    def _check(self, parent: SimulatedParent) -> None:
        """Record the other parents that believe at this moment. Beliefs begin only with an answer."""
        end = parent.true_time(parent.lease.held_until)
        for other in self.parents:
            if other is not parent and other.believes(self.now):
                seconds = min(end, other.true_time(other.lease.held_until)) - self.now
                self.overlaps.append(Overlap(self.now, seconds, (parent.identity, other.identity)))

    def _die(self, parent: SimulatedParent, *, releases: bool) -> None:
        """End a parent, without a word or by giving the Lease back."""
        lease, parent.is_dead = parent.lease, True
        self.note(f"{parent.identity} dies")
        self.trouble(self.now)
        view = lease.view
        if releases and lease.has_acquired and view is not None:
            self.at(self.now + self.dice.uniform(0.0, 1.0), lambda: self.note(f"{parent.client.release(view)=}"))
            self.trouble(self.now + 1.0)

    # --- what somebody who is no parent may do

    def delete_lease(self) -> None:
        """Delete the Lease."""
        self.note("the Lease is deleted")
        self.trouble(self.now)
        self.api.store.pop((Kind.LEASE, NAME), None)

    def edit_lease(self, holder: str) -> None:
        """Write another holder into the Lease."""
        self.note(f"the holder is edited to {holder!r}")
        self.trouble(self.now)
        item = self.api.store.get((Kind.LEASE, NAME))
        if item is not None:
            self.api.replace(Kind.LEASE, {**item, "spec": {**item["spec"], "holderIdentity": holder}})


_FORBIDDEN = 'leases is forbidden: User "x" cannot get resource "leases" in API group "coordination.k8s.io"'
