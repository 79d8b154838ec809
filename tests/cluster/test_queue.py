"""Client jobs that wait for a semaphore of their site's, as `argo.semaphore` and `argo.queued` set it."""

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

NOTICED = 15.0
"""Seconds within which the end of one job is known, or lets another begin."""
NO_PATIENCE = {"pending_timeout": 0}


@pytest.fixture(scope="module")
def queue(cluster: Cluster) -> Iterator[str]:
    """The name of a ConfigMap as deploy/queue.yaml is one, with a key for each test."""
    name = f"flargo-test-queue-{secrets.token_hex(3)}"
    data = {"six": "2", "none": "0", "words": "two", "site-2": "2"}
    data |= dict.fromkeys(("full", "aborted", "grows", "here", "there", "site-1"), "1")
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
    yield name
    cluster.kubectl("delete", "configmap", name)


def queueing(cluster: Cluster, queue: str, key: str, queued: float = 600, role: Role = Role.CLIENT) -> Site:
    return Site(cluster, role=role, argo={"semaphore": {"name": queue, "key": key}, "queued": queued})


def runs_two(unended: list[Job]) -> bool:
    stages = [job.launched_job.stage for job in unended]
    return (stages.count(Stage.RUNNING), stages.count(Stage.QUEUED)) == (2, len(unended) - 2)


def test_six_jobs_run_two_at_a_time_and_none_fails_for_waiting(cluster: Cluster, queue: str) -> None:
    with queueing(cluster, queue, "six") as site:
        launched = [site.launch(EXITS_ON_REQUEST, NO_PATIENCE) for _ in range(6)]
        waiting, times = list(launched), []
        while waiting:
            eventually(lambda: runs_two(waiting), TURN_SECONDS, f"two of {len(waiting)} run, the others queue")
            assert sum(len(job.pods) for job in waiting) == 2
            for job in [job for job in waiting if job.launched_job.stage is Stage.RUNNING]:
                job.expect_running().exit_program(0)
                job.expect_end(Reason.SUCCEEDED, 0, NOTICED)
                times.append(program_times(job.pod))
                waiting.remove(job)
        for job in launched:
            job.expect_nothing_left()
        for three in itertools.combinations(times, 3):
            assert max(begun for begun, _ in three) >= min(ended for _, ended in three), "three ran at once"


def test_a_servers_job_runs_though_the_queue_is_full(cluster: Cluster, queue: str) -> None:
    with queueing(cluster, queue, "full") as site, queueing(cluster, queue, "full", role=Role.SERVER) as server:
        holder = site.launch(SLEEPS).expect_running()
        waiting = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        server.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        assert (holder.launched_job.stage, waiting.launched_job.stage) == (Stage.RUNNING, Stage.QUEUED)


def test_an_aborted_jobs_place_is_the_next_ones_and_who_gives_up_waiting_is_not_waited_for(
    cluster: Cluster, queue: str
) -> None:
    with queueing(cluster, queue, "aborted") as site:
        holder = site.launch(SLEEPS).expect_running()
        second = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        third = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        second.abort()
        second.expect_end(Reason.ABORTED, 9, NOTICED)
        holder.abort()
        holder.expect_end(Reason.ABORTED, 9, NOTICED)
        third.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        for job in (holder, second, third):
            job.expect_nothing_left()
        assert second.pods == []


def test_a_larger_number_lets_the_next_job_run_at_once(cluster: Cluster, queue: str) -> None:
    with queueing(cluster, queue, "grows") as site:
        holder = site.launch(SLEEPS).expect_running()
        site.launch(exits(0)).expect_stage(Stage.QUEUED)
        next_one = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        cluster.kubectl("patch", "configmap", queue, "--type=merge", '--patch={"data":{"grows":"2"}}')
        next_one.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        assert holder.launched_job.stage is Stage.RUNNING


