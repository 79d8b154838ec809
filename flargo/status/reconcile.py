"""The reconciler of one job, as a pure function: ``reconcile(state, input, now)`` returns the next state and actions.

This is controller-runtime's idea without I/O. The function is called for everything that happens to one job: an
observation of its objects, a request of FLARE, the result of an action, the passing of time. It updates the state,
gives the verdict when there is enough evidence for one, and derives the actions that bring the cluster closer to what
is wanted. The caller performs the actions, and calls again after ``requeue_after`` seconds at the latest.

1. Level-triggered. An action is derived from the difference between what is observed and what is wanted, never from a
   step in a procedure. An action that fails, or whose result does not arrive in time, is therefore derived again; so is
   one that was accepted but shows no effect. Both back off up to minutes. An action that keeps being refused has a
   successor: a shutdown is followed by the deletion of the pod.
2. Evidence instead of snapshots. Pods and Workflows arrive on two watches that have no order between them, and objects
   are deleted before everybody has seen them. The state therefore keeps what was proven: the identity of the first
   pod, the first view of it that showed an exit, the time of the first shutdown and of the first pod deletion. What
   happens to a pod after its exit neither takes that exit back nor explains it.
3. Nothing is concluded from the absence of an object, from elapsed time, or from an exit code other than 0 without a
   fresh read after it. Exit code 143, for example, may be observed before the shutdown or the drain that caused it.
   Exit code 0 of the main container is final.
4. Verdict and cleared are two things. The verdict is what FLARE is told, once. A job is cleared when nothing of it runs
   and its credentials are deleted; until then its end is pursued, also after the verdict. An end of the job's own is
   Argo's to complete, so that an administrator's exit handler runs: Argo runs none in a Workflow that is shut down.
5. Two clocks. Start timeouts and everything else that judges the cluster use the healthy clock, which runs only while
   there is contact with the API server. Backoff and the delays of a shutdown use the wall clock.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from flargo.status import retries
from flargo.status.deadlines import deadlines, events_due_at, expired_deadline
from flargo.status.diagnosis import Diagnosis, Stage, diagnose, shutdown_reason
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
    SecretReleased,
    Step,
    StopRequested,
    Submitted,
    Tick,
    has_ended,
)
from flargo.status.program_start import ProgramStart, note_start
from flargo.status.reasons import PROGRAM_ENDS, Reason
from flargo.status.start_clocks import advance
from flargo.status.verdict import Cause, decide
from flargo.status.views import EventView, Observation, PodView, WorkflowView
from flargo.terms import Uid

TOUCH_AFTER = 4.0
"""Seconds after which a Workflow that shows no effect of its last change is touched. Argo 3.7 writes its own update
into its informer's cache, over a newer change that arrived meanwhile (operator.go, writeBackToInformer). It then
believes that a released Workflow is suspended until the Workflow's next event. Observed on a cluster."""
ARGO_FINISH_LIMIT = 60.0
"""Seconds that Argo gets to complete a Workflow after the verdict, before flargo deletes what is left."""
END_LIMIT = 600.0
"""Seconds after the verdict from which a job that is not over counts as overdue."""
NODE_LOST_AFTER = 60.0
"""Seconds beyond its grace period after which a pod that is being deleted counts as lost with its node."""
SHUTDOWN_LAG = 3.0
"""Seconds after a shutdown before pods are deleted although Argo has not completed the Workflow. Argo creates a deleted
pod again if it does not know yet that the Workflow is shut down."""
KILL_LAG = 5.0
"""Seconds beyond its grace period after which a pod that is being deleted should be gone. If the watch still shows it,
a read tells whether its end was missed."""
_EARLIER_POD = "its events show an earlier pod"
_START_EVENTS = frozenset({"Scheduled", "Pulling", "Pulled", "Created", "Started"})
"""Events of a pod that begins; every pod that ran has some of them."""
PAST_LIMIT = 60.0
"""Seconds for which the verdict on a job that ended while its parent was away waits for the events of its pod."""
RELEASE_AFTER = 5.0
"""Seconds after the submit before a Workflow that is still suspended is released once more."""
MAX_SHUTDOWN_TRIES = 3
"""Shutdowns that failed (a webhook is down, a right was removed) or had no effect (a webhook drops the change) after
which the pod is deleted all the same."""
SHUTDOWN_LIMIT = 45.0
"""Seconds after which the pod is deleted although no shutdown was accepted: each may hang in a webhook, and those of
many jobs wait for each other."""


