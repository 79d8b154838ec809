"""A run's plan: which jobs are launched, what happens to them, and when. It depends on nothing but its seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from flargo.terms import Role

T = TypeVar("T")
ROUND_SECONDS = 150.0
"""The approximate length of a round, after which no job is alive and the launcher's resources are measured."""
LAUNCH_SHARE = 0.8
"""The part of a round in which jobs are launched and faults happen; in the rest of it the jobs end."""
SECOND_START_SHARE = 0.2
"""The part of the jobs that a person suspends, retries or resubmits."""
DRAIN_SHARE = 0.4
"""The part of the clients' jobs that are drained and may be started again."""
MAX_REJOINS = 2
"""The most attempts after the first that a job asks for, which is what the site grants."""
MAX_AWAY_SECONDS = 60.0
"""The longest time for which the client's parent is away, beside its own start."""
FAULT_INTERVAL_SECONDS = 10.0
"""The average time from one fault of the wire to the next."""


class ProgramKind(Enum):
    """A kind of program. The value is printed."""

    EXITS = "exits with"
    SIGNALS = "sends itself signal"
    SLEEPS = "sleeps"
    IGNORES_SIGTERM = "sleeps and ignores SIGTERM"
    HANDLES_SIGTERM = "sleeps and answers SIGTERM by exit code"
    EXCEEDS_MEMORY = "takes more memory than it may"


@dataclass(frozen=True)
class Program:
    """The program that a job runs."""

    kind: ProgramKind
    number: int = 0
    """The exit code, or the signal."""
    after: float = 0.0
    """Seconds from its start to its own end, if it has one."""

    @property
    def own_end(self) -> int | None:
        """The exit code with which it ends by itself; None if it runs for ever."""
        match self.kind:
            case ProgramKind.EXITS:
                return self.number
            case ProgramKind.SIGNALS:
                return 128 + self.number
            case ProgramKind.EXCEEDS_MEMORY:
                return 137
            case _:
                return None

    def __str__(self) -> str:
        number = (
            f" {self.number}"
            if self.kind in {ProgramKind.EXITS, ProgramKind.SIGNALS, ProgramKind.HANDLES_SIGTERM}
            else ""
        )
        return f"{self.kind.value}{number}" + (f" after {self.after:.1f} s" if self.own_end is not None else "")


class Intervention(Enum):
    """Something that FLARE or a person does to a job. The value is printed."""

    ABORT = "aborted through FLARE"
    CLEANUP = "cleaned up by FLARE's heartbeat"
    TERMINATE = "argo terminate"
    DELETE_POD = "pod deleted"
    EVICT_POD = "pod evicted"
    DELETE_WORKFLOW = "Workflow deleted"
    SUSPEND = "argo suspend"
    RESUBMIT = "argo resubmit"
    RETRY = "argo retry"


ENDINGS = frozenset(Intervention) - {Intervention.SUSPEND, Intervention.RESUBMIT, Intervention.RETRY}
"""The interventions that end a job. The others start a second program, which must be ended, or hinder Argo."""
THROUGH_FLARE = frozenset({Intervention.ABORT, Intervention.CLEANUP})
"""The interventions for which FLARE calls the launcher."""


class StartPoint(Enum):
    """The event from which an intervention's seconds count."""

    LAUNCH = "its launch"
    RUNNING = "its program's start"
    REJOIN = "its second attempt's start"
    RELEASE = "its release by the launcher"


@dataclass(frozen=True)
class PlannedIntervention:
    """An intervention and its time."""

    intervention: Intervention
    at: float
    since: StartPoint

    def __str__(self) -> str:
        return f"{self.intervention.value} {self.at:+.1f} s from {self.since.value}"


