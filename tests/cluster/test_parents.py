"""Tests of FLARE's parents as pods of the cluster, installed by exactly the commands of docs/install.md."""

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
from tests.harness.real_cluster.firewall import enforce_network_policies
from tests.harness.real_cluster.target import Target
from tests.harness.run_docs import Page
from tests.harness.site import START_SECONDS, Site, exits
from tests.harness.submitted_workflows import run_sweep

ADMIN = "admin@lab.example"
PARENTS = {"server": "nvflare-server", "site-1": "site-1", "site-2": "site-2"}
"""The name of each party's Deployment in docs/install.md."""
NAMESPACE, KITS, PREPARE, START, RUN, UNINSTALL = range(2, 8)
"""The numbers of the page's steps."""
INSTALL = (NAMESPACE, KITS, PREPARE, START)
PORT = 8002
RESTART_SECONDS = 120.0
"""Seconds within which a parent's pod is replaced and FLARE has started in it, on a busy machine."""


class PodFederation(Federation):
    """The federation that the page installs, accessed by its admin through ``kubectl port-forward``."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder, host="localhost")
        self.port = PORT
        self.cluster = cluster
        self.outputs: dict[int, str] = {}
        """The output of each step of the page."""
        self._forward: subprocess.Popen[bytes] | None = None

    def session(self) -> Any:
        if self._session is None:
            kit = self.root / "federation" / "lab" / "prod_00" / ADMIN
            self._session = new_secure_session(ADMIN, str(kit), timeout=20)
        return self._session

    def is_running(self, name: str) -> bool:
        del name
        return True  # The Deployment restarts a parent that is down.

    def log(self, name: str = "server") -> str:
        """Return the log of the current container of a parent's pod."""
        return self.cluster.kubectl("logs", f"deployment/{PARENTS[name]}")

    def is_registered(self, site: str) -> bool:
        return "Successfully registered client" in self.log(site)

    def connect(self) -> None:
        """Start a new port-forward and session, also after the server's pod was replaced."""
        self.disconnect()
        kubectl = (
            "kubectl",
            f"--kubeconfig={self.cluster.target.kubeconfig}",
            f"--namespace={self.cluster.target.namespace}",
        )
        with (self.root / "forward.log").open("ab") as log:
            self._forward = subprocess.Popen(
                (*kubectl, "port-forward", f"service/{PARENTS['server']}", str(PORT)), stdout=log, stderr=log
            )
        self.wait_ready()

    def disconnect(self) -> None:
        self._forget_session()
        if self._forward is not None:
            self._forward.terminate()
            self._forward.wait()
            self._forward = None

    def pods(self, name: str) -> list[Object]:
        """Return the pods of a parent that are not being deleted."""
        pods = self.cluster.items("pods", f"app.kubernetes.io/name={PARENTS[name]}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, name: str) -> Object:
        """Return the only pod of a parent that is not being deleted."""
        (pod,) = self.pods(name)
        return pod


@dataclass(frozen=True)
class PageRun:
    """The result of the commands that the page runs on jobs."""

    output: str
    completed_job: str
    """Id of the job that ran to its end."""
    terminated_job: str
    """Id of the job that was terminated."""
    mark: int
    """The audit log's mark before the first command."""

    @property
    def completed_output(self) -> str:
        """The output up to the submission of the job that is terminated."""
        return self.output.partition(f"job_id: {self.terminated_job}")[0]

    @property
    def terminated_output(self) -> str:
        """The output from the submission of the job that is terminated."""
        return self.output.partition(f"job_id: {self.terminated_job}")[2]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment of an administrator of the cluster who has flargo installed, with an empty home folder."""
    with tempfile.TemporaryDirectory() as home:
        yield {**os.environ, "HOME": home, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def image(target: Target) -> str:
    """The image that FLARE's parents run."""
    if parent := os.environ.get("FLARGO_PARENT_IMAGE"):
        return parent
    if target.is_external:
        pytest.skip("FLARGO_PARENT_IMAGE is not set: which image do FLARE's parents run?")
    return push_parent_image()


@pytest.fixture(scope="module")
def page(target: Target, image: str) -> Page:
    """docs/install.md with this cluster's names, and with the command that applies this checkout's deploy/."""
    names = {"flare-parent:2.9": image, "flare-job:2.9": target.job_image}
    replacements = {f"registry.example/{name}": image for name, image in names.items()}
    replacements |= {
        "--namespace flare": f"--namespace {target.namespace}",
        "namespace: flare": f"namespace: {target.namespace}",
        "kubectl apply --kustomize deploy": accounts_command(target.namespace),
    }
    return Page(ROOT / "docs" / "install.md", replacements)


def push_parent_image() -> str:
    """Build the parents' image with this checkout's flargo, and push it to the cluster's registry."""
    with tempfile.TemporaryDirectory() as tmp:
        archive = images.parent(Path(tmp))
        name = f"{images.HOST}/parent:{hashlib.sha256(archive.read_bytes()).hexdigest()[:12]}"
        image_store.push(archive, name)
    return name


@pytest.fixture(scope="module")
def fed(target: Target, cluster: Cluster, page: Page, environment: dict[str, str]) -> Iterator[PodFederation]:
    """The federation that the page installs and, after the tests, uninstalls."""
    folder = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    (folder / "deploy").symlink_to(ROOT / "deploy")
    federation = PodFederation(folder, cluster)
    with contextlib.nullcontext() if target.is_external else persistent_volumes(cluster):
        try:
            for step in INSTALL:
                federation.outputs[step] = page.run(step, folder, environment)
            yield federation
        finally:
            federation.disconnect()
            page.run(UNINSTALL, folder, environment)
    shutil.rmtree(folder)


@contextlib.contextmanager
def persistent_volumes(cluster: Cluster) -> Iterator[None]:
    """Create PersistentVolumes on the node for the parents' claims: the harness's cluster has no provisioner."""
    owner = f"flargo-{secrets.token_hex(4)}"
    folder = state.RUN / "volumes" / owner
    any_node = {"key": "kubernetes.io/hostname", "operator": "Exists"}
    for party in PARTIES:
        (folder / party).mkdir(parents=True)
        spec = {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder / party)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [any_node]}]}},
        }
        meta = {"name": f"{owner}-{party}", "labels": {"flargo-test": owner}}
        cluster.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec})
    try:
        yield
    finally:
        cluster.kubectl("delete", "persistentvolume", f"--selector=flargo-test={owner}")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def page_run(fed: PodFederation, target: Target, page: Page, environment: dict[str, str]) -> PageRun:
    """The result of the page's commands, run on jobs that are long enough to be terminated halfway."""
    fed.disconnect()  # the page's own commands forward the port
    mark = audit.mark(target.audit_log) if target.audit_log else 0
    job_folders.fedavg(fed.root / "job", image=target.job_image, pause=5)
    output = page.run(RUN, fed.root, environment)
    completed_job, terminated_job = re.findall(r"^job_id: (\S+)$", output, re.MULTILINE)
    return PageRun(output, completed_job, terminated_job, mark)