def test_two_sites_whose_jobs_wait_for_each_other_are_not_stuck_for_ever(cluster: Cluster, queue: str) -> None:
    with queueing(cluster, queue, "here", queued=20) as here, queueing(cluster, queue, "there") as there:
        a_here, b_there = here.launch(SLEEPS).expect_running(), there.launch(SLEEPS).expect_running()
        b_here = here.launch(SLEEPS, NO_PATIENCE).expect_stage(Stage.QUEUED)
        begun = time.monotonic()
        a_there = there.launch(exits(0), NO_PATIENCE).expect_stage(Stage.QUEUED)
        b_here.expect_end(Reason.QUEUED, 101, within=45)
        assert time.monotonic() - begun > 15
        assert f"Waiting for {cluster.target.namespace}/ConfigMap/{queue}/here lock" in detail(b_here)
        # FLARE's server hears that job B has failed at one site, and aborts it at the other: then A has all it needs.
        b_there.abort()
        a_there.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        a_here.abort()
        for job in (a_here, b_here, a_there, b_there):
            job.expect_nothing_left()
        assert b_here.pods == []


@pytest.mark.parametrize("key", ["not-there", "none", "words"])
def test_a_number_that_cannot_be_read_fails_the_job_and_says_which(cluster: Cluster, queue: str, key: str) -> None:
    with queueing(cluster, queue, key) as site:
        job = site.launch(SLEEPS)
        job.expect_end(Reason.SEMAPHORE, 101, NOTICED)
        assert f"{queue}/{key}" in detail(job)
        job.expect_nothing_left()


def test_a_config_map_that_is_not_there_fails_the_job_and_says_which(cluster: Cluster) -> None:
    with queueing(cluster, "flargo-not-there", "jobs") as site:
        job = site.launch(SLEEPS)
        job.expect_end(Reason.SEMAPHORE, 101, NOTICED)
        assert "flargo-not-there/jobs" in detail(job)
        job.expect_nothing_left()


def detail(job: Job) -> str:
    verdict = job.launched_job.verdict
    assert verdict is not None
    return verdict.detail


@pytest.fixture(scope="module")
def fed(target: Target, queue: str) -> Iterator[Federation]:
    """A real federation whose two sites have queues: one that waits long, and a wider one that does not."""
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    (root / "jobs").mkdir()
    plain = argo_launcher(root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace)

    def launcher(role: str, site: str) -> Component:
        made = plain(role, site)
        argo = {"semaphore": {"name": queue, "key": site}, "queued": {"site-1": 600, "site-2": 30}.get(site, 600)}
        return {**made, "args": {**made["args"], "argo": argo}}

    with Federation(root, launcher=launcher, host=target.address) as running:
        yield running
    shutil.rmtree(root, ignore_errors=True)


def submit(fed: Federation, target: Target, name: str, pause: float = 0) -> str:
    """A job that has no patience with Kubernetes."""
    path, patience = fed.root / "jobs" / name, {"default": NO_PATIENCE}
    return fed.submit(job_folders.fedavg(path, image=target.job_image, pause=pause, launcher_spec_extra=patience))


def pods(cluster: Cluster, job_id: str, site: str) -> list[dict[str, Any]]:
    return cluster.items("pods", f"{Label.JOB_ID}={job_id},{Label.SITE}={site}")


def test_flare_waits_for_a_site_that_queues_and_the_job_completes(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    first = submit(fed, target, "first", pause=30)
    eventually(lambda: pods(cluster, first, "site-1"), START_SECONDS, "the first job has its turn at site-1")
    second = submit(fed, target, "second")
    eventually(lambda: pods(cluster, second, "site-2"), START_SECONDS, "the second one runs at site-2")
    assert pods(cluster, second, "site-1") == []
    assert [fed.wait(job_id, 300) for job_id in (first, second)] == ["FINISHED:COMPLETED"] * 2
    (_, first_ended), (second_began, _) = (
        program_times(*pods(cluster, job_id, "site-1")) for job_id in (first, second)
    )
    assert second_began >= first_ended
    print(f"site-2 waited for site-1 for {second_began - program_times(*pods(cluster, second, 'site-2'))[0]}")


def test_flare_ends_a_job_everywhere_whose_turn_does_not_come_at_one_site(
    fed: Federation, cluster: Cluster, target: Target, queue: str
) -> None:
    with queueing(cluster, queue, "site-2") as others:
        for _ in range(2):
            others.launch(SLEEPS).expect_running()
        stuck = submit(fed, target, "stuck", pause=600)
        eventually(lambda: pods(cluster, stuck, "site-1"), START_SECONDS, "it holds its place at site-1")
        assert fed.wait(stuck) == "FINISHED:EXECUTION_EXCEPTION"
        assert pods(cluster, stuck, "site-2") == []
        eventually(lambda: not cluster.unfinished_pods(stuck), TURN_SECONDS, "its place at site-1 is free again")
