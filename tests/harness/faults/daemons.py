"""The fault matrix, where a daemon of the cluster is suspended, ends or restarts. Not for a user's own cluster."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster, Downtime, eventually
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

NOTICE_SECONDS = 15.0
"""The limit within which FLARE hears of what happens to a running job."""
PENDING_SECONDS = 40
"""The pending_timeout of a job that waits during an outage."""
RECOVERY_SECONDS = 90.0
"""The limit within which the kubelet and the controller reconnect to the API server; they back off meanwhile."""
CONTROLLER = "workflow-controller"
SERVER = "kube-apiserver"


@pytest.fixture(scope="module")
def cluster(target: Target) -> Cluster:
    if target.is_external:
        pytest.skip("the cluster's daemons are out of reach")
    return Cluster(target)


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster) as shared_site:
        yield shared_site


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
        job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        failing.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()
    failing.expect_nothing_left()


def test_controller_away_during_an_abort(site: Site, cluster: Cluster) -> None:
    """The pod is deleted all the same, and not created again when the controller is back."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    with cluster.freeze(CONTROLLER):
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        assert cluster.processes(job.id) == []
    time.sleep(5)
    job.expect_nothing_left()


def test_pod_deleted_while_the_controller_is_away(site: Site, cluster: Cluster) -> None:
    """Argo's status still says Pending, so Argo creates another pod when it is back: the job would run twice."""
    with cluster.freeze(CONTROLLER):
        job = site.launch(SLEEPS).expect_stage(Stage.UNCLAIMED)
    eventually(lambda: job.pods, START_SECONDS, "its pod exists")
    with cluster.freeze(CONTROLLER):
        job.expect_running()
        cluster.delete("pod", job.pods[0])
        eventually(lambda: not job.pods, START_SECONDS, "its pod is gone")
    job.launched_job.wait(lambda current: current.verdict is not None, 30)
    assert job.launched_job.verdict is not None
    assert job.launched_job.verdict.reason in {Reason.POD_DELETED, Reason.RUN_TWICE}
    assert job.handle.poll() == 104
    time.sleep(5)
    job.expect_nothing_left()


def test_controller_restarted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    cluster.restart(CONTROLLER)
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    job.expect_nothing_left()


STORM_JOBS = 50
"""The number of jobs that end while the controller is away."""
STORM_REQUESTS = 30
"""The limit of requests in a minute, for all jobs together, while no Workflow's status changes."""


def test_controller_away_while_many_jobs_end(cluster: Cluster) -> None:
    """None of the Workflows can be completed until the controller is back; asking again and again does not help.

    Each job was asked for every five seconds, without end.
    """
    # A node of two processors has room for all of them only if they request next to nothing.
    small = {"cpu": "5m", "memory": "32Mi", "ephemeral_storage": "16Mi", "pending_timeout": None}
    requests = {"cpu": "5m", "memory": "16Mi", "ephemeral-storage": "16Mi"}
    limits = {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "512Mi"}
    argo = {"executor_resources": {"requests": requests, "limits": limits}}
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire, argo=argo) as site:
        jobs = [site.launch(EXITS_ON_REQUEST, small) for _ in range(STORM_JOBS)]
        for job in jobs:
            job.expect_stage(Stage.RUNNING, within=STORM_JOBS * START_SECONDS / 10)
        with cluster.freeze(CONTROLLER):
            for job in jobs:
                job.expect_running().exit_program(0)
            for job in jobs:
                job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
            time.sleep(75)
            before = len(wire.requests)
            time.sleep(60)
            sent = wire.requests[before:]
        assert len(sent) <= STORM_REQUESTS, Counter((each.verb, each.resource) for each in sent)
        for job in jobs:
            job.expect_nothing_left(within=RECOVERY_SECONDS)


def test_suspended_by_a_person_before_its_start_and_resumed(site: Site, cluster: Cluster) -> None:
    # Stopped rather than frozen: the next controller sees only the final state, not each change on the way.
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
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


# --- what waits for Argo

LOCK = {"mutexes": [{"name": "flargo-test"}]}


def add_lock(job: Job) -> None:
    """Add a lock to a job's step, as an administrator's default would, before any controller has seen the Workflow."""
    job.expect_stage(Stage.UNCLAIMED)
    templates = [{**template, "synchronization": LOCK} for template in job.workflow["spec"]["templates"]]
    job.cluster.patch(job.workflow, templates=templates)


