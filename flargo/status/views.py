"""Views of Workflows, pods and Events: only the fields that a diagnosis needs, parsed in this one place.

A parent keeps a view for every object that it follows, so a view is small. Parsing never raises: a missing or
malformed field reads as its empty value (flargo.status.fields).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from flargo.parsing import MAX_SUBDOMAIN_LENGTH, is_attempt, is_object_name, is_uid, whole_number
from flargo.status import fields
from flargo.terms import (
    MAIN_CONTAINER,
    MANAGER,
    NODE_NAME_ANNOTATION,
    STEP_TEMPLATE,
    WORKFLOW_NAME_LABEL,
    Annotation,
    Label,
    Object,
    Uid,
)

MAX_WORKFLOW_NAME_LENGTH = 63
"""Maximum length of a Workflow's name in characters: it is a label value on its pods and part of its Secret's name."""
MAX_EXIT_CODE = 2**31 - 1
"""Maximum exit code: Kubernetes stores an int32, and Windows programs use codes above 255."""


UNKNOWN_END = "ContainerStatusUnknown"
"""The kubelet's reason for the end of a container that it does not find when the pod ends."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended, as its status (``state.terminated``) reports it."""

    code: int
    reason: str = ""
    message: str = ""

    @property
    def is_made_up(self) -> bool:
        """Return whether the kubelet does not know the container, as when it was never created, and assumes an end."""
        return self.reason == UNKNOWN_END


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running yet, as its status (``state.waiting``) reports it."""

    container: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod that Argo created for a Workflow. "Main" is the container that runs the job's program."""

    uid: Uid
    name: str
    owner_uid: Uid
    """The uid of the Workflow whose job the pod runs. Empty for a pod of an exit handler or a hook, which has the same
    owner and the same Workflow label."""
    workflow_name: str
    """The name of its Workflow, from the label that Argo sets."""
    phase: str = ""
    reason: str = ""
    message: str = ""
    node: str = ""
    host_address: str = ""
    """The node's IP address, as its kubelet has written it last; empty before the kubelet has taken the pod."""
    scheduled: bool = False
    unscheduled_reason: str = ""
    unscheduled_message: str = ""
    running: bool = False
    """The main container is running."""
    main_has_started: bool = False
    """The main container runs or has run, as far as its status tells."""
    exit: Exit | None = None
    """How the main container ended."""
    init_failure: str = ""
    """The init container that failed, with its exit code and message; the main container then never starts."""
    waiting: tuple[Waiting, ...] = ()
    has_started: bool = False
    """A container of the pod, init containers included, has started, so the sandbox and the volumes were ready."""
    deleting: bool = False
    deletion_grace: float = 0.0
    """Grace period in seconds that the first deletion request set, whoever sent it."""
    disruption: str = ""
    """Reason and message of the condition DisruptionTarget: a drain, a preemption, an eviction or a node shutdown."""
    memory_limit: str = ""
    version: int = field(default=0, compare=False)
    """The resourceVersion; the view with the larger one is newer."""

    @property
    def is_terminal(self) -> bool:
        """Return whether all containers have ended. Until then the pod occupies its node's resources, GPUs included."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def has_run(self) -> bool:
        """Return whether the program has begun, or may have: an end counts unless the kubelet has made it up."""
        return self.running or self.main_has_started or (self.exit is not None and not self.exit.is_made_up)

    @property
    def is_main_done(self) -> bool:
        """Return whether the main container has ended or will never start."""
        return self.exit is not None or self.is_terminal


@dataclass(frozen=True, slots=True)
class EventView:
    """An Event about a pod. Count and span tell a lasting problem from a passing one, which occurs once or twice."""

    reason: str
    message: str = ""
    count: int = 1
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    pod_uid: str = ""
    """The uid of the pod that the Event is about."""

    @property
    def span(self) -> float:
        """Return the seconds between the first and the last occurrence, both by the reporting component's clock."""
        if self.first_timestamp is None or self.last_timestamp is None:
            return 0.0
        return (self.last_timestamp - self.first_timestamp).total_seconds()


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A Workflow, with the Argo node of its one step. Nodes of exit handlers and hooks are not the step."""

    uid: Uid
    name: str
    attempt: str = ""
    """The id of the launch that created it; empty if the annotation, which anybody may write, holds no valid id."""
    parent: str = ""
    """The epoch of the FLARE parent process that created it (``Parent.epoch``), from a label."""
    created: datetime | None = None
    phase: str = ""
    message: str = ""
    suspended: bool = False
    released: bool = False
    """The launch released it, so if it is suspended now, a person suspended it."""
    cleared: bool = False
    """flargo has noted that nothing is left to do about it. Anybody may write the annotation."""
    shutdown: str = ""
    ending: str = ""
    """The name of the reason that flargo noted on it. Anybody may write it."""
    actor: str = ""
    """Who shut it down, if that was done through an Argo Server, which writes it into labels. Anybody may."""
    has_verdict: bool = False
    """flargo has noted on it how its job, of several attempts, has ended. Anybody may write the annotation."""
    is_attempt: bool = False
    """It is one of the attempts that its job may have."""
    deleting: bool = False
    has_node: bool = False
    node_phase: str = ""
    node_message: str = ""
    node_exit_code: int | None = None
    """The step's exit code as Argo recorded it, some seconds after the pod's status showed it."""
    step_started: datetime | None = None
    """When Argo first created a pod for the step."""
    is_step_done: bool = False
    """Argo has recorded the step's end. The Workflow itself may go on: its exit handler runs after the step."""
    is_retried: bool = False
    """An administrator's retryStrategy makes Argo create another pod after a failure."""
    is_handler_running: bool = False
    """An exit handler or a hook runs, or is about to."""
    host_node: str = ""
    """The Kubernetes node that the step ran on, as Argo recorded it."""
    awaited_lock: str = ""
    """The mutex or semaphore that the Workflow waits for."""
    version: int = field(default=0, compare=False)

    @property
    def is_completed(self) -> bool:
        """Return whether Argo has completed it. The main container may run on, for example after ``argo terminate``."""
        return self.phase in {"Succeeded", "Failed", "Error"}

    @property
    def is_over(self) -> bool:
        """Return whether Argo starts nothing more of the job. An exit handler may still run."""
        return self.is_completed or self.is_step_done

    @property
    def has_started(self) -> bool:
        """Return whether Argo has seen the step's pod run. Then it creates no second pod if that one is deleted."""
        return self.node_phase not in {"", "Pending"}


