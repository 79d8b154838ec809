"""Real federated jobs of which one site's process is lost and started again (docs/rejoin.md), on either engine.

Final weights are computed by hand, and every site's results are counted: a round that was trained twice and counted
twice, or not at all, would show in both.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness import job_folders
from tests.harness.cluster import Cluster, Object, eventually, may_run
from tests.harness.federation import Federation
from tests.harness.federation_checks import SETTLE_SECONDS, job_credentials
from tests.harness.history import History
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import attempt_number

MAX_REJOIN = 3
"""How often the federation's sites start a job's process again."""
ARGO: Mapping[str, Any] = {"policy": {"rejoin": MAX_REJOIN}}
"""The launcher's ``argo`` settings at all sites."""
AGAIN: Mapping[str, Any] = {"argo": {"rejoin": MAX_REJOIN}}
"""The options of a job whose processes may be started again."""
MAX_JOBS = 3
"""How many jobs run side by side: each is three processes of FLARE, which start slowly."""
JOB_SECONDS = 240.0
"""The limit for a job, beside others on a busy machine."""
ROUNDS = 3
SLOW, QUICK = 3.0, 0.3
"""Seconds of training in which a test can lose a process, and in which it cannot."""

SENDS_RESULT, RESULT_SENT = "start to send task result to server", "task result sent to server"
"""What FLARE's process at a site logs when it begins to upload a result, and when the server has it."""

scenario = Scenarios()


class Run:
    """A submitted job."""

    def __init__(self, fed: Federation, cluster: Cluster, folder: Path) -> None:
        self.fed, self.cluster = fed, cluster
        self.id = fed.submit(folder)

    def expect_log(self, site: str, text: str, attempt: int = 1, *, times: int = 1) -> Object:
        """Wait until the log of an attempt at a site has a text so many times; return the attempt's pod."""
        selector = f"{Label.JOB_ID}={self.id},{Label.SITE}={site}"
        pods: list[Object] = []

        def is_logged() -> bool:
            pods[:] = [pod for pod in self.cluster.items("pods", selector) if attempt_number(pod) == attempt]
            return any(self.cluster.log(pod).count(text) >= times for pod in pods)

        eventually(is_logged, JOB_SECONDS, f"attempt {attempt} of {self.id} at {site} logs {text!r} {times} times")
        return pods[0]

    def drain(self, site: str, text: str, attempt: int = 1) -> None:
        """Evict an attempt's pod through the API, as a drain does, as soon as it has printed a text."""
        self.cluster.evict(self.expect_log(site, text, attempt))

    def expect_completed(self, weights: npt.NDArray[np.float64], rounds: int = ROUNDS) -> None:
        """Expect that the job completes with these weights, and that every site has contributed once to each round."""
        assert self.fed.wait(self.id, JOB_SECONDS) == "FINISHED:COMPLETED"
        np.testing.assert_allclose(self.fed.weights(self.id), weights, rtol=1e-6)
        lines = (self.fed.download(self.id) / "workspace" / "contributions.txt").read_text().splitlines()
        expected = Counter(f"{site} {number}" for site in self.fed.sites for number in range(rounds))
        assert Counter(lines) == expected

    def expect_attempts(self, history: History, **counts: int) -> None:
        """Expect so many attempts at each site, one at a time, and that nothing of the job is left."""
        eventually(lambda: not self.leftovers(), SETTLE_SECONDS, "nothing of the job is left")
        for site in self.fed.sites:
            names = [item["metadata"]["name"] for item in self.workflows(site)]
            assert len(names) == counts.get(site.replace("-", "_"), 1), names
            assert history.most_credentials(min(names, key=len)) == 1
        programs = len(self.fed.names)
        assert history.most_programs(self.id) <= programs

    def leftovers(self) -> list[str]:
        """Return what of the job runs, may run or holds its credentials."""
        pods = [pod["metadata"]["name"] for pod in self.cluster.pods(self.id) if may_run(pod)]
        return [*pods, *job_credentials(self.cluster, self.id)]

    def workflows(self, site: str) -> list[Object]:
        """Return the Workflows of all attempts at a site."""
        return self.cluster.items("workflows.argoproj.io", f"{Label.JOB_ID}={self.id},{Label.SITE}={site}")

    def has_server_ended(self) -> bool:
        """Return whether the server's process of the job runs no longer."""
        pods = self.cluster.items("pods", f"{Label.JOB_ID}={self.id},{Label.SITE}=server")
        return not any(map(may_run, pods))

    def report(self, site: str = "site-1") -> str:
        """Return the last line about the job in a site's log, which says how the job ended there."""
        marker = f"job {self.id} at {site}: "
        lines = [line.partition(marker)[2] for line in self.fed.log(site).splitlines() if marker in line]
        return lines[-1] if lines else ""


