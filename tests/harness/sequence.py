"""What a recording shows of a Workflow and its pod, condensed to what two clusters can be compared by.

Workflows and pods come by two streams, between which there is no order: a sequence for each. How long a state lasts,
and so whether a launcher sees it at all, is a matter of lags. What only a lag shows is left out: that all runs well
(a program may be over before anybody has seen it run), how far the step has followed a pod that is not over, and that
main is over before its pod is.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]
State = tuple[str, ...]
ENDED = frozenset({"2", "137", "143"})
"""Exit codes of a program that was ended: whose SIGTERM it is, Argo's or the kubelet's, and whether SIGKILL is in time,
is a race; Argo's executor makes a 2 of a signal to itself."""
SHOWN = frozenset({"changed", "listed", "read"})
"""Lines with objects as they are: a deleted one is told as it was last."""


def sequences(recording: Path) -> dict[str, list[State]]:
    """The states of a Workflow and of its pods, one after the other, by their kinds."""
    return {
        kind: _without_repeats(map(state, _newer(_shown(recording, kind))))
        for kind, state in (("WORKFLOW", _workflow), ("POD", _pod))
    }


def _shown(recording: Path, kind: str) -> Iterator[Object]:
    for line in map(json.loads, recording.read_text().splitlines()):
        if line.get("what") in SHOWN and line["kind"] == kind:
            yield from line["objects"]


def _newer(items: Iterable[Object]) -> Iterator[Object]:
    """What is older than what was seen before tells nothing: a read is ahead of a stream, and streams are repeated."""
    newest = 0
    for item in items:
        version = int(item["metadata"]["resourceVersion"])
        if version > newest:
            yield item
            newest = version


def _without_repeats(states: Iterable[State | None]) -> list[State]:
    made: list[State] = []
    for state in states:
        if state is not None and made[-1:] != [state]:
            made.append(state)
    return made


def _workflow(item: Object) -> State | None:
    """Phase and message, of the Workflow and of its step."""
    status = item.get("status") or {}
    node: Object = next(iter((status.get("nodes") or {}).values()), {})
    if status.get("phase") == "Running" and node.get("phase") not in {"Succeeded", "Failed", "Error"}:
        return None
    return tuple(said for it in (status, node) for said in (it.get("phase", ""), _scrubbed(it.get("message", ""))))


def _pod(item: Object) -> State | None:
    """Phase, reason, message; main's state with its exit code, reason and message; conditions that have a reason."""
    status = item.get("status") or {}
    why = [
        f"{row['type']} {row['reason']}: {_scrubbed(row.get('message', ''))}"
        for row in status.get("conditions") or []
        if row.get("reason")
    ]
    if status.get("phase") == "Running" and not why:
        return None
    rows: list[Object] = [row for row in status.get("containerStatuses") or [] if row["name"] == "main"]
    states: Object = (rows[0].get("state") or {}) if rows else {}
    kind: str = next(iter(states), "")
    state: Object = states.get(kind, {})
    code = str(state.get("exitCode", ""))
    main = [kind, "ended" if code in ENDED else code, state.get("reason", ""), _scrubbed(state.get("message", ""))]
    return (status.get("phase", ""), status.get("reason", ""), _scrubbed(status.get("message", "")), *main, *why)


def _scrubbed(message: str) -> str:
    """Without what another cluster has otherwise: addresses, uids, amounts."""
    return re.sub(r"(?<!exit code )\b(\d[\w.]*|[0-9a-f]{8,}\b)", "N", message)


def messages(recording: Path) -> set[str]:
    """All that Argo, the scheduler and the kubelet say in it, of states that last and of such that do not."""
    shown = (item for kind in ("WORKFLOW", "POD") for item in _shown(recording, kind))
    return {_scrubbed(message) for item in shown for message in _messages(item)}


def _messages(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (each for key, each in value.items() if key == "message")
        yield from (message for each in value.values() for message in _messages(each))
    elif isinstance(value, list):
        yield from (message for each in value for message in _messages(each))
