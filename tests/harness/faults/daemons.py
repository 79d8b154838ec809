"""The fault matrix, where a part of the cluster stands still, ends, or starts anew. Not on somebody's own cluster."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.real_cluster import sandbox, state, up
from tests.harness.real_cluster.target import Target
from tests.harness.site import (
    EXITS_ON_REQUEST,
    IGNORES_SIGTERM,
    SLEEPS,
    START_SECONDS,
    Job,
    Site,
    exits,
    read_token,
    template_study,
)
from tests.harness.wire import Match, Wire

NOTICED = 15.0
"""Seconds within which what happens to a running job is known."""
PATIENCE = 40
"""Seconds of pending_timeout for a job that waits through an outage."""
RECOVERY = 90.0
"""Seconds within which kubelet and controller have found the API server again: they knock ever more seldom."""
CONTROLLER = "workflow-controller"
SERVER = "kube-apiserver"


@pytest.fixture(scope="module")
def cluster(target: Target) -> Cluster:
    if target.own:
        pytest.skip("daemons are out of reach")
    return Cluster(target)


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as made:
        yield made


# --- Argo's controller


def test_controller_away_at_the_launch(site: Site, cluster: Cluster) -> None:
    with cluster.freeze(CONTROLLER):
        job = site.launch(exits(0)).expect_stage(Stage.UNCLAIMED)
        time.sleep(3)
        assert job.launched_job.verdict is None
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    job.expect_nothing_left()


def test_controller_away_for_too_long(cluster: Cluster) -> None:
    with Site(cluster, argo={"unclaimed": 5}) as impatient:
        with cluster.freeze(CONTROLLER):
            job = impatient.launch(SLEEPS)
            job.expect_end(Reason.UNCLAIMED, 101, within=25)
        job.expect_nothing_left()
        assert job.pods == []


def test_controller_away_while_the_program_ends(site: Site, cluster: Cluster) -> None:
    job, failing = site.launch(EXITS_ON_REQUEST).expect_running(), site.launch(EXITS_ON_REQUEST).expect_running()
    with cluster.freeze(CONTROLLER):
        job.exit_program(0)
        failing.exit_program(3)
        job.expect_end(Reason.SUCCEEDED, 0, NOTICED)
        failing.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.expect_nothing_left()
    failing.expect_nothing_left()


def test_controller_away_during_an_abort(site: Site, cluster: Cluster) -> None:
    """The pod is deleted all the same, and not made again when the controller is back."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    with cluster.freeze(CONTROLLER):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICED)
        assert cluster.processes(job.id) == []
    time.sleep(5)
    job.expect_nothing_left()


def test_pod_deleted_while_the_controller_is_away(site: Site, cluster: Cluster) -> None:
    """Argo's status says Pending, and so it makes another pod when it is back: the job would be run twice."""
    with cluster.freeze(CONTROLLER):
        job = site.launch(SLEEPS).expect_stage(Stage.UNCLAIMED)
    eventually(lambda: job.pods, START_SECONDS, "its pod is there")
    with cluster.freeze(CONTROLLER):
        job.expect_running()
        cluster.delete("pod", job.pods[0])
        eventually(lambda: not job.pods, START_SECONDS, "its pod is gone")
    job.launched_job.wait(lambda seen: seen.verdict is not None, 30)
    assert job.launched_job.verdict is not None
    assert job.launched_job.verdict.reason in {Reason.POD_DELETED, Reason.RUN_TWICE}
    assert job.handle.poll() == 104
    time.sleep(5)
    job.expect_nothing_left()


def test_controller_restarted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    cluster.restart(CONTROLLER)
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICED)
    job.expect_nothing_left()


def test_suspended_by_a_person_before_its_start_and_resumed(site: Site, cluster: Cluster) -> None:
    # Ended rather than frozen: the next one sees only how things are by then, not each step on the way.
    with cluster.stop(CONTROLLER):
        job = site.launch(exits(0)).expect_stage(Stage.UNCLAIMED)
        cluster.patch(job.workflow, suspend=True)
        job.expect_stage(Stage.SUBMITTED)
    time.sleep(5)
    assert job.launched_job.verdict is None
    cluster.patch(job.workflow, suspend=None)
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    job.expect_nothing_left()


def test_suspended_by_a_person_before_its_start_and_aborted(site: Site, cluster: Cluster) -> None:
    with cluster.stop(CONTROLLER):
        job = site.launch(SLEEPS).expect_stage(Stage.UNCLAIMED)
        cluster.patch(job.workflow, suspend=True)
        job.expect_stage(Stage.SUBMITTED)
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICED)
    job.expect_nothing_left()


# --- what Argo makes wait

LOCK = {"mutexes": [{"name": "flargo-test"}]}


