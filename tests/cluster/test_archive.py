"""Tests with a real Argo Server: its archive describes deleted jobs, and Argo's own SDK lists and ends jobs."""

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import argo_workflows
import pytest
import requests
import yaml
from argo_workflows.api.workflow_service_api import WorkflowServiceApi
from argo_workflows.model.io_argoproj_workflow_v1alpha1_workflow_terminate_request import (
    IoArgoprojWorkflowV1alpha1WorkflowTerminateRequest,
)

from flargo.cluster import argo_archive
from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.command_scenarios import end_jobs_in_every_way, flargo_command
from tests.harness.faults import matrix
from tests.harness.real_cluster.argo_archive import UI_SETTINGS, ArgoServer, archive_workflows, argo_server, is_archived
from tests.harness.real_cluster.target import Target
from tests.harness.site import SLEEPS, Job, Site, exits, read_token

NOTICE_SECONDS = 20.0
MAX_END_DIFFERENCE = timedelta(seconds=60)
"""Largest difference between the end of a program, from its pod, and the end of its Workflow: Argo's container may use
up the pod's grace period."""
Object = dict[str, Any]
Rows = dict[str, Object]


@pytest.fixture(scope="module")
def cluster(target: Target) -> Iterator[Cluster]:
    """The cluster, whose Argo keeps an archive while the tests of this module run."""
    if target.is_external:
        pytest.skip("Argo's settings cannot be changed on a cluster of one's own")
    archiving_cluster = Cluster(target)
    with archive_workflows(archiving_cluster):
        yield archiving_cluster


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[ArgoServer]:
    with argo_server(cluster) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster, studies=matrix.studies(cluster)) as running_site:
        yield running_site


@pytest.fixture
def token(cluster: Cluster, tmp_path: Path) -> Path:
    """A file with the token of the FLARE parent's own account, whose rights suffice to read the archive."""
    (tmp_path / "token").write_text(read_token(cluster.target.launcher_kubeconfig))
    return tmp_path / "token"


