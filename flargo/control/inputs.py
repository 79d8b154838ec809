"""The inputs of the Reconciler: everything that happens to the jobs of one FLARE parent, as frozen data.

A SiteInput is about the site: its Workflows, its pods, the contact with the API server. The Reconciler derives from it
the inputs of single jobs (``flargo.status.job_state.Input``). A ``JobInput`` only passes such an input on.

The time is no part of an input: an input is handled at the time at which it is taken from the queue.
"""

from dataclasses import dataclass

from flargo.cluster.api import Kind
from flargo.control.command import Command
from flargo.status.job_state import LaunchGivenUp, SecretReleased, StopRequested, Submitted
from flargo.terms import Object, StartTimeouts, Uid


@dataclass(frozen=True, slots=True)
class Admitted:
    """FLARE has launched a job. Must be handled before its Workflow is created, so that no event about it is missed."""

    name: str
    """The name of the job's Workflow."""
    attempt: str
    """The id of the launch."""
    timeouts: StartTimeouts
    grace: int
    """Seconds between SIGTERM and SIGKILL."""
    keeps_secret: bool = False
    """The credentials Secret is kept until ``SecretReleased``."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """This parent follows from now on a Workflow that an earlier run of it has launched and released."""

    name: str
    """The name of the job's Workflow."""
    uid: Uid
    """The uid of that Workflow."""
    attempt: str
    """The id of the launch."""
    timeouts: StartTimeouts
    """The timeouts of a start, which begin anew."""
    grace: int
    """Seconds between SIGTERM and SIGKILL."""
    keeps_secret: bool = False
    """The credentials Secret is kept until ``SecretReleased``."""


@dataclass(frozen=True, slots=True)
class JobInput:
    """Something has happened to one launch. It is ignored if that launch is no longer tracked."""

    name: str
    """The name of the job's Workflow."""
    attempt: str
    """The id of the launch: a later launch of the same job is not affected."""
    input: Submitted | StopRequested | LaunchGivenUp | SecretReleased


@dataclass(frozen=True, slots=True)
class WorkflowCreated:
    """The submit has created a launch's Workflow, and not released it yet.

    Its pod may show on the watch of the pods before the Workflow shows on the other watch.
    """

    name: str
    """The name of the job's Workflow."""
    attempt: str
    """The id of the launch."""
    item: Object
    """The Workflow, as the API server has stored it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A watch has started with a list. An object that the list does not contain does not exist."""

    kind: Kind
    items: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A watch has delivered an event about one object."""

    kind: Kind
    item: Object
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class WatchLost:
    """A watch is out of sync until its next list."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Contact:
    """The API server has responded, or has ended a watch request without events as it was asked to."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A command's request got no response."""

    command: Command
    since: float
    """The time at which the request was sent."""


@dataclass(frozen=True, slots=True)
class ObjectsRead:
    """A CONFIRM command has read its job's objects."""

    command: Command
    workflow: Object | None
    """None if there is no Workflow of that name."""
    pods: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class PodEventsRead:
    """A LIST_EVENTS command has listed the Events about its job's pod."""

    command: Command
    items: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class CommandDone:
    """A command has succeeded, or any command has failed. A successful read arrives as what was read instead."""

    command: Command
    ok: bool


@dataclass(frozen=True, slots=True)
class Reserved:
    """Jobs of an earlier run may still be taken back, and no others; until then nobody follows or ends them."""

    names: frozenset[str]
    """The names of their Workflows."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The time has come at which the Reconciler wanted to be called again (``Reconciler.next_requeue_at``)."""


SiteInput = (
    Admitted
    | Adopted
    | JobInput
    | WorkflowCreated
    | Listed
    | Changed
    | WatchLost
    | Contact
    | Unanswered
    | ObjectsRead
    | PodEventsRead
    | CommandDone
    | Reserved
    | TimePassed
)
