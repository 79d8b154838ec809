"""The fault matrix, where people do to Workflows and pods what Argo's UI and kubectl offer.

Suspend, Retry and Resubmit are done by argo's command line, which changes the same objects as the UI's buttons.
"""

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from flargo.control.launched_job import LaunchedJob
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from tests.harness.cluster import Cluster, eventually, has_ended, may_run
from tests.harness.faults.matrix import NOTICE_SECONDS, verdict_of
from tests.harness.real_cluster.apply import MISSING_ACCOUNT
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import (
    EXITS_ON_REQUEST,
    IGNORES_SIGTERM,
    SLEEPS,
    START_SECONDS,
    TURN_SECONDS,
    Job,
    Site,
    exits,
    template_study,
)
from tests.harness.wire import Match, Request, Wire

Object = dict[str, Any]
FOREVER = float("inf")
MAX_ENDING_PATCHES = 8
"""The limit of patches with which a suspended Workflow is ended: each is repeated only if it shows no effect."""
REFUSED_SECONDS = 60.0
"""The limit within which a program is dead although every shutdown of its Workflow is refused."""

scenario = Scenarios()


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    with Site(cluster) as site, Together(scenario, request, cluster, site=site) as running:
        yield running


class LogLines(logging.Handler):
    """The lines that flargo logs, until the end of its ``with``."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger("flargo").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("flargo").removeHandler(self)

    def about(self, name: str) -> list[str]:
        """Return the lines that name a Workflow."""
        return [line for line in self.lines if name in line]


def conclude(launched: LaunchedJob, within: float) -> Verdict:
    """Wait for a job's verdict, and return it."""
    assert launched.wait(lambda current: current.verdict is not None, within), f"no verdict within {within} s"
    assert launched.verdict is not None
    return launched.verdict


# --- Suspend


@contextlib.contextmanager
def semaphore(cluster: Cluster, limit: int) -> Iterator[dict[str, Any]]:
    """Create a semaphore, and yield the settings of a site whose jobs need it."""
    name = f"flargo-test-{secrets.token_hex(4)}"
    meta = {"name": name, "namespace": cluster.target.namespace}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"jobs": str(limit)}})
    try:
        yield {"semaphore": {"name": name, "key": "jobs"}, "queued": 300}
    finally:
        cluster.kubectl("delete", "configmap", name)


def patches(wire: Wire, name: str) -> int:
    """Return how many patches of a Workflow a launcher has sent."""
    return sum((each.verb, each.resource, each.name) == ("patch", "workflows", name) for each in wire.requests)


@scenario.variants(
    exits_0={"code": 0, "reason": Reason.SUCCEEDED, "return_code": 0},
    exits_3={"code": 3, "reason": Reason.PROGRAM_FAILED, "return_code": 1},
    aborted={"code": None, "reason": Reason.ABORTED, "return_code": 9},
)
def suspended_while_it_runs(cluster: Cluster, code: int | None, reason: Reason, return_code: int) -> None:
    """Argo never completes a suspended Workflow, shut down or not, and gives back no lock: the next job waits for it.

    Such a job was never cleared, and its Workflow was patched every five seconds for ever.
    """
    with (
        semaphore(cluster, 1) as queue,
        Wire(cluster.target.launcher_kubeconfig) as wire,
        Site(cluster, wire=wire, argo=queue) as site,
    ):
        job = site.launch(EXITS_ON_REQUEST).expect_running()
        cluster.argo("suspend", job.name)
        time.sleep(5)
        job.expect_stage(Stage.RUNNING)
        before = patches(wire, job.name)
        waiting = site.launch(exits(0)).expect_stage(Stage.QUEUED)
        if code is None:
            job.abort()
        else:
            job.exit_program(code)
        job.expect_end(reason, return_code, NOTICE_SECONDS)
        job.expect_nothing_left()
        assert patches(wire, job.name) - before <= MAX_ENDING_PATCHES
        waiting.expect_end(Reason.SUCCEEDED, 0, TURN_SECONDS)
        waiting.expect_nothing_left()


# --- Retry and Resubmit


def expect_ended(job: Job, logs: LogLines, name: str) -> None:
    """Expect that what a person has started again is ended, and that flargo says so."""
    cluster = job.cluster
    eventually(lambda: not unfinished(cluster, name), START_SECONDS, f"{name} is ended")
    time.sleep(5)
    assert not unfinished(cluster, name)
    assert logs.about(name), "each such Workflow is logged"


def unfinished(cluster: Cluster, name: str) -> list[str]:
    """Describe what of a Workflow runs or may run."""
    workflows = [item for item in cluster.items("workflows.argoproj.io") if item["metadata"]["name"] == name]
    pods = cluster.items("pods", f"workflows.argoproj.io/workflow={name}")
    return [
        *(f"Workflow {item['metadata']['name']}" for item in workflows if not has_ended(item)),
        *(f"pod {pod['metadata']['name']}" for pod in pods if may_run(pod)),
    ]


