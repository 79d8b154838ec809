"""Sees what happens to the jobs of some federations, with an administrator's eyes and past the wire's faults.

A pod that is deleted takes its exit code with it, so looking at the end is not enough: two ``kubectl get --raw`` follow
pods and Workflows all the time. What they tell of a job is kept until ``forget``.
"""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from flargo.terms import Label
from tests.harness.cluster import Cluster
from tests.soak.oracle import End, Seen

Object = dict[str, Any]
_PATHS = {"pod": "/api/v1/namespaces/{0}/pods", "Workflow": "/apis/argoproj.io/v1alpha1/namespaces/{0}/workflows"}


@dataclass
class _Pod:
    started: bool = False
    end: End | None = None
    gone: float | None = None


@dataclass
class _Account:
    """What is known of one job."""

    pods: dict[str, _Pod] = field(default_factory=dict)
    """By uid, the first one seen first."""
    workflow: float | None = None
    told: list[str] = field(default_factory=list)
    """For people."""


class Witness:
    """See the module. Use it in a ``with``."""

    def __init__(self, cluster: Cluster, federations: list[str]) -> None:
        """Begin to follow, without anything having happened yet."""
        self._changed = threading.Condition()
        self._jobs: dict[str, _Account] = {}
        self._leaving = False
        self.broken: list[str] = []
        """Of what the witness does not hear any more: then the run proves nothing."""
        self._processes = [_follow(cluster, path, federations) for path in _PATHS.values()]
        self._threads = [
            threading.Thread(target=self._read, args=(kind, process), name=f"witness {kind}", daemon=True)
            for kind, process in zip(_PATHS, self._processes, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        for process in self._processes:
            process.kill()
            process.wait()
        for thread in self._threads:
            thread.join(5)

    def seen(self, job_id: str) -> Seen:
        """What has happened to a job so far."""
        with self._changed:
            return _summary(self._jobs.get(job_id, _Account()))

    def wait(self, job_id: str, until: Callable[[Seen], bool], seconds: float) -> bool:
        """Wait until something is true of what has happened to a job; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: until(_summary(self._jobs.get(job_id, _Account()))), seconds)

    def told(self, job_id: str) -> list[str]:
        """All that was heard of a job, a line each."""
        with self._changed:
            return list(self._jobs.get(job_id, _Account()).told)

    def forget(self) -> None:
        """Of all jobs."""
        with self._changed:
            self._jobs.clear()

    def _read(self, kind: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError), process.stdout:
            for line in process.stdout:
                event = json.loads(line)
                if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
                    self._note(kind, event["object"], time.time(), gone=event["type"] == "DELETED")
        if not self._leaving:
            self.broken.append(kind)

    def _note(self, kind: str, item: Object, now: float, *, gone: bool) -> None:
        with self._changed:
            job = self._jobs.setdefault(item["metadata"]["labels"][Label.JOB_ID], _Account())
            if kind == "pod":
                _note_pod(job.pods.setdefault(item["metadata"]["uid"], _Pod()), item, now, gone=gone)
            else:
                job.workflow = job.workflow or now
            line = f"{kind} {', '.join(_words(item))}{', gone' if gone else ''}"
            if not job.told or not job.told[-1].endswith(line):
                job.told.append(f"{now:.1f} {line}")
            self._changed.notify_all()


def _follow(cluster: Cluster, path: str, federations: list[str]) -> "subprocess.Popen[str]":
    select = f"{Label.FEDERATION}%20in%20({','.join(federations)})"
    raw = f"{path.format(cluster.target.namespace)}?watch=true&timeoutSeconds=7200&labelSelector={select}"
    words = ("kubectl", f"--kubeconfig={cluster.target.kubeconfig}", "get", f"--raw={raw}")
    return subprocess.Popen(words, text=True, stdout=subprocess.PIPE)


def _summary(job: _Account) -> Seen:
    pods = list(job.pods.values())
    first = pods[0] if pods else _Pod()
    return Seen(
        len(pods),
        sum(pod.started for pod in pods),
        first.started,
        first.end,
        first.gone,
        pods[-1].end if len(pods) > 1 else None,
        job.workflow,
    )


def _note_pod(pod: _Pod, item: Object, now: float, *, gone: bool) -> None:
    state = _main(item)
    pod.started = pod.started or "running" in state or bool((state.get("terminated") or {}).get("startedAt"))
    ended = state.get("terminated")
    if ended is not None and pod.end is None:
        finished = ended.get("finishedAt")
        at = datetime.fromisoformat(finished).timestamp() if finished else now
        pod.end = End(ended["exitCode"], ended.get("reason", ""), item["status"].get("reason", ""), at, now)
    if gone:
        pod.gone = now


def _main(item: Object) -> Object:
    rows = (item.get("status") or {}).get("containerStatuses") or []
    state: Object = next((row.get("state") or {} for row in rows if row["name"] == "main"), {})
    return state


def _words(item: Object) -> Iterator[str]:
    """What matters of an object, for people."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    yield f"{meta['name']} {meta['uid'][:4]} {status.get('phase') or 'without phase'}"
    yield from (f"{key}={spec[key]}" for key in ("suspend", "shutdown") if key in spec)
    yield from (f"{key}: {status[key]}" for key in ("reason", "message") if key in status)
    if "deletionTimestamp" in meta:
        yield f"deleting by {meta['deletionTimestamp']}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" or condition.get("reason") == "Unschedulable":
            yield f"{condition['type']} {condition.get('reason')}"
    for state, facts in _main(item).items():
        kept = ("exitCode", "reason", "finishedAt", "startedAt")
        yield f"main {state} {' '.join(f'{key}={facts[key]}' for key in kept if key in facts)}".rstrip()
    for node in (status.get("nodes") or {}).values():
        code = (node.get("outputs") or {}).get("exitCode")
        yield f"node {node.get('phase')} {node.get('message', '')}{f' code {code}' if code else ''}".rstrip()