def test_doctor_reports_no_problem(fed: PodFederation) -> None:
    """The doctor reports no warning for the namespace and each kit; with a failure, the page would have stopped."""
    for step, kits in ((NAMESPACE, 1), (START, len(PARTIES))):
        assert fed.outputs[step].count("0 warning, 0 failure, 0 unknown") == kits, fed.outputs[step]


def test_job_completes_with_parents_in_pods(
    fed: PodFederation, page_run: PageRun, cluster: Cluster, target: Target
) -> None:
    for item in cluster.workflows(page_run.completed_job).values():
        line = rf"^{item['metadata']['name']} +(Running|Succeeded) "
        assert re.search(line, page_run.completed_output, re.MULTILINE), "argo lists its Workflow"
    (weights,) = (fed.root / "results").rglob("server.npy")
    np.testing.assert_allclose(np.load(weights), job_folders.fedavg_expected(3), rtol=1e-6)
    fed.connect()
    assert fed.status(page_run.completed_job) == "FINISHED:COMPLETED"
    eventually(
        partial(all_succeeded, cluster, page_run.completed_job), SETTLE_SECONDS, "a Workflow Succeeded for each party"
    )
    assert job_credentials(cluster, page_run.completed_job) == []
    for pod in cluster.pods(page_run.completed_job):
        parent = PARENTS[pod["metadata"]["labels"]["flargo.dev/site"]]
        assert f"//{parent}:8102" in str(pod["spec"]["containers"]), (
            "the job does not address its parent by the Service's name"
        )
        if target.audit_log:
            counts = audit.count_by_user(f":{target.namespace}:{parent}", target.audit_log, page_run.mark)
            assert counts["create", "workflows"] == 2, "the parent did not use the token of its own pod"


