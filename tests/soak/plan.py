"""What a run does, and when: made from a seed, and from nothing else."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from flargo.terms import Role

T = TypeVar("T")
ROUND = 150.0
"""Seconds of a round: after each one no job is alive, and the launcher is gauged."""
LAUNCHING = 0.8
"""The part of a round in which jobs are launched and faults happen; in the rest they end."""
FAULT_EVERY = 10.0
"""Seconds, on average, from one fault of the wire to the next."""


class Kind(Enum):
    """What a program does."""

    EXITS = "exits with"
    SIGNALS = "sends itself signal"
    SLEEPS = "sleeps"
    DEAF = "sleeps and ignores SIGTERM"
    HEEDS = "sleeps and answers SIGTERM by exit code"
    DEVOURS = "takes more memory than it may"


@dataclass(frozen=True)
class Program:
    """What a job runs."""

    kind: Kind
    number: int = 0
    """The exit code, or the signal."""
    after: float = 0.0
    """Seconds after its beginning at which it ends by itself."""

    @property
    def own_end(self) -> int | None:
        """The exit code with which it ends if nobody touches it; None: it never does."""
        match self.kind:
            case Kind.EXITS:
                return self.number
            case Kind.SIGNALS:
                return 128 + self.number
            case Kind.DEVOURS:
                return 137
            case _:
                return None

    def __str__(self) -> str:
        number = f" {self.number}" if self.kind in {Kind.EXITS, Kind.SIGNALS, Kind.HEEDS} else ""
        return f"{self.kind.value}{number}" + (f" after {self.after:.1f} s" if self.own_end is not None else "")


class Deed(Enum):
    """What is done to a job."""

    ABORT = "aborted through FLARE"
    CLEANUP = "cleaned up by FLARE's heartbeat"
    TERMINATE = "argo terminate"
    DELETE_POD = "pod deleted"
    EVICT_POD = "pod evicted"
    DELETE_WORKFLOW = "Workflow deleted"


class Since(Enum):
    """From when an act's seconds count."""

    LAUNCH = "its launch"
    RUNNING = "its program's begin"


@dataclass(frozen=True)
class Act:
    """A deed, and when."""

    deed: Deed
    at: float
    since: Since

    def __str__(self) -> str:
        return f"{self.deed.value} {self.at:+.1f} s from {self.since.value}"


@dataclass(frozen=True)
class Launch:
    """A job."""

    number: int
    at: float
    """Seconds after the round's begin."""
    role: Role
    program: Program
    acts: tuple[Act, ...] = ()

    def __str__(self) -> str:
        return f"{self.role.value}; {self.program}; {', '.join(map(str, self.acts)) or 'left alone'}"


class Trouble(Enum):
    """What is wrong with the way to the API server, or with the cluster."""

    CUT = "watches cut again and again"
    GONE = "watches too old"
    HALF_OPEN = "watches half open"
    THROTTLED = "429 for everything"
    ERRORS = "errors"
    LOST_REPLIES = "replies lost"
    DELAYS = "requests late"
    LATE_REPLIES = "replies late"
    DOWN = "out of reach"
    EVENTS_LOST = "events lost"
    EVENTS_TWICE = "events told twice"
    EVENTS_LATE = "events late and out of order"
    CONTROLLER = "Workflow controller frozen"


@dataclass(frozen=True)
class Fault:
    """A trouble, and how long it lasts."""

    at: float
    """Seconds after the round's begin."""
    seconds: float
    trouble: Trouble
    verb: str = ""
    resource: str = ""
    """Which requests it concerns, or whose events; all, where empty."""
    number: int = 0
    """An HTTP status, or seconds."""

    def __str__(self) -> str:
        whose = f" ({self.verb or 'all'} {self.resource or 'of all'})" if self.verb or self.resource else ""
        return f"{self.trouble.value}{whose}{f' {self.number}' if self.number else ''} for {self.seconds:.1f} s"


