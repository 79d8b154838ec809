"""The scheduler and the kubelet of the one node, as far as they show in a pod: what is there, and now, to what next.

Pure: processes are told of, and asked for.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flargo.embedded import messages
from flargo.embedded.model import GRACE, OVER, Lags, Node, Object, Seen, iso, quantity, seconds
from flargo.embedded.pod_manifest import INIT, MAIN, WAIT

_VALID_IMAGE = re.compile(r"[a-z0-9._-]+(:[0-9]+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]+)?")
FindSecret = Callable[[str], Object | None]


@dataclass(frozen=True, slots=True)
class Process:
    """How main's process is."""

    running: bool
    code: int = 0
    reason: str = ""
    """OOMKilled, where that is why it ended."""
    message: str = ""
    """Why there is no such program."""
    evicted: str = ""
    """Why the whole pod has to go: what it used of the disk."""


@dataclass(frozen=True, slots=True)
class Look:
    """A pod, and what the kubelet needs to know beside it."""

    pod: Seen
    process: Process | None = None
    unschedulable: str = ""
    rejected: tuple[str, str] | None = None
    """Why the node does not take a pod that names it: reason and message."""
    unmounted: tuple[str, ...] = ()
    uncreated: tuple[str, str] | None = None
    """Why main can't be created: reason and message."""
    powerless: str = ""
    """What Argo's ``wait`` says when it ends, if it has no right to report."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done about a pod."""

    node: str = ""
    """Bind it there."""
    status: Object | None = None
    """What of its status changes; a merge patch."""
    start: bool = False
    """Start main's process."""
    end: int | None = None
    """End main's process, SIGKILL following SIGTERM after so many seconds."""
    remove: bool = False
    events: tuple[tuple[str, str, str], ...] = ()
    """Type, reason, message."""
    wake: float | None = None


def step(look: Look, node: Node, now: float, lags: Lags) -> Step:
    """The next step of a pod's life."""
    item = look.pod.item
    status = item.get("status") or {}
    if item["metadata"].get("deletionTimestamp"):
        return _end(look, now, lags)
    if status.get("phase") in OVER:
        return _known_of_evicted(item, now)
    if not item["spec"].get("nodeName"):
        return _schedule(look, node, now, lags)
    if look.process is not None and look.process.evicted and not look.process.running:
        return Step(status=_evicted(item, look.process.evicted, now), events=_warning("Evicted", look.process.evicted))
    if not status.get("startTime"):
        return _arrive(look, now, lags)
    due = _deadline(item)
    if due is not None and now >= due:
        return _overdue(look, now)
    made = _live(look, now, lags)
    return made if due is None else replace(made, wake=min(due, due if made.wake is None else made.wake))


def _live(look: Look, now: float, lags: Lags) -> Step:
    """Of a pod that has its node: its containers, one after the other."""
    item = look.pod.item
    main, init = state(item, MAIN), state(item, INIT)
    if "running" in main:
        return _running(look, now)
    due = look.pod.changed + (lags.wait if "terminated" in main else lags.init)
    if now < due:
        return Step(wake=due)
    if not main:
        return Step(status=_rows(item, _waits(INIT), _waits(MAIN), _waits(WAIT)))
    if "waiting" in init:
        return _mount(look, now, lags)
    if "terminated" in main:
        return _finish(look, now)
    return _create(look, now, lags)


def state(pod: Object, container: str) -> Object:
    """The state of one of a pod's containers; empty before it is known."""
    status = pod.get("status") or {}
    rows = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return next((row.get("state") or {} for row in rows if row["name"] == container), {})


def main_of(pod: Object) -> Object:
    """The container that runs the program."""
    return next(row for row in pod["spec"]["containers"] if row["name"] == MAIN)


# --- what is in a pod's way


def unschedulable(pod: Object, node: Node, others: Sequence[Object], claims: Collection[str]) -> str:
    """Why the node can't take a pod beside those that it has; nothing if it can."""
    for volume in pod["spec"].get("volumes") or []:
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim and claim not in claims:
            return messages.NODES.format(messages.NO_CLAIM.format(claim))
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(node.labels.get(key) != value for key, value in wanted.items()):
        return messages.NODES.format(messages.NO_HELP.format(f"{messages.SELECTOR}."))
    used = [requests(other) for other in others]
    short = [
        messages.INSUFFICIENT.format(name)
        for name, amount in sorted(requests(pod).items())
        if name != "ephemeral-storage"
        and amount + sum(row.get(name, 0) for row in used) > quantity(node.allocatable.get(name, "0"))
    ]
    return messages.NODES.format(messages.NO_HELP.format(f"{', '.join(short)}.")) if short else ""


