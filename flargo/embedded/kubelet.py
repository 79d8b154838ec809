"""The scheduler and the kubelet of the only node, as far as their behaviour shows in pods.

``sync_pod`` is a pure function: it takes one pod, the state of its process and the time, and returns what to do.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flargo.embedded import messages
from flargo.embedded.model import (
    DEFAULT_GRACE_SECONDS,
    TERMINAL_PHASES,
    Delays,
    Node,
    Object,
    StoredObject,
    iso,
    quantity,
    seconds,
)
from flargo.embedded.pod_manifest import INIT, MAIN, WAIT

_VALID_IMAGE = re.compile(r"[a-z0-9._-]+(:[0-9]+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]+)?")
FindSecret = Callable[[str], Object | None]
"""Returns a Secret of the pod's namespace by its name; None if there is none."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """The state of main's process."""

    running: bool
    exit_code: int = 0
    reason: str = ""
    """OOMKilled, if the process was killed for its memory."""
    message: str = ""
    """Why the process could not be started; else empty."""
    eviction: str = ""
    """Why the pod is evicted: a disk limit that it exceeded."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod, and everything that the scheduler and the kubelet take into account."""

    pod: StoredObject
    process: ProcessState | None = None
    """None: main's process was never started."""
    scheduling_failure: str = ""
    """Why the scheduler cannot bind the pod; empty if it can."""
    rejection: tuple[str, str] | None = None
    """Reason and message, if the kubelet rejects a pod that names its node itself."""
    mount_failures: tuple[str, ...] = ()
    create_failure: tuple[str, str] | None = None
    """Reason and message, if main cannot be created."""
    executor_error: str = ""
    """The last message of Argo's ``wait`` container, if its account must not report to Argo; else empty."""


@dataclass(frozen=True, slots=True)
class PodActions:
    """The actions of the scheduler and the kubelet on one pod; the default is none."""

    node: str = ""
    """Bind the pod to this node."""
    status: Object | None = None
    """Apply this merge patch to the pod's status."""
    start_process: bool = False
    """Create the pod's files and start main's process."""
    kill_grace: int | None = None
    """Send SIGTERM to main's process, and SIGKILL after this many seconds."""
    remove: bool = False
    """Remove the pod's object."""
    events: tuple[tuple[str, str, str], ...] = ()
    """Type, reason and message of each Event to record."""
    requeue_at: float | None = None
    """When to sync again although nothing changed (Unix seconds)."""


def sync_pod(view: PodView, node: Node, now: float, delays: Delays) -> PodActions:
    """Return what the scheduler or the kubelet does next about a pod."""
    item = view.pod.item
    status = item.get("status") or {}
    if item["metadata"].get("deletionTimestamp"):
        return _sync_terminating_pod(view, now, delays)
    if status.get("phase") in TERMINAL_PHASES:
        return _complete_evicted_status(item, now)
    if not item["spec"].get("nodeName"):
        return _schedule(view, node, now, delays)
    if view.process is not None and view.process.eviction and not view.process.running:
        message = view.process.eviction
        return PodActions(status=_evicted_status(item, message, now), events=_warning_event("Evicted", message))
    if not status.get("startTime"):
        return _admit_bound_pod(view, now, delays)
    deadline = _deadline(item)
    if deadline is not None and now >= deadline:
        return _fail_past_deadline(view, now)
    actions = _sync_containers(view, now, delays)
    if deadline is None:
        return actions
    return replace(actions, requeue_at=deadline if actions.requeue_at is None else min(deadline, actions.requeue_at))


def _sync_containers(view: PodView, now: float, delays: Delays) -> PodActions:
    """Take the containers of a pod on its node one step further: init, then main, then wait."""
    item = view.pod.item
    main, init = container_state(item, MAIN), container_state(item, INIT)
    if "running" in main:
        return _sync_running_main(view, now)
    due = view.pod.changed_at + (delays.wait if "terminated" in main else delays.init)
    if now < due:
        return PodActions(requeue_at=due)
    if not main:
        return PodActions(status=_container_statuses(item, *map(_initializing, (INIT, MAIN, WAIT))))
    if "waiting" in init:
        return _mount_volumes(view, now, delays)
    if "terminated" in main:
        return _finish_pod(view, now)
    return _create_main(view, now, delays)


