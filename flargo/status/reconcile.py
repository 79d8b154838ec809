"""What follows from what: facts in, wishes out. The heart of flargo, and a pure function.

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
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from flargo.status.diagnosis import Diagnosis, Stage, diagnose
from flargo.status.job_state import (
    CONFIRM,
    Act,
    Fact,
    GaveUp,
    Heard,
    Life,
    Now,
    Saw,
    Step,
    Stop,
    Submitted,
    Tick,
    Told,
    Try,
    Wish,
    is_quiet,
)
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, rule
from flargo.status.views import EventView, Observation, PodView

OVERLOOKED = 4.0
"""Seconds after which a Workflow that shows no sign of its last change is touched. Argo 3.7 writes its own update
back into what it remembers, over a newer change that came meanwhile (operator.go, writeBackToInformer), and then
believes a released Workflow suspended until the next event. Seen."""
SETTLE = 60.0
"""Seconds that Argo gets to finish a Workflow after its main container has ended by itself."""
LOST = 60.0
"""Seconds beyond its grace after which a pod that is being killed counts as lost with its node."""
TAINT = 60.0
"""Seconds for which taints may keep a pod from every node. The stock launcher fails such a job at once, and so after
every outage of the API server the jobs that are launched before the nodes are ready again. Seen."""
ABSENCE = 10.0
"""Seconds for which a submitted Workflow may be missing from the stream before it is asked for."""
SHUTDOWN_LAG = 3.0
"""Seconds after a shutdown before pods are deleted although Argo has not ended the Workflow. A pod that is
deleted while Argo believes the job to be going on is made again."""
PATIENT = 10.0
"""Seconds that a pod may take to start before its events are listed."""
_SLOW = frozenset({Stage.STARTING, Stage.PULLING})
_LISTEN_GAPS = (10.0, 10.0, 15.0, 20.0, 30.0)
_BACK_OFF = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


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
    if tries != life.tries:
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
        case GaveUp(detail):
            over = life.verdict is not None or life.stopping
            return life if over else replace(life, doom=Diagnosis(life.stage, Reason.LAUNCH_FAILED, detail))
        case Submitted(error, secret):
            since = now.healthy if life.stage is Stage.ABSENT else life.since
            return replace(life, submitting=False, submitted_at=now.healthy, error=error, secret=secret, since=since)
        case Told(wish, ok):
            return _hear(life, wish, now, ok=ok)
        case Heard(wish, events):
            return _listen(life, wish, events, now)
        case Tick():
            return life


def _see(life: Life, observation: Observation, now: Now) -> Life:
    first = life.first_pod or (observation.pods[0].uid if observation.pods else None)
    pod = next((pod for pod in observation.pods if pod.uid == first), None)
    ended = pod if pod is not None and pod.exit is not None else life.ended
    if ended is not None and ended is not pod:
        others = tuple(other for other in observation.pods if other.uid != first)
        # Its exit stands; what the pod is by now is told by this observation, or it is gone.
        still = replace(pod, exit=ended.exit) if pod is not None else replace(ended, phase="Failed")
        observation = replace(observation, pods=(still, *others))
    observation = replace(observation, events=life.events, vanished=life.pod if pod is None else None)
    stage = diagnose(observation, first).stage
    workflow = observation.workflow
    shut = workflow is not None and bool(workflow.shutdown)
    return replace(
        life,
        seen=observation,
        pod=pod or life.pod,
        doubtful=life.doubtful or (life.first_pod is None and first is not None and _is_unsure(observation)),
        ended=ended,
        stage=stage,
        since=life.since if stage is life.stage else now.healthy,
        shutdown_at=min(life.shutdown_at, now.wall) if shut else life.shutdown_at,
        tries=_after_a_look(life.tries, now, fresh=observation.fresh),
        quiet=life.quiet or (observation.fresh and not life.submitting and is_quiet(observation)),
        lingers=life.lingers or (observation.fresh and _is_overdue(life, now) and not is_quiet(observation)),
    )


def _is_unsure(observation: Observation) -> bool:
    """Whether something may have come and gone before it that no stream told of."""
    return observation.gap or observation.fresh


def _listen(life: Life, wish: Wish, told: tuple[EventView, ...], now: Now) -> Life:
    events = tuple(event for event in told if event.uid in {"", life.first_pod})
    workflow = life.seen.workflow
    created = workflow.created if workflow is not None else None
    # An earlier launch of the job had a pod of that name, too: of an earlier Workflow.
    others = [event for event in told if event not in events and created and event.first and event.first >= created]
    life = replace(life, doubtful=False, twice=life.twice or bool(others))
    seen = replace(life.seen, events=events, fresh=False)
    stage = diagnose(seen, life.first_pod).stage
    times = life.tries.get(wish, Try()).failures + 1
    again = now.wall + _LISTEN_GAPS[min(times, len(_LISTEN_GAPS)) - 1]
    return replace(
        life,
        seen=seen,
        events=events,
        stage=stage,
        since=life.since if stage is life.stage else now.healthy,
        tries=MappingProxyType({**life.tries, wish: Try(times, again)}),
    )


def _after_a_look(tries: Mapping[Wish, Try], now: Now, *, fresh: bool) -> Mapping[Wish, Try]:
    """A fresh read that concluded nothing is repeated with growing gaps; after news from a stream, at once."""
    before = tries.get(CONFIRM)
    others = {wish: it for wish, it in tries.items() if wish != CONFIRM}
    if fresh:
        reads = 1 if before is None else before.failures + 1
        return MappingProxyType({**others, CONFIRM: Try(reads, now.wall + _gap(reads))})
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
    if ok and wish.act is Act.KILL:
        return replace(life, killed_at=min(life.killed_at, now.healthy))
    return life


def _patience_with(wish: Wish, life: Life) -> float:
    """Seconds until a wish that was granted is repeated if it still does not show."""
    return life.grace + 10.0 if wish.act is Act.KILL else 5.0


# --- what is ruled


def _judge(life: Life, now: Now, *, fresh: bool) -> Life:
    if life.verdict is not None:
        return life
    seen = diagnose(life.seen, life.first_pod)
    if fresh and life.twice and life.doom is None:
        life = replace(life, doom=Diagnosis(seen.stage, Reason.RUN_TWICE, "its events tell of an earlier pod"))
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
    return seen.stage is Stage.ENDED or stillborn or _is_lost(life, now)


def _is_lost(life: Life, now: Now) -> bool:
    """Whether a pod has been being killed for so long that its node must be gone. Killing goes on all the same."""
    dying = all(pod.deleting or pod.over for pod in life.seen.pods)
    return dying and now.healthy >= life.killed_at + _grace(life) + LOST


def _grace(life: Life) -> float:
    """Seconds that its pods may take to die: the kubelet does not shorten a grace that somebody else gave."""
    return max((float(life.grace), *(pod.deletion_grace for pod in life.seen.pods)))


def _rule(life: Life, seen: Diagnosis, now: Now) -> Life:
    if seen.stage is Stage.ABSENT:
        # Never there, or discarded before anything ran.
        reason = Reason.LAUNCH_FAILED if life.error else Reason.WORKFLOW_DELETED
        seen = Diagnosis(Stage.ABSENT, reason, life.error)
    elif seen.stage is not Stage.ENDED and life.seen.pods:
        unseen = f"its end on node {life.seen.pods[0].node} was not seen"
        seen = replace(seen, detail="; ".join(filter(None, (seen.detail, unseen))))
    verdict = rule(life.cause, life.doom, seen, published=life.seen.published)
    return replace(life, verdict=verdict, ruled_at=now.healthy)


def _doom(life: Life, seen: Diagnosis, now: Now) -> Diagnosis | None:
    """Why a job that is still there must be ended: told from outside, can never start, or out of patience."""
    if _has_failed_to_launch(life):
        return Diagnosis(seen.stage, Reason.LAUNCH_FAILED, life.error)
    if seen.reason is not None:
        return seen
    overdue = _overdue(life, now)
    if overdue is None:
        return None
    waited = f"flargo's patience was {overdue.patience:g} s{overdue.limit}"
    return Diagnosis(seen.stage, overdue.reason, "; ".join(filter(None, (seen.detail, waited))))


def _has_failed_to_launch(life: Life) -> bool:
    """Whether its submit failed for good. If only the answer to the release was lost, it runs, and may."""
    return bool(life.error) and not life.submitting and life.stage <= Stage.HELD


class _Deadline(NamedTuple):
    """An end of patience."""

    at: float
    """On the healthy clock."""
    patience: float
    """In seconds."""
    reason: Reason
    limit: str = ""
    """Which limit it is, where the reason does not tell."""


def _deadlines(life: Life) -> list[_Deadline]:
    """The ends of patience that apply to the life's stage."""
    if life.stage >= Stage.RUNNING:
        return []
    limits = {
        Stage.ABSENT: (None if life.submitting else ABSENCE, Reason.WORKFLOW_DELETED),
        Stage.QUEUED: (life.patience.queued, Reason.QUEUED),
        Stage.QUOTA: (life.patience.quota, Reason.QUOTA),
        Stage.PULLING: (life.patience.pulling, Reason.PULLING),
        Stage.UNCLAIMED: (life.patience.unclaimed, Reason.UNCLAIMED),
        Stage.WAITING: (life.patience.starting, Reason.START_TIMEOUT),
        Stage.SHORTAGE: (life.patience.pending, Reason.SHORTAGE),
        Stage.TAINTED: (TAINT, Reason.UNSCHEDULABLE),
        Stage.STARTING: (life.patience.starting, Reason.START_TIMEOUT),
    }
    own, reason = limits.get(life.stage, (None, Reason.TIMEOUT))
    ends = [_Deadline(life.since + own, own, reason)] if own is not None else []
    placement, total = life.patience.placement, life.patience.total
    if placement is not None and Stage.HELD <= life.stage <= Stage.TAINTED:
        limit = ", for a server's job to have a node ('argo.server_pending')"
        ends.append(_Deadline(life.submitted_at + placement, placement, reason, limit))
    return ends if total is None else [*ends, _Deadline(life.born + total, total, Reason.TIMEOUT)]