@dataclass(frozen=True)
class Launch:
    """A job's launch, and what is done to the job."""

    number: int
    at: float
    """Seconds after the round's start."""
    role: Role
    program: Program
    interventions: tuple[PlannedIntervention, ...] = ()
    rejoins: int = 0
    """How often its program may be started again if its pod is lost."""

    def __str__(self) -> str:
        program = f"{self.program}{f', may be started again {self.rejoins} times' if self.rejoins else ''}"
        return f"{self.role.value}; {program}; {', '.join(map(str, self.interventions)) or 'left alone'}"


class FaultKind(Enum):
    """A fault on the way to the API server, or of the cluster. The value is printed."""

    CUT = "watches cut again and again"
    GONE = "watches expired"
    HALF_OPEN = "watches half open"
    THROTTLED = "429 for everything"
    ERRORS = "errors"
    LOST_REPLIES = "replies lost"
    DELAYS = "requests late"
    LATE_REPLIES = "replies late"
    DOWN = "API unreachable"
    EVENTS_LOST = "events lost"
    EVENTS_TWICE = "events repeated"
    EVENTS_LATE = "events late and out of order"
    CONTROLLER = "Workflow controller frozen"
    PARENT_RESTART = "client's parent killed and started again"


@dataclass(frozen=True)
class PlannedFault:
    """A fault, its time and its length."""

    at: float
    """Seconds after the round's start."""
    seconds: float
    kind: FaultKind
    verb: str = ""
    resource: str = ""
    """The resource of the requests, or of the events, that the fault concerns; empty means all."""
    number: int = 0
    """An HTTP status, or seconds."""

    def __str__(self) -> str:
        scope = f" ({self.verb or 'all'} {self.resource or 'of all'})" if self.verb or self.resource else ""
        return f"{self.kind.value}{scope}{f' {self.number}' if self.number else ''} for {self.seconds:.1f} s"


@dataclass(frozen=True)
class Round:
    """The launches and faults of one round, after which no job is alive."""

    launches: tuple[Launch, ...]
    faults: tuple[PlannedFault, ...]


@dataclass(frozen=True)
class Plan:
    """A whole run's plan."""

    seed: int
    jobs: int
    seconds: float
    controller: bool
    rounds: tuple[Round, ...]

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        flag = " --controller" if self.controller else ""
        return f"python -m tests.soak --seed {self.seed} --jobs {self.jobs} --seconds {self.seconds:g}{flag}"


