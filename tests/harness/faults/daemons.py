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
from tests.harness.site import DEAF, SLEEPS, STARTS, WAITS, Job, Site, exits, of_template, token_of
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
    with cluster.frozen(CONTROLLER):
        job = site.launch(exits(0)).reaches(Stage.UNCLAIMED)
        time.sleep(3)
        assert job.ticket.verdict is None
    job.ends(Reason.SUCCEEDED, 0, STARTS)
    job.leaves_nothing()


def test_controller_away_for_too_long(cluster: Cluster) -> None:
    with Site(cluster, argo={"unclaimed": 5}) as impatient:
        with cluster.frozen(CONTROLLER):
            job = impatient.launch(SLEEPS)
            job.ends(Reason.UNCLAIMED, 101, within=25)
        job.leaves_nothing()
        assert job.pods == []


def test_controller_away_while_the_program_ends(site: Site, cluster: Cluster) -> None:
    job, failing = site.launch(WAITS).runs(), site.launch(WAITS).runs()
    with cluster.frozen(CONTROLLER):
        job.ends_itself(0)
        failing.ends_itself(3)
        job.ends(Reason.SUCCEEDED, 0, NOTICED)
        failing.ends(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.leaves_nothing()
    failing.leaves_nothing()


def test_controller_away_during_an_abort(site: Site, cluster: Cluster) -> None:
    """The pod is deleted all the same, and not made again when the controller is back."""
    job = site.launch(DEAF + SLEEPS).runs()
    with cluster.frozen(CONTROLLER):
        job.abort()
        job.ends(Reason.ABORTED, 9, NOTICED)
        assert cluster.processes(job.id) == []
    time.sleep(5)
    job.leaves_nothing()


def test_pod_deleted_while_the_controller_is_away(site: Site, cluster: Cluster) -> None:
    """Argo's status says Pending, and so it makes another pod when it is back: the job would be run twice."""
    with cluster.frozen(CONTROLLER):
        job = site.launch(SLEEPS).reaches(Stage.UNCLAIMED)
    eventually(lambda: job.pods, STARTS, "its pod is there")
    with cluster.frozen(CONTROLLER):
        job.runs()
        cluster.delete("pod", job.pods[0])
        eventually(lambda: not job.pods, STARTS, "its pod is gone")
    job.ticket.wait(lambda seen: seen.verdict is not None, 30)
    assert job.ticket.verdict is not None
    assert job.ticket.verdict.reason in {Reason.POD_DELETED, Reason.RUN_TWICE}
    assert job.handle.poll() == 104
    time.sleep(5)
    job.leaves_nothing()


def test_controller_restarted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(WAITS).runs()
    cluster.restart(CONTROLLER)
    job.ends_itself(0)
    job.ends(Reason.SUCCEEDED, 0, NOTICED)
    job.leaves_nothing()


def test_suspended_by_a_person_before_its_start_and_resumed(site: Site, cluster: Cluster) -> None:
    # Ended rather than frozen: the next one sees only how things are by then, not each step on the way.
    with cluster.stopped(CONTROLLER):
        job = site.launch(exits(0)).reaches(Stage.UNCLAIMED)
        cluster.patch(job.workflow, suspend=True)
        job.reaches(Stage.SUBMITTED)
    time.sleep(5)
    assert job.ticket.verdict is None
    cluster.patch(job.workflow, suspend=None)
    job.ends(Reason.SUCCEEDED, 0, STARTS)
    job.leaves_nothing()


def test_suspended_by_a_person_before_its_start_and_aborted(site: Site, cluster: Cluster) -> None:
    with cluster.stopped(CONTROLLER):
        job = site.launch(SLEEPS).reaches(Stage.UNCLAIMED)
        cluster.patch(job.workflow, suspend=True)
        job.reaches(Stage.SUBMITTED)
        job.abort()
        job.ends(Reason.ABORTED, 9, NOTICED)
    job.leaves_nothing()


# --- what Argo makes wait

LOCK = {"mutexes": [{"name": "flargo-test"}]}


def locked(job: Job) -> None:
    """An administrator's default gives its step a lock of Argo's; for a Workflow that no controller has looked at."""
    job.reaches(Stage.UNCLAIMED)
    templates = [{**template, "synchronization": LOCK} for template in job.workflow["spec"]["templates"]]
    job.cluster.patch(job.workflow, templates=templates)


def test_queued_on_a_lock_until_it_is_free_or_for_too_long(site: Site, cluster: Cluster) -> None:
    with Site(cluster, argo={"queued": 5}) as impatient:
        with cluster.stopped(CONTROLLER):
            holder = site.launch(WAITS)
            locked(holder)
        holder.runs()
        with cluster.stopped(CONTROLLER):
            patient, hasty = site.launch(exits(0), {"pending_timeout": 0}), impatient.launch(SLEEPS)
            locked(patient)
            locked(hasty)
        hasty.reaches(Stage.QUEUED).ends(Reason.QUEUED, 101, within=30)
        patient.reaches(Stage.QUEUED)
        holder.ends_itself(0)
        holder.ends(Reason.SUCCEEDED, 0, NOTICED)
        patient.ends(Reason.SUCCEEDED, 0, STARTS)
        for job in (holder, patient, hasty):
            job.leaves_nothing()


def test_queued_for_room_among_argos_workflows(site: Site, cluster: Cluster) -> None:
    with cluster.configured(parallelism="1"):
        eventually(lambda: not cluster.unfinished(), STARTS, "nobody else takes the room")
        first = site.launch(WAITS).runs()
        second = site.launch(exits(0)).reaches(Stage.QUEUED)
        third = site.launch(SLEEPS).reaches(Stage.QUEUED)
        third.abort()
        third.ends(Reason.ABORTED, 9, NOTICED)
        first.ends_itself(0)
        first.ends(Reason.SUCCEEDED, 0, NOTICED)
        second.ends(Reason.SUCCEEDED, 0, STARTS)
        for job in (first, second, third):
            job.leaves_nothing()


# --- what an administrator has Argo add to every Workflow: a mapping, which it reads as one if it ends with its line


def test_run_again_by_an_administrators_retry_strategy(site: Site, cluster: Cluster) -> None:
    """FLARE hears how its program ended, and that does not begin a second time."""
    with cluster.configured(workflowDefaults="spec: {retryStrategy: {limit: 1}}\n"):
        job = site.launch(WAITS).runs()
        first = job.pod["metadata"]["uid"]
        job.ends_itself(3)
        job.ends(Reason.PROGRAM_FAILED, 1, NOTICED)
        job.leaves_nothing()
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
        cluster.configured(workflowDefaults="spec: {onExit: not-there}\n"),
        Wire(cluster.target.launcher_kubeconfig) as wire,
        Site(cluster, wire=wire) as site,
    ):
        is_invalid(site.launch(SLEEPS))
        late = wire.delay(Match("create", "secrets", "nvflare-cred-"), 3)
        is_invalid(site.launch(SLEEPS))
        assert late.hits


