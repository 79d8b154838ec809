"""Condenses a recording to the sequences of states in which two clusters must agree.

Workflows and pods come by two watches, between which there is no order, so each has a sequence of its own. How long a
state lasts, and so whether a launcher observes it, depends on the cluster's delays. States that only a delay makes
visible are left out: that everything runs well (a program may end before a launcher has observed it running), how far
the step's status follows a pod that has not ended, and that main ends before its pod.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]
State = tuple[str, ...]
KILLED_CODES = frozenset({"2", "137", "143"})
"""Exit codes of a program that was killed. It is a race whether Argo's or the kubelet's SIGTERM ends it, or a SIGKILL;
Argo's executor exits with 2 if the signal reaches the executor itself."""
OBJECT_LINES = frozenset({"changed", "listed", "read"})
"""Kinds of lines that hold current objects; the line of a deleted object holds its last state."""


def sequences(recording: Path) -> dict[str, list[State]]:
    """Return the successive states of a recording's Workflow and of its pods, by kind."""
    return {
        kind: _without_repeats(map(state, _drop_older(_objects(recording, kind))))
        for kind, state in (("WORKFLOW", _workflow), ("POD", _pod))
    }


def _objects(recording: Path, kind: str) -> Iterator[Object]:
    for line in map(json.loads, recording.read_text().splitlines()):
        if line.get("what") in OBJECT_LINES and line["kind"] == kind:
            yield from filter(_is_of_the_job, line["objects"])


def _is_of_the_job(item: Object) -> bool:
    """Return whether an object is not the pod of an exit handler, which only a fresh read of a job's objects shows."""
    labels = item["metadata"].get("labels") or {}
    return "workflows.argoproj.io/workflow" not in labels or "app.kubernetes.io/managed-by" in labels


def _drop_older(items: Iterable[Object]) -> Iterator[Object]:
    """Drop objects that are not newer than an earlier one: a read is ahead of a watch, and watches repeat objects."""
    newest = 0
    for item in items:
        version = int(item["metadata"]["resourceVersion"])
        if version > newest:
            yield item
            newest = version


def _without_repeats(states: Iterable[State | None]) -> list[State]:
    distinct: list[State] = []
    for state in states:
        if state is not None and distinct[-1:] != [state]:
            distinct.append(state)
    return distinct


def _workflow(item: Object) -> State | None:
    """Return phase and message of the Workflow, then those of its step; None while everything runs well."""
    status = item.get("status") or {}
    node: Object = next(iter((status.get("nodes") or {}).values()), {})
    if status.get("phase") == "Running" and node.get("phase") not in {"Succeeded", "Failed", "Error"}:
        return None
    return tuple(text for it in (status, node) for text in (it.get("phase", ""), _scrub(it.get("message", ""))))


def _pod(item: Object) -> State | None:
    """Return the state of a pod; None while everything runs well.

    It consists of the pod's phase, reason and message, of main's state with its exit code, reason and message, and of
    the conditions that have a reason.
    """
    status = item.get("status") or {}
    conditions = [
        f"{row['type']} {row['reason']}: {_scrub(row.get('message', ''))}"
        for row in status.get("conditions") or []
        if row.get("reason")
    ]
    if status.get("phase") == "Running" and not conditions:
        return None
    rows: list[Object] = [row for row in status.get("containerStatuses") or [] if row["name"] == "main"]
    states: Object = (rows[0].get("state") or {}) if rows else {}
    kind: str = next(iter(states), "")
    state: Object = states.get(kind, {})
    code = str(state.get("exitCode", ""))
    main = [kind, "killed" if code in KILLED_CODES else code, state.get("reason", ""), _scrub(state.get("message", ""))]
    return (status.get("phase", ""), status.get("reason", ""), _scrub(status.get("message", "")), *main, *conditions)


def _scrub(message: str) -> str:
    """Replace what differs between clusters: addresses, uids and amounts."""
    return re.sub(r"(?<!exit code )\b(\d[\w.]*|[0-9a-f]{8,}\b)", "N", message)


def messages(recording: Path) -> set[str]:
    """Return all messages of Argo, the scheduler and the kubelet in a recording, whether or not their state lasts."""
    objects = (item for kind in ("WORKFLOW", "POD") for item in _objects(recording, kind))
    return {_scrub(message) for item in objects for message in _messages(item)}


def _messages(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "message")
        yield from (message for each in value.values() for message in _messages(each))
    elif isinstance(value, list):
        yield from (message for each in value for message in _messages(each))
