"""The fault matrix: how a job ends, what FLARE hears about it and how soon, and that nothing of the job is left.

The rows, whose jobs do not affect one another, are launched together (``row_jobs``), so that the machine's time goes
into pods rather than into waiting; each row is a test of its own. The tests' names are the rows of docs/faults.md, and
name the recordings.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from flargo.flare import nvflare_internals
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.real_cluster.apply import MISSING_ACCOUNT, POWERLESS_ACCOUNT
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import (
    EXITS_ON_REQUEST,
    IGNORES_SIGTERM,
    SLEEPS,
    START_SECONDS,
    Job,
    Site,
    exits,
    template_study,
)
from tests.harness.wire import Match, Wire

NOTICE_SECONDS = 20.0
"""The limit within which FLARE hears of what happens to a running job; most of it is the kubelet's and Argo's time."""
ROW_SECONDS = 150.0
"""The limit within which a job that is launched together with all other rows has ended."""


def init_container(image: str, *command: str) -> dict[str, Any]:
    """Return an init container that the Pod Security level "restricted" allows."""
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"name": "prepare", "image": image, "command": list(command), "securityContext": security}


STUDIES: dict[str, Any] = {
    "secret-env": {"secret_env": {"PASSWORD": {"source": "not-there", "key": "password"}}},
    "secret-mount": {"secret_mounts": {"keys": {"source": "not-there", "mount_path": "/etc/keys"}}},
    "claim": {"datasets": {"images": {"type": "mount", "source": "not-there", "mode": "ro"}}},
    "selector": template_study(nodeSelector={"flargo.test/node": "not-there"}),
    "host-network": template_study(hostNetwork=True),
    # A program that ignores SIGTERM uses all of its grace period.
    "short-grace": template_study(terminationGracePeriodSeconds=5),
    "account": template_study(serviceAccountName=MISSING_ACCOUNT),
    "deadline": template_study(activeDeadlineSeconds=10),
    "init-image": template_study(initContainers=[init_container("flargo.test/prepare:not-there", "true")]),
}


def studies(cluster: Cluster) -> dict[str, Any]:
    """Return all studies, including those that name something of this cluster."""
    return {
        **STUDIES,
        "init": template_study(initContainers=[init_container(cluster.target.job_image, "sh", "-c", "exit 7")]),
        "placed": template_study(nodeName=cluster.node_name),
    }


@dataclass(frozen=True)
class Row:
    """A job that does not affect other jobs, and its end."""

    name: str
    reason: Reason
    code: int
    """The return code that FLARE hears."""
    program: str = ""
    """The job's code; empty means SLEEPS."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    study: str = ""
    detail: str = ""
    """A part of the verdict's detail."""
    within: float = ROW_SECONDS