@dataclass(frozen=True)
class Round:
    """Launches and faults; by the end of it no job is alive."""

    launches: tuple[Launch, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    jobs: int
    seconds: float
    controller: bool
    rounds: tuple[Round, ...]

    @property
    def command(self) -> str:
        """What runs it again."""
        flag = " --controller" if self.controller else ""
        return f"python -m tests.soak --seed {self.seed} --jobs {self.jobs} --seconds {self.seconds:g}{flag}"


def plan(seed: int, jobs: int, seconds: float, *, controller: bool = False) -> Plan:
    """Make a run.

    Args:
        seed: the same one makes the same run.
        jobs: how many.
        seconds: how long it takes, about.
        controller: freeze the Workflow controller, too, which everybody on the cluster would feel.
    """
    dice = random.Random(seed)  # noqa: S311  (no secret)
    rounds = max(2, round(seconds / ROUND))
    window = LAUNCHING * seconds / rounds
    shares = [jobs // rounds + (index < jobs % rounds) for index in range(rounds)]
    made, first, troubles = [], 1, _deal(dice)
    for index, share in enumerate(shares):
        # Argo takes a minute to finish a pod that ran out of memory: not where a round ends.
        launches = tuple(_launch(dice, first + i, window * i / share, late=i > share / 2) for i in range(share))
        made.append(Round(launches, tuple(_faults(dice, window, index, troubles, controller=controller))))
        first += share
    return Plan(seed, jobs, seconds, controller, tuple(made))


_KINDS = {
    Kind.EXITS: 50,
    Kind.SIGNALS: 8,
    Kind.SLEEPS: 15,
    Kind.DEAF: 8,
    Kind.HEEDS: 15,
    Kind.DEVOURS: 4,
}
_CODES = (0, 0, 0, 0, 0, 1, 2, 3, 9, 101, 102, 103, 104, 127, 255)


def _launch(dice: random.Random, number: int, at: float, *, late: bool) -> Launch:
    role = dice.choice((Role.CLIENT, Role.CLIENT, Role.CLIENT, Role.SERVER))
    kind = _one_of(dice, {**_KINDS, Kind.DEVOURS: 0} if late else _KINDS)
    after = round(dice.choice((0.0, dice.uniform(0, 6))), 1)
    numbers: Sequence[int] = {Kind.EXITS: _CODES, Kind.SIGNALS: (6, 9, 11, 15), Kind.HEEDS: (0, 0, 3, 101)}.get(
        kind, (0,)
    )
    program = Program(kind, dice.choice(numbers), after)
    return Launch(number, round(at, 1), role, program, tuple(_acts(dice, role, program)))


def _acts(dice: random.Random, role: Role, program: Program) -> Iterator[Act]:
    """What is done to a job. What does not end by itself is ended; what does is often left alone."""
    ends = program.own_end is not None
    if ends and (program.kind is Kind.DEVOURS or dice.random() < 0.5):
        return
    deeds = [deed for deed in Deed if deed is not Deed.CLEANUP or role is Role.CLIENT]
    weights = [3 if deed is Deed.ABORT else 1 for deed in deeds]
    for _ in range(1 if dice.random() < 0.85 else 2):
        (deed,) = dice.choices(deeds, weights)
        since = dice.choice((Since.LAUNCH, Since.RUNNING))
        if since is Since.LAUNCH:
            at = dice.uniform(0, 5)
        elif ends:
            at = max(0.0, program.after + dice.uniform(-1.5, 1.5))
        else:
            at = dice.uniform(0, 4)
        yield Act(deed, round(at, 1), since)


_SECONDS = {
    Trouble.CUT: (1.0, 5.0),
    Trouble.GONE: (1.0, 1.0),
    Trouble.HALF_OPEN: (5.0, 20.0),
    Trouble.DOWN: (1.0, 12.0),
    Trouble.EVENTS_LATE: (2.0, 5.0),
    Trouble.CONTROLLER: (3.0, 12.0),
}
_REQUESTS = (
    ("", ""),
    ("create", "workflows"),
    ("create", "secrets"),
    ("patch", "workflows"),
    ("get", ""),
    ("list", ""),
    ("delete", ""),
)
_NUMBERS = {
    Trouble.GONE: (1, 2, 4),
    Trouble.THROTTLED: (1, 2),
    Trouble.ERRORS: (500, 502, 503, 504),
    Trouble.DELAYS: (1, 2, 3),
    Trouble.LATE_REPLIES: (1, 2, 3),
}


def _deal(dice: random.Random) -> Iterator[Trouble]:
    """Troubles in no order, and each as often as any other."""
    while True:
        deck = [each for each in Trouble if each is not Trouble.CONTROLLER]
        dice.shuffle(deck)
        yield from deck


def _faults(
    dice: random.Random, window: float, index: int, troubles: Iterator[Trouble], *, controller: bool
) -> Iterator[Fault]:
    for _ in range(max(1, round(window / FAULT_EVERY))):
        yield _fault(dice, window, index, next(troubles))
    if controller:
        yield _fault(dice, window, index, Trouble.CONTROLLER)


def _fault(dice: random.Random, window: float, index: int, trouble: Trouble) -> Fault:
    verb, resource = "", ""
    if trouble in {Trouble.ERRORS, Trouble.LOST_REPLIES, Trouble.DELAYS, Trouble.LATE_REPLIES}:
        verb, resource = dice.choice(_REQUESTS)
    elif trouble is Trouble.EVENTS_LOST:
        # Of one kind for a whole round: where a pod's end and its Workflow's are lost both, on streams that go on as
        # if nothing were, only the next list tells, up to ten minutes later.
        resource = ("pods", "workflows")[index % 2]
    elif trouble is Trouble.EVENTS_LATE:
        resource = dice.choice(("", "pods", "workflows"))
    number = dice.choice(_NUMBERS.get(trouble, (0,)))
    least, most = _SECONDS.get(trouble, (2.0, 8.0))
    at = dice.uniform(0, window * 0.95)
    return Fault(round(at, 1), round(dice.uniform(least, most), 1), trouble, verb, resource, number)


def _one_of(dice: random.Random, weights: dict[T, int]) -> T:
    return dice.choices(list(weights), list(weights.values()))[0]
