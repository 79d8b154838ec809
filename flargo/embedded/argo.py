"""Argo's Workflow controller, as far as its behaviour shows in objects.

``reconcile`` is a pure function: it takes one Workflow with its pods and the time, and returns what the controller
does. Sources: Argo 3.7.18 (workflow/controller/operator.go), and observations of a real cluster.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flargo.embedded import locks, messages, pod_manifest
from flargo.embedded.locks import Lock, LockUse
from flargo.embedded.model import TERMINAL_PHASES, Delays, Object, StoredObject, iso, seconds
from flargo.embedded.pod_manifest import Step

PHASE_LABEL = "workflows.argoproj.io/phase"
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
    """The pods of the Workflow's name that Argo has not labelled as completed, whoever owns them. Of a Workflow that
    has ended: all pods that it owns."""
    create_errors: Mapping[str, str] = field(default_factory=dict)
    """The message with which the creation of a step's pod would fail now, by the name of the step's node."""
    lock_uses: Mapping[str, LockUse] = field(default_factory=dict)
    """How much other Workflows use of the locks that the entry point needs, by the locks' names."""

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
    def is_suspended(self) -> bool:
        """True if a person has suspended the Workflow, or its launch has not released it yet."""
        return bool(self.spec.get("suspend"))

    @property
    def entry(self) -> Step:
        """The step of the entry point."""
        return pod_manifest.entry_step(self.workflow.item)

    def node(self, step: Step) -> Object | None:
        """Return the node of a step; None before the step begins."""
        node: Object | None = (self.status.get("nodes") or {}).get(step.node_id)
        return node

    def phase(self, step: Step) -> str:
        """Return the phase of a step's node; empty before the step begins."""
        node = self.node(step)
        return str(node["phase"]) if node is not None else ""

    def has_ended(self, step: Step) -> bool:
        """Return whether a step's node is in a final phase."""
        return self.phase(step) in TERMINAL_PHASES

    def pods_of(self, step: Step) -> list[StoredObject]:
        """Return the pods that Argo takes for a step's, which it finds by their annotation."""
        ids = [(pod.item["metadata"].get("annotations") or {}).get(pod_manifest.NODE_ANNOTATION) for pod in self.pods]
        return [pod for pod, node_id in zip(self.pods, ids, strict=True) if node_id == step.node_id]

    def may_run(self, step: Step) -> bool:
        """Return whether the shutdown, if any, allows a step: Stop allows the exit handler, Terminate nothing."""
        strategy = self.spec.get("shutdown")
        return not strategy or (strategy == "Stop" and step.is_exit_handler)

    def with_status(self, status: Object) -> "WorkflowView":
        """Return the view with another status."""
        return replace(self, workflow=replace(self.workflow, item={**self.workflow.item, "status": status}))

    def with_node(self, step: Step, node: Object) -> "WorkflowView":
        """Return the view with another node of a step. A node that exists gets its display name (executeTemplate)."""
        name = pod_manifest.display_name(self.workflow.item, step) if self.node(step) is not None else ""
        node = {**node, "displayName": name} if name else node
        return self.with_status({**self.status, "nodes": {**(self.status.get("nodes") or {}), step.node_id: node}})


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
    return _run_steps(view, now, delays)


def _run_steps(view: WorkflowView, now: float, delays: Delays) -> WorkflowActions:
    """Take the first step further that has something to do; after the last one, complete the Workflow."""
    due_times = []
    for step in _current_steps(view):
        actions = _sync_step(view, step, now, delays)
        if replace(actions, requeue_at=None) != WorkflowActions():
            return actions
        due_times.append(actions.requeue_at)
    status = _settle(view, now)
    requeue_at = min((due for due in due_times if due is not None), default=None)
    return WorkflowActions(status=status if status != view.status else None, requeue_at=requeue_at)