ROWS = (
    Row("exit code 0", Reason.SUCCEEDED, 0, exits(0)),
    *(Row(f"exit code {code}", Reason.PROGRAM_FAILED, 1, exits(code)) for code in (1, 3, 9, 104, 127)),
    *(Row(f"exit code {code}", Reason.PROGRAM_REPORTED, code, exits(code)) for code in (101, 102, 103)),
    Row("its own SIGKILL", Reason.PROGRAM_FAILED, 1, "import os; os.kill(os.getpid(), 9)\n"),
    Row("its own SIGTERM", Reason.PROGRAM_FAILED, 1, "import os; os.kill(os.getpid(), 15)\n"),
    Row(
        "out of memory",
        Reason.OUT_OF_MEMORY,
        104,
        "held = [b'x' * 2**20 for _ in range(1000)]\n",
        {"memory": "100Mi"},
        detail="memory limit 100Mi",
    ),
    Row("program missing", Reason.CONTAINER, 101, spec={"python_path": "/not-there"}, detail="/not-there"),
    Row("init container fails", Reason.INIT_FAILED, 101, study="init", detail="prepare: exit code 7"),
    Row("init container's image missing", Reason.IMAGE, 101, study="init-image", detail="prepare"),
    Row("Secret of a volume missing", Reason.VOLUME, 101, study="secret-mount", detail="not-there"),
    Row("past its deadline", Reason.DEADLINE, 104, study="deadline"),
    Row("refused by its node", Reason.NODE_REFUSED, 104, spec={"cpu": "900"}, study="placed", detail="OutOfcpu"),
    Row("image missing", Reason.IMAGE, 101, spec={"image": "flargo.test/job:not-there"}, detail="not-there"),
    Row("image's name invalid", Reason.LAUNCH_FAILED, 101, spec={"image": "No Name!"}, detail="an image of at most"),
    Row("Secret of a variable missing", Reason.CONTAINER, 101, study="secret-env", detail="not-there"),
    Row("claim missing", Reason.UNSCHEDULABLE, 101, study="claim", detail="not-there"),
    Row("selects a node that is not there", Reason.UNSCHEDULABLE, 101, study="selector"),
    Row("not enough cpu, no patience", Reason.SHORTAGE, 101, spec={"cpu": "900", "pending_timeout": 0}, detail="cpu"),
    Row("not enough memory, patience ends", Reason.SHORTAGE, 101, spec={"memory": "9Ti", "pending_timeout": 5}),
    Row("no such GPU", Reason.SHORTAGE, 101, spec={"num_of_gpus": 1, "pending_timeout": 0}, detail="nvidia.com/gpu"),
    Row("against pod security", Reason.POD_REFUSED, 101, study="host-network", detail="violates PodSecurity"),
    Row("service account missing", Reason.POD_REFUSED, 101, study="account", detail="not-there"),
    Row(
        "more on disk than its limit",
        Reason.EVICTED,
        104,
        "import os, time\nwith open('/tmp/big', 'wb') as big: big.write(b'x' * 2**26)\ntime.sleep(3600)\n",
        {"ephemeral_storage": "20Mi"},
        within=180,
    ),
)


scenario = Scenarios()


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    """The site that the module's tests share."""
    with Site(cluster, studies=studies(cluster)) as shared_site:
        yield shared_site


def test_quota_exceeded_and_lifted(site: Site, cluster: Cluster) -> None:
    with cluster.apply_quota("flargo-test", pods="0"):
        job = site.launch(exits(0)).expect_stage(Stage.QUOTA)
        time.sleep(5)
        assert job.launched_job.verdict is None
    job.expect_end(Reason.SUCCEEDED, 0, within=START_SECONDS)
    job.expect_nothing_left()