def reconcile(state: JobState, input_: Input, now: Now) -> Step:
    """Return the state after an input, the actions that are due, and the time until the next call.

    Args:
        state: the job's state before the input.
        input_: what happened.
        now: the current time on both clocks.
    """
    state = _apply(state, input_, now)
    is_fresh = isinstance(input_, Observed) and input_.observation.is_fresh
    state = _conclude(state, now, is_fresh=is_fresh)
    if state.is_stopping and state.ending_at == math.inf:
        state = replace(state, ending_at=now.wall)
    if not state.is_over and now.healthy >= state.verdict_at + END_LIMIT:
        state = replace(state, is_end_overdue=True)
    if state.is_cleared:
        return Step(state, (), None)
    actions = _wanted_actions(state, now)
    due, tries = retries.take_due(state.retries, actions, now.wall)
    if tries != state.retries:
        state = replace(state, retries=tries)
    return Step(state, due, _requeue_after(state, now))


# --- applying an input


def _apply(state: JobState, input_: Input, now: Now) -> JobState:
    match input_:
        case Observed(observation):
            return _on_observed(state, observation, now)
        case StopRequested() | LaunchGivenUp() | Submitted():
            is_void = input_.nothing_created and state.verdict is None
            return _never_created(state, input_, now) if is_void else _on_launch_input(state, input_, now)
        case ActionDone(action, ok):
            return _on_action_done(state, action, now, ok=ok)
        case EventsListed(action, events):
            return _on_events_listed(state, action, events, now)
        case SecretReleased():
            return replace(state, keeps_secret=False)
        case Tick():
            return state


def _on_launch_input(state: JobState, input_: StopRequested | LaunchGivenUp | Submitted, now: Now) -> JobState:
    match input_:
        case StopRequested(cause):
            # FLARE also terminates jobs that have ended already, to clean up; Argo then completes the Workflow by
            # itself. A person's abort replaces an earlier cleanup, and nothing replaces an abort.
            is_settled = state.verdict is not None or state.cause is Cause.ABORT
            return state if is_settled else replace(state, cause=cause)
        case LaunchGivenUp(detail):
            if state.verdict is not None or state.is_stopping:
                return state
            return replace(state, end_diagnosis=Diagnosis(state.stage, Reason.LAUNCH_FAILED, detail))
        case Submitted(error, secret_uid):
            stage_since = now.healthy if state.stage is Stage.ABSENT else state.stage_since
            return replace(
                state,
                is_submitting=False,
                submitted_at=now.healthy,
                submit_error=error,
                secret_uid=secret_uid,
                stage_since=stage_since,
            )


def _never_created(state: JobState, input_: StopRequested | LaunchGivenUp | Submitted, now: Now) -> JobState:
    """Return the state of a launch of which nothing exists or will exist: it is over, without a fresh read."""
    match input_:
        case StopRequested(cause):
            state = replace(state, cause=cause, submit_error="the job was ended before it was submitted")
        case LaunchGivenUp(detail):
            state = replace(state, submit_error=detail)
        case Submitted(error):
            state = replace(state, submit_error=error)
    over = replace(
        state,
        is_submitting=False,
        submitted_at=now.healthy,
        observation=Observation(),
        stage=Stage.ABSENT,
        secret_deleted=True,
        confirmed_gone=True,
    )
    return _with_verdict(over, Diagnosis(Stage.ABSENT), now)