def rejected(pod: Object, node: Node, others: Sequence[Object]) -> tuple[str, str] | None:
    """Why the node does not take a pod that names it, past the scheduler: reason and message.

    The kubelet's words (lifecycle/predicate.go, InsufficientResourceError); CPU is counted in thousandths.
    """
    for name, amount in sorted(requests(pod).items()):
        used, most = sum(requests(other).get(name, 0) for other in others), quantity(node.allocatable.get(name, "0"))
        if name != "ephemeral-storage" and amount + used > most:
            unit = 1000 if name == "cpu" else 1
            return f"OutOf{name}", messages.OUT_OF.format(name, amount * unit, used * unit, most * unit)
    return None


def requests(pod: Object) -> dict[str, float]:
    """What a pod asks of its node, all containers together."""
    total: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in {**(resources.get("limits") or {}), **(resources.get("requests") or {})}.items():
            total[name] = total.get(name, 0) + quantity(amount)
    return {name: amount for name, amount in total.items() if amount}


def unmounted(pod: Object, secret: FindSecret) -> Iterator[str]:
    """Why volumes can't be mounted."""
    for volume in pod["spec"].get("volumes") or []:
        source = volume.get("secret")
        if source and not source.get("optional") and secret(source["secretName"]) is None:
            yield messages.NO_MOUNT.format(volume["name"], source["secretName"])


def uncreated(pod: Object, secret: FindSecret, missing_images: Collection[str]) -> tuple[str, str] | None:
    """Why main can't be created: the kubelet's reason and message."""
    container = main_of(pod)
    image = container.get("image", "")
    if not _VALID_IMAGE.fullmatch(image):
        return "InvalidImageName", messages.BAD_IMAGE.format(image)
    if image in missing_images:
        return "ErrImagePull", messages.NO_IMAGE.format(image)
    for variable in container.get("env") or []:
        wanted = (variable.get("valueFrom") or {}).get("secretKeyRef")
        if not wanted or wanted.get("optional"):
            continue
        found = secret(wanted["name"])
        if found is None:
            return "CreateContainerConfigError", messages.NO_SECRET.format(wanted["name"])
        if wanted["key"] not in (found.get("data") or {}):
            namespace = pod["metadata"]["namespace"]
            return "CreateContainerConfigError", messages.NO_KEY.format(wanted["key"], namespace, wanted["name"])
    return None


def denied(pod: Object, accounts: Collection[str], forbidden: str) -> str:
    """Why the API server refuses a pod; nothing if it does not.

    Args:
        pod: what Argo would create.
        accounts: the names of the namespace's service accounts.
        forbidden: what policies and quotas have against it.
    """
    spec = pod["spec"]
    account = spec.get("serviceAccountName", "default")
    if account not in accounts:
        return messages.NO_ACCOUNT.format(namespace=pod["metadata"]["namespace"], name=account)
    if spec.get("hostNetwork"):
        return messages.POD_SECURITY.format("hostNetwork")
    if problem := _problem(pod):
        return f"flargo.embedded runs the container main: {problem}"
    return forbidden


def _problem(pod: Object) -> str:
    """What of a pod can't be done here: better refused than left out in silence."""
    spec = pod["spec"]
    if MAIN not in {row["name"] for row in spec["containers"]}:
        return "the pod has none of that name"
    container = main_of(pod)
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
    unserved = [
        *(name for name in names if name not in {MAIN, WAIT, INIT}),
        *(name for name, row in volumes.items() if not {"emptyDir", "secret", "persistentVolumeClaim"} & set(row)),
        *(field for field in ("affinity", "resourceClaims") if spec.get(field)),
        *(field for field in ("envFrom", "livenessProbe", "lifecycle", "volumeDevices") if container.get(field)),
        *(field for field in ("subPathExpr",) for row in container.get("volumeMounts") or [] if row.get(field)),
        *(f"a mount of {name}" for name in mounts.values() if name not in volumes),
        # A claim is a directory of this machine's, into which nothing is put.
        *(f"{path} within a claim" for path in mounts if any(path.startswith(f"{claim}/") for claim in claims)),
    ]
    return f"not {', '.join(unserved)}" if unserved else ""


