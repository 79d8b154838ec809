"""Tests of the second node: its pods have what the first node's have, and end as pods do when a node fails them."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.harness.cluster import FINAL_PHASES, Cluster, Object, eventually
from tests.harness.node import Node, SecondNode
from tests.harness.real_cluster import control, sandbox, state
from tests.harness.real_cluster import second_node as second_node_daemons

SLEEPS = "import time; time.sleep(3600)"
ANSWERS = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)"
CONNECTS = """
import socket, ssl, sys
for target in sys.argv[1:]:
    host, _, port = target.partition(':')
    socket.create_connection((host, int(port)), 10).close()
    print('reached', target, flush=True)
print('resolved', socket.gethostbyname('kubernetes.default.svc.cluster.local'), flush=True)
"""
START_SECONDS = 20.0
"""The limit for the node's first start, which takes 3 s, on a busy machine."""
TOLERATED_SECONDS = 2
"""How long the pods of these tests stay bound to a lost node."""
LOSS_SECONDS = 45.0
"""The limit for a lost node: it is NotReady 20 s after its last report, and then its pods are deleted after 2 s."""
PRESSURE_SECONDS = 60.0
"""The limit for a pod's eviction by the kubelet, which looks at its node's resources every 10 s."""


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> Node:
    return Node(cluster, cluster.node_name)


class Pods:
    """The pods of one test."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.label = f"flargo.test/pods={secrets.token_hex(4)}"

    def run(self, code: str, *arguments: str, node: Node | None = None, **resources: str) -> str:
        """Create a pod, wait until its program has started, and return its name."""
        name = f"node-test-{secrets.token_hex(4)}"
        key, _, value = self.label.partition("=")
        container = {
            "name": "main",
            "image": self.cluster.target.job_image,
            "command": ["python", "-c", code, *arguments],
            "resources": {"requests": resources},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        spec: Object = {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{taint}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": TOLERATED_SECONDS,
                }
                for taint in ("unreachable", "not-ready")
            ],
        }
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node.name}
        meta = {"name": name, "labels": {key: value}}
        self.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        self.wait(name, "Running", *FINAL_PHASES)
        return name

    def get(self, name: str) -> Object:
        pod: Object = json.loads(self.cluster.kubectl("get", "pod", name, "--output=json"))
        return pod

    def wait(self, name: str, *phases: str) -> None:
        """Wait until a pod is in one of these phases."""
        eventually(lambda: self.get(name)["status"]["phase"] in phases, 60, f"{name} is in {phases}")

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.cluster.items("pods", self.label)}

    def watch(self, name: str) -> Iterator[Object]:
        """Start to watch a pod, and return its states until it is gone."""
        path = f"api/v1/namespaces/{self.cluster.target.namespace}/pods"
        stream = self.cluster.stream(f"{path}?watch=1&fieldSelector=metadata.name={name}")
        try:
            for line in stream:
                event = json.loads(line)
                yield event["object"]
                if event["type"] == "DELETED":
                    return
        finally:
            stream.close()


@pytest.fixture
def pods(cluster: Cluster) -> Iterator[Pods]:
    own = Pods(cluster)
    yield own
    cluster.kubectl("delete", "pods", f"--selector={own.label}", "--wait=false")


def disruption(pod: Object) -> str:
    """Return the reason of a pod's condition DisruptionTarget; empty if it has none."""
    reasons = [
        str(row["reason"])
        for row in pod["status"].get("conditions") or []
        if row["type"] == "DisruptionTarget" and row["status"] == "True"
    ]
    return reasons[0] if reasons else ""


def node_of(pod: Object) -> str:
    return str(pod["spec"].get("nodeName", ""))


def test_leaves_nothing_behind(cluster: Cluster, first: Node) -> None:
    """It starts quickly, and the cluster without it is as before: nodes, routes, daemons and their commands."""
    if cluster.target.is_external:
        pytest.skip("a second node can be added to the harness's own cluster only")
    before = cluster_state(cluster)
    start = time.monotonic()
    with second_node_daemons.started():
        assert time.monotonic() - start < START_SECONDS
        assert cluster_state(cluster) != before
        assert cluster.kubectl("get", "nodes", "--output=name") == f"node/{first.name}\nnode/{first.name}-2"
    assert cluster_state(cluster) == before


def cluster_state(cluster: Cluster) -> dict[str, object]:
    """Return what a second node changes while it is there."""
    links = json.loads(subprocess.run(("ip", "-json", "link"), capture_output=True, check=True).stdout)
    return {
        "nodes": cluster.kubectl("get", "nodes", "--output=name"),
        "links": {link["ifname"] for link in links if not link["ifname"].startswith("veth")},
        "routes": subprocess.run(("ip", "route"), capture_output=True, check=True).stdout,
        "daemons": set(control.daemons()),
        "commands": (state.RUN / "daemons.json").read_text(),
        "cgroups": [(tree / "node-2").exists() for tree in sandbox.cgroups()],
    }


def test_both_nodes_are_ready(cluster: Cluster, first: Node, second_node: SecondNode) -> None:
    names = [item["metadata"]["name"] for item in cluster.items("nodes")]
    assert names == [first.name, second_node.name]
    assert first.conditions()["Ready"] == second_node.conditions()["Ready"] == "True"


