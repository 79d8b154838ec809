"""Kubernetes objects as flargo looks at them: the one place that parses what a diagnosis needs.

A view holds that and nothing more, so a thousand jobs are small to keep. Parsing never fails: see fields.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from flargo.parsing import MAX_SUBDOMAIN_LENGTH, is_attempt, is_object_name, is_uid, whole_number
from flargo.status.fields import at as _at
from flargo.status.fields import condition as _condition
from flargo.status.fields import items as _items
from flargo.status.fields import number as _number
from flargo.status.fields import text as _text
from flargo.status.fields import time as _time
from flargo.terms import MANAGER, Annotation, Label, Object, Uid

MAX_WORKFLOW_NAME_LENGTH = 63
"""A Workflow's name is the value of a label of its pods, and part of its Secret's name."""
MAX_EXIT_CODE = 2**31 - 1
"""Kubernetes' int32; Windows' codes go beyond 255."""
MAIN = "main"
"""The name that Argo gives the container of a step."""
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
"""On every pod of a Workflow: the Workflow's name. An administrator's default may change the pod's own name."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended, in the kubelet's words."""

    code: int
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running yet, in the kubelet's words."""

    container: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of a Workflow."""

    uid: Uid
    name: str
    owner: Uid
    """The Workflow's uid."""
    workflow: str
    """The Workflow's name."""
    phase: str = ""
    reason: str = ""
    message: str = ""
    node: str = ""
    scheduled: bool = False
    unscheduled_reason: str = ""
    unscheduled_message: str = ""
    running: bool = False
    """The main container runs."""
    exit: Exit | None = None
    """How the main container ended."""
    init_failure: str = ""
    """Which init container failed, and how: the main container then never starts."""
    waiting: tuple[Waiting, ...] = ()
    deleting: bool = False
    deletion_grace: float = 0.0
    """Seconds that its containers were given when its deletion began, whoever began it."""
    disruption: str = ""
    """The DisruptionTarget condition's reason and message: drained, preempted, evicted, its node shut down."""
    memory_limit: str = ""
    version: int = field(default=0, compare=False)
    """The resourceVersion: tells which of two views is the newer one."""

    @property
    def finished(self) -> bool:
        """Whether all of its containers have ended: until then it holds its place, and its GPUs."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def over(self) -> bool:
        """Whether its main container has ended or will never start."""
        return self.exit is not None or self.finished


@dataclass(frozen=True, slots=True)
class EventView:
    """What somebody reported of a pod, with how often and over how long: trouble in passing comes once or twice."""

    reason: str
    message: str = ""
    count: int = 1
    first: datetime | None = None
    last: datetime | None = None
    uid: str = ""
    """The pod's."""

    @property
    def span(self) -> float:
        """Seconds from the first to the last time, by one clock: the reporter's."""
        return (self.last - self.first).total_seconds() if self.first and self.last else 0.0


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A Workflow of one step."""

    uid: Uid
    name: str
    attempt: str = ""
    """Which launch of flargo made it; empty where the annotation holds no launch's id: anybody may write it."""
    parent: str = ""
    """Of flargo: which run of its site's FLARE parent made it."""
    created: datetime | None = None
    phase: str = ""
    message: str = ""
    suspended: bool = False
    shutdown: str = ""
    deleting: bool = False
    has_node: bool = False
    node_phase: str = ""
    node_message: str = ""
    node_exit: int | None = None
    """The step's exit code as Argo recorded it, some seconds after the pod showed it."""
    node: str = ""
    """The machine that its step ran on, as Argo recorded it."""
    lock: str = ""
    """What is waited for: a mutex or a semaphore."""
    version: int = field(default=0, compare=False)

    @property
    def over(self) -> bool:
        """Whether Argo is done with it. Its main container may run on: see argo terminate."""
        return self.phase in {"Succeeded", "Failed", "Error"}


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of one job at one moment."""

    workflow: WorkflowView | None = None
    pods: tuple[PodView, ...] = ()
    vanished: PodView | None = None
    """The job's pod as it was seen last, if it is gone."""
    gap: bool = False
    """The stream has begun anew: what happened just before was not seen."""
    fresh: bool = False
    """Read from the API server for this question, not remembered from a watch."""
    published: bool = False
    """The job's results have reached the parent, so the work itself was done."""
    events: tuple[EventView, ...] = ()
    """Of its pod, where they were asked for."""


