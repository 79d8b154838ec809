"""Tests of what a job's pod can reach without deploy/network-policy.yaml, with it, and without any one of its rules."""

import contextlib
import copy
import json
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from flargo.status.reasons import Reason
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.network_policy import API_SERVER, WAITS_FOR_POLICY, policy_for_test_cluster
from tests.harness.real_cluster.firewall import enforce_network_policies
from tests.harness.real_cluster.target import Target
from tests.harness.site import START_SECONDS, Job, Site, exits

DNS_ADDRESS = "10.96.0.10"
METADATA = ("169.254.169.254", 80)
"""The address at which clouds serve a node's credentials to every program on the node."""
SERVER = "192.0.2.10"
"""The FLARE server's address in the policy."""
PORT = 9000
REPORT_SECONDS = 120.0
"""Seconds within which a pod reports: a round of connection attempts takes half a minute if packets are dropped."""

LISTENING_CODE = """
import socketserver, threading, time
for port in PORTS:
    server = socketserver.TCPServer(('', port), socketserver.BaseRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print('ready', flush=True)
"""
"""Code that accepts connections on PORTS."""
PROBE_CODE = """
import json, os, socket, time

os.environ['RES_OPTIONS'] = 'timeout:1 attempts:1'  # an unanswered DNS query would take most of a minute

def can_connect(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True

while True:
    print('REACHES ' + json.dumps([name for name, at in TARGETS.items() if can_connect(*at)]), flush=True)
    time.sleep(0.3)
"""
"""Code that prints repeatedly which of TARGETS it reaches."""

REQUIRED_TARGETS = {"its parent", "its parent by name", "names", "the FLARE server", "the API server"}
FORBIDDEN_TARGETS = {
    "another job",
    "another pod",
    "its parent at another port",
    "the FLARE server's host at another port",
    "the node's metadata",
    "the node's kubelet",
    "the node's registry",
    "the API server by another address",
}
TARGETS_OF_RULE = {
    0: {"its parent", "its parent by name"},
    1: {"the FLARE server"},
    2: {"names", "its parent by name"},
    3: {"the API server"},
}
"""The targets that each rule of the policy, by its index, allows."""


def hyphens(text: str) -> str:
    """Return a test's id for a target."""
    return text.replace(" ", "-")


@pytest.fixture(scope="module", autouse=True)
def enforcement(target: Target, cluster: Cluster) -> Iterator[None]:
    if target.is_external:
        pytest.skip("only the harness's own cluster has the daemon that enforces policies")
    with enforce_network_policies(cluster):
        yield


