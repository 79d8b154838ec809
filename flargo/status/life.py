"""The life of one job: facts in, wishes out. The heart of flargo, and a pure function.

``step(life, fact, now)`` is called for everything that happens to a job. It remembers what must be remembered,
rules on the job when it can be ruled on, and says what it wishes done. It is level-triggered: a wish is
derived from what is seen and what is wanted, is repeated with growing gaps until it shows, and is never
part of a plan that could be lost half-way.

Three rules carry it:

1. Nothing is concluded from an absence, a lapse of time, or any end but exit code 0 without a fresh read
   after it: pods and Workflows arrive on two streams with no order between them, and exit code 143 may
   be seen before the shutdown or the drain that caused it.
2. The verdict (what FLARE hears, once) and being cleared (nothing is left) are two things. Killing goes on
   until cleared.
3. Two clocks: patience only passes while the cluster is being heard; retries of a kill pass always.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from flargo.status.diagnosis import Diagnosis, Stage, diagnose
from flargo.status.reasons import Reason
from flargo.status.verdict import ENDED_BY_ITSELF, Cause, Verdict, rule
from flargo.status.views import Observation, PodView
from flargo.terms import Patience, Uid

SETTLE = 60.0
"""Seconds that Argo gets to finish a Workflow after its main container has ended by itself."""
ABSENCE = 10.0
"""Seconds for which a submitted Workflow may be missing from the stream before it is asked for."""
SHUTDOWN_LAG = 3.0
"""Seconds after a shutdown before pods are deleted although Argo has not ended the Workflow. A pod that is
deleted while Argo believes the job to be going on is made again."""
_BACK_OFF = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class Act(Enum):
    """What a life can wish for."""

    CONFIRM = "confirm"
    """Read the Workflow and its pods afresh."""
    SHUTDOWN = "shut down"
    """Set the Workflow's ``spec.shutdown`` to Terminate."""
    DISCARD = "discard"
    """Delete the Workflow: it was never released."""
    KILL = "kill"
    """Delete the pod with its grace, which ends in SIGKILL."""
    DROP_SECRET = "drop the credentials of"  # noqa: S105
    """Delete the credentials Secret."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An act, and the uid of what it is done to where it must hit that very object."""

    act: Act
    uid: Uid | None = None


_CONFIRM = Wish(Act.CONFIRM)


@dataclass(frozen=True, slots=True)
class Try:
    """How often a wish was tried, and when (on the always-running clock) it may be tried again."""

    failures: int = 0
    not_before: float = math.inf


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks, in seconds from any origin."""

    healthy: float
    """Runs only while both streams are in sync."""
    wall: float
    """Runs always."""


@dataclass(frozen=True, slots=True)
class Saw:
    """The job was observed."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class Stop:
    """FLARE wants the job ended."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Submitted:
    """The submit is over: the Workflow was released, or there was an error."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a wish; a confirmation that worked arrives as a fresh Saw instead."""

    wish: Wish
    ok: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Fact = Saw | Stop | Submitted | Told | Tick