_SPEC = ("suspend", "shutdown", "nodeName")


def uid_of(item: Object) -> Uid:
    """The uid: of this object and no other."""
    uid = _text(item, "metadata", "uid")
    return Uid(uid if is_uid(uid) else "")


def _name(item: Object, most: int = MAX_SUBDOMAIN_LENGTH) -> str:
    """The name, which becomes part of request paths and selectors; empty where it is not valid, or too long."""
    name = _text(item, "metadata", "name")
    return name if is_object_name(name) and len(name) <= most else ""


def is_credentials_of(metadata: Object, workflow: str, uid: Uid | None) -> bool:
    """Whether a Secret's metadata shows that flargo made it for a Workflow.

    Args:
        metadata: of the Secret.
        workflow: the Workflow's name.
        uid: the Workflow's; None: not known, and then its name has to do.
    """
    managed = _text(metadata, "labels", Label.MANAGED_BY) == MANAGER
    owners = [owner for owner in _items(metadata, "ownerReferences") if owner.get("kind") == "Workflow"]
    return managed and any(
        owner.get("name") == workflow and (uid is None or owner.get("uid") == uid) for owner in owners
    )


def version_of(item: Object) -> int:
    """The resourceVersion, 0 where it has none.

    Kubernetes calls them opaque up to 1.34 and ordered from 1.35; etcd has always counted them up.
    """
    return whole_number(_text(item, "metadata", "resourceVersion")) or 0


def trimmed(item: Object) -> Object:
    """A Workflow or Pod with the parts of which a view is made, and few others: thousands are listed at once.

    Most of either is its template, and who manages which of its fields.
    """
    meta, spec = (found if isinstance(found, dict) else {} for found in (item.get("metadata"), item.get("spec")))
    containers = [{key: row.get(key) for key in ("name", "resources")} for row in _items(spec, "containers")]
    return {
        "metadata": {key: value for key, value in meta.items() if key != "managedFields"},
        "spec": {**{key: spec[key] for key in _SPEC if key in spec}, "containers": containers},
        "status": item.get("status"),
    }


def workflow_view(item: Object) -> WorkflowView:
    """The view of a Workflow (argoproj.io/v1alpha1)."""
    nodes = _at(item, "status", "nodes")
    steps = [node for node in nodes.values() if _text(node, "type") == "Pod"] if isinstance(nodes, dict) else []
    # With a retryStrategy that an administrator injected there are several; the last one started speaks.
    step: Object = max(steps, key=lambda node: _text(node, "startedAt"), default={})
    attempt = _text(item, "metadata", "annotations", Annotation.ATTEMPT)
    return WorkflowView(
        uid=uid_of(item),
        name=_name(item, MAX_WORKFLOW_NAME_LENGTH),
        attempt=attempt if is_attempt(attempt) else "",
        parent=_text(item, "metadata", "labels", Label.PARENT),
        created=_time(item, "metadata", "creationTimestamp"),
        phase=_text(item, "status", "phase"),
        message=_text(item, "status", "message"),
        suspended=_at(item, "spec", "suspend") is True,
        shutdown=_text(item, "spec", "shutdown"),
        deleting=bool(_text(item, "metadata", "deletionTimestamp")),
        has_node=bool(step),
        node_phase=_text(step, "phase"),
        node_message=_text(step, "message"),
        node_exit=whole_number(_text(step, "outputs", "exitCode"), MAX_EXIT_CODE),
        node=_text(step, "hostNodeName"),
        lock=_lock(item, step),
        version=version_of(item),
    )


