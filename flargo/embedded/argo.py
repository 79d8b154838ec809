"""Argo's Workflow controller as far as anybody can see it from outside: what is there, and now, to what is to be done.

Pure. Sources: Argo 3.7.18 (workflow/controller/operator.go), and what was seen of it on a real cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flargo.embedded import messages, pod_manifest
from flargo.embedded.model import OVER, Lags, Object, Seen, iso, seconds

PHASE_LABEL, COMPLETED_LABEL = "workflows.argoproj.io/phase", "workflows.argoproj.io/completed"
INSTANCE_LABEL = "workflows.argoproj.io/controller-instanceid"


@dataclass(frozen=True, slots=True)
class Changes:
    """What the controller does about one Workflow."""

    create: Object | None = None
    """The pod to be made, before anything is written."""
    status: Object | None = None
    """The Workflow's new status."""
    delete_pods: tuple[str, ...] = ()
    terminate_pods: tuple[str, ...] = ()
    """Whose main containers get SIGTERM; nothing follows it, as seen."""
    delete: bool = False
    """The Workflow has been kept long enough."""
    wake: float | None = None
    """When to look again though nothing changed (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class Look:
    """One Workflow, and what is there of it."""

    workflow: Seen
    pods: Sequence[Seen] = ()
    denied: str = ""
    """Why the API would forbid the pod now, if it would."""
    invalid: str = ""
    """Why the API would take no such pod, if it would not: the whole message."""

    @property
    def refusal(self) -> str:
        """The API's answer to the pod; nothing if it would take it."""
        return self.invalid or (messages.FORBIDDEN.format(self.name, self.denied) if self.denied else "")

    @property
    def status(self) -> Object:
        """The Workflow's."""
        found: Object = self.workflow.item.get("status") or {}
        return found

    @property
    def spec(self) -> Object:
        """The Workflow's."""
        found: Object = self.workflow.item.get("spec") or {}
        return found

    @property
    def name(self) -> str:
        """The Workflow's, its node's and its pod's."""
        return str(self.workflow.item["metadata"]["name"])

    @property
    def node(self) -> Object | None:
        """The one step."""
        found: Object | None = (self.status.get("nodes") or {}).get(self.name)
        return found


def reconcile(look: Look, now: float, lags: Lags) -> Changes:
    """One look of the controller at a Workflow."""
    phase = look.status.get("phase", "")
    if phase in OVER:
        return _retain(look, phase, now)
    due = look.workflow.changed + lags.notice
    if now < due:
        return Changes(wake=due)
    problem = pod_manifest.problem(look.workflow.item)
    if problem:
        return Changes(status=_ended(look, "Failed", messages.INVALID.format(problem), now))
    if not phase:
        return Changes(status={"phase": "Running", "startedAt": iso(now), "progress": "0/1"})
    node = look.node
    if node is not None and node["phase"] in OVER:
        return Changes(status=_ended(look, node["phase"], node.get("message", ""), now))
    if look.spec.get("shutdown"):
        return _shut_down(look, now)
    if node is None:
        return Changes() if look.spec.get("suspend") else _start(look, now, lags)
    return _follow(look, node, now, lags)


def _start(look: Look, now: float, lags: Lags) -> Changes:
    """Make the pod, or say why there is none."""
    node = {
        "id": look.name,
        "name": look.name,
        "displayName": look.name,
        "type": "Pod",
        "templateName": look.spec["entrypoint"],
        "phase": "Pending",
        "startedAt": iso(now),
        **(look.node or {}),
    }
    message = look.refusal
    if not message:
        return Changes(create=pod_manifest.pod(look.workflow.item), status=_with(look, {**node, "message": ""}))
    if "exceeded quota" in message:
        return Changes(status=_with(look, {**node, "message": message}), wake=now + lags.requeue)
    failed = replace(look, workflow=replace(look.workflow, item={**look.workflow.item, "status": _with(look, node)}))
    status = _ended(failed, "Error", messages.ENTRY.format(message), now)
    status["nodes"][look.name] |= {"message": message, "phase": "Error"}
    return Changes(status=status)


def _shut_down(look: Look, now: float) -> Changes:
    """Terminate or Stop: the step is Failed at once; a pod that does not run yet goes, one that runs gets SIGTERM.

    The Workflow ends with it, but for a pod that runs: then it does so in the next look. What is over already ends by
    its own words.
    """
    strategy = look.spec["shutdown"]
    if look.node is None:
        # As seen: a suspended Workflow is not looked at any further.
        suspended = bool(look.spec.get("suspend"))
        return Changes() if suspended else Changes(status=_ended(look, "Failed", "", now))
    phases = {seen.item["metadata"]["name"]: (seen.item.get("status") or {}).get("phase") for seen in look.pods}
    over = [seen.item for seen in look.pods if phases[seen.item["metadata"]["name"]] in OVER]
    if over and not over[0]["metadata"].get("deletionTimestamp"):
        return Changes(status=_with(look, assess(look.node, over[0], now)))
    message = (messages.SHUTDOWN_NODE if look.pods else messages.SHUTDOWN_NO_POD).format(strategy)
    node = {**look.node, "phase": "Failed", "message": message, "finishedAt": iso(now)}
    status = _with(look, node)
    if set(phases.values()) <= {"Pending"}:
        after = replace(look, workflow=replace(look.workflow, item={**look.workflow.item, "status": status}))
        status = _ended(after, "Failed", message, now)
    return Changes(
        status=status,
        delete_pods=tuple(name for name, phase in phases.items() if phase == "Pending"),
        terminate_pods=tuple(name for name, phase in phases.items() if phase == "Running"),
    )


