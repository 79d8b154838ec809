"""What the commands tell about jobs of an earlier version of flargo, and what they sweep of them."""

from datetime import datetime, timedelta

import pytest

from flargo.cluster.api import Kind
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.jobs.site_job import site_jobs
from flargo.tools.jobs.sweepable import find_sweepable
from tests.harness.old_objects import OldJob, old_jobs

JOBS = old_jobs("0" * 32)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("state", "stage", "reason"),
    [
        ("running", Stage.RUNNING, None),
        ("finished", Stage.ENDED, Reason.SUCCEEDED),
        ("unreleased", Stage.SUBMITTED, None),
    ],
)
def test_commands_know_jobs_of_an_earlier_version(state: str, stage: Stage, reason: Reason | None) -> None:
    (job,) = site_jobs([JOBS[state].workflow], JOBS[state].pods)
    assert (job.stage, job.reason) == (stage, reason)
    assert (job.name, job.site, job.role) == ("fault", "site-1", "client")


def test_commands_know_a_finished_job_without_its_pod() -> None:
    (job,) = site_jobs([JOBS["finished"].workflow], [])
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.code, job.verdict.exit_code) == (Reason.SUCCEEDED, 0, 0)


def created_at(job: OldJob) -> datetime:
    return datetime.fromisoformat(job.workflow["metadata"]["creationTimestamp"])


def find(job: OldJob, after: timedelta, older_than: timedelta | None = None) -> list[tuple[Kind, str, str | None]]:
    """Return what may be swept of a job so long after its creation."""
    jobs = site_jobs([job.workflow], job.pods)
    sweepable = find_sweepable(jobs, job.pods, created_at(job) + after, older_than)
    return [(each.kind, each.name, each.uid) for each in sweepable]


def test_unreleased_job_is_swept_after_an_hour() -> None:
    job = JOBS["unreleased"]
    assert find(job, after=HOUR) == []
    uid = job.workflow["metadata"]["uid"]
    assert find(job, after=2 * HOUR) == [(Kind.WORKFLOW, job.name, uid)]
    (secret,) = job.secrets
    assert secret["metadata"]["ownerReferences"][0]["uid"] == uid, "the Secret is deleted with the Workflow"


def test_running_job_is_never_swept() -> None:
    assert find(JOBS["running"], after=1000 * HOUR, older_than=HOUR) == []


def test_finished_job_is_swept_on_request() -> None:
    job = JOBS["finished"]
    attempt = job.workflow["metadata"]["annotations"]["flargo.dev/attempt"]
    assert find(job, after=HOUR) == []
    assert find(job, after=2 * HOUR) == [(Kind.SECRET, f"nvflare-cred-{job.name}-{attempt}", None)]
    workflow = (Kind.WORKFLOW, job.name, job.workflow["metadata"]["uid"])
    assert find(job, after=50 * HOUR, older_than=48 * HOUR) == [workflow]


def test_swept_name_is_that_of_the_old_secret() -> None:
    """An earlier version and this one must name a launch's credentials in the same way."""
    old = JOBS["running"]
    finished = JOBS["finished"].workflow
    meta = {**finished["metadata"], "name": old.name, "annotations": old.workflow["metadata"]["annotations"]}
    job = OldJob({**finished, "metadata": meta}, (), old.secrets)
    (secret,) = old.secrets
    assert [name for _, name, _ in find(job, after=2 * HOUR)] == [secret["metadata"]["name"]]
