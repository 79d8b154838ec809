"""A story of one job for tests of reconcile(): objects as a cluster shows them, and inputs one after the other."""

from dataclasses import replace

from flargo.status.job_state import (
    Action,
    ActionDone,
    ActionKind,
    EventsListed,
    Input,
    JobState,
    Now,
    Observed,
    StopRequested,
    Submitted,
    Tick,
)
from flargo.status.reconcile import reconcile
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import EventView, Exit, Observation, PodView, Waiting, WorkflowView
from flargo.terms import StartTimeouts, Uid

WORKFLOW = WorkflowView(Uid("w1"), "job-site", phase="Running")
POD = PodView(Uid("p1"), "job-site", Uid("w1"), "job-site", phase="Pending")

SUSPENDED = replace(WORKFLOW, phase="", suspended=True)
UNCLAIMED = replace(WORKFLOW, phase="")
TERMINATED = replace(WORKFLOW, shutdown="Terminate", phase="Failed", message="Stopped with strategy 'Terminate'")
SUCCEEDED = replace(WORKFLOW, phase="Succeeded")
FAILED = replace(WORKFLOW, phase="Failed")
POD_STARTING = replace(POD, scheduled=True, node="n1")
POD_RUNNING = replace(POD_STARTING, phase="Running", running=True)
POD_SHORT = replace(POD, unscheduled_reason="Unschedulable", unscheduled_message="0/1 nodes: 1 Insufficient memory.")


def exited_pod(code: int, reason: str = "Error", *, pod: PodView = POD_RUNNING) -> PodView:
    """Return a pod whose main container has ended."""
    return replace(pod, running=False, exit=Exit(code, reason))


def terminal_pod(pod: PodView) -> PodView:
    """Return a pod whose other containers have ended, too."""
    return replace(pod, phase="Failed" if pod.exit is not None and pod.exit.code else "Succeeded")


def waiting_pod(reason: str, message: str = "", container: str = "main") -> PodView:
    """Return a scheduled pod with a waiting container."""
    return replace(POD_STARTING, waiting=(Waiting(container, reason, message),))


class Story:
    """The state of one job to which inputs are applied. Its actions are pending until a test answers them."""

    def __init__(self, timeouts: StartTimeouts | None = None, *, is_submitted: bool = True) -> None:
        self.now = Now(0.0, 0.0)
        self.state = JobState("job-site", "a1", timeouts or StartTimeouts(), grace=3, created_at=0.0)
        self.pending_actions: list[Action] = []
        self.requeue_after: float | None = None
        if is_submitted:
            self.apply(Submitted())

    def apply(self, input_: Input) -> "Story":
        """Reconcile the job with an input."""
        step = reconcile(self.state, input_, self.now)
        self.state, self.requeue_after = step.state, step.requeue_after
        self.pending_actions += step.actions
        return self

    def sees(
        self,
        workflow: WorkflowView | None,
        *pods: PodView,
        is_fresh: bool = False,
        has_results: bool = False,
        after_relist: bool = False,
    ) -> "Story":
        """Observe these objects, by a watch (perhaps after a relist) or by a fresh read."""
        if is_fresh:
            self.pending_actions = [action for action in self.pending_actions if action.kind is not ActionKind.CONFIRM]
        observation = Observation(workflow, pods, is_fresh=is_fresh, has_results=has_results, after_relist=after_relist)
        return self.apply(Observed(observation))

    def reads(self, workflow: WorkflowView | None, *pods: PodView, has_results: bool = False) -> "Story":
        """Answer the pending CONFIRM with these objects."""
        assert ActionKind.CONFIRM in self.actions, f"no CONFIRM is pending, only {self.actions}"
        return self.sees(workflow, *pods, is_fresh=True, has_results=has_results)

    def lists_events(self, *events: EventView) -> "Story":
        """Answer the pending LIST_EVENTS, if there is one, with these events."""
        action = next(
            (action for action in self.pending_actions if action.kind is ActionKind.LIST_EVENTS),
            Action(ActionKind.LIST_EVENTS, self.state.first_pod_uid),
        )
        self.pending_actions = [other for other in self.pending_actions if other is not action]
        return self.apply(EventsListed(action, events))

    def passes(self, seconds: float, *, healthy: bool = True) -> "Story":
        """Let time pass, with or without API contact."""
        self.now = Now(self.now.healthy + (seconds if healthy else 0.0), self.now.wall + seconds)
        return self.apply(Tick())

    def stops(self, cause: Cause = Cause.ABORT) -> "Story":
        """Let FLARE request the job's end."""
        return self.apply(StopRequested(cause))

    def does(self, kind: ActionKind, *, ok: bool = True) -> "Story":
        """Report the result of the oldest pending action of a kind."""
        action = next(action for action in self.pending_actions if action.kind is kind)
        self.pending_actions.remove(action)
        return self.apply(ActionDone(action, ok))

    @property
    def actions(self) -> list[ActionKind]:
        """Return the kinds of the pending actions."""
        return [action.kind for action in self.pending_actions]

    @property
    def verdict(self) -> Verdict | None:
        """Return the job's verdict."""
        return self.state.verdict