def test_pods_of_both_nodes_reach_all_they_need(
    cluster: Cluster, first: Node, second_node: SecondNode, pods: Pods
) -> None:
    """The API server, the address of FLARE's parents, a pod on the other node, and names."""
    nodes = (first, second_node)
    servers = {node.name: pods.run(ANSWERS, node=node) for node in nodes}
    addresses = {name: pods.get(pod)["status"]["podIP"] for name, pod in servers.items()}
    assert addresses[first.name].split(".")[:2] == ["10", "88"]
    assert addresses[second_node.name].split(".")[:2] == ["10", "89"]
    for node, other in (nodes, nodes[::-1]):
        targets = ("10.96.0.1:443", f"{cluster.target.address}:5000", f"{addresses[other.name]}:8000")
        client = pods.run(CONNECTS, *targets, node=node)
        pods.wait(client, *FINAL_PHASES)
        log = cluster.log(pods.get(client))
        assert log.splitlines() == [*(f"reached {target}" for target in targets), "resolved 10.96.0.1"], log


def test_log_and_exec_work(cluster: Cluster, second_node: SecondNode, pods: Pods) -> None:
    pod = pods.run(f"print('hello', flush=True); {SLEEPS}", node=second_node)
    eventually(lambda: cluster.log(pods.get(pod)) == "hello\n", 10, "the log can be read")
    assert cluster.kubectl("exec", pod, "--", "python", "-c", "print(6 * 7)") == "42"


def test_drained_node(first: Node, second_node: SecondNode, pods: Pods) -> None:
    """The pod ends as a drain ends it, and a new one runs on the other node."""
    with first.cordon():
        old = pods.run(SLEEPS)
    assert node_of(pods.get(old)) == second_node.name
    states = pods.watch(old)
    next(states)
    with second_node.drain(pods.label):
        *_, last = states
        new = pods.run(SLEEPS)
        assert node_of(pods.get(new)) == first.name
    assert disruption(last) == "EvictionByEvictionAPI"


def test_tainted_node(first: Node, second_node: SecondNode, pods: Pods) -> None:
    with first.cordon():
        old = pods.run(SLEEPS)
    states = pods.watch(old)
    next(states)
    with second_node.evict_by_taint():
        *_, last = states
        assert node_of(pods.get(pods.run(SLEEPS))) == first.name
    assert disruption(last) == "DeletionByTaintManager"


def test_preempted_pod(first: Node, second_node: SecondNode, pods: Pods) -> None:
    cpus = second_node.cpus()
    with first.cordon():
        old = pods.run(SLEEPS, cpu=f"{cpus * 0.5:.3f}")
    states = pods.watch(old)
    next(states)
    with second_node.preempt(cpus * 0.7):
        *_, last = states
        assert node_of(pods.get(pods.run(SLEEPS, cpu=f"{cpus * 0.5:.3f}"))) == first.name
    assert disruption(last) == "PreemptionByScheduler"


@pytest.mark.parametrize("resource", ["memory", "disk"])
def test_evicted_by_the_kubelet(first: Node, second_node: SecondNode, pods: Pods, resource: str) -> None:
    """The pod ends for its node's pressure, and while that lasts new pods run on the other node."""
    old = pods.run(SLEEPS, node=second_node)
    condition, exhaust = {
        "memory": ("MemoryPressure", second_node.exhaust_memory),
        "disk": ("DiskPressure", second_node.exhaust_disk),
    }[resource]
    assert second_node.conditions()[condition] == "False"
    with exhaust():
        eventually(lambda: pods.get(old)["status"]["phase"] == "Failed", PRESSURE_SECONDS, "the pod is evicted")
        eventually(lambda: second_node.conditions()[condition] == "True", 15, f"the node has {condition}")
        assert node_of(pods.get(pods.run(SLEEPS))) == first.name
    pod = pods.get(old)
    assert pod["status"]["reason"] == "Evicted"
    assert "The node was low on resource" in pod["status"]["message"]
    assert disruption(pod) == "TerminationByKubelet"
    assert second_node.conditions()[condition] == "False"
    assert pods.get(pods.run(SLEEPS, node=second_node))["status"]["phase"] == "Running"


def test_lost_connection(cluster: Cluster, first: Node, second_node: SecondNode, pods: Pods) -> None:
    """The pod's process goes on until its node is back, although the pod is marked as deleted."""
    marker = secrets.token_hex(8)
    old = pods.run(SLEEPS, marker, node=second_node)
    assert cluster.processes(marker)
    with second_node.lose_connection():
        expect_loss(second_node, pods, old)
        assert node_of(pods.get(pods.run(SLEEPS))) == first.name
        assert cluster.processes(marker)
    eventually(lambda: old not in pods.names(), 60, "the pod is gone")
    assert not cluster.processes(marker)


def test_lost_power(cluster: Cluster, first: Node, second_node: SecondNode, pods: Pods) -> None:
    """The pod's process ends with its node, whose kubelet confirms that when it is back."""
    marker = secrets.token_hex(8)
    old = pods.run(SLEEPS, marker, node=second_node)
    assert cluster.processes(marker)
    with second_node.lose_power():
        assert not cluster.processes(marker)
        expect_loss(second_node, pods, old)
        assert node_of(pods.get(pods.run(SLEEPS))) == first.name
        assert old in pods.names(), "nobody confirms its end"
    eventually(lambda: old not in pods.names(), 60, "the pod is gone")
    assert node_of(pods.get(pods.run(SLEEPS, node=second_node))) == second_node.name


def expect_loss(node: SecondNode, pods: Pods, name: str) -> None:
    """Wait until a node is NotReady and a pod on it is marked as deleted, both within the stated time."""
    start = time.monotonic()
    eventually(lambda: node.conditions()["Ready"] == "Unknown", LOSS_SECONDS, "the node is NotReady")
    left = LOSS_SECONDS - (time.monotonic() - start)
    eventually(lambda: "deletionTimestamp" in pods.get(name)["metadata"], left, "the pod is marked as deleted")
    assert disruption(pods.get(name)) == "DeletionByTaintManager"
