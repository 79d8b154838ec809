"""Two parents of a site start at once: exactly one goes on, also with slow requests and a lost answer of each.

The Lease itself is that of tests/harness/lease_parents.py. Here each parent also decides, as the takeover does
(flargo.flare.takeover), whether FLARE's start goes on.
"""

import itertools
from collections.abc import Iterator, Sequence
from enum import Enum, auto

import pytest

from flargo.cluster.errors import ApiError
from flargo.flare.takeover import DECISION_PATIENCE, OUTAGE_PATIENCE, is_decided
from tests.harness.lease_parents import TIMEOUT, SimulatedParent, Simulation

SLOW_SECONDS = 2.0
"""Seconds for which a slow request is on its way, and its answer again."""
STARTS = (0.0, 0.3, 2.5, 9.0, 14.0, 16.0, 19.0, 40.0)
"""Seconds from the start of the first parent to that of the second."""


class Fate(Enum):
    """What becomes of a request."""

    FAST = auto()
    SLOW = auto()
    ANSWER_LOST = auto()
    """It takes effect, and its client gives up."""


class Earlier(Enum):
    """What an earlier run of the parent has left."""

    NOTHING = auto()
    RELEASED = auto()
    JUST_RENEWED = auto()
    OLD = auto()


class Start(Simulation):
    """A simulation of two parents whose first requests have given fates, and whose others are slow."""

    def __init__(self, earlier: Earlier, second_starts: float, fates: Sequence[Sequence[Fate]]) -> None:
        super().__init__(seed=1)
        self.decisions: dict[str, str] = {}
        self.fates: dict[str, Iterator[Fate]] = {}
        begin = 1000.0 if earlier is Earlier.OLD else 30.0
        if earlier is not Earlier.NOTHING:
            dies_at = begin if earlier is not Earlier.OLD else 30.0
            self.add_parent(0.0, dies_at, [], releases=earlier is Earlier.RELEASED)
            self.run(begin + 1.5)
        for offset, own_fates in zip((0.0, second_starts), fates, strict=True):
            self._start(self.now if earlier is Earlier.NOTHING else begin + 1.5, offset, own_fates)

    def _start(self, begin: float, offset: float, fates: Sequence[Fate]) -> None:
        parent = self.add_parent(begin + offset, 1e9, [])
        self.fates[parent.identity] = iter(fates)
        for patience in (OUTAGE_PATIENCE, DECISION_PATIENCE):
            self.at(begin + offset + patience, lambda: self._decide(parent, begin + offset))

    def _fate(self, identity: str) -> tuple[float | None, float, ApiError | None]:
        if identity not in self.fates:
            return self.now, self.now, None
        match next(self.fates[identity], Fate.SLOW):
            case Fate.FAST:
                return self.now + 0.01, self.now + 0.02, None
            case Fate.SLOW:
                return self.now + SLOW_SECONDS, self.now + 2 * SLOW_SECONDS, None
            case Fate.ANSWER_LOST:
                return self.now + 0.01, self.now + TIMEOUT, ApiError("get", "lease", 0)

    def _answer(self, parent: SimulatedParent, result: object, sent_at: float) -> None:
        super()._answer(parent, result, sent_at)  # type: ignore[arg-type]
        self._decide(parent)

    def _decide(self, parent: SimulatedParent, started_at: float = 1e9) -> None:
        """Let a parent go on, or end, as soon as it knows or has waited for long enough."""
        identity = parent.identity
        if identity in self.decisions or identity not in self.fates or parent.is_dead:
            return
        status = parent.lease.status_at(parent.clock(self.now))
        if status.is_fenced:
            self.decisions[identity] = "refuses"
            parent.is_dead = True
        elif is_decided(status, self.now - started_at):
            self.decisions[identity] = "goes on"
        self.note(f"{identity} {self.decisions.get(identity, 'waits')}")


@pytest.mark.parametrize("earlier", Earlier)
def test_one_of_two_parents_goes_on(earlier: Earlier) -> None:
    """Answers that are lost cost a timeout; the other parent may begin and renew meanwhile."""
    fates, outage = tuple(itertools.product(Fate, repeat=2)), (Fate.ANSWER_LOST, Fate.ANSWER_LOST)
    for second_starts, first, second in itertools.product(STARTS, fates, fates):
        if outage in {first, second}:
            continue  # A parent does not wait for long for an API server that is away.
        start = Start(earlier, second_starts, (first, second))
        start.run(start.now + second_starts + DECISION_PATIENCE + TIMEOUT)
        assert not start.overlaps
        story = "\n".join((f"{second_starts=} {first=} {second=}", *start.story))
        assert sorted(start.decisions.values()) == ["goes on", "refuses"], story