def container_state(pod: Object, container: str) -> Object:
    """Return the state of one of a pod's containers; empty before the kubelet reports one."""
    status = pod.get("status") or {}
    rows = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return next((row.get("state") or {} for row in rows if row["name"] == container), {})


def main_container(pod: Object) -> Object:
    """Return the container that runs the program."""
    return next(row for row in pod["spec"]["containers"] if row["name"] == MAIN)


# --- obstacles to a pod


def scheduling_failure(pod: Object, node: Node, others: Sequence[Object], claims: Collection[str]) -> str:
    """Return why the scheduler cannot bind a pod to the node; empty if it can.

    Args:
        pod: the pod to bind.
        node: the only node.
        others: the pods that the node runs already.
        claims: the names of the existing persistent volume claims.
    """
    for volume in pod["spec"].get("volumes") or []:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim and claim not in claims:
            return messages.NODES_AVAILABLE.format(messages.CLAIM_NOT_FOUND.format(claim))
    if not _has_selected_labels(node, pod):
        reason = messages.PREEMPTION_NOT_HELPFUL.format(f"{messages.SELECTOR_MISMATCH}.")
        return messages.NODES_AVAILABLE.format(reason)
    usage = [requests(other) for other in others]
    shortages = [
        messages.INSUFFICIENT.format(name)
        for name, amount in sorted(requests(pod).items())
        if name != "ephemeral-storage"
        and amount + sum(row.get(name, 0) for row in usage) > quantity(node.allocatable.get(name, "0"))
    ]
    if not shortages:
        return ""
    return messages.NODES_AVAILABLE.format(messages.PREEMPTION_NOT_HELPFUL.format(f"{', '.join(shortages)}."))


def rejection(pod: Object, node: Node, others: Sequence[Object]) -> tuple[str, str] | None:
    """Return reason and message if the kubelet rejects a pod that names its node itself; None if it admits it.

    Source: the kubelet's lifecycle/predicate.go, InsufficientResourceError and PredicateFailureError. CPU is counted in
    thousandths.
    """
    if not _has_selected_labels(node, pod):
        return "NodeAffinity", messages.AFFINITY_FAILED
    for name, amount in sorted(requests(pod).items()):
        usage = sum(requests(other).get(name, 0) for other in others)
        capacity = quantity(node.allocatable.get(name, "0"))
        if name != "ephemeral-storage" and amount + usage > capacity:
            unit = 1000 if name == "cpu" else 1
            message = messages.OUT_OF_RESOURCE.format(name, amount * unit, usage * unit, capacity * unit)
            return f"OutOf{name}", message
    return None


def _has_selected_labels(node: Node, pod: Object) -> bool:
    selector = pod["spec"].get("nodeSelector") or {}
    return all(node.labels.get(key) == value for key, value in selector.items())


def requests(pod: Object) -> dict[str, float]:
    """Return a pod's resource requests, summed over its containers; a limit without a request counts as one."""
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            total[name] = total.get(name, 0) + quantity(amount)
    return {name: amount for name, amount in total.items() if amount}


def mount_failures(pod: Object, find_secret: FindSecret) -> Iterator[str]:
    """Return a message for each volume that cannot be mounted."""
    for volume in pod["spec"].get("volumes") or []:
        source = volume.get("secret")
        if source and not source.get("optional") and find_secret(source["secretName"]) is None:
            yield messages.MOUNT_FAILED.format(volume["name"], source["secretName"])


