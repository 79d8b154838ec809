"""Argo's Workflow controller, as far as its behaviour shows in objects.

``reconcile`` is a pure function: it takes one Workflow with its pods and the time, and returns what the controller
does. Sources: Argo 3.7.18 (workflow/controller/operator.go), and observations of a real cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flargo.embedded import messages, pod_manifest
from flargo.embedded.model import TERMINAL_PHASES, Delays, Object, StoredObject, iso, seconds

PHASE_LABEL, COMPLETED_LABEL = "workflows.argoproj.io/phase", "workflows.argoproj.io/completed"
INSTANCE_LABEL = "workflows.argoproj.io/controller-instanceid"


@dataclass(frozen=True, slots=True)
class WorkflowActions:
    """The controller's actions on one Workflow; the default is none."""

    create: Object | None = None
    """The pod to create, before anything else is written."""
    status: Object | None = None
    """The Workflow's new status."""
    delete_pods: tuple[str, ...] = ()
    terminate_pods: tuple[str, ...] = ()
    """Pods whose main containers get SIGTERM. On a real cluster, no SIGKILL was observed to follow."""
    delete: bool = False
    """Delete the Workflow, because its time to live is over."""
    requeue_at: float | None = None
    """When to reconcile again although nothing changed (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """One Workflow, and everything that the controller takes into account."""

    workflow: StoredObject
    pods: Sequence[StoredObject] = ()
    admission_denial: str = ""
    """Why the API server would forbid the Workflow's pod now; empty if it would not."""
    invalid_pod: str = ""
    """The API server's whole message, if it would refuse the Workflow's pod as invalid; else empty."""

    @property
    def create_error(self) -> str:
        """The API server's answer to the creation of the pod; empty if it would succeed."""
        if self.invalid_pod or not self.admission_denial:
            return self.invalid_pod
        return messages.POD_FORBIDDEN.format(self.name, self.admission_denial)

    @property
    def status(self) -> Object:
        """The status of the Workflow; empty before the first one is written."""
        status: Object = self.workflow.item.get("status") or {}
        return status

    @property
    def spec(self) -> Object:
        """The spec of the Workflow."""
        spec: Object = self.workflow.item.get("spec") or {}
        return spec

    @property
    def name(self) -> str:
        """The name of the Workflow, which is also that of its node and of its pod."""
        return str(self.workflow.item["metadata"]["name"])

    @property
    def node(self) -> Object | None:
        """The Workflow's only node, that of its step; None before the step begins."""
        node: Object | None = (self.status.get("nodes") or {}).get(self.name)
        return node

    def with_node(self, node: Object) -> "WorkflowView":
        """Return the view with another node in the Workflow's status."""
        item = {**self.workflow.item, "status": _status_with(self, node)}
        return replace(self, workflow=replace(self.workflow, item=item))


def reconcile(view: WorkflowView, now: float, delays: Delays) -> WorkflowActions:
    """Return what the controller does when it reconciles a Workflow."""
    phase = view.status.get("phase", "")
    if phase in TERMINAL_PHASES:
        return _apply_retention(view, phase, now)
    due = view.workflow.changed_at + delays.notice
    if now < due:
        return WorkflowActions(requeue_at=due)
    problem = pod_manifest.find_problem(view.workflow.item)
    if problem:
        return WorkflowActions(status=_final_status(view, "Failed", messages.INVALID_SPEC.format(problem), now))
    if not phase:
        return WorkflowActions(status={"phase": "Running", "startedAt": iso(now), "progress": "0/1"})
    node = view.node
    if node is not None and node["phase"] in TERMINAL_PHASES:
        return WorkflowActions(status=_final_status(view, node["phase"], node.get("message", ""), now))
    if view.spec.get("shutdown"):
        return _shut_down(view, now)
    if node is None:
        return WorkflowActions() if view.spec.get("suspend") else _create_pod(view, now, delays)
    return _reconcile_pod(view, node, now, delays)


