"""Tests of real federations on a real cluster: the server and sites are processes, and Argo runs every job pod."""

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nvflare.fuel.flare_api.api_spec import InternalError

from tests.harness import job_folders
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.federation import Federation, argo_launcher
from tests.harness.federation_checks import (
    GONE_SECONDS,
    IGNORES_SIGTERM,
    PARTIES,
    SETTLE_SECONDS,
    assert_flare_status_is_noted,
    assert_not_started,
    assert_orphan_ended,
    assert_progress_is_noted,
    submit_raising_job,
)
from tests.harness.real_cluster import audit
from tests.harness.real_cluster.target import Target

MAX_REQUESTS = 9
"""API requests that one process of a job may cost, however long it runs, not counting its site's two watches and Lease.
The ninth notes on the Workflow that its credentials are deleted, which spares the parent's next run a read and a
delete."""
SERVER_REQUESTS = 4
"""API requests that the server's process costs beside these: FLARE's final status and each of the three rounds are
noted on its Workflow. The reads of its log come by time, and are not counted."""


def federation(target: Target, sites: tuple[str, ...] = ("site-1", "site-2")) -> Federation:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    launcher = argo_launcher(root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace)
    return Federation(root, sites=sites, launcher=launcher, host=target.address)


@pytest.fixture(scope="module")
def fed(target: Target) -> Iterator[Federation]:
    """A federation that the tests of this module share."""
    with federation(target) as running_federation:
        yield running_federation
    shutil.rmtree(running_federation.root, ignore_errors=True)


def job_path(fed: Federation, name: str) -> Path:
    """Return the path for a job's folder, where nothing exists yet."""
    path = fed.root / "jobs" / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    return path


def assert_completed(fed: Federation, cluster: Cluster, job_id: str, rounds: int = 3) -> None:
    """Assert that a job completes with the right weights, and that its Workflows succeed."""
    assert fed.wait(job_id) == "FINISHED:COMPLETED"
    np.testing.assert_allclose(fed.weights(job_id), job_folders.fedavg_expected(rounds, fed.sites), rtol=1e-6)
    eventually(
        lambda: (
            {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()}
            == dict.fromkeys(fed.names, "Succeeded")
        ),
        SETTLE_SECONDS,
        "a Workflow Succeeded for each party",
    )


def startup_secrets(cluster: Cluster, job_id: str) -> list[str]:
    """Return the names of the Secrets with the startup kits of the job's federation."""
    federation = cluster.workflows(job_id)["server"]["metadata"]["labels"]["flargo.dev/federation"]
    return [name for name in cluster.secrets("nvflare-startup-") if name.endswith(federation)]


def test_fedavg_completes_twice(fed: Federation, cluster: Cluster, target: Target) -> None:
    """Both jobs have the right weights, leave no credentials and stay within the budget of API requests."""
    for name in ("first", "second"):
        mark = audit.mark(target.audit_log) if target.audit_log else 0
        job_id = fed.submit(job_folders.fedavg(job_path(fed, name), image=target.job_image))
        assert_completed(fed, cluster, job_id)
        assert cluster.secrets("nvflare-cred-") == []
        for workflow in cluster.workflows(job_id).values():
            assert len(workflow["status"]["nodes"]) == 1
        for pod in cluster.pods(job_id):
            assert pod["metadata"]["ownerReferences"][0]["kind"] == "Workflow"
        assert_progress_is_noted(cluster, job_id, "3/3")
        if target.audit_log:
            counts = audit.count_by_user(":flargo-launcher", target.audit_log, mark)
            of_jobs = {
                (verb, what): times
                for (verb, what), times in counts.items()
                if verb != "watch" and what != "leases" and (verb, what) != ("get", "pods/log")
            }
            assert sum(of_jobs.values()) <= MAX_REQUESTS * len(PARTIES) + SERVER_REQUESTS, of_jobs
    assert len(startup_secrets(cluster, job_id)) == len(PARTIES)