def _current_steps(view: WorkflowView) -> Iterator[Step]:
    """Yield the steps that have begun or may begin: the entry point, its hooks, and at last the exit handler."""
    entry = view.entry
    yield entry
    hooks = [hook for hook in pod_manifest.hook_steps(view.workflow.item) if _has_begun(view, hook)]
    yield from hooks
    handler = pod_manifest.exit_step(view.workflow.item)
    if handler and view.has_ended(entry) and all(map(view.has_ended, hooks)) and _has_begun(view, handler):
        yield handler


def _has_begun(view: WorkflowView, step: Step) -> bool:
    """Return whether a hook or an exit handler has begun or may begin, as far as the entry point decides it."""
    if view.node(step) is not None:
        return True
    is_due = step.is_exit_handler or step.status == view.phase(view.entry)
    return is_due and view.may_run(step)


def _sync_step(view: WorkflowView, step: Step, now: float, delays: Delays) -> WorkflowActions:
    node = view.node(step)
    if view.has_ended(step):
        return WorkflowActions()
    if not view.may_run(step):
        return _shut_down(view, step, now)
    if node is None:
        return WorkflowActions() if view.is_suspended else _create_pod(view, step, now, delays)
    return _reconcile_pod(view, step, node, now, delays)


def _settle(view: WorkflowView, now: float) -> Object:
    """Return the status of a Workflow after all that has happened: the final one if nothing is left to run.

    A suspended Workflow is never completed, and gives back no lock (operator.go, operate: it returns after the
    reconciliation of pods).
    """
    entry, node = view.entry, view.node(view.entry)
    if node is None or not view.has_ended(entry) or view.is_suspended:
        return view.status
    view = view.with_status(locks.without_locks(view.status))
    steps = list(_current_steps(view))
    handler = pod_manifest.exit_step(view.workflow.item)
    if not all(map(view.has_ended, steps)):
        return view.status
    end = view.node(handler) if handler else None
    if node["phase"] == "Succeeded" and end is not None and end["phase"] != "Succeeded":
        node = end
    return _final_status(view, node["phase"], node.get("message", ""), now)


def _create_pod(view: WorkflowView, step: Step, now: float, delays: Delays) -> WorkflowActions:
    """Create the pod; if the API server refuses it, retry a full quota, and end the step for any other reason."""
    node = {
        "id": step.node_id,
        "name": step.node,
        "displayName": step.node,
        "type": "Pod",
        "templateName": step.template,
        "phase": "Pending",
        "startedAt": iso(now),
        **({} if step == view.entry else {"nodeFlag": {"hooked": True}}),
        **(view.node(step) or {}),
    }
    holder = f"{view.workflow.item['metadata'].get('namespace', '')}/{step.workflow}/{step.node_id}"
    needed = _needed_locks(view, step)
    if not set(locks.held_keys(view.status)) >= {lock.key for lock in needed}:
        lock = locks.awaited_lock(needed, view.lock_uses)
        if lock is not None:
            message = locks.waiting_message(lock, view.lock_uses[lock.key])
            node |= {"message": message, "synchronizationStatus": {"waiting": lock.key}}
            status = locks.with_locks(view.with_node(step, node).status, needed, holder, state="waiting")
            return WorkflowActions(status=status, requeue_at=now + delays.requeue)
        view = view.with_status(locks.with_locks(view.status, needed, holder, state="holding"))
        node = {key: value for key, value in node.items() if key != "synchronizationStatus"}
    error = view.create_errors.get(step.node, "")
    if not error:
        status = view.with_node(step, {**node, "message": ""}).status
        return WorkflowActions(create=pod_manifest.build_pod(view.workflow.item, step), status=status)
    if "exceeded quota" in error:
        status = view.with_node(step, {**node, "message": error}).status
        return WorkflowActions(status=status, requeue_at=now + delays.requeue)
    return _fail_to_create(view.with_node(step, {**node, "message": error, "phase": "Error"}), step, error, now)


def _needed_locks(view: WorkflowView, step: Step) -> list[Lock]:
    """Return the locks of the entry point; those of other steps are not simulated."""
    if step != view.entry:
        return []
    template = pod_manifest.template_of(view.workflow.item, step)
    return locks.locks_of(template, view.workflow.item["metadata"].get("namespace", ""))