def exit_pod(cluster: Cluster, name: str, code: int) -> None:
    """Make the program of a pod exit, where a job may have other pods as well."""
    write = f"echo {code} 0 > /tmp/end.new && mv /tmp/end.new /tmp/end"
    cluster.kubectl("exec", name, "--container=main", "--", "sh", "-c", write)


def resubmit(cluster: Cluster, job: Job) -> str:
    """Resubmit a job's Workflow, and return the new Workflow's name."""
    before = {item["metadata"]["name"] for item in job.workflows}
    cluster.argo("resubmit", job.name)
    eventually(lambda: {item["metadata"]["name"] for item in job.workflows} - before, 20, "the new Workflow exists")
    (name,) = {item["metadata"]["name"] for item in job.workflows} - before
    return str(name)


@scenario
def resubmitted_while_it_runs(site: Site, cluster: Cluster) -> None:
    """The copy has all of the job's labels and annotations, and its credentials: it would be a second program."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    with LogLines() as logs:
        expect_ended(job, logs, resubmit(cluster, job))
    exit_pod(cluster, job.expect_stage(Stage.RUNNING).name, 0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def resubmitted_after_its_end(site: Site, cluster: Cluster) -> None:
    """The copy's pod would wait for its credentials for ever, with its GPU."""
    job = site.launch(exits(3))
    job.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    job.expect_nothing_left()
    with LogLines() as logs:
        expect_ended(job, logs, resubmit(cluster, job))
    assert job.handle.poll() == 1


@scenario
def retried_after_its_end(site: Site, cluster: Cluster) -> None:
    """Argo deletes the failed pod and creates another one, under the same Workflow and with the same name."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()
    with LogLines() as logs:
        cluster.argo("retry", job.name)
        expect_ended(job, logs, job.name)
    assert job.handle.poll() == 1


@scenario
def resubmitted_and_retried_after_the_parent_was_restarted(cluster: Cluster) -> None:
    """The Workflow belongs to an earlier run of the parent, which has nothing to do for it until then."""
    with Site(cluster) as own_site:
        job = own_site.launch(EXITS_ON_REQUEST).expect_running()
        job.exit_program(3)
        job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
        job.expect_nothing_left()
        own_site.restart_parent()
        with LogLines() as logs:
            name = resubmit(cluster, job)
            cluster.argo("retry", job.name)
            expect_ended(job, logs, name)
            expect_ended(job, logs, job.name)


# --- a job whose old pod still exists


@scenario
def workflow_deleted_without_its_pod(site: Site, cluster: Cluster) -> None:
    """``kubectl delete --cascade=orphan`` leaves the pod without an owner, and its program running, with its GPU."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    cluster.delete_without_pods(job.workflow)
    job.expect_end(Reason.WORKFLOW_DELETED, 104, NOTICE_SECONDS)
    assert cluster.processes(job.id) == []
    job.expect_nothing_left()


@scenario
def launched_again_beside_its_old_pod(site: Site, cluster: Cluster) -> None:
    """Argo takes the old pod, which has the same name, for the new Workflow's own, and its exit for the new job's."""
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    job.expect_nothing_left()
    eventually(lambda: not job.is_followed, START_SECONDS, "the launcher releases the job")
    cluster.delete_without_pods(job.workflow)
    again = site.launch(exits(3), job_id=job.id)
    again.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
    again.expect_nothing_left()


# --- what was seen stays seen


@scenario.variants(pod={"kind": "pod"}, workflow={"kind": "workflows.argoproj.io"})
def deleted_right_after_its_exit(site: Site, wire: Wire, cluster: Cluster, kind: str) -> None:
    """The exit was observed, but the objects are gone before the fresh read that confirms it: the exit still counts."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    read = wire.delay(lambda request: (request.verb, request.resource) in READS, START_SECONDS, FOREVER)
    job.exit_program(3)
    eventually(lambda: read.hits, NOTICE_SECONDS, "the exit was observed")
    cluster.delete(kind, job.pod if kind == "pod" else job.workflow)
    eventually(lambda: not job.pods, START_SECONDS, "its pod is gone")
    read.disarm()
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()


READS = {("get", "workflows"), ("list", "pods")}
"""The requests of a fresh read."""


# --- a shutdown that is refused


def sets_shutdown(request: Request) -> bool:
    """Return whether a request shuts a Workflow down."""
    return Match("patch", "workflows")(request) and b"shutdown" in request.body


@scenario.variants(policy={"by": "policy"}, forbidden={"by": "403"}, failing={"by": "500"})
def shutdown_refused(site: Site, wire: Wire, cluster: Cluster, by: str) -> None:
    """An admission webhook is down, or the right was removed: the program is ended all the same, and FLARE hears it."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    with contextlib.ExitStack() as stack:
        if by == "policy":
            stack.enter_context(cluster.refuse_shutdowns(site.federation))
        else:
            wire.answer_with_status(sets_shutdown, int(by), times=FOREVER)
        job.abort()
        job.expect_end(Reason.ABORTED, 9, REFUSED_SECONDS)
        assert cluster.processes(job.id) == []
        job.expect_nothing_left(within=90)