@dataclass(frozen=True, slots=True)
class Observation:
    """The objects of one job at one moment, and how they were obtained."""

    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    deleted_pod: PodView | None = None
    """The last state of a pod whose deletion the watch has just reported."""
    missing_pod: PodView | None = None
    """The latest view of the job's first pod, if that pod no longer exists."""
    after_relist: bool = False
    """The watch was restarted with a list: events just before it may have been missed."""
    is_fresh: bool = False
    """Read from the API server just now, not taken from the watches' latest views."""
    has_results: bool = False
    """The job's results have reached the parent, so its work was not lost."""
    events: tuple[EventView, ...] = ()
    """The latest list of the first pod's Events; empty before the first one."""


_ACTOR_LABELS = tuple(f"workflows.argoproj.io/{name}" for name in ("actor-preferred-username", "actor-email", "actor"))
"""The labels with the name of whoever did something with a Workflow, the most readable one first."""
_SPEC_FIELDS = ("suspend", "shutdown", "nodeName")
_HANDLER_NODE = re.compile(r"\.(onExit|hooks\.)")
"""Argo names a handler's nodes ``WORKFLOW.onExit`` and ``NODE.hooks.NAME``, and their children after them (argo.md,
observed on 3.7.18). The names of flargo's Workflows contain no dot."""
_DONE_PHASES = frozenset({"Succeeded", "Failed", "Error", "Skipped", "Omitted"})
"""Phases of an Argo node that has ended (argo-workflows, NodePhase.Fulfilled)."""


def uid_of(item: Object) -> Uid:
    """Return an object's uid, or an empty one if the object has none that is valid."""
    uid = fields.text(item, "metadata", "uid")
    return Uid(uid if is_uid(uid) else "")


def _name(item: Object, max_length: int = MAX_SUBDOMAIN_LENGTH) -> str:
    """Return an object's name, or "" if it is invalid or too long: names become part of request paths and selectors."""
    name = fields.text(item, "metadata", "name")
    return name if is_object_name(name) and len(name) <= max_length else ""


def is_credentials_secret(metadata: Object, workflow: str, uid: Uid | None) -> bool:
    """Return whether a Secret's metadata shows that flargo created it for a Workflow.

    Args:
        metadata: the Secret's metadata.
        workflow: the Workflow's name.
        uid: the Workflow's uid; if None, only the owner reference's name is compared.
    """
    managed = fields.text(metadata, "labels", Label.MANAGED_BY) == MANAGER
    owners = [owner for owner in fields.items(metadata, "ownerReferences") if owner.get("kind") == "Workflow"]
    return managed and any(
        owner.get("name") == workflow and (uid is None or owner.get("uid") == uid) for owner in owners
    )


def resource_version(item: Object) -> int:
    """Return an object's resourceVersion, or 0 if it has none.

    Kubernetes calls resourceVersions opaque up to 1.34 and ordered from 1.35; etcd has always counted them up.
    """
    return whole_number(fields.text(item, "metadata", "resourceVersion")) or 0


