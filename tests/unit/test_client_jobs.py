"""The jobs of a client's parent: recorded while they run, taken back from their records, ended together."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flargo.cluster.api import Kind
from flargo.control.loop import Loop
from flargo.control.meter import NullMeter
from flargo.control.submit import SubmitError
from flargo.flare.client_jobs import ClientJobs
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.launch_records import FOLDER, LaunchRecord, LaunchRecords
from flargo.flare.nvflare_internals import AdoptionError, WorkspaceTransfer
from flargo.flare.report import Report
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Launch, Object, Role, SecretData, ServerJob, Uid
from tests.harness.fake_api import THREAD_SECONDS, IdleApi
from tests.harness.launches import launch
from tests.harness.objects import RUNNING, pod, terminated_state, workflow

SETTINGS = check_settings(argo={"policy": {"rejoin": 3}})


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + THREAD_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


class Parent:
    """One run of a client's parent, in front of an API in memory."""

    def __init__(self, root: Path, api: IdleApi, *, has_records: bool = True) -> None:
        self.api, self.root = api, root
        self.loop = Loop(api, "", "this run", 3)
        self.records = LaunchRecords(root)
        self.jobs = ClientJobs(SETTINGS, self.loop, NullMeter(), self.records if has_records else None)
        self.transfer = cast("WorkspaceTransfer", SimpleNamespace(has_results=False, is_connected=True))
        self.verdicts: list[tuple[Verdict, str]] = []
        self.server = ServerJob.RUNS

    def end(self, verdict: Verdict, workflow: str, _tail: str) -> None:
        self.verdicts.append((verdict, workflow))

    def probe(self) -> ServerJob:
        return self.server

    def report(self, first: Launch) -> Report:
        run_dir = self.root / first.job_id
        return Report(first.job_id, first.parent.site, Role.CLIENT, run_dir=run_dir, error_log=run_dir / "error.txt")

    def launches(self, first: Launch) -> ArgoJobHandle:
        plan = build_plan(first, SETTINGS)
        return self.jobs.launch(first, plan, self.transfer, self.report(first), self.probe, self.end)

    def adopts(self, record: LaunchRecord, register: Callable[[ArgoJobHandle], None] = lambda _: None) -> ArgoJobHandle:
        report = self.report(record.first)
        return self.jobs.adopt(record, Uid("w1"), self.transfer, report, self.probe, self.end, register)

    def loads(self) -> list[LaunchRecord]:
        """Return the records as the parent's next run reads them."""
        return self.records.load(launch().parent)

    def recorded(self) -> list[str]:
        folder = self.root / FOLDER
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def api() -> Iterator[IdleApi]:
    idle_api = IdleApi()
    yield idle_api
    idle_api.test_ended.set()


@pytest.fixture
def parent(tmp_path: Path, api: IdleApi) -> Iterator[Parent]:
    run = Parent(tmp_path, api)
    yield run
    run.loop.end(Cause.PARENT_END, 0.0)


def exists_on_cluster(api: IdleApi, record: LaunchRecord, item: Object, *pods: Object) -> None:
    """Put the objects of a launch's attempt into the API."""
    api.store[Kind.WORKFLOW, record.workflow] = item
    api.store[Kind.SECRET, record.credentials] = {
        "metadata": {
            "name": record.credentials,
            "uid": "s1",
            "labels": {"app.kubernetes.io/managed-by": "flargo"},
            "ownerReferences": [
                {
                    "apiVersion": "argoproj.io/v1alpha1",
                    "kind": "Workflow",
                    "name": record.workflow,
                    "uid": item["metadata"]["uid"],
                }
            ],
        }
    }
    for each in pods:
        api.store[Kind.POD, each["metadata"]["name"]] = each


def test_a_launch_is_recorded_before_anything_exists(parent: Parent, api: IdleApi) -> None:
    first = launch()
    seen: list[list[str]] = []
    api.trouble = lambda *_: seen.append(parent.recorded())
    handle = parent.launches(first)
    assert handle._job.wait(lambda job: job.is_released, THREAD_SECONDS)
    assert seen
    assert all(names == [f"{first.job_id}.json"] for names in seen)
    (record,) = parent.records.load(first.parent)
    assert (record.workflow, record.attempt) == (first.pod["metadata"]["name"], first.attempt)
    assert (Kind.SECRET, record.credentials) in api.store


def test_the_record_goes_with_the_job(parent: Parent, api: IdleApi) -> None:
    """It is aborted before its Workflow exists."""
    may_go_on = threading.Event()

    def wait(*_: object) -> None:
        may_go_on.wait(THREAD_SECONDS)

    api.trouble = wait
    handle = parent.launches(launch())
    assert parent.recorded()
    parent.jobs.stop_all(Cause.ABORT)
    may_go_on.set()
    parent.loop.end(Cause.PARENT_END, THREAD_SECONDS)
    assert handle.has_ended
    assert [record.verdict and record.verdict.reason for record in parent.loads()] == [Reason.ABORTED]
    parent.jobs.on_completed(launch().job_id)
    assert parent.recorded() == []


