"""Real federations on a real cluster: server and sites as processes, every job pod made by Argo for flargo."""

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
    assert_not_started,
    assert_orphan_ended,
)
from tests.harness.real_cluster import audit
from tests.harness.real_cluster.target import Target

MOST_REQUESTS = 8
"""That a job's process may cost the API server, whatever its length; watches, which a site has two of, apart."""


def federation(target: Target, sites: tuple[str, ...] = ("site-1", "site-2")) -> Federation:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    launcher = argo_launcher(root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace)
    return Federation(root, sites=sites, launcher=launcher, host=target.address)


@pytest.fixture(scope="module")
def fed(target: Target) -> Iterator[Federation]:
    """A federation that the tests of this module share."""
    with federation(target) as running:
        yield running
    shutil.rmtree(running.root, ignore_errors=True)


def write(fed: Federation, name: str) -> Path:
    """Where a job's folder goes."""
    path = fed.root / "jobs" / name
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    return path


def assert_completed(fed: Federation, cluster: Cluster, job_id: str, rounds: int = 3) -> None:
    """Done, right, and tidy."""
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
    """The startup kits' Secrets of the job's federation."""
    federation = cluster.workflows(job_id)["server"]["metadata"]["labels"]["flargo.dev/federation"]
    return [name for name in cluster.secrets("nvflare-startup-") if name.endswith(federation)]