def test_flare_status_of_a_script_that_raises(fed: Federation, cluster: Cluster, target: Target) -> None:
    """FLARE's processes exit with 0, so the Workflows succeed."""
    job_id = submit_raising_job(fed, job_path(fed, "raises"), target.job_image)
    assert_flare_status_is_noted(fed, cluster, job_id)


def test_federations_in_one_namespace_are_independent(fed: Federation, cluster: Cluster, target: Target) -> None:
    # The other federation is small: eleven FLARE processes are a lot for two cores. Its site has the same name as one
    # of the first federation.
    with federation(target, sites=("site-1",)) as other, ThreadPoolExecutor() as both:
        job_ids = {
            each: each.submit(
                job_folders.fedavg(
                    job_path(each, f"of-{rounds}"), image=target.job_image, rounds=rounds, sites=each.sites
                )
            )
            for each, rounds in ((fed, 2), (other, 4))
        }
        checks = [
            both.submit(assert_completed, each, cluster, job_ids[each], rounds)
            for each, rounds in ((fed, 2), (other, 4))
        ]
        for check in checks:
            check.result()
    shutil.rmtree(other.root, ignore_errors=True)
    assert set(startup_secrets(cluster, job_ids[fed])).isdisjoint(startup_secrets(cluster, job_ids[other]))


def assert_aborted(fed: Federation, cluster: Cluster, job_id: str) -> None:
    """Assert that FLARE reports an abort, and that nothing of the job runs, in the API or on the node."""
    eventually(lambda: not cluster.processes(job_id), GONE_SECONDS, "the job's processes are gone from the node")
    assert fed.wait(job_id, 60) == "FINISHED:ABORTED"
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")
    eventually(lambda: not cluster.secrets("nvflare-cred-"), SETTLE_SECONDS, "no credentials are left")


def submit_ignoring_sigterm(fed: Federation, cluster: Cluster, target: Target, name: str) -> str:
    """Submit a job whose processes all ignore SIGTERM, and wait until each of them says so."""
    code = f"{IGNORES_SIGTERM}import time\ntime.sleep(3600)\n"
    job_id = fed.submit(
        job_folders.script(job_path(fed, name), image=target.job_image, code=code, server_code=IGNORES_SIGTERM)
    )
    eventually(
        lambda: sum("SIGTERM is ignored now" in cluster.log(pod) for pod in cluster.pods(job_id)) == len(PARTIES),
        2 * SETTLE_SECONDS,
        "all processes ignore SIGTERM",
    )
    assert len(cluster.processes(job_id)) >= len(PARTIES)
    return job_id


def test_abort_kills_processes_that_ignore_sigterm(fed: Federation, cluster: Cluster, target: Target) -> None:
    job_id = submit_ignoring_sigterm(fed, cluster, target, "ignores-sigterm")
    fed.abort(job_id)
    assert_aborted(fed, cluster, job_id)


def test_abort_while_a_clients_pod_is_pending(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"site-1": {"cpu": "1000", "pending_timeout": None}}
    job_id = fed.submit(job_folders.fedavg(job_path(fed, "pending"), image=target.job_image, launcher_spec_extra=extra))
    fed.wait_status(job_id, "RUNNING")
    eventually(lambda: len(cluster.unfinished_pods(job_id)) == len(PARTIES), 60, "all pods exist, one of them pending")
    fed.abort(job_id)
    assert_aborted(fed, cluster, job_id)


def test_abort_while_the_servers_launch_blocks(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"server": {"cpu": "1000", "pending_timeout": None}}
    job_id = fed.submit(job_folders.fedavg(job_path(fed, "blocked"), image=target.job_image, launcher_spec_extra=extra))
    eventually(lambda: cluster.unfinished_pods(job_id), 60, "the server's pod exists")
    assert fed.status(job_id) == "DISPATCHED"
    fed.abort(job_id)
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the server's pod is gone")
    assert_aborted(fed, cluster, job_id)


def test_unschedulable_server_job_starts_no_client(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"server": {"cpu": "1000", "pending_timeout": 3}}
    job_id = fed.submit(
        job_folders.fedavg(job_path(fed, "unplaced"), image=target.job_image, launcher_spec_extra=extra)
    )
    assert_not_started(fed, cluster, job_id)