def test_queued_on_a_lock_until_it_is_free_or_for_too_long(site: Site, cluster: Cluster) -> None:
    with Site(cluster, argo={"queued": 5}) as impatient:
        with cluster.stop(CONTROLLER):
            holder = site.launch(EXITS_ON_REQUEST)
            add_lock(holder)
        holder.expect_running()
        with cluster.stop(CONTROLLER):
            patient, hasty = site.launch(exits(0), {"pending_timeout": 0}), impatient.launch(SLEEPS)
            add_lock(patient)
            add_lock(hasty)
        hasty.expect_stage(Stage.QUEUED).expect_end(Reason.QUEUED, 101, within=30)
        patient.expect_stage(Stage.QUEUED)
        holder.exit_program(0)
        holder.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        patient.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        for job in (holder, patient, hasty):
            job.expect_nothing_left()


def test_queued_for_room_among_argos_workflows(site: Site, cluster: Cluster) -> None:
    with cluster.configure_argo(parallelism="1"):
        eventually(lambda: not cluster.unfinished_workflows(), START_SECONDS, "no other Workflow runs")
        first = site.launch(EXITS_ON_REQUEST).expect_running()
        second = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        third = site.launch(SLEEPS).expect_stage(Stage.QUEUED)
        third.abort()
        third.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        first.exit_program(0)
        first.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
        second.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        for job in (first, second, third):
            job.expect_nothing_left()


# --- an administrator's workflowDefaults, which Argo reads as a mapping if the value ends with a newline


def test_run_again_by_an_administrators_retry_strategy(site: Site, cluster: Cluster) -> None:
    """FLARE hears how the program ended, and the program does not start a second time."""
    with cluster.configure_argo(workflowDefaults="spec: {retryStrategy: {limit: 1}}\n"):
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        first = job.pod["metadata"]["uid"]
        job.exit_program(3)
        job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
        job.expect_nothing_left()
    pods = [node for node in job.workflow["status"]["nodes"].values() if node["type"] == "Pod"]
    assert len(pods) == 2, "Argo creates another pod"
    assert started_pods(job) == {first}


def started_pods(job: Job) -> set[str]:
    """Return the uids of the pods whose program the kubelet has started, by its events."""
    events = [event for event in job.cluster.items("events") if event["reason"] == "Started"]
    pods = [event["involvedObject"] for event in events]
    return {pod["uid"] for pod in pods if pod["name"].startswith(job.name) and "{main}" in pod.get("fieldPath", "")}


def test_invalid_by_an_administrators_defaults(cluster: Cluster) -> None:
    """Argo reports the error as soon as the Workflow exists, even suspended, perhaps before its credentials exist."""
    with (
        cluster.configure_argo(workflowDefaults="spec: {onExit: not-there}\n"),
        Wire(cluster.target.launcher_kubeconfig) as wire,
        Site(cluster, wire=wire) as site,
    ):
        assert_invalid(site.launch(SLEEPS))
        delay = wire.delay(Match("create", "secrets", "nvflare-cred-"), 3)
        assert_invalid(site.launch(SLEEPS))
        assert delay.hits


def assert_invalid(job: Job) -> None:
    job.expect_end(Reason.INVALID, 101, NOTICE_SECONDS)
    assert "not-there" in str(job.launched_job.verdict)
    job.expect_nothing_left()
    assert job.cluster.secrets(f"nvflare-cred-{job.name}-") == [], "not even after its submit"
    assert job.pods == []


@pytest.fixture
def controllers_wire(cluster: Cluster) -> Iterator[Wire]:
    """A wire between Argo's controller and the API server."""
    original, token = state.ARGO.read_text(), read_token(state.ARGO)
    # Go's client sends no token over plain HTTP, so the wire adds it.
    with Wire(state.ARGO, token, with_tls=False) as wire:
        try:
            wire.kubeconfig(state.ARGO, token)
            cluster.restart(CONTROLLER)
            yield wire
        finally:
            state.ARGO.write_text(original)
            cluster.restart(CONTROLLER)