def test_a_refused_launch_leaves_no_record(parent: Parent) -> None:
    parent.loop.end(Cause.PARENT_END, 0.0)
    with pytest.raises(SubmitError, match="shutting down"):
        parent.launches(launch())
    assert (parent.recorded(), parent.jobs._running) == ([], set())


def test_nothing_is_recorded_where_nothing_is_taken_back(tmp_path: Path, api: IdleApi) -> None:
    parent = Parent(tmp_path, api, has_records=False)
    handle = parent.launches(launch())
    assert handle._job.wait(lambda job: job.is_released, THREAD_SECONDS)
    parent.loop.end(Cause.PARENT_END, 0.1)
    assert [*tmp_path.iterdir()] == []


def held(job_id: str) -> list[Any]:
    """Return what Python holds of a job: its launches, and its startup kits."""
    gc.collect()
    objects = [each for each in gc.get_objects() if isinstance(each, Launch | SecretData)]
    return [
        each
        for each in objects
        if (each.job_id == job_id if isinstance(each, Launch) else each.name == f"nvflare-startup-{job_id}")
    ]


@pytest.mark.parametrize("max_attempts", [1, 2])
@pytest.mark.parametrize("is_adopted", [False, True])
def test_a_job_with_one_attempt_holds_no_startup_kit(parent: Parent, is_adopted: bool, max_attempts: int) -> None:  # noqa: FBT001
    """A kit has tens of kilobytes, and a parent has hundreds of jobs."""
    job_id = f"job-{max_attempts}-{is_adopted}"
    first = launch(
        job_id=job_id, max_attempts=max_attempts, startup=SecretData(f"nvflare-startup-{job_id}", {"client.key": b"k"})
    )
    if is_adopted:
        parent.adopts(LaunchRecord(first, 1, first.attempt))
    else:
        assert parent.launches(first)._job.wait(lambda job: job.is_released, THREAD_SECONDS)
    del first
    if max_attempts == 1:
        wait_for(lambda: not held(job_id))
    else:
        assert len(held(job_id)) == 2


def test_an_adopted_job_is_followed(parent: Parent, api: IdleApi) -> None:
    first = launch()
    record = LaunchRecord(first, 1, first.attempt)
    parent.records.save(record)
    name = record.workflow
    item = workflow(name, phase="Succeeded", attempt=first.attempt)
    exists_on_cluster(api, record, item, pod(name, main=terminated_state(0, "Completed"), phase="Succeeded"))
    registered: list[ArgoJobHandle] = []
    handle = parent.adopts(record, registered.append)
    assert registered == [handle]
    assert handle.poll() == 127
    parent.loop.start()
    handle.wait()
    assert (handle.poll(), [workflow for _, workflow in parent.verdicts]) == (0, [name])
    assert [record.verdict and record.verdict.reason for record in parent.loads()] == [Reason.SUCCEEDED]
    parent.jobs.on_completed(first.job_id)
    assert parent.recorded() == []
    wait_for(lambda: (Kind.SECRET, record.credentials) not in api.store)


