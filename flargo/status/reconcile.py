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
    Action,
    ActionDone,
    ActionKind,
    EventsListed,
    Input,
    JobState,
    LaunchGivenUp,
    Now,
    Observed,
    Retry,
    Step,
    StopRequested,
    Submitted,
    Tick,
    has_finished,
)
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, decide
from flargo.status.views import EventView, Observation, PodView

TOUCH_AFTER = 4.0
"""Seconds after which a Workflow that shows no sign of its last change is touched. Argo 3.7 writes its own update
back into what it remembers, over a newer change that came meanwhile (operator.go, writeBackToInformer), and then
believes a released Workflow suspended until the next event. Seen."""
ARGO_FINISH_LIMIT = 60.0
"""Seconds that Argo gets to finish a Workflow after its main container has ended by itself."""
NODE_LOST_AFTER = 60.0
"""Seconds beyond its grace after which a pod that is being killed counts as lost with its node."""
TAINT_LIMIT = 60.0
"""Seconds for which taints may keep a pod from every node. The stock launcher fails such a job at once, and so after
every outage of the API server the jobs that are launched before the nodes are ready again. Seen."""
ABSENCE_LIMIT = 10.0
"""Seconds for which a submitted Workflow may be missing from the stream before it is asked for."""
SHUTDOWN_LAG = 3.0
"""Seconds after a shutdown before pods are deleted although Argo has not ended the Workflow. A pod that is
deleted while Argo believes the job to be going on is made again."""
LIST_EVENTS_AFTER = 10.0
"""Seconds that a pod may take to start before its events are listed."""
_SLOW_STAGES = frozenset({Stage.STARTING, Stage.PULLING})
_EVENT_LIST_INTERVALS = (10.0, 10.0, 15.0, 20.0, 30.0)
_BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


def reconcile(life: JobState, fact: Input, now: Now) -> Step:
    """Let a fact happen to a life."""
    life = _apply(life, fact, now)
    fresh = isinstance(fact, Observed) and fact.observation.is_fresh
    life = _conclude(life, now, fresh=fresh)
    if life.is_cleared:
        return Step(life, (), None)
    wanted = _wanted_actions(life, now)
    due = tuple(wish for wish in wanted if life.retries.get(wish, Retry(not_before=-math.inf)).not_before <= now.wall)
    tries = {wish: life.retries[wish] for wish in wanted if wish in life.retries}
    tries |= {wish: replace(tries.get(wish, Retry()), not_before=math.inf) for wish in due}
    if tries != life.retries:
        life = replace(life, retries=MappingProxyType(tries))
    return Step(life, due, _requeue_after(life, now))


# --- what is remembered


def _apply(life: JobState, fact: Input, now: Now) -> JobState:
    match fact:
        case Observed(observation):
            return _on_observed(life, observation, now)
        case StopRequested(cause):
            # FLARE also terminates what has ended already, to clean up: Argo is then left to finish in peace.
            # A person's abort outweighs a cleanup that came first; nothing outweighs an abort.
            settled = life.verdict is not None or life.cause is Cause.ABORT
            return life if settled else replace(life, cause=cause)
        case LaunchGivenUp(detail):
            over = life.verdict is not None or life.is_stopping
            return life if over else replace(life, end_diagnosis=Diagnosis(life.stage, Reason.LAUNCH_FAILED, detail))
        case Submitted(error, secret):
            since = now.healthy if life.stage is Stage.ABSENT else life.stage_since
            return replace(
                life,
                is_submitting=False,
                submitted_at=now.healthy,
                submit_error=error,
                secret_uid=secret,
                stage_since=since,
            )
        case ActionDone(wish, ok):
            return _on_action_done(life, wish, now, ok=ok)
        case EventsListed(wish, events):
            return _on_events_listed(life, wish, events, now)
        case Tick():
            return life


def _on_observed(life: JobState, observation: Observation, now: Now) -> JobState:
    first = life.first_pod_uid or (observation.pods[0].uid if observation.pods else None)
    pod = next((pod for pod in observation.pods if pod.uid == first), None)
    ended = pod if pod is not None and pod.exit is not None else life.exited_pod
    if ended is not None and ended is not pod:
        others = tuple(other for other in observation.pods if other.uid != first)
        # Its exit stands; what the pod is by now is told by this observation, or it is gone.
        still = replace(pod, exit=ended.exit) if pod is not None else replace(ended, phase="Failed")
        observation = replace(observation, pods=(still, *others))
    observation = replace(observation, events=life.events, missing_pod=life.pod if pod is None else None)
    stage = diagnose(observation, first).stage
    workflow = observation.workflow
    shut = workflow is not None and bool(workflow.shutdown)
    return replace(
        life,
        observation=observation,
        pod=pod or life.pod,
        start_unseen=life.start_unseen
        or (life.first_pod_uid is None and first is not None and _may_have_missed_pods(observation)),
        exited_pod=ended,
        stage=stage,
        stage_since=life.stage_since if stage is life.stage else now.healthy,
        shutdown_at=min(life.shutdown_at, now.wall) if shut else life.shutdown_at,
        retries=_retries_after_read(life.retries, now, fresh=observation.is_fresh),
        confirmed_gone=life.confirmed_gone
        or (observation.is_fresh and not life.is_submitting and has_finished(observation)),
        argo_stalled=life.argo_stalled
        or (observation.is_fresh and _is_argo_overdue(life, now) and not has_finished(observation)),
    )