def _follow(look: Look, node: Object, now: float, lags: Lags) -> Changes:
    """Say of the step what its pod shows."""
    if not look.pods:
        due = look.workflow.changed + lags.follow
        if now < due:
            return Changes(wake=due)
        if node["phase"] == "Pending":
            return _again(look, now, lags)
        gone = {**node, "phase": "Error", "message": messages.POD_DELETED, "finishedAt": iso(now)}
        return _told(look, node, gone, now)
    seen = look.pods[0]
    if seen.item["metadata"].get("deletionTimestamp"):
        # As seen: how its containers end is not looked at, only that it goes.
        return Changes()
    due = seen.changed + lags.follow
    if now < due:
        return Changes(wake=due)
    return _told(look, node, assess(node, seen.item, now), now)


def _again(look: Look, now: float, lags: Lags) -> Changes:
    """A pod that is gone, or that was refused, while its step is Pending: it is made, perhaps for the second time."""
    due = look.workflow.changed + lags.requeue
    return Changes(wake=due) if look.refusal and now < due else _start(look, now, lags)


def _told(look: Look, before: Object, node: Object, now: float) -> Changes:
    if node == before:
        return Changes()
    status = _with(look, node)
    if node["phase"] in OVER:
        after = replace(look, workflow=replace(look.workflow, item={**look.workflow.item, "status": status}))
        status = _ended(after, node["phase"], node.get("message", ""), now)
    return Changes(status=status)


def assess(node: Object, pod: Object, now: float) -> Object:
    """A step after a look at its pod (operator.go, assessNodeStatus)."""
    status = pod.get("status") or {}
    states = {row["name"]: row.get("state") or {} for row in status.get("containerStatuses") or []}
    made = {**node, "phase": status.get("phase", "Pending"), "message": ""}
    if status.get("hostIP"):
        made["hostNodeName"] = pod["spec"].get("nodeName", "")
    ended = states.get(pod_manifest.MAIN, {}).get("terminated")
    if ended:
        made["outputs"] = {"exitCode": str(ended["exitCode"])}
    if made["phase"] == "Pending":
        made["message"] = _pending(status, states)
    elif made["phase"] == "Failed":
        made["phase"], made["message"] = _failed(status, states)
    if made["phase"] in OVER:
        made["finishedAt"] = iso(now)
    return made


def _pending(status: Object, states: dict[str, Any]) -> str:
    for row in status.get("conditions") or []:
        if row["type"] == "PodScheduled" and row.get("reason"):
            return f"{row['reason']}: {row.get('message', '')}"
    for state in states.values():
        waiting = state.get("waiting") or {}
        if waiting.get("message"):
            return f"{waiting['reason']}: {waiting['message']}"
    return next((state["waiting"]["reason"] for state in states.values() if "waiting" in state), "")


def _failed(status: Object, states: dict[str, Any]) -> tuple[str, str]:
    """Why (operator.go, inferFailedReason): the pod's own words, then main's end, then wait's."""
    if status.get("message"):
        return "Failed", status["message"]
    for name, phase in ((pod_manifest.MAIN, "Failed"), (pod_manifest.WAIT, "Error")):
        ended = states.get(name, {}).get("terminated")
        if ended and ended["exitCode"] != 0:
            said = messages.CONTAINER_ENDED.format(name, ended.get("reason", "Error"), ended["exitCode"])
            return phase, f"{said}: {ended['message']}" if ended.get("message") else said
    return "Failed", "Pod failed"


def _with(look: Look, node: Object) -> Object:
    return {**look.status, "nodes": {**(look.status.get("nodes") or {}), look.name: node}}


def _ended(look: Look, phase: str, message: str, now: float) -> Object:
    strategy = look.spec.get("shutdown")
    if strategy and phase != "Succeeded":
        phase, message = "Failed", messages.SHUTDOWN.format(strategy)
    kept = {key: value for key, value in look.status.items() if key != "message"}
    said = {"message": message} if message else {}
    done = "1/1" if phase == "Succeeded" else "0/1"
    started = look.status.get("startedAt") or iso(now)
    return {**kept, "phase": phase, **said, "startedAt": started, "finishedAt": iso(now), "progress": done}


def _retain(look: Look, phase: str, now: float) -> Changes:
    """Apply ttlStrategy and podGC."""
    ended = seconds(look.status["finishedAt"])
    wakes = []
    pods: tuple[str, ...] = ()
    collect = look.spec.get("podGC") or {}
    if _collects(collect.get("strategy", ""), phase) and look.pods:
        due = ended + _duration(str(collect.get("deleteDelayDuration") or "0s"))
        if now >= due:
            pods = tuple(seen.item["metadata"]["name"] for seen in look.pods)
        else:
            wakes.append(due)
    keep = _kept(look.spec.get("ttlStrategy") or {}, phase)
    if keep is not None:
        wakes.append(ended + keep)
        if now >= ended + keep:
            return Changes(delete=True)
    return Changes(delete_pods=pods, wake=min(wakes, default=None))


def _kept(strategy: Object, phase: str) -> float | None:
    special = strategy.get("secondsAfterSuccess" if phase == "Succeeded" else "secondsAfterFailure")
    found = special if special is not None else strategy.get("secondsAfterCompletion")
    return float(found) if found is not None else None


def _collects(strategy: str, phase: str) -> bool:
    return strategy in {"OnWorkflowCompletion", "OnPodCompletion"} or (
        strategy in {"OnWorkflowSuccess", "OnPodSuccess"} and phase == "Succeeded"
    )


def _duration(said: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return float(said[:-1]) * units[said[-1]] if said[-1:] in units else float(said)