def test_the_verdict_is_recorded_before_the_credentials_are_deleted(
    parent: Parent, api: IdleApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the parent's next run cannot take the job back: it would report as lost a job that succeeded."""
    first, wrote = launch(), threading.Event()
    record = LaunchRecord(first, 1, first.attempt)
    parent.records.save(record)
    name, note = record.workflow, parent.records.note_verdict
    item = workflow(name, phase="Succeeded", attempt=first.attempt)
    exists_on_cluster(api, record, item, pod(name, main=terminated_state(0, "Completed"), phase="Succeeded"))

    def write_slowly(job_id: str, verdict: Verdict) -> None:
        assert not wrote.wait(0.3)
        assert (Kind.SECRET, record.credentials) in api.store
        note(job_id, verdict)
        wrote.set()

    monkeypatch.setattr(parent.records, "note_verdict", write_slowly)
    handle = parent.adopts(record)
    parent.loop.start()
    handle.wait()
    assert wrote.is_set()
    wait_for(lambda: (Kind.SECRET, record.credentials) not in api.store)


def test_a_job_that_flare_refuses_is_not_followed(parent: Parent) -> None:
    def refuse(_: ArgoJobHandle) -> None:
        raise AdoptionError("FLARE's executor knows the job already")

    first = launch()
    with pytest.raises(AdoptionError):
        parent.adopts(LaunchRecord(first, 1, first.attempt), refuse)
    assert (parent.jobs._running, parent.loop._jobs, parent.verdicts) == (set(), {}, [])


def test_a_shutdown_during_the_adoption_ends_the_job(parent: Parent) -> None:
    """FLARE waits for the handle by then, on a thread that would keep the parent's process alive."""
    handles: list[ArgoJobHandle] = []

    def register(handle: ArgoJobHandle) -> None:
        handles.append(handle)
        parent.loop.end(Cause.PARENT_END, 0.0)

    first = launch()
    parent.records.save(LaunchRecord(first, 1, first.attempt))
    with pytest.raises(SubmitError):
        parent.adopts(LaunchRecord(first, 1, first.attempt), register)
    handles[0].wait()
    assert [verdict.reason for verdict, _ in parent.verdicts] == [Reason.ORPHANED]
    assert parent.jobs._running == set()
    parent.jobs.on_completed(first.job_id)
    assert parent.recorded() == []


def test_an_abort_before_the_job_is_followed_ends_it(parent: Parent, api: IdleApi) -> None:
    first = launch()
    record = LaunchRecord(first, 1, first.attempt)
    item = workflow(record.workflow, phase="Running", attempt=first.attempt)
    exists_on_cluster(api, record, item, pod(record.workflow, main=RUNNING, phase="Running"))
    parent.adopts(record, lambda handle: handle.terminate())
    parent.loop.start()
    wait_for(lambda: api.store[Kind.WORKFLOW, record.workflow]["spec"].get("shutdown"))


def test_a_job_lost_with_its_parent_is_started_again(parent: Parent, api: IdleApi) -> None:
    """Its next attempt has names of its own, the same credentials, and is recorded in place of the one before."""
    first = launch(max_attempts=3)
    record = LaunchRecord(first, 1, first.attempt)
    parent.records.save(record)
    nodes = {"n": {"id": "n", "type": "Pod", "phase": "Error", "message": "pod deleted"}}
    item = workflow(record.workflow, phase="Failed", attempt=first.attempt, nodes=nodes)
    exists_on_cluster(api, record, item)
    handle = parent.adopts(record)
    parent.loop.start()
    second = f"{record.workflow}-r1"
    wait_for(
        lambda: (Kind.WORKFLOW, second) in api.store and api.store[Kind.WORKFLOW, second]["spec"]["suspend"] is False
    )
    (found,) = parent.records.load(first.parent)
    assert (found.number, found.workflow, handle.has_ended) == (2, second, False)
    created = api.store[Kind.SECRET, found.credentials]
    assert {*created["data"]} == {*first.credentials.data}
    assert created["metadata"]["ownerReferences"][0]["name"] == second
    assert (Kind.SECRET, record.credentials) not in api.store
    assert replace(found, number=1, attempt=first.attempt).workflow == record.workflow


class BrokenJob:
    """A job whose report fails when the job is stopped."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def stop(self, cause: Cause) -> None:
        self.causes.append(cause)
        raise ValueError("a defect")


def test_a_job_that_cannot_be_stopped_keeps_no_other_from_its_end() -> None:
    """The parent's shutdown then goes on, too: without it FLARE would wait for every job's verdict for ever."""
    jobs = ClientJobs(cast("Any", None), cast("Any", None), NullMeter(), None)
    broken = [BrokenJob(), BrokenJob()]
    jobs._running = cast("Any", set(broken))
    jobs.stop_all(Cause.PARENT_END)
    assert [each.causes for each in broken] == [[Cause.PARENT_END]] * 2


def test_a_parent_without_its_site_starts_no_attempt(parent: Parent, api: IdleApi) -> None:
    """Another parent of the site has taken the job back. That one starts it again, and its record stays as it is."""
    first = launch(max_attempts=3)
    record = LaunchRecord(first, 1, first.attempt)
    parent.records.save(record)
    nodes = {"n": {"id": "n", "type": "Pod", "phase": "Error", "message": "pod deleted"}}
    item = workflow(record.workflow, phase="Failed", attempt=first.attempt, nodes=nodes)
    exists_on_cluster(api, record, item)
    handle = parent.adopts(record)
    parent.loop.may_change = lambda *, is_followed: not is_followed
    parent.loop.start()
    wait_for(lambda: handle.has_ended)
    ((verdict, _),) = parent.verdicts
    assert "another FLARE parent has taken over" in verdict.detail
    (found,) = parent.records.load(first.parent)
    assert (found.number, found.attempt) == (1, first.attempt)
    assert api.named(Kind.WORKFLOW) == [record.workflow]


def test_a_second_launch_of_a_job_leaves_its_record(parent: Parent) -> None:
    """A launch that is refused, because the job runs, must not delete or replace the record of the running one."""
    first = launch()
    parent.launches(first)
    with pytest.raises(SubmitError, match="an earlier launch"):
        parent.launches(replace(first, attempt="other"))
    (found,) = parent.records.load(first.parent)
    assert found.attempt == first.attempt