def _overdue(life: Life, now: Now) -> _Deadline | None:
    past = (end for end in _deadlines(life) if end.at <= now.healthy)
    return min(past, key=lambda end: end.at, default=None)


# --- what is wished for


def _wishes(life: Life, now: Now) -> list[Wish]:
    wishes = []
    # A submit that still goes on may be about to create them.
    if life.verdict is not None and not life.submitting and not life.secret_dropped:
        wishes.append(Wish(Act.DROP_SECRET, life.secret))
    if life.stopping or life.lingers:
        wishes += _ending(life, now)
    elif _is_overdue(life, now) or (life.verdict is None and _asks_confirmation(life, now)):
        wishes.append(CONFIRM)
    elif life.verdict is None and life.doubtful:
        wishes.append(Wish(Act.LISTEN, life.first_pod))
    elif life.verdict is None and _is_overlooked(life, now):
        wishes.append(Wish(Act.NUDGE, life.seen.workflow.uid if life.seen.workflow else None))
    elif life.verdict is None and life.stage in _SLOW and (life.events or now.healthy >= life.since + PATIENT):
        wishes.append(Wish(Act.LISTEN, life.first_pod))
    return wishes


def _is_overlooked(life: Life, now: Now) -> bool:
    """Whether a released Workflow goes on without a node, as if it were suspended still."""
    workflow = life.seen.workflow
    waits = life.stage is Stage.WAITING and workflow is not None and not workflow.has_node and not life.seen.pods
    return waits and now.healthy >= life.since + OVERLOOKED


