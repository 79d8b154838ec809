"""Records what a launcher's reconciler received about a job, for tests that replay it without a cluster.

With ``FLARGO_RECORD=1`` each scenario leaves ``tests/recordings/ARGO/SCENARIO.jsonl`` (with another value: a file in
that folder): a line for each input of the reconciler and each command that it returned, and a last line with the
verdict. Objects are reduced to the fields that flargo reads; uids are numbered, and versions count from the first one.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flargo.cluster.api import Kind
from flargo.control.inputs import (
    Admitted,
    Changed,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    SiteInput,
    WorkflowCreated,
)
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.job.names import attempt_name
from flargo.status.job_state import StopRequested, Submitted
from flargo.status.verdict import UNFOLLOWED, Verdict
from flargo.terms import NODE_NAME_ANNOTATION, Annotation, Label
from tests.harness.paths import RECORDINGS
from tests.harness.real_cluster import versions

Object = dict[str, Any]
FOLDER = RECORDINGS
LABELS = (Label.MANAGED_BY.value, Label.PARENT.value, "workflows.argoproj.io/workflow")
_lines: list[tuple[str, Object]] = []
"""The lines of all sites, each with the name of the Workflow that it concerns."""
_verdicts: dict[str, Verdict] = {}
"""The reconcilers' verdicts by Workflow: FLARE gets one for all attempts of a job."""
_saved: set[Path] = set()
"""The files that have been written: only a scenario's first job is recorded."""

SCENARIO: ContextVar[str] = ContextVar("scenario", default="")
"""The name of the scenario that the thread runs; empty means the name of the running test."""


def scenario_name() -> str:
    """Return the name of the running scenario or test."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].partition(" (call")[0]
    return SCENARIO.get() or test.removeprefix("test_")


def is_enabled() -> bool:
    """Return whether the environment asks for recordings."""
    return bool(os.environ.get("FLARGO_RECORD"))


def _folder() -> Path:
    value = os.environ.get("FLARGO_RECORD", "")
    return FOLDER / versions.ARGO if value == "1" else Path(value)


def file_name(name: str) -> str:
    """Return the file name of a scenario's recording."""
    return f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"


def attach(reconciler: Reconciler) -> None:
    """Record all inputs of a reconciler from now on, and the commands that it returns."""
    reconciler.on_handled = _Recorder()


def save(name: str, verdict: Verdict) -> None:
    """Write the recording of a job as the scenario's, with a file for each attempt after the first.

    Only the first job of a scenario is written.

    Args:
        name: the name of the job's first Workflow.
        verdict: what FLARE was told about the job.
    """
    for number in itertools.count(1):
        attempt = attempt_name(name, number)
        if number > 1 and attempt not in _verdicts:
            return
        scenario = f"{scenario_name()}, attempt {number}" if number > 1 else scenario_name()
        # FLARE's verdict on a job that is stopped between two attempts is not the one on any of its attempts.
        _save_attempt(attempt, _verdicts.get(attempt, verdict), scenario)


def _save_attempt(name: str, verdict: Verdict, scenario: str) -> None:
    scrub = Scrubber(name)
    lines = [scrub(line) for workflow, line in _lines if workflow == name]
    # A relist repeats what is known already.
    changes = [line for index, line in enumerate(lines) if index == 0 or line != lines[index - 1]]
    end = {"verdict": verdict.reason.name, "code": verdict.code}
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(line, separators=(",", ":"), sort_keys=True) for line in (*changes, end))
    file = folder / file_name(scenario)
    if file not in _saved:
        _saved.add(file)
        file.write_text("\n".join(rows) + "\n")


