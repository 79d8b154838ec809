"""What may be swept: nothing that a living parent could still want."""

from datetime import UTC, datetime, timedelta

import pytest

from flargo.cluster.api import Kind
from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.sweepable import find_sweepable
from flargo.tools.jobs.termination import TerminateResult, expected_result, terminate_patch
from tests.harness.objects import OVER, RUNNING, Object, ended, job, pod

THEN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FINISHED = pod(main=ended(1), phase="Failed")


def swept(
    made: Object, *pods: Object, after: timedelta = 2 * HOUR, older: timedelta | None = None
) -> list[tuple[Kind, str]]:
    return [(each.kind, each.name) for each in find_sweepable(site_jobs([made], pods), pods, THEN + after, older)]


def test_a_launch_that_was_broken_off_goes_after_an_hour_and_not_before() -> None:
    broken = job(phase="", suspend=True)
    assert swept(broken) == [(Kind.WORKFLOW, "job-site")]
    assert swept(broken, after=HOUR) == []
    assert swept(job(suspend=True)) == [(Kind.WORKFLOW, "job-site")], "Argo has looked at it"


@pytest.mark.parametrize(
    "held",
    [
        job(phase="", suspend=True, notes={"flargo.dev/released": "true"}),
        job(suspend=True, nodes={"job-site": {"type": "Pod", "phase": "Pending"}}),
        job(phase=""),
        job(phase="Pending"),
        job(phase="Running"),
        job(phase="Running", finishedAt="2026-01-01T00:00:00Z"),
    ],
    ids=["suspended by a person", "has a node", "unclaimed", "queued", "waits", "is tried again"],
)
def test_what_waits_may_have_a_parent_however_old_it_is(held: Object) -> None:
    assert swept(held, after=1000 * HOUR, older=HOUR) == []


def test_what_runs_is_never_touched() -> None:
    running = pod(main=RUNNING, phase="Running")
    assert swept(job(), running, after=1000 * HOUR, older=HOUR) == []
    assert swept(job(suspend=True), running, after=1000 * HOUR) == [], "suspended, but running all the same"


def test_a_pod_that_runs_on_after_its_workflow_is_killed_when_each_parent_would_have() -> None:
    deaf = pod(main=RUNNING, phase="Running")
    assert swept(job(**OVER), deaf) == [(Kind.POD, "job-site")]
    assert swept(job(**OVER), deaf, after=HOUR) == []
    (found,) = find_sweepable(site_jobs([job(**OVER)], [deaf]), [deaf], THEN + 2 * HOUR)
    assert (found.uid, found.grace) == ("p1", 3)


def test_credentials_of_what_has_ended_go_and_its_record_stays() -> None:
    assert swept(job(**OVER), FINISHED) == [(Kind.SECRET, "nvflare-cred-job-site-a1")]
    assert swept(job(**OVER), FINISHED, after=HOUR) == []


def test_the_record_goes_when_it_is_old_and_somebody_wants_that() -> None:
    assert swept(job(**OVER), FINISHED, after=50 * HOUR, older=48 * HOUR) == [(Kind.WORKFLOW, "job-site")]
    assert (Kind.WORKFLOW, "job-site") not in swept(job(**OVER), FINISHED, after=40 * HOUR, older=48 * HOUR)
    assert (Kind.WORKFLOW, "job-site") not in swept(job(**OVER), FINISHED, after=HOUR, older=timedelta(0))


def test_a_workflow_whose_pod_lives_does_not_go_before_it() -> None:
    deaf = pod(main=RUNNING, phase="Running")
    assert swept(job(**OVER), deaf, after=50 * HOUR, older=HOUR) == [(Kind.POD, "job-site")]


def test_what_is_going_already_or_has_no_time_is_left_alone() -> None:
    going = job(**OVER)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert swept(going) == []
    assert swept(job(phase="Failed")) == [], "nobody knows when it ended"
    ageless = job(phase="", suspend=True)
    del ageless["metadata"]["creationTimestamp"]
    assert swept(ageless, after=1000 * HOUR) == []


def test_ages_are_told_in_what_they_are_worth() -> None:
    ages = [0, 119, 120, 7199, 7200, 172799, 172800]
    told = ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]
    assert [format_duration(timedelta(seconds=age)) for age in ages] == told


# How a job is ended


def test_what_lives_is_told_to_end_and_nothing_else() -> None:
    living, being, over = site_jobs([job(), job(shutdown="Terminate"), job(**OVER, shutdown="Terminate")], [])
    assert [expected_result(part) for part in (living, being, over)] == [
        TerminateResult.REQUESTED,
        TerminateResult.ALREADY_ENDING,
        TerminateResult.ALREADY_ENDED,
    ]
    assert terminate_patch(living) == {"metadata": {"uid": "w1"}, "spec": {"shutdown": "Terminate"}}


def test_what_is_suspended_is_released_to_its_end() -> None:
    (held,) = site_jobs([job(suspend=True)], [])
    assert terminate_patch(held)["spec"] == {"shutdown": "Terminate", "suspend": False}
