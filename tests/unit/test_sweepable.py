"""Tests of what may be swept: nothing that a living parent could still need."""

from datetime import UTC, datetime, timedelta

import pytest

from flargo.cluster.api import Kind
from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.sweepable import find_sweepable
from flargo.tools.jobs.termination import TerminateResult, expected_result, terminate_patch
from tests.harness.objects import FAILED_STATUS, RUNNING, Object, job_workflow, pod, terminated_state

THEN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FINISHED = pod(main=terminated_state(1), phase="Failed")


def find(
    workflow: Object, *pods: Object, after: timedelta = 2 * HOUR, older: timedelta | None = None
) -> list[tuple[Kind, str]]:
    return [(each.kind, each.name) for each in find_sweepable(site_jobs([workflow], pods), pods, THEN + after, older)]


def test_incomplete_launch_is_swept_after_an_hour() -> None:
    incomplete = job_workflow(phase="", suspend=True)
    assert find(incomplete) == [(Kind.WORKFLOW, "job-site")]
    assert find(incomplete, after=HOUR) == []
    assert find(job_workflow(suspend=True)) == [(Kind.WORKFLOW, "job-site")], "Argo has processed it"


@pytest.mark.parametrize(
    "workflow",
    [
        job_workflow(phase="", suspend=True, notes={"flargo.dev/released": "true"}),
        job_workflow(suspend=True, nodes={"job-site": {"type": "Pod", "phase": "Pending"}}),
        job_workflow(phase=""),
        job_workflow(phase="Pending"),
        job_workflow(phase="Running"),
        job_workflow(phase="Running", finishedAt="2026-01-01T00:00:00Z"),
    ],
    ids=["suspended by a person", "has a node", "unclaimed", "queued", "waits", "is retried"],
)
def test_waiting_jobs_are_never_swept(workflow: Object) -> None:
    assert find(workflow, after=1000 * HOUR, older=HOUR) == []


def test_running_jobs_are_never_swept() -> None:
    running = pod(main=RUNNING, phase="Running")
    assert find(job_workflow(), running, after=1000 * HOUR, older=HOUR) == []
    assert find(job_workflow(suspend=True), running, after=1000 * HOUR) == [], "suspended, but its pod runs"


def test_pod_that_outlives_its_workflow_is_swept() -> None:
    running = pod(main=RUNNING, phase="Running")
    assert find(job_workflow(**FAILED_STATUS), running) == [(Kind.POD, "job-site")]
    assert find(job_workflow(**FAILED_STATUS), running, after=HOUR) == []
    (sweepable,) = find_sweepable(site_jobs([job_workflow(**FAILED_STATUS)], [running]), [running], THEN + 2 * HOUR)
    assert (sweepable.uid, sweepable.grace) == ("p1", 3)


def test_credentials_of_ended_jobs_are_swept() -> None:
    assert find(job_workflow(**FAILED_STATUS), FINISHED) == [(Kind.SECRET, "nvflare-cred-job-site-a1")]
    assert find(job_workflow(**FAILED_STATUS), FINISHED, after=HOUR) == []


def test_old_workflows_are_swept_on_request() -> None:
    assert find(job_workflow(**FAILED_STATUS), FINISHED, after=50 * HOUR, older=48 * HOUR) == [
        (Kind.WORKFLOW, "job-site")
    ]
    assert (Kind.WORKFLOW, "job-site") not in find(
        job_workflow(**FAILED_STATUS), FINISHED, after=40 * HOUR, older=48 * HOUR
    )
    assert (Kind.WORKFLOW, "job-site") not in find(
        job_workflow(**FAILED_STATUS), FINISHED, after=HOUR, older=timedelta(0)
    )


def test_pod_is_swept_before_its_workflow() -> None:
    running = pod(main=RUNNING, phase="Running")
    assert find(job_workflow(**FAILED_STATUS), running, after=50 * HOUR, older=HOUR) == [(Kind.POD, "job-site")]


def test_deleted_or_undated_workflows_are_not_swept() -> None:
    deleted = job_workflow(**FAILED_STATUS)
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert find(deleted) == []
    assert find(job_workflow(phase="Failed")) == [], "the time of its end is unknown"
    undated = job_workflow(phase="", suspend=True)
    del undated["metadata"]["creationTimestamp"]
    assert find(undated, after=1000 * HOUR) == []


def test_durations_have_their_largest_unit() -> None:
    ages = [0, 119, 120, 7199, 7200, 172799, 172800]
    expected = ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]
    assert [format_duration(timedelta(seconds=age)) for age in ages] == expected


# Termination


def test_only_running_jobs_are_terminated() -> None:
    running, ending, ended_job = site_jobs(
        [job_workflow(), job_workflow(shutdown="Terminate"), job_workflow(**FAILED_STATUS, shutdown="Terminate")], []
    )
    assert [expected_result(each) for each in (running, ending, ended_job)] == [
        TerminateResult.REQUESTED,
        TerminateResult.ALREADY_ENDING,
        TerminateResult.ALREADY_ENDED,
    ]
    assert terminate_patch(running) == {"metadata": {"uid": "w1"}, "spec": {"shutdown": "Terminate"}}


def test_suspended_workflow_is_resumed_to_end() -> None:
    (workflow,) = site_jobs([job_workflow(suspend=True)], [])
    assert terminate_patch(workflow)["spec"] == {"shutdown": "Terminate", "suspend": False}


def test_suspended_workflow_that_was_shut_down_is_resumed() -> None:
    """Argo goes on with it only then."""
    (site_job,) = site_jobs([job_workflow(suspend=True, shutdown="Terminate")], [])
    assert expected_result(site_job) is TerminateResult.REQUESTED