def _on_observed(state: JobState, observation: Observation, now: Now) -> JobState:
    state = _without_unstarted_pod(state, observation)
    if state.unstarted_pods:
        pods = tuple(pod for pod in observation.pods if pod.uid not in state.unstarted_pods)
        observation = replace(observation, pods=pods)
    first_uid = state.first_pod_uid or (observation.pods[0].uid if observation.pods else None)
    pod = next((pod for pod in observation.pods if pod.uid == first_uid), None)
    has_exited = pod is not None and pod.exit is not None
    exited_pod = state.exited_pod or (pod if has_exited else None)
    if exited_pod is not None and exited_pod is not pod:
        # The view that first showed the exit explains it. A later one only tells whether the pod is terminal by now: a
        # deletion or a disruption after the exit has not caused it. A pod that is gone counts as terminal.
        phase = pod.phase if pod is not None else "Failed"
        first_pod = replace(exited_pod, phase=phase)
        others = tuple(other for other in observation.pods if other.uid != first_uid)
        observation = replace(observation, pods=(first_pod, *others))
    missing_pod = state.pod if pod is None else None
    if (observation.events, observation.missing_pod) != (state.events, missing_pod):
        observation = replace(observation, events=state.events, missing_pod=missing_pod)
    diagnosis = diagnose(observation, first_uid)
    stage = diagnosis.stage
    workflow = observation.workflow
    is_shut_down = workflow is not None and bool(workflow.shutdown)
    is_new_pod = state.first_pod_uid is None and first_uid is not None
    # Neither after a relist nor in a fresh read are the pods visible that came and went before.
    has_gap = observation.after_relist or observation.is_fresh
    is_pod_overdue = _is_argo_overdue(state, now) and not all(pod.is_terminal for pod in observation.pods)
    observed = replace(
        state,
        observation=observation,
        pod=pod or state.pod,
        program_start=_program_start(state, pod, observation),
        start_unseen=state.start_unseen or (is_new_pod and has_gap),
        exited_pod=exited_pod,
        stage=stage,
        stage_since=state.stage_since if stage is state.stage else now.healthy,
        start=advance(state.start, diagnosis, pod, now.healthy),
        shutdown_at=min(state.shutdown_at, now.wall) if is_shut_down else state.shutdown_at,
        was_completed=state.was_completed or (workflow is not None and workflow.is_completed),
        is_ended_by_others=state.is_ended_by_others or _is_ended_by_others(state, observation),
        deletions=_note_deletions(state, (pod.uid for pod in observation.pods if pod.deleting), now),
        confirmed_gone=state.confirmed_gone
        or (observation.is_fresh and not state.is_submitting and has_ended(observation)),
        pod_stalled=state.pod_stalled or (observation.is_fresh and is_pod_overdue),
    )
    # A read that concluded nothing backs off, but not beyond the time at which one can conclude that the node is lost.
    until_lost = _node_lost_at(observed) - now.healthy
    limit = until_lost if until_lost > 0.0 else math.inf
    tries = retries.after_observation(state.retries, now.wall, is_fresh=observation.is_fresh, max_wait=limit)
    return observed if tries == state.retries else replace(observed, retries=tries)


def _without_unstarted_pod(state: JobState, observation: Observation) -> JobState:
    """Return the state without the first pod if its program never began, and Argo has created another pod instead.

    A job that is being ended keeps the pod that explains its end.
    """
    if state.program_start is not ProgramStart.NEVER or state.is_ending:
        return state
    uids, first_uid = {pod.uid for pod in observation.pods} - state.unstarted_pods, state.first_pod_uid
    if not uids or first_uid in uids:
        return state
    return replace(
        state,
        pod=None,
        program_start=ProgramStart.UNKNOWN,
        unstarted_pods=state.unstarted_pods | set(filter(None, (first_uid,))),
        exited_pod=None,
        events=(),
    )


def _program_start(state: JobState, pod: PodView | None, observation: Observation) -> ProgramStart:
    """Return what is proven about the first pod's program after an observation, in which the pod may be missing."""
    # A view after the pod's end reveals nothing of what was missed before its end.
    had_ended = state.pod is not None and state.pod.is_terminal
    has_gap = observation.after_relist or observation.is_fresh or had_ended
    is_last = pod is None and observation.deleted_pod is not None
    view = observation.deleted_pod if is_last else pod
    if view is None or (is_last and view.uid != state.first_pod_uid):
        return state.program_start
    address = state.pod.host_address if state.pod is not None else ""
    return note_start(state.program_start, view, is_deleted=is_last, has_gap=has_gap, earlier_address=address)


def _is_ended_by_others(state: JobState, observation: Observation) -> bool:
    """Return whether an observation shows that somebody else ends the job, by its Workflow.

    flargo notes a reason on the Workflow together with its own shutdown, whose result may arrive late or never.
    """
    before, workflow = state.observation.workflow, observation.workflow
    sent = {action.kind for action in state.retries}
    if workflow is None or workflow.deleting:
        has_existed = before is not None or state.pod is not None
        is_deleted = workflow is not None or (observation.is_fresh and has_existed)
        return is_deleted and not state.was_completed and ActionKind.DELETE_WORKFLOW not in sent
    if not workflow.shutdown or state.shutdown_at < math.inf or ActionKind.SHUTDOWN in sent:
        return False
    return not workflow.ending or (before is not None and bool(before.ending))


