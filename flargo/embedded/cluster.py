"""Runs the controllers: one loop takes objects from a work queue, asks the pure modules what to do, and does it."""

import asyncio
import contextlib
import logging
import math
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flargo.embedded import argo, kubelet, locks, messages, mounts, pod_manifest, schema
from flargo.embedded.kubelet import main_container
from flargo.embedded.locks import Lock, LockUse
from flargo.embedded.log_stream import LineTimes
from flargo.embedded.model import TERMINAL_PHASES, Delays, Node, Object, Policy, StoredObject, iso, quantity
from flargo.embedded.processes import Limits, Processes, error_reason
from flargo.embedded.store import Change, Key, RefusedError, Selector, Store

QUOTA_RESOURCES = {"pods": "pods", "workflows": "count/workflows.argoproj.io"}
"""The resources that quotas count, with their names in a ResourceQuota."""
POLL_SECONDS = 0.05
"""Time between two polls of the processes, while any runs."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The resources of the embedded cluster, and its delays."""

    delays: Delays = field(default_factory=Delays)
    node: Node = field(default_factory=Node)
    accounts: tuple[str, ...] = ("default", "flargo-launcher", "flargo-job", "flargo-executor")
    """Service accounts that exist from the start, in every namespace."""
    executors: frozenset[str] = frozenset({"flargo-executor"})
    """Service accounts that may report to Argo (create WorkflowTaskResults)."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Persistent volume claims: the directory of this machine for each."""
    missing_images: frozenset[str] = frozenset()
    """Images that cannot be pulled. Of every other image only the name is checked."""
    instance_id: str = ""
    """The Workflow controller's instance ID; it ignores Workflows of other instances."""


