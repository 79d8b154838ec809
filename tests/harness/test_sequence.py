"""Sequences of two clusters are equal where the clusters did the same, and differ where they did not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.objects import RUNNING, pod, terminated_state, workflow
from tests.harness.sequence import messages, sequences

Object = dict[str, Any]


def record(path: Path, *items: Object, what: str = "changed") -> Path:
    """Write a recording of changes, in which each object has a later version than the one before."""
    lines = []
    for version, item in enumerate(items, 1):
        kind = "POD" if "containers" in item["spec"] else "WORKFLOW"
        meta = {**item["metadata"], "resourceVersion": str(version)}
        lines.append(json.dumps({"what": what, "kind": kind, "objects": [{**item, "metadata": meta}]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def pod_states(tmp_path: Path, *items: Object) -> list[tuple[str, ...]]:
    return sequences(record(tmp_path / "recording", *items))["POD"]


def test_repeated_states_count_once(tmp_path: Path) -> None:
    pending, done = pod(phase="Pending"), pod(phase="Succeeded", main=terminated_state(0, "Completed"))
    assert pod_states(tmp_path, pending, pending, done, done) == pod_states(tmp_path, pending, done)


def test_older_versions_are_ignored(tmp_path: Path) -> None:
    file = record(tmp_path / "recording", pod(phase="Pending"), pod(phase="Failed", main=terminated_state(1)))
    states = sequences(file)
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{second}\n{first}\n")
    assert sequences(file) == states


def test_what_only_delays_show_is_ignored(tmp_path: Path) -> None:
    pending, done = pod(phase="Pending"), pod(phase="Succeeded", main=terminated_state(0, "Completed"))
    assert pod_states(tmp_path, pending, pod(phase="Running", main=RUNNING), done) == pod_states(
        tmp_path, pending, done
    )


def test_numbers_in_messages_are_masked(tmp_path: Path) -> None:
    first = pod(
        phase="Pending", conditions=[{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]
    )
    second = pod(
        phase="Pending", conditions=[{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/7 nodes"}]
    )
    assert pod_states(tmp_path, first) == pod_states(tmp_path, second)
    assert messages(record(tmp_path / "recording", first)) == {"N/N nodes"}


def test_signals_that_end_a_program_are_equal(tmp_path: Path) -> None:
    killed, terminated = (pod(phase="Failed", main=terminated_state(code)) for code in (137, 143))
    assert pod_states(tmp_path, killed) == pod_states(tmp_path, terminated)


@pytest.mark.parametrize(
    "other",
    [
        pod(phase="Failed", main=terminated_state(2 + 1)),
        pod(phase="Failed", main=terminated_state(1, "OOMKilled")),
        pod(phase="Failed", main=terminated_state(1), reason="Evicted"),
        pod(phase="Failed", main=terminated_state(1), message="another message"),
        pod(phase="Succeeded", main=terminated_state(1)),
    ],
    ids=["exit code", "reason", "pod's reason", "message", "phase"],
)
def test_real_differences_remain(tmp_path: Path, other: Object) -> None:
    assert pod_states(tmp_path, pod(phase="Failed", main=terminated_state(1))) != pod_states(tmp_path, other)


def test_a_workflows_message_remains(tmp_path: Path) -> None:
    first, second = (workflow(phase="Failed", message=text) for text in ("Stopped with strategy 'Terminate'", "Error"))
    assert sequences(record(tmp_path / "one", first)) != sequences(record(tmp_path / "two", second))


def test_deleted_objects_are_no_states(tmp_path: Path) -> None:
    file = record(tmp_path / "recording", pod(phase="Failed", main=terminated_state(1)), what="deleted")
    assert sequences(file) == {"WORKFLOW": [], "POD": []}