def test_commands_show_job_log_and_end(page_run: PageRun) -> None:
    text = page_run.completed_output
    for site in ("site-1", "site-2"):
        for number in range(3):
            line = rf"^{site} +\| .*flargo: trained round {number}$"
            assert re.search(line, text, re.MULTILINE), "flargo logs lacks the program's output"
    assert re.search(r"^server +\| .*Round 0 started", text, re.MULTILINE), "flargo logs lacks FLARE's log"
    rows = [row for line in text.splitlines() if (row := line.split())[:1] == [page_run.completed_job[:8]]]
    ends = ("ENDED", "SUCCEEDED", "COMPLETED", "3/3")
    assert sorted(tuple(row[2:7]) for row in rows) == [(party, *ends) for party in PARTIES]
    assert reported_ends(text) == dict.fromkeys(PARTIES, "SUCCEEDED, FLARE hears 0, FLARE says FINISHED:COMPLETED")


def test_terminated_job_is_aborted_in_flare(fed: PodFederation, page_run: PageRun, cluster: Cluster) -> None:
    text = page_run.terminated_output
    terminations = re.findall(r"^(\S+): Workflow (\S+) is being terminated$", text, re.MULTILINE)
    names = {site: item["metadata"]["name"] for site, item in cluster.workflows(page_run.terminated_job).items()}
    assert (dict(terminations), {*names}) == (names, {*PARTIES})
    # FLARE decides its status some seconds later.
    ends = {party: end.removesuffix(", FLARE says FINISHED:ABORTED") for party, end in reported_ends(text).items()}
    assert ends == dict.fromkeys(PARTIES, "SHUT_DOWN, FLARE hears 9")
    fed.connect()
    assert fed.status(page_run.terminated_job) == "FINISHED:ABORTED"
    eventually(lambda: not cluster.unfinished_pods(page_run.terminated_job), SETTLE_SECONDS, "no pod of the job runs")
    eventually(
        lambda: not job_credentials(cluster, page_run.terminated_job), SETTLE_SECONDS, "its credentials are gone"
    )
    assert {item["status"]["phase"] for item in cluster.workflows(page_run.terminated_job).values()} == {"Failed"}


def reported_ends(text: str) -> dict[str, str]:
    """Return the job's end at each party, as ``flargo why`` prints it."""
    return dict(re.findall(r"^(\S+) \((?:server|client)\): (\w+, FLARE hears \d+.*)$", text, re.MULTILINE))


def test_job_completes_with_the_network_policy(fed: PodFederation, cluster: Cluster, target: Target) -> None:
    if target.is_external:
        pytest.skip("only the harness's own cluster has the daemon that enforces policies")
    fed.connect()
    with enforce_network_policies(cluster), cluster.apply(policy_for_test_cluster()):
        code = WAITS_FOR_POLICY + job_folders.training()
        job_id = fed.submit(
            job_folders.script(fed.root / "held", image=target.job_image, code=code, server_code=WAITS_FOR_POLICY)
        )
        assert fed.wait(job_id) == "FINISHED:COMPLETED"
        eventually(partial(all_succeeded, cluster, job_id), SETTLE_SECONDS, "a Workflow Succeeded for each party")