UNKNOWN_PROCESS_SECONDS = 30.0
"""Seconds for which a server's job process waits until its parent knows it (nvflare's
sync_clients_from_main_process)."""


def has_started_container(pod: Object) -> bool:
    """Return whether a pod's first container has started: its node then has everything that it needs to run the pod."""
    return any("waiting" not in row["state"] for row in pod["status"].get("initContainerStatuses", []))


def test_job_survives_frozen_api_server(fed: Federation, cluster: Cluster, target: Target) -> None:
    """A healthy job completes although the API server freezes while the server's process starts."""
    if target.is_external:
        pytest.skip("the API server of a cluster of one's own cannot be frozen")
    job_id = fed.submit(job_folders.fedavg(job_path(fed, "stall"), image=target.job_image, rounds=1))
    eventually(
        lambda: any(has_started_container(pod) for pod in cluster.pods(job_id)),
        SETTLE_SECONDS,
        "its pod no longer needs the API server",
    )
    with cluster.freeze("kube-apiserver"):
        assert fed.status(job_id) == "DISPATCHED", "the launch has not returned"
        fed.wait_status(job_id, "RUNNING", UNKNOWN_PROCESS_SECONDS)
        time.sleep(UNKNOWN_PROCESS_SECONDS)
    assert_completed(fed, cluster, job_id, rounds=1)


@pytest.mark.parametrize("site", ["server", "site-1"])
def test_argo_terminate_aborts_the_job(fed: Federation, cluster: Cluster, target: Target, site: str) -> None:
    """`argo terminate` ends even processes that ignore SIGTERM, and FLARE aborts the job."""
    job_id = submit_ignoring_sigterm(fed, cluster, target, f"outside-{site}")
    name = cluster.workflows(job_id)[site]["metadata"]["name"]
    before = len(cluster.processes(job_id))
    cluster.argo("terminate", name)
    eventually(
        lambda: len(cluster.processes(job_id)) < before, GONE_SECONDS, f"the process of {site} is gone from the node"
    )
    assert fed.wait(job_id, 60) == "FINISHED:ABORTED"
    assert_aborted(fed, cluster, job_id)


def test_restarted_server_ends_its_orphans(fed: Federation, cluster: Cluster, target: Target) -> None:
    """A killed server's next run ends what the killed one left running, and no other parent does."""
    name = "server"
    job_id = submit_ignoring_sigterm(fed, cluster, target, f"orphan-{name}")
    before = len(cluster.processes(job_id))
    fed.stop(name, signal.SIGKILL)
    assert len(cluster.processes(job_id)) == before, "the job did not outlive its parent"
    others = set(PARTIES) - {name}
    fed.start(name)
    assert_orphan_ended(cluster, job_id, name, SETTLE_SECONDS)
    eventually(lambda: len(cluster.processes(job_id)) < before, GONE_SECONDS, "its process is gone from the node")
    assert "left behind by another run" in fed.log(name)
    fed.wait_ready()
    for each in others:
        cluster.kubectl(
            "delete", "workflows.argoproj.io", f"--selector=flargo.dev/job-id={job_id},flargo.dev/site={each}"
        )
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the other sites' pods are gone")


def test_script_that_raises_fails_the_job(fed: Federation, cluster: Cluster, target: Target) -> None:
    """The job's status is the one that it has with FLARE's own launchers."""
    code = "raise RuntimeError('no such scanner')\n"
    job_id = fed.submit(job_folders.script(job_path(fed, "raises"), image=target.job_image, code=code))
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_out_of_memory_is_abnormal_and_explained(fed: Federation, cluster: Cluster, target: Target) -> None:
    job_id = fed.submit(
        job_folders.script(
            job_path(fed, "memory"),
            image=target.job_image,
            code={"site-1": job_folders.allocate(2000)},
            launcher_spec_extra={"site-1": {"memory": "600Mi"}},
        )
    )
    assert fed.wait(job_id) == "FINISHED:ABNORMAL"
    assert "OOMKilled" in cluster.workflows(job_id)["site-1"]["status"]["message"]
    lines = [line for line in fed.log("site-1").splitlines() if job_id in line and "OUT_OF_MEMORY" in line]
    assert len(lines) == 1
    assert "memory limit 600Mi" in lines[0]
    assert "OUT_OF_MEMORY (104)" in error_log(fed, job_id, "site-1"), "the researcher's log lacks the reason"