@dataclass(frozen=True, slots=True)
class Life:
    """All that is remembered of one job."""

    name: str
    """Of its Workflow."""
    attempt: str
    """Of its launch: a Workflow of that name with another one is somebody else's."""
    patience: Patience
    grace: int
    """Seconds between SIGTERM and SIGKILL."""
    born: float
    """On the healthy clock."""
    submitting: bool = True
    error: str = ""
    """Why the submit failed."""
    cause: Cause | None = None
    seen: Observation = field(default_factory=Observation)
    first_pod: Uid | None = None
    ended: PodView | None = None
    """The first pod, once its main container has ended: it cannot end twice, though the pod may go or be told
    of out of order."""
    stage: Stage = Stage.ABSENT
    since: float = 0.0
    """When it came to its stage, on the healthy clock."""
    doom: Diagnosis | None = None
    """A confirmed reason to end a job that is still there."""
    shutdown_at: float = math.inf
    """When the shutdown was accepted or first seen, on the always-running clock."""
    verdict: Verdict | None = None
    ruled_at: float = math.inf
    """On the always-running clock."""
    tries: Mapping[Wish, Try] = field(default_factory=lambda: MappingProxyType({}))
    secret_dropped: bool = False
    quiet: bool = False
    """A fresh read has shown that nothing runs and nothing will: of a job that was stopped, a stream that is cut
    could hide a pod that was made at the last moment."""

    @property
    def stopping(self) -> bool:
        """Whether it is to be brought to an end."""
        if self.cause is not None or self.doom is not None:
            return True
        if self.verdict is None:
            return False
        run_again = any(pod.uid != self.first_pod and not pod.over for pod in self.seen.pods)
        return run_again or self.verdict.reason not in ENDED_BY_ITSELF

    @property
    def cleared(self) -> bool:
        """Whether FLARE has its verdict and nothing is left on the cluster that runs or holds credentials."""
        quiet = self.quiet if self.stopping else _is_quiet(self.seen)
        return self.verdict is not None and self.secret_dropped and not self.submitting and quiet


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from a fact."""

    life: Life
    wishes: tuple[Wish, ...]
    """To be performed now; each is answered by a Told, or by a fresh Saw."""
    wake_in: float | None
    """Seconds after which a Tick is due, though nothing happens."""


def step(life: Life, fact: Fact, now: Now) -> Step:
    """Let a fact happen to a life."""
    life = _absorb(life, fact, now)
    fresh = isinstance(fact, Saw) and fact.observation.fresh
    life = _judge(life, now, fresh=fresh)
    if life.cleared:
        return Step(life, (), None)
    wanted = _wishes(life, now)
    due = tuple(wish for wish in wanted if life.tries.get(wish, Try(not_before=-math.inf)).not_before <= now.wall)
    tries = {wish: life.tries[wish] for wish in wanted if wish in life.tries}
    tries |= {wish: replace(tries.get(wish, Try()), not_before=math.inf) for wish in due}
    life = replace(life, tries=MappingProxyType(tries))
    return Step(life, due, _wake_in(life, now))


# --- what is remembered


def _absorb(life: Life, fact: Fact, now: Now) -> Life:
    match fact:
        case Saw(observation):
            return _see(life, observation, now)
        case Stop(cause):
            # FLARE also terminates what has ended already, to clean up: Argo is then left to finish in peace.
            # A person's abort outweighs a cleanup that came first; nothing outweighs an abort.
            settled = life.verdict is not None or life.cause is Cause.ABORT
            return life if settled else replace(life, cause=cause)
        case Submitted(error):
            since = now.healthy if life.stage is Stage.ABSENT else life.since
            return replace(life, submitting=False, error=error, since=since)
        case Told(wish, ok):
            return _hear(life, wish, now, ok=ok)
        case Tick():
            return life


def _see(life: Life, observation: Observation, now: Now) -> Life:
    first = life.first_pod or (observation.pods[0].uid if observation.pods else None)
    pod = next((pod for pod in observation.pods if pod.uid == first), None)
    ended = pod if pod is not None and pod.exit is not None else life.ended
    if ended is not None and ended is not pod:
        others = tuple(other for other in observation.pods if other.uid != first)
        observation = replace(observation, pods=(ended, *others))
    stage = diagnose(observation, first).stage
    workflow = observation.workflow
    shut = workflow is not None and bool(workflow.shutdown)
    return replace(
        life,
        seen=observation,
        first_pod=first,
        ended=ended,
        stage=stage,
        since=life.since if stage is life.stage else now.healthy,
        shutdown_at=min(life.shutdown_at, now.wall) if shut else life.shutdown_at,
        tries=_after_a_look(life.tries, now, fresh=observation.fresh),
        quiet=life.quiet or (observation.fresh and not life.submitting and _is_quiet(observation)),
    )


def _is_quiet(seen: Observation) -> bool:
    return (seen.workflow is None or seen.workflow.over) and all(pod.over for pod in seen.pods)


def _after_a_look(tries: Mapping[Wish, Try], now: Now, *, fresh: bool) -> Mapping[Wish, Try]:
    """A fresh read that concluded nothing is repeated with growing gaps; after news from a stream, at once."""
    before = tries.get(_CONFIRM)
    others = {wish: it for wish, it in tries.items() if wish != _CONFIRM}
    if fresh:
        reads = 1 if before is None else before.failures + 1
        return MappingProxyType({**others, _CONFIRM: Try(reads, now.wall + _gap(reads))})
    in_flight = before is not None and before.not_before == math.inf
    return tries if in_flight else MappingProxyType(others)


def _gap(failures: int) -> float:
    return _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]


def _hear(life: Life, wish: Wish, now: Now, *, ok: bool) -> Life:
    failures = 0 if ok else life.tries.get(wish, Try()).failures + 1
    wait = _patience_with(wish, life) if ok else _gap(failures)
    tries = MappingProxyType({**life.tries, wish: Try(failures, now.wall + wait)})
    life = replace(life, tries=tries)
    if ok and wish.act is Act.DROP_SECRET:
        return replace(life, secret_dropped=True)
    if ok and wish.act is Act.SHUTDOWN:
        return replace(life, shutdown_at=min(life.shutdown_at, now.wall))
    return life


def _patience_with(wish: Wish, life: Life) -> float:
    """Seconds until a wish that was granted is repeated if it still does not show."""
    return life.grace + 10.0 if wish.act is Act.KILL else 5.0


# --- what is ruled


def _judge(life: Life, now: Now, *, fresh: bool) -> Life:
    if life.verdict is not None:
        return life
    seen = diagnose(life.seen, life.first_pod)
    if seen.final or (fresh and _nothing_runs(life, seen, now)):
        return _rule(life, seen, now)
    if fresh and life.doom is None:
        return replace(life, doom=_doom(life, seen, now))
    return life


def _nothing_runs(life: Life, seen: Diagnosis, now: Now) -> bool:
    if seen.stage is Stage.ABSENT:
        return not life.submitting
    # Of a Workflow that is shut down Argo makes no pod any more, though its controller be away for now.
    stillborn = not life.seen.pods and now.wall >= life.shutdown_at + SHUTDOWN_LAG
    return seen.stage is Stage.ENDED or stillborn


def _rule(life: Life, seen: Diagnosis, now: Now) -> Life:
    if seen.stage is Stage.ABSENT:
        # Never there, or discarded before anything ran.
        reason = Reason.LAUNCH_FAILED if life.error else Reason.WORKFLOW_DELETED
        seen = Diagnosis(Stage.ABSENT, reason, life.error)
    verdict = rule(life.cause, life.doom, seen, published=life.seen.published)
    return replace(life, verdict=verdict, ruled_at=now.wall)


def _doom(life: Life, seen: Diagnosis, now: Now) -> Diagnosis | None:
    """Why a job that is still there must be ended: told from outside, can never start, or out of patience."""
    if life.error and not life.submitting:
        return Diagnosis(seen.stage, Reason.LAUNCH_FAILED, life.error)
    if seen.reason is not None:
        return seen
    overdue = _overdue(life, now)
    return Diagnosis(seen.stage, overdue, seen.detail) if overdue is not None else None


def _deadlines(life: Life) -> list[tuple[float, Reason]]:
    """The ends of patience that apply to the life's stage, on the healthy clock."""
    if life.stage >= Stage.RUNNING:
        return []
    limits = {
        Stage.ABSENT: (None if life.submitting else ABSENCE, Reason.WORKFLOW_DELETED),
        Stage.UNCLAIMED: (life.patience.unclaimed, Reason.UNCLAIMED),
        Stage.SHORTAGE: (life.patience.pending, Reason.SHORTAGE),
        Stage.STARTING: (life.patience.starting, Reason.START_TIMEOUT),
    }
    own, reason = limits.get(life.stage, (None, Reason.TIMEOUT))
    ends = [(life.since + own, reason)] if own is not None else []
    if life.patience.total is not None:
        ends.append((life.born + life.patience.total, Reason.TIMEOUT))
    return ends


