"""The one loop that moves everything: what changed or is due is looked at, and what the pure parts say is done."""

import asyncio
import contextlib
import logging
import math
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flargo.embedded import argo, kubelet, messages, mounts, pod_manifest, schema
from flargo.embedded.kubelet import main_of
from flargo.embedded.log_stream import Times
from flargo.embedded.model import OVER, Lags, Node, Object, Policy, Seen, iso, quantity
from flargo.embedded.processes import Limits, Processes, error_reason
from flargo.embedded.store import Change, Key, RefusedError, Selector, Store

COUNTED = {"pods": "pods", "workflows": "count/workflows.argoproj.io"}
"""What a ResourceQuota calls them."""
TICK = 0.05
"""Seconds between two looks at the processes, while any runs."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the stand-in has, and how fast it is."""

    lags: Lags = field(default_factory=Lags)
    node: Node = field(default_factory=Node)
    accounts: tuple[str, ...] = ("default", "flargo-launcher", "flargo-job", "flargo-executor")
    """Service accounts that are there from the start, in any namespace."""
    executors: frozenset[str] = frozenset({"flargo-executor"})
    """Those whose containers may report to Argo."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Persistent volume claims: a directory of this machine for each."""
    missing_images: frozenset[str] = frozenset()
    """Images that can't be pulled. Of all others only the name is looked at."""
    instance_id: str = ""
    """Of the Workflow controller."""