def error_log(fed: Federation, job_id: str, site: str) -> str:
    """Return FLARE's error log of a site, which the server stores for the researcher."""

    def fetch() -> Path | None:
        try:
            log = fed.components(job_id) / f"ERRORLOG_{site}"
        except InternalError:  # FLARE raises this as long as no component has arrived
            return None
        return log if log.exists() else None

    eventually(fetch, SETTLE_SECONDS, f"the error log of {site} arrives")
    path = fetch()
    assert path is not None
    return path.read_text()


def outcome(fed: Federation, job_id: str) -> dict[str, object]:
    """Return the server's outcome file, as the researcher downloads it."""
    content: dict[str, object] = json.loads((fed.download(job_id) / "workspace" / "argo_outcome.json").read_text())
    return content


def test_researcher_downloads_reason_and_log_tail(fed: Federation, cluster: Cluster, target: Target) -> None:
    """The researcher downloads the reason for a server's failure and the end of its log."""
    code = "import os\nprint('last words', flush=True)\nos._exit(3)\n"
    job_id = fed.submit(
        job_folders.script(
            job_path(fed, "server-fails"), image=target.job_image, code=job_folders.training(), server_code=code
        )
    )
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    report = outcome(fed, job_id)
    assert (report["reason"], report["code"], report["exit_code"]) == ("PROGRAM_FAILED", 1, 3)
    tail = (fed.download(job_id) / "workspace" / "argo_log_tail.txt").read_text()
    assert "last words" in tail
    assert "NVFLARE_JOB_AUTH_TOKEN" not in tail
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_server_launch_failure_reaches_the_researcher(fed: Federation, target: Target) -> None:
    extra = {"server": {"memory": "lots"}}
    job_id = fed.submit(job_folders.fedavg(job_path(fed, "refused"), image=target.job_image, launcher_spec_extra=extra))
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    report = outcome(fed, job_id)
    assert report["reason"] == "LAUNCH_FAILED"
    assert "launcher_spec['server']['k8s']['memory']" in str(report["detail"])
    assert "'lots'" in str(report["detail"])


def test_site_launch_failure_reaches_the_researcher(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"site-1": {"cpu": "-3"}}
    job_id = fed.submit(
        job_folders.fedavg(job_path(fed, "refused-1"), image=target.job_image, launcher_spec_extra=extra)
    )
    # The status depends on whether FLARE is still starting the other sites when this one reports.
    assert fed.wait(job_id) in {"FINISHED:EXECUTION_EXCEPTION", "FINISHED:FAILED_TO_RUN"}
    assert "LAUNCH_FAILED (101)" in error_log(fed, job_id, "site-1")
    assert "'-3'" in error_log(fed, job_id, "site-1")
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_argos_commands_list_log_and_terminate(fed: Federation, cluster: Cluster, target: Target) -> None:
    job_id = fed.submit(job_folders.fedavg(job_path(fed, "findable"), image=target.job_image, pause=20, rounds=1))
    eventually(lambda: len(cluster.processes(job_id)) >= len(PARTIES), SETTLE_SECONDS, "all three processes run")
    names = cluster.argo("list", "--selector", f"flargo.dev/job-id={job_id}", "--output=name").splitlines()
    assert sorted(names) == sorted(item["metadata"]["name"] for item in cluster.workflows(job_id).values())
    client = cluster.workflows(job_id)["site-1"]
    assert "findable" in client["metadata"]["annotations"]["workflows.argoproj.io/title"]
    eventually(
        lambda: "site-1" in cluster.argo("logs", client["metadata"]["name"], "--container=main"),
        SETTLE_SECONDS,
        "argo logs prints the job's log",
    )
    cluster.argo("terminate", client["metadata"]["name"])
    assert_aborted(fed, cluster, job_id)
