"""The types of the reconciler: one job's state, the inputs that change it, and the actions that it asks for.

The rules are in flargo.status.reconcile. Words for the end of a job: a program exits; a pod is terminal when the
kubelet runs nothing of it any more; Argo completes a Workflow; flargo gives a verdict, which FLARE is told; a job is
stopping while flargo ends it, and cleared when it has its verdict and nothing of it is left.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from flargo.status.diagnosis import Diagnosis, Stage
from flargo.status.program_start import ProgramStart
from flargo.status.reasons import PROGRAM_ENDS, Reason
from flargo.status.start_clocks import StartClocks
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import EventView, Observation, PodView
from flargo.terms import StartTimeouts, Uid


class ActionKind(Enum):
    """The requests to the API server that a job's state can ask for. The value is how a log line describes it."""

    CONFIRM = "read the objects"
    """Read the Workflow and its pods from the API server."""
    LIST_EVENTS = "list the pod's events"
    """List the Events about the pod's name. Only they report a failing mount, an image pull in progress, and a pod
    that was created and deleted between two observations."""
    TOUCH = "touch the Workflow"
    """Update an annotation of the Workflow, so that Argo's controller processes it again."""
    RELEASE = "release the Workflow"
    """Release a suspended Workflow once more: its submit has succeeded, but the release did not last."""
    RESUME = "resume the Workflow"
    """End a person's suspension of a job that is over. Argo neither completes a suspended Workflow nor gives back its
    locks."""
    SHUTDOWN = "shut down the Workflow"
    """Set the Workflow's ``spec.shutdown`` to Terminate, and end a suspension."""
    DELETE_WORKFLOW = "delete the Workflow"
    """Delete a Workflow that was never released, or whose shutdown fails while Argo would create another pod."""
    DELETE_POD = "delete the pod"
    """Delete the pod with its grace period, after which the kubelet sends SIGKILL."""
    DELETE_SECRET = "delete the credentials Secret"  # noqa: S105
    """Delete the job's credentials Secret."""
    NOTE_REASON = "note the reason on the Workflow"
    """Annotate the Workflow with the reason of an end that neither flargo nor the program brought about. Once the pod
    is gone, only that tells a drain from a deletion, or what kept the pod from starting."""
    MARK_CLEARED = "annotate the Workflow"
    """Note on a Workflow that nothing is left to do about it, so that the parent's next run leaves it alone."""


@dataclass(frozen=True, slots=True)
class Action:
    """A request that a job's state asks for."""

    kind: ActionKind
    uid: Uid | None = None
    """The uid of the object, where the request must not reach another object of the same name."""


CONFIRM = Action(ActionKind.CONFIRM)
DISRUPTIONS = frozenset({Reason.DISRUPTED, Reason.EVICTED, Reason.NODE_LOST, Reason.POD_DELETED})
"""Reasons for which somebody else ends the pod, so that flargo needs to end nothing if Argo knows that the pod ran."""


@dataclass(frozen=True, slots=True)
class Retry:
    """An action's earlier tries, and when it is due again."""

    not_before: float
    """Earliest time, on the wall clock, of the next try. While the action is in flight: the time at which its result
    counts as lost."""
    tries: int = 0
    """Tries in a row that were answered and did not make the action unnecessary."""
    failures: int = 0
    """Tries in a row that were refused or not answered."""
    is_in_flight: bool = False


@dataclass(frozen=True, slots=True)
class Now:
    """The current time on the two clocks, in seconds from an arbitrary origin."""

    healthy: float
    """Runs only while there is contact with the API server. When a silence turns out to have been an outage, the clock
    is set back to the outage's beginning."""
    wall: float
    """Seconds on the clock that always runs."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Input: the job's objects were observed."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Input: FLARE wants the job to end."""

    cause: Cause
    nothing_created: bool = False
    """Nothing of the job exists, and nothing will be created."""


@dataclass(frozen=True, slots=True)
class LaunchGivenUp:
    """Input: FLARE has been told that the launch failed, so whatever exists of the job must be ended."""

    detail: str
    """The explanation that FLARE got."""
    nothing_created: bool = False
    """Nothing of the job exists, and nothing will be created."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """Input: the submit has finished. Without an error, the Workflow was released."""

    error: str = ""
    secret_uid: Uid | None = None
    """The uid of the credentials Secret, if the response that contains it arrived."""
    nothing_created: bool = False
    """The submit has failed, nothing of the job exists, and nothing will be created."""


@dataclass(frozen=True, slots=True)
class ActionDone:
    """Input: an action has succeeded or failed. A successful CONFIRM arrives as a fresh Observed instead."""

    action: Action
    ok: bool


@dataclass(frozen=True, slots=True)
class SecretReleased:
    """Input: nobody needs the credentials Secret any more once the job has its verdict."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Input: time has passed."""


