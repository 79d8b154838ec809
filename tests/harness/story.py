"""Words for tests of a job's life: objects as a cluster shows them, and a life to whom they happen."""

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

HELD = replace(WORKFLOW, phase="", suspended=True)
UNCLAIMED = replace(WORKFLOW, phase="")
SHUT = replace(WORKFLOW, shutdown="Terminate", phase="Failed", message="Stopped with strategy 'Terminate'")
SUCCEEDED = replace(WORKFLOW, phase="Succeeded")
FAILED = replace(WORKFLOW, phase="Failed")
POD_STARTING = replace(POD, scheduled=True, node="n1")
POD_RUNNING = replace(POD_STARTING, phase="Running", running=True)
POD_SHORT = replace(POD, unscheduled_reason="Unschedulable", unscheduled_message="0/1 nodes: 1 Insufficient memory.")


def exited(code: int, reason: str = "Error", *, of: PodView = POD_RUNNING) -> PodView:
    """A pod whose main container has ended."""
    return replace(of, running=False, exit=Exit(code, reason))


def finished(pod: PodView) -> PodView:
    """The same pod once its other containers have ended, too."""
    return replace(pod, phase="Failed" if pod.exit is not None and pod.exit.code else "Succeeded")


def waiting(reason: str, message: str = "", container: str = "main") -> PodView:
    """A scheduled pod with a container that waits."""
    return replace(POD_STARTING, waiting=(Waiting(container, reason, message),))


class Story:
    """A life, told fact by fact. Wishes pile up in ``wished`` until they are answered."""

    def __init__(self, patience: StartTimeouts | None = None, *, submitted: bool = True) -> None:
        self.now = Now(0.0, 0.0)
        self.state = JobState("job-site", "a1", patience or StartTimeouts(), grace=3, created_at=0.0)
        self.pending_actions: list[Action] = []
        self.wake_in: float | None = None
        if submitted:
            self.tell(Submitted())

    def tell(self, fact: Input) -> "Story":
        """Let a fact happen."""
        result = reconcile(self.state, fact, self.now)
        self.state, self.wake_in = result.state, result.requeue_after
        self.pending_actions += result.actions
        return self

    def sees(
        self,
        workflow: WorkflowView | None,
        *pods: PodView,
        fresh: bool = False,
        published: bool = False,
        gap: bool = False,
    ) -> "Story":
        """The cluster is seen so, by a watch (which may have begun anew) or by a fresh read."""
        if fresh:
            self.pending_actions = [wish for wish in self.pending_actions if wish.kind is not ActionKind.CONFIRM]
        return self.tell(Observed(Observation(workflow, pods, is_fresh=fresh, has_results=published, after_relist=gap)))

    def reads(self, workflow: WorkflowView | None, *pods: PodView, published: bool = False) -> "Story":
        """The confirmation that was wished for comes back so."""
        assert ActionKind.CONFIRM in self.actions, f"no confirmation was wished for, but {self.actions}"
        return self.sees(workflow, *pods, fresh=True, published=published)

    def hears(self, *events: EventView) -> "Story":
        """The pod's events were listed."""
        wish = next(
            (wish for wish in self.pending_actions if wish.kind is ActionKind.LIST_EVENTS),
            Action(ActionKind.LIST_EVENTS, self.state.first_pod_uid),
        )
        self.pending_actions = [other for other in self.pending_actions if other is not wish]
        return self.tell(EventsListed(wish, events))

    def passes(self, seconds: float, *, healthy: bool = True) -> "Story":
        """Time passes, with or without the cluster being heard."""
        self.now = Now(self.now.healthy + (seconds if healthy else 0.0), self.now.wall + seconds)
        return self.tell(Tick())

    def stops(self, cause: Cause = Cause.ABORT) -> "Story":
        """FLARE wants it ended."""
        return self.tell(StopRequested(cause))

    def does(self, act: ActionKind, *, ok: bool = True) -> "Story":
        """The oldest wish of that kind is performed."""
        wish = next(wish for wish in self.pending_actions if wish.kind is act)
        self.pending_actions.remove(wish)
        return self.tell(ActionDone(wish, ok))

    @property
    def actions(self) -> list[ActionKind]:
        """What is wished for and not yet answered."""
        return [wish.kind for wish in self.pending_actions]

    @property
    def verdict(self) -> Verdict | None:
        """What FLARE hears."""
        return self.state.verdict