# --- from step to step


def _schedule(look: Look, node: Node, now: float, lags: Lags) -> Step:
    due = look.pod.changed + lags.schedule
    if now < due:
        return Step(wake=due)
    said: Object = next((row for row in _conditions(look.pod.item) if row["type"] == "PodScheduled"), {})
    if not look.unschedulable:
        meta = look.pod.item["metadata"]
        words_of = f"Successfully assigned {meta['namespace']}/{meta['name']} to {node.name}"
        return Step(node=node.name, status=_taken(look.pod.item, now), events=(("Normal", "Scheduled", words_of),))
    if said.get("message") == look.unschedulable:
        return Step(wake=now + lags.retry)
    row = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": look.unschedulable}
    events = _warning("FailedScheduling", look.unschedulable)
    return Step(status={"conditions": _condition(look.pod.item, row, now)}, events=events, wake=now + lags.retry)


def _arrive(look: Look, now: float, lags: Lags) -> Step:
    """Of a pod that has named its node itself, past the scheduler."""
    due = look.pod.changed + lags.schedule
    if now < due:
        return Step(wake=due)
    if look.rejected is not None:
        reason, message = look.rejected
        status = {"phase": "Failed", "reason": reason, "message": message, "startTime": iso(now)}
        return Step(status=status, events=_warning(reason, message))
    return Step(status=_taken(look.pod.item, now))


def _taken(item: Object, now: float) -> Object:
    """What is known of a pod as soon as it has its node."""
    bound = {"conditions": _condition(item, {"type": "PodScheduled", "status": "True"}, now)}
    return {**bound, "hostIP": "127.0.0.1", "podIP": "127.0.0.1", "startTime": iso(now), "qosClass": "Burstable"}


def _deadline(item: Object) -> float | None:
    """When a pod has been on its node for as long as it may (Unix seconds)."""
    most = item["spec"].get("activeDeadlineSeconds")
    return None if most is None else seconds(item["status"]["startTime"]) + float(most)


def _overdue(look: Look, now: float) -> Step:
    """Its containers are ended with the pod's grace; it is Failed when none runs any more."""
    item = look.pod.item
    if look.process is not None and look.process.running:
        return Step(end=int(item["spec"].get("terminationGracePeriodSeconds", GRACE)))
    return Step(
        status={**_last(look, now), "phase": "Failed", "reason": "DeadlineExceeded", "message": messages.DEADLINE}
    )


def _mount(look: Look, now: float, lags: Lags) -> Step:
    if look.unmounted:
        events = tuple(event for message in look.unmounted for event in _warning("FailedMount", message))
        return Step(events=events, wake=now + lags.retry)
    return Step(status=_rows(look.pod.item, _ends(INIT, 0, "Completed", "", now)))


def _create(look: Look, now: float, lags: Lags) -> Step:
    item = look.pod.item
    if look.process is not None and look.process.message:
        return Step(status={"phase": "Running", **_rows(item, _ended(look.process, now), (WAIT, _began(now)))})
    if look.process is not None:
        return Step(status={"phase": "Running", **_rows(item, (MAIN, _began(now)), (WAIT, _began(now)))})
    if look.uncreated is None:
        return Step(start=True)
    reason, message = look.uncreated
    waiting = {"waiting": {"reason": reason, "message": message}}
    if state(item, MAIN) == waiting:
        return Step(wake=now + lags.retry)
    return Step(
        status=_rows(item, (MAIN, waiting), (WAIT, _began(now))),
        events=_warning("Failed", message),
        wake=now + lags.retry,
    )


def _running(look: Look, now: float) -> Step:
    process = look.process
    if process is None or process.running:
        return Step()
    return Step(status=_rows(look.pod.item, _ended(process, now)))


def _finish(look: Look, now: float) -> Step:
    item = look.pod.item
    code = state(item, MAIN)["terminated"]["exitCode"]
    wait = _ends(WAIT, 64, "Error", look.powerless, now) if look.powerless else _ends(WAIT, 0, "Completed", "", now)
    phase = "Failed" if code or look.powerless else "Succeeded"
    return Step(status={"phase": phase, **_rows(item, wait)})


