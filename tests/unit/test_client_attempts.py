"""What people get to know of a client's job that is started again, and what the site's settings change about that."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flargo.control.attempt_notes import EventReason
from flargo.control.launched_job import LaunchedJob
from flargo.control.meter import NullMeter
from flargo.flare.client_jobs import ClientJobs
from flargo.flare.report import Report
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.status.views import Observation, WorkflowView
from flargo.terms import Plan, Role, ServerJob
from tests.harness.launches import launch
from tests.harness.story import POD_RUNNING, WORKFLOW, Story

DRAINED = Verdict(Reason.DISRUPTED, 104, "drained")
DELETED = Verdict(Reason.POD_DELETED, 104)
LOG = "step 7\n"


@dataclass
class FakeLoop:
    """Takes launches, performs tasks at once, and keeps the Events that would be created."""

    launched: list[Plan] = field(default_factory=list)
    collects_log: list[bool] = field(default_factory=list)
    events: list[tuple[str, EventReason, str]] = field(default_factory=list)
    on_state: Callable[[JobState], None] = lambda _: None
    on_verdict: Callable[[Verdict, str], None] = lambda *_: None

    @property
    def attempt_notes(self) -> "FakeLoop":
        return self

    def announce(self, workflow: WorkflowView, reason: EventReason, message: str) -> None:
        self.events.append((workflow.name, reason, message))

    def note_verdict(self, *_: object) -> None:
        pass

    def require(self, _: str) -> None:
        pass

    def launch(
        self,
        plan: Plan,
        _: Callable[[], bool],
        on_verdict: Callable[[Verdict, str], None],
        *,
        collect_log: bool,
        on_state: Callable[[JobState], None],
        keeps_secret: bool,
    ) -> LaunchedJob:
        assert keeps_secret
        self.launched.append(plan)
        self.collects_log.append(collect_log)
        self.on_verdict, self.on_state = on_verdict, on_state
        return LaunchedJob(plan.name)

    def release_secret(self, launched: LaunchedJob) -> None:
        pass

    def run(self, task: Callable[[], None], delay: float = 0.0) -> bool:
        assert delay == 0.0
        task()
        return True

    def read_log(self, _: JobState) -> str:
        return LOG


class CountingMeter(NullMeter):
    """Counts lost attempts."""

    def __init__(self) -> None:
        self.lost: list[Reason] = []

    def count_lost_attempt(self, verdict: Verdict) -> None:
        self.lost.append(verdict.reason)


class Job:
    """A client's job, whose site has some settings."""

    def __init__(self, root: Path, **argo: Any) -> None:
        first = launch(max_attempts=3)
        self.loop, self.meter = FakeLoop(), CountingMeter()
        self.run_dir = root / first.job_id
        self.run_dir.mkdir()
        self.name = first.pod["metadata"]["name"]
        settings = check_settings(argo={"policy": {"rejoin": 2}, **argo})
        jobs = ClientJobs(settings, cast("Any", self.loop), self.meter, None)
        report = Report(
            first.job_id, "site-1", Role.CLIENT, run_dir=self.run_dir, error_log=self.run_dir / "error_log.txt"
        )
        transfer = cast("Any", SimpleNamespace(has_results=False))
        plan = build_plan(first, settings)
        self.handle = jobs.launch(first, plan, transfer, report, lambda: ServerJob.RUNS, lambda *_: None)

    def is_lost(self, verdict: Verdict, *, is_deleted_by_force: bool = False) -> None:
        """The attempt's pod is deleted, and then nothing of it is left."""
        dying = replace(POD_RUNNING, name="old-pod", node="node-a", deleting=True)
        workflow = replace(WORKFLOW, name=self.name)
        state = replace(Story().state, stage=Stage.RUNNING, pod=dying, observation=Observation(workflow, (dying,)))
        self.loop.on_state(state)
        pod = dying if is_deleted_by_force else replace(dying, running=False)
        gone = replace(state.observation, pods=())
        self.loop.on_state(
            replace(
                state,
                stage=Stage.ENDED,
                verdict=verdict,
                confirmed_gone=True,
                pod=pod,
                observation=gone,
            )
        )
        self.loop.on_verdict(verdict, "")


def test_each_loss_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flargo")
    job = Job(tmp_path)
    caplog.clear()
    job.is_lost(DRAINED)
    assert job.meter.lost == [Reason.DISRUPTED]
    lost, submitted = [record.getMessage() for record in caplog.records]
    assert "attempt 1 of 3 lost (DISRUPTED), another one may follow" in lost
    assert submitted.endswith(f"submitted as Workflow {job.name}-r1, attempt 2 of 3")
    assert not job.handle.has_ended


def test_events_of_the_lost_workflow_say_what_followed(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.is_lost(DRAINED)
    (lost, started) = job.loop.events
    assert lost[:2] == (job.name, EventReason.LOST)
    assert "was lost: DISRUPTED: " in lost[2]
    assert started[:2] == (job.name, EventReason.STARTED)
    assert started[2].endswith(f"was submitted as Workflow {job.name}-r1")


def test_a_pod_that_may_still_run_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(tmp_path)
    job.is_lost(DRAINED, is_deleted_by_force=True)
    (warning,) = [each.getMessage() for each in caplog.records if "may run beside" in each.getMessage()]
    assert f"old-pod on node node-a may run beside {job.name}-r1, attempt 2" in warning
    assert job.loop.events[1][2].endswith("; old-pod on node node-a may still run beside it")


@pytest.mark.parametrize("keeps", [True, False])
def test_a_site_decides_whether_logs_are_kept(tmp_path: Path, *, keeps: bool) -> None:
    """A client's log may hold patients' data: without the setting nothing reads it."""
    job = Job(tmp_path, keep_lost_log=keeps)
    job.is_lost(DRAINED)
    assert job.loop.collects_log == [keeps, keeps]
    assert [file.read_text() for file in job.run_dir.iterdir()] == [LOG] * keeps


@pytest.mark.parametrize("counts", [True, False])
def test_a_site_decides_whether_a_deletion_is_a_loss(tmp_path: Path, *, counts: bool) -> None:
    job = Job(tmp_path, rejoin_deleted=counts)
    job.is_lost(DELETED)
    assert (len(job.loop.launched) == 2, job.handle.has_ended) == (counts, not counts)
