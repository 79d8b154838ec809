"""Tests of the Performer: the request of each command, and a result whatever happens."""

from functools import partial
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.authority import may_change
from flargo.control.command import Command
from flargo.control.inputs import CommandDone, ObjectsRead, PodEventsRead, Unanswered
from flargo.control.lease import LeaseStage
from flargo.control.perform import MAX_ENDING_DETAIL_LENGTH, Performer
from flargo.status.job_state import CONFIRM, Action, ActionKind
from flargo.status.reasons import Reason
from flargo.status.views import uid_of
from flargo.terms import Annotation, Uid
from tests.harness.fake_api import IdleApi


def command_of(kind: ActionKind, uid: str = "uid-1", **more: Any) -> Command:
    return Command("job-site", "job-site", Action(kind, Uid(uid)), "secret", **more)


def workflow_api() -> IdleApi:
    """Return a store with one Workflow, of uid ``uid-1``."""
    api = IdleApi()
    api.create(Kind.WORKFLOW, {"metadata": {"name": "job-site"}, "spec": {}})
    return api


def refuse(status: int, reason: str = "") -> Any:
    def trouble(_number: int, when: str) -> None:
        if when == "before":
            raise ApiError("patch", "workflows", status, reason, "refused")

    return trouble


def test_shutdown_annotations_are_redacted() -> None:
    api = workflow_api()
    performer = Performer(api, redact=lambda text: text.replace("s3cret", "[redacted]"))
    detail = "image {{workflow.uid}} of s3cret " + "x" * 2000
    command = command_of(ActionKind.SHUTDOWN, end_reason=Reason.IMAGE, detail=detail)
    assert performer.perform(command) == (CommandDone(command, ok=True),)
    workflow = api.get(Kind.WORKFLOW, "job-site")
    annotations = workflow["metadata"]["annotations"]
    assert workflow["spec"] == {"shutdown": "Terminate", "suspend": False}
    assert annotations[Annotation.ENDING] == "IMAGE"
    assert annotations[Annotation.ENDING_DETAIL].startswith("image { {workflow.uid}} of [redacted] xxx")
    assert len(annotations[Annotation.ENDING_DETAIL]) == MAX_ENDING_DETAIL_LENGTH


def test_reads_return_what_was_read() -> None:
    api = workflow_api()
    confirm = Command("job-site", "job-site", CONFIRM, "secret")
    (read,) = Performer(api).perform(confirm)
    assert isinstance(read, ObjectsRead)
    assert read.workflow is not None
    assert read.pods == ()
    listing = command_of(ActionKind.LIST_EVENTS, pod_name="job-site")
    assert Performer(api).perform(listing) == (PodEventsRead(listing, ()),)


def test_missing_workflow_is_a_result() -> None:
    confirm = Command("job-site", "job-site", CONFIRM, "secret")
    assert Performer(IdleApi()).perform(confirm) == (ObjectsRead(confirm, None, ()),)


@pytest.mark.parametrize(
    ("status", "reason", "ok"),
    [(403, "Forbidden", False), (404, "NotFound", True), (409, "Conflict", False), (500, "InternalError", False)],
)
def test_refusal_is_a_result(status: int, reason: str, ok: bool) -> None:  # noqa: FBT001
    api, command = workflow_api(), command_of(ActionKind.NOTE_REASON)
    api.trouble = refuse(status, reason)
    assert Performer(api).perform(command) == (CommandDone(command, ok),)


PATCHES = (ActionKind.RELEASE, ActionKind.RESUME, ActionKind.TOUCH, ActionKind.SHUTDOWN)


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("uid", [None, "another"])
def test_patch_of_a_workflow_that_is_gone_is_followed_by_a_read(kind: ActionKind, uid: str | None) -> None:
    """On 5b90c11 it counted as accepted, and was repeated every five minutes until the next list."""
    api, command = workflow_api() if uid else IdleApi(), command_of(kind, uid or "uid-1")
    done, read = Performer(api).perform(command)
    assert done == CommandDone(command, ok=True)
    assert isinstance(read, ObjectsRead)
    assert (read.command.action, read.command.revision) == (CONFIRM, command.revision)
    assert (read.workflow is None) == (uid is None)


@pytest.mark.parametrize("kind", PATCHES)
def test_patch_that_a_webhook_answers_with_404_has_failed(kind: ActionKind) -> None:
    api, command = workflow_api(), command_of(kind)
    api.trouble = lambda number, when: refuse(404, "NotFound")(number, when) if number == 2 else None
    done, read = Performer(api).perform(command)
    assert done == CommandDone(command, ok=False)
    assert isinstance(read, ObjectsRead)


def test_read_after_a_missing_workflow_may_fail() -> None:
    api, command = workflow_api(), command_of(ActionKind.SHUTDOWN)
    api.trouble = lambda number, when: refuse(404, "NotFound")(number, when) if number == 2 else refuse(0)(number, when)
    unanswered, done = Performer(api).perform(command)
    assert isinstance(unanswered, Unanswered)
    assert done == CommandDone(command, ok=False)


def test_request_without_response_is_reported() -> None:
    api, command, times = workflow_api(), command_of(ActionKind.SHUTDOWN), iter([7.0])
    api.trouble = refuse(0)
    performer = Performer(api, clock=lambda: next(times))
    assert performer.perform(command) == (Unanswered(command, 7.0), CommandDone(command, ok=False))