def _on_events_listed(state: JobState, action: Action, events: tuple[EventView, ...], now: Now) -> JobState:
    events = tuple(event for event in events if event.pod_uid not in state.unstarted_pods)
    own_events = tuple(event for event in events if event.pod_uid in {"", state.first_pod_uid})
    workflow = state.observation.workflow
    begin = max(filter(None, (workflow.created, workflow.step_started)), default=None) if workflow is not None else None
    # A pod of an earlier launch has the same name, but it was started before this launch's first pod was created. Only
    # its end may come later.
    earlier_pod_events = [
        event
        for event in events
        if event not in own_events and event.reason in _START_EVENTS and begin and event.first_timestamp
        if event.first_timestamp >= begin
    ]
    observation = replace(state.observation, events=own_events, is_fresh=False)
    diagnosis = diagnose(observation, state.first_pod_uid)
    stage = diagnosis.stage
    pod = next((pod for pod in observation.pods if pod.uid == state.first_pod_uid), None)
    start = advance(state.start, diagnosis, pod, now.healthy)
    return replace(
        state,
        start_unseen=False,
        ran_twice=state.ran_twice or bool(earlier_pod_events),
        observation=observation,
        events=own_events,
        stage=stage,
        stage_since=state.stage_since if stage is state.stage else now.healthy,
        start=replace(start, event_lists=start.event_lists + 1, events_listed_at=now.healthy),
        retries=state.with_due(action).retries,
    )


def _on_action_done(state: JobState, action: Action, now: Now, *, ok: bool) -> JobState:
    tries = retries.after_result(state.retries, action, now.wall, ok=ok, grace=state.grace)
    state = replace(state, retries=tries)
    if ok and action.kind is ActionKind.DELETE_SECRET:
        return replace(state, secret_deleted=True)
    if ok and action.kind is ActionKind.SHUTDOWN:
        return replace(state, shutdown_at=min(state.shutdown_at, now.wall))
    if ok and action.kind is ActionKind.DELETE_POD:
        return replace(state, deletions=_note_deletions(state, filter(None, (action.uid,)), now))
    return state


def _note_deletions(state: JobState, uids: Iterable[Uid], now: Now) -> Mapping[Uid, float]:
    return MappingProxyType({**dict.fromkeys(uids, now.healthy), **state.deletions})


# --- concluding


def _conclude(state: JobState, now: Now, *, is_fresh: bool) -> JobState:
    """Give the verdict, or decide that the job must be ended, if there is enough evidence."""
    if state.verdict is not None or _has_unseen_past(state, now):
        return state
    diagnosis = diagnose(state.observation, state.first_pod_uid)
    if state.is_adopted and state.ran_twice and state.exited_pod is not None:
        # The exit is that of a second program. The parent would have seen so, had it been there.
        diagnosis = Diagnosis(diagnosis.stage, Reason.RUN_TWICE, _EARLIER_POD)
    if is_fresh and state.ran_twice and state.end_diagnosis is None:
        state = replace(state, end_diagnosis=Diagnosis(diagnosis.stage, Reason.RUN_TWICE, _EARLIER_POD))
    if diagnosis.is_final or (is_fresh and _nothing_runs(state, diagnosis, now)):
        return _with_verdict(state, diagnosis, now)
    if is_fresh and state.end_diagnosis is None:
        return replace(state, end_diagnosis=_end_diagnosis(state, diagnosis, now))
    return state


def _has_unseen_past(state: JobState, now: Now) -> bool:
    """Return whether a job has ended while its parent was away, and its pod's events may tell of an earlier pod.

    The exit of the pod that is left says nothing about one that Argo has replaced.
    """
    is_unseen = state.is_adopted and state.start_unseen and state.exited_pod is not None
    return is_unseen and not state.is_ending and now.healthy < state.submitted_at + PAST_LIMIT


def _nothing_runs(state: JobState, diagnosis: Diagnosis, now: Now) -> bool:
    workflow = state.observation.workflow
    if diagnosis.stage is Stage.ABSENT:
        return not state.is_submitting
    # Argo creates no more pods once a Workflow is shut down, even if its controller does not run at the moment.
    is_shut_down = workflow is not None and bool(workflow.shutdown) and now.wall >= state.shutdown_at + SHUTDOWN_LAG
    never_started = not state.observation.pods and is_shut_down
    return diagnosis.stage is Stage.ENDED or never_started or is_node_lost(state, now.healthy)