def _may_have_missed_pods(observation: Observation) -> bool:
    """Whether something may have come and gone before it that no stream told of."""
    return observation.after_relist or observation.is_fresh


def _on_events_listed(life: JobState, wish: Action, told: tuple[EventView, ...], now: Now) -> JobState:
    events = tuple(event for event in told if event.pod_uid in {"", life.first_pod_uid})
    workflow = life.observation.workflow
    created = workflow.created if workflow is not None else None
    # An earlier launch of the job had a pod of that name, too: of an earlier Workflow.
    others = [
        event
        for event in told
        if event not in events and created and event.first_timestamp and event.first_timestamp >= created
    ]
    life = replace(life, start_unseen=False, ran_twice=life.ran_twice or bool(others))
    seen = replace(life.observation, events=events, is_fresh=False)
    stage = diagnose(seen, life.first_pod_uid).stage
    times = life.retries.get(wish, Retry()).failures + 1
    again = now.wall + _EVENT_LIST_INTERVALS[min(times, len(_EVENT_LIST_INTERVALS)) - 1]
    return replace(
        life,
        observation=seen,
        events=events,
        stage=stage,
        stage_since=life.stage_since if stage is life.stage else now.healthy,
        retries=MappingProxyType({**life.retries, wish: Retry(times, again)}),
    )


def _retries_after_read(tries: Mapping[Action, Retry], now: Now, *, fresh: bool) -> Mapping[Action, Retry]:
    """A fresh read that concluded nothing is repeated with growing gaps; after news from a stream, at once."""
    before = tries.get(CONFIRM)
    others = {wish: it for wish, it in tries.items() if wish != CONFIRM}
    if fresh:
        reads = 1 if before is None else before.failures + 1
        return MappingProxyType({**others, CONFIRM: Retry(reads, now.wall + _backoff_seconds(reads))})
    in_flight = before is not None and before.not_before == math.inf
    return tries if in_flight else MappingProxyType(others)


def _backoff_seconds(failures: int) -> float:
    return _BACKOFF[min(failures, len(_BACKOFF)) - 1]


def _on_action_done(life: JobState, wish: Action, now: Now, *, ok: bool) -> JobState:
    failures = 0 if ok else life.retries.get(wish, Retry()).failures + 1
    wait = _recheck_seconds(wish, life) if ok else _backoff_seconds(failures)
    tries = MappingProxyType({**life.retries, wish: Retry(failures, now.wall + wait)})
    life = replace(life, retries=tries)
    if ok and wish.kind is ActionKind.DELETE_SECRET:
        return replace(life, secret_deleted=True)
    if ok and wish.kind is ActionKind.SHUTDOWN:
        return replace(life, shutdown_at=min(life.shutdown_at, now.wall))
    if ok and wish.kind is ActionKind.DELETE_POD:
        return replace(life, pod_deleted_at=min(life.pod_deleted_at, now.healthy))
    return life


def _recheck_seconds(wish: Action, life: JobState) -> float:
    """Seconds until a wish that was granted is repeated if it still does not show."""
    return life.grace + 10.0 if wish.kind is ActionKind.DELETE_POD else 5.0


# --- what is ruled


def _conclude(life: JobState, now: Now, *, fresh: bool) -> JobState:
    if life.verdict is not None:
        return life
    seen = diagnose(life.observation, life.first_pod_uid)
    if fresh and life.ran_twice and life.end_diagnosis is None:
        life = replace(life, end_diagnosis=Diagnosis(seen.stage, Reason.RUN_TWICE, "its events tell of an earlier pod"))
    if seen.is_final or (fresh and _nothing_runs(life, seen, now)):
        return _with_verdict(life, seen, now)
    if fresh and life.end_diagnosis is None:
        return replace(life, end_diagnosis=_end_diagnosis(life, seen, now))
    return life