def _end(look: Look, now: float, lags: Lags) -> Step:
    """Of a pod that is being deleted: its process first, then its status, then its object."""
    item = look.pod.item
    if look.process is not None and look.process.running:
        return Step(end=int(item["metadata"]["deletionGracePeriodSeconds"]))
    if (item.get("status") or {}).get("phase") not in OVER:
        if (state(item, MAIN).get("waiting") or {}).get("message"):
            # As seen: what main waited for is forgotten before it ends.
            return Step(status=_rows(item, _waits(MAIN)))
        return Step(status=_last(look, now))
    due = look.pod.changed + lags.remove
    return Step(remove=True) if now >= due else Step(wake=due)


def _last(look: Look, now: float) -> Object:
    """The status of a pod whose containers are all gone, be it that they never ran."""
    item = look.pod.item
    lost = _ends("", 137, "ContainerStatusUnknown", messages.NOT_LOCATED, now)[1]
    ended = _ended(look.process, now)[1] if look.process is not None else lost
    if "waiting" in state(item, INIT) or not state(item, INIT):
        return {"phase": "Failed", **_rows(item, (INIT, lost), _waits(MAIN), _waits(WAIT))}
    ended = state(item, MAIN) if "terminated" in state(item, MAIN) else ended
    phase = "Failed" if ended["terminated"]["exitCode"] else "Succeeded"
    return {"phase": phase, **_rows(item, (MAIN, ended), _ends(WAIT, 0, "Completed", "", now))}


def _evicted(item: Object, why: str, now: float) -> Object:
    rows = _rows(item, _waits(MAIN), _ends(WAIT, 137, "Error", "", now))
    return {"phase": "Failed", "reason": "Evicted", "message": why, **rows}


def _known_of_evicted(item: Object, now: float) -> Step:
    """As seen: of a pod that its node evicted, how main ended is told only after the pod's end."""
    if item["status"].get("reason") != "Evicted" or "waiting" not in state(item, MAIN):
        return Step()
    return Step(status=_rows(item, _ends(MAIN, 137, "ContainerStatusUnknown", messages.NOT_LOCATED, now)))


# --- how it is written


def _waits(name: str) -> tuple[str, Object]:
    return name, {"waiting": {"reason": "PodInitializing"}}


def _began(now: float) -> Object:
    return {"running": {"startedAt": iso(now)}}


def _ends(name: str, code: int, reason: str, message: str, now: float) -> tuple[str, Object]:
    said = {"message": message} if message else {}
    return name, {"terminated": {"exitCode": code, "reason": reason, **said, "finishedAt": iso(now)}}


def _ended(process: Process, now: float) -> tuple[str, Object]:
    reason = process.reason or ("Error" if process.code else "Completed")
    return _ends(MAIN, process.code, reason, process.message, now)


def _rows(item: Object, *states: tuple[str, Object]) -> Object:
    """The status of containers, some of them new."""
    new = dict(states)

    def row(container: Object) -> Object:
        name = container["name"]
        now_so = new.get(name) or state(item, name)
        return {
            "name": name,
            "image": container.get("image", ""),
            "imageID": "",
            "restartCount": 0,
            "ready": "running" in now_so,
            "started": "running" in now_so,
            "state": now_so,
        }

    spec = item["spec"]
    return {
        "initContainerStatuses": [row(container) for container in spec["initContainers"]],
        "containerStatuses": sorted((row(container) for container in spec["containers"]), key=lambda it: it["name"]),
    }


def _conditions(item: Object) -> list[Any]:
    return list((item.get("status") or {}).get("conditions") or [])


def _condition(item: Object, row: Object, now: float) -> list[Any]:
    others = [old for old in _conditions(item) if old["type"] != row["type"]]
    return [*others, {**row, "lastTransitionTime": iso(now)}]


def disrupted(item: Object, now: float) -> Object:
    """The status of a pod that the eviction API has chosen."""
    row = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": messages.EVICTING,
    }
    return {"conditions": _condition(item, row, now)}


def _warning(reason: str, message: str) -> tuple[tuple[str, str, str], ...]:
    return (("Warning", reason, message),)