def strip_unused_fields(item: Object) -> Object:
    """Return a Workflow or Pod with little more than the fields that its view is made from.

    A list holds thousands of objects, and most of each is its template and its managedFields.
    """
    meta, spec = fields.mapping(item, "metadata"), fields.mapping(item, "spec")
    containers = [{key: row.get(key) for key in ("name", "resources")} for row in fields.items(spec, "containers")]
    return {
        "metadata": {key: value for key, value in meta.items() if key != "managedFields"},
        "spec": {**{key: spec[key] for key in _SPEC_FIELDS if key in spec}, "containers": containers},
        "status": item.get("status"),
    }


def workflow_view(item: Object) -> WorkflowView:
    """Return the view of a Workflow (argoproj.io/v1alpha1)."""
    nodes = [*fields.mapping(item, "status", "nodes").values()]
    handlers = [node for node in nodes if _HANDLER_NODE.search(fields.text(node, "name"))]
    own = [node for node in nodes if node not in handlers and fields.text(node, "templateName") == STEP_TEMPLATE]
    # With a retryStrategy that an administrator injected there are several; the last one started counts.
    steps = [node for node in own if fields.text(node, "type") == "Pod"]
    step: Object = max(steps, key=lambda node: fields.text(node, "startedAt"), default={})
    retry = next((node for node in own if fields.text(node, "type") == "Retry"), None)
    attempt = fields.text(item, "metadata", "annotations", Annotation.ATTEMPT)
    return WorkflowView(
        uid=uid_of(item),
        name=_name(item, MAX_WORKFLOW_NAME_LENGTH),
        attempt=attempt if is_attempt(attempt) else "",
        parent=fields.text(item, "metadata", "labels", Label.PARENT),
        created=fields.time(item, "metadata", "creationTimestamp"),
        phase=fields.text(item, "status", "phase"),
        message=fields.text(item, "status", "message"),
        suspended=fields.value(item, "spec", "suspend") is True,
        released=bool(fields.text(item, "metadata", "annotations", Annotation.RELEASED)),
        cleared=bool(fields.text(item, "metadata", "annotations", Annotation.CLEARED)),
        shutdown=fields.text(item, "spec", "shutdown"),
        ending=fields.text(item, "metadata", "annotations", Annotation.ENDING),
        actor=_actor(item),
        has_verdict=bool(fields.text(item, "metadata", "annotations", Annotation.VERDICT)),
        is_attempt=bool(fields.text(item, "metadata", "labels", Label.ATTEMPT_NUMBER)),
        deleting=bool(fields.text(item, "metadata", "deletionTimestamp")),
        has_node=bool(step),
        node_phase=fields.text(step, "phase"),
        node_message=fields.text(step, "message"),
        node_exit_code=whole_number(fields.text(step, "outputs", "exitCode"), MAX_EXIT_CODE),
        step_started=min(filter(None, (fields.time(node, "startedAt") for node in steps)), default=None),
        is_step_done=fields.text(step if retry is None else retry, "phase") in _DONE_PHASES,
        is_retried=retry is not None,
        is_handler_running=any(fields.text(node, "phase") not in _DONE_PHASES for node in handlers),
        host_node=fields.text(step, "hostNodeName"),
        awaited_lock=_awaited_lock(item, step),
        version=resource_version(item),
    )


def _actor(item: Object) -> str:
    """Return who shut a Workflow down, as an Argo Server notes it (workflow/creator/creator.go, 3.7); perhaps empty."""
    if fields.text(item, "metadata", "labels", "workflows.argoproj.io/action") not in {"Terminate", "Stop"}:
        return ""
    names = (fields.text(item, "metadata", "labels", label) for label in _ACTOR_LABELS)
    return next(filter(None, names), "")


def _awaited_lock(item: Object, step: Object) -> str:
    step_lock = fields.text(step, "synchronizationStatus", "waiting")
    if step_lock:
        return step_lock
    is_waiting = any(
        list(fields.items(item, "status", "synchronization", kind, "waiting")) for kind in ("mutex", "semaphore")
    )
    return fields.text(item, "status", "message") if is_waiting else ""


def _is_handlers_pod(item: Object) -> bool:
    """Return whether a pod is that of an exit handler or a hook.

    It lacks flargo's label, and Argo's annotation names the handler's node. Neither alone suffices: a policy, or a
    person, may change the label of the job's own pod while its program runs.
    """
    is_labelled = fields.text(item, "metadata", "labels", Label.MANAGED_BY) == MANAGER
    node = fields.text(item, "metadata", "annotations", NODE_NAME_ANNOTATION)
    return not is_labelled and _HANDLER_NODE.search(node) is not None


