"""What a recording shows of a Workflow and its pod, condensed to what two clusters can be compared by.

Workflows and pods come by two streams, between which there is no order: a sequence for each. How long a state lasts,
and so whether a launcher sees it at all, is a matter of lags. What only a lag shows is left out: how far the step has
followed a pod that is not over, and that main is over before its pod is.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Object = Mapping[str, Any]
State = tuple[str, ...]
STREAM = frozenset({"changed", "deleted", "listed"})


def sequences(recording: Path) -> dict[str, list[State]]:
    """The states of a Workflow and of its pods, one after the other, by their kinds."""
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    told = [line for line in lines if line.get("what") in STREAM]
    return {
        kind: _without_repeats(
            state(item, line["what"]) for line in told if line["kind"] == kind for item in line["objects"]
        )
        for kind, state in (("WORKFLOW", _workflow), ("POD", _pod))
    }


def _without_repeats(states: Iterable[State | None]) -> list[State]:
    made: list[State] = []
    for state in states:
        if state is not None and made[-1:] != [state]:
            made.append(state)
    return made


def _workflow(item: Object, what: str) -> State | None:
    """Phase, message, the step's phase and message; how the step follows its pod's beginning is a matter of lags."""
    if what == "deleted":
        return None
    status = item.get("status") or {}
    node: Object = next(iter((status.get("nodes") or {}).values()), {})
    if node.get("phase") in {"Pending", "Running"}:
        return None
    said = _scrubbed(status.get("message", "")), node.get("phase", ""), _scrubbed(node.get("message", ""))
    return (status.get("phase", ""), *said)


def _pod(item: Object, what: str) -> State | None:
    """Phase, reason, message, main's state with its reason and message, and why it is disrupted."""
    if what == "deleted":
        return None
    status = item.get("status") or {}
    rows = [row for row in status.get("containerStatuses") or [] if row["name"] == "main"]
    kind, state = next(iter(rows[0]["state"].items()), ("", {})) if rows and rows[0].get("state") else ("", {})
    main = [kind, str(state.get("exitCode", "")), state.get("reason", ""), _scrubbed(state.get("message", ""))]
    why = [
        f"{row['type']} {row.get('reason')}: {_scrubbed(row.get('message', ''))}"
        for row in status.get("conditions") or []
        if row.get("reason")
    ]
    if status.get("phase") == "Running" and kind == "terminated":
        return None
    said = _scrubbed(status.get("message", ""))
    return (status.get("phase", ""), status.get("reason", ""), said, *main, *why)


def _scrubbed(message: str) -> str:
    """Without what another cluster has otherwise: addresses, uids, amounts."""
    return re.sub(r"(?<!exit code )\b\d[\w.]*", "N", message)