def is_invalid(job: Job) -> None:
    job.ends(Reason.INVALID, 101, NOTICED)
    assert "not-there" in str(job.ticket.verdict)
    job.leaves_nothing()
    assert job.cluster.secrets(f"nvflare-cred-{job.name}-") == [], "not even when its submit is over"
    assert job.pods == []


@pytest.fixture
def controllers_wire(cluster: Cluster) -> Iterator[Wire]:
    """A wire between Argo's controller and the API server."""
    original, token = state.ARGO.read_text(), token_of(state.ARGO)
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
        job.ends(Reason.SUCCEEDED, 0, within=45)
        assert late.hits == 1
        job.leaves_nothing()


# --- the node

GIVEN_UP = 90.0
"""Seconds within which flargo gives up a pod whose kill nobody confirms."""


def test_node_lost_and_back(site: Site, cluster: Cluster) -> None:
    """A pod's object stays as it is while its node is silent: whether it still runs there, nobody knows."""
    lost, aborted = (site.launch(DEAF + SLEEPS).runs() for _ in range(2))
    with cluster.frozen("kubelet"):
        aborted.abort()
        aborted.ends(Reason.ABORTED, 9, GIVEN_UP)
        assert "was not seen" in str(aborted.ticket.verdict)
        assert aborted.followed
        assert cluster.processes(aborted.id)
        # Kubernetes evicts nothing where all nodes are silent, and this cluster has one. So a person declares it dead.
        cluster.kubectl("delete", "node", cluster.node)
        lost.ends(Reason.NODE_LOST, 104, GIVEN_UP)
    cluster.restart("kubelet")  # which makes a node of itself only when it starts
    sandbox.wait("the node", up.node_ready, 90, only="kubelet")
    for job in (lost, aborted):
        job.leaves_nothing(within=90)