def test_fedavg_completes_twice_with_the_right_weights_and_leaves_no_credentials(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    for name in ("first", "second"):
        mark = audit.mark(target.audit_log) if target.audit_log else 0
        job_id = fed.submit(job_folders.fedavg(write(fed, name), image=target.job_image))
        assert_completed(fed, cluster, job_id)
        assert cluster.secrets("nvflare-cred-") == []
        for workflow in cluster.workflows(job_id).values():
            assert len(workflow["status"]["nodes"]) == 1
        for pod in cluster.pods(job_id):
            assert pod["metadata"]["ownerReferences"][0]["kind"] == "Workflow"
        if target.audit_log:
            asked = audit.by(":flargo-launcher", target.audit_log, mark)
            once = {what: times for what, times in asked.items() if what[0] != "watch"}
            assert sum(once.values()) <= MOST_REQUESTS * len(PARTIES), once
    assert len(startup_secrets(cluster, job_id)) == len(PARTIES)


def test_two_federations_in_one_namespace_do_not_meet(fed: Federation, cluster: Cluster, target: Target) -> None:
    # The other one is small, for eleven FLARE processes are a lot for two cores; its site has the name of one here.
    with federation(target, sites=("site-1",)) as other, ThreadPoolExecutor() as both:
        started = {
            running: running.submit(
                job_folders.fedavg(
                    write(running, f"of-{rounds}"), image=target.job_image, rounds=rounds, sites=running.sites
                )
            )
            for running, rounds in ((fed, 2), (other, 4))
        }
        done = [
            both.submit(assert_completed, running, cluster, started[running], rounds)
            for running, rounds in ((fed, 2), (other, 4))
        ]
        for check in done:
            check.result()
    shutil.rmtree(other.root, ignore_errors=True)
    assert set(startup_secrets(cluster, started[fed])).isdisjoint(startup_secrets(cluster, started[other]))


def assert_aborted(fed: Federation, cluster: Cluster, job_id: str) -> None:
    """FLARE says so, and nothing of the job runs: not in the API, not on the node."""
    eventually(lambda: not cluster.processes(job_id), GONE_SECONDS, "the job's processes are gone from the node")
    assert fed.wait(job_id, 60) == "FINISHED:ABORTED"
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")
    eventually(lambda: not cluster.secrets("nvflare-cred-"), SETTLE_SECONDS, "no credentials are left")


def submit_deaf(fed: Federation, cluster: Cluster, target: Target, name: str) -> str:
    """A job of which no process heeds SIGTERM, once all of them have said so."""
    code = f"{IGNORES_SIGTERM}import time\ntime.sleep(3600)\n"
    job_id = fed.submit(
        job_folders.script(write(fed, name), image=target.job_image, code=code, server_code=IGNORES_SIGTERM)
    )
    eventually(
        lambda: sum("deaf now" in cluster.log(pod) for pod in cluster.pods(job_id)) == len(PARTIES),
        2 * SETTLE_SECONDS,
        "all are deaf",
    )
    assert len(cluster.processes(job_id)) >= len(PARTIES)
    return job_id


def test_abort_while_training_kills_even_what_ignores_sigterm(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    job_id = submit_deaf(fed, cluster, target, "deaf")
    fed.abort(job_id)
    assert_aborted(fed, cluster, job_id)


def test_abort_while_a_clients_pod_is_pending(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"site-1": {"cpu": "1000", "pending_timeout": None}}
    job_id = fed.submit(job_folders.fedavg(write(fed, "pending"), image=target.job_image, launcher_spec_extra=extra))
    fed.wait_status(job_id, "RUNNING")
    eventually(
        lambda: len(cluster.unfinished_pods(job_id)) == len(PARTIES), 60, "all pods are there, one of them pending"
    )
    fed.abort(job_id)
    assert_aborted(fed, cluster, job_id)


def test_abort_while_the_servers_launch_blocks(fed: Federation, cluster: Cluster, target: Target) -> None:
    extra = {"server": {"cpu": "1000", "pending_timeout": None}}
    job_id = fed.submit(job_folders.fedavg(write(fed, "blocked"), image=target.job_image, launcher_spec_extra=extra))
    eventually(lambda: cluster.unfinished_pods(job_id), 60, "the server's pod is there")
    assert fed.status(job_id) == "DISPATCHED"
    fed.abort(job_id)
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the server's pod is gone")
    assert_aborted(fed, cluster, job_id)


def test_a_servers_job_without_a_place_fails_before_any_client_starts(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    extra = {"server": {"cpu": "1000", "pending_timeout": 3}}
    job_id = fed.submit(job_folders.fedavg(write(fed, "unplaced"), image=target.job_image, launcher_spec_extra=extra))
    assert_not_started(fed, cluster, job_id)


UNKNOWN = 30.0
"""Seconds that a server's job process puts up with being unknown (nvflare's sync_clients_from_main_process)."""


def is_prepared(pod: Object) -> bool:
    """Whether its node has all that it needs to run a pod: the first container runs, or has."""
    return any("waiting" not in row["state"] for row in pod["status"].get("initContainerStatuses", []))


def test_an_api_that_stalls_while_the_servers_process_starts_costs_no_healthy_job(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    if target.own:
        pytest.skip("the API server is not ours to freeze")
    job_id = fed.submit(job_folders.fedavg(write(fed, "stall"), image=target.job_image, rounds=1))
    eventually(
        lambda: any(is_prepared(pod) for pod in cluster.pods(job_id)), SETTLE_SECONDS, "its pod needs the API no more"
    )
    with cluster.freeze("kube-apiserver"):
        assert fed.status(job_id) == "DISPATCHED", "its launch goes on"
        fed.wait_status(job_id, "RUNNING", UNKNOWN)
        time.sleep(UNKNOWN)
    assert_completed(fed, cluster, job_id, rounds=1)


@pytest.mark.parametrize("site", ["server", "site-1"])
def test_argo_terminate_from_outside_is_an_abort_even_of_what_ignores_sigterm(
    fed: Federation, cluster: Cluster, target: Target, site: str
) -> None:
    job_id = submit_deaf(fed, cluster, target, f"outside-{site}")
    name = cluster.workflows(job_id)[site]["metadata"]["name"]
    before = len(cluster.processes(job_id))
    cluster.argo("terminate", name)
    eventually(
        lambda: len(cluster.processes(job_id)) < before, GONE_SECONDS, f"the process of {site} is gone from the node"
    )
    assert fed.wait(job_id, 60) == "FINISHED:ABORTED"
    assert_aborted(fed, cluster, job_id)


@pytest.mark.parametrize("name", ["site-1", "server"])
def test_what_a_killed_parent_left_running_is_ended_by_its_next_run_and_nobody_elses(
    fed: Federation, cluster: Cluster, target: Target, name: str
) -> None:
    job_id = submit_deaf(fed, cluster, target, f"orphan-{name}")
    before = len(cluster.processes(job_id))
    fed.stop(name, signal.SIGKILL)
    assert len(cluster.processes(job_id)) == before, "a job outlives its parent"
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
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "the rest is gone, too")


def test_a_script_that_raises_ends_the_job_as_with_flares_own_launcher(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    code = "raise RuntimeError('no such scanner')\n"
    job_id = fed.submit(job_folders.script(write(fed, "raises"), image=target.job_image, code=code))
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_out_of_memory_is_abnormal_and_said_to_be_memory(fed: Federation, cluster: Cluster, target: Target) -> None:
    job_id = fed.submit(
        job_folders.script(
            write(fed, "memory"),
            image=target.job_image,
            code={"site-1": job_folders.allocate(2000)},
            launcher_spec_extra={"site-1": {"memory": "600Mi"}},
        )
    )
    assert fed.wait(job_id) == "FINISHED:ABNORMAL"
    assert "OOMKilled" in cluster.workflows(job_id)["site-1"]["status"]["message"]
    said = [line for line in fed.log("site-1").splitlines() if job_id in line and "OUT_OF_MEMORY" in line]
    assert len(said) == 1
    assert "memory limit 600Mi" in said[0]
    assert "OUT_OF_MEMORY (104)" in error_log(fed, job_id, "site-1"), "the researcher reads why"


def error_log(fed: Federation, job_id: str, site: str) -> str:
    """FLARE's error log of a site, as the server stored it for the researcher."""

    def fetch() -> Path | None:
        try:
            found = fed.components(job_id) / f"ERRORLOG_{site}"
        except InternalError:  # FLARE's word for: nothing has come yet
            return None
        return found if found.exists() else None

    eventually(fetch, SETTLE_SECONDS, f"the error log of {site} has come")
    path = fetch()
    assert path is not None
    return path.read_text()


def outcome(fed: Federation, job_id: str) -> dict[str, object]:
    """The server's outcome, as the researcher downloads it."""
    found: dict[str, object] = json.loads((fed.download(job_id) / "workspace" / "argo_outcome.json").read_text())
    return found


def test_a_servers_failure_is_downloaded_with_its_reason_and_the_end_of_its_log(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    code = "import os\nprint('last words', flush=True)\nos._exit(3)\n"
    job_id = fed.submit(
        job_folders.script(
            write(fed, "server-fails"), image=target.job_image, code=job_folders.training(), server_code=code
        )
    )
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    told = outcome(fed, job_id)
    assert (told["reason"], told["code"], told["exit_code"]) == ("PROGRAM_FAILED", 1, 3)
    tail = (fed.download(job_id) / "workspace" / "argo_log_tail.txt").read_text()
    assert "last words" in tail
    assert "NVFLARE_JOB_AUTH_TOKEN" not in tail
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_a_launch_that_the_server_refuses_is_told_to_the_researcher(fed: Federation, target: Target) -> None:
    extra = {"server": {"memory": "lots"}}
    job_id = fed.submit(job_folders.fedavg(write(fed, "refused"), image=target.job_image, launcher_spec_extra=extra))
    assert fed.wait(job_id) == "FINISHED:EXECUTION_EXCEPTION"
    told = outcome(fed, job_id)
    assert told["reason"] == "LAUNCH_FAILED"
    assert "launcher_spec['server']['k8s']['memory']" in str(told["detail"])
    assert "'lots'" in str(told["detail"])


def test_a_launch_that_a_site_refuses_is_told_to_the_researcher(
    fed: Federation, cluster: Cluster, target: Target
) -> None:
    extra = {"site-1": {"cpu": "-3"}}
    job_id = fed.submit(job_folders.fedavg(write(fed, "refused-1"), image=target.job_image, launcher_spec_extra=extra))
    # Which of them hangs on whether FLARE is still starting the other sites when this one reports.
    assert fed.wait(job_id) in {"FINISHED:EXECUTION_EXCEPTION", "FINISHED:FAILED_TO_RUN"}
    assert "LAUNCH_FAILED (101)" in error_log(fed, job_id, "site-1")
    assert "'-3'" in error_log(fed, job_id, "site-1")
    eventually(lambda: not cluster.unfinished_pods(job_id), SETTLE_SECONDS, "no pod of the job is left running")


def test_people_find_the_job_with_argos_own_commands(fed: Federation, cluster: Cluster, target: Target) -> None:
    job_id = fed.submit(job_folders.fedavg(write(fed, "findable"), image=target.job_image, pause=20, rounds=1))
    eventually(lambda: len(cluster.processes(job_id)) >= len(PARTIES), SETTLE_SECONDS, "all three processes run")
    listed = cluster.argo("list", "--selector", f"flargo.dev/job-id={job_id}", "--output=name").splitlines()
    assert sorted(listed) == sorted(item["metadata"]["name"] for item in cluster.workflows(job_id).values())
    client = cluster.workflows(job_id)["site-1"]
    assert "findable" in client["metadata"]["annotations"]["workflows.argoproj.io/title"]
    eventually(
        lambda: "site-1" in cluster.argo("logs", client["metadata"]["name"], "--container=main"),
        SETTLE_SECONDS,
        "its log is read",
    )
    cluster.argo("terminate", client["metadata"]["name"])
    assert_aborted(fed, cluster, job_id)
