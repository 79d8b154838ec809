"""FLARE's parents as pods of the cluster, put there by the commands of docs/install.md and nothing else."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.fuel.flare_api.flare_api import new_secure_session

from flargo.status.reasons import Reason
from flargo.terms import Label
from flargo.tools.kit.chart import accounts_command
from tests.harness import job_folders
from tests.harness.cluster import Cluster, Object, eventually, list_processes
from tests.harness.federation import Federation
from tests.harness.federation_checks import (
    GONE_SECONDS,
    IGNORES_SIGTERM,
    PARTIES,
    SETTLE_SECONDS,
    all_succeeded,
    assert_orphan_ended,
    job_credentials,
)
from tests.harness.network_policy import WAITS_FOR_POLICY, policy_for_test_cluster
from tests.harness.paths import ROOT
from tests.harness.real_cluster import audit, image_store, images, state
from tests.harness.real_cluster.firewall import enforced
from tests.harness.real_cluster.target import Target
from tests.harness.run_docs import Page
from tests.harness.site import START_SECONDS, Site, exits
from tests.harness.submitted_workflows import run_sweep

ADMIN = "admin@lab.example"
PARENTS = {"server": "nvflare-server", "site-1": "site-1", "site-2": "site-2"}
"""The Deployment of each party, as the page calls it."""
NAMESPACE, KITS, PREPARE, START, RUN, TAKE_AWAY = range(2, 8)
"""The page's steps."""
INSTALL = (NAMESPACE, KITS, PREPARE, START)
PORT = 8002
STARTED = 120.0
"""Seconds in which a pod comes back and FLARE in it has started, on a busy machine."""


class InPods(Federation):
    """The page's federation, as its admin sees it through ``kubectl port-forward``."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder, host="localhost")
        self.port = PORT
        self.cluster = cluster
        self.said: dict[int, str] = {}
        """What each step of the page has printed."""
        self._forward: subprocess.Popen[bytes] | None = None

    def session(self) -> Any:
        if self._session is None:
            kit = self.root / "federation" / "lab" / "prod_00" / ADMIN
            self._session = new_secure_session(ADMIN, str(kit), timeout=20)
        return self._session

    def is_running(self, name: str) -> bool:
        del name
        return True  # A Deployment sees to it.

    def log(self, name: str = "server") -> str:
        """What the parent's pod of now has said since its container started."""
        return self.cluster.kubectl("logs", f"deployment/{PARENTS[name]}")

    def is_registered(self, site: str) -> bool:
        return "Successfully registered client" in self.log(site)

    def connect(self) -> None:
        """Begin anew, after another pod took the server's place, too."""
        self.disconnect()
        words = (
            "kubectl",
            f"--kubeconfig={self.cluster.target.kubeconfig}",
            f"--namespace={self.cluster.target.namespace}",
        )
        with (self.root / "forward.log").open("ab") as log:
            self._forward = subprocess.Popen(
                (*words, "port-forward", f"service/{PARENTS['server']}", str(PORT)), stdout=log, stderr=log
            )
        self.wait_ready()

    def disconnect(self) -> None:
        self._forget_session()
        if self._forward is not None:
            self._forward.terminate()
            self._forward.wait()
            self._forward = None

    def pod(self, name: str) -> Object:
        """The one pod of a parent that is there to stay."""
        found = self.cluster.items("pods", f"app.kubernetes.io/name={PARENTS[name]}")
        (pod,) = (each for each in found if "deletionTimestamp" not in each["metadata"])
        return pod