def test_node_drained_while_jobs_run_and_wait(site: Site, cluster: Cluster) -> None:
    running = site.launch(SLEEPS).runs()
    with cluster.drained(f"{Label.JOB_ID}={running.id}"):
        running.ends(Reason.DISRUPTED, 104, NOTICED)
        refused = site.launch(SLEEPS)
        refused.reaches(Stage.TAINTED)
        time.sleep(5)
        assert refused.ticket.verdict is None
        refused.abort()
        refused.ends(Reason.ABORTED, 9, NOTICED)
    for job in (running, refused):
        job.leaves_nothing()


def test_preempted_by_a_more_important_pod(site: Site, cluster: Cluster) -> None:
    cpus = int(cluster.items("nodes")[0]["status"]["allocatable"]["cpu"].removesuffix("m"))
    half = f"{0.7 * (cpus / 1000 if cpus > 1000 else cpus):.1f}"
    meta = {"name": "flargo-test-important"}
    cluster.create(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": meta, "value": 1_000_000}
    )
    important = {"important": of_template(priorityClassName=meta["name"])}
    try:
        with Site(cluster, studies=important) as other:
            victim = site.launch(SLEEPS, {"cpu": half}).runs()
            winner = other.launch(WAITS, {"cpu": half, "pending_timeout": None}, study="important")
            victim.ends(Reason.DISRUPTED, 104, STARTS)
            winner.runs().ends_itself(0)
            winner.ends(Reason.SUCCEEDED, 0, NOTICED)
            for job in (victim, winner):
                job.leaves_nothing()
    finally:
        cluster.kubectl("delete", "priorityclass", meta["name"])


# --- the API server

Outage = Callable[[str], AbstractContextManager[None]]


@pytest.mark.parametrize("way", ["frozen", "stopped"])
def test_api_server_away_for_thirty_seconds(site: Site, cluster: Cluster, way: str) -> None:
    """While jobs are pending, run, end, are aborted and are launched. Nothing is decided meanwhile."""
    outage: Outage = cluster.frozen if way == "frozen" else cluster.stopped
    running, aborted, ending = (site.launch(code) for code in (WAITS, DEAF + SLEEPS, WAITS))
    for job in (running, aborted, ending):
        job.runs()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": PATIENCE}).reaches(Stage.SHORTAGE)
    begun = time.monotonic()
    ending.ends_itself(0, after=5)
    away = time.monotonic()
    with outage(SERVER):
        time.sleep(1)
        launched = site.launch(exits(0))
        aborted.abort()
        time.sleep(29)
        jobs = (waiting, running, aborted, ending, launched)
        assert [job.ticket.verdict for job in jobs] == [None] * len(jobs)
    back = time.monotonic()
    eventually(lambda: all("deletionTimestamp" in pod["metadata"] for pod in aborted.pods), NOTICED, "it is killed")
    ending.ends(Reason.SUCCEEDED, 0, RECOVERY)
    aborted.ends(Reason.ABORTED, 9, RECOVERY)
    launched.ends(Reason.SUCCEEDED, 0, RECOVERY)
    waiting.ends(Reason.SHORTAGE, 101, RECOVERY)
    assert time.monotonic() - back + (away - begun) > PATIENCE - 2, "patience passed while the API was away"
    running.reaches(Stage.RUNNING).ends_itself(3)
    running.ends(Reason.PROGRAM_FAILED, 1, NOTICED)
    for job in jobs:
        job.leaves_nothing(within=60)
    assert len(launched.workflows) == 1