def _create_pod(view: WorkflowView, now: float, delays: Delays) -> WorkflowActions:
    """Create the pod; if the API server refuses it, retry a full quota, and end the Workflow for any other reason."""
    node = {
        "id": view.name,
        "name": view.name,
        "displayName": view.name,
        "type": "Pod",
        "templateName": view.spec["entrypoint"],
        "phase": "Pending",
        "startedAt": iso(now),
        **(view.node or {}),
    }
    error = view.create_error
    if not error:
        status = _status_with(view, {**node, "message": ""})
        return WorkflowActions(create=pod_manifest.build_pod(view.workflow.item), status=status)
    if "exceeded quota" in error:
        return WorkflowActions(status=_status_with(view, {**node, "message": error}), requeue_at=now + delays.requeue)
    status = _final_status(view.with_node(node), "Error", messages.ENTRY_TEMPLATE_ERROR.format(error), now)
    status["nodes"][view.name] |= {"message": error, "phase": "Error"}
    return WorkflowActions(status=status)


def _shut_down(view: WorkflowView, now: float) -> WorkflowActions:
    """Apply Terminate or Stop: the node fails at once, a pending pod is deleted, and a running pod gets SIGTERM.

    The Workflow ends in the same reconciliation, or in the next one if a pod runs. A pod that has ended by itself
    decides the node's phase and message.
    """
    strategy = view.spec["shutdown"]
    if view.node is None:
        # Observed: Argo does not reconcile a suspended Workflow any further.
        is_suspended = bool(view.spec.get("suspend"))
        return WorkflowActions() if is_suspended else WorkflowActions(status=_final_status(view, "Failed", "", now))
    phases = {pod.item["metadata"]["name"]: (pod.item.get("status") or {}).get("phase") for pod in view.pods}
    ended_pods = [pod.item for pod in view.pods if phases[pod.item["metadata"]["name"]] in TERMINAL_PHASES]
    if ended_pods and not ended_pods[0]["metadata"].get("deletionTimestamp"):
        return WorkflowActions(status=_status_with(view, assess_node_status(view.node, ended_pods[0], now)))
    message = (messages.NODE_SHUTDOWN if view.pods else messages.NODE_SHUTDOWN_WITHOUT_POD).format(strategy)
    node = {**view.node, "phase": "Failed", "message": message, "finishedAt": iso(now)}
    status = _status_with(view, node)
    if set(phases.values()) <= {"Pending"}:
        status = _final_status(view.with_node(node), "Failed", message, now)
    return WorkflowActions(
        status=status,
        delete_pods=tuple(name for name, phase in phases.items() if phase == "Pending"),
        terminate_pods=tuple(name for name, phase in phases.items() if phase == "Running"),
    )


def _reconcile_pod(view: WorkflowView, node: Object, now: float, delays: Delays) -> WorkflowActions:
    """Bring the node's status in line with its pod (operator.go, podReconciliation)."""
    if not view.pods:
        due = view.workflow.changed_at + delays.follow
        if now < due:
            return WorkflowActions(requeue_at=due)
        if node["phase"] == "Pending":
            return _recreate_pod(view, now, delays)
        failed_node = {**node, "phase": "Error", "message": messages.POD_DELETED, "finishedAt": iso(now)}
        return _update_node(view, node, failed_node, now)
    pod = view.pods[0]
    if pod.item["metadata"].get("deletionTimestamp"):
        # Observed: Argo ignores how the containers of a deleted pod end; it acts only when the object is gone.
        return WorkflowActions()
    due = pod.changed_at + delays.follow
    if now < due:
        return WorkflowActions(requeue_at=due)
    return _update_node(view, node, assess_node_status(node, pod.item, now), now)


def _recreate_pod(view: WorkflowView, now: float, delays: Delays) -> WorkflowActions:
    """Create the pod of a pending node, because it was refused before or has been deleted."""
    due = view.workflow.changed_at + delays.requeue
    if view.create_error and now < due:
        return WorkflowActions(requeue_at=due)
    return _create_pod(view, now, delays)


def _update_node(view: WorkflowView, before: Object, node: Object, now: float) -> WorkflowActions:
    if node == before:
        return WorkflowActions()
    if node["phase"] not in TERMINAL_PHASES:
        return WorkflowActions(status=_status_with(view, node))
    status = _final_status(view.with_node(node), node["phase"], node.get("message", ""), now)
    return WorkflowActions(status=status)


