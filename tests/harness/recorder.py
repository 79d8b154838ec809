"""Writes down what a launcher saw of a job, for tests that play it again without a cluster.

With ``FLARGO_RECORD=1`` each scenario leaves ``tests/recordings/ARGO/SCENARIO.jsonl`` (with another value: a file in
that folder): a line for each thing that happened to the engine or that it ordered, and a last line with the verdict.
Of objects only what flargo reads is kept; uids are numbered, and versions count from the first one.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from flargo.cluster.api import Kind
from flargo.control.reconciler import Command, Reconciler
from flargo.status.verdict import Verdict
from flargo.terms import Annotation, Label, StartTimeouts
from tests.harness.paths import RECORDINGS
from tests.harness.real_cluster import versions

Object = dict[str, Any]
FOLDER = RECORDINGS
LABELS = (Label.PARENT.value, "workflows.argoproj.io/workflow")
_lines: list[tuple[str, Object]] = []
"""Everything, of all sites: the name of what it concerns, and a line."""
_saved: set[Path] = set()


SCENARIO: ContextVar[str] = ContextVar("scenario", default="")
"""The name of the scenario that a thread runs; none: the test that runs counts."""


def scenario_name() -> str:
    """The name of what runs."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].partition(" (call")[0]
    return SCENARIO.get() or test.removeprefix("test_")


def is_enabled() -> bool:
    """Whether the environment asks for recordings."""
    return bool(os.environ.get("FLARGO_RECORD"))


def _folder() -> Path:
    said = os.environ.get("FLARGO_RECORD", "")
    return FOLDER / versions.ARGO if said == "1" else Path(said)


def file_name(name: str) -> str:
    """What the recording of a scenario is called."""
    return f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.jsonl"


def attach(engine: Reconciler) -> None:
    """Write down all that happens to an engine from now on."""
    ear = _Listener()
    for method, note in ear.notes.items():
        setattr(engine, method, _recording(getattr(engine, method), note))


def save(name: str, verdict: Verdict) -> None:
    """Keep what was heard of one Workflow as the scenario's recording; the first job of a scenario counts."""
    scrub = Scrubber(name)
    lines = [scrub(line) for concerned, line in _lines if concerned == name]
    # A relist tells what is known already, again and again.
    told = [line for at, line in enumerate(lines) if at == 0 or line != lines[at - 1]]
    end = {"verdict": verdict.reason.name, "code": verdict.code}
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps(line, separators=(",", ":"), sort_keys=True) for line in (*told, end))
    file = folder / file_name(scenario_name())
    if file not in _saved:
        _saved.add(file)
        file.write_text("\n".join(rows) + "\n")