@pytest.mark.usefixtures("sweeper")
def test_sweep_deletes_old_credentials(image: str, cluster: Cluster, mark: str) -> None:
    """The sweep, in the parents' image, deletes the credentials of a job that ended two hours ago.

    The Workflow's finish time is patched, because no test can wait that long.
    """
    with Site(cluster) as site:
        old, fresh = site.launch(exits(0)), site.launch(exits(0))
        for job in (old, fresh):
            job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
            job.expect_nothing_left()
        attempts = {job: job.workflow["metadata"]["annotations"]["flargo.dev/attempt"] for job in (old, fresh)}
        secret_names = {job: f"nvflare-cred-{job.name}-{attempt}" for job, attempt in attempts.items()}
        for job, name in secret_names.items():
            metadata = job.workflow["metadata"]
            labels = {
                key: metadata["labels"][key] for key in (str(Label.MANAGED_BY), str(Label.FEDERATION), str(Label.SITE))
            }
            owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": job.name, "uid": metadata["uid"]}
            meta = {"name": name, "labels": labels, "ownerReferences": [owner]}
            cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta})
        two_hours_ago = json.dumps(
            {"status": {"finishedAt": f"{datetime.now(UTC) - timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"}}
        )
        cluster.kubectl("patch", "workflows.argoproj.io", old.name, "--type=merge", f"--patch={two_hours_ago}")
        sweep_workflow, pod = run_sweep(cluster, mark, image=image)
        assert sweep_workflow["status"]["phase"] == "Succeeded", cluster.log(pod)
        assert f"deleted Secret {secret_names[old]} " in cluster.log(pod)
        assert secret_names[fresh] not in cluster.log(pod)
        assert [name for name in cluster.secrets("nvflare-cred-") if name in secret_names.values()] == [
            secret_names[fresh]
        ]


