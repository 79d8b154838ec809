"""What people can read on the cluster about a job's attempts, and that nothing depends on the right to write it."""

import logging
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.attempt_notes import AttemptNotes, EventReason, build_event, build_verdict_patch
from flargo.parsing import is_object_name
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Uid
from tests.harness.fake_api import MemoryApi

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
WORKFLOW = WorkflowView(Uid("uid-1"), "job-site")
LOSS = Verdict(Reason.DISRUPTED, 104, "drained")
FORBIDDEN = ApiError(
    "create", "events x", 403, "Forbidden", 'User "u" cannot create resource "events" in API group "" in namespace "f"'
)


def test_an_event_is_about_its_workflow() -> None:
    event = build_event(WORKFLOW, "flare", EventReason.LOST, "attempt 1 of 3 was lost", "a1b2", NOW)
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "job-site.a1b2", "namespace": "flare"},
        "involvedObject": {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "namespace": "flare",
            "name": "job-site",
            "uid": "uid-1",
        },
        "reason": "AttemptLost",
        "type": "Warning",
        "message": "attempt 1 of 3 was lost",
        "source": {"component": "flargo"},
        "reportingComponent": "flargo",
        "firstTimestamp": "2026-01-01T10:00:00Z",
        "lastTimestamp": "2026-01-01T10:00:00Z",
        "count": 1,
    }


def test_a_beginning_is_no_warning() -> None:
    event = build_event(WORKFLOW, "flare", EventReason.STARTED, "x", "a1b2", NOW)
    assert (event["reason"], event["type"]) == ("AttemptStarted", "Normal")


@pytest.mark.parametrize("text", ["x" * 100_000, "ä" * 100_000, "\x1b[31m\n\u202e", "\ud800"])
def test_kubernetes_accepts_every_message(text: str) -> None:
    message = build_event(WORKFLOW, "flare", EventReason.LOST, text, "a1b2", NOW)["message"]
    assert len(message.encode()) <= 1024
    assert message.isprintable()


def api() -> MemoryApi:
    memory = MemoryApi()
    memory.store[Kind.WORKFLOW, "job-site"] = {"metadata": {"name": "job-site", "uid": "uid-1"}, "spec": {}}
    return memory


def notes_of(memory: MemoryApi) -> Any:
    return memory.store[Kind.WORKFLOW, "job-site"]["metadata"].get("annotations")


def test_each_event_has_a_name_of_its_own() -> None:
    memory = api()
    notes = AttemptNotes(memory, lambda: NOW)
    for _ in range(3):
        notes.announce(WORKFLOW, EventReason.LOST, "x")
    names = memory.named(Kind.EVENT)
    assert len(names) == 3
    assert all(is_object_name(name) and re.fullmatch(r"job-site\.[0-9a-f]{16}", name) for name in names)
    assert memory.store[Kind.EVENT, names[0]]["metadata"]["namespace"] == memory.namespace


def test_a_missing_right_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def forbid(*_: object) -> None:
        raise FORBIDDEN

    memory = MemoryApi(forbid)
    notes = AttemptNotes(memory, lambda: NOW)
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            notes.announce(WORKFLOW, EventReason.LOST, "x")
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "the right to create events is missing" in record.getMessage()
    assert memory.requests == 3, "each Event is tried once"


@pytest.mark.parametrize("status", [0, 409, 422, 429, 500, 503])
def test_an_event_that_fails_is_not_repeated(status: int, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ApiError("create", "events x", status)

    memory = MemoryApi(fail)
    with caplog.at_level(logging.INFO):
        AttemptNotes(memory, lambda: NOW).announce(WORKFLOW, EventReason.LOST, "x")
    assert memory.requests == 1
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.parametrize("view", [replace(WORKFLOW, uid=Uid("")), replace(WORKFLOW, name="")])
def test_a_workflow_without_identity_gets_no_notes(view: WorkflowView) -> None:
    memory = api()
    AttemptNotes(memory).announce(view, EventReason.LOST, "x")
    AttemptNotes(memory).note_verdict([view], LOSS, "")
    assert memory.requests == 0


def test_the_verdict_is_noted_with_its_detail() -> None:
    memory = api()
    AttemptNotes(memory).note_verdict([WORKFLOW], LOSS, "drained\x1b")
    notes = notes_of(memory)
    description = notes.pop("workflows.argoproj.io/description")
    assert notes == {"flargo.dev/verdict": "DISRUPTED", "flargo.dev/verdict-detail": "drained"}
    assert description.startswith("DISRUPTED: The pod was disrupted")
    assert description.endswith(
        " Submit the job again. docs/rejoin.md says how a client's job can survive this. Message: `drained`"
    )
    assert memory.requests == 1
    patch = build_verdict_patch(WORKFLOW, LOSS, "")
    assert patch == {"metadata": {"uid": "uid-1", "annotations": {"flargo.dev/verdict": "DISRUPTED"}}}


def test_the_note_goes_to_the_last_workflow_that_exists() -> None:
    memory = api()
    replaced = replace(WORKFLOW, uid=Uid("another"))
    AttemptNotes(memory).note_verdict([replace(WORKFLOW, name="gone"), replaced, WORKFLOW], LOSS, "x")
    assert notes_of(memory)["flargo.dev/verdict"] == "DISRUPTED"


def test_a_refused_note_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ApiError("patch", "workflows job-site", 403, "Forbidden", "admission webhook")

    memory = MemoryApi(fail)
    AttemptNotes(memory).note_verdict([WORKFLOW, WORKFLOW], LOSS, "x")
    assert memory.requests == 2, "with a description, and without"
    assert "verdict could not be noted" in caplog.text


def test_times_of_events_are_utc() -> None:
    event = build_event(WORKFLOW, "flare", EventReason.LOST, "x", "a1b2", datetime(2026, 1, 1, tzinfo=UTC))
    assert event["firstTimestamp"] == "2026-01-01T00:00:00Z"