def pod_view(item: Object) -> PodView:
    """Return the view of a Pod that Argo created."""
    owners = [owner for owner in fields.items(item, "metadata", "ownerReferences") if owner.get("kind") == "Workflow"]
    scheduling = fields.condition(item, "PodScheduled")
    disruption = fields.condition(item, "DisruptionTarget")
    main = next(
        (row for row in fields.items(item, "status", "containerStatuses") if row.get("name") == MAIN_CONTAINER), {}
    )
    return PodView(
        uid=uid_of(item),
        name=_name(item),
        owner_uid=Uid(fields.text(owners[0], "uid") if owners and not _is_handlers_pod(item) else ""),
        workflow_name=fields.text(item, "metadata", "labels", WORKFLOW_NAME_LABEL),
        phase=fields.text(item, "status", "phase"),
        reason=fields.text(item, "status", "reason"),
        message=fields.text(item, "status", "message"),
        node=fields.text(item, "spec", "nodeName"),
        host_address=fields.text(item, "status", "hostIP"),
        scheduled=bool(fields.text(item, "spec", "nodeName")) or scheduling.get("status") == "True",
        unscheduled_reason=fields.text(scheduling, "reason") if scheduling.get("status") == "False" else "",
        unscheduled_message=fields.text(scheduling, "message") if scheduling.get("status") == "False" else "",
        running=isinstance(fields.value(main, "state", "running"), dict),
        main_has_started=_main_has_started(main),
        exit=_exit(main),
        init_failure=_init_failure(item),
        waiting=tuple(_waiting(item)),
        has_started=any(_has_started(row) for row in _container_statuses(item)),
        deleting=bool(fields.text(item, "metadata", "deletionTimestamp")),
        deletion_grace=float(fields.number(item, "metadata", "deletionGracePeriodSeconds") or 0),
        disruption=" ".join(filter(None, (fields.text(disruption, "reason"), fields.text(disruption, "message"))))
        if disruption.get("status") == "True"
        else "",
        memory_limit=_memory_limit(item),
        version=resource_version(item),
    )


def event_view(item: Object) -> EventView:
    """Return the view of an Event (v1).

    Old Events carry ``count`` and ``lastTimestamp``; new ones carry both in ``series``.
    """
    series = fields.number(item, "series", "count")
    count = series if series is not None else fields.number(item, "count")
    first = (
        fields.time(item, "firstTimestamp")
        or fields.time(item, "eventTime")
        or fields.time(item, "metadata", "creationTimestamp")
    )
    return EventView(
        reason=fields.text(item, "reason"),
        message=fields.text(item, "message"),
        pod_uid=fields.text(item, "involvedObject", "uid"),
        count=count if count is not None else 1,
        first_timestamp=first,
        last_timestamp=fields.time(item, "series", "lastObservedTime") or fields.time(item, "lastTimestamp") or first,
    )


def _exit(status: Object) -> Exit | None:
    state = fields.value(status, "state", "terminated")
    code = fields.number(state, "exitCode", maximum=MAX_EXIT_CODE)
    if code is None:
        return None
    return Exit(code, fields.text(state, "reason"), fields.text(state, "message"))


def _init_failure(item: Object) -> str:
    for row in fields.items(item, "status", "initContainerStatuses"):
        end = _exit(row)
        if end is not None and end.code != 0:
            name = fields.text(row, "name")
            return f"init container {name}: exit code {end.code} {end.message}".strip()
    return ""


def _waiting(item: Object) -> Iterator[Waiting]:
    for row in _container_statuses(item):
        reason = fields.text(row, "state", "waiting", "reason")
        if reason:
            yield Waiting(fields.text(row, "name"), reason, fields.text(row, "state", "waiting", "message"))


def _container_statuses(item: Object) -> Iterator[Object]:
    """Yield the statuses of the pod's containers, init containers first."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from fields.items(item, "status", kind)


def _has_started(status: Object) -> bool:
    """Return whether a container has started at least once. One that is started again waits in between."""
    if status.get("started") is True or isinstance(fields.value(status, "state", "running"), dict):
        return True
    ends = (fields.mapping(status, each, "terminated") for each in ("state", "lastState"))
    # The kubelet also gives an end to a container that it never created.
    return any(end and end.get("reason") != UNKNOWN_END for end in ends)


def _main_has_started(status: Object) -> bool:
    """Return whether the main container has started. It is started once, so an earlier state of it is a start, too."""
    end = fields.mapping(status, "state", "terminated")
    was_running = "used to be Running" in fields.text(end, "message")
    return _has_started(status) or bool(end.get("startedAt")) or was_running or bool(status.get("lastState"))


def _memory_limit(item: Object) -> str:
    main = next((row for row in fields.items(item, "spec", "containers") if row.get("name") == MAIN_CONTAINER), {})
    return fields.text(main, "resources", "limits", "memory")
