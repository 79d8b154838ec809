"""Observes the jobs of some federations with an administrator's rights, past the wire and its faults.

A deleted pod takes its exit code with it, so a look at the end is not enough: two requests watch pods and Workflows all
the time. What they report about a job is kept until ``forget``.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from flargo.terms import Label
from tests.harness.cluster import Cluster, LineStream
from tests.soak.oracle import ContainerEnd, JobHistory
from tests.soak.plan import attempt_names

Object = dict[str, Any]
_PATHS = {"pod": "api/v1/namespaces/{0}/pods", "Workflow": "apis/argoproj.io/v1alpha1/namespaces/{0}/workflows"}


@dataclass
class _PodRecord:
    started_at: float | None = None
    end: ContainerEnd | None = None
    gone_at: float | None = None


@dataclass
class _AttemptRecord:
    """The objects of one attempt of a job."""

    pods: dict[str, _PodRecord] = field(default_factory=dict)
    """By uid, in the order of their appearance."""
    workflow_at: float | None = None
    released_at: float | None = None


@dataclass
class _JobRecord:
    """The objects of one job that the observer has received."""

    attempts: dict[str, _AttemptRecord] = field(default_factory=dict)
    """By the names of their Workflows."""
    name: str = ""
    """The name of its first Workflow. One that a person resubmits has the same labels and another name."""
    events: list[str] = field(default_factory=list)
    """A line for people about each change, which begins with its time."""


class Observer:
    """Watches until the end of its ``with``."""

    def __init__(self, cluster: Cluster, federations: list[str]) -> None:
        """Start to watch; nothing of these federations may have happened yet."""
        self._changed = threading.Condition()
        self._jobs: dict[str, _JobRecord] = {}
        self._is_closing = False
        self.lost_streams: list[str] = []
        """The kinds whose watch has ended early: then the run proves nothing."""
        self._streams = [_watch(cluster, path, federations) for path in _PATHS.values()]
        self._threads = [
            threading.Thread(target=self._read, args=(kind, stream), name=f"observer {kind}", daemon=True)
            for kind, stream in zip(_PATHS, self._streams, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        for stream in self._streams:
            stream.close()
        for thread in self._threads:
            thread.join(5)

    def attempts(self, job_id: str) -> Sequence[JobHistory]:
        """Return what has happened to each attempt of a job so far: to one at least, to which nothing may have."""
        with self._changed:
            return _histories(self._jobs.get(job_id, _JobRecord()))

    def wait(self, job_id: str, condition: Callable[[Sequence[JobHistory]], bool], seconds: float) -> bool:
        """Wait until a condition holds of a job's attempts, for at most so many seconds; return whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(_histories(self._jobs.get(job_id, _JobRecord()))), seconds)

    def events(self, job_id: str) -> list[str]:
        """Return a line for each change of a job's Workflow and pods."""
        with self._changed:
            return list(self._jobs.get(job_id, _JobRecord()).events)

    def forget(self) -> None:
        """Forget all jobs that were observed."""
        with self._changed:
            self._jobs.clear()

    def _read(self, kind: str, stream: LineStream) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                event = json.loads(line)
                if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
                    self._record(kind, event["object"], time.time(), deleted=event["type"] == "DELETED")
        if not self._is_closing:
            self.lost_streams.append(kind)

    def _record(self, kind: str, item: Object, now: float, *, deleted: bool) -> None:
        with self._changed:
            job = self._jobs.setdefault(item["metadata"]["labels"][Label.JOB_ID], _JobRecord())
            name = workflow_name(item)
            job.name = job.name or name
            if name not in attempt_names(job.name):
                pass  # of a resubmitted Workflow: not the job, only an event
            elif kind == "pod":
                pod = job.attempts.setdefault(name, _AttemptRecord()).pods.setdefault(
                    item["metadata"]["uid"], _PodRecord()
                )
                _record_pod(pod, item, now, deleted=deleted)
            else:
                attempt = job.attempts.setdefault(name, _AttemptRecord())
                attempt.workflow_at = attempt.workflow_at or now
                if not item["spec"].get("suspend"):
                    attempt.released_at = attempt.released_at or now
            line = f"{kind} {', '.join(_describe(item))}{', deleted' if deleted else ''}"
            if not job.events or not job.events[-1].endswith(line):
                job.events.append(f"{now:.1f} {line}")
            self._changed.notify_all()


