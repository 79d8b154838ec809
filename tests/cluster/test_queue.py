"""Tests of client jobs that wait for their site's semaphore, as `argo.semaphore` and `argo.queued` configure it."""

import itertools
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label, Role
from tests.harness import job_folders
from tests.harness.cluster import Cluster, eventually, program_times
from tests.harness.federation import Component, Federation, argo_launcher
from tests.harness.real_cluster.target import Target
from tests.harness.site import EXITS_ON_REQUEST, SLEEPS, START_SECONDS, TURN_SECONDS, Job, Site, exits

NOTICE_SECONDS = 15.0
"""Seconds within which the end of a job is known, or lets the next job start."""
NO_PENDING_TIME = {"pending_timeout": 0}


@pytest.fixture(scope="module")
def queue(cluster: Cluster) -> Iterator[str]:
    """The name of a ConfigMap like that of deploy/queue.yaml, with a key for each test."""
    name = f"flargo-test-queue-{secrets.token_hex(3)}"
    data = {"six": "2", "none": "0", "words": "two", "site-2": "2"}
    data |= dict.fromkeys(("full", "aborted", "grows", "here", "there", "site-1"), "1")
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    yield name
    cluster.kubectl("delete", "configmap", name)


def queueing_site(cluster: Cluster, queue: str, key: str, queued: float = 600, role: Role = Role.CLIENT) -> Site:
    return Site(cluster, role=role, argo={"semaphore": {"name": queue, "key": key}, "queued": queued})


def runs_two(jobs: list[Job]) -> bool:
    stages = [job.launched_job.stage for job in jobs]
    return (stages.count(Stage.RUNNING), stages.count(Stage.QUEUED)) == (2, len(jobs) - 2)


def test_six_jobs_run_two_at_a_time(cluster: Cluster, queue: str) -> None:
    """All six jobs succeed, although none of them accepts a pending pod."""
    with queueing_site(cluster, queue, "six") as site:
        jobs = [site.launch(EXITS_ON_REQUEST, NO_PENDING_TIME) for _ in range(6)]
        unfinished, times = list(jobs), []
        while unfinished:
            eventually(lambda: runs_two(unfinished), TURN_SECONDS, f"two of {len(unfinished)} run, the others queue")
            assert sum(len(job.pods) for job in unfinished) == 2
            for job in [job for job in unfinished if job.launched_job.stage is Stage.RUNNING]:
                job.expect_running().exit_program(0)
                job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
                times.append(program_times(job.pod))
                unfinished.remove(job)
        for job in jobs:
            job.expect_nothing_left()
        for three in itertools.combinations(times, 3):
            assert max(start for start, _ in three) >= min(end for _, end in three), "three ran at once"


def test_server_job_ignores_the_queue(cluster: Cluster, queue: str) -> None:
    with (
        queueing_site(cluster, queue, "full") as site,
        queueing_site(cluster, queue, "full", role=Role.SERVER) as server,
    ):
        running_job = site.launch(SLEEPS).expect_running()
        queued_job = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        server.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        assert (running_job.launched_job.stage, queued_job.launched_job.stage) == (Stage.RUNNING, Stage.QUEUED)


def test_aborted_jobs_free_their_place(cluster: Cluster, queue: str) -> None:
    """The place of an aborted job goes to the next one; a job that was aborted in the queue is skipped."""
    with queueing_site(cluster, queue, "aborted") as site:
        running_job = site.launch(SLEEPS).expect_running()
        second = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        third = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        second.abort()
        second.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        running_job.abort()
        running_job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        third.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        for job in (running_job, second, third):
            job.expect_nothing_left()
        assert second.pods == []


def test_larger_limit_starts_the_next_job(cluster: Cluster, queue: str) -> None:
    with queueing_site(cluster, queue, "grows") as site:
        running_job = site.launch(SLEEPS).expect_running()
        site.launch(exits(0)).expect_stage(Stage.QUEUED)
        next_job = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        cluster.kubectl("patch", "configmap", queue, "--type=merge", '--patch={"data":{"grows":"2"}}')
        next_job.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        assert running_job.launched_job.stage is Stage.RUNNING


