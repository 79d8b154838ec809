"""A client's parent that is killed between two attempts of a job, or before FLARE has reported the job's end."""

import logging
import shutil
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.flare.launch_records import FOLDER
from flargo.flare.nvflare_internals import ServerJobProbe
from flargo.terms import Annotation, Object, ServerJob
from tests.harness.differential.cases import JOB_ID
from tests.harness.fake_api import THREAD_SECONDS
from tests.harness.objects import pod, terminated_state
from tests.harness.parent_runs import History, Run, wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's process of the job runs, and a parent that shuts down does not wait for its jobs."""
    monkeypatch.setattr(ServerJobProbe, "probe", lambda _: ServerJob.RUNS)
    monkeypatch.setattr("flargo.flare.launcher.END_PATIENCE", 0.0)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    runs = History(tmp_path / "workspace")
    yield runs
    runs.close()


def lose_pod(run: Run) -> None:
    """The job's pod is drained while its parent is away."""
    name = run.workflow["metadata"]["name"]
    node = {"id": name, "type": "Pod", "phase": "Error", "templateName": "job", "message": "pod deleted"}
    run.workflow["status"] = {"phase": "Failed", "nodes": {name: node}}
    del run.api.store[Kind.POD, name]


@dataclass
class Moment:
    """What is on the cluster and on the disk at one moment."""

    store: dict[tuple[Kind, str], Object]
    disk: Path
    request: str
    """The request that was about to be sent, or had just been answered."""

    @property
    def credentials(self) -> list[str]:
        return [name for kind, name in self.store if kind is Kind.SECRET and "cred" in name]


def moments_of_the_next_attempt(history: History, root: Path) -> list[Moment]:
    """Return the moments before and after each request of a parent that starts a lost job again."""
    first = history.with_a_running_job()
    first.is_killed()
    lose_pod(first)
    moments: list[Moment] = []
    lock = threading.Lock()

    def note(number: int, when: str) -> None:
        with lock:
            disk = root / f"{len(moments)}"
            shutil.copytree(history.root / FOLDER, disk, ignore=shutil.ignore_patterns(".*"))  # being written
            moments.append(Moment(deepcopy(history.api.store), disk, f"{when} {number}"))

    history.api.trouble = note
    second = history.begins().starts()
    name = next(name for kind, name in history.api.store if kind is Kind.WORKFLOW)
    wait_for(lambda: has_begun(second, f"{name}-r1"))
    history.api.trouble = lambda *_: None
    second.is_killed()
    return moments


def has_begun(run: Run, workflow: str) -> bool:
    item = run.api.store.get((Kind.WORKFLOW, workflow))
    return item is not None and item["spec"]["suspend"] is False


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Moment]]:
    root = tmp_path_factory.mktemp("moments")
    runs = History(root / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerJobProbe, "probe", lambda _: ServerJob.RUNS)
        yield moments_of_the_next_attempt(runs, root)
    runs.close()


def test_a_job_has_one_credentials_secret_at_a_time(moments: list[Moment]) -> None:
    """It has none between the deletion of one and the creation of the next: no request is sent in between."""
    assert {len(moment.credentials) for moment in moments} == {0, 1}
    without = [number for number, moment in enumerate(moments) if not moment.credentials]
    assert without == [without[0], without[0] + 1]
    assert (moments[without[0]].request[:5], moments[without[1]].request[:6]) == ("after", "before")


def test_a_parent_killed_between_two_attempts_goes_on_with_the_job(
    moments: list[Moment], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At whatever moment; if the job has no credentials just then, FLARE gets to know how its process was lost."""
    outcomes = []
    for number, moment in enumerate(moments):
        runs = History(tmp_path / str(number))
        runs.api.store.update(deepcopy(moment.store))
        runs.api._uids = 1000
        lease = next(item for (kind, _), item in moment.store.items() if kind is Kind.LEASE)
        runs.api.store[Kind.LEASE, lease["metadata"]["name"]]["spec"]["holderIdentity"] = ""
        (runs.root / FOLDER).parent.mkdir(parents=True)
        shutil.copytree(moment.disk, runs.root / FOLDER)
        caplog.clear()
        run = runs.begins().starts()
        first = min((name for kind, name in moment.store if kind is Kind.WORKFLOW), key=len)
        if moment.credentials:
            assert run.engine.jobs == [JOB_ID], moment.request
            wait_for(lambda run=run, first=first: has_begun(run, f"{first}-r1"))  # type: ignore[misc]
            assert run.engine.reports == [], moment.request
            (record,) = run.launcher._takeover._adoption._records.load(run.launcher._takeover._adoption._parent)
            workflow = run.api.store[Kind.WORKFLOW, record.workflow]
            assert workflow["metadata"]["annotations"][Annotation.ATTEMPT] == record.attempt, "not the incomplete one"
            assert (Kind.SECRET, record.credentials) in run.api.store
            outcomes.append("goes on")
        else:
            assert run.engine.completed.wait(THREAD_SECONDS)
            assert run.engine.reports == [(JOB_ID, 104)], moment.request
            (line,) = [text for text in caplog.messages if "POD_DELETED (104)" in text]
            assert "the FLARE parent was started again, and attempt 2 cannot be followed: its " in line
            wait_for(lambda run=run: run.records == [])  # type: ignore[misc]
            outcomes.append("reported")
        runs.close()
    assert outcomes.count("reported") == 2


# --- before FLARE has reported the end


def end(run: Run, code: int) -> None:
    """The job's program ends while its parent is away."""
    name, uid = run.workflow["metadata"]["name"], run.workflow["metadata"]["uid"]
    phase = "Failed" if code else "Succeeded"
    run.workflow["status"]["phase"] = phase
    run.api.store[Kind.POD, name] = pod(name, owner=uid, main=terminated_state(code), phase=phase)


@pytest.mark.parametrize("code", [0, 102, 1])
def test_an_end_that_flare_has_not_reported_is_reported_by_the_next_run(
    code: int, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's credentials are deleted by then, and somebody may have deleted its Workflow."""
    first = history.with_a_running_job()
    first.is_killed()
    end(first, code)
    second = history.begins()
    reporting, may_go_on = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        reporting.set()
        may_go_on.wait(THREAD_SECONDS)
        raise ConnectionError("this parent was killed")

    second.engine.client.send_request_before_shutdown = hang
    second.engine.on_completed = lambda _: None
    second.starts()
    assert reporting.wait(THREAD_SECONDS)
    wait_for(lambda: not [name for kind, name in history.api.store if kind is Kind.SECRET and "cred" in name])
    second.is_killed()
    assert second.records == [f"{JOB_ID}.json"]
    history.api.store.pop((Kind.WORKFLOW, first.workflow["metadata"]["name"]))
    with caplog.at_level(logging.INFO):
        third = history.begins().starts()
        assert third.engine.completed.wait(THREAD_SECONDS)
    may_go_on.set()
    assert "is reported, in case its earlier parent did not come to that" in caplog.text
    assert [job for job, _ in third.engine.reports] == [JOB_ID]
    assert third.engine.reports[0][1] == {0: 0, 102: 102, 1: 101}[code]
    wait_for(lambda: (third.records, third.engine.jobs) == ([], []))


def test_an_end_that_flare_has_reported_is_not_reported_again(history: History) -> None:
    first = history.with_a_running_job()
    first.is_killed()
    end(first, 1)
    second = history.begins().starts()
    assert second.engine.completed.wait(THREAD_SECONDS)
    assert (len(second.engine.reports), second.records) == (1, [])
    second.is_killed()
    third = history.begins().starts()
    assert (third.engine.reports, third.engine.jobs) == ([], [])
