"""What a job's pod reaches without deploy/network-policy.yaml, with it, and with any one of its rules left out."""

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
from tests.harness.real_cluster.firewall import enforced
from tests.harness.real_cluster.target import Target
from tests.harness.site import START_SECONDS, Job, Site, exits

NAMES = "10.96.0.10"
METADATA = ("169.254.169.254", 80)
"""Where clouds tell a node, and whoever asks from it, the node's credentials."""
SERVER = "192.0.2.10"
"""The FLARE server's address in the policy."""
PORT = 9000
PATIENCE = 120.0
"""Seconds for a pod's word: a round of tries takes half a minute where what is refused is not even answered."""

LISTENS = """
import socketserver, threading, time
for port in PORTS:
    server = socketserver.TCPServer(('', port), socketserver.BaseRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print('ready', flush=True)
"""
"""Code that takes connections on PORTS."""
REACHES = """
import json, os, socket, time

os.environ['RES_OPTIONS'] = 'timeout:1 attempts:1'  # else a name that nobody answers for takes most of a minute

def reached(host, port):
    try:
        socket.create_connection((host, port), 3).close()
    except OSError:
        return False
    return True

while True:
    print('REACHES ' + json.dumps([name for name, at in TARGETS.items() if reached(*at)]), flush=True)
    time.sleep(0.3)
"""
"""Code that says again and again which of TARGETS it reaches."""

NEEDED = {"its parent", "its parent by name", "names", "the FLARE server", "the API server"}
FORBIDDEN = {
    "another job",
    "another pod",
    "its parent at another port",
    "the FLARE server's host at another port",
    "the node's metadata",
    "the node's kubelet",
    "the node's registry",
    "the API server by another address",
}
LOST = {
    0: {"its parent", "its parent by name"},
    1: {"the FLARE server"},
    2: {"names", "its parent by name"},
    3: {"the API server"},
}
"""What each rule of the policy, by its number, is for."""


def hyphens(text: str) -> str:
    """As a test's id."""
    return text.replace(" ", "-")


@pytest.fixture(scope="module", autouse=True)
def in_force(target: Target, cluster: Cluster) -> Iterator[None]:
    if target.own:
        pytest.skip("what holds pods to policies is a daemon of the harness's own cluster")
    with enforced(cluster):
        yield