def _overdue(life: Life, now: Now) -> Reason | None:
    past = [(at, reason) for at, reason in _deadlines(life) if at <= now.healthy]
    return min(past, key=lambda end: end[0])[1] if past else None


# --- what is wished for


def _wishes(life: Life, now: Now) -> list[Wish]:
    wishes = []
    if life.verdict is not None and not life.secret_dropped:
        wishes.append(Wish(Act.DROP_SECRET))
    if life.stopping or _lingers(life, now):
        wishes += _ending(life, now)
    elif life.verdict is None and _asks_confirmation(life, now):
        wishes.append(_CONFIRM)
    return wishes


def _lingers(life: Life, now: Now) -> bool:
    """Main has ended by itself, yet Argo does not finish: its wait container hangs, or the controller is away."""
    return life.verdict is not None and now.wall >= life.ruled_at + SETTLE


def _asks_confirmation(life: Life, now: Now) -> bool:
    if life.submitting and life.stage is Stage.ABSENT:
        return False
    failed_submit = bool(life.error) and not life.submitting
    seen = diagnose(life.seen, life.first_pod)
    return failed_submit or seen.reason is not None or _overdue(life, now) is not None


def _ending(life: Life, now: Now) -> list[Wish]:
    """The next unmet steps towards nothing being left."""
    workflow, living = life.seen.workflow, _living(life, now)
    if workflow is not None and not (workflow.over or workflow.shutdown or workflow.deleting):
        never_released = workflow.suspended and not life.seen.pods
        return [Wish(Act.DISCARD if never_released else Act.SHUTDOWN, workflow.uid)]
    if living:
        safe = workflow is None or workflow.over or now.wall >= life.shutdown_at + SHUTDOWN_LAG
        return [Wish(Act.KILL, pod.uid) for pod in living] if safe else []
    if not life.quiet and not (workflow is None and life.submitting):
        return [_CONFIRM]
    return []


def _living(life: Life, now: Now) -> list[PodView]:
    if _lingers(life, now):
        return [pod for pod in life.seen.pods if pod.phase not in {"Succeeded", "Failed"}]
    return [pod for pod in life.seen.pods if not pod.over]


# --- when to look again


def _wake_in(life: Life, now: Now) -> float | None:
    moments = [at - now.healthy for at, _ in _deadlines(life)] if life.verdict is None and not life.stopping else []
    moments += [it.not_before - now.wall for it in life.tries.values()]
    if life.stopping:
        moments.append(life.shutdown_at + SHUTDOWN_LAG - now.wall)
    if life.verdict is not None:
        moments.append(life.ruled_at + SETTLE - now.wall)
    return min((moment for moment in moments if 0.0 < moment < math.inf), default=None)