def workflow_name(item: Object) -> str:
    """Return the name of a Workflow, or of a pod's Workflow."""
    meta = item["metadata"]
    return str(meta["labels"].get("workflows.argoproj.io/workflow", meta["name"]))


def _watch(cluster: Cluster, path: str, federations: list[str]) -> LineStream:
    selector = f"{Label.FEDERATION}%20in%20({','.join(federations)})"
    return cluster.stream(
        f"{path.format(cluster.target.namespace)}?watch=true&timeoutSeconds=7200&labelSelector={selector}"
    )


def _histories(job: _JobRecord) -> Sequence[JobHistory]:
    names = [name for name in attempt_names(job.name) if name in job.attempts]
    return [_history(name, job.attempts[name]) for name in names] or [JobHistory()]


def _history(name: str, attempt: _AttemptRecord) -> JobHistory:
    pods = list(attempt.pods.values())
    first = pods[0] if pods else _PodRecord()
    starts = [pod.started_at for pod in pods if pod.started_at is not None]
    overs = [_over_at(pod) for pod in pods if pod.started_at is not None]
    ends = [at for at in overs if at is not None]
    return JobHistory(
        pod_count=len(pods),
        started_count=len(starts),
        first_pod_started=first.started_at is not None,
        first_end=first.end,
        first_pod_gone_at=first.gone_at,
        last_end=pods[-1].end if len(pods) > 1 else None,
        workflow_at=attempt.workflow_at,
        released_at=attempt.released_at,
        name=name,
        started_at=min(starts, default=None),
        over_at=max(ends, default=None) if len(ends) == len(overs) else None,
    )


def _over_at(pod: _PodRecord) -> float | None:
    return pod.end.observed_at if pod.end is not None else pod.gone_at


def _record_pod(pod: _PodRecord, item: Object, now: float, *, deleted: bool) -> None:
    state = _main_state(item)
    terminated = state.get("terminated")
    if pod.started_at is None and ("running" in state or (terminated or {}).get("startedAt")):
        pod.started_at = now
    if terminated is not None and pod.end is None:
        time_text = terminated.get("finishedAt")
        finished_at = datetime.fromisoformat(time_text).timestamp() if time_text else now
        reason, pod_reason = terminated.get("reason", ""), item["status"].get("reason", "")
        pod.end = ContainerEnd(terminated["exitCode"], reason, pod_reason, finished_at, now)
    if deleted:
        pod.gone_at = now


def _main_state(item: Object) -> Object:
    rows = (item.get("status") or {}).get("containerStatuses") or []
    state: Object = next((row.get("state") or {} for row in rows if row["name"] == "main"), {})
    return state


def _describe(item: Object) -> Iterator[str]:
    """Yield the parts of a line for people about a Workflow's or pod's state."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    yield f"{meta['name']} {meta['uid'][:4]} {status.get('phase') or 'without phase'}"
    yield from (f"{key}={spec[key]}" for key in ("suspend", "shutdown") if key in spec)
    yield from (f"{key}: {status[key]}" for key in ("reason", "message") if key in status)
    if "deletionTimestamp" in meta:
        yield f"deletion by {meta['deletionTimestamp']}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" or condition.get("reason") == "Unschedulable":
            yield f"{condition['type']} {condition.get('reason')}"
    for state, facts in _main_state(item).items():
        keys = ("exitCode", "reason", "finishedAt", "startedAt")
        yield f"main {state} {' '.join(f'{key}={facts[key]}' for key in keys if key in facts)}".rstrip()
    for node in (status.get("nodes") or {}).values():
        code = (node.get("outputs") or {}).get("exitCode")
        yield f"node {node.get('phase')} {node.get('message', '')}{f' code {code}' if code else ''}".rstrip()