def test_parents_satisfy_restricted_pod_security(fed: PodFederation, cluster: Cluster, target: Target) -> None:
    namespace = next(item for item in cluster.items("namespaces") if item["metadata"]["name"] == target.namespace)
    if not target.is_external:
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, parent in PARENTS.items():
        (container,) = fed.pod(name)["spec"]["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert cluster.kubectl("exec", f"deployment/{parent}", "--", "id", "-u") == "1000"


def test_replacement_server_ends_orphans(fed: PodFederation, cluster: Cluster, target: Target) -> None:
    name = "server"
    fed.connect()
    code = f"{IGNORES_SIGTERM}import time\ntime.sleep(3600)\n"
    path = fed.root / f"orphan-{name}"
    job_id = fed.submit(job_folders.script(path, image=target.job_image, code=code, server_code=IGNORES_SIGTERM))
    eventually(
        lambda: sum("SIGTERM is ignored now" in cluster.log(pod) for pod in cluster.pods(job_id)) == len(PARTIES),
        2 * SETTLE_SECONDS,
        "all processes ignore SIGTERM",
    )
    before = len(cluster.processes(job_id))
    kill_parent(fed, cluster, name)
    others = {*PARTIES} - {name}
    assert_orphan_ended(cluster, job_id, name, RESTART_SECONDS)
    eventually(lambda: len(cluster.processes(job_id)) < before, GONE_SECONDS, "its process is gone from the node")
    assert "left behind by another run" in fed.log(name)
    for each in others:
        cluster.delete_by_label(f"flargo.dev/job-id={job_id},flargo.dev/site={each}")
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the other sites' pods are gone")


def test_replaced_parents_take_their_job_back(
    fed: PodFederation, cluster: Cluster, target: Target, environment: dict[str, str]
) -> None:
    """One parent's pod is deleted by force and another's is replaced by ``helm upgrade`` while their job trains.

    After a deletion by force Kubernetes makes the new pod at once, whether or not the old one's process still runs.
    """
    rounds = 12
    fed.connect()
    path = fed.root / "replaced"
    job_id = fed.submit(
        job_folders.fedavg(
            path, image=target.job_image, rounds=rounds, pause=8, server_code=job_folders.COUNT_CONTRIBUTIONS
        )
    )
    before = {site: fed.pod(site)["metadata"]["uid"] for site in job_folders.SITES}
    for site in job_folders.SITES:
        eventually(lambda: trained_rounds(cluster, job_id)[site], 2 * SETTLE_SECONDS, f"{site} has trained a round")  # noqa: B023
    cluster.kubectl(
        "delete", "pod", fed.pod("site-1")["metadata"]["name"], "--grace-period=0", "--force", "--wait=false"
    )
    helm_upgrade(fed, target, environment, "site-2", "resources.requests.memory=500Mi")
    for site, uid in before.items():
        eventually(lambda: is_taken_back(fed, job_id, site, uid), RESTART_SECONDS, f"{site} has taken its job back")  # noqa: B023
    assert fed.status(job_id) == "RUNNING"
    expect_completed(fed, cluster, job_id, rounds, within=2 * rounds * 8)


def test_upgraded_parent_takes_a_pending_job_back(
    fed: PodFederation, cluster: Cluster, target: Target, environment: dict[str, str]
) -> None:
    """Twice in a row, before a node has room for the job."""
    site, rounds = "site-1", 2
    fed.connect()
    path, options = fed.root / "pending", {site: {"num_of_gpus": 1, "pending_timeout": None}}
    job_id = fed.submit(
        job_folders.fedavg(
            path,
            image=target.job_image,
            rounds=rounds,
            launcher_spec_extra=options,
            server_code=job_folders.COUNT_CONTRIBUTIONS,
        )
    )
    eventually(lambda: job_phases(cluster, job_id, site) == ["Pending"], 2 * SETTLE_SECONDS, "the pod is pending")
    for memory in ("510Mi", "520Mi"):
        before = fed.pod(site)["metadata"]["uid"]
        helm_upgrade(fed, target, environment, site, f"resources.requests.memory={memory}")
        eventually(lambda: is_taken_back(fed, job_id, site, before), RESTART_SECONDS, "the job is taken back")  # noqa: B023
        assert job_phases(cluster, job_id, site) == ["Pending"]
    with cluster.offer_gpus(1):
        expect_completed(fed, cluster, job_id, rounds, within=2 * SETTLE_SECONDS)


def test_upgraded_parent_leaves_an_upload_alone(
    fed: PodFederation, cluster: Cluster, target: Target, environment: dict[str, str]
) -> None:
    """The site uploads its first result, in 800 pieces that take half a minute, while its parent is replaced."""
    site, rounds = "site-1", 2
    fed.connect()
    job_id = fed.submit(
        job_folders.script(
            fed.root / "upload",
            image=target.job_image,
            code=job_folders.training(pause=10, arrays=800),
            rounds=rounds,
            server_code=job_folders.COUNT_CONTRIBUTIONS,
            settings={"np_download_chunk_size": 4096},
        )
    )
    before = fed.pod(site)["metadata"]["uid"]
    uploads = "start to send task result to server"
    eventually(lambda: uploads in job_log(cluster, job_id, site), 2 * SETTLE_SECONDS, "the site uploads its result")
    helm_upgrade(fed, target, environment, site, "resources.requests.memory=530Mi")
    eventually(lambda: is_taken_back(fed, job_id, site, before), RESTART_SECONDS, "the job is taken back")
    expect_completed(fed, cluster, job_id, rounds, within=4 * SETTLE_SECONDS)


def expect_completed(fed: PodFederation, cluster: Cluster, job_id: str, rounds: int, within: float) -> None:
    """The job completes with the exact weights, each site contributes each round once, and nothing is left."""
    assert fed.wait(job_id, within) == "FINISHED:COMPLETED"
    np.testing.assert_allclose(fed.weights(job_id), job_folders.fedavg_expected(rounds), rtol=1e-6)
    contributions = (fed.download(job_id) / "workspace" / "contributions.txt").read_text().splitlines()
    assert sorted(contributions) == sorted(f"{site} {number}" for site in job_folders.SITES for number in range(rounds))
    assert trained_rounds(cluster, job_id) == {site: [*range(rounds)] for site in job_folders.SITES}
    eventually(partial(all_succeeded, cluster, job_id), SETTLE_SECONDS, "a Workflow Succeeded for each party")
    eventually(lambda: not job_credentials(cluster, job_id), SETTLE_SECONDS, "its credentials are gone")
    for site in job_folders.SITES:
        eventually(lambda: launch_records(cluster, site) == "", GONE_SECONDS, f"{site} has no record of a launch")  # noqa: B023


def helm_upgrade(fed: PodFederation, target: Target, environment: dict[str, str], site: str, value: str) -> None:
    """Upgrade a site's release with another value of its chart."""
    party = PARENTS[site]
    command = ("helm", "upgrade", party, f"prepared/{party}/helm_chart", "--namespace", target.namespace)
    helm = subprocess.run(
        (*command, "--set", value), cwd=fed.root, env=environment, text=True, capture_output=True, check=False
    )
    assert helm.returncode == 0, helm.stderr


def job_phases(cluster: Cluster, job_id: str, site: str) -> list[str]:
    """Return the phases of a job's pods at a site."""
    return [pod["status"]["phase"] for pod in cluster.pods(job_id) if pod["metadata"]["labels"][Label.SITE] == site]


def job_log(cluster: Cluster, job_id: str, site: str) -> str:
    """Return what a job's pods at a site have printed."""
    pods = [pod for pod in cluster.pods(job_id) if pod["metadata"]["labels"][Label.SITE] == site]
    return "".join(cluster.log(pod) for pod in pods)


def trained_rounds(cluster: Cluster, job_id: str) -> dict[str, list[int]]:
    """Return the numbers of the rounds that a job's pods have trained, by site."""
    rounds: dict[str, list[int]] = {site: [] for site in job_folders.SITES}
    for pod in cluster.pods(job_id):
        log = cluster.log(pod)
        rounds.get(pod["metadata"]["labels"][Label.SITE], []).extend(map(int, re.findall(r"trained round (\d+)", log)))
    return rounds


def is_taken_back(fed: PodFederation, job_id: str, site: str, replaced: str) -> bool:
    """Return whether the pod of a parent is another one than before, which has taken a job back."""
    pods = [pod for pod in fed.pods(site) if pod["metadata"]["uid"] != replaced and pod["status"]["phase"] == "Running"]
    logs = [fed.cluster.kubectl("logs", pod["metadata"]["name"]) for pod in pods]
    lines = [line for log in logs for line in log.splitlines() if job_id in line]
    assert not any("not taken back" in line for line in lines), lines
    return any("taken back, Workflow" in line for line in lines)


def launch_records(cluster: Cluster, site: str) -> str:
    """Return the names of the records of running launches in a parent's workspace."""
    folder = "/var/tmp/nvflare/workspace/.flargo/launches"
    return cluster.kubectl("exec", f"deployment/{PARENTS[site]}", "--", "ls", "-A", folder)


def kill_parent(fed: PodFederation, cluster: Cluster, name: str) -> None:
    """Delete a site's pod by force; of the server, kill the process, so that its container restarts."""
    pod = fed.pod(name)
    if name != "server" or cluster.target.is_external:
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
        return
    for pid, command in list_processes():
        if b"nvflare.private.fed.app.server.server_train" in command:
            os.kill(pid, signal.SIGKILL)
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    eventually(
        lambda: fed.pod(name)["status"]["containerStatuses"][0]["restartCount"] > restarts,
        RESTART_SECONDS,
        "the server's container restarts",
    )