_numbers = itertools.count(1)


def submit(
    fed: Federation,
    cluster: Cluster,
    *,
    pause: float | Mapping[str, float] = QUICK,
    options: Mapping[str, Any] = AGAIN,
    rounds: int = ROUNDS,
    workflow: str = "fedavg",
) -> Run:
    """Submit a job whose results are counted."""
    path = fed.root / "jobs" / f"rejoin-{next(_numbers)}"
    path.parent.mkdir(exist_ok=True)
    job_folders.fedavg(
        path,
        image=cluster.target.job_image,
        rounds=rounds,
        pause=pause,
        launcher_spec_extra=dict.fromkeys(fed.sites, options),
        server_code=job_folders.COUNT_CONTRIBUTIONS,
        workflow=workflow,
    )
    return Run(fed, cluster, path)


@pytest.fixture(scope="module")
def history(cluster: Cluster) -> Any:
    """What existed on the cluster at the same time."""
    with History(cluster) as running:
        yield running


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, fed: Federation, history: History, cluster: Cluster) -> Any:
    """The module's running scenarios."""
    with Together(scenario, request, cluster, threads=MAX_JOBS, fed=fed, history=history) as running:
        yield running


# --- the job completes

Expected = Callable[[int], npt.NDArray[np.float64]]


@scenario.variants(
    fedavg={"workflow": "fedavg", "expected": job_folders.fedavg_expected},
    cyclic={"workflow": "cyclic", "expected": job_folders.cyclic_expected},
)
def drained_while_it_trains(
    fed: Federation, cluster: Cluster, history: History, workflow: str, expected: Expected
) -> None:
    """The round is trained again, from the model that the server sends once more."""
    job = submit(fed, cluster, pause={"site-1": SLOW, "site-2": QUICK}, workflow=workflow)
    job.drain("site-1", "training round 1")
    job.expect_log("site-1", "training round 1", attempt=2)
    job.expect_completed(expected(ROUNDS))
    job.expect_attempts(history, site_1=2)


@scenario
def drained_while_it_waits(fed: Federation, cluster: Cluster, history: History) -> None:
    """Its result has arrived, and is neither lost nor counted twice."""
    job = submit(fed, cluster, pause={"site-1": QUICK, "site-2": 2 * SLOW})
    cluster.evict(job.expect_log("site-1", RESULT_SENT, times=2))
    job.expect_completed(job_folders.fedavg_expected(ROUNDS))
    job.expect_attempts(history, site_1=2)


@scenario.in_everything
def drained_while_it_trains_for_scatter_and_gather(fed: Federation, cluster: Cluster, history: History) -> None:
    drained_while_it_trains(fed, cluster, history, "scatter and gather", job_folders.fedavg_expected)


@scenario.in_everything
def drained_twice(fed: Federation, cluster: Cluster, history: History) -> None:
    job = submit(fed, cluster, pause={"site-1": SLOW, "site-2": QUICK})
    job.drain("site-1", "training round 0")
    job.drain("site-1", "training round 1", attempt=2)
    job.expect_completed(job_folders.fedavg_expected(ROUNDS))
    job.expect_attempts(history, site_1=3)