def _fail_to_create(view: WorkflowView, step: Step, error: str, now: float) -> WorkflowActions:
    """End the Workflow, because the pod of its entry point or of its exit handler was refused."""
    if step == view.entry:
        return WorkflowActions(status=_final_status(view, "Error", messages.ENTRY_TEMPLATE_ERROR.format(error), now))
    if step.is_exit_handler:
        return WorkflowActions(status=_final_status(view, "Error", messages.EXIT_TEMPLATE_ERROR.format(error), now))
    return WorkflowActions(status=view.status)


def _shut_down(view: WorkflowView, step: Step, now: float) -> WorkflowActions:
    """Apply Terminate or Stop: the node fails at once, a pending pod is deleted, and a running pod gets SIGTERM.

    The Workflow ends in the same reconciliation, or in the next one if a pod runs. A pod that has ended by itself
    decides the node's phase and message.
    """
    strategy, node = view.spec["shutdown"], view.node(step)
    if node is None:
        # Observed: Argo does not reconcile a suspended Workflow any further.
        return (
            WorkflowActions() if view.is_suspended else WorkflowActions(status=_final_status(view, "Failed", "", now))
        )
    pods = view.pods_of(step)
    phases = {pod.item["metadata"]["name"]: (pod.item.get("status") or {}).get("phase") for pod in pods}
    ended_pods = [pod.item for pod in pods if phases[pod.item["metadata"]["name"]] in TERMINAL_PHASES]
    if ended_pods and not ended_pods[0]["metadata"].get("deletionTimestamp"):
        assessed = assess_node_status(node, ended_pods[0], now)
        return WorkflowActions(status=view.with_node(step, assessed).status)
    message = (messages.NODE_SHUTDOWN if pods else messages.NODE_SHUTDOWN_WITHOUT_POD).format(strategy)
    view = view.with_node(step, {**node, "phase": "Failed", "message": message, "finishedAt": iso(now)})
    return WorkflowActions(
        status=_settle(view, now) if set(phases.values()) <= {"Pending"} else view.status,
        delete_pods=tuple(name for name, phase in phases.items() if phase == "Pending"),
        terminate_pods=tuple(name for name, phase in phases.items() if phase == "Running"),
    )


def _reconcile_pod(view: WorkflowView, step: Step, node: Object, now: float, delays: Delays) -> WorkflowActions:
    """Bring the node's status in line with its pod (operator.go, podReconciliation)."""
    pods = view.pods_of(step)
    if not pods:
        due = view.workflow.changed_at + delays.follow
        if now < due:
            return WorkflowActions(requeue_at=due)
        if node["phase"] == "Pending":
            return WorkflowActions() if view.is_suspended else _recreate_pod(view, step, now, delays)
        failed_node = {**node, "phase": "Error", "message": messages.POD_DELETED, "finishedAt": iso(now)}
        return _update_node(view, step, failed_node, now)
    pod = pods[0]
    if pod.item["metadata"].get("deletionTimestamp"):
        # Observed: Argo ignores how the containers of a deleted pod end; it acts only when the object is gone.
        return WorkflowActions()
    due = pod.changed_at + delays.follow
    if now < due:
        return WorkflowActions(requeue_at=due)
    return _update_node(view, step, assess_node_status(node, pod.item, now), now)


def _recreate_pod(view: WorkflowView, step: Step, now: float, delays: Delays) -> WorkflowActions:
    """Create the pod of a pending node, because it was refused before, waits for a lock, or has been deleted."""
    due = view.workflow.changed_at + delays.requeue
    if view.create_errors.get(step.node) and now < due:
        return WorkflowActions(requeue_at=due)
    return _create_pod(view, step, now, delays)


def _update_node(view: WorkflowView, step: Step, node: Object, now: float) -> WorkflowActions:
    if node == view.node(step):
        return WorkflowActions()
    return WorkflowActions(status=_settle(view.with_node(step, node), now))


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


def _final_status(view: WorkflowView, phase: str, message: str, now: float) -> Object:
    strategy = view.spec.get("shutdown")
    view = view.with_status(locks.without_locks(view.status))
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