def plan(seed: int, jobs: int, seconds: float, *, controller: bool = False) -> Plan:
    """Make a run's plan.

    Args:
        seed: the same seed makes the same plan.
        jobs: the number of jobs.
        seconds: the approximate length of the run.
        controller: freeze the Workflow controller, too, which affects everybody on the cluster.
    """
    dice = random.Random(seed)  # noqa: S311  (no secret)
    rounds = max(2, round(seconds / ROUND_SECONDS))
    window = LAUNCH_SHARE * seconds / rounds
    shares = [jobs // rounds + (index < jobs % rounds) for index in range(rounds)]
    planned_rounds, first, kinds = [], 1, _shuffled_kinds(dice)
    for index, share in enumerate(shares):
        # Argo takes a minute to finish a pod that ran out of memory: not where a round ends.
        launches = tuple(_launch(dice, first + i, window * i / share, late=i > share / 2) for i in range(share))
        faults = [*_faults(dice, window, index, kinds, controller=controller)]
        if index < max(1, rounds - 2):
            # The last process lives for two whole rounds, between which its growth is measured.
            faults += _restarts(dice, window)
        planned_rounds.append(Round(launches, tuple(faults)))
        first += share
    return Plan(seed, jobs, seconds, controller, tuple(planned_rounds))


def attempt_names(name: str) -> list[str]:
    """Return the names that the Workflows of a job's attempts may have, by the first one's."""
    return [name, *(f"{name}-r{number}" for number in range(1, MAX_REJOINS + 1))]


_KIND_WEIGHTS = {
    ProgramKind.EXITS: 50,
    ProgramKind.SIGNALS: 8,
    ProgramKind.SLEEPS: 15,
    ProgramKind.IGNORES_SIGTERM: 8,
    ProgramKind.HANDLES_SIGTERM: 15,
    ProgramKind.EXCEEDS_MEMORY: 4,
}
_EXIT_CODES = (0, 0, 0, 0, 0, 1, 2, 3, 9, 101, 102, 103, 104, 127, 255)


def _launch(dice: random.Random, number: int, at: float, *, late: bool) -> Launch:
    role = dice.choice((Role.CLIENT, Role.CLIENT, Role.CLIENT, Role.SERVER))
    kind = _weighted_choice(dice, {**_KIND_WEIGHTS, ProgramKind.EXCEEDS_MEMORY: 0} if late else _KIND_WEIGHTS)
    after = round(dice.choice((0.0, dice.uniform(0, 6))), 1)
    numbers: Sequence[int] = {
        ProgramKind.EXITS: _EXIT_CODES,
        ProgramKind.SIGNALS: (6, 9, 11, 15),
        ProgramKind.HANDLES_SIGTERM: (0, 0, 3, 101),
    }.get(kind, (0,))
    program = Program(kind, dice.choice(numbers), after)
    if role is Role.CLIENT and dice.random() < DRAIN_SHARE:
        rejoins = dice.randint(1, MAX_REJOINS)
        # Long enough for a drain before its own end, in most cases.
        program = replace(program, after=round(dice.uniform(2, 9), 1))
        return Launch(number, round(at, 1), role, program, tuple(_drains(dice, program)), rejoins)
    return Launch(number, round(at, 1), role, program, tuple(_interventions(dice, role, program)))


def _drains(dice: random.Random, program: Program) -> Iterator[PlannedIntervention]:
    """Yield the drains of a job that may be started again, and what ends it if its program runs for ever.

    That may come before the drain, while nothing of the job runs, or after the second attempt's start.
    """
    yield from _second_starts(dice)
    yield _planned(dice, Intervention.EVICT_POD, dice.choice((StartPoint.LAUNCH, StartPoint.RUNNING)), 4)
    for _ in range(dice.choice((0, 1, 2))):
        yield _planned(dice, Intervention.EVICT_POD, StartPoint.REJOIN, 8)
    if program.own_end is None:
        endings = sorted(ENDINGS - {Intervention.EVICT_POD}, key=lambda each: each.name)
        (ending,) = dice.choices(endings, [3 if each is Intervention.ABORT else 1 for each in endings])
        yield _planned(dice, ending, dice.choice((StartPoint.RUNNING, StartPoint.REJOIN)), 8)


def _planned(dice: random.Random, intervention: Intervention, since: StartPoint, most: float) -> PlannedIntervention:
    return PlannedIntervention(intervention, round(dice.uniform(0, most), 1), since)


def _interventions(dice: random.Random, role: Role, program: Program) -> Iterator[PlannedIntervention]:
    """Yield what is done to a job: always something if it would run for ever, else often nothing."""
    yield from _second_starts(dice)
    ends_by_itself = program.own_end is not None
    if ends_by_itself and (program.kind is ProgramKind.EXCEEDS_MEMORY or dice.random() < 0.5):
        return
    candidates = [
        each for each in Intervention if each in ENDINGS and (each is not Intervention.CLEANUP or role is Role.CLIENT)
    ]
    weights = [3 if each is Intervention.ABORT else 1 for each in candidates]
    for _ in range(1 if dice.random() < 0.85 else 2):
        (intervention,) = dice.choices(candidates, weights)
        since = dice.choice((StartPoint.LAUNCH, StartPoint.RUNNING))
        if since is StartPoint.LAUNCH:
            at = dice.uniform(0, 5)
        elif ends_by_itself:
            at = max(0.0, program.after + dice.uniform(-1.5, 1.5))
        else:
            at = dice.uniform(0, 4)
        yield PlannedIntervention(intervention, round(at, 1), since)


def _second_starts(dice: random.Random) -> Iterator[PlannedIntervention]:
    """Yield, for every fifth job, what people do in Argo's UI that does not end a job."""
    if dice.random() >= SECOND_START_SHARE:
        return
    # A Workflow that is suspended before its pod exists waits for ever, and only one that has failed can be retried.
    intervention, since = dice.choice(
        (
            (Intervention.SUSPEND, StartPoint.RUNNING),
            (Intervention.RESUBMIT, StartPoint.RUNNING),
            (Intervention.RESUBMIT, StartPoint.RELEASE),
            (Intervention.RETRY, StartPoint.RELEASE),
        )
    )
    yield PlannedIntervention(intervention, round(dice.uniform(0, 2), 1), since)


_DURATIONS = {
    FaultKind.CUT: (1.0, 5.0),
    FaultKind.GONE: (1.0, 1.0),
    FaultKind.HALF_OPEN: (5.0, 20.0),
    FaultKind.DOWN: (1.0, 12.0),
    FaultKind.EVENTS_LATE: (2.0, 5.0),
    FaultKind.CONTROLLER: (3.0, 12.0),
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
    FaultKind.GONE: (1, 2, 4),
    FaultKind.THROTTLED: (1, 2),
    FaultKind.ERRORS: (500, 502, 503, 504),
    FaultKind.DELAYS: (1, 2, 3),
    FaultKind.LATE_REPLIES: (1, 2, 3),
}


def _shuffled_kinds(dice: random.Random) -> Iterator[FaultKind]:
    """Yield kinds of faults in random order, each as often as any other."""
    while True:
        deck = [each for each in FaultKind if each not in {FaultKind.CONTROLLER, FaultKind.PARENT_RESTART}]
        dice.shuffle(deck)
        yield from deck


def _faults(
    dice: random.Random, window: float, index: int, kinds: Iterator[FaultKind], *, controller: bool
) -> Iterator[PlannedFault]:
    for _ in range(max(1, round(window / FAULT_INTERVAL_SECONDS))):
        yield _fault(dice, window, index, next(kinds))
    if controller:
        yield _fault(dice, window, index, FaultKind.CONTROLLER)


def _fault(dice: random.Random, window: float, index: int, kind: FaultKind) -> PlannedFault:
    verb, resource = "", ""
    if kind in {FaultKind.ERRORS, FaultKind.LOST_REPLIES, FaultKind.DELAYS, FaultKind.LATE_REPLIES}:
        verb, resource = dice.choice(_REQUESTS)
    elif kind is FaultKind.EVENTS_LOST:
        # One resource for a whole round: if both a pod's and its Workflow's last events are lost, on streams that stay
        # open, only the next list reports the end, up to ten minutes later.
        resource = ("pods", "workflows")[index % 2]
    elif kind is FaultKind.EVENTS_LATE:
        resource = dice.choice(("", "pods", "workflows"))
    number = dice.choice(_NUMBERS.get(kind, (0,)))
    least, most = _DURATIONS.get(kind, (2.0, 8.0))
    at = dice.uniform(0, window * 0.95)
    return PlannedFault(round(at, 1), round(dice.uniform(least, most), 1), kind, verb, resource, number)


def _restarts(dice: random.Random, window: float) -> Iterator[PlannedFault]:
    """Yield some restarts of the client's parent, which is away for a moment or for longer."""
    for least, most in ((0.1, 0.25), (0.45, 0.6), (0.75, 0.9))[: dice.randint(2, 3)]:
        away = dice.uniform(*dice.choice(((0, 5), (0, 5), (5, MAX_AWAY_SECONDS))))
        at = dice.uniform(least * window, most * window)
        yield PlannedFault(round(at, 1), round(away, 1), FaultKind.PARENT_RESTART)


def _weighted_choice(dice: random.Random, weights: dict[T, int]) -> T:
    return dice.choices(list(weights), list(weights.values()))[0]