class Scrubber:
    """Keeps of objects what flargo reads, and no uid, name or attempt as it was."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._names: dict[str, str] = {}
        self._first_version: int | None = None

    def __call__(self, line: Object) -> Object:
        """A line that may be kept for ever."""
        said = json.dumps(line).replace(self._name, "job-site")
        made: Object = json.loads(re.sub(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)", r"2026-01-01T\1", said))
        if "objects" in made:
            made["objects"] = [self._object(item) for item in made["objects"]]
        if "events" in made:
            times = ("firstTimestamp", "lastTimestamp", "eventTime")
            made["events"] = [_pick(item, "reason", "message", "count", "series", *times) for item in made["events"]]
        if "attempt" in made:
            made["attempt"] = self._called("attempt", made["attempt"])
        return made

    def _called(self, kind: str, said: str) -> str:
        number = len(self._names) + 1
        # An attempt is part of a name, and has no dash of its own.
        return self._names.setdefault(said, f"{kind}{number}" if kind == "attempt" else f"{kind}-{number}")

    def _object(self, item: Object) -> Object:
        meta = item["metadata"]
        version = int(meta.get("resourceVersion", 0))
        if self._first_version is None:
            self._first_version = version - 1
        attempt = (meta.get("annotations") or {}).get(Annotation.ATTEMPT)
        labels = {key: value for key, value in (meta.get("labels") or {}).items() if key in LABELS}
        if labels.get(Label.PARENT):
            labels[Label.PARENT.value] = self._called("parent", labels[Label.PARENT])
        owners = [
            {"kind": owner["kind"], "uid": self._called("uid", owner["uid"])}
            for owner in meta.get("ownerReferences") or []
        ]
        kept: Object = {
            "name": meta["name"],
            "uid": self._called("uid", meta["uid"]),
            "resourceVersion": str(version - self._first_version),
            "labels": labels,
            "ownerReferences": owners,
            "annotations": {Annotation.ATTEMPT.value: self._called("attempt", attempt)} if attempt else {},
            "deletionTimestamp": meta.get("deletionTimestamp"),
        }
        return _without_empty({"metadata": kept, "spec": _spec(item), "status": _status(item)})


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
        f"node-{number}": _pick(node, "type", "phase", "message", "startedAt", "synchronizationStatus")
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
    kept: Object = {kind: _pick(said, "exitCode", "reason", "message") for kind, said in state.items()}
    filled: Object = {"name": row["name"], **_without_empty({"state": kept})}
    if "running" in state:
        filled["state"] = {"running": {}}
    return filled


def _pick(said: Object, *keys: str) -> Object:
    return {key: said[key] for key in keys if key in said}


def _without_empty(said: Object) -> Object:
    """Without what is empty, at any depth of dictionaries."""
    deep = {
        key: _without_empty(value) if isinstance(value, dict) and key != "running" else value
        for key, value in said.items()
    }
    return {key: value for key, value in deep.items() if value not in (None, {}, [], "") or key == "running"}


def _recording(method: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def noted(*arguments: Any, **named: Any) -> Any:
        note(*arguments, **named)
        outcome = method(*arguments, **named)
        commands = outcome.commands if outcome is not None else ()
        _lines.extend((command.name, {"what": "command", "action": command.action.kind.name}) for command in commands)
        return outcome

    return noted


def _name(item: Object) -> str:
    """The Workflow that an object is, or is of."""
    labels = item["metadata"].get("labels") or {}
    return str(labels.get("workflows.argoproj.io/workflow") or item["metadata"]["name"])


class _Listener:
    """Hears what happens to one engine."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self.notes: dict[str, Callable[..., None]] = {
            "admit": self._admit,
            "on_submitted": lambda name, error, *_: _lines.append((name, {"what": "submitted", "error": error})),
            "stop": lambda name, cause, *_: _lines.append((name, {"what": "stop", "cause": cause.name})),
            "on_listed": self._listed,
            "on_changed": _changed,
            "on_events_listed": _events_listed,
            "on_confirmed": _confirmed,
            **dict.fromkeys(("on_action_done", "tick"), _ignore),
        }

    def _admit(self, name: str, attempt: str, timeouts: StartTimeouts, *_: Any) -> None:
        self._names.append(name)
        _lines.append((name, {"what": "admit", "attempt": attempt, "timeouts": dataclasses.asdict(timeouts)}))

    def _listed(self, kind: Kind, items: list[Object], *_: Any) -> None:
        for name in self._names:
            its = [item for item in items if _name(item) == name]
            _lines.append((name, {"what": "listed", "kind": kind.name, "objects": its}))


def _changed(kind: Kind, item: Object, *_: Any, deleted: bool) -> None:
    what = "deleted" if deleted else "changed"
    _lines.append((_name(item), {"what": what, "kind": kind.name, "objects": [item]}))


def _confirmed(order: Command, workflow: Object | None, pods: list[Object], *_: Any) -> None:
    for kind, items in ((Kind.WORKFLOW, [workflow] if workflow is not None else []), (Kind.POD, pods)):
        _lines.append((order.name, {"what": "read", "kind": kind.name, "objects": items}))


def _events_listed(command: Command, items: list[Object], *_: Any) -> None:
    _lines.append((command.name, {"what": "events", "events": items}))


def _ignore(*_: Any, **__: Any) -> None:
    """Noted is only what is ordered for it."""
