"""A parent that has lost its site's Lease while it runs: another parent follows the site's jobs by now."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from flargo.cluster.api import Kind
from flargo.control.authority import may_change
from flargo.control.launched_job import LaunchedJob
from flargo.control.lease import LeaseStage
from flargo.control.loop import Loop
from flargo.control.submit import SubmitError
from flargo.status.verdict import Cause
from flargo.terms import Object
from tests.harness.fake_api import THREAD_SECONDS, IdleApi
from tests.harness.objects import RUNNING, pod, workflow
from tests.harness.plans import submit_plan


@dataclass
class Lease:
    """The Lease of a site, as one of its parents sees it."""

    stage: LeaseStage = LeaseStage.HELD

    def may_change(self, *, is_followed: bool) -> bool:
        return may_change(self.stage, is_followed=is_followed)


@pytest.fixture
def api() -> Iterator[IdleApi]:
    idle_api = IdleApi()
    yield idle_api
    idle_api.test_ended.set()


def start_job(loop: Loop) -> LaunchedJob:
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda job: job.is_released, THREAD_SECONDS)
    return launched


def all_objects(api: IdleApi) -> dict[tuple[Kind, str], str]:
    return {key: item["metadata"]["resourceVersion"] for key, item in api.store.items()}


def running_job_of_another_parent(api: IdleApi) -> Object:
    item = workflow("other-site", phase="Running", parent="another run")
    api.store[Kind.WORKFLOW, "other-site"] = item
    api.store[Kind.POD, "other-site"] = pod("other-site", main=RUNNING, phase="Running")
    return item


@pytest.mark.parametrize(
    ("stage", "followed", "others"),
    [
        (LeaseStage.HELD, True, True),
        (LeaseStage.UNAVAILABLE, True, True),
        (LeaseStage.ACQUIRING, True, False),
        (LeaseStage.FENCED, False, False),
        (LeaseStage.LOST, False, False),
        (LeaseStage.RELEASED, False, False),
    ],
)
def test_authority_of_each_stage(stage: LeaseStage, *, followed: bool, others: bool) -> None:
    """While nobody knows who holds the Lease, a parent may end its own jobs, and no others."""
    assert may_change(stage, is_followed=True) is followed
    assert may_change(stage, is_followed=False) is others


@pytest.mark.parametrize("stage", [LeaseStage.LOST, LeaseStage.ACQUIRING])
def test_it_ends_no_job_of_the_other_parent(api: IdleApi, stage: LeaseStage) -> None:
    """A parent that holds the Lease would end this Workflow as an orphan."""
    lease = Lease(stage)
    running_job_of_another_parent(api)
    loop = Loop(api, "", "this run", 3, may_change=lease.may_change)
    loop.start()
    threading.Event().wait(0.5)
    assert "shutdown" not in api.store[Kind.WORKFLOW, "other-site"]["spec"]
    assert (Kind.POD, "other-site") in api.store
    loop.end(Cause.PARENT_END, 0.0)


@pytest.mark.parametrize("cause", [Cause.ABORT, Cause.PARENT_END])
def test_it_ends_no_job_that_it_launched(api: IdleApi, cause: Cause) -> None:
    """The other parent has taken the job back. Neither an abort nor the shutdown of this parent may end it."""
    lease = Lease()
    loop = Loop(api, "", "this run", 3, may_change=lease.may_change)
    launched = start_job(loop)
    lease.stage = LeaseStage.LOST
    before = all_objects(api)
    loop.stop(launched, cause)
    loop.end(Cause.PARENT_END, 0.5)
    assert all_objects(api) == before
    assert launched.verdict is not None


def test_it_launches_nothing(api: IdleApi) -> None:
    lease = Lease(LeaseStage.LOST)
    loop = Loop(api, "", "this run", 3, may_change=lease.may_change)
    with pytest.raises(SubmitError, match="another FLARE parent has taken over"):
        loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert api.store == {}
    loop.end(Cause.PARENT_END, 0.0)


def test_it_stops_a_submit_in_progress(api: IdleApi) -> None:
    """The launch fails, with the reason, and its Workflow is not released."""
    lease = Lease()

    def lose_lease(*_: object) -> None:
        if api.named(Kind.WORKFLOW):
            lease.stage = LeaseStage.LOST

    api.trouble = lose_lease
    loop = Loop(api, "", "this run", 3, may_change=lease.may_change)
    loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    deadline = threading.Event()
    for _ in range(100):
        if lease.stage is LeaseStage.LOST:
            break
        deadline.wait(0.05)
    deadline.wait(0.3)
    (name,) = api.named(Kind.WORKFLOW)
    assert api.store[Kind.WORKFLOW, name]["spec"]["suspend"] is True
    assert api.named(Kind.SECRET) == [submit_plan().startup.name]
    loop.end(Cause.PARENT_END, 0.0)


def test_its_own_jobs_end_once_it_holds_the_lease_again(api: IdleApi) -> None:
    """What was not allowed meanwhile is tried again."""
    lease = Lease(LeaseStage.LOST)
    running_job_of_another_parent(api)
    loop = Loop(api, "", "this run", 3, may_change=lease.may_change)
    loop.start()
    threading.Event().wait(0.3)
    lease.stage = LeaseStage.HELD
    deadline = threading.Event()
    for _ in range(400):
        if "shutdown" in api.store[Kind.WORKFLOW, "other-site"]["spec"]:
            break
        deadline.wait(0.05)
    assert api.store[Kind.WORKFLOW, "other-site"]["spec"]["shutdown"] == "Terminate"
    loop.end(Cause.PARENT_END, 0.0)