def test_defect_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A command without a result would never be retried."""
    api, command = workflow_api(), command_of(ActionKind.DELETE_WORKFLOW)
    api.trouble = lambda *_: (_ for _ in ()).throw(ValueError("a defect"))
    assert Performer(api).perform(command) == (CommandDone(command, ok=False),)
    assert "job-site: failed to delete the Workflow" in caplog.text


@pytest.mark.parametrize("is_lost", [False, True])
def test_failure_is_logged_unless_a_watch_is_lost(is_lost: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001
    """A lost watch has its own warning; the retries of a thousand jobs add nothing to it."""
    api = workflow_api()
    api.trouble = refuse(403, "Forbidden")
    Performer(api, is_watch_lost=lambda: is_lost).perform(command_of(ActionKind.SHUTDOWN))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = "job-site: failed to shut down the Workflow: patch workflows: 403 Forbidden: refused"
    assert warnings == ([] if is_lost else [expected])


def owned_api(parent: str) -> IdleApi:
    api = workflow_api()
    api.store[Kind.WORKFLOW, "job-site"]["metadata"]["labels"] = {"flargo.dev/parent": parent}
    return api


def performer_in(stage: LeaseStage, api: IdleApi) -> Performer:
    """Return the Performer of a parent whose Lease is at a stage."""
    allow = partial(may_change, stage)
    return Performer(api, may_change=allow, is_certain=lambda: allow(is_followed=False), epoch="e1")


def perform_in(stage: LeaseStage, api: IdleApi, command: Command) -> int:
    """Perform a command of a parent whose Lease is at a stage; return the number of requests."""
    performer = performer_in(stage, api)
    before = api.requests
    performer.perform(command)
    return api.requests - before


ENDS = [ActionKind.SHUTDOWN, ActionKind.DELETE_WORKFLOW, ActionKind.DELETE_POD, ActionKind.DELETE_SECRET]


@pytest.mark.parametrize("kind", ENDS)
def test_a_parent_that_was_cut_off_ends_no_job_of_its_successor(kind: ActionKind) -> None:
    """It learns that it has lost the Lease only by its next look at it. The Workflow tells who its parent is."""
    api = owned_api("e2")
    before = {key: dict(item["spec"]) for key, item in api.store.items()}
    command = command_of(kind, uid=uid_of(api.store[Kind.WORKFLOW, "job-site"]), pod_name="job-site")
    assert perform_in(LeaseStage.ACQUIRING, api, command) == 1
    assert {key: item["spec"] for key, item in api.store.items()} == before
    assert performer_in(LeaseStage.ACQUIRING, api).perform(command) == (CommandDone(command, ok=False),), (
        "it is tried again"
    )


def test_a_parent_whose_lease_is_late_ends_its_own_jobs() -> None:
    """FLARE aborts a job while the API server is slow, for example."""
    api = owned_api("e1")
    command = command_of(ActionKind.SHUTDOWN, uid=uid_of(api.store[Kind.WORKFLOW, "job-site"]))
    assert perform_in(LeaseStage.ACQUIRING, api, command) == 2
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["shutdown"] == "Terminate"


CHANGES = [ActionKind.SHUTDOWN, ActionKind.RELEASE, ActionKind.RESUME, ActionKind.TOUCH, ActionKind.NOTE_REASON]


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("parent", ["e2", "e1"])
def test_a_workflow_that_changes_after_it_was_read_is_read_again(kind: ActionKind, parent: str) -> None:
    """A successor has taken it back, or Argo has written its status."""
    api = owned_api("e1")
    item = api.store[Kind.WORKFLOW, "job-site"]
    before, read = api._version, api.requests + 1

    def trouble(number: int, when: str) -> None:
        if (number, when) == (read, "after"):
            item["metadata"]["labels"]["flargo.dev/parent"] = parent
            api._stamp(Kind.WORKFLOW, item)

    api.trouble = trouble
    command = command_of(kind, uid=uid_of(item), end_reason=Reason.ABORTED)
    done = performer_in(LeaseStage.ACQUIRING, api).perform(command)
    assert done == (CommandDone(command, ok=parent == "e1"),)
    writes_of_this_parent = api._version - before - 1
    assert writes_of_this_parent == (1 if parent == "e1" else 0)


def test_a_workflow_that_changes_all_the_time_is_a_failure() -> None:
    api = owned_api("e1")
    item = api.store[Kind.WORKFLOW, "job-site"]
    api.trouble = lambda _, when: api._stamp(Kind.WORKFLOW, item) if when == "after" else None
    command = command_of(ActionKind.SHUTDOWN, uid=uid_of(item))
    assert performer_in(LeaseStage.ACQUIRING, api).perform(command) == (CommandDone(command, ok=False),)


@pytest.mark.parametrize("stage", [LeaseStage.HELD, LeaseStage.UNAVAILABLE])
def test_a_parent_that_has_its_site_does_not_ask(stage: LeaseStage) -> None:
    api = owned_api("e1")
    command = command_of(ActionKind.SHUTDOWN, uid=uid_of(api.store[Kind.WORKFLOW, "job-site"]))
    assert perform_in(stage, api, command) == 1


def test_a_parent_that_has_its_site_again_ends_what_it_follows() -> None:
    """The other parent had taken the job back, and has ended; this one leaves only the jobs alone that it lacks."""
    api = owned_api("e2")
    command = command_of(ActionKind.SHUTDOWN, uid=uid_of(api.store[Kind.WORKFLOW, "job-site"]))
    performer = Performer(api, may_change=lambda *, is_followed: is_followed, is_certain=lambda: True, epoch="e1")
    assert performer.perform(command) == (CommandDone(command, ok=True),)


def test_what_a_deleted_workflow_left_is_ended_while_the_lease_is_late() -> None:
    """Nobody can take it back."""
    api = IdleApi()
    api.store[Kind.POD, "job-site"] = {"metadata": {"name": "job-site", "uid": "p1"}}
    perform_in(LeaseStage.ACQUIRING, api, command_of(ActionKind.DELETE_POD, uid="p1", pod_name="job-site"))
    assert (Kind.POD, "job-site") not in api.store