def locked(job: Job) -> None:
    """An administrator's default gives its step a lock of Argo's; for a Workflow that no controller has looked at."""
    job.expect_stage(Stage.UNCLAIMED)
    templates = [{**template, "synchronization": LOCK} for template in job.workflow["spec"]["templates"]]
    job.cluster.patch(job.workflow, templates=templates)


def test_queued_on_a_lock_until_it_is_free_or_for_too_long(site: Site, cluster: Cluster) -> None:
    with Site(cluster, argo={"queued": 5}) as impatient:
        with cluster.stop(CONTROLLER):
            holder = site.launch(EXITS_ON_REQUEST)
            locked(holder)
        holder.expect_running()
        with cluster.stop(CONTROLLER):
            patient, hasty = site.launch(exits(0), {"pending_timeout": 0}), impatient.launch(SLEEPS)
            locked(patient)
            locked(hasty)
        hasty.expect_stage(Stage.QUEUED).expect_end(Reason.QUEUED, 101, within=30)
        patient.expect_stage(Stage.QUEUED)
        holder.exit_program(0)
        holder.expect_end(Reason.SUCCEEDED, 0, NOTICED)
        patient.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        for job in (holder, patient, hasty):
            job.expect_nothing_left()


def test_queued_for_room_among_argos_workflows(site: Site, cluster: Cluster) -> None:
    with cluster.configure_argo(parallelism="1"):
        eventually(lambda: not cluster.unfinished_workflows(), START_SECONDS, "nobody else takes the room")
        first = site.launch(EXITS_ON_REQUEST).expect_running()
        second = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        third = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        third.abort()
        third.expect_end(Reason.ABORTED, 9, NOTICED)
        first.exit_program(0)
        first.expect_end(Reason.SUCCEEDED, 0, NOTICED)
        second.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        for job in (first, second, third):
            job.expect_nothing_left()


# --- what an administrator has Argo add to every Workflow: a mapping, which it reads as one if it ends with its line


def test_run_again_by_an_administrators_retry_strategy(site: Site, cluster: Cluster) -> None:
    """FLARE hears how its program ended, and that does not begin a second time."""
    with cluster.configure_argo(workflowDefaults="spec: {retryStrategy: {limit: 1}}\n"):
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        first = job.pod["metadata"]["uid"]
        job.exit_program(3)
        job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
        job.expect_nothing_left()
    pods = [node for node in job.workflow["status"]["nodes"].values() if node["type"] == "Pod"]
    assert len(pods) == 2, "Argo makes another pod"
    assert begun(job) == {first}


def begun(job: Job) -> set[str]:
    """The pods (by uid) of which the kubelet says that it has started the program."""
    events = [event for event in job.cluster.items("events") if event["reason"] == "Started"]
    pods = [event["involvedObject"] for event in events]
    return {pod["uid"] for pod in pods if pod["name"].startswith(job.name) and "{main}" in pod.get("fieldPath", "")}


def test_invalid_by_an_administrators_defaults(cluster: Cluster) -> None:
    """Argo says so as soon as the Workflow is there, be it suspended; perhaps before its credentials are."""
    with (
        cluster.configure_argo(workflowDefaults="spec: {onExit: not-there}\n"),
        Wire(cluster.target.launcher_kubeconfig) as wire,
        Site(cluster, wire=wire) as site,
    ):
        is_invalid(site.launch(SLEEPS))
        late = wire.delay(Match("create", "secrets", "nvflare-cred-"), 3)
        is_invalid(site.launch(SLEEPS))
        assert late.hits


def is_invalid(job: Job) -> None:
    job.expect_end(Reason.INVALID, 101, NOTICED)
    assert "not-there" in str(job.launched_job.verdict)
    job.expect_nothing_left()
    assert job.cluster.secrets(f"nvflare-cred-{job.name}-") == [], "not even when its submit is over"
    assert job.pods == []


@pytest.fixture
def controllers_wire(cluster: Cluster) -> Iterator[Wire]:
    """A wire between Argo's controller and the API server."""
    original, token = state.ARGO.read_text(), read_token(state.ARGO)
    # Go's client sends no token over plain HTTP, so the wire has to.
    with Wire(state.ARGO, token) as wire:
        try:
            wire.kubeconfig(state.ARGO, token)
            cluster.restart(CONTROLLER)
            yield wire
        finally:
            state.ARGO.write_text(original)
            cluster.restart(CONTROLLER)