class Cluster:
    """The controllers, the node, and the objects that they share."""

    def __init__(
        self, store: Store, processes: Processes, root: Path, settings: Settings, clock: Callable[[], float]
    ) -> None:
        """Set it up; ``root`` takes a directory for each pod."""
        self.store, self.processes, self.settings = store, processes, settings
        self.controller_runs = True
        """False: the Workflow controller is away."""
        self.policies: list[Policy] = []
        """Of admission, in force."""
        self.times = Times()
        """Of the lines of logs."""
        self.problem: Exception | None = None
        """Why nothing moves any more: a bug of this engine's."""
        self._root, self._clock = root, clock
        self._due: dict[Key, float] = {}
        self._failed: dict[Key, str] = {}
        """Objects whose last step failed, and how, as it was logged."""
        self._wake = asyncio.Event()
        store.listeners.append(self._heard)

    def folder(self, pod: Object) -> Path:
        """A pod's directory."""
        return self._root / str(pod["metadata"]["uid"])

    def log(self, pod: Object) -> Path:
        """What a pod's main container has written."""
        return self.folder(pod) / "main.log"

    async def run(self) -> None:
        """Move until cancelled; a bug ends it, and is told to whoever asks for anything."""
        try:
            await self._move()
        except Exception as error:
            self.problem = error
            raise

    async def _move(self) -> None:
        while True:
            for uid in self.processes.look():
                self._due.update(dict.fromkeys(self._pods_of(uid), 0.0))
            self._turn(self._clock())
            self._wake.clear()
            pause = min(self._due.values(), default=float("inf")) - self._clock()
            # Without a controller what is due for it stays due.
            pause = max(pause, 0.005 if self.controller_runs else TICK)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pause, TICK if len(self.processes) else 60.0))

    def controller(self, *, runs: bool) -> None:
        """Take the Workflow controller away, or give it back."""
        self.controller_runs = runs
        self._wake.set()

    def evict(self, key: Key, options: Object) -> None:
        """The eviction API: the pod is told of, then deleted with its own grace."""
        pod = self.store.get(key)
        self.store.merge(key, {"status": kubelet.disrupted(pod, self._clock())})
        self.store.delete(key, options)

    def close(self) -> None:
        """End all processes and remove their directories."""
        self.processes.close()
        shutil.rmtree(self._root, ignore_errors=True)

    # --- who is to be looked at

    def _heard(self, change: Change) -> None:
        key, meta = change.key, change.after["metadata"]
        if key.resource == "pods" and change.gone:
            self.processes.forget(meta["uid"])
            shutil.rmtree(self.folder(change.after), ignore_errors=True)
            self.times.forget(self.log(change.after))
            for seen in self.store.select(
                "events", key.namespace, Selector(fields=f"involvedObject.uid={meta['uid']}")
            ):
                self.store.remove(Key("events", key.namespace, seen.item["metadata"]["name"]))
        if key.resource in {"pods", "workflows"}:
            self._due.pop(key, None) if change.gone else self._due.update({key: 0.0})
        if change.gone:
            self._failed.pop(key, None)
        for owner in meta.get("ownerReferences") or []:
            self._due[Key("workflows", key.namespace, owner["name"])] = 0.0
            self._due[key] = 0.0
        if change.gone:
            self._due.update(dict.fromkeys(self._owned(meta["uid"], key.namespace), 0.0))
        self._wake.set()

    def _owned(self, uid: str, namespace: str) -> list[Key]:
        return [
            Key(resource, namespace, seen.item["metadata"]["name"])
            for resource in ("pods", "secrets", "events")
            for seen in self.store.select(resource, namespace)
            if any(owner["uid"] == uid for owner in seen.item["metadata"].get("ownerReferences") or [])
        ]

    def _pods_of(self, uid: str) -> list[Key]:
        found = (seen.item["metadata"] for seen in self.store.select("pods") if seen.item["metadata"]["uid"] == uid)
        return [Key("pods", meta["namespace"], meta["name"]) for meta in found]

    def _turn(self, now: float) -> None:
        retry = self.settings.lags.retry
        for key in [key for key, due in self._due.items() if due <= now]:
            if key.resource == "workflows" and not self.controller_runs:
                continue
            del self._due[key]
            try:
                wake = self._advance(key, now)
                self._failed.pop(key, None)
            except Exception as error:  # noqa: BLE001  (one object's trouble must not end what all others are moved by)
                self._note_failure(key, error)
                wake = now + retry
            if wake is not None and math.isfinite(wake) and self._due.get(key, wake) >= wake:
                self._due[key] = wake

    def _advance(self, key: Key, now: float) -> float | None:
        """One step of one object; when it is to be looked at again."""
        self._collect(key)
        seen = self.store.seen(key)
        look = {"workflows": self._reconcile, "pods": self._step}.get(key.resource)
        return look(key, seen, now) if seen is not None and look is not None else None

    def _note_failure(self, key: Key, error: Exception) -> None:
        failure = cause(error)
        if self._failed.get(key) != failure:
            said = "%s %s/%s: a step failed (%s); it is tried again, and other objects go on"
            _log.error(said, key.resource, key.namespace, key.name, failure)
        self._failed[key] = failure

    def _collect(self, key: Key) -> None:
        """The garbage collector: what is owned by what is not there goes, with its own grace."""
        seen = self.store.seen(key)
        meta = seen.item["metadata"] if seen else {}
        owners = meta.get("ownerReferences") or []
        if not owners or meta.get("deletionTimestamp"):
            return
        for owner in owners:
            found = self.store.seen(Key("workflows", key.namespace, owner["name"]))
            if owner.get("kind") == "Workflow" and found and found.item["metadata"]["uid"] == owner["uid"]:
                return
        self.store.delete(key, {})

    # --- Argo

    def _reconcile(self, key: Key, seen: Seen, now: float) -> float | None:
        labels = seen.item["metadata"].get("labels") or {}
        if labels.get(argo.INSTANCE_LABEL, "") != self.settings.instance_id:
            return None
        pods = [
            pod
            for pod in self.store.select("pods", key.namespace, Selector(f"{pod_manifest.WORKFLOW_LABEL}={key.name}"))
            if any(owner["uid"] == seen.item["metadata"]["uid"] for owner in pod.item["metadata"]["ownerReferences"])
        ]
        changes = argo.reconcile(argo.Look(seen, pods, *self._refused(key, seen.item)), now, self.settings.lags)
        if changes.delete:
            self.store.delete(key, {})
            return None
        if changes.create is not None:
            with contextlib.suppress(RefusedError):  # it is there already
                self.store.create("pods", key.namespace, changes.create)
        if changes.status is not None:
            self._write_status(key, seen.item, changes.status)
        for name in changes.terminate_pods:
            self.processes.terminate(self.store.get(Key("pods", key.namespace, name))["metadata"]["uid"])
        for name in changes.delete_pods:
            self.store.delete(Key("pods", key.namespace, name), {})
        return changes.wake

    def _write_status(self, key: Key, workflow: Object, status: Object) -> None:
        phase = status["phase"]
        labels = {argo.PHASE_LABEL: phase, argo.COMPLETED_LABEL: str(phase in OVER).lower()}
        meta = {**workflow["metadata"], "labels": {**(workflow["metadata"].get("labels") or {}), **labels}}
        self.store.replace(key, {**workflow, "metadata": meta, "status": status})

    def _refused(self, key: Key, workflow: Object) -> tuple[str, str]:
        """What the API would have against a Workflow's pod now: why it is forbidden, and why it is invalid."""
        if pod_manifest.problem(workflow):
            return "", ""
        pod = pod_manifest.pod(workflow)
        pod["metadata"]["namespace"] = key.namespace
        if found := schema.problem("pods", pod):
            return "", messages.INVALID_OBJECT.format(schema.kind_of("pods"), key.name, found)
        accounts = {seen.item["metadata"]["name"] for seen in self.store.select("serviceaccounts", key.namespace)}
        forbidden = self.denial("pods", pod) or self.over_quota("pods", key.namespace)
        return kubelet.denied(pod, {*accounts, *self.settings.accounts}, forbidden), ""

    def denial(self, resource: str, item: Object) -> str:
        """What an admission policy has against an object; nothing if none has."""
        against = (policy for policy in self.policies if policy.denies(resource, item))
        return next((messages.POLICY.format(policy.name, policy.message) for policy in against), "")

    def over_quota(self, resource: str, namespace: str) -> str:
        """Which ResourceQuota does not take one more object; nothing if all do."""
        counted = COUNTED.get(resource)
        for seen in self.store.select("resourcequotas", namespace) if counted else ():
            most = ((seen.item.get("spec") or {}).get("hard") or {}).get(counted)
            living = self.store.select(resource, namespace)
            # A pod that is over does not count; any other object does for as long as it is there.
            used = sum(resource != "pods" or (it.item.get("status") or {}).get("phase") not in OVER for it in living)
            if most is not None and used >= quantity(most):
                return messages.QUOTA.format(seen.item["metadata"]["name"], counted, used, most)
        return ""

    # --- the node

    def _step(self, key: Key, seen: Seen, now: float) -> float | None:
        step = kubelet.step(self._look(key, seen), self.settings.node, now, self.settings.lags)
        uid = seen.item["metadata"]["uid"]
        for kind, reason, message in step.events:
            self._event(seen.item, kind, reason, message, now)
        if step.remove:
            self.store.remove(key)
            return None
        if step.end is not None:
            self.processes.end(uid, step.end)
        if step.start:
            self._start(seen.item)
            return now + self.settings.lags.init
        patch: Object = {"status": step.status} if step.status is not None else {}
        if step.node:
            patch["spec"] = {"nodeName": step.node}
        if patch:
            self.store.merge(key, patch)
        return step.wake

    def _look(self, key: Key, seen: Seen) -> kubelet.Look:
        item = seen.item
        process = self.processes.state(item["metadata"]["uid"])
        account = item["metadata"]["annotations"]["flargo.dev/executor-account"]
        powerless = "" if account in self.settings.executors else messages.EXECUTOR
        look = kubelet.Look(seen, process, powerless=powerless.format(namespace=key.namespace, name=account))
        if not (item.get("status") or {}).get("startTime"):
            taken = [pod.item for pod in self.store.select("pods") if (pod.item.get("status") or {}).get("startTime")]
            living = [pod for pod in taken if pod["status"].get("phase") not in OVER]
            if item["spec"].get("nodeName"):
                return kubelet.Look(seen, process, rejected=kubelet.rejected(item, self.settings.node, living))
            short = kubelet.unschedulable(item, self.settings.node, living, self.settings.claims)
            return kubelet.Look(seen, process, unschedulable=short)
        if process is None:
            secret = self._secret(key.namespace)
            return kubelet.Look(
                seen,
                unmounted=tuple(kubelet.unmounted(item, secret)),
                uncreated=kubelet.uncreated(item, secret, self.settings.missing_images),
            )
        return look

    def _secret(self, namespace: str) -> Callable[[str], Object | None]:
        def find(name: str) -> Object | None:
            seen = self.store.seen(Key("secrets", namespace, name))
            return seen.item if seen else None

        return find

    def _start(self, pod: Object) -> None:
        uid, folder, secret = pod["metadata"]["uid"], self.folder(pod), self._secret(pod["metadata"]["namespace"])
        try:
            where = mounts.build(pod, folder, secret, self.settings.claims)
            program = mounts.program(pod, where, folder, secret, sys.executable)
        except (OSError, ValueError, LookupError) as error:
            # A path that leads out of its folder, a link on the way, two files at one place, a claim that is not there.
            self.processes.fail(uid, messages.NOT_PREPARED.format(error_reason(error)))
            return
        self.processes.start(uid, program, self.log(pod), self._limits(pod, folder))

    def _limits(self, pod: Object, folder: Path) -> Limits:
        said = (main_of(pod).get("resources") or {}).get("limits") or {}
        disk: dict[Path, tuple[float, str]] = {}
        if "ephemeral-storage" in said:
            most = said["ephemeral-storage"]
            disk[folder] = (quantity(most), messages.DISK.format(most))
        for volume in pod["spec"].get("volumes") or []:
            most = (volume.get("emptyDir") or {}).get("sizeLimit")
            if most is not None:
                message = messages.EMPTY_DIR.format(volume["name"], most)
                disk[folder / "volumes" / volume["name"]] = (quantity(most), message)
        return Limits(quantity(said["memory"]) if "memory" in said else None, disk)

    def _events(self, pod: Object) -> list[Object]:
        meta = pod["metadata"]
        of_it = Selector(fields=f"involvedObject.uid={meta['uid']}")
        return [seen.item for seen in self.store.select("events", meta["namespace"], of_it)]

    def _event(self, pod: Object, kind: str, reason: str, message: str, now: float) -> None:
        meta = pod["metadata"]
        for seen in self.store.select(
            "events", meta["namespace"], Selector(fields=f"involvedObject.uid={meta['uid']}")
        ):
            if (seen.item["reason"], seen.item["message"]) == (reason, message):
                again = {"count": seen.item["count"] + 1, "lastTimestamp": iso(now)}
                self.store.merge(Key("events", meta["namespace"], seen.item["metadata"]["name"]), again)
                return
        concerned = {"kind": "Pod", "apiVersion": "v1", **{key: meta[key] for key in ("name", "namespace", "uid")}}
        made = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}"},
            "involvedObject": concerned,
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": iso(now),
            "lastTimestamp": iso(now),
            "source": {"component": "kubelet", "host": self.settings.node.name},
        }
        self.store.create("events", meta["namespace"], made)


def cause(error: Exception) -> str:
    """An error's type and place, without its text, which may quote what a client has sent."""
    places = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(places[-1].filename).name}:{places[-1].lineno}" if places else "unknown"