class Cluster:
    """The controllers, the node, and the objects that they share."""

    def __init__(
        self, store: Store, processes: Processes, root: Path, settings: Settings, clock: Callable[[], float]
    ) -> None:
        """Prepare a cluster.

        Args:
            store: the objects.
            processes: the processes of its pods.
            root: a folder for the directories of its pods.
            settings: resources and delays.
            clock: returns Unix seconds.
        """
        self.store, self.processes, self.settings = store, processes, settings
        self.controller_running = True
        """False while Argo's Workflow controller is stopped."""
        self.workflow_defaults: Object = {}
        """An administrator's ``workflowDefaults``: a Workflow whose fields every unfinished Workflow gets, unless it
        has them."""
        self.policies: list[Policy] = []
        """The admission policies in force."""
        self.node = settings.node
        """The only node, whose labels can change."""
        self.line_times = LineTimes()
        self.failure: Exception | None = None
        """The bug of this engine that has ended the loop; None while it runs."""
        self._root, self._clock = root, clock
        self._queue: dict[Key, float] = {}
        """The work queue: when each object is due (Unix seconds)."""
        self._sync_failures: dict[Key, str] = {}
        """Objects whose last sync failed, with the failure that was logged."""
        self._wake = asyncio.Event()
        store.listeners.append(self._on_change)

    def pod_folder(self, pod: Object) -> Path:
        """Return a pod's directory."""
        return self._root / str(pod["metadata"]["uid"])

    def log_file(self, pod: Object) -> Path:
        """Return the file with the output of a pod's main container."""
        return self.pod_folder(pod) / "main.log"

    async def run(self) -> None:
        """Run the controllers until cancelled; a bug ends them, and every later request gets it as an error."""
        try:
            await self._run_loop()
        except Exception as error:
            self.failure = error
            raise

    async def _run_loop(self) -> None:
        while True:
            for uid in self.processes.poll():
                self._queue.update(dict.fromkeys(self._pods_with_uid(uid), 0.0))
            self._process_queue(self._clock())
            self._wake.clear()
            pause = min(self._queue.values(), default=float("inf")) - self._clock()
            # While the controller is stopped, its objects stay due; the longer pause keeps the loop from spinning.
            pause = max(pause, 0.005 if self.controller_running else POLL_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pause, POLL_SECONDS if len(self.processes) else 60.0))

    def set_controller(self, *, running: bool) -> None:
        """Stop Argo's Workflow controller, or start it again."""
        self.controller_running = running
        self._wake.set()

    def evict(self, key: Key, options: Object) -> None:
        """Serve the eviction API: give the pod a DisruptionTarget condition, then delete it with its grace period."""
        pod = self.store.get(key)
        self.store.merge(key, {"status": kubelet.disruption_status(pod, self._clock())})
        self.store.delete(key, options)

    def orphan(self, key: Key) -> None:
        """Remove a Workflow from the owners of everything that it owns, as a deletion with ``Orphan`` does."""
        uid = self.store.get(key)["metadata"]["uid"]
        for dependent in self._dependents(uid, key.namespace):
            self.store.merge(dependent, {"metadata": {"ownerReferences": None}})

    def close(self) -> None:
        """End all processes and remove their directories."""
        self.processes.close()
        shutil.rmtree(self._root, ignore_errors=True)

    # --- the work queue

    def _on_change(self, change: Change) -> None:
        key, meta = change.key, change.after["metadata"]
        if key.resource == "pods" and change.is_deletion:
            self.processes.forget(meta["uid"])
            shutil.rmtree(self.pod_folder(change.after), ignore_errors=True)
            self.line_times.forget(self.log_file(change.after))
            for event in self._pod_events(change.after):
                self.store.remove(Key("events", key.namespace, event["metadata"]["name"]))
        if key.resource in {"pods", "workflows"}:
            self._queue.pop(key, None) if change.is_deletion else self._queue.update({key: 0.0})
        if change.is_deletion:
            self._sync_failures.pop(key, None)
        for owner in meta.get("ownerReferences") or []:
            self._queue[Key("workflows", key.namespace, owner["name"])] = 0.0
            self._queue[key] = 0.0
        if change.is_deletion:
            self._queue.update(dict.fromkeys(self._dependents(meta["uid"], key.namespace), 0.0))
        self._wake.set()

    def _dependents(self, uid: str, namespace: str) -> list[Key]:
        return [
            Key(resource, namespace, entry.item["metadata"]["name"])
            for resource in ("pods", "secrets", "events")
            for entry in self.store.select(resource, namespace)
            if any(owner["uid"] == uid for owner in entry.item["metadata"].get("ownerReferences") or [])
        ]

    def _pods_with_uid(self, uid: str) -> list[Key]:
        metas = (entry.item["metadata"] for entry in self.store.select("pods"))
        return [Key("pods", meta["namespace"], meta["name"]) for meta in metas if meta["uid"] == uid]

    def _process_queue(self, now: float) -> None:
        retry = self.settings.delays.retry
        for key in [key for key, due in self._queue.items() if due <= now]:
            if key.resource == "workflows" and not self.controller_running:
                continue
            del self._queue[key]
            try:
                requeue_at = self._sync(key, now)
                self._sync_failures.pop(key, None)
            except Exception as error:  # noqa: BLE001  (a bug that one object triggers must not affect the others)
                self._log_failure(key, error)
                requeue_at = now + retry
            if requeue_at is not None and math.isfinite(requeue_at) and self._queue.get(key, requeue_at) >= requeue_at:
                self._queue[key] = requeue_at

    def _sync(self, key: Key, now: float) -> float | None:
        """Sync one object, and return when to sync it again; None: not before it changes."""
        self._collect_garbage(key)
        entry = self.store.find(key)
        sync = {"workflows": self._sync_workflow, "pods": self._sync_pod}.get(key.resource)
        return sync(key, entry, now) if entry is not None and sync is not None else None

    def _log_failure(self, key: Key, error: Exception) -> None:
        summary = error_summary(error)
        if self._sync_failures.get(key) != summary:
            message = "Sync of %s %s/%s failed (%s); retrying, other objects are not affected"
            _log.error(message, key.resource, key.namespace, key.name, summary)
        self._sync_failures[key] = summary

    def _collect_garbage(self, key: Key) -> None:
        """Delete an object, with its own grace period, if it has owners and none of them exists."""
        entry = self.store.find(key)
        meta = entry.item["metadata"] if entry else {}
        owners = meta.get("ownerReferences") or []
        if not owners or meta.get("deletionTimestamp"):
            return
        for reference in owners:
            owner = self.store.find(Key("workflows", key.namespace, reference["name"]))
            if reference.get("kind") == "Workflow" and owner and owner.item["metadata"]["uid"] == reference["uid"]:
                return
        self.store.delete(key, {})

    # --- Argo's Workflow controller

    def _sync_workflow(self, key: Key, entry: StoredObject, now: float) -> float | None:
        meta = entry.item["metadata"]
        if (meta.get("labels") or {}).get(argo.INSTANCE_LABEL, "") != self.settings.instance_id:
            return None
        has_ended = (entry.item.get("status") or {}).get("phase") in TERMINAL_PHASES
        if not has_ended and self.workflow_defaults:
            entry = replace(entry, item=pod_manifest.strategic_merge(self.workflow_defaults, entry.item))
        view = self._view_workflow(key, entry, has_ended=has_ended)
        actions = argo.reconcile(view, now, self.settings.delays)
        if actions.delete:
            self.store.delete(key, {})
            return None
        if actions.create is not None:
            with contextlib.suppress(RefusedError):  # the pod exists already
                self.store.create("pods", key.namespace, actions.create)
        if actions.status is not None:
            self._write_status(key, entry.item, actions.status)
        for name in actions.terminate_pods:
            self.processes.terminate(self.store.get(Key("pods", key.namespace, name))["metadata"]["uid"])
        for name in actions.delete_pods:
            self.store.delete(Key("pods", key.namespace, name), {})
        if not has_ended:
            self._label_completed_pods(key, view.pods)
        return actions.requeue_at

    def _view_workflow(self, key: Key, entry: StoredObject, *, has_ended: bool) -> argo.WorkflowView:
        pods = self.store.select("pods", key.namespace, Selector(f"{pod_manifest.WORKFLOW_LABEL}={key.name}"))
        if has_ended:
            uid = entry.item["metadata"]["uid"]
            owned_pods = [
                pod
                for pod in pods
                if any(owner["uid"] == uid for owner in pod.item["metadata"].get("ownerReferences") or [])
            ]
            return argo.WorkflowView(entry, owned_pods)
        # Argo's informer of pods does not see who owns them, and leaves out those that are labelled as completed.
        known_pods = [pod for pod in pods if pod.item["metadata"]["labels"].get(pod_manifest.COMPLETED_LABEL) != "true"]
        if pod_manifest.find_problem(entry.item):
            return argo.WorkflowView(entry, known_pods)
        return argo.WorkflowView(
            entry, known_pods, self._create_errors(key, entry.item), self._lock_uses(key, entry.item)
        )

    def _label_completed_pods(self, key: Key, pods: Sequence[StoredObject]) -> None:
        """Label the pods of steps that have ended, as Argo does after each update of a Workflow."""
        workflow = self.store.find(key)
        nodes = ((workflow.item.get("status") or {}).get("nodes") or {}) if workflow else {}
        for pod in pods:
            meta = pod.item["metadata"]
            node = nodes.get((meta.get("annotations") or {}).get(pod_manifest.NODE_ANNOTATION)) or {}
            pod_key = Key("pods", key.namespace, meta["name"])
            if node.get("phase") in TERMINAL_PHASES and self.store.find(pod_key) is not None:
                self.store.merge(pod_key, {"metadata": {"labels": {pod_manifest.COMPLETED_LABEL: "true"}}})

    def _write_status(self, key: Key, workflow: Object, status: Object) -> None:
        phase = status["phase"]
        labels = {argo.PHASE_LABEL: phase, pod_manifest.COMPLETED_LABEL: str(phase in TERMINAL_PHASES).lower()}
        meta = {**workflow["metadata"], "labels": {**(workflow["metadata"].get("labels") or {}), **labels}}
        self.store.replace(key, {**workflow, "metadata": meta, "status": status})

    def _lock_uses(self, key: Key, workflow: Object) -> dict[str, LockUse]:
        """Return how much other Workflows use of the locks that a Workflow's entry point needs."""
        template = pod_manifest.template_of(workflow, pod_manifest.entry_step(workflow))
        needed = locks.locks_of(template, key.namespace)
        if not needed:
            return {}
        others = [each.item for each in self.store.select("workflows") if each.item["metadata"]["name"] != key.name]
        held = [held_key for item in others for held_key in locks.held_keys(item.get("status") or {})]
        return {lock.key: LockUse(held.count(lock.key), self._lock_limit(key.namespace, lock)) for lock in needed}

    def _lock_limit(self, namespace: str, lock: Lock) -> int:
        """Return how many may hold a lock: one a mutex, the number in its ConfigMap a semaphore; 0 without a number."""
        if lock.kind == "mutex":
            return 1
        name, config_key = lock.config
        entry = self.store.find(Key("configmaps", namespace, name))
        text = str(((entry.item.get("data") or {}) if entry else {}).get(config_key, ""))
        return int(text) if text.isascii() and text.isdigit() else 0

    # --- admission

    def _create_errors(self, key: Key, workflow: Object) -> dict[str, str]:
        """Return the messages with which the creation of a Workflow's pods would fail now, by the nodes' names."""
        entry, handler = pod_manifest.entry_step(workflow), pod_manifest.exit_step(workflow)
        steps = [entry, *pod_manifest.hook_steps(workflow), *([handler] if handler else [])]
        errors = {step.node: self._create_error(key, pod_manifest.build_pod(workflow, step)) for step in steps}
        return {node: error for node, error in errors.items() if error}

    def _create_error(self, key: Key, pod: Object) -> str:
        """Return the API server's message, if it would refuse a Workflow's pod now; else empty."""
        name = pod["metadata"]["name"]
        pod["metadata"]["namespace"] = key.namespace
        accounts = {entry.item["metadata"]["name"] for entry in self.store.select("serviceaccounts", key.namespace)}
        accounts |= set(self.settings.accounts)
        executor = pod["metadata"]["annotations"]["flargo.dev/executor-account"]
        if executor not in accounts:
            return messages.NO_EXECUTOR_ACCOUNT.format(executor)
        if problem := schema.find_problem("pods", pod):
            return messages.INVALID_OBJECT.format(schema.kind_name("pods"), name, problem)
        denial = self.policy_denial("pods", pod) or self.quota_denial("pods", key.namespace)
        denial = kubelet.admission_denial(pod, accounts, denial)
        return messages.POD_FORBIDDEN.format(name, denial) if denial else ""

    def policy_denial(self, resource: str, item: Object, operation: str = "CREATE") -> str:
        """Return why an admission policy denies an object; empty if none does."""
        policies = (policy for policy in self.policies if policy.denies(resource, item, operation))
        return next((messages.POLICY_DENIAL.format(policy.name, policy.message) for policy in policies), "")

    def quota_denial(self, resource: str, namespace: str) -> str:
        """Return which ResourceQuota does not permit one more object; empty if all do."""
        quota_resource = QUOTA_RESOURCES.get(resource)
        for quota in self.store.select("resourcequotas", namespace) if quota_resource else ():
            limit = ((quota.item.get("spec") or {}).get("hard") or {}).get(quota_resource)
            objects = self.store.select(resource, namespace)
            # A pod that has ended does not count; any other object counts as long as it exists.
            usage = sum(
                resource != "pods" or (entry.item.get("status") or {}).get("phase") not in TERMINAL_PHASES
                for entry in objects
            )
            if limit is not None and usage >= quantity(limit):
                return messages.QUOTA_EXCEEDED.format(quota.item["metadata"]["name"], quota_resource, usage, limit)
        return ""

    # --- the scheduler and the kubelet

    def _sync_pod(self, key: Key, entry: StoredObject, now: float) -> float | None:
        actions = kubelet.sync_pod(self._view_pod(key, entry), self.node, now, self.settings.delays)
        uid = entry.item["metadata"]["uid"]
        for event_type, reason, message in actions.events:
            self._record_event(entry.item, event_type, reason, message, now)
        if actions.remove:
            self.store.remove(key)
            return None
        if actions.kill_grace is not None:
            self.processes.stop(uid, actions.kill_grace)
        if actions.start_process:
            self._start_process(entry.item)
            return now + self.settings.delays.init
        patch: Object = {"status": actions.status} if actions.status is not None else {}
        if actions.node:
            patch["spec"] = {"nodeName": actions.node}
        if patch:
            self.store.merge(key, patch)
        return actions.requeue_at

    def _view_pod(self, key: Key, entry: StoredObject) -> kubelet.PodView:
        item = entry.item
        process = self.processes.state(item["metadata"]["uid"])
        if not (item.get("status") or {}).get("startTime"):
            bound_pods = [
                pod.item for pod in self.store.select("pods") if (pod.item.get("status") or {}).get("startTime")
            ]
            others = [pod for pod in bound_pods if pod["status"].get("phase") not in TERMINAL_PHASES]
            if item["spec"].get("nodeName"):
                rejection = kubelet.rejection(item, self.node, others)
                return kubelet.PodView(entry, process, rejection=rejection)
            failure = kubelet.scheduling_failure(item, self.node, others, self.settings.claims)
            return kubelet.PodView(entry, process, scheduling_failure=failure)
        if process is None:
            find_secret = self._secret_finder(key.namespace)
            return kubelet.PodView(
                entry,
                mount_failures=tuple(kubelet.mount_failures(item, find_secret)),
                create_failure=kubelet.create_failure(item, find_secret, self.settings.missing_images),
            )
        account = item["metadata"]["annotations"]["flargo.dev/executor-account"]
        executor_error = ""
        if account not in self.settings.executors:
            executor_error = messages.EXECUTOR_FORBIDDEN.format(namespace=key.namespace, name=account)
        return kubelet.PodView(entry, process, executor_error=executor_error)

    def _secret_finder(self, namespace: str) -> Callable[[str], Object | None]:
        def find(name: str) -> Object | None:
            entry = self.store.find(Key("secrets", namespace, name))
            return entry.item if entry else None

        return find

    def _start_process(self, pod: Object) -> None:
        uid, folder = pod["metadata"]["uid"], self.pod_folder(pod)
        find_secret = self._secret_finder(pod["metadata"]["namespace"])
        try:
            path_map = mounts.build_volumes(pod, folder, find_secret, self.settings.claims)
            program = mounts.build_program(pod, path_map, folder, find_secret, sys.executable)
        except (OSError, ValueError, LookupError) as error:
            # A path that leads out of its folder, a link on the way, two files at one path, or a missing claim.
            self.processes.fail(uid, messages.MAIN_NOT_PREPARED.format(error_reason(error)))
            return
        self.processes.start(uid, program, self.log_file(pod), self._limits(pod, folder))

    def _limits(self, pod: Object, folder: Path) -> Limits:
        limits = (main_container(pod).get("resources") or {}).get("limits") or {}
        disk: dict[Path, tuple[float, str]] = {}
        if "ephemeral-storage" in limits:
            limit = limits["ephemeral-storage"]
            disk[folder] = (quantity(limit), messages.STORAGE_LIMIT_EXCEEDED.format(limit))
        for volume in pod["spec"].get("volumes") or []:
            limit = (volume.get("emptyDir") or {}).get("sizeLimit")
            if limit is not None:
                message = messages.EMPTY_DIR_LIMIT_EXCEEDED.format(volume["name"], limit)
                disk[folder / "volumes" / volume["name"]] = (quantity(limit), message)
        return Limits(quantity(limits["memory"]) if "memory" in limits else None, disk)

    def _pod_events(self, pod: Object) -> list[Object]:
        meta = pod["metadata"]
        selector = Selector(fields=f"involvedObject.uid={meta['uid']}")
        return [entry.item for entry in self.store.select("events", meta["namespace"], selector)]

    def _record_event(self, pod: Object, event_type: str, reason: str, message: str, now: float) -> None:
        """Create an Event of a pod, or count it if the pod has the same one already."""
        meta = pod["metadata"]
        for event in self._pod_events(pod):
            if (event["reason"], event["message"]) == (reason, message):
                update = {"count": event["count"] + 1, "lastTimestamp": iso(now)}
                self.store.merge(Key("events", meta["namespace"], event["metadata"]["name"]), update)
                return
        new_event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": {
                "kind": "Pod",
                "apiVersion": "v1",
                **{key: meta[key] for key in ("name", "namespace", "uid")},
            },
            "type": event_type,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": iso(now),
            "lastTimestamp": iso(now),
            "source": {"component": "kubelet", "host": self.node.name},
        }
        self.store.create("events", meta["namespace"], new_event)


def error_summary(error: Exception) -> str:
    """Return an error's type and place, without its text, which may quote a client's data."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