def _is_overdue(life: Life, now: Now) -> bool:
    """Whether Argo should have finished by now what has a verdict."""
    return life.verdict is not None and now.healthy >= life.ruled_at + SETTLE


def _asks_confirmation(life: Life, now: Now) -> bool:
    if life.submitting and life.stage is Stage.ABSENT:
        return False
    seen = diagnose(life.seen, life.first_pod)
    return _has_failed_to_launch(life) or life.twice or seen.reason is not None or _overdue(life, now) is not None


def _ending(life: Life, now: Now) -> list[Wish]:
    """The next unmet steps towards nothing being left."""
    workflow, living = life.seen.workflow, _living(life)
    if workflow is not None and not (workflow.over or workflow.shutdown):
        never_released = workflow.suspended and not life.seen.pods and not workflow.deleting
        # Accepted, and not seen: it may be gone, which counts as accepted, and the stream have lost or muddled its end.
        asks = [CONFIRM] if now.wall >= life.shutdown_at + OVERLOOKED else []
        return [*asks, Wish(Act.DISCARD if never_released else Act.SHUTDOWN, workflow.uid)]
    if living and workflow is None and not life.seen.fresh:
        return [CONFIRM]
    if living:
        safe = workflow is None or workflow.over or now.wall >= life.shutdown_at + SHUTDOWN_LAG
        asks = [CONFIRM] if life.verdict is None and _is_lost(life, now) else []
        return [*asks, *(Wish(Act.KILL, pod.uid) for pod in living)] if safe else asks
    asks = [] if life.quiet or (workflow is None and life.submitting) else [CONFIRM]
    if workflow is not None and not workflow.over and now.wall >= life.shutdown_at + OVERLOOKED:
        return [*asks, Wish(Act.NUDGE, workflow.uid)]
    return asks


def _living(life: Life) -> list[PodView]:
    """The pods to be killed: those whose main container runs or may start, and what hangs on after a long time."""
    return [pod for pod in life.seen.pods if not pod.over or (life.lingers and not pod.finished)]


# --- when to look again


def _wake_in(life: Life, now: Now) -> float | None:
    moments = [end.at - now.healthy for end in _deadlines(life)] if life.verdict is None and not life.stopping else []
    moments += [it.not_before - now.wall for it in life.tries.values()]
    if life.stopping:
        moments += [life.shutdown_at + lag - now.wall for lag in (SHUTDOWN_LAG, OVERLOOKED)]
    if life.verdict is not None:
        moments.append(life.ruled_at + SETTLE - now.healthy)
    if life.stage in _SLOW:
        moments.append(life.since + PATIENT - now.healthy)
    if life.stage is Stage.WAITING:
        moments.append(life.since + OVERLOOKED - now.healthy)
    moments.append(life.killed_at + _grace(life) + LOST - now.healthy)
    return min((moment for moment in moments if 0.0 < moment < math.inf), default=None)