def create_failure(pod: Object, find_secret: FindSecret, missing_images: Collection[str]) -> tuple[str, str] | None:
    """Return the kubelet's reason and message, if main cannot be created; None if it can."""
    container = main_container(pod)
    image = container.get("image", "")
    if not _VALID_IMAGE.fullmatch(image):
        return "InvalidImageName", messages.INVALID_IMAGE_NAME.format(image)
    if image in missing_images:
        return "ErrImagePull", messages.IMAGE_NOT_FOUND.format(image)
    for variable in container.get("env") or []:
        key_ref = (variable.get("valueFrom") or {}).get("secretKeyRef")
        if not key_ref or key_ref.get("optional"):
            continue
        secret = find_secret(key_ref["name"])
        if secret is None:
            return "CreateContainerConfigError", messages.SECRET_NOT_FOUND.format(key_ref["name"])
        if key_ref["key"] not in (secret.get("data") or {}):
            namespace = pod["metadata"]["namespace"]
            message = messages.SECRET_KEY_NOT_FOUND.format(key_ref["key"], namespace, key_ref["name"])
            return "CreateContainerConfigError", message
    return None


def admission_denial(pod: Object, accounts: Collection[str], denial: str) -> str:
    """Return why the API server refuses a pod; empty if it does not.

    Args:
        pod: the pod that Argo would create.
        accounts: the names of the namespace's service accounts.
        denial: why an admission policy or a quota refuses the pod; empty if none does.
    """
    spec = pod["spec"]
    account = spec.get("serviceAccountName", "default")
    if account not in accounts:
        return messages.NO_ACCOUNT.format(namespace=pod["metadata"]["namespace"], name=account)
    if spec.get("hostNetwork"):
        return messages.POD_SECURITY_VIOLATION.format("hostNetwork")
    if problem := _unsupported(pod):
        return f"flargo.embedded cannot run this pod: {problem}"
    return denial


def _unsupported(pod: Object) -> str:
    """Return which parts of a pod the engine does not support; it refuses them rather than ignore them."""
    spec = pod["spec"]
    if MAIN not in {row["name"] for row in spec["containers"]}:
        return f"it has no container {MAIN}"
    container = main_container(pod)
    names = [row["name"] for kind in ("containers", "initContainers") for row in spec[kind]]
    volumes = {row["name"]: row for row in spec.get("volumes") or []}
    mounts = {row["mountPath"].rstrip("/"): row["name"] for row in container.get("volumeMounts") or []}
    claims = [path for path, name in mounts.items() if "persistentVolumeClaim" in volumes.get(name, {})]
    try:
        requests(pod)
        for row in volumes.values():
            quantity((row.get("emptyDir") or {}).get("sizeLimit", "0"))
    except ValueError as error:
        return str(error)
    unsupported = [
        *(name for name in names if name not in {MAIN, WAIT, INIT}),
        *(name for name, row in volumes.items() if not {"emptyDir", "secret", "persistentVolumeClaim"} & set(row)),
        *(field for field in ("affinity", "resourceClaims") if spec.get(field)),
        *(field for field in ("envFrom", "livenessProbe", "lifecycle", "volumeDevices") if container.get(field)),
        *(field for field in ("subPathExpr",) for row in container.get("volumeMounts") or [] if row.get(field)),
        *(f"a mount of {name}" for name in mounts.values() if name not in volumes),
        # A claim is a directory of this machine, and the engine writes nothing into it.
        *(f"{path} within a claim" for path in mounts if any(path.startswith(f"{claim}/") for claim in claims)),
    ]
    return f"unsupported: {', '.join(unsupported)}" if unsupported else ""


# --- steps of a pod's life


def _schedule(view: PodView, node: Node, now: float, delays: Delays) -> PodActions:
    due = view.pod.changed_at + delays.schedule
    if now < due:
        return PodActions(requeue_at=due)
    failure = view.scheduling_failure
    if not failure:
        meta = view.pod.item["metadata"]
        message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node.name}"
        status = _bound_status(view.pod.item, now)
        return PodActions(node=node.name, status=status, events=(("Normal", "Scheduled", message),))
    condition: Object = next((row for row in _conditions(view.pod.item) if row["type"] == "PodScheduled"), {})
    if condition.get("message") == failure:
        return PodActions(requeue_at=now + delays.retry)
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": failure}
    return PodActions(
        status={"conditions": _with_condition(view.pod.item, condition, now)},
        events=_warning_event("FailedScheduling", failure),
        requeue_at=now + delays.retry,
    )