def assess_node_status(node: Object, pod: Object, now: float) -> Object:
    """Return a node with the status that its pod shows (operator.go, assessNodeStatus)."""
    status = pod.get("status") or {}
    states = {row["name"]: row.get("state") or {} for row in status.get("containerStatuses") or []}
    assessed = {**node, "phase": status.get("phase", "Pending"), "message": ""}
    if status.get("hostIP"):
        assessed["hostNodeName"] = pod["spec"].get("nodeName", "")
    exit_state = states.get(pod_manifest.MAIN, {}).get("terminated")
    if exit_state:
        assessed["outputs"] = {"exitCode": str(exit_state["exitCode"])}
    if assessed["phase"] == "Pending":
        assessed["message"] = _pending_message(status, states)
    elif assessed["phase"] == "Failed":
        assessed["phase"], assessed["message"] = _infer_failure(status, states)
    if assessed["phase"] in TERMINAL_PHASES:
        assessed["finishedAt"] = iso(now)
    return assessed


def _pending_message(status: Object, states: dict[str, Any]) -> str:
    for row in status.get("conditions") or []:
        if row["type"] == "PodScheduled" and row.get("reason"):
            return f"{row['reason']}: {row.get('message', '')}"
    for state in states.values():
        waiting_state = state.get("waiting") or {}
        if waiting_state.get("message"):
            return f"{waiting_state['reason']}: {waiting_state['message']}"
    return next((state["waiting"]["reason"] for state in states.values() if "waiting" in state), "")


def _infer_failure(status: Object, states: dict[str, Any]) -> tuple[str, str]:
    """Return the phase and message of a failed node (operator.go, inferFailedReason).

    The pod's own message comes first, then the end of main, then that of ``wait``.
    """
    if status.get("message"):
        return "Failed", status["message"]
    for name, phase in ((pod_manifest.MAIN, "Failed"), (pod_manifest.WAIT, "Error")):
        exit_state = states.get(name, {}).get("terminated")
        if exit_state and exit_state["exitCode"] != 0:
            reason = exit_state.get("reason", "Error")
            message = messages.CONTAINER_EXITED.format(name, reason, exit_state["exitCode"])
            return phase, f"{message}: {exit_state['message']}" if exit_state.get("message") else message
    return "Failed", "Pod failed"


def _status_with(view: WorkflowView, node: Object) -> Object:
    return {**view.status, "nodes": {**(view.status.get("nodes") or {}), view.name: node}}


def _final_status(view: WorkflowView, phase: str, message: str, now: float) -> Object:
    strategy = view.spec.get("shutdown")
    if strategy and phase != "Succeeded":
        phase, message = "Failed", messages.WORKFLOW_STOPPED.format(strategy)
    status = {key: value for key, value in view.status.items() if key != "message"}
    return {
        **status,
        "phase": phase,
        **({"message": message} if message else {}),
        "startedAt": view.status.get("startedAt") or iso(now),
        "finishedAt": iso(now),
        "progress": "1/1" if phase == "Succeeded" else "0/1",
    }


def _apply_retention(view: WorkflowView, phase: str, now: float) -> WorkflowActions:
    """Apply ttlStrategy and podGC to a Workflow that has ended."""
    finished_at = seconds(view.status["finishedAt"])
    due_times = []
    pods: tuple[str, ...] = ()
    pod_gc = view.spec.get("podGC") or {}
    if _pod_gc_applies(pod_gc.get("strategy", ""), phase) and view.pods:
        due = finished_at + _duration_seconds(str(pod_gc.get("deleteDelayDuration") or "0s"))
        if now >= due:
            pods = tuple(pod.item["metadata"]["name"] for pod in view.pods)
        else:
            due_times.append(due)
    ttl = _ttl_seconds(view.spec.get("ttlStrategy") or {}, phase)
    if ttl is not None:
        due_times.append(finished_at + ttl)
        if now >= finished_at + ttl:
            return WorkflowActions(delete=True)
    return WorkflowActions(delete_pods=pods, requeue_at=min(due_times, default=None))


def _ttl_seconds(strategy: Object, phase: str) -> float | None:
    ttl = strategy.get("secondsAfterSuccess" if phase == "Succeeded" else "secondsAfterFailure")
    if ttl is None:
        ttl = strategy.get("secondsAfterCompletion")
    return float(ttl) if ttl is not None else None


def _pod_gc_applies(strategy: str, phase: str) -> bool:
    return strategy in {"OnWorkflowCompletion", "OnPodCompletion"} or (
        strategy in {"OnWorkflowSuccess", "OnPodSuccess"} and phase == "Succeeded"
    )


def _duration_seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