def _lock(item: Object, step: Object) -> str:
    held_up = _text(step, "synchronizationStatus", "waiting")
    if held_up:
        return held_up
    waits = any(list(_items(item, "status", "synchronization", kind, "waiting")) for kind in ("mutex", "semaphore"))
    return _text(item, "status", "message") if waits else ""


def pod_view(item: Object) -> PodView:
    """The view of a Pod made by Argo."""
    owners = [owner for owner in _items(item, "metadata", "ownerReferences") if owner.get("kind") == "Workflow"]
    scheduling = _condition(item, "PodScheduled")
    disruption = _condition(item, "DisruptionTarget")
    main = next((row for row in _items(item, "status", "containerStatuses") if row.get("name") == MAIN), {})
    return PodView(
        uid=uid_of(item),
        name=_name(item),
        owner=Uid(_text(owners[0], "uid") if owners else ""),
        workflow=_text(item, "metadata", "labels", WORKFLOW_LABEL),
        phase=_text(item, "status", "phase"),
        reason=_text(item, "status", "reason"),
        message=_text(item, "status", "message"),
        node=_text(item, "spec", "nodeName"),
        scheduled=bool(_text(item, "spec", "nodeName")) or scheduling.get("status") == "True",
        unscheduled_reason=_text(scheduling, "reason") if scheduling.get("status") == "False" else "",
        unscheduled_message=_text(scheduling, "message") if scheduling.get("status") == "False" else "",
        running=isinstance(_at(main, "state", "running"), dict),
        exit=_exit(main),
        init_failure=_init_failure(item),
        waiting=tuple(_waiting(item)),
        deleting=bool(_text(item, "metadata", "deletionTimestamp")),
        deletion_grace=float(_number(item, "metadata", "deletionGracePeriodSeconds") or 0),
        disruption=" ".join(filter(None, (_text(disruption, "reason"), _text(disruption, "message"))))
        if disruption.get("status") == "True"
        else "",
        memory_limit=_memory_limit(item),
        version=version_of(item),
    )


def event_view(item: Object) -> EventView:
    """The view of an Event (v1), old style or new: the one counts by itself, the other in a series."""
    series = _number(item, "series", "count")
    count = series if series is not None else _number(item, "count")
    first = _time(item, "firstTimestamp") or _time(item, "eventTime") or _time(item, "metadata", "creationTimestamp")
    return EventView(
        reason=_text(item, "reason"),
        message=_text(item, "message"),
        uid=_text(item, "involvedObject", "uid"),
        count=count if count is not None else 1,
        first=first,
        last=_time(item, "series", "lastObservedTime") or _time(item, "lastTimestamp") or first,
    )


def _exit(status: Object) -> Exit | None:
    ended = _at(status, "state", "terminated")
    code = _number(ended, "exitCode", most=MAX_EXIT_CODE)
    if code is None:
        return None
    return Exit(code, _text(ended, "reason"), _text(ended, "message"))


def _init_failure(item: Object) -> str:
    ends = ((_text(row, "name"), _exit(row)) for row in _items(item, "status", "initContainerStatuses"))
    failed = ((name, ended) for name, ended in ends if ended is not None and ended.code != 0)
    words = (f"init container {name}: exit code {ended.code} {ended.message}".strip() for name, ended in failed)
    return next(words, "")


def _waiting(item: Object) -> Iterator[Waiting]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for row in _items(item, "status", kind):
            reason = _text(row, "state", "waiting", "reason")
            if reason:
                yield Waiting(_text(row, "name"), reason, _text(row, "state", "waiting", "message"))


def _memory_limit(item: Object) -> str:
    main = next((row for row in _items(item, "spec", "containers") if row.get("name") == MAIN), {})
    return _text(main, "resources", "limits", "memory")