@dataclass(frozen=True)
class Used:
    """What came of the commands that the page runs on jobs."""

    printed: str
    completed: str
    """The job that ran to its end."""
    ended: str
    """The one that was terminated."""
    mark: int
    """Of the audit log, before all that."""

    @property
    def of_the_first(self) -> str:
        """What was printed of the job that ran to its end."""
        return self.printed.partition(f"job_id: {self.ended}")[0]

    @property
    def of_the_second(self) -> str:
        """What was printed of the one that was terminated."""
        return self.printed.partition(f"job_id: {self.ended}")[2]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A person's, who has flargo installed and administers the cluster; with a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        yield {**os.environ, "HOME": home, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def image(target: Target) -> str:
    """What FLARE's parents run."""
    if parent := os.environ.get("FLARGO_PARENT_IMAGE"):
        return parent
    if target.own:
        pytest.skip("FLARGO_PARENT_IMAGE is not set: which image do FLARE's parents run?")
    return push_parent()


@pytest.fixture(scope="module")
def page(target: Target, image: str) -> Page:
    """docs/install.md with this cluster's names, and with this checkout's deploy/ by its own."""
    names = {"flare-parent:2.9": image, "flare-job:2.9": target.job_image}
    words = {f"registry.example/{name}": image for name, image in names.items()}
    words |= {
        "--namespace flare": f"--namespace {target.namespace}",
        "namespace: flare": f"namespace: {target.namespace}",
        "kubectl apply --kustomize deploy": accounts_command(target.namespace),
    }
    return Page(ROOT / "docs" / "install.md", words)


def push_parent() -> str:
    """Build the parents' image with the flargo of this checkout, and bring it to the cluster's registry."""
    with tempfile.TemporaryDirectory() as tmp:
        archive = images.parent(Path(tmp))
        name = f"{images.HOST}/parent:{hashlib.sha256(archive.read_bytes()).hexdigest()[:12]}"
        image_store.push(archive, name)
    return name


@pytest.fixture(scope="module")
def fed(target: Target, cluster: Cluster, page: Page, environment: dict[str, str]) -> Iterator[InPods]:
    """The federation that the page installs, and takes away."""
    folder = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    (folder / "deploy").symlink_to(ROOT / "deploy")
    running = InPods(folder, cluster)
    with contextlib.nullcontext() if target.own else volumes(cluster):
        try:
            for step in INSTALL:
                running.said[step] = page.run(step, folder, environment)
            yield running
        finally:
            running.disconnect()
            page.run(TAKE_AWAY, folder, environment)
    shutil.rmtree(folder)


@contextlib.contextmanager
def volumes(cluster: Cluster) -> Iterator[None]:
    """Folders of the node for whoever claims one: the harness's cluster has nobody who would make them."""
    owner = f"flargo-{secrets.token_hex(4)}"
    folder = state.RUN / "volumes" / owner
    where = {"key": "kubernetes.io/hostname", "operator": "Exists"}
    for party in PARTIES:
        (folder / party).mkdir(parents=True)
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder / party)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [where]}]}},
        }
        meta = {"name": f"{owner}-{party}", "labels": {"flargo-test": owner}}
        cluster.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec})
    try:
        yield
    finally:
        cluster.kubectl("delete", "persistentvolume", f"--selector=flargo-test={owner}")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def used(fed: InPods, target: Target, page: Page, environment: dict[str, str]) -> Used:
    """The jobs that the page submits, long enough to be ended in the middle, with each of its commands used on them."""
    fed.disconnect()  # The page forwards the port itself.
    mark = audit.mark(target.audit_log) if target.audit_log else 0
    job_folders.fedavg(fed.root / "job", image=target.job_image, pause=5)
    printed = page.run(RUN, fed.root, environment)
    completed, ended = re.findall(r"^job_id: (\S+)$", printed, re.MULTILINE)
    return Used(printed, completed, ended, mark)


def test_the_doctor_finds_nothing_wrong_with_the_namespace_and_with_each_kit(fed: InPods) -> None:
    """As it exits with 0, too, without which the page would not have gone on."""
    for step, kits in ((NAMESPACE, 1), (START, len(PARTIES))):
        assert fed.said[step].count("0 warning, 0 failure, 0 unknown") == kits, fed.said[step]