def is_node_lost(state: JobState, healthy: float) -> bool:
    """Return whether the pods' deletion takes so long that their node must be lost. Deleting them goes on anyway.

    Args:
        state: the job's state.
        healthy: the time that is asked about, on the healthy clock.
    """
    return healthy >= _node_lost_at(state)


def _node_lost_at(state: JobState) -> float:
    """Return the time, on the healthy clock, from which the node of the pods counts as lost; infinite: never."""
    alive = [pod for pod in state.observation.pods if not pod.is_main_done]
    begins = [state.deletions.get(pod.uid, math.inf) if pod.deleting else math.inf for pod in alive]
    return max(begins, default=math.inf) + _max_grace(state) + NODE_LOST_AFTER


def _pods_gone_at(state: JobState) -> float:
    """Return the time, on the healthy clock, by which every pod that is deleted should be gone; infinite: none is.

    An accepted deletion counts although the pod does not show it: the watch may have missed that, too.
    """
    begins = [state.deletions.get(pod.uid, math.inf) for pod in _pods_to_delete(state)]
    return max(begins, default=math.inf) + _max_grace(state) + KILL_LAG


def _max_grace(state: JobState) -> float:
    """Return the longest grace period in seconds: the kubelet does not shorten one that another client requested."""
    return max((float(state.grace), *(pod.deletion_grace for pod in state.observation.pods)))


def _with_verdict(state: JobState, diagnosis: Diagnosis, now: Now) -> JobState:
    if diagnosis.stage is Stage.ABSENT:
        # The Workflow never existed, or was deleted before anything ran.
        reason = Reason.LAUNCH_FAILED if state.submit_error else Reason.WORKFLOW_DELETED
        diagnosis = Diagnosis(Stage.ABSENT, reason, state.submit_error)
    cause = state.cause or _noted_abort(state.observation.workflow)
    verdict = decide(cause, state.end_diagnosis, diagnosis, has_results=state.observation.has_results)
    if diagnosis.stage not in {Stage.ABSENT, Stage.ENDED} and state.observation.pods:
        unseen_end = f"its end on node {state.observation.pods[0].node} was not seen"
        verdict = replace(verdict, detail="; ".join(filter(None, (verdict.detail, unseen_end))))
    return replace(state, verdict=verdict, verdict_at=now.healthy)


def _noted_abort(workflow: WorkflowView | None) -> Cause | None:
    """Return ABORT if a person's abort has shut the Workflow down, as an earlier run of the parent has noted.

    An abort stays an abort even if the program ends with 0 after it; no other noted reason has such an effect.
    """
    is_abort = workflow is not None and shutdown_reason(workflow) is Cause.ABORT.value
    return Cause.ABORT if is_abort else None


def _end_diagnosis(state: JobState, diagnosis: Diagnosis, now: Now) -> Diagnosis | None:
    """Return why flargo must end a job that still exists, or None if it may go on.

    Either somebody else is ending it, or it can never start, or a start timeout has expired.
    """
    if _has_failed_to_launch(state):
        return Diagnosis(diagnosis.stage, Reason.LAUNCH_FAILED, state.submit_error)
    if diagnosis.reason is not None and not diagnosis.may_pass:
        return diagnosis
    deadline = expired_deadline(state, now.healthy)
    if deadline is None:
        return None
    detail = "; ".join(filter(None, (diagnosis.detail, deadline.explanation)))
    return Diagnosis(diagnosis.stage, deadline.reason, detail)


def _has_failed_to_launch(state: JobState) -> bool:
    """Return whether the submit has failed for good. If only the response to the release was lost, the job may run."""
    return bool(state.submit_error) and not state.is_submitting and state.stage <= Stage.SUBMITTED


# --- deriving actions


def _wanted_actions(state: JobState, now: Now) -> list[Action]:
    """Return the actions that the state asks for, whether or not they are in flight or back off."""
    actions = []
    # A submit that has not finished may be about to create the Secret.
    needs_no_secret = state.verdict is not None and not state.is_submitting and not state.keeps_secret
    if needs_no_secret and not state.secret_deleted:
        actions.append(Action(ActionKind.DELETE_SECRET, state.secret_uid))
    if state.is_stopping or state.pod_stalled:
        return actions + _ending_actions(state, now)
    return actions + (_following_actions(state, now) if state.verdict is None else _completing_actions(state, now))