@scenario.in_everything
def drained_at_both_sites(fed: Federation, cluster: Cluster, history: History) -> None:
    job = submit(fed, cluster, pause=SLOW)
    for site in fed.sites:
        job.drain(site, "training round 1")
    job.expect_completed(job_folders.fedavg_expected(ROUNDS))
    job.expect_attempts(history, site_1=2, site_2=2)


# --- the job fails

LOST = {"FINISHED:EXECUTION_EXCEPTION", "FINISHED:ABNORMAL"}
"""The statuses of a job that has lost a process: which one depends on who reports first."""


@scenario
def drained_without_consent(fed: Federation, cluster: Cluster, history: History) -> None:
    """FLARE fails a job that has lost a process."""
    job = submit(fed, cluster, pause={"site-1": SLOW, "site-2": QUICK}, options={})
    job.drain("site-1", "training round 1")
    assert fed.wait(job.id, JOB_SECONDS) in LOST
    job.expect_attempts(history)
    assert job.report().startswith(Reason.DISRUPTED.name)


UPLOADS = """\
import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    params = {f"layer {number}": np.zeros(512) for number in range(4_000)}
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
"""A training script with a result of many arrays."""
SLOW_UPLOAD = {"np_download_chunk_size": 4096, "np_streaming_per_request_timeout": 5.0}
"""FLARE's settings with which the server fetches each array with a request of its own, and waits 5 s for an answer.

By default it waits for ten minutes for the answer to the request that the lost process has not answered, and only then
ends the job, which goes on until then."""


@scenario
def drained_during_an_upload(fed: Federation, cluster: Cluster) -> None:
    """The server's process of the job ends itself, which no launcher can repair, and its log says why."""
    path = fed.root / "jobs" / "upload"
    path.parent.mkdir(exist_ok=True)
    job_folders.script(
        path,
        image=cluster.target.job_image,
        code={"site-1": UPLOADS},
        launcher_spec_extra=dict.fromkeys(fed.sites, AGAIN),
        settings=SLOW_UPLOAD,
    )
    job = Run(fed, cluster, path)
    pod = job.expect_log("site-1", SENDS_RESULT)
    time.sleep(1)
    assert RESULT_SENT not in cluster.log(pod)
    cluster.evict(pod)
    assert fed.wait(job.id, JOB_SECONDS) == "FINISHED:EXECUTION_EXCEPTION"
    tail = (fed.download(job.id) / "workspace" / "argo_log_tail.txt").read_text()
    assert "failed to decode streamed submit_update in server job cell" in tail
    eventually(lambda: not job.leftovers(), SETTLE_SECONDS, "nothing of the job is left")


def test_servers_job_finishes_between_attempts(fed: Federation, cluster: Cluster) -> None:
    """All results have arrived, and a further attempt would only fail to find the server's process.

    FLARE calls the job abnormal, because the site's process was lost before the job's end. The model is complete.
    Argo's controller is away, so that the next attempt cannot begin before the server's process has ended.
    """
    job = submit(fed, cluster, pause={"site-1": QUICK, "site-2": 2 * SLOW}, rounds=1)
    pod = job.expect_log("site-1", RESULT_SENT)
    with cluster.freeze("workflow-controller"):
        cluster.evict(pod)
        eventually(lambda: "attempt 1 of 4 lost" in job.report(), SETTLE_SECONDS, "the loss is noticed")
        eventually(job.has_server_ended, JOB_SECONDS, "the server's process has ended")
    assert fed.wait(job.id, JOB_SECONDS) == "FINISHED:ABNORMAL"
    np.testing.assert_allclose(fed.weights(job.id), job_folders.fedavg_expected(1), rtol=1e-6)
    assert job.report().startswith(f"{Reason.DISRUPTED.name} (104)")
    assert "not started again: the server's process of the job runs no longer" in job.report()
    eventually(lambda: not job.leftovers(), SETTLE_SECONDS, "nothing of the job is left")
    assert len(job.workflows("site-1")) == 1


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