def test_a_job_runs_as_the_page_says_with_all_parents_in_pods(
    fed: InPods, used: Used, cluster: Cluster, target: Target
) -> None:
    for item in cluster.workflows(used.completed).values():
        line = rf"^{item['metadata']['name']} +(Running|Succeeded) "
        assert re.search(line, used.of_the_first, re.MULTILINE), "argo lists its Workflow"
    (weights,) = (fed.root / "results").rglob("server.npy")
    np.testing.assert_allclose(np.load(weights), job_folders.fedavg_expected(3), rtol=1e-6)
    fed.connect()
    assert fed.status(used.completed) == "FINISHED:COMPLETED"
    eventually(partial(all_succeeded, cluster, used.completed), SETTLE_SECONDS, "a Workflow Succeeded for each party")
    assert job_credentials(cluster, used.completed) == []
    for pod in cluster.pods(used.completed):
        parent = PARENTS[pod["metadata"]["labels"]["flargo.dev/site"]]
        assert f"//{parent}:8102" in str(pod["spec"]["containers"]), "it finds its parent by the Service's name"
        if target.audit_log:
            asked = audit.by(f":{target.namespace}:{parent}", target.audit_log, used.mark)
            assert asked["create", "workflows"] == 2, "each parent is itself to the API server, by its pod's own token"


def test_the_pages_commands_show_the_job_its_log_and_how_it_ended(used: Used) -> None:
    shown = used.of_the_first
    for site in ("site-1", "site-2"):
        for number in range(3):
            line = rf"^{site} +\| .*flargo: trained round {number}$"
            assert re.search(line, shown, re.MULTILINE), "flargo logs has what the program prints"
    assert re.search(r"^server +\| .*Round 0 started", shown, re.MULTILINE), "and what FLARE logs in it"
    rows = [row for line in shown.splitlines() if (row := line.split())[:1] == [used.completed[:8]]]
    assert sorted((row[2], *row[5:7]) for row in rows) == [(party, "ENDED", "SUCCEEDED") for party in PARTIES]
    assert ends_told(shown) == dict.fromkeys(PARTIES, "SUCCEEDED, FLARE hears 0")


def test_a_job_that_is_terminated_ends_as_such_and_flare_hears_of_it(fed: InPods, used: Used, cluster: Cluster) -> None:
    shown = used.of_the_second
    told = re.findall(r"^(\S+): Workflow (\S+) is being terminated$", shown, re.MULTILINE)
    names = {site: item["metadata"]["name"] for site, item in cluster.workflows(used.ended).items()}
    assert (dict(told), {*names}) == (names, {*PARTIES})
    assert ends_told(shown) == dict.fromkeys(PARTIES, "SHUT_DOWN, FLARE hears 9")
    fed.connect()
    assert fed.status(used.ended) == "FINISHED:ABORTED"
    eventually(lambda: not cluster.unfinished_pods(used.ended), SETTLE_SECONDS, "nothing of it runs")
    eventually(lambda: not job_credentials(cluster, used.ended), SETTLE_SECONDS, "its credentials are gone")
    assert {item["status"]["phase"] for item in cluster.workflows(used.ended).values()} == {"Failed"}


def ends_told(shown: str) -> dict[str, str]:
    """How the job has ended at each party, as ``flargo why`` says."""
    return dict(re.findall(r"^(\S+) \((?:server|client)\): (\w+, FLARE hears \d+)$", shown, re.MULTILINE))


def test_a_job_runs_to_its_end_with_the_network_policy_in_force(fed: InPods, cluster: Cluster, target: Target) -> None:
    if target.own:
        pytest.skip("what holds pods to policies is a daemon of the harness's own cluster")
    fed.connect()
    with enforced(cluster), cluster.apply(policy_for_test_cluster()):
        code = WAITS_FOR_POLICY + job_folders.training()
        job_id = fed.submit(
            job_folders.script(fed.root / "held", image=target.job_image, code=code, server_code=WAITS_FOR_POLICY)
        )
        assert fed.wait(job_id) == "FINISHED:COMPLETED"
        eventually(partial(all_succeeded, cluster, job_id), SETTLE_SECONDS, "a Workflow Succeeded for each party")