def test_controller_overlooks_the_release(cluster: Cluster, controllers_wire: Wire) -> None:
    """Argo 3 writes the answer to its own update into its cache, over any later change (INFORMER_WRITE_BACK)."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire) as site:
        late_reply = controllers_wire.late_reply(Match("update", "workflows"), 3)
        # Between the controller's update and its answer.
        wire.delay(Match("patch", "workflows"), 1)
        job = site.launch(exits(0))
        job.expect_end(Reason.SUCCEEDED, 0, within=45)
        assert late_reply.hits == 1
        job.expect_nothing_left()


# --- the node

UNCONFIRMED_SECONDS = 90.0
"""The limit within which flargo gives up waiting for a pod's end that nobody confirms."""


def test_node_lost_and_back(site: Site, cluster: Cluster) -> None:
    """While a node is silent, its pods' objects do not change: nobody knows whether the programs still run."""
    lost, aborted = (site.launch(IGNORES_SIGTERM + SLEEPS).expect_running() for _ in range(2))
    with cluster.freeze("kubelet"):
        aborted.abort()
        aborted.expect_end(Reason.ABORTED, 9, UNCONFIRMED_SECONDS)
        assert "was not seen" in str(aborted.launched_job.verdict)
        assert aborted.is_followed
        assert cluster.processes(aborted.id)
        # Kubernetes evicts nothing while all nodes are silent, and this cluster has one: a person deletes it.
        cluster.kubectl("delete", "node", cluster.node_name)
        lost.expect_end(Reason.NODE_LOST, 104, UNCONFIRMED_SECONDS)
    cluster.restart("kubelet")  # the kubelet registers its node only when it starts
    sandbox.wait("the node", up.is_node_ready, 90, only="kubelet")
    for job in (lost, aborted):
        job.expect_nothing_left(within=90)


def test_node_drained_while_jobs_run_and_wait(site: Site, cluster: Cluster) -> None:
    running = site.launch(SLEEPS).expect_running()
    with cluster.drain(f"{Label.JOB_ID}={running.id}"):
        running.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
        waiting = site.launch(SLEEPS)
        waiting.expect_stage(Stage.TAINTED)
        time.sleep(5)
        assert waiting.launched_job.verdict is None
        waiting.abort()
        waiting.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    for job in (running, waiting):
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
            winner.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
            for job in (victim, winner):
                job.expect_nothing_left()
    finally:
        cluster.kubectl("delete", "priorityclass", meta["name"])


# --- the API server

Outage = Callable[[str], AbstractContextManager[Downtime]]


@pytest.mark.parametrize("outage", ["frozen", "stopped"])
def test_api_server_away_for_thirty_seconds(site: Site, cluster: Cluster, outage: str) -> None:
    """Jobs are pending, run, end, are aborted and are launched meanwhile. Nothing is decided during the outage."""
    make_outage: Outage = cluster.freeze if outage == "frozen" else cluster.stop
    running, aborted, ending = (
        site.launch(code) for code in (EXITS_ON_REQUEST, IGNORES_SIGTERM + SLEEPS, EXITS_ON_REQUEST)
    )
    for job in (running, aborted, ending):
        job.expect_running()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": PENDING_SECONDS}).expect_stage(Stage.SHORTAGE)
    pending_since = time.monotonic()
    ending.exit_program(0, after=5)
    outage_start = time.monotonic()
    with make_outage(SERVER) as downtime:
        time.sleep(1)
        launched = site.launch(exits(0))
        aborted.abort()
        time.sleep(29)
        jobs = (waiting, running, aborted, ending, launched)
        assert [job.launched_job.verdict for job in jobs] == [None] * len(jobs)
    eventually(
        lambda: all("deletionTimestamp" in pod["metadata"] for pod in aborted.pods),
        NOTICE_SECONDS,
        "its pod is being deleted",
    )
    ending.expect_end(Reason.SUCCEEDED, 0, RECOVERY_SECONDS)
    aborted.expect_end(Reason.ABORTED, 9, RECOVERY_SECONDS)
    launched.expect_end(Reason.SUCCEEDED, 0, RECOVERY_SECONDS)
    waiting.expect_end(Reason.SHORTAGE, 101, RECOVERY_SECONDS)
    # The API server answers the launcher before it is ready, and on a busy machine seconds before that is seen.
    pending_seconds = time.monotonic() - downtime.end + (outage_start - pending_since)
    assert pending_seconds > PENDING_SECONDS - 2, "the timeout advanced during the outage"
    running.expect_stage(Stage.RUNNING).exit_program(3)
    running.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    for job in jobs:
        job.expect_nothing_left(within=60)
    assert len(launched.workflows) == 1
