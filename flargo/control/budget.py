"""The budget for all jobs of a parent together: it limits the requests that are repeated, whatever the number of jobs.

The first try of each action is free, and so are the first repeats of what ends a job (FREE_REPEATS). Any other
one takes a token, or waits until there is one; nothing is dropped.
While Argo's controller is away, asking again does not help: as long as the status of no Workflow changes, jobs that
only wait for the controller are not read again, and one touch a minute goes out, to find out whether it is back.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto

from flargo.control.command import PRIORITIES
from flargo.status.job_state import Action, ActionKind

TOKENS_PER_SECOND = 2.0
"""Repeated actions of all jobs together, in the long run."""
BURST = 60.0
"""Repeated actions that may go out at once, after a time with few of them."""
CONTROLLER_SILENCE = 60.0
"""Seconds without a change of any Workflow's status after which Argo's controller counts as away."""
PROBE_INTERVAL = 60.0
"""Seconds between two touches while the controller is away."""
_FAIR_SHARE = 4
"""Every fourth token goes to what has waited longest, so that urgent actions never keep others waiting for ever."""
FREE_REPEATS = 3
"""Repeats of each job's kill, and of the read for its verdict, that take no token: their own backoff of 1, 2 and 4
seconds suffices. When the API server fails for a moment while hundreds of jobs are ended, no kill waits for minutes."""
_EPSILON = 1e-6
"""Tokens that rounding may lose."""


class TokenBucket:
    """Tokens that come at a constant rate, up to a number that is kept. Times are seconds on any one clock."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Start full."""
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        self._refill(now)
        if self._tokens < 1.0 - _EPSILON:
            return False
        self._tokens -= 1.0
        return True

    def next_at(self) -> float:
        """Return the time from which there is a token."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._rate

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


class Pace(Enum):
    """When an action may go out, apart from the tokens."""

    ANY_TIME = auto()
    PROBE = auto()
    """Once in a while if the status of no Workflow changes, else at any time."""
    PROGRESS = auto()
    """Only if the status of a Workflow has changed lately."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that waits for a token."""

    key: str
    """The key of the job that it is about."""
    action: Action
    pace: Pace
    since: int
    """The number of this entry: an earlier one has waited longer."""


@dataclass(slots=True)
class _Progress:
    """What is known about Argo's controller at work."""

    changed_at: float
    """The time at which the status of a Workflow was last seen to change."""
    probed_at: float
    """The time of the last touch."""

    def allowed_at(self, pace: Pace, now: float) -> float:
        """Return the earliest time at which an action of this pace may go out, if nothing changes until then."""
        if pace is Pace.ANY_TIME or now < self.changed_at + CONTROLLER_SILENCE:
            return now
        return self.probed_at + PROBE_INTERVAL if pace is Pace.PROBE else math.inf


@dataclass(slots=True)
class Budget:
    """Decides which actions go out now, and keeps the others until they may. It knows nothing about jobs."""

    started_at: float
    _bucket: TokenBucket = field(init=False)
    _cleaning: TokenBucket = field(init=False)
    """The part of the tokens that the cleaning after earlier runs may take."""
    _progress: _Progress = field(init=False)
    _waiting: dict[str, dict[Action, Waiting]] = field(default_factory=dict)
    """What waits, by the job's key."""
    _paces: Counter[Pace] = field(default_factory=Counter)
    """The number of actions of each pace that wait."""
    _now: float = 0.0
    """The time of the latest call."""
    _count: int = 0
    _taken: int = 0

    def __post_init__(self) -> None:
        self._bucket = TokenBucket(TOKENS_PER_SECOND, BURST, self.started_at)
        self._cleaning = TokenBucket(TOKENS_PER_SECOND / 2, BURST / 2, self.started_at)
        self._progress = _Progress(self.started_at, self.started_at - PROBE_INTERVAL)

    def note_progress(self, now: float) -> None:
        """Record that the status of a Workflow has changed, so Argo's controller works."""
        self._progress.changed_at = now

    def may_go(
        self, key: str, action: Action, now: float, *, is_repeated: bool, awaits_controller: bool = False
    ) -> bool:
        """Return whether an action may go out now. If not, it waits, and ``take_next`` returns it later.

        Args:
            key: the key of the job.
            action: the action.
            now: the current time.
            is_repeated: the action was sent before, and this repeat is not free.
            awaits_controller: the job only waits for Argo's controller, so to repeat the action is of no use until the
                controller does something.
        """
        self._now = now
        pace = Pace.PROGRESS if is_repeated and awaits_controller else Pace.ANY_TIME
        pace = Pace.PROBE if action.kind is ActionKind.TOUCH else pace
        is_held = self._progress.allowed_at(pace, now) > now
        # What waits has the next token.
        if not is_held and (not is_repeated or (not self._waiting and self._bucket.take(now))):
            self.withdraw(key, action)
            self._note_sent(action, now)
            return True
        actions = self._waiting.setdefault(key, {})
        if action not in actions:
            self._count += 1
            actions[action] = Waiting(key, action, pace, self._count)
            self._paces[pace] += 1
        return False

    def withdraw(self, key: str, action: Action | None = None) -> None:
        """Let an action of a job, or all its actions, wait no longer."""
        waiting = self._waiting.get(key, {})
        for each in tuple(waiting) if action is None else (action,):
            entry = waiting.pop(each, None)
            if entry is not None:
                self._paces[entry.pace] -= 1
        if not waiting:
            self._waiting.pop(key, None)

    def waiting(self, key: str) -> tuple[Action, ...]:
        """Return the actions of a job that wait."""
        return tuple(self._waiting.get(key, ()))

    def take_next(self, now: float) -> tuple[str, Action] | None:
        """Return the next action that may go out now, with its job's key, or None; it no longer waits.

        One at a time: what is done about one action may change whether the job wants the others.
        """
        self._now = now
        if self._allowed_at(now) > now or not self._bucket.take(now):
            return None
        entry = self._choose(now)
        self._taken += 1
        self.withdraw(entry.key, entry.action)
        self._note_sent(entry.action, now)
        return entry.key, entry.action

    def take_for_cleaning(self, now: float) -> bool:
        """Take a token for the cleaning, which gets at most half of them; return False if there is none for it."""
        has_token = max(self._bucket.next_at(), self._cleaning.next_at()) <= now
        return has_token and self._bucket.take(now) and self._cleaning.take(now)

    def next_for_cleaning_at(self) -> float:
        """Return the time from which there is a token for the cleaning."""
        return max(self._bucket.next_at(), self._cleaning.next_at())

    def next_at(self) -> float | None:
        """Return the time from which ``take_next`` may return something, or None if nothing can go by itself."""
        allowed_at = self._allowed_at(self._now)
        return max(self._bucket.next_at(), allowed_at) if allowed_at < math.inf else None

    def _allowed_at(self, now: float) -> float:
        """Return the earliest time for anything that waits. Called for every input, so it looks at no single entry."""
        paces = (pace for pace, count in self._paces.items() if count)
        return min((self._progress.allowed_at(pace, now) for pace in paces), default=math.inf)

    def _note_sent(self, action: Action, now: float) -> None:
        if action.kind is ActionKind.TOUCH:
            self._progress.probed_at = now

    def _choose(self, now: float) -> Waiting:
        entries = (
            entry
            for actions in self._waiting.values()
            for entry in actions.values()
            if self._progress.allowed_at(entry.pace, now) <= now
        )
        if self._taken % _FAIR_SHARE == _FAIR_SHARE - 1:
            return min(entries, key=lambda entry: entry.since)
        return min(entries, key=lambda entry: (PRIORITIES[entry.action.kind], entry.since))
