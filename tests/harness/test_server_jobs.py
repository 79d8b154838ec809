"""The launcher's probe reads the harness's answers as those of a server."""

import pytest

from flargo.flare.nvflare_internals import ServerJobProbe
from flargo.terms import ServerJob
from tests.harness.differential.cases import JOB_ID
from tests.harness.server_jobs import ServerJobs
from tests.harness.site import ConnectedCell


@pytest.mark.parametrize("answer", ServerJob)
def test_the_probe_reads_each_answer(answer: ServerJob) -> None:
    jobs = ServerJobs()
    jobs.answer(JOB_ID, answer)
    assert ServerJobProbe(ConnectedCell("site-1", jobs), JOB_ID).probe() is answer


def test_the_last_answer_is_repeated() -> None:
    jobs = ServerJobs()
    probe = ServerJobProbe(ConnectedCell("site-1", jobs), JOB_ID)
    assert probe.probe() is ServerJob.RUNS
    jobs.answer(JOB_ID, ServerJob.UNKNOWN, ServerJob.GONE)
    assert [probe.probe() for _ in range(3)] == [ServerJob.UNKNOWN, ServerJob.GONE, ServerJob.GONE]
    assert jobs.probes(JOB_ID) == 4