def flargo(cluster: Cluster, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    argv = flargo_command(
        cluster.target.launcher_kubeconfig, *map(str, arguments), f"--namespace={cluster.target.namespace}"
    )
    result = subprocess.run(argv, text=True, capture_output=True, check=False, timeout=60)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def server_options(server: ArgoServer, token: Path) -> tuple[str | Path, ...]:
    return ("--argo-server", server.url, "--argo-ca", server.ca, "--argo-token", token)


# The archive


@pytest.fixture(scope="module")
def summaries(
    cluster: Cluster, site: Site, server: ArgoServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The rows of `flargo jobs` for jobs that ended in many ways, before and after their Workflows are deleted."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(read_token(cluster.target.launcher_kubeconfig))
    jobs = end_jobs_in_every_way(site)
    names = {job.id: name for name, job in jobs.items()}

    def rows() -> Rows:
        options = ("--federation", site.federation, "--json", *server_options(server, token))
        return {names[row["job"]]: row for row in json.loads(flargo(cluster, "jobs", *options).stdout)}

    before = rows()
    for name, job in jobs.items():
        eventually(partial(is_archived, cluster, job.name), NOTICE_SECONDS, f"Argo has archived the Workflow: {name}")
    cluster.delete_by_label(f"{Label.FEDERATION}={site.federation}")
    eventually(lambda: not any(job.workflows or job.pods for job in jobs.values()), 60, "all are gone")
    return {"jobs": jobs, "before": before, "after": rows(), "token": token}


def test_archive_reports_the_verdicts_that_flare_got(summaries: dict[str, Any]) -> None:
    verdicts = {name: job.launched_job.verdict for name, job in summaries["jobs"].items()}
    expected = {name: (verdict.reason.name, verdict.code) for name, verdict in verdicts.items()}
    for when in ("before", "after"):
        rows: Rows = summaries[when]
        actual = {name: (row["reason"], row["code"]) for name, row in rows.items()}
        differences = {name: (end, actual.get(name)) for name, end in expected.items() if actual.get(name) != end}
        assert differences == {}, when
        assert {row["archived"] for row in rows.values()} == {when == "after"}


def test_archive_keeps_names_and_times(summaries: dict[str, Any]) -> None:
    for name, before in summaries["before"].items():
        after = summaries["after"][name]
        for key in ("job", "name", "site", "role", "study", "federation", "workflow", "created", "gpus"):
            assert after[key] == before[key], (name, key)
        ends = [datetime.fromisoformat(row["ended"]) for row in (before, after)]
        assert abs(ends[1] - ends[0]) < MAX_END_DIFFERENCE, name
        assert after["node"] == before["node"], name
        # Argo's container may be killed before it has reported the program's exit code.
        assert after["exit_code"] in {before["exit_code"], None}, name


def test_why_explains_a_deleted_job(summaries: dict[str, Any], cluster: Cluster, server: ArgoServer) -> None:
    """`flargo why` prints the evidence and the remedy for a job that only the archive still has."""
    job: Job = summaries["jobs"]["its own SIGTERM"]
    assert flargo(cluster, "why", job.id).returncode == 1, "the cluster no longer has the job"
    result = flargo(cluster, "why", job.id[:13], *server_options(server, summaries["token"]))
    assert (result.returncode, result.stderr) == (0, "")
    for text in (
        "PROGRAM_FAILED, FLARE hears 1",
        "exit code",
        "main: Error (exit code 143)",
        "Argo's archive keeps of it",
    ):
        assert text in result.stdout
    (row,) = json.loads(flargo(cluster, "why", job.name, "--json", *server_options(server, summaries["token"])).stdout)
    assert (row["reason"], row["code"], row["exit_code"], row["archived"]) == ("PROGRAM_FAILED", 1, 143, True)
    assert row["what_to_do"] == Reason.PROGRAM_FAILED.remedy


def test_job_in_cluster_and_archive_is_listed_once(
    cluster: Cluster, site: Site, server: ArgoServer, token: Path
) -> None:
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, matrix.ROW_SECONDS)
    eventually(lambda: is_archived(cluster, job.name), NOTICE_SECONDS, "Argo has archived it")
    rows = json.loads(flargo(cluster, "why", job.id, "--json", *server_options(server, token)).stdout)
    assert [(row["archived"], row["pod"]) for row in rows] == [(False, job.name)]


def test_archive_is_read_page_by_page(
    summaries: dict[str, Any], cluster: Cluster, site: Site, server: ArgoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    class Counting(argo_archive.Archive):
        def _list_page(self, labels: str, page: str, limit: int | None = None) -> Any:
            pages.append(page if limit is None else "all")
            return super()._list_page(labels, page, limit)

    monkeypatch.setattr(argo_archive, "PAGE_SIZE", 5)
    reader = Counting(server.url, cluster.target.namespace, summaries["token"].read_text(), str(server.ca))
    items = reader.list(f"{Label.FEDERATION}={site.federation}")
    names = {item["metadata"]["name"] for item in items}
    assert names >= {job.name for job in summaries["jobs"].values()}
    assert len(names) == len(items)
    by_page = ["", *(str(5 * page) for page in range(1, (len(items) + 4) // 5))]
    assert pages in (by_page, [*by_page, "all"])
    at_once = reader._list_page(f"{Label.FEDERATION}={site.federation}", "", limit=0)
    assert {item.metadata.name for item in at_once.items or ()} == names


# Errors of the real server


def test_server_errors_name_their_cause(
    cluster: Cluster, site: Site, server: ArgoServer, token: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("not-a-token")
    (tmp_path / "powerless").write_text(cluster.kubectl("create", "token", "flargo-job"))
    """A wrong token, a missing right, an untrusted certificate and a wrong address each have their own message."""
    secure = ("--argo-server", server.url, "--argo-ca", server.ca)
    cases = {
        "requires a valid token (401)": secure,
        "requires a valid token (401): give": (*secure, "--argo-token", tmp_path / "bad"),
        "denies access (403)": (*secure, "--argo-token", tmp_path / "powerless"),
        "can't be trusted": ("--argo-server", server.url, "--argo-token", token),
        "does not answer like an Argo Server": (
            "--argo-server",
            f"{server.url}/argo",
            *secure[2:],
            "--argo-token",
            token,
        ),
        "can't be reached": ("--argo-server", server.url.replace("https", "http"), "--argo-token", token),
    }
    for text, options in cases.items():
        result = flargo(cluster, "jobs", "--federation", site.federation, *options)
        print(result.stderr.strip())
        assert (result.returncode, result.stderr.count("Error: the Argo Server")) == (1, 1), text
        assert text in result.stderr


def test_missing_archive_and_missing_server_are_reported(cluster: Cluster, token: Path) -> None:
    config_map = "flargo-test-no-archive"
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map}})
    try:
        with argo_server(cluster, config_map) as other:
            arguments = ("jobs", "--federation", "nobody", *server_options(other, token))
            assert "keeps no archive" in flargo(cluster, *arguments).stderr
            ca = token.with_name("ca.pem")
            ca.write_text(other.ca.read_text())
    finally:
        cluster.kubectl("delete", "configmap", config_map)
    result = flargo(cluster, "jobs", "--federation", "nobody", "--argo-server", other.url, "--argo-ca", ca)
    assert "can't be reached" in result.stderr


# Argo's own Python SDK


@pytest.fixture
def sdk(cluster: Cluster, server: ArgoServer) -> Iterator[WorkflowServiceApi]:
    """Argo's SDK with the token of the FLARE parent's own account."""
    settings = argo_workflows.Configuration(host=server.url, ssl_ca_cert=str(server.ca))
    settings.api_key["BearerToken"] = f"Bearer {read_token(cluster.target.launcher_kubeconfig)}"
    with argo_workflows.ApiClient(settings) as client:
        yield WorkflowServiceApi(client)


def test_sdk_lists_reads_and_terminates_jobs(cluster: Cluster, site: Site, sdk: WorkflowServiceApi) -> None:
    """FLARE gets the verdict SHUT_DOWN for the job that the SDK terminates; the other job runs on."""
    namespace, unchecked = cluster.target.namespace, {"_check_return_type": False}
    job, other = site.launch(SLEEPS).expect_running(), site.launch(SLEEPS).expect_running()
    label = f"{Label.JOB_ID}={job.id}"
    (item,) = sdk.list_workflows(namespace, list_options_label_selector=label, **unchecked)["items"]
    assert item["metadata"]["name"] == job.name
    workflow = sdk.get_workflow(namespace, job.name, **unchecked)
    assert workflow["metadata"]["annotations"]["flargo.dev/site-name"] == site.name
    assert workflow["status"]["phase"] == "Running"
    request = IoArgoprojWorkflowV1alpha1WorkflowTerminateRequest(name=job.name, namespace=namespace)
    sdk.terminate_workflow(namespace, job.name, request, **unchecked)
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert other.launched_job.verdict is None
    other.abort()
    other.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)


def test_argo_ui_gets_the_columns_and_links(server: ArgoServer, token: Path) -> None:
    """The Argo Server serves the columns and links of deploy/controller.yaml to its UI."""
    headers = {"Authorization": f"Bearer {token.read_text()}"}
    info = requests.get(f"{server.url}/api/v1/info", headers=headers, verify=str(server.ca), timeout=10).json()
    for key, text in UI_SETTINGS.items():
        assert info[key] == yaml.safe_load(text), key