def _nothing_runs(life: JobState, seen: Diagnosis, now: Now) -> bool:
    if seen.stage is Stage.ABSENT:
        return not life.is_submitting
    # Of a Workflow that is shut down Argo makes no pod any more, though its controller be away for now.
    stillborn = not life.observation.pods and now.wall >= life.shutdown_at + SHUTDOWN_LAG
    return seen.stage is Stage.ENDED or stillborn or _is_node_lost(life, now)


def _is_node_lost(life: JobState, now: Now) -> bool:
    """Whether a pod has been being killed for so long that its node must be gone. Killing goes on all the same."""
    dying = all(pod.deleting or pod.is_main_done for pod in life.observation.pods)
    return dying and now.healthy >= life.pod_deleted_at + _longest_grace(life) + NODE_LOST_AFTER


def _longest_grace(life: JobState) -> float:
    """Seconds that its pods may take to die: the kubelet does not shorten a grace that somebody else gave."""
    return max((float(life.grace), *(pod.deletion_grace for pod in life.observation.pods)))


def _with_verdict(life: JobState, seen: Diagnosis, now: Now) -> JobState:
    if seen.stage is Stage.ABSENT:
        # Never there, or discarded before anything ran.
        reason = Reason.LAUNCH_FAILED if life.submit_error else Reason.WORKFLOW_DELETED
        seen = Diagnosis(Stage.ABSENT, reason, life.submit_error)
    elif seen.stage is not Stage.ENDED and life.observation.pods:
        unseen = f"its end on node {life.observation.pods[0].node} was not seen"
        seen = replace(seen, detail="; ".join(filter(None, (seen.detail, unseen))))
    verdict = decide(life.cause, life.end_diagnosis, seen, has_results=life.observation.has_results)
    return replace(life, verdict=verdict, verdict_at=now.healthy)


def _end_diagnosis(life: JobState, seen: Diagnosis, now: Now) -> Diagnosis | None:
    """Why a job that is still there must be ended: told from outside, can never start, or out of patience."""
    if _has_failed_to_launch(life):
        return Diagnosis(seen.stage, Reason.LAUNCH_FAILED, life.submit_error)
    if seen.reason is not None:
        return seen
    overdue = _expired_deadline(life, now)
    if overdue is None:
        return None
    waited = f"flargo's patience was {overdue.seconds:g} s{overdue.limit}"
    return Diagnosis(seen.stage, overdue.reason, "; ".join(filter(None, (seen.detail, waited))))


def _has_failed_to_launch(life: JobState) -> bool:
    """Whether its submit failed for good. If only the answer to the release was lost, it runs, and may."""
    return bool(life.submit_error) and not life.is_submitting and life.stage <= Stage.SUBMITTED


class _Deadline(NamedTuple):
    """An end of patience."""

    expires_at: float
    """On the healthy clock."""
    seconds: float
    """In seconds."""
    reason: Reason
    limit: str = ""
    """Which limit it is, where the reason does not tell."""


def _deadlines(life: JobState) -> list[_Deadline]:
    """The ends of patience that apply to the life's stage."""
    if life.stage >= Stage.RUNNING:
        return []
    limits = {
        Stage.ABSENT: (None if life.is_submitting else ABSENCE_LIMIT, Reason.WORKFLOW_DELETED),
        Stage.QUEUED: (life.timeouts.queued, Reason.QUEUED),
        Stage.QUOTA: (life.timeouts.quota, Reason.QUOTA),
        Stage.PULLING: (life.timeouts.pulling, Reason.PULLING),
        Stage.UNCLAIMED: (life.timeouts.unclaimed, Reason.UNCLAIMED),
        Stage.WAITING: (life.timeouts.starting, Reason.START_TIMEOUT),
        Stage.SHORTAGE: (life.timeouts.pending, Reason.SHORTAGE),
        Stage.TAINTED: (TAINT_LIMIT, Reason.UNSCHEDULABLE),
        Stage.STARTING: (life.timeouts.starting, Reason.START_TIMEOUT),
    }
    own, reason = limits.get(life.stage, (None, Reason.TIMEOUT))
    ends = [_Deadline(life.stage_since + own, own, reason)] if own is not None else []
    placement, total = life.timeouts.placement, life.timeouts.total
    if placement is not None and Stage.SUBMITTED <= life.stage <= Stage.TAINTED:
        limit = ", for a server's job to have a node ('argo.server_pending')"
        ends.append(_Deadline(life.submitted_at + placement, placement, reason, limit))
    return ends if total is None else [*ends, _Deadline(life.created_at + total, total, Reason.TIMEOUT)]


def _expired_deadline(life: JobState, now: Now) -> _Deadline | None:
    past = (end for end in _deadlines(life) if end.expires_at <= now.healthy)
    return min(past, key=lambda end: end.expires_at, default=None)


# --- what is wished for