@dataclass(frozen=True, slots=True)
class EventsListed:
    """Input: the events about the pod were listed."""

    action: Action
    events: tuple[EventView, ...]


Input = Observed | StopRequested | LaunchGivenUp | Submitted | SecretReleased | ActionDone | EventsListed | Tick


@dataclass(frozen=True, slots=True, repr=False)
class JobState:
    """Everything that the reconciler remembers about one job."""

    name: str
    """The name of the job's Workflow."""
    attempt: str
    """The id of this launch. A Workflow of the same name with another id belongs to another launch."""
    timeouts: StartTimeouts
    grace: int
    """Seconds between SIGTERM and SIGKILL."""
    created_at: float
    """Time of the launch, on the healthy clock."""
    is_submitting: bool = True
    submitted_at: float = math.inf
    """Time at which the submit finished, on the healthy clock."""
    submit_error: str = ""
    """Why the submit failed; empty if it did not."""
    secret_uid: Uid | None = None
    """The uid of the credentials Secret, if the response to its creation arrived."""
    cause: Cause | None = None
    """Why FLARE wants the job to end; None while it does not."""
    observation: Observation = field(default_factory=Observation)
    """The latest observation."""
    events: tuple[EventView, ...] = ()
    """The events about the first pod, from the latest list."""
    pod: PodView | None = None
    """The latest view of the first pod."""
    program_start: ProgramStart = ProgramStart.UNKNOWN
    """Whether the first pod's program has begun."""
    unstarted_pods: frozenset[Uid] = frozenset()
    """Earlier pods whose programs never began. The first pod is the one that Argo has created in their place."""
    start_unseen: bool = False
    """The first pod was first seen after a gap, so an earlier pod may have come and gone in it."""
    ran_twice: bool = False
    """The events show that there was an earlier pod."""
    exited_pod: PodView | None = None
    """The view of the first pod that first showed an exit of the main container. That exit is final, even if the pod
    is deleted or an older version of it arrives later."""
    stage: Stage = Stage.ABSENT
    stage_since: float = 0.0
    """Time at which the job entered its stage, on the healthy clock."""
    start: StartClocks = field(default_factory=StartClocks)
    """The clocks of the job's start that outlive a stage."""
    end_diagnosis: Diagnosis | None = None
    """Why flargo ends a job that still exists, confirmed by a fresh read."""
    shutdown_at: float = math.inf
    """Time at which the Workflow's shutdown was accepted or first observed, on the wall clock."""
    was_completed: bool = False
    """Argo has completed the Workflow. Whoever deletes it from then on ends nothing."""
    is_ended_by_others: bool = False
    """Somebody else has shut down the Workflow, or has deleted it before Argo had completed it. What also happened to
    the pod, such as a drain, may stay the reason of the end."""
    verdict: Verdict | None = None
    verdict_at: float = math.inf
    """Time of the verdict, on the healthy clock."""
    deletions: Mapping[Uid, float] = field(default_factory=lambda: MappingProxyType({}))
    """The time at which each pod's deletion was first accepted or observed, on the healthy clock."""
    ending_at: float = math.inf
    """Time at which flargo began to end the job, on the wall clock."""
    retries: Mapping[Action, Retry] = field(default_factory=lambda: MappingProxyType({}))
    is_adopted: bool = False
    """An earlier run of the parent has launched the job, and nobody watched it until this run did."""
    keeps_secret: bool = False
    """The credentials Secret is not deleted yet, even after the verdict: another attempt may follow, and until that one
    has a Secret of its own, a run of the parent that begins anew needs this one to go on with the job."""
    secret_deleted: bool = False
    """The credentials Secret was deleted, or did not exist."""
    confirmed_gone: bool = False
    """A fresh read after the submit has shown that nothing runs. Only then is a stopped job over: a watch that was cut
    could hide a pod that Argo created at the last moment."""
    pod_stalled: bool = False
    """A fresh read has shown that containers of the pod still run long after the job's end: its wait container hangs,
    for example."""
    is_end_overdue: bool = False
    """The job was not over in time after its verdict: its credentials cannot be deleted, Argo does not complete its
    Workflow, or its node is lost."""

    def __repr__(self) -> str:
        """Return one line for logs and failed tests, without texts of the cluster."""
        in_flight = [action.kind.name for action, retry in self.retries.items() if retry.is_in_flight]
        verdict = f"{self.verdict.reason.name} ({self.verdict.code})" if self.verdict is not None else "none"
        ending = ", is being ended" if self.is_stopping else ""
        return (
            f"<JobState {self.name} {self.attempt}: {self.stage.name}{ending}; "
            f"in flight: {', '.join(in_flight) or 'nothing'}; verdict: {verdict}>"
        )

    @property
    def first_pod_uid(self) -> Uid | None:
        """Return the uid of the pod that runs the program. Any other pod means that Argo ran the job again."""
        return self.pod.uid if self.pod is not None else None

    @property
    def is_released(self) -> bool:
        """Return whether the Workflow has been released, so that the program may start at any moment."""
        return not self.is_submitting and not self.submit_error

    @property
    def is_ending(self) -> bool:
        """Return whether the job is coming to its end, whoever ends it."""
        return self.cause is not None or self.end_diagnosis is not None or self.verdict is not None

    @property
    def is_stopping(self) -> bool:
        """Return whether flargo must end what exists of the job. An end of its own is Argo's to complete."""
        if self.cause is not None:
            return True
        if self.verdict is None:
            is_dying = self.end_diagnosis is not None and self.end_diagnosis.reason in DISRUPTIONS
            return self.end_diagnosis is not None and not (is_dying and self._ends_by_itself)
        other_pod_runs = any(pod.uid != self.first_pod_uid and not pod.is_main_done for pod in self.observation.pods)
        return other_pod_runs or not (self.verdict.reason in PROGRAM_ENDS or self._ends_by_itself)

    @property
    def _ends_by_itself(self) -> bool:
        """Return whether the job's only pod ends or has ended, and Argo will complete the Workflow without a new pod.

        Shutting such a Workflow down would keep Argo from running an administrator's exit handler.
        """
        workflow = self.observation.workflow
        if workflow is None or workflow.shutdown or workflow.deleting or workflow.is_retried:
            return False
        pods = self.observation.pods
        is_verdict_early = self.verdict is not None and not all(pod.is_main_done for pod in pods)
        pods_end = all(pod.uid == self.first_pod_uid and (pod.deleting or pod.is_main_done) for pod in pods)
        # Argo sees the pod if it is still there when its controller comes to look.
        stays = bool(pods) and all(pod.is_terminal and not pod.deleting for pod in pods)
        return (workflow.has_started or stays) and pods_end and not is_verdict_early

    @property
    def has_stopped(self) -> bool:
        """Return whether the verdict is given, and nothing of the job runs. An exit handler may still run."""
        nothing_runs = self.confirmed_gone if self.is_stopping else has_ended(self.observation)
        return self.verdict is not None and not self.is_submitting and nothing_runs

    @property
    def is_over(self) -> bool:
        """Return whether the job has stopped, and its credentials are deleted."""
        return self.has_stopped and self.secret_deleted

    @property
    def is_cleared(self) -> bool:
        """Return whether the job needs no more actions: it is over, and Argo has completed its Workflow."""
        workflow = self.observation.workflow
        return self.is_over and (workflow is None or workflow.is_completed)

    def without_backoff(self) -> "JobState":
        """Return the state with everything due at once that has failed: the API server may have been away."""
        retries = {action: retry for action, retry in self.retries.items() if retry.is_in_flight or not retry.failures}
        return replace(self, retries=MappingProxyType(retries))

    def with_due(self, action: Action) -> "JobState":
        """Return the state with an action due at once, if it is still wanted; its earlier tries do not count."""
        retries = {other: retry for other, retry in self.retries.items() if other != action}
        return replace(self, retries=MappingProxyType(retries))


def has_ended(observation: Observation) -> bool:
    """Return whether Argo starts nothing more of the job, and every container of its pods has ended."""
    workflow = observation.workflow
    return (workflow is None or workflow.is_over) and all(pod.is_terminal for pod in observation.pods)


@dataclass(frozen=True, slots=True)
class Step:
    """Result of ``reconcile``: the new state, the actions to perform, and when to call it again."""

    state: JobState
    actions: tuple[Action, ...]
    """Actions to perform now. Each is answered by an ActionDone, an EventsListed or a fresh Observed."""
    requeue_after: float | None
    """Seconds after which a Tick is due even if nothing else happens; None if none is needed."""