@pytest.mark.usefixtures("sweeper")
def test_the_sweep_deletes_in_the_parents_image_what_a_parent_has_left(image: str, cluster: Cluster, mark: str) -> None:
    """Credentials of a job that ended two hours ago, as its Workflow then says: nobody can wait for so long."""
    with Site(cluster) as site:
        old, fresh = site.launch(exits(0)), site.launch(exits(0))
        for job in (old, fresh):
            job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
            job.expect_nothing_left()
        attempts = {job: job.workflow["metadata"]["annotations"]["flargo.dev/attempt"] for job in (old, fresh)}
        left = {job: f"nvflare-cred-{job.name}-{attempt}" for job, attempt in attempts.items()}
        for job, name in left.items():
            whole = job.workflow["metadata"]
            labels = {
                key: whole["labels"][key] for key in (str(Label.MANAGED_BY), str(Label.FEDERATION), str(Label.SITE))
            }
            owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": job.name, "uid": whole["uid"]}
            meta = {"name": name, "labels": labels, "ownerReferences": [owner]}
            cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta})
        earlier = json.dumps({"status": {"finishedAt": f"{datetime.now(UTC) - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"}})
        cluster.kubectl("patch", "workflows.argoproj.io", old.name, "--type=merge", f"--patch={earlier}")
        done, pod = run_sweep(cluster, mark, image=image)
        assert done["status"]["phase"] == "Succeeded", cluster.log(pod)
        assert f"deleted Secret {left[old]} " in cluster.log(pod)
        assert left[fresh] not in cluster.log(pod)
        assert [name for name in cluster.secrets("nvflare-cred-") if name in left.values()] == [left[fresh]]


def test_parents_and_jobs_are_held_to_pod_security_restricted(fed: InPods, cluster: Cluster, target: Target) -> None:
    namespace = next(item for item in cluster.items("namespaces") if item["metadata"]["name"] == target.namespace)
    if not target.own:
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, parent in PARENTS.items():
        (container,) = fed.pod(name)["spec"]["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert cluster.kubectl("exec", f"deployment/{parent}", "--", "id", "-u") == "1000"


@pytest.mark.parametrize("name", ["site-1", "server"])
def test_what_a_lost_parent_left_running_is_ended_by_the_pod_that_comes_after_it(
    fed: InPods, cluster: Cluster, target: Target, name: str
) -> None:
    fed.connect()
    code = f"{IGNORES_SIGTERM}import time\ntime.sleep(3600)\n"
    path = fed.root / f"orphan-{name}"
    job_id = fed.submit(job_folders.script(path, image=target.job_image, code=code, server_code=IGNORES_SIGTERM))
    eventually(
        lambda: sum("deaf now" in cluster.log(pod) for pod in cluster.pods(job_id)) == len(PARTIES),
        2 * SETTLE_SECONDS,
        "all are deaf",
    )
    before = len(cluster.processes(job_id))
    lose(fed, cluster, name)
    others = {*PARTIES} - {name}
    assert_orphan_ended(cluster, job_id, name, STARTED)
    eventually(lambda: len(cluster.processes(job_id)) < before, GONE_SECONDS, "its process is gone from the node")
    assert "left behind by another run" in fed.log(name)
    for each in others:
        cluster.delete_by_label(f"flargo.dev/job-id={job_id},flargo.dev/site={each}")
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the rest is gone, too")


def lose(fed: InPods, cluster: Cluster, name: str) -> None:
    """A site's pod is deleted by force; the server's process is killed, and its container starts anew."""
    pod = fed.pod(name)
    if name != "server" or cluster.target.own:
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        return
    for pid, command in list_processes():
        if b"nvflare.private.fed.app.server.server_train" in command:
            os.kill(pid, signal.SIGKILL)
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    eventually(
        lambda: fed.pod(name)["status"]["containerStatuses"][0]["restartCount"] > restarts, STARTED, "it starts anew"
    )