def test_deadlock_of_two_sites_is_resolved(cluster: Cluster, queue: str) -> None:
    """Two sites run one of two jobs each and queue the other; the queue's timeout ends one job, so the other runs."""
    with queueing_site(cluster, queue, "here", queued=20) as here, queueing_site(cluster, queue, "there") as there:
        job_a_here, job_b_there = here.launch(SLEEPS).expect_running(), there.launch(SLEEPS).expect_running()
        job_b_here = here.launch(SLEEPS, NO_PENDING_TIME).expect_stage(Stage.QUEUED)
        start = time.monotonic()
        job_a_there = there.launch(exits(0), NO_PENDING_TIME).expect_stage(Stage.QUEUED)
        job_b_here.expect_end(Reason.QUEUED, 101, within=45)
        assert time.monotonic() - start > 15
        assert f"Waiting for {cluster.target.namespace}/ConfigMap/{queue}/here lock" in detail(job_b_here)
        # FLARE's server learns that job B failed at one site, and aborts it at the other: then job A can run at both.
        job_b_there.abort()
        job_a_there.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        job_a_here.abort()
        for job in (job_a_here, job_b_here, job_a_there, job_b_there):
            job.expect_nothing_left()
        assert job_b_here.pods == []


@pytest.mark.parametrize("key", ["not-there", "none", "words"])
def test_invalid_limit_fails_the_job(cluster: Cluster, queue: str, key: str) -> None:
    with queueing_site(cluster, queue, key) as site:
        job = site.launch(SLEEPS)
        job.expect_end(Reason.SEMAPHORE, 101, NOTICE_SECONDS)
        assert f"{queue}/{key}" in detail(job)
        job.expect_nothing_left()


def test_missing_config_map_fails_the_job(cluster: Cluster) -> None:
    with queueing_site(cluster, "flargo-not-there", "jobs") as site:
        job = site.launch(SLEEPS)
        job.expect_end(Reason.SEMAPHORE, 101, NOTICE_SECONDS)
        assert "flargo-not-there/jobs" in detail(job)
        job.expect_nothing_left()


def detail(job: Job) -> str:
    verdict = job.launched_job.verdict
    assert verdict is not None
    return verdict.detail


@pytest.fixture(scope="module")
def fed(target: Target, queue: str) -> Iterator[Federation]:
    """A real federation whose two sites have queues: a narrow one with a long timeout, a wider one with a short one."""
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    (root / "jobs").mkdir()
    plain = argo_launcher(root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace)

    def launcher(role: str, site: str) -> Component:
        component = plain(role, site)
        argo = {"semaphore": {"name": queue, "key": site}, "queued": {"site-1": 600, "site-2": 30}.get(site, 600)}
        return {**component, "args": {**component["args"], "argo": argo}}

    with Federation(root, launcher=launcher, host=target.address) as federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)


def submit(fed: Federation, target: Target, name: str, pause: float = 0) -> str:
    """Submit a job that accepts no pending pod."""
    path, extra = fed.root / "jobs" / name, {"default": NO_PENDING_TIME}
    return fed.submit(job_folders.fedavg(path, image=target.job_image, pause=pause, launcher_spec_extra=extra))


def pods(cluster: Cluster, job_id: str, site: str) -> list[dict[str, Any]]:
    return cluster.items("pods", f"{Label.JOB_ID}={job_id},{Label.SITE}={site}")


def test_job_completes_after_queueing_at_a_site(fed: Federation, cluster: Cluster, target: Target) -> None:
    first = submit(fed, target, "first", pause=30)
    eventually(lambda: pods(cluster, first, "site-1"), START_SECONDS, "the first job runs at site-1")
    second = submit(fed, target, "second")
    eventually(lambda: pods(cluster, second, "site-2"), START_SECONDS, "the second job runs at site-2")
    assert pods(cluster, second, "site-1") == []
    assert [fed.wait(job_id, 300) for job_id in (first, second)] == ["FINISHED:COMPLETED"] * 2
    (_, first_end), (second_start, _) = (program_times(*pods(cluster, job_id, "site-1")) for job_id in (first, second))
    assert second_start >= first_end
    print(f"site-2 waited for site-1 for {second_start - program_times(*pods(cluster, second, 'site-2'))[0]}")


def test_queue_timeout_at_one_site_ends_the_job(fed: Federation, cluster: Cluster, target: Target, queue: str) -> None:
    with queueing_site(cluster, queue, "site-2") as others:
        for _ in range(2):
            others.launch(SLEEPS).expect_running()
        stuck = submit(fed, target, "stuck", pause=600)
        eventually(lambda: pods(cluster, stuck, "site-1"), START_SECONDS, "the job has its place at site-1")
        assert fed.wait(stuck) == "FINISHED:EXECUTION_EXCEPTION"
        assert pods(cluster, stuck, "site-2") == []
        eventually(lambda: not cluster.unfinished_pods(stuck), TURN_SECONDS, "the job's place at site-1 is free again")
