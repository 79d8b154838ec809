"""What the commands tell about jobs of an earlier version of flargo."""

from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools.jobs.site_job import site_jobs
from tests.harness.old_objects import OldJob, old_jobs

Object = dict[str, Any]
JOBS = old_jobs("0" * 32)


def with_uids(job: OldJob) -> tuple[Object, list[Object]]:
    """Return the Workflow and its pods with the uids that an API server gives them; the file has none."""
    workflow = {**job.workflow, "metadata": {**job.workflow["metadata"], "uid": "w1"}}
    owner = {"kind": "Workflow", "name": job.name, "uid": "w1"}
    pods = [
        {**pod, "metadata": {**pod["metadata"], "uid": f"p{index}", "ownerReferences": [owner]}}
        for index, pod in enumerate(job.pods)
    ]
    return workflow, pods


@pytest.mark.parametrize(
    ("state", "stage", "reason"),
    [
        ("running", Stage.RUNNING, None),
        ("finished", Stage.ENDED, Reason.SUCCEEDED),
        ("unreleased", Stage.SUBMITTED, None),
    ],
)
def test_commands_know_jobs_of_an_earlier_version(state: str, stage: Stage, reason: Reason | None) -> None:
    workflow, pods = with_uids(JOBS[state])
    (job,) = site_jobs([workflow], pods)
    assert (job.stage, job.reason) == (stage, reason)
    assert (job.name, job.site, job.role) == ("fault", "site-1", "client")


def test_commands_know_a_finished_job_without_its_pod() -> None:
    workflow, _ = with_uids(JOBS["finished"])
    (job,) = site_jobs([workflow], [])
    assert job.verdict is not None
    assert (job.verdict.reason, job.verdict.code, job.verdict.exit_code) == (Reason.SUCCEEDED, 0, 0)