def _wanted_actions(life: JobState, now: Now) -> list[Action]:
    wishes = []
    # A submit that still goes on may be about to create them.
    if life.verdict is not None and not life.is_submitting and not life.secret_deleted:
        wishes.append(Action(ActionKind.DELETE_SECRET, life.secret_uid))
    if life.is_stopping or life.argo_stalled:
        wishes += _ending_actions(life, now)
    elif _is_argo_overdue(life, now) or (life.verdict is None and _needs_confirmation(life, now)):
        wishes.append(CONFIRM)
    elif life.verdict is None and life.start_unseen:
        wishes.append(Action(ActionKind.LIST_EVENTS, life.first_pod_uid))
    elif life.verdict is None and _is_overlooked_by_argo(life, now):
        wishes.append(Action(ActionKind.TOUCH, life.observation.workflow.uid if life.observation.workflow else None))
    elif (
        life.verdict is None
        and life.stage in _SLOW_STAGES
        and (life.events or now.healthy >= life.stage_since + LIST_EVENTS_AFTER)
    ):
        wishes.append(Action(ActionKind.LIST_EVENTS, life.first_pod_uid))
    return wishes


def _is_overlooked_by_argo(life: JobState, now: Now) -> bool:
    """Whether a released Workflow goes on without a node, as if it were suspended still."""
    workflow = life.observation.workflow
    waits = life.stage is Stage.WAITING and workflow is not None and not workflow.has_node and not life.observation.pods
    return waits and now.healthy >= life.stage_since + TOUCH_AFTER


def _is_argo_overdue(life: JobState, now: Now) -> bool:
    """Whether Argo should have finished by now what has a verdict."""
    return life.verdict is not None and now.healthy >= life.verdict_at + ARGO_FINISH_LIMIT


def _needs_confirmation(life: JobState, now: Now) -> bool:
    if life.is_submitting and life.stage is Stage.ABSENT:
        return False
    seen = diagnose(life.observation, life.first_pod_uid)
    return (
        _has_failed_to_launch(life)
        or life.ran_twice
        or seen.reason is not None
        or _expired_deadline(life, now) is not None
    )


def _ending_actions(life: JobState, now: Now) -> list[Action]:
    """The next unmet steps towards nothing being left."""
    workflow, living = life.observation.workflow, _pods_to_delete(life)
    if workflow is not None and not (workflow.is_completed or workflow.shutdown):
        never_released = workflow.suspended and not life.observation.pods and not workflow.deleting
        # Accepted, and not seen: it may be gone, which counts as accepted, and the stream have lost or muddled its end.
        asks = [CONFIRM] if now.wall >= life.shutdown_at + TOUCH_AFTER else []
        return [*asks, Action(ActionKind.DELETE_WORKFLOW if never_released else ActionKind.SHUTDOWN, workflow.uid)]
    if living and workflow is None and not life.observation.is_fresh:
        return [CONFIRM]
    if living:
        safe = workflow is None or workflow.is_completed or now.wall >= life.shutdown_at + SHUTDOWN_LAG
        asks = [CONFIRM] if life.verdict is None and _is_node_lost(life, now) else []
        return [*asks, *(Action(ActionKind.DELETE_POD, pod.uid) for pod in living)] if safe else asks
    asks = [] if life.confirmed_gone or (workflow is None and life.is_submitting) else [CONFIRM]
    if workflow is not None and not workflow.is_completed and now.wall >= life.shutdown_at + TOUCH_AFTER:
        return [*asks, Action(ActionKind.TOUCH, workflow.uid)]
    return asks


def _pods_to_delete(life: JobState) -> list[PodView]:
    """The pods to be killed: those whose main container runs or may start, and what hangs on after a long time."""
    return [pod for pod in life.observation.pods if not pod.is_main_done or (life.argo_stalled and not pod.is_terminal)]


# --- when to look again


def _requeue_after(life: JobState, now: Now) -> float | None:
    moments = (
        [end.expires_at - now.healthy for end in _deadlines(life)]
        if life.verdict is None and not life.is_stopping
        else []
    )
    moments += [it.not_before - now.wall for it in life.retries.values()]
    if life.is_stopping:
        moments += [life.shutdown_at + lag - now.wall for lag in (SHUTDOWN_LAG, TOUCH_AFTER)]
    if life.verdict is not None:
        moments.append(life.verdict_at + ARGO_FINISH_LIMIT - now.healthy)
    if life.stage in _SLOW_STAGES:
        moments.append(life.stage_since + LIST_EVENTS_AFTER - now.healthy)
    if life.stage is Stage.WAITING:
        moments.append(life.stage_since + TOUCH_AFTER - now.healthy)
    moments.append(life.pod_deleted_at + _longest_grace(life) + NODE_LOST_AFTER - now.healthy)
    return min((moment for moment in moments if 0.0 < moment < math.inf), default=None)