def _admit_bound_pod(view: PodView, now: float, delays: Delays) -> PodActions:
    """Admit or reject a pod that names its node itself, and so was never scheduled."""
    due = view.pod.changed_at + delays.schedule
    if now < due:
        return PodActions(requeue_at=due)
    if view.rejection is not None:
        reason, message = view.rejection
        status = {"phase": "Failed", "reason": reason, "message": message, "startTime": iso(now)}
        return PodActions(status=status, events=_warning_event(reason, message))
    return PodActions(status=_bound_status(view.pod.item, now))


def _bound_status(item: Object, now: float) -> Object:
    """Return the status that a pod has as soon as it is bound to its node."""
    conditions = _with_condition(item, {"type": "PodScheduled", "status": "True"}, now)
    addresses = {"hostIP": "127.0.0.1", "podIP": "127.0.0.1"}
    return {"conditions": conditions, **addresses, "startTime": iso(now), "qosClass": "Burstable"}


def _deadline(item: Object) -> float | None:
    """Return when a pod's activeDeadlineSeconds are over (Unix seconds); None if it has no deadline."""
    limit = item["spec"].get("activeDeadlineSeconds")
    return None if limit is None else seconds(item["status"]["startTime"]) + float(limit)


def _fail_past_deadline(view: PodView, now: float) -> PodActions:
    """End the pod's process with the pod's grace period; the pod fails when no process runs any more."""
    item = view.pod.item
    if view.process is not None and view.process.running:
        return PodActions(kill_grace=int(item["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)))
    cause = {"phase": "Failed", "reason": "DeadlineExceeded", "message": messages.DEADLINE_EXCEEDED}
    return PodActions(status={**_terminal_status(view, now), **cause})


def _mount_volumes(view: PodView, now: float, delays: Delays) -> PodActions:
    if view.mount_failures:
        events = tuple(event for message in view.mount_failures for event in _warning_event("FailedMount", message))
        return PodActions(events=events, requeue_at=now + delays.retry)
    return PodActions(status=_container_statuses(view.pod.item, _terminated(INIT, 0, "Completed", "", now)))


def _create_main(view: PodView, now: float, delays: Delays) -> PodActions:
    item = view.pod.item
    wait = (WAIT, _running_state(now))
    if view.process is not None:
        main = _main_terminated(view.process, now) if view.process.message else (MAIN, _running_state(now))
        return PodActions(status={"phase": "Running", **_container_statuses(item, main, wait)})
    if view.create_failure is None:
        return PodActions(start_process=True)
    reason, message = view.create_failure
    waiting_state = {"waiting": {"reason": reason, "message": message}}
    if container_state(item, MAIN) == waiting_state:
        return PodActions(requeue_at=now + delays.retry)
    return PodActions(
        status=_container_statuses(item, (MAIN, waiting_state), wait),
        events=_warning_event("Failed", message),
        requeue_at=now + delays.retry,
    )


def _sync_running_main(view: PodView, now: float) -> PodActions:
    process = view.process
    if process is None or process.running:
        return PodActions()
    return PodActions(status=_container_statuses(view.pod.item, _main_terminated(process, now)))


def _finish_pod(view: PodView, now: float) -> PodActions:
    item = view.pod.item
    exit_code = container_state(item, MAIN)["terminated"]["exitCode"]
    wait = _terminated(WAIT, 0, "Completed", "", now)
    if view.executor_error:
        wait = _terminated(WAIT, 64, "Error", view.executor_error, now)
    phase = "Failed" if exit_code or view.executor_error else "Succeeded"
    return PodActions(status={"phase": phase, **_container_statuses(item, wait)})


def _sync_terminating_pod(view: PodView, now: float, delays: Delays) -> PodActions:
    """End a deleted pod: first its process, then its status, then its object."""
    item = view.pod.item
    if view.process is not None and view.process.running:
        return PodActions(kill_grace=int(item["metadata"]["deletionGracePeriodSeconds"]))
    if (item.get("status") or {}).get("phase") not in TERMINAL_PHASES:
        if (container_state(item, MAIN).get("waiting") or {}).get("message"):
            # Observed: the kubelet drops the reason for which main waited before it ends the pod.
            return PodActions(status=_container_statuses(item, _initializing(MAIN)))
        return PodActions(status=_terminal_status(view, now))
    due = view.pod.changed_at + delays.remove
    return PodActions(remove=True) if now >= due else PodActions(requeue_at=due)


def _terminal_status(view: PodView, now: float) -> Object:
    """Return the status of a pod none of whose containers runs any more, or ever ran."""
    item = view.pod.item
    unlocated = _not_located(INIT, now)
    if "waiting" in container_state(item, INIT) or not container_state(item, INIT):
        return {"phase": "Failed", **_container_statuses(item, unlocated, _initializing(MAIN), _initializing(WAIT))}
    main = container_state(item, MAIN)
    if "terminated" not in main:
        _, main = _main_terminated(view.process, now) if view.process is not None else unlocated
    phase = "Failed" if main["terminated"]["exitCode"] else "Succeeded"
    wait = _terminated(WAIT, 0, "Completed", "", now)
    return {"phase": phase, **_container_statuses(item, (MAIN, main), wait)}


def _evicted_status(item: Object, message: str, now: float) -> Object:
    statuses = _container_statuses(item, _initializing(MAIN), _terminated(WAIT, 137, "Error", "", now))
    return {"phase": "Failed", "reason": "Evicted", "message": message, **statuses}


def _complete_evicted_status(item: Object, now: float) -> PodActions:
    """Report how main ended in a pod that its node evicted.

    Observed: the kubelet does so in an update of its own, after the one that ends the pod.
    """
    if item["status"].get("reason") != "Evicted" or "waiting" not in container_state(item, MAIN):
        return PodActions()
    return PodActions(status=_container_statuses(item, _not_located(MAIN, now)))


# --- parts of a pod's status


def _initializing(name: str) -> tuple[str, Object]:
    return name, {"waiting": {"reason": "PodInitializing"}}


def _running_state(now: float) -> Object:
    return {"running": {"startedAt": iso(now)}}


def _terminated(name: str, exit_code: int, reason: str, message: str, now: float) -> tuple[str, Object]:
    optional = {"message": message} if message else {}
    return name, {"terminated": {"exitCode": exit_code, "reason": reason, **optional, "finishedAt": iso(now)}}


def _not_located(name: str, now: float) -> tuple[str, Object]:
    return _terminated(name, 137, "ContainerStatusUnknown", messages.CONTAINER_NOT_LOCATED, now)


def _main_terminated(process: ProcessState, now: float) -> tuple[str, Object]:
    reason = process.reason or ("Error" if process.exit_code else "Completed")
    return _terminated(MAIN, process.exit_code, reason, process.message, now)


def _container_statuses(item: Object, *updates: tuple[str, Object]) -> Object:
    """Return the statuses of all containers; ``updates`` are names with their new states."""
    new_states = dict(updates)

    def status(container: Object) -> Object:
        name = container["name"]
        state = new_states.get(name) or container_state(item, name)
        return {
            "name": name,
            "image": container.get("image", ""),
            "imageID": "",
            "restartCount": 0,
            "ready": "running" in state,
            "started": "running" in state,
            "state": state,
        }

    spec = item["spec"]
    return {
        "initContainerStatuses": [status(container) for container in spec["initContainers"]],
        "containerStatuses": sorted((status(container) for container in spec["containers"]), key=lambda it: it["name"]),
    }


def _conditions(item: Object) -> list[Any]:
    return list((item.get("status") or {}).get("conditions") or [])


def _with_condition(item: Object, condition: Object, now: float) -> list[Any]:
    others = [row for row in _conditions(item) if row["type"] != condition["type"]]
    return [*others, {**condition, "lastTransitionTime": iso(now)}]


def disruption_status(item: Object, now: float) -> Object:
    """Return the status of a pod that the eviction API is about to delete."""
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": messages.EVICTING,
    }
    return {"conditions": _with_condition(item, condition, now)}


def _warning_event(reason: str, message: str) -> tuple[tuple[str, str, str], ...]:
    return (("Warning", reason, message),)
