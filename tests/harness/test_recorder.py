"""A recording has what a reconciler received and returned, and nothing that identifies a cluster or a job."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flargo.cluster.api import Kind
from flargo.control.inputs import Admitted, Changed, JobInput, Listed
from flargo.control.reconciler import Reconciler
from flargo.status.job_state import StopRequested, Submitted
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.terms import StartTimeouts
from tests.harness import recorder
from tests.harness.objects import RUNNING, Object, pod, workflow

NAME = "hearts-j4711"
PRIVATE = (
    "hearts",
    "4711",
    "epoch-private",
    "a1private",
    "uid-private",
    "node-private",
    "t0psecret",
    "2031-05-06",
    "98765",
)
"""Parts of names and values that no recording may have."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Record into a folder of the test's own."""
    monkeypatch.setenv("FLARGO_RECORD", str(tmp_path))
    monkeypatch.setattr(recorder, "_lines", [])
    monkeypatch.setattr(recorder, "_saved", set())
    monkeypatch.setattr(recorder, "_verdicts", {})
    scenario = recorder.SCENARIO.set("A scenario, with a name")
    yield tmp_path
    recorder.SCENARIO.reset(scenario)


def private_workflow() -> Object:
    item = workflow(
        NAME, uid="uid-private-1", version=98765, parent="epoch-private", attempt="a1private", phase="Running"
    )
    item["metadata"]["annotations"]["flargo.dev/job-name"] = "hearts of the lab"
    item["metadata"]["labels"]["flargo.dev/federation"] = "t0psecret-federation"
    item["spec"]["arguments"] = {"parameters": [{"value": "t0psecret"}]}
    return item


def private_pod() -> Object:
    item = pod(NAME, uid="uid-private-2", owner="uid-private-1", version=98766, phase="Running", main=RUNNING)
    item["spec"] |= {"nodeName": "node-private"}
    item["spec"]["containers"][0]["env"] = [{"name": "TOKEN", "value": "t0psecret"}]
    item["status"]["startTime"] = "2031-05-06T07:08:09Z"
    return item


def record_job(name: str = NAME) -> list[str]:
    """Have a recorded reconciler receive a job's objects and a stop, and return the kinds of its commands."""
    reconciler = Reconciler(lambda _: False, 0.0, epoch="epoch-private")
    recorder.attach(reconciler)
    reconciler.handle(Listed(Kind.WORKFLOW, ()), 0.0)
    reconciler.handle(Listed(Kind.POD, ()), 0.0)
    reconciler.handle(Admitted(NAME, "a1private", StartTimeouts(), 3), 0.0)
    reconciler.handle(JobInput(NAME, "a1private", Submitted()), 1.0)
    for item, kind in ((private_workflow(), Kind.WORKFLOW), (private_pod(), Kind.POD)):
        reconciler.handle(Changed(kind, item), 2.0)
        reconciler.handle(Changed(kind, item), 2.0)
    commands = reconciler.handle(JobInput(NAME, "a1private", StopRequested(Cause.ABORT)), 3.0).commands
    recorder.save(name, Verdict(Reason.ABORTED, 9, ""))
    return [command.action.kind.name for command in commands]


def rows(folder: Path) -> list[Object]:
    (file,) = folder.iterdir()
    assert file.name == "a-scenario-with-a-name.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_inputs_commands_and_verdict_are_recorded(folder: Path) -> None:
    commands = record_job()
    *inputs, stop = [row for row in rows(folder) if "what" in row and row["what"] != "command"]
    assert [row["what"] for row in inputs] == ["admit", "submitted", "changed", "changed"], (
        "repeated objects count once"
    )
    assert stop == {"what": "stop", "cause": "ABORT"}
    assert commands
    assert [row["action"] for row in rows(folder) if row.get("what") == "command"] == commands
    assert rows(folder)[-1] == {"verdict": "ABORTED", "code": 9}


def test_private_values_are_removed(folder: Path) -> None:
    record_job()
    text = "\n".join(json.dumps(row) for row in rows(folder))
    assert [value for value in PRIVATE if value in text] == []


def test_identity_survives_the_removal(folder: Path) -> None:
    record_job()
    (its_workflow,), (its_pod,) = (row["objects"] for row in rows(folder) if row.get("what") == "changed")
    assert its_workflow["metadata"]["name"] == "job-site"
    assert its_pod["metadata"]["ownerReferences"] == [{"kind": "Workflow", "uid": its_workflow["metadata"]["uid"]}]
    assert its_workflow["metadata"]["annotations"] == {"flargo.dev/attempt": rows(folder)[0]["attempt"]}
    versions = [int(item["metadata"]["resourceVersion"]) for item in (its_workflow, its_pod)]
    assert versions == [1, 2], "versions keep their order"
    assert its_pod["status"]["containerStatuses"][1]["state"] == {"running": {}}


def test_only_the_named_workflow_is_written(folder: Path) -> None:
    record_job("another")
    assert rows(folder) == [{"verdict": "ABORTED", "code": 9}]


def test_a_scenarios_first_job_is_kept(folder: Path) -> None:
    record_job()
    first = rows(folder)
    recorder.save("another", Verdict(Reason.SUCCEEDED, 0, ""))
    assert rows(folder) == first


def test_without_a_request_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorder.is_enabled()
    monkeypatch.delenv("FLARGO_RECORD")
    assert not recorder.is_enabled()


def test_each_attempt_has_a_file_with_its_own_verdict(folder: Path) -> None:
    """A job's verdict is that on its last attempt, and not always the verdict that FLARE gets."""
    reconciler = Reconciler(lambda _: False, 0.0)
    recorder.attach(reconciler)
    for name, cause in ((NAME, Cause.CLEANUP), (f"{NAME}-r1", Cause.ABORT)):
        reconciler.handle(Admitted(name, "a1", StartTimeouts(), 3), 0.0)
        reconciler.handle(JobInput(name, "a1", StopRequested(cause, nothing_created=True)), 1.0)
    recorder.save(NAME, Verdict(Reason.DISRUPTED, 104))
    ends = {file.name: json.loads(file.read_text().splitlines()[-1])["verdict"] for file in folder.iterdir()}
    assert ends == {
        "a-scenario-with-a-name.jsonl": "CLEANED_UP",
        "a-scenario-with-a-name-attempt-2.jsonl": "ABORTED",
    }