@pytest.fixture(scope="module")
def base_targets(enforcement: None, cluster: Cluster) -> Iterator[dict[str, tuple[str, int]]]:
    """The addresses and ports that a job may try to reach, without those of other jobs."""
    del enforcement
    label = {"app.kubernetes.io/name": "site-1"}
    manifests = (
        pod_manifest(cluster, "parent", LISTENING_CODE, [8102, 9464], label),
        service_manifest("site-1", label, 8102),
        pod_manifest(cluster, "other", LISTENING_CODE, [PORT]),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(listen(*METADATA))
        stack.enter_context(listen(SERVER, 8002, 8003))
        stack.enter_context(cluster.apply(*manifests))
        parent, other = (pod_address(cluster, f"flargo-test-{name}") for name in ("parent", "other"))
        yield {
            "its parent": (parent, 8102),
            "its parent by name": ("site-1", 8102),
            "names": (DNS_ADDRESS, 53),
            "the FLARE server": (SERVER, 8002),
            "the API server": API_SERVER,
            "another pod": (other, PORT),
            "its parent at another port": (parent, 9464),
            "the FLARE server's host at another port": (SERVER, 8003),
            "the node's metadata": METADATA,
            "the node's kubelet": (cluster.target.address, 10250),
            "the node's registry": (cluster.target.address, 5000),
            "the API server by another address": (cluster.target.address, API_SERVER[1]),
        }


@pytest.fixture(scope="module")
def site(enforcement: None, cluster: Cluster) -> Iterator[Site]:
    del enforcement
    with Site(cluster) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def other_job(site: Site) -> Iterator[Job]:
    """A job that accepts connections on PORT."""
    job = site.launch(f"PORTS = [{PORT}]{LISTENING_CODE}time.sleep(3600)").expect_running()
    yield job
    job.abort()


@pytest.fixture(scope="module")
def job(site: Site, other_job: Job, base_targets: dict[str, tuple[str, int]]) -> Iterator[Job]:
    """A job that tries to reach every target."""
    targets = {**base_targets, "another job": (other_job.pod["status"]["podIP"], PORT)}
    assert targets.keys() == REQUIRED_TARGETS | FORBIDDEN_TARGETS
    job = site.launch(f"print('ready', flush=True)\nTARGETS = {targets}\n{PROBE_CODE}").expect_running()
    yield job
    job.abort()


@pytest.fixture(scope="module")
def foreign_pod(cluster: Cluster, other_job: Job) -> Iterator[str]:
    """The name of a pod that belongs to no job and tries to reach one."""
    targets = {"a job": (other_job.pod["status"]["podIP"], PORT)}
    with cluster.apply(pod_manifest(cluster, "unrelated", f"TARGETS = {targets}\n{PROBE_CODE}", [])):
        yield "flargo-test-unrelated"


@pytest.fixture(scope="module")
def reached_without_policy(job: Job, foreign_pod: str, cluster: Cluster) -> dict[str, set[str]]:
    """The targets that each pod reaches without the policy."""
    expected = {job.pod["metadata"]["name"]: REQUIRED_TARGETS | FORBIDDEN_TARGETS, foreign_pod: {"a job"}}
    return {pod: wait_for_report(cluster, pod, targets) for pod, targets in expected.items()}


@pytest.fixture(scope="module")
def policy(reached_without_policy: dict[str, set[str]], cluster: Cluster) -> Iterator[Object]:
    del reached_without_policy
    manifest = policy_for_test_cluster()
    with cluster.apply(manifest):
        yield manifest


@pytest.fixture(scope="module")
def reached_with_policy(policy: Object, job: Job, foreign_pod: str, cluster: Cluster) -> dict[str, set[str]]:
    """The targets that each pod reaches with the policy."""
    del policy
    expected: dict[str, set[str]] = {job.pod["metadata"]["name"]: REQUIRED_TARGETS, foreign_pod: set()}
    return {pod: wait_for_report(cluster, pod, targets) for pod, targets in expected.items()}


@pytest.mark.parametrize("destination", sorted(REQUIRED_TARGETS | FORBIDDEN_TARGETS), ids=hyphens)
def test_job_reaches_target_without_policy(
    reached_without_policy: dict[str, set[str]], job: Job, destination: str
) -> None:
    assert destination in reached_without_policy[job.pod["metadata"]["name"]]


def test_foreign_pod_reaches_job_without_policy(reached_without_policy: dict[str, set[str]], foreign_pod: str) -> None:
    assert reached_without_policy[foreign_pod] == {"a job"}


@pytest.mark.parametrize("destination", sorted(REQUIRED_TARGETS), ids=hyphens)
def test_job_reaches_required_target_with_policy(
    reached_with_policy: dict[str, set[str]], job: Job, destination: str
) -> None:
    assert destination in reached_with_policy[job.pod["metadata"]["name"]]


@pytest.mark.parametrize("destination", sorted(FORBIDDEN_TARGETS), ids=hyphens)
def test_policy_blocks_forbidden_target(reached_with_policy: dict[str, set[str]], job: Job, destination: str) -> None:
    assert destination not in reached_with_policy[job.pod["metadata"]["name"]]


def test_policy_blocks_connections_to_jobs(reached_with_policy: dict[str, set[str]], foreign_pod: str) -> None:
    assert reached_with_policy[foreign_pod] == set()


@pytest.mark.parametrize("rule", TARGETS_OF_RULE, ids=["parents", "the-FLARE-server", "names", "the-API-server"])
def test_every_rule_of_the_policy_is_needed(
    policy: Object, reached_with_policy: dict[str, set[str]], job: Job, cluster: Cluster, rule: int
) -> None:
    del reached_with_policy
    assert len(policy["spec"]["egress"]) == len(TARGETS_OF_RULE)
    reduced_policy = copy.deepcopy(policy)
    del reduced_policy["spec"]["egress"][rule]
    cluster.kubectl("apply", "--filename=-", document=reduced_policy)
    try:
        targets = REQUIRED_TARGETS - TARGETS_OF_RULE[rule]
        assert wait_for_report(cluster, job.pod["metadata"]["name"], targets) == targets
    finally:
        cluster.kubectl("apply", "--filename=-", document=policy)


@pytest.mark.usefixtures("policy")
def test_job_completes_with_policy(site: Site) -> None:
    job = site.launch(WAITS_FOR_POLICY + exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    eventually(lambda: job.workflow["status"]["phase"] == "Succeeded", REPORT_SECONDS, "Argo's executor has reported")
    job.expect_nothing_left()


def wait_for_report(cluster: Cluster, pod: str, expected: set[str]) -> set[str]:
    """Return the targets that a pod reports: the expected ones as soon as it reports them, else its last report."""
    targets: set[str] = set()
    deadline = time.monotonic() + REPORT_SECONDS
    while time.monotonic() < deadline:
        lines = cluster.kubectl("logs", pod, "--container=main", "--tail=20").splitlines()
        reports = [line for line in lines if line.startswith("REACHES ")]
        targets = set(json.loads(reports[-1].removeprefix("REACHES "))) if reports else set()
        if reports and targets == expected:
            break
        time.sleep(0.3)
    return targets


@contextlib.contextmanager
def listen(address: str, *ports: int) -> Iterator[None]:
    """Accept connections outside of every pod, at an address of its own."""
    device = (f"{address}/32", "dev", "lo")
    with contextlib.ExitStack() as stack:
        subprocess.run(("ip", "address", "replace", *device), check=True)
        stack.callback(subprocess.run, ("ip", "address", "delete", *device), check=True)
        for port in ports:
            server = stack.enter_context(ReusingServer((address, port), socketserver.BaseRequestHandler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield


class ReusingServer(socketserver.TCPServer):
    """A server that accepts and closes connections, and may bind an address that was just in use."""

    allow_reuse_address = True


def pod_manifest(
    cluster: Cluster, name: str, code: str, ports: list[int], labels: dict[str, str] | None = None
) -> Object:
    """Return the manifest of a pod that runs Python code, for which PORTS is set, and then sleeps."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    program = ["python3", "-c", f"PORTS = {ports}\n{code}\nimport time; time.sleep(3600)"]
    container = {"name": "main", "image": cluster.target.job_image, "command": program, "securityContext": restricted}
    security_context = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    meta = {"name": f"flargo-test-{name}", "labels": labels or {}}
    spec = {
        "containers": [container],
        "securityContext": security_context,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def service_manifest(name: str, selector: dict[str, str], port: int) -> Object:
    """Return the manifest of a Service for pods with these labels."""
    spec = {"selector": selector, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def pod_address(cluster: Cluster, name: str) -> str:
    """Return a pod's IP address."""
    return cluster.kubectl("get", "pod", name, "--output=jsonpath={.status.podIP}")
