"""The life of one job as data: what is remembered, what can happen to it, what it can wish for.

What follows from what is ``flargo.status.reconcile``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from flargo.status.diagnosis import Diagnosis, Stage
from flargo.status.reasons import PROGRAM_ENDS
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import EventView, Observation, PodView
from flargo.terms import StartTimeouts, Uid


class ActionKind(Enum):
    """What a life can wish for."""

    CONFIRM = "confirm"
    """Read the Workflow and its pods afresh."""
    LIST_EVENTS = "list the events of"
    """List the events of its pod, and of others that had its name: the only place that tells of a mount that fails,
    of an image that is pulled, and of a pod that came and went unseen."""
    TOUCH = "nudge"
    """Touch the Workflow, so that Argo's controller looks at it again."""
    SHUTDOWN = "shut down"
    """Set the Workflow's ``spec.shutdown`` to Terminate."""
    DELETE_WORKFLOW = "discard"
    """Delete the Workflow: it was never released."""
    DELETE_POD = "kill"
    """Delete the pod with its grace, which ends in SIGKILL."""
    DELETE_SECRET = "drop the credentials of"  # noqa: S105
    """Delete the credentials Secret."""


@dataclass(frozen=True, slots=True)
class Action:
    """An act, and the uid of what it is done to where it must hit that very object."""

    kind: ActionKind
    uid: Uid | None = None


CONFIRM = Action(ActionKind.CONFIRM)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a wish was tried, and when (on the always-running clock) it may be tried again."""

    failures: int = 0
    not_before: float = math.inf


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks, in seconds from any origin."""

    healthy: float
    """Runs only while the API is heard: where a silence proves to have been an outage, back to when that began."""
    wall: float
    """Runs always."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The job was observed."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class StopRequested:
    """FLARE wants the job ended."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class LaunchGivenUp:
    """FLARE has been told that the launch failed: whatever there is of the job must be ended."""

    detail: str
    """Why."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The submit is over: the Workflow was released, or there was an error."""

    error: str = ""
    secret_uid: Uid | None = None
    """Of the credentials Secret, where it is known."""


@dataclass(frozen=True, slots=True)
class ActionDone:
    """What became of a wish; a confirmation that worked arrives as a fresh Saw instead."""

    action: Action
    ok: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class EventsListed:
    """The pod's events were listed."""

    action: Action
    events: tuple[EventView, ...]


Input = Observed | StopRequested | LaunchGivenUp | Submitted | ActionDone | EventsListed | Tick


@dataclass(frozen=True, slots=True)
class JobState:
    """All that is remembered of one job."""

    name: str
    """Of its Workflow."""
    attempt: str
    """Of its launch: a Workflow of that name with another one is somebody else's."""
    timeouts: StartTimeouts
    grace: int
    """Seconds between SIGTERM and SIGKILL."""
    created_at: float
    """On the healthy clock."""
    is_submitting: bool = True
    submitted_at: float = math.inf
    """When its submit was over, on the healthy clock."""
    submit_error: str = ""
    """Why the submit failed."""
    secret_uid: Uid | None = None
    """Of its credentials Secret, where the answer to its creation told it."""
    cause: Cause | None = None
    observation: Observation = field(default_factory=Observation)
    events: tuple[EventView, ...] = ()
    """Of the pod, as they were listed last."""
    pod: PodView | None = None
    """The first pod, as it was seen last."""
    start_unseen: bool = False
    """The first pod came while nobody looked: another may have been there before it."""
    ran_twice: bool = False
    """Another was."""
    exited_pod: PodView | None = None
    """The first pod, once its main container has ended: it cannot end twice, though the pod may go or be told
    of out of order."""
    stage: Stage = Stage.ABSENT
    stage_since: float = 0.0
    """When it came to its stage, on the healthy clock."""
    end_diagnosis: Diagnosis | None = None
    """A confirmed reason to end a job that is still there."""
    shutdown_at: float = math.inf
    """When the shutdown was accepted or first seen, on the always-running clock."""
    verdict: Verdict | None = None
    verdict_at: float = math.inf
    """When the verdict was given, on the healthy clock."""
    pod_deleted_at: float = math.inf
    """When a kill was first accepted, on the healthy clock."""
    retries: Mapping[Action, Retry] = field(default_factory=lambda: MappingProxyType({}))
    secret_deleted: bool = False
    confirmed_gone: bool = False
    """A fresh read has shown that nothing is left and nothing will come: of a job that was stopped, a stream that
    is cut could hide a pod that was made at the last moment."""
    argo_stalled: bool = False
    """A fresh read has shown that Argo does not finish what has long ended: its wait container hangs, or its
    controller is away."""

    @property
    def first_pod_uid(self) -> Uid | None:
        """The pod that its program runs in. Any other one means that Argo ran the job again."""
        return self.pod.uid if self.pod is not None else None

    @property
    def is_stopping(self) -> bool:
        """Whether it is to be brought to an end."""
        if self.cause is not None or self.end_diagnosis is not None:
            return True
        if self.verdict is None:
            return False
        run_again = any(pod.uid != self.first_pod_uid and not pod.is_main_done for pod in self.observation.pods)
        return run_again or self.verdict.reason not in PROGRAM_ENDS

    @property
    def is_cleared(self) -> bool:
        """Whether FLARE has its verdict and nothing is left on the cluster that runs or holds credentials."""
        quiet = self.confirmed_gone if self.is_stopping else has_finished(self.observation)
        return self.verdict is not None and self.secret_deleted and not self.is_submitting and quiet


def has_finished(seen: Observation) -> bool:
    """Whether neither the Workflow nor a pod of it, its helpers included, goes on."""
    return (seen.workflow is None or seen.workflow.is_completed) and all(pod.is_terminal for pod in seen.pods)


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from a fact."""

    state: JobState
    actions: tuple[Action, ...]
    """To be performed now; each is answered by a Told, or by a fresh Saw."""
    requeue_after: float | None
    """Seconds after which a Tick is due, though nothing happens."""