def _following_actions(state: JobState, now: Now) -> list[Action]:
    """Return the actions for a job without a verdict that flargo does not end."""
    workflow = state.observation.workflow
    uid = workflow.uid if workflow is not None else None
    if _has_unseen_past(state, now):
        # Without the Workflow, nothing tells whether an earlier pod was the job's.
        is_workflow_known = workflow is not None or state.observation.is_fresh
        return [Action(ActionKind.LIST_EVENTS, state.first_pod_uid) if is_workflow_known else CONFIRM]
    if _needs_confirmation(state, now):
        return [CONFIRM]
    if state.start_unseen:
        return [Action(ActionKind.LIST_EVENTS, state.first_pod_uid)]
    if _is_release_lost(state, now):
        return [Action(ActionKind.RELEASE, uid)]
    if _is_overlooked_by_argo(state, now):
        return [Action(ActionKind.TOUCH, uid)]
    if now.healthy >= events_due_at(state):
        return [Action(ActionKind.LIST_EVENTS, state.first_pod_uid)]
    return []


def _is_release_lost(state: JobState, now: Now) -> bool:
    """Return whether a Workflow is suspended although its submit has succeeded, and nobody has suspended it since.

    A webhook may have answered the release with a conflict, or etcd may have been restored from a backup.
    """
    workflow = state.observation.workflow
    if state.stage is not Stage.SUBMITTED or workflow is None or workflow.released or state.submit_error:
        return False
    return not state.is_submitting and now.healthy >= state.submitted_at + RELEASE_AFTER


def _is_overlooked_by_argo(state: JobState, now: Now) -> bool:
    """Return whether Argo starts nothing for a released Workflow, as if the Workflow were still suspended."""
    workflow = state.observation.workflow
    if state.stage is not Stage.WAITING or workflow is None or workflow.has_node or state.observation.pods:
        return False
    return now.healthy >= state.stage_since + TOUCH_AFTER


def _completing_actions(state: JobState, now: Now) -> list[Action]:
    """Return the actions for a job that flargo does not end, and whose Workflow Argo has to complete."""
    workflow = state.observation.workflow
    actions = _finishing_actions(state, workflow, now)
    has_own_end = state.verdict is None or state.verdict.reason in PROGRAM_ENDS
    if workflow is None or has_own_end or workflow.ending or workflow.deleting:
        return actions
    return [*actions, Action(ActionKind.NOTE_REASON, workflow.uid)]


def _finishing_actions(state: JobState, workflow: WorkflowView | None, now: Now) -> list[Action]:
    """Return the actions without which Argo might never complete the Workflow."""
    confirm = [CONFIRM] if _is_argo_overdue(state, now) else []
    if workflow is None or workflow.is_completed:
        return [] if state.has_stopped else confirm
    if workflow.suspended:
        return [*confirm, Action(ActionKind.RESUME, workflow.uid)]
    if not confirm:
        return []
    if not all(pod.is_terminal for pod in state.observation.pods):
        return [CONFIRM]  # A read shows whether containers of the pod really still run.
    # The watch may have missed the completion.
    return [] if workflow.is_handler_running else [CONFIRM, Action(ActionKind.TOUCH, workflow.uid)]


def _is_argo_overdue(state: JobState, now: Now) -> bool:
    """Return whether Argo should have completed the Workflow of a job with a verdict by now."""
    return state.verdict is not None and now.healthy >= state.verdict_at + ARGO_FINISH_LIMIT


def _needs_confirmation(state: JobState, now: Now) -> bool:
    """Return whether the state suggests a conclusion, for which a fresh read is needed."""
    if state.is_submitting and state.stage is Stage.ABSENT:
        return False
    diagnosis = diagnose(state.observation, state.first_pod_uid)
    return (
        _has_failed_to_launch(state)
        or state.ran_twice
        or (diagnosis.reason is not None and not diagnosis.may_pass)
        or expired_deadline(state, now.healthy) is not None
    )