def test_controller_overlooks_the_release(cluster: Cluster, controllers_wire: Wire) -> None:
    """Argo 3 writes the answer to its own update into its cache, over what came after it (INFORMER_WRITE_BACK)."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire) as site:
        late = controllers_wire.late_reply(Match("update", "workflows"), 3)
        # Between the controller's update and its answer.
        wire.delay(Match("patch", "workflows"), 1)
        job = site.launch(exits(0))
        job.expect_end(Reason.SUCCEEDED, 0, within=45)
        assert late.hits == 1
        job.expect_nothing_left()


# --- the node

GIVEN_UP = 90.0
"""Seconds within which flargo gives up a pod whose kill nobody confirms."""


def test_node_lost_and_back(site: Site, cluster: Cluster) -> None:
    """A pod's object stays as it is while its node is silent: whether it still runs there, nobody knows."""
    lost, aborted = (site.launch(IGNORES_SIGTERM + SLEEPS).expect_running() for _ in range(2))
    with cluster.freeze("kubelet"):
        aborted.abort()
        aborted.expect_end(Reason.ABORTED, 9, GIVEN_UP)
        assert "was not seen" in str(aborted.launched_job.verdict)
        assert aborted.is_followed
        assert cluster.processes(aborted.id)
        # Kubernetes evicts nothing where all nodes are silent, and this cluster has one. So a person declares it dead.
        cluster.kubectl("delete", "node", cluster.node_name)
        lost.expect_end(Reason.NODE_LOST, 104, GIVEN_UP)
    cluster.restart("kubelet")  # which makes a node of itself only when it starts
    sandbox.wait("the node", up.node_ready, 90, only="kubelet")
    for job in (lost, aborted):
        job.expect_nothing_left(within=90)


def test_node_drained_while_jobs_run_and_wait(site: Site, cluster: Cluster) -> None:
    running = site.launch(SLEEPS).expect_running()
    with cluster.drain(f"{Label.JOB_ID}={running.id}"):
        running.expect_end(Reason.DISRUPTED, 104, NOTICED)
        refused = site.launch(SLEEPS)
        refused.expect_stage(Stage.TAINTED)
        time.sleep(5)
        assert refused.launched_job.verdict is None
        refused.abort()
        refused.expect_end(Reason.ABORTED, 9, NOTICED)
    for job in (running, refused):
        job.expect_nothing_left()


def test_preempted_by_a_more_important_pod(site: Site, cluster: Cluster) -> None:
    cpus = int(cluster.items("nodes")[0]["status"]["allocatable"]["cpu"].removesuffix("m"))
    half = f"{0.7 * (cpus / 1000 if cpus > 1000 else cpus):.1f}"
    meta = {"name": "flargo-test-important"}
    cluster.create(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": meta, "value": 1_000_000}
    )
    important = {"important": template_study(priorityClassName=meta["name"])}
    try:
        with Site(cluster, studies=important) as other:
            victim = site.launch(SLEEPS, {"cpu": half}).expect_running()
            winner = other.launch(EXITS_ON_REQUEST, {"cpu": half, "pending_timeout": None}, study="important")
            victim.expect_end(Reason.DISRUPTED, 104, START_SECONDS)
            winner.expect_running().exit_program(0)
            winner.expect_end(Reason.SUCCEEDED, 0, NOTICED)
            for job in (victim, winner):
                job.expect_nothing_left()
    finally:
        cluster.kubectl("delete", "priorityclass", meta["name"])


# --- the API server

Outage = Callable[[str], AbstractContextManager[None]]


@pytest.mark.parametrize("way", ["frozen", "stopped"])
def test_api_server_away_for_thirty_seconds(site: Site, cluster: Cluster, way: str) -> None:
    """While jobs are pending, run, end, are aborted and are launched. Nothing is decided meanwhile."""
    outage: Outage = cluster.freeze if way == "frozen" else cluster.stop
    running, aborted, ending = (
        site.launch(code) for code in (EXITS_ON_REQUEST, IGNORES_SIGTERM + SLEEPS, EXITS_ON_REQUEST)
    )
    for job in (running, aborted, ending):
        job.expect_running()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": PATIENCE}).expect_stage(Stage.SHORTAGE)
    begun = time.monotonic()
    ending.exit_program(0, after=5)
    away = time.monotonic()
    with outage(SERVER):
        time.sleep(1)
        launched = site.launch(exits(0))
        aborted.abort()
        time.sleep(29)
        jobs = (waiting, running, aborted, ending, launched)
        assert [job.launched_job.verdict for job in jobs] == [None] * len(jobs)
    back = time.monotonic()
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in aborted.pods), NOTICED, "it is killed")
    ending.expect_end(Reason.SUCCEEDED, 0, RECOVERY)
    aborted.expect_end(Reason.ABORTED, 9, RECOVERY)
    launched.expect_end(Reason.SUCCEEDED, 0, RECOVERY)
    waiting.expect_end(Reason.SHORTAGE, 101, RECOVERY)
    assert time.monotonic() - back + (away - begun) > PATIENCE - 2, "patience passed while the API was away"
    running.expect_stage(Stage.RUNNING).exit_program(3)
    running.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    for job in jobs:
        job.expect_nothing_left(within=60)
    assert len(launched.workflows) == 1