# --- an executor's account that is missing


@scenario
def executors_account_missing(cluster: Cluster) -> None:
    """Argo's controller reads the account before it creates the pod, and fails the Workflow at once."""
    with Site(cluster, argo={"executor_service_account": MISSING_ACCOUNT}) as other:
        job = other.launch(SLEEPS)
        job.expect_end(Reason.POD_REFUSED, 101, NOTICE_SECONDS)
        assert MISSING_ACCOUNT in str(job.launched_job.verdict)
        assert "deploy/" in verdict_of(job).reason.remedy
        job.expect_nothing_left()


# --- a pool of nodes that is scaled to zero

POOL_LABEL = "flargo.test/pool"


def pool_studies(pool: str) -> Mapping[str, Any]:
    """Return a study whose pods need a node of a pool."""
    return {"pool": template_study(nodeSelector={POOL_LABEL: pool})}


@scenario
def pool_scaled_up_while_a_job_waits(cluster: Cluster) -> None:
    """No node fits until the autoscaler adds one; with argo.unschedulable the job waits for it."""
    pool = f"pool-{secrets.token_hex(4)}"
    with Site(cluster, studies=pool_studies(pool), argo={"unschedulable": 120}) as patient:
        job = patient.launch(exits(0), study="pool")
        eventually(lambda: job.pods, START_SECONDS, "its pod exists")
        time.sleep(8)
        assert job.launched_job.verdict is None
        with cluster.label_node(**{POOL_LABEL: pool}):
            job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        job.expect_nothing_left()


@scenario
def autoscaler_adds_a_node_after_a_while(cluster: Cluster) -> None:
    """As soon as an autoscaler says that it adds a node, the job waits as it does for room: for its pending_timeout."""
    pool = f"pool-{secrets.token_hex(4)}"
    with Site(cluster, studies=pool_studies(pool), argo={"unschedulable": 15}) as patient:
        job = patient.launch(exits(0), {"pending_timeout": 120}, study="pool")
        eventually(lambda: job.pods, START_SECONDS, "its pod exists")
        cluster.create(scale_up_event(job.pod))
        time.sleep(25)
        assert job.launched_job.verdict is None
        with cluster.label_node(**{POOL_LABEL: pool}):
            job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        job.expect_nothing_left()


def scale_up_event(pod: Object) -> Object:
    """Return the Event with which cluster-autoscaler announces a node for a pod."""
    meta, now = pod["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{secrets.token_hex(8)}", "namespace": meta["namespace"]},
        "involvedObject": {
            "kind": "Pod",
            "apiVersion": "v1",
            **{key: meta[key] for key in ("name", "namespace", "uid")},
        },
        "type": "Normal",
        "reason": "TriggeredScaleUp",
        "message": "pod triggered scale-up: [{pool 0->1 (max: 3)}]",
        "source": {"component": "cluster-autoscaler"},
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
    }


@scenario
def pool_scaled_to_zero_for_too_long(cluster: Cluster) -> None:
    pool = f"pool-{secrets.token_hex(4)}"
    with Site(cluster, studies=pool_studies(pool), argo={"unschedulable": 8}) as impatient:
        job = impatient.launch(SLEEPS, study="pool")
        start = time.monotonic()
        job.expect_end(Reason.UNSCHEDULABLE, 101, START_SECONDS)
        assert time.monotonic() - start > 7
        job.expect_nothing_left()


# --- a parent that starts where finished Workflows are kept


@scenario
def parent_starts_beside_finished_jobs(cluster: Cluster) -> None:
    """Finished Workflows without credentials are left alone: they cost no request each, and no warning each."""
    with Wire(cluster.target.launcher_kubeconfig) as wire, Site(cluster, wire=wire) as own_site:
        jobs = [own_site.launch(exits(code)) for code in (0, 3, 0)]
        for job, reason, code in zip(
            jobs, (Reason.SUCCEEDED, Reason.PROGRAM_FAILED, Reason.SUCCEEDED), (0, 1, 0), strict=True
        ):
            job.expect_end(reason, code, START_SECONDS)
            job.expect_nothing_left()
        before = len(wire.requests)
        with LogLines() as logs:
            own_site.restart_parent()
            time.sleep(8)
        requests = [each for each in wire.requests[before:] if any(job.name in each.name for job in jobs)]
        assert requests == []
        assert [line for job in jobs for line in logs.about(job.name)] == []


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