def _ending_actions(state: JobState, now: Now) -> list[Action]:
    """Return the next actions of a job's end: shut down the Workflow, delete what then still runs, confirm."""
    workflow, pods = state.observation.workflow, _pods_to_delete(state)
    if workflow is not None and not (workflow.shutdown or has_ended(state.observation) or workflow.is_completed):
        return _shutdown_actions(state, workflow, pods, now)
    resume = []
    if workflow is not None and workflow.suspended and not workflow.is_completed:
        resume = [Action(ActionKind.RESUME, workflow.uid)]
    if pods and workflow is None and not state.observation.is_fresh:
        return [CONFIRM]
    if pods:
        confirm = [CONFIRM] if now.healthy >= _pods_gone_at(state) else []
        knows_of_end = workflow is None or workflow.is_completed or now.wall >= state.shutdown_at + SHUTDOWN_LAG
        deletions = [Action(ActionKind.DELETE_POD, pod.uid) for pod in pods] if knows_of_end else []
        return [*confirm, *resume, *deletions]
    needs_read = not state.confirmed_gone or _is_argo_overdue(state, now)
    confirm = [CONFIRM] if needs_read and not (workflow is None and state.is_submitting) else []
    if workflow is None or workflow.is_completed or workflow.is_handler_running or resume:
        return [*confirm, *resume]
    is_late = _is_argo_overdue(state, now) or now.wall >= state.shutdown_at + TOUCH_AFTER
    return [*confirm, Action(ActionKind.TOUCH, workflow.uid)] if is_late else confirm


def _shutdown_actions(state: JobState, workflow: WorkflowView, pods: list[PodView], now: Now) -> list[Action]:
    """Return the actions that end a Workflow which is neither shut down nor over, and their successors if refused."""
    has_started = workflow.has_node or state.first_pod_uid is not None or bool(state.observation.pods)
    never_released = workflow.suspended and not (workflow.released or workflow.deleting or has_started)
    end = Action(ActionKind.DELETE_WORKFLOW if never_released else ActionKind.SHUTDOWN, workflow.uid)
    # A shutdown that was accepted but does not show may have met a deleted Workflow, which counts as accepted, and the
    # watch may have missed the deletion.
    confirm = [CONFIRM] if now.wall >= state.shutdown_at + TOUCH_AFTER else []
    retry = state.retries.get(end, Retry(now.wall))
    is_slow = state.shutdown_at == math.inf and now.wall >= state.ending_at + SHUTDOWN_LIMIT and workflow.has_started
    if retry.failures + retry.tries < MAX_SHUTDOWN_TRIES and not is_slow:
        return [*confirm, end]
    deletions = [Action(ActionKind.DELETE_POD, pod.uid) for pod in pods]
    if workflow.suspended and workflow.has_started:
        deletions.append(Action(ActionKind.RESUME, workflow.uid))
    # If Argo has not seen the pod run, it creates another one, and only the Workflow's deletion ends that.
    makes_another = not pods and not workflow.has_started
    if makes_another or any(pod.uid != state.first_pod_uid for pod in pods):
        deletions.append(Action(ActionKind.DELETE_WORKFLOW, workflow.uid))
    return [CONFIRM, end, *deletions]


def _pods_to_delete(state: JobState) -> list[PodView]:
    """Return the pods whose main container runs or may start, and a stalled pod until it is terminal."""
    return [
        pod for pod in state.observation.pods if not pod.is_main_done or (state.pod_stalled and not pod.is_terminal)
    ]


# --- scheduling the next call


def _requeue_after(state: JobState, now: Now) -> float | None:
    """Return the seconds until the earliest time at which an action or a conclusion may become due."""
    delays = [retry.not_before - now.wall for retry in state.retries.values()]
    if state.verdict is None and not state.is_stopping:
        delays += [deadline.expires_at - now.healthy for deadline in deadlines(state)]
        delays.append(events_due_at(state) - now.healthy)
        delays.append(state.submitted_at + PAST_LIMIT - now.healthy if state.is_adopted else math.inf)
    if state.is_stopping:
        delays += [state.shutdown_at + lag - now.wall for lag in (SHUTDOWN_LAG, TOUCH_AFTER)]
    if state.verdict is not None:
        delays += [state.verdict_at + limit - now.healthy for limit in (ARGO_FINISH_LIMIT, END_LIMIT)]
    if state.stage is Stage.SUBMITTED:
        delays.append(state.submitted_at + RELEASE_AFTER - now.healthy)
    if state.stage is Stage.WAITING:
        delays.append(state.stage_since + TOUCH_AFTER - now.healthy)
    for lag in (KILL_LAG, NODE_LOST_AFTER):
        delays += [at + _max_grace(state) + lag - now.healthy for at in state.deletions.values()]
    delays.append(state.ending_at + SHUTDOWN_LIMIT - now.wall)
    return min((delay for delay in delays if 0.0 < delay < math.inf), default=None)
