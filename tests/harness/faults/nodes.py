"""The fault matrix, where a node fails and a job's process is started again on another one. Not for one node only."""

import time
from collections.abc import Iterator

import pytest

from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.faults.by_hand import LogLines
from tests.harness.faults.matrix import NOTICE_SECONDS
from tests.harness.faults.rejoin import AGAIN, ALLOWED, Object, expect_success
from tests.harness.history import History
from tests.harness.node import Node, SecondNode
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, START_SECONDS, Job, Site, template_study

TOLERATED_SECONDS = 2
"""How long the pods of these jobs stay bound to a lost node; by default Kubernetes waits for five minutes."""
GRACE_SECONDS = 5
"""The grace period of these jobs' pods."""
PRESSURE_SECONDS = 90.0
"""The limit for an eviction by the kubelet, which looks at its node's resources every 10 s, and the next attempt."""
SILENCE_SECONDS = 45.0
"""The limit for a lost node: it is NotReady 20 s after its last report, and then its pods are deleted after 2 s."""
LOSS_SECONDS = SILENCE_SECONDS + GRACE_SECONDS + 60 + START_SECONDS
"""The limit for the next attempt: flargo takes a node for lost 60 s after the grace period of a pod on it."""


def tolerations() -> list[Object]:
    """Return tolerations for nodes that are lost for a moment."""
    common: Object = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS}
    return [{**common, "key": f"node.kubernetes.io/{taint}"} for taint in ("unreachable", "not-ready")]


@pytest.fixture(scope="module")
def site(cluster: Cluster, second_node: SecondNode) -> Iterator[Site]:
    """The site that the module's tests share."""
    del second_node
    spec = template_study(terminationGracePeriodSeconds=GRACE_SECONDS, tolerations=tolerations())
    with Site(cluster, studies={"impatient": spec}, argo=ALLOWED) as shared_site:
        yield shared_site


@pytest.fixture(scope="module")
def first(cluster: Cluster, second_node: SecondNode) -> Node:
    """The node that stays."""
    return Node(cluster, next(name for name in node_names(cluster) if name != second_node.name))


def node_names(cluster: Cluster) -> list[str]:
    """Return the names of all nodes."""
    return [item["metadata"]["name"] for item in cluster.items("nodes")]


def launch_on(second_node: SecondNode, first: Node, site: Site, code: str = EXITS_ON_REQUEST, **spec: str) -> Job:
    """Launch a job, and wait until it runs on the second node."""
    with first.cordon():
        job = site.launch(code, {**AGAIN, **spec}, study="impatient").expect_running()
    assert node_of(job.pod) == second_node.name
    return job


def node_of(pod: Object) -> str:
    """Return the name of a pod's node."""
    return str(pod["spec"].get("nodeName", ""))


def expect_second_attempt(job: Job, first: Node, reason: Reason, within: float, logs: LogLines) -> None:
    """Expect that the second attempt runs on the other node, and why the first one was lost."""
    job.expect_attempt(2, within)
    assert node_of(job.pod) == first.name
    assert [line for line in logs.about(job.id) if f"attempt 1 of 3 lost ({reason.name})" in line]


def test_drained_node(site: Site, history: History, first: Node, second_node: SecondNode) -> None:
    job = launch_on(second_node, first, site)
    with LogLines() as logs, second_node.drain(f"{Label.JOB_ID}={job.id}"):
        expect_second_attempt(job, first, Reason.DISRUPTED, START_SECONDS, logs)
        expect_success(job, history, 2)


def test_tainted_node(site: Site, history: History, first: Node, second_node: SecondNode) -> None:
    job = launch_on(second_node, first, site)
    with LogLines() as logs, second_node.evict_by_taint():
        expect_second_attempt(job, first, Reason.DISRUPTED, START_SECONDS, logs)
        expect_success(job, history, 2)


def test_preempted(site: Site, history: History, first: Node, second_node: SecondNode) -> None:
    cpus = second_node.cpus()
    job = launch_on(second_node, first, site, cpu=f"{cpus * 0.5:.3f}")
    with LogLines() as logs, second_node.preempt(cpus * 0.7):
        expect_second_attempt(job, first, Reason.DISRUPTED, START_SECONDS, logs)
        expect_success(job, history, 2)


@pytest.mark.parametrize("resource", ["memory", "disk"])
def test_evicted_for_its_node(
    site: Site, history: History, first: Node, second_node: SecondNode, resource: str
) -> None:
    """The kubelet evicts the pod because its node runs out of something that the job has not exceeded."""
    job = launch_on(second_node, first, site)
    exhaust = {"memory": second_node.exhaust_memory, "disk": second_node.exhaust_disk}[resource]
    with LogLines() as logs, exhaust():
        expect_second_attempt(job, first, Reason.EVICTED, PRESSURE_SECONDS, logs)
        expect_success(job, history, 2)


def test_node_without_power_is_back_in_time(site: Site, history: History, first: Node, second_node: SecondNode) -> None:
    """Its kubelet confirms the end of the pod before the node is taken for lost."""
    job = launch_on(second_node, first, site)
    with LogLines() as logs:
        with second_node.lose_power():
            eventually(lambda: is_deleted(job.pod), SILENCE_SECONDS, "its pod is being deleted")
            time.sleep(3)
            assert len(job.workflows) == 1
        expect_second_attempt(job, first, Reason.DISRUPTED, START_SECONDS, logs)
    expect_success(job, history, 2)


def test_node_cut_off_and_back(
    site: Site, history: History, first: Node, second_node: SecondNode, cluster: Cluster
) -> None:
    """The program of the first attempt goes on until its node hears that the pod is deleted, beside the second one.

    Kubernetes gives the reason: its taint manager deletes the pods of an unreachable node.
    """
    job = launch_on(second_node, first, site, IGNORES_SIGTERM + EXITS_ON_REQUEST)
    old = job.pod["metadata"]["name"]
    with LogLines() as logs:
        with second_node.lose_connection():
            expect_second_attempt(job, first, Reason.DISRUPTED, LOSS_SECONDS, logs)
            assert f"its end on node {second_node.name} was not seen" in " ".join(logs.about(job.id))
            (line,) = (line for line in logs.about(job.id) if "may run beside" in line)
            assert f"{old} on node {second_node.name}" in line
            assert f"{old}-r1" in line
            assert {pod["metadata"]["name"] for pod in job.pods} == {old, f"{old}-r1"}
            assert len(programs(cluster, job)) == 2
        eventually(lambda: [node_of(pod) for pod in job.pods] == [first.name], 60, "the first attempt's pod is gone")
        assert len(programs(cluster, job)) == 1
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert history.most_credentials(job.name) == 1


def is_deleted(pod: Object) -> bool:
    """Return whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def programs(cluster: Cluster, job: Job) -> list[int]:
    """Return the processes of a job's programs, on whichever node."""
    processes = cluster.pod_processes(job.name).items()
    return [pid for pid, command in processes if job.id.encode() in command and b"argoexec" not in command]