class Scrubber:
    """Reduces objects to what flargo reads, and replaces each uid, name and attempt."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._names: dict[str, str] = {}
        self._first_version: int | None = None

    def __call__(self, line: Object) -> Object:
        """Return a line that is fit for the repository."""
        text = json.dumps(line).replace(self._name, "job-site")
        clean: Object = json.loads(re.sub(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)", r"2026-01-01T\1", text))
        if "objects" in clean:
            clean["objects"] = [self._object(item) for item in clean["objects"]]
        if "events" in clean:
            times = ("firstTimestamp", "lastTimestamp", "eventTime")
            clean["events"] = [_pick(item, "reason", "message", "count", "series", *times) for item in clean["events"]]
        if "attempt" in clean:
            clean["attempt"] = self._alias("attempt", clean["attempt"])
        return clean

    def _alias(self, kind: str, value: str) -> str:
        number = len(self._names) + 1
        # An attempt is part of a Secret's name, and contains no dash.
        return self._names.setdefault(value, f"{kind}{number}" if kind == "attempt" else f"{kind}-{number}")

    def _object(self, item: Object) -> Object:
        meta = item["metadata"]
        version = int(meta.get("resourceVersion", 0))
        if self._first_version is None:
            self._first_version = version - 1
        attempt = (meta.get("annotations") or {}).get(Annotation.ATTEMPT)
        labels = {key: value for key, value in (meta.get("labels") or {}).items() if key in LABELS}
        if labels.get(Label.PARENT):
            labels[Label.PARENT.value] = self._alias("parent", labels[Label.PARENT])
        owners = [
            {"kind": owner["kind"], "uid": self._alias("uid", owner["uid"])}
            for owner in meta.get("ownerReferences") or []
        ]
        kept_meta: Object = {
            "name": meta["name"],
            "uid": self._alias("uid", meta["uid"]),
            "resourceVersion": str(version - self._first_version),
            "labels": labels,
            "ownerReferences": owners,
            "annotations": {
                **({Annotation.ATTEMPT.value: self._alias("attempt", attempt)} if attempt else {}),
                **_pick(meta.get("annotations") or {}, NODE_NAME_ANNOTATION),
            },
            "deletionTimestamp": meta.get("deletionTimestamp"),
        }
        status, address = _status(item), (item.get("status") or {}).get("hostIP")
        status["hostIP"] = self._alias("address", address) if address else None
        return _without_empty({"metadata": kept_meta, "spec": _spec(item), "status": status})


def _spec(item: Object) -> Object:
    spec = item.get("spec") or {}
    containers = [
        {"name": "main", "resources": {"limits": {"memory": row.get("resources", {}).get("limits", {}).get("memory")}}}
        for row in spec.get("containers") or []
        if row["name"] == "main"
    ]
    return {
        "suspend": spec.get("suspend"),
        "shutdown": spec.get("shutdown"),
        "nodeName": "node" if spec.get("nodeName") else None,
        "containers": containers,
    }


def _status(item: Object) -> Object:
    status = item.get("status") or {}
    nodes = {
        f"node-{number}": _pick(
            node, "type", "name", "templateName", "phase", "message", "startedAt", "synchronizationStatus"
        )
        | {"outputs": {"exitCode": (node.get("outputs") or {}).get("exitCode")}}
        for number, node in enumerate((status.get("nodes") or {}).values(), 1)
    }
    conditions = [
        _pick(row, "type", "status", "reason", "message")
        for row in status.get("conditions") or []
        if row["type"] in {"PodScheduled", "DisruptionTarget"}
    ]
    containers = {
        kind: [_container(row) for row in status.get(kind) or []]
        for kind in ("initContainerStatuses", "containerStatuses")
    }
    plain = _pick(status, "phase", "message", "reason", "synchronization")
    return {**plain, "nodes": nodes, "conditions": conditions, **containers}


def _container(row: Object) -> Object:
    state = row.get("state") or {}
    details: Object = {kind: _pick(value, "exitCode", "reason", "message") for kind, value in state.items()}
    container: Object = {"name": row["name"], **_without_empty({"state": details})}
    if "running" in state:
        container["state"] = {"running": {}}
    return container


def _pick(item: Object, *keys: str) -> Object:
    return {key: item[key] for key in keys if key in item}


def _without_empty(item: Object) -> Object:
    """Remove what is empty, at any depth of dictionaries."""
    cleaned = {
        key: _without_empty(value) if isinstance(value, dict) and key != "running" else value
        for key, value in item.items()
    }
    return {key: value for key, value in cleaned.items() if value not in (None, {}, [], "") or key == "running"}


def _name(item: Object) -> str:
    """Return the name of the Workflow that an object is, or belongs to."""
    labels = item["metadata"].get("labels") or {}
    return str(labels.get("workflows.argoproj.io/workflow") or item["metadata"]["name"])


class _Recorder:
    """Adds a line for each input of one reconciler that a replay needs, and for each command."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __call__(self, input_: SiteInput, result: Result) -> None:
        if isinstance(input_, Admitted):
            self._names.append(input_.name)
        _lines.extend(self._lines_of(input_))
        for state in result.states:
            if state.verdict is not None and state.cause not in UNFOLLOWED:
                _verdicts.setdefault(state.name, state.verdict)
        _lines.extend(
            (command.name, {"what": "command", "action": command.action.kind.name}) for command in result.commands
        )

    def _lines_of(self, input_: SiteInput) -> Iterator[tuple[str, Object]]:
        match input_:
            case Admitted(name, attempt, timeouts):
                yield name, {"what": "admit", "attempt": attempt, "timeouts": dataclasses.asdict(timeouts)}
            case JobInput(name, _, Submitted(error)):
                yield name, {"what": "submitted", "error": error}
            case JobInput(name, _, StopRequested(cause)):
                yield name, {"what": "stop", "cause": cause.name}
            case _:
                yield from self._lines_of_objects(input_)

    def _lines_of_objects(self, input_: SiteInput) -> Iterator[tuple[str, Object]]:
        match input_:
            case WorkflowCreated(name, _, item):
                yield name, {"what": "changed", "kind": Kind.WORKFLOW.name, "objects": [item]}
            case Listed(kind, items):
                for name in self._names:
                    own = [item for item in items if _name(item) == name]
                    yield name, {"what": "listed", "kind": kind.name, "objects": own}
            case Changed(kind, item, deleted):
                yield _name(item), {"what": "deleted" if deleted else "changed", "kind": kind.name, "objects": [item]}
            case PodEventsRead(command, events):
                yield command.name, {"what": "events", "events": list(events)}
            case ObjectsRead(command, workflow, pods):
                for kind, read in ((Kind.WORKFLOW, [workflow] if workflow is not None else []), (Kind.POD, list(pods))):
                    yield command.name, {"what": "read", "kind": kind.name, "objects": read}