@pytest.fixture(scope="module")
def beside(in_force: None, cluster: Cluster) -> Iterator[dict[str, tuple[str, int]]]:
    """What there is for a job to reach, but for other jobs."""
    del in_force
    label = {"app.kubernetes.io/name": "site-1"}
    things = (
        pod(cluster, "parent", LISTENS, [8102, 9464], label),
        service("site-1", label, 8102),
        pod(cluster, "other", LISTENS, [PORT]),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(listening(*METADATA))
        stack.enter_context(listening(SERVER, 8002, 8003))
        stack.enter_context(cluster.apply(*things))
        parent, other = (address_of(cluster, f"flargo-test-{name}") for name in ("parent", "other"))
        yield {
            "its parent": (parent, 8102),
            "its parent by name": ("site-1", 8102),
            "names": (NAMES, 53),
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
def site(in_force: None, cluster: Cluster) -> Iterator[Site]:
    del in_force
    with Site(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def other_job(site: Site) -> Iterator[Job]:
    """A job that listens."""
    job = site.launch(f"PORTS = [{PORT}]{LISTENS}time.sleep(3600)").expect_running()
    yield job
    job.abort()


@pytest.fixture(scope="module")
def job(site: Site, other_job: Job, beside: dict[str, tuple[str, int]]) -> Iterator[Job]:
    """A job that tries to reach all there is."""
    targets = {**beside, "another job": (other_job.pod["status"]["podIP"], PORT)}
    assert targets.keys() == NEEDED | FORBIDDEN
    job = site.launch(f"print('ready', flush=True)\nTARGETS = {targets}\n{REACHES}").expect_running()
    yield job
    job.abort()


@pytest.fixture(scope="module")
def stranger(cluster: Cluster, other_job: Job) -> Iterator[str]:
    """A pod that is no job's and tries to reach one."""
    targets = {"a job": (other_job.pod["status"]["podIP"], PORT)}
    with cluster.apply(pod(cluster, "stranger", f"TARGETS = {targets}\n{REACHES}", [])):
        yield "flargo-test-stranger"


@pytest.fixture(scope="module")
def before(job: Job, stranger: str, cluster: Cluster) -> dict[str, set[str]]:
    """What is reached without the policy, by whom."""
    hoped = {job.pod["metadata"]["name"]: NEEDED | FORBIDDEN, stranger: {"a job"}}
    return {pod: reached(cluster, pod, what) for pod, what in hoped.items()}


@pytest.fixture(scope="module")
def policy(before: dict[str, set[str]], cluster: Cluster) -> Iterator[Object]:
    del before
    made = policy_for_test_cluster()
    with cluster.apply(made):
        yield made


@pytest.fixture(scope="module")
def after(policy: Object, job: Job, stranger: str, cluster: Cluster) -> dict[str, set[str]]:
    """What is reached with the policy, by whom."""
    del policy
    hoped: dict[str, set[str]] = {job.pod["metadata"]["name"]: NEEDED, stranger: set()}
    return {pod: reached(cluster, pod, what) for pod, what in hoped.items()}


@pytest.mark.parametrize("target", sorted(NEEDED | FORBIDDEN), ids=hyphens)
def test_without_the_policy_a_job_reaches(before: dict[str, set[str]], job: Job, target: str) -> None:
    assert target in before[job.pod["metadata"]["name"]]


def test_without_the_policy_a_job_is_reached_by_others(before: dict[str, set[str]], stranger: str) -> None:
    assert before[stranger] == {"a job"}


@pytest.mark.parametrize("target", sorted(NEEDED), ids=hyphens)
def test_with_the_policy_a_job_reaches(after: dict[str, set[str]], job: Job, target: str) -> None:
    assert target in after[job.pod["metadata"]["name"]]


@pytest.mark.parametrize("target", sorted(FORBIDDEN), ids=hyphens)
def test_with_the_policy_a_job_does_not_reach(after: dict[str, set[str]], job: Job, target: str) -> None:
    assert target not in after[job.pod["metadata"]["name"]]


def test_with_the_policy_nobody_reaches_a_job(after: dict[str, set[str]], stranger: str) -> None:
    assert after[stranger] == set()


@pytest.mark.parametrize("rule", LOST, ids=["parents", "the-FLARE-server", "names", "the-API-server"])
def test_without_a_rule_of_the_policy_a_job_lacks_what_it_needs(
    policy: Object, after: dict[str, set[str]], job: Job, cluster: Cluster, rule: int
) -> None:
    del after
    assert len(policy["spec"]["egress"]) == len(LOST)
    less = copy.deepcopy(policy)
    del less["spec"]["egress"][rule]
    cluster.kubectl("apply", "--filename=-", document=less)
    try:
        wanted = NEEDED - LOST[rule]
        assert reached(cluster, job.pod["metadata"]["name"], wanted) == wanted
    finally:
        cluster.kubectl("apply", "--filename=-", document=policy)


@pytest.mark.usefixtures("policy")
def test_with_the_policy_a_job_ends_as_ever(site: Site) -> None:
    job = site.launch(WAITS_FOR_POLICY + exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    eventually(lambda: job.workflow["status"]["phase"] == "Succeeded", PATIENCE, "Argo's executor has reported")
    job.expect_nothing_left()


def reached(cluster: Cluster, pod: str, hoped: set[str]) -> set[str]:
    """What a pod says it reaches: what is hoped as soon as it says so, else what it said last."""
    found: set[str] = set()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lines = cluster.kubectl("logs", pod, "--container=main", "--tail=20").splitlines()
        said = [line for line in lines if line.startswith("REACHES ")]
        found = set(json.loads(said[-1].removeprefix("REACHES "))) if said else set()
        if said and found == hoped:
            break
        time.sleep(0.3)
    return found


@contextlib.contextmanager
def listening(address: str, *ports: int) -> Iterator[None]:
    """Something outside of every pod takes connections, at an address of its own."""
    device = (f"{address}/32", "dev", "lo")
    with contextlib.ExitStack() as stack:
        subprocess.run(("ip", "address", "replace", *device), check=True)
        stack.callback(subprocess.run, ("ip", "address", "delete", *device), check=True)
        for port in ports:
            server = stack.enter_context(Listener((address, port), socketserver.BaseRequestHandler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        yield


class Listener(socketserver.TCPServer):
    """Takes a connection and ends it; may come back to where one was a moment ago."""

    allow_reuse_address = True


def pod(cluster: Cluster, name: str, code: str, ports: list[int], labels: dict[str, str] | None = None) -> Object:
    """A pod of the namespace, for Python code, that listens on ports and sleeps."""
    alone = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    program = ["python3", "-c", f"PORTS = {ports}\n{code}\nimport time; time.sleep(3600)"]
    container = {"name": "main", "image": cluster.target.job_image, "command": program, "securityContext": alone}
    user = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    meta = {"name": f"flargo-test-{name}", "labels": labels or {}}
    spec = {
        "containers": [container],
        "securityContext": user,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def service(name: str, selector: dict[str, str], port: int) -> Object:
    """A Service for pods with labels."""
    spec = {"selector": selector, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def address_of(cluster: Cluster, name: str) -> str:
    """A pod's."""
    return cluster.kubectl("get", "pod", name, "--output=jsonpath={.status.podIP}")
