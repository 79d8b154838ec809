"""The description of a Workflow whose job has ended: reason, who, what to do; and foreign text stays text."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.command import build_command
from flargo.control.end_description import MAX_MESSAGE_LENGTH, describe_end, describe_status, with_message
from flargo.control.perform import Performer
from flargo.control.status_notes import StatusNote, StatusNotes
from flargo.status.job_state import Action, ActionKind, JobState
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import Observation, WorkflowView, workflow_view
from flargo.terms import Annotation, StartTimeouts, Uid
from tests.harness import objects
from tests.harness.fake_api import IdleApi, MemoryApi
from tests.harness.hostile_text import HOSTILE
from tests.harness.markdown import shown_text

RUNS = WorkflowView(Uid("uid-1"), "job-site", phase="Running")
ENDED = replace(RUNS, phase="Failed")
SHUT_DOWN = replace(ENDED, shutdown="Terminate")
RUNNING = JobState("job-site", "a1", StartTimeouts(), 3, created_at=0.0, observation=Observation(RUNS))
OOM = Verdict(Reason.OUT_OF_MEMORY, 104, "exit code 137; OOMKilled; memory limit 64Mi", 137)
OOM_TEXT = "OUT_OF_MEMORY: The job used more than its memory limit. Raise 'memory' in its launcher_spec."


def description(state: JobState, kind: ActionKind = ActionKind.MARK_CLEARED) -> str:
    return build_command("job-site", state, Action(kind, Uid("uid-1"))).description


def ended(verdict: Verdict, workflow: WorkflowView = ENDED, **more: Any) -> JobState:
    return replace(RUNNING, verdict=verdict, observation=Observation(workflow), **more)


def lost(reason: Reason) -> Verdict:
    return Verdict(reason, 104)


# --- the text


@pytest.mark.parametrize("may_continue", [False, True])
@pytest.mark.parametrize("reason", Reason)
def test_flargos_own_sentences_are_inert(reason: Reason, may_continue: bool) -> None:  # noqa: FBT001
    text = describe_end(reason, may_continue=may_continue)
    assert shown_text(text) == text, "nothing of it is Markdown"
    assert text.startswith(f"{reason.name}: ")
    assert (reason.remedy in text) != (may_continue and bool(reason.remedy))


@given(st.sampled_from(Reason), HOSTILE, HOSTILE)
def test_foreign_text_is_inert(reason: Reason, actor: str, message: str) -> None:
    text = with_message(describe_end(reason, actor), message)
    shown_text(text)
    assert "{{" not in text
    assert text.startswith(f"{reason.name}: "), "the list of the UI shows the reason"


@given(st.from_regex(r"FINISHED:[A-Z_]{1,40}", fullmatch=True) | HOSTILE, HOSTILE)
def test_flares_status_is_inert(status: str, error: str) -> None:
    text = with_message(describe_status(status), error)
    shown_text(text)
    assert "{{" not in text


def test_a_message_is_limited() -> None:
    longest = max(len(describe_end(reason, "x" * 63)) for reason in Reason)
    assert len(with_message("", "x" * 100_000)) == len(" Message: ``") + MAX_MESSAGE_LENGTH
    assert longest < 400
    assert with_message("A: b.", "") == "A: b."


# --- which end is described


def test_a_failure_is_described() -> None:
    assert description(ended(OOM)) == OOM_TEXT


@pytest.mark.parametrize("kind", [ActionKind.RELEASE, ActionKind.TOUCH, ActionKind.RESUME])
def test_other_patches_have_no_description(kind: ActionKind) -> None:
    assert description(ended(OOM), kind) == ""


def test_a_success_keeps_its_description() -> None:
    success = Verdict(Reason.SUCCEEDED, 0, exit_code=0)
    assert description(ended(success)) == ""
    assert description(ended(success, replace(SHUT_DOWN, ending="QUEUED"))).startswith("SUCCEEDED: "), (
        "the shutdown had written another one"
    )


def test_a_finished_workflow_of_an_earlier_run_keeps_its_description() -> None:
    """Only its credentials are deleted, for which it is followed as an orphan."""
    verdict = lost(Reason.ORPHANED)
    assert description(ended(verdict, cause=Cause.ORPHANED)) == ""
    assert description(ended(verdict, replace(SHUT_DOWN, ending="ABORTED"), cause=Cause.ORPHANED)) == ""
    orphan = ended(verdict, replace(SHUT_DOWN, ending="ORPHANED"), cause=Cause.ORPHANED)
    assert "Ended by `flargo`. Submit the job again." in description(orphan)


def test_a_lost_attempt_has_no_remedy() -> None:
    attempt = replace(ENDED, is_attempt=True)
    assert description(ended(lost(Reason.DISRUPTED), attempt)).endswith("Another attempt may follow.")
    assert description(ended(OOM, attempt)) == OOM_TEXT
    assert description(ended(lost(Reason.DISRUPTED))).endswith("can survive this.")


def test_the_jobs_verdict_stays_on_its_last_attempt() -> None:
    noted = replace(ENDED, is_attempt=True, has_verdict=True)
    assert description(ended(lost(Reason.SHORTAGE), noted)) == ""


# --- who has ended the job


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (Cause.ABORT, "ABORTED: FLARE aborted the job."),
        (Cause.CLEANUP, "CLEANED_UP: FLARE's server no longer runs the job. Ended by `FLARE`. "),
        (Cause.ORPHANED, "Ended by `flargo`. Submit the job again."),
        (Cause.NOT_LAUNCHED, "Ended by `flargo`. Submit the job to FLARE again."),
        (Cause.PARENT_END, "Ended by `flargo`."),
    ],
)
def test_a_shutdown_says_who_wants_it(cause: Cause, text: str) -> None:
    assert text in description(replace(RUNNING, cause=cause), ActionKind.SHUTDOWN)


def test_a_start_clock_is_flargos() -> None:
    verdict = Verdict(Reason.SHORTAGE, 101, "0/3 nodes are available")
    assert " Ended by `flargo`. " in description(ended(verdict, SHUT_DOWN))


@pytest.mark.parametrize("reason", [Reason.CONTAINER, Reason.VOLUME])
def test_an_end_without_a_shutdown_is_not_flargos(reason: Reason) -> None:
    """A container whose command does not exist ends by itself."""
    assert "Ended by" not in description(ended(Verdict(reason, 101)))


def test_a_deadline_is_kubernetes() -> None:
    assert " Ended by `Kubernetes`. " in description(ended(lost(Reason.DEADLINE)))


TERMINATED = {"workflows.argoproj.io/action": "Terminate", "workflows.argoproj.io/actor": "system-serviceaccount-x"}


@pytest.mark.parametrize(
    ("labels", "actor"),
    [
        (TERMINATED, "system-serviceaccount-x"),
        ({**TERMINATED, "workflows.argoproj.io/actor-email": "ada.at.lab.example"}, "ada.at.lab.example"),
        ({**TERMINATED, "workflows.argoproj.io/actor-preferred-username": "ada"}, "ada"),
        ({**TERMINATED, "workflows.argoproj.io/action": "Stop"}, "system-serviceaccount-x"),
        ({**TERMINATED, "workflows.argoproj.io/action": "Resume"}, ""),
        ({}, ""),
    ],
)
def test_an_argo_server_names_who_terminated(labels: dict[str, str], actor: str) -> None:
    item = objects.workflow(phase="Failed", shutdown="Terminate")
    item["metadata"]["labels"] |= labels
    text = description(ended(Verdict(Reason.SHUT_DOWN, 9), workflow_view(item)))
    who = f" Ended by `{actor}`." if actor else ""
    remedy = "Find out who ran argo terminate or argo stop."
    assert text == f"SHUT_DOWN: The Workflow was terminated from outside FLARE.{who} {remedy}"


# --- writing it


def stored() -> IdleApi:
    api = IdleApi()
    api.create(Kind.WORKFLOW, {"metadata": {"name": "job-site"}, "spec": {}})
    return api


def annotations_of(api: MemoryApi) -> dict[str, str]:
    return dict(api.store[Kind.WORKFLOW, "job-site"]["metadata"].get("annotations") or {})


@pytest.mark.parametrize("kind", [ActionKind.SHUTDOWN, ActionKind.NOTE_REASON, ActionKind.MARK_CLEARED])
def test_the_description_is_part_of_the_one_request(kind: ActionKind) -> None:
    api, command = stored(), build_command("job-site", ended(OOM), Action(kind, Uid("uid-1")))
    before = api.requests
    Performer(api, redact=lambda text: text.replace("64Mi", "[redacted]")).perform(command)
    message = "exit code 137; OOMKilled; memory limit [redacted]"
    assert annotations_of(api)[Annotation.DESCRIPTION] == f"{OOM_TEXT} Message: `{message}`"
    assert api.requests == before + 1


@pytest.mark.parametrize(("status", "reason"), [(422, "Invalid"), (403, "Forbidden")])
@pytest.mark.parametrize("kind", [ActionKind.SHUTDOWN, ActionKind.NOTE_REASON, ActionKind.MARK_CLEARED])
def test_a_denied_description_costs_a_request_and_nothing_else(kind: ActionKind, status: int, reason: str) -> None:
    """A policy of an earlier release denies it, and must not keep a job from being ended."""
    api, command = stored(), build_command("job-site", ended(OOM), Action(kind, Uid("uid-1")))
    deny_next(api, status, reason)
    (done,) = Performer(api).perform(command)
    assert getattr(done, "ok", None) is True
    assert annotations_of(api)
    assert Annotation.DESCRIPTION not in annotations_of(api)
    assert ("shutdown" in api.store[Kind.WORKFLOW, "job-site"]["spec"]) == (kind is ActionKind.SHUTDOWN)


@pytest.mark.parametrize(("status", "reason"), [(0, ""), (409, "Conflict"), (500, "InternalError"), (404, "NotFound")])
def test_a_request_that_fails_otherwise_is_not_repeated(status: int, reason: str) -> None:
    api, command = stored(), build_command("job-site", ended(OOM), Action(ActionKind.NOTE_REASON, Uid("uid-1")))
    deny_next(api, status, reason)
    before = api.requests
    Performer(api).perform(command)
    assert api.requests == before + 1
    assert annotations_of(api) == {}


def deny_next(api: MemoryApi, status: int, reason: str) -> None:
    """Let the API server refuse the next request, and no other one."""
    pending = [ApiError("patch", "workflows job-site", status, reason, "denied the request")]

    def trouble(_number: int, when: str) -> None:
        if when == "before" and pending:
            raise pending.pop()

    api.trouble = trouble


@pytest.mark.parametrize("is_unexpected", [False, True])
def test_flares_failure_is_told_of_a_program_that_succeeded(is_unexpected: bool) -> None:  # noqa: FBT001
    api = stored()
    note = StatusNote(RUNS, "FINISHED:EXECUTION_EXCEPTION", "ValueError: `x`", is_unexpected)
    before = api.requests
    StatusNotes(api).note(note, lambda *_: False)
    assert api.requests == before + 1
    annotations = annotations_of(api)
    assert annotations[Annotation.FLARE_STATUS] == "FINISHED:EXECUTION_EXCEPTION"
    text = (
        "`EXECUTION_EXCEPTION` is FLARE's status of the job, although its program ended with exit code 0. Read the "
        "job's log. Message: `ValueError: 'x'`"
    )
    assert annotations.get(Annotation.DESCRIPTION) == (text if is_unexpected else None)