def test_quota_exceeded_for_too_long(cluster: Cluster) -> None:
    with Site(cluster, argo={"quota": 5}) as impatient:
        with cluster.apply_quota("flargo-test", pods="0"):
            job = impatient.launch(SLEEPS).expect_stage(Stage.QUOTA)
            job.expect_end(Reason.QUOTA, 101, within=25)
        job.expect_nothing_left()
        assert job.pods == []


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, site: Site, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    with (
        Site(cluster, role=Role.SERVER) as server,
        Together(scenario, request, cluster, site=site, server=server) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def row_jobs(site: Site) -> dict[str, Job]:
    """Launch all rows' jobs, and return them by the rows' names."""
    return {
        row.name: site.launch(row.program or SLEEPS, row.spec, **({"study": row.study} if row.study else {}))
        for row in ROWS
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_end(row_jobs: dict[str, Job], row: Row) -> None:
    job = row_jobs[row.name]
    job.expect_end(row.reason, row.code, within=row.within)
    assert row.detail in verdict_of(job).detail
    job.expect_nothing_left()


def verdict_of(job: Job) -> Verdict:
    """Return what FLARE hears, and why."""
    assert job.launched_job.verdict is not None
    return job.launched_job.verdict


def test_quota_on_workflows(site: Site, cluster: Cluster) -> None:
    with cluster.apply_quota("flargo-test", **{"count/workflows.argoproj.io": "0"}):
        job = site.launch(SLEEPS)
        job.expect_end(Reason.LAUNCH_FAILED, 101, NOTICE_SECONDS)
        assert "exceeded quota" in verdict_of(job).detail
        job.expect_nothing_left()


@scenario.variants(workflows={"kind": "workflows"}, pods={"kind": "pods"})
def denied_by_an_admission_policy(cluster: Cluster, kind: str) -> None:
    with Site(cluster) as denied_site, cluster.deny(kind, denied_site.federation):
        job = denied_site.launch(SLEEPS)
        job.expect_end(Reason.LAUNCH_FAILED if kind == "workflows" else Reason.POD_REFUSED, 101, NOTICE_SECONDS)
        assert "not on a Tuesday" in verdict_of(job).detail
        job.expect_nothing_left()


@scenario
def slow_to_start_for_want_of_a_secret(cluster: Cluster) -> None:
    """The start timeout ends before the events are bad enough to prove that the pod can never start."""
    with Site(cluster, studies=STUDIES, argo={"starting": 12}) as impatient:
        job = impatient.launch(SLEEPS, study="secret-mount").expect_stage(Stage.STARTING)
        job.expect_end(Reason.START_TIMEOUT, 101, within=60)
        job.expect_nothing_left()


@scenario.variants(
    pulling={"reason": Reason.PULLING, "patience": {"argo": {"pulling": 5}}},
    timeout={"reason": Reason.TIMEOUT, "patience": {"timeout": 30}},
)
def registry_never_answers(cluster: Cluster, reason: Reason, patience: Mapping[str, Any]) -> None:
    with Site(cluster, studies=STUDIES, **patience) as impatient:
        with cluster.silent_registry() as image:
            job = impatient.launch(SLEEPS, {"image": image}, study="short-grace").expect_stage(Stage.PULLING)
            eventually(lambda: are_pods_being_deleted(job), 60, "its pod is being deleted")
        # The kubelet finishes a pull that it has begun, even for a deleted pod: the registry has to close first.
        job.expect_end(reason, 101, NOTICE_SECONDS)
        assert image in verdict_of(job).detail
        job.expect_nothing_left()


def are_pods_being_deleted(job: Job) -> bool:
    return all("deletionTimestamp" in pod["metadata"] for pod in job.pods)


@scenario
def executor_without_rights_does_not_spoil_a_success(cluster: Cluster) -> None:
    """Argo then sets the phase Error, though the program has succeeded."""
    meta = {"name": POWERLESS_ACCOUNT, "namespace": cluster.target.namespace}
    token = {
        "name": f"{meta['name']}.service-account-token",
        "namespace": meta["namespace"],
        "annotations": {"kubernetes.io/service-account.name": meta["name"]},
    }
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    try:
        kind = "kubernetes.io/service-account-token"
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": token, "type": kind})
        with Site(cluster, argo={"executor_service_account": meta["name"]}) as powerless:
            job = powerless.launch(exits(0))
            job.expect_end(Reason.SUCCEEDED, 0, within=START_SECONDS)
            job.expect_nothing_left()
            assert job.workflow["status"]["phase"] == "Error"
    finally:
        cluster.kubectl("delete", "serviceaccount", meta["name"])


# --- evictions, deletions, and Argo's commands


@scenario
def evicted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(SLEEPS, study="short-grace").expect_running()
    cluster.evict(job.pod)
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def evicted_and_deaf(site: Site, cluster: Cluster) -> None:
    """The eviction sets the pod's grace period: the kubelet does not shorten it for a later deletion."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS, study="short-grace").expect_running()
    cluster.evict(job.pod)
    job.expect_end(Reason.DISRUPTED, 104, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def pod_deleted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(SLEEPS, study="short-grace").expect_running()
    cluster.delete("pod", job.pod)
    job.expect_end(Reason.POD_DELETED, 104, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def pod_deleted_as_soon_as_it_is_there(site: Site, cluster: Cluster) -> None:
    """Argo's status lags: Argo may create another pod. It is the job's if the first one's program has not begun."""
    job = site.launch(SLEEPS)
    eventually(lambda: job.pods, START_SECONDS, "its pod exists")
    first = job.pods[0]
    cluster.delete("pod", first)

    def goes_on() -> bool:
        is_replaced = all(pod["metadata"]["uid"] != first["metadata"]["uid"] for pod in job.pods)
        current = job.launched_job
        return is_replaced and current.stage is Stage.RUNNING and not current.is_stopping

    eventually(lambda: job.launched_job.verdict is not None or goes_on(), START_SECONDS, "it ends or goes on")
    if job.launched_job.verdict is None:
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        job.expect_nothing_left()
        return
    assert verdict_of(job).reason in {Reason.POD_DELETED, Reason.RUN_TWICE}
    assert job.handle.poll() == 104
    job.expect_nothing_left()


@scenario
def workflow_deleted_while_it_runs(site: Site, cluster: Cluster) -> None:
    job = site.launch(SLEEPS, study="short-grace").expect_running()
    cluster.delete("workflows.argoproj.io", job.workflow)
    job.expect_end(Reason.WORKFLOW_DELETED, 104, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def workflow_deleted_and_deaf(site: Site, cluster: Cluster) -> None:
    job = site.launch(IGNORES_SIGTERM + SLEEPS, study="short-grace").expect_running()
    cluster.delete("workflows.argoproj.io", job.workflow)
    job.expect_end(Reason.WORKFLOW_DELETED, 104, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario.variants(
    terminate={"word": "terminate", "code": SLEEPS},
    terminate_deaf={"word": "terminate", "code": IGNORES_SIGTERM + SLEEPS},
    stop={"word": "stop", "code": SLEEPS},
    stop_deaf={"word": "stop", "code": IGNORES_SIGTERM + SLEEPS},
)
def argo_by_hand(site: Site, cluster: Cluster, word: str, code: str) -> None:
    job = site.launch(code).expect_running()
    cluster.argo(word, job.name)
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


# --- through FLARE


@scenario.variants(heeds={"code": SLEEPS}, deaf={"code": IGNORES_SIGTERM + SLEEPS})
def abort_while_it_runs(site: Site, code: str) -> None:
    job = site.launch(code).expect_running()
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def abort_while_pending(site: Site) -> None:
    job = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def cleanup_by_the_heartbeat(site: Site) -> None:
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    job.cleanup()
    job.expect_end(Reason.CLEANED_UP, 1, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def abort_from_ten_threads(site: Site) -> None:
    job = site.launch(SLEEPS).expect_running()
    with ThreadPoolExecutor(10) as threads:
        for call in [threads.submit(job.abort) for _ in range(10)]:
            call.result()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.abort()
    assert job.handle.poll() == 9
    job.expect_nothing_left()


@scenario
def abort_after_the_end(site: Site) -> None:
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    for _ in range(3):
        job.abort()
    job.expect_nothing_left()
    assert job.handle.poll() == 0
    assert job.workflow["status"]["phase"] == "Succeeded"


@scenario
def abort_before_the_create(site: Site, wire: Wire) -> None:
    wire.delay(Match("get", "secrets"), 3)
    job = site.launch(SLEEPS)
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert not [each for each in wire.requests if (each.verb, each.resource) == ("create", "workflows")]


@scenario
def abort_during_the_create(site: Site, wire: Wire) -> None:
    delay = wire.delay(Match("create", "workflows"), 3)
    job = site.launch(SLEEPS)
    eventually(lambda: delay.hits, 10, "the create request is on its way")
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert job.workflows == []


@scenario
def abort_with_the_answer_to_the_create_lost(site: Site, wire: Wire) -> None:
    fault = wire.lose_reply(Match("create", "workflows"), times=float("inf"))
    job = site.launch(SLEEPS)
    eventually(lambda: fault.hits, 10, "the Workflow was created")
    job.abort()
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert job.workflows == []


# --- the parent ends


@scenario
def parent_is_shut_down(cluster: Cluster) -> None:
    with Site(cluster) as own_site:
        job = own_site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
        start = time.monotonic()
        own_site.shut_down()
        assert time.monotonic() - start < 20
        job.expect_end(Reason.PARENT_ENDED, 104, within=1)
        job.expect_nothing_left()


@scenario
def parent_is_killed_and_comes_back(site: Site, cluster: Cluster) -> None:
    """The jobs of the killed parent are ended, and no other parent's."""
    other = site.launch(EXITS_ON_REQUEST).expect_running()
    with Site(cluster) as killed_site:
        running = killed_site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
        pending = killed_site.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        killed_site.restart_parent()
        for job in (running, pending):
            cluster.wait_until_clear(job.id, job.name, within=30)
        relaunched = killed_site.launch(exits(0), job_id=running.id)
        relaunched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    other.exit_program(0)
    other.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    other.expect_nothing_left()


# --- Argo's own container


@scenario
def argos_container_hangs_when_the_program_has_ended(site: Site, cluster: Cluster) -> None:
    if cluster.target.is_external:
        pytest.skip("the node's processes are out of reach")
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    for pid, command in cluster.pod_processes(job.name).items():
        if b"argoexec\0wait" in command:
            os.kill(pid, signal.SIGSTOP)
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left(within=120)


# --- a Workflow of the same name


@scenario
def launched_again_after_its_end(site: Site) -> None:
    first = site.launch(exits(3))
    first.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    first.expect_nothing_left()
    uid = first.workflow["metadata"]["uid"]
    second = site.launch(exits(0), job_id=first.id)
    second.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    second.expect_nothing_left()
    assert second.workflow["metadata"]["uid"] != uid


@scenario
def name_taken_by_a_living_workflow_of_somebody_else(site: Site, cluster: Cluster) -> None:
    job_id = str(uuid.uuid4())
    name = nvflare_internals.pod_name(nvflare_internals.job_key(job_id), site.name)
    container = {"image": cluster.target.job_image, "command": ["true"]}
    cluster.create(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": name, "namespace": cluster.target.namespace},
            "spec": {"suspend": True, "entrypoint": "x", "templates": [{"name": "x", "container": container}]},
        }
    )
    try:
        job = site.launch(SLEEPS, job_id=job_id)
        job.expect_end(Reason.LAUNCH_FAILED, 101, NOTICE_SECONDS)
        assert name in verdict_of(job).detail
        eventually(lambda: not job.is_followed, 20, "the launcher releases the job")
        assert "shutdown" not in cluster.workflow(name)["spec"]
    finally:
        cluster.kubectl("delete", "workflows.argoproj.io", name)


# --- a server's launch


@scenario
def servers_launch_returns_when_its_process_runs(server: Site) -> None:
    job = server.launch(EXITS_ON_REQUEST)
    assert not job.is_launched(0.5)
    job.expect_running()
    assert job.is_launched(2)
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def abort_while_a_servers_launch_blocks(server: Site) -> None:
    """FLARE has no handle yet: only the job's stored status says that it is aborted."""
    job = server.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    assert not job.is_launched(0.5)
    server.jobs.status[job.id] = "FINISHED:ABORTED"
    assert job.is_launched(10)
    job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def servers_job_without_room_fails_within_its_bound(cluster: Cluster) -> None:
    """Even without a pending_timeout: FLARE's server launches one job at a time, and each launch blocks the next."""
    with Site(cluster, role=Role.SERVER, pending_timeout=None, argo={"server_pending": 5}) as server:
        job = server.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        assert not job.is_launched(0.5)
        with pytest.raises(RuntimeError, match=r"was not started: SHORTAGE: .*argo\.server_pending"):
            job.is_launched(START_SECONDS)
        cluster.wait_until_clear(job.id, job.name)


@scenario
def servers_launch_returns_when_the_job_cannot_start(server: Site) -> None:
    job = server.launch(SLEEPS, {"image": "flargo.test/job:not-there"})
    assert job.is_launched(START_SECONDS)
    job.expect_end(Reason.IMAGE, 101, NOTICE_SECONDS)
    job.expect_nothing_left()


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
