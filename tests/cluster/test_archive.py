"""A real Argo Server: its archive tells of what is gone from the cluster, and Argo's own SDK sees and ends jobs."""

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
from tests.harness.real_cluster.argo_archive import SHOWN, Server, archived, archiving, argo_server
from tests.harness.real_cluster.target import Target
from tests.harness.site import SLEEPS, Job, Site, exits, read_token

NOTICED = 20.0
LATE = timedelta(seconds=60)
"""Between a program's end, as its pod tells it, and its Workflow's: Argo's container may sit its pod's grace out."""
Object = dict[str, Any]
Rows = dict[str, Object]


@pytest.fixture(scope="module")
def cluster(target: Target) -> Iterator[Cluster]:
    """With an archive, for this module only."""
    if target.own:
        pytest.skip("Argo's settings are out of reach")
    made = Cluster(target)
    with archiving(made):
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Server]:
    with argo_server(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    with Site(cluster, studies=matrix.studies(cluster)) as made:
        yield made


@pytest.fixture
def token(cluster: Cluster, tmp_path: Path) -> Path:
    """A file with the token of the FLARE parent's own account: no more rights than that are needed."""
    (tmp_path / "token").write_text(read_token(cluster.target.launcher_kubeconfig))
    return tmp_path / "token"


def flargo(cluster: Cluster, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    words = flargo_command(
        cluster.target.launcher_kubeconfig, *map(str, arguments), f"--namespace={cluster.target.namespace}"
    )
    done = subprocess.run(words, text=True, capture_output=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def by(server: Server, token: Path) -> tuple[str | Path, ...]:
    return ("--argo-server", server.url, "--argo-ca", server.ca, "--argo-token", token)


# The archive


@pytest.fixture(scope="module")
def told(cluster: Cluster, site: Site, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Jobs that have ended in many ways: what is told of each before its Workflow is deleted, and after."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(read_token(cluster.target.launcher_kubeconfig))
    jobs = end_jobs_in_every_way(site)
    names = {job.id: name for name, job in jobs.items()}

    def rows() -> Rows:
        ours = ("--federation", site.federation, "--json", *by(server, token))
        return {names[row["job"]]: row for row in json.loads(flargo(cluster, "jobs", *ours).stdout)}

    before = rows()
    for name, job in jobs.items():
        eventually(partial(archived, cluster, job.name), NOTICED, f"Argo has archived the Workflow: {name}")
    cluster.delete_by_label(f"{Label.FEDERATION}={site.federation}")
    eventually(lambda: not any(job.workflows or job.pods for job in jobs.values()), 60, "all are gone")
    return {"jobs": jobs, "before": before, "after": rows(), "token": token}


def test_of_every_end_the_archive_tells_what_flare_has_heard(told: dict[str, Any]) -> None:
    verdicts = {name: job.launched_job.verdict for name, job in told["jobs"].items()}
    heard = {name: (it.reason.name, it.code) for name, it in verdicts.items()}
    for when in ("before", "after"):
        rows: Rows = told[when]
        shown = {name: (row["reason"], row["code"]) for name, row in rows.items()}
        assert {name: (heard[name], shown.get(name)) for name in heard if shown.get(name) != heard[name]} == {}, when
        assert {row["archived"] for row in rows.values()} == {when == "after"}


def test_times_and_names_are_those_of_before(told: dict[str, Any]) -> None:
    for name, before in told["before"].items():
        after = told["after"][name]
        for key in ("job", "name", "site", "role", "study", "federation", "workflow", "created", "gpus"):
            assert after[key] == before[key], (name, key)
        ends = [datetime.fromisoformat(row["ended"]) for row in (before, after)]
        assert abs(ends[1] - ends[0]) < LATE, name
        assert after["node"] == before["node"], name
        # Argo's container may be killed before it has written the program's down.
        assert after["exit_code"] in {before["exit_code"], None}, name


def test_why_tells_of_a_job_that_is_gone_its_evidence_and_remedy(
    told: dict[str, Any], cluster: Cluster, server: Server
) -> None:
    job: Job = told["jobs"]["its own SIGTERM"]
    assert flargo(cluster, "why", job.id).returncode == 1, "the cluster does not know it any more"
    done = flargo(cluster, "why", job.id[:13], *by(server, told["token"]))
    assert (done.returncode, done.stderr) == (0, "")
    for said in (
        "PROGRAM_FAILED, FLARE hears 1",
        "exit code",
        "main: Error (exit code 143)",
        "Argo's archive keeps of it",
    ):
        assert said in done.stdout
    (row,) = json.loads(flargo(cluster, "why", job.name, "--json", *by(server, told["token"])).stdout)
    assert (row["reason"], row["code"], row["exit_code"], row["archived"]) == ("PROGRAM_FAILED", 1, 143, True)
    assert row["what_to_do"] == Reason.PROGRAM_FAILED.remedy


def test_what_the_cluster_has_is_not_told_twice(cluster: Cluster, site: Site, server: Server, token: Path) -> None:
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, matrix.ROW_SECONDS)
    eventually(lambda: archived(cluster, job.name), NOTICED, "Argo has archived it")
    rows = json.loads(flargo(cluster, "why", job.id, "--json", *by(server, token)).stdout)
    assert [(row["archived"], row["pod"]) for row in rows] == [(False, job.name)]


def test_many_are_read_page_by_page(
    told: dict[str, Any], cluster: Cluster, site: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Counting(argo_archive.Archive):
        def _list_page(self, labels: str, page: str) -> Any:
            asked.append(page)
            return super()._list_page(labels, page)

    monkeypatch.setattr(argo_archive, "PAGE_SIZE", 5)
    reader = Counting(server.url, cluster.target.namespace, told["token"].read_text(), str(server.ca))
    found = reader.list(f"{Label.FEDERATION}={site.federation}")
    names = {item["metadata"]["name"] for item in found}
    assert names >= {job.name for job in told["jobs"].values()}
    assert len(names) == len(found)
    assert asked == ["", *(str(5 * page) for page in range(1, (len(found) + 4) // 5))]


# What is in the way, in the real server's words


def test_who_asks_without_a_good_token_or_right_or_certificate_is_told(
    cluster: Cluster, site: Site, server: Server, token: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text("not-a-token")
    (tmp_path / "powerless").write_text(cluster.kubectl("create", "token", "flargo-job"))
    secure = ("--argo-server", server.url, "--argo-ca", server.ca)
    asked = {
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
    for told, words in asked.items():
        done = flargo(cluster, "jobs", "--federation", site.federation, *words)
        print(done.stderr.strip())
        assert (done.returncode, done.stderr.count("Error: the Argo Server"), told in done.stderr) == (1, 1, True), told


def test_a_server_without_an_archive_and_one_that_is_gone_are_told_of(cluster: Cluster, token: Path) -> None:
    plain = "flargo-test-no-archive"
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": plain}})
    try:
        with argo_server(cluster, plain) as other:
            asked = ("jobs", "--federation", "nobody", *by(other, token))
            assert "keeps no archive" in flargo(cluster, *asked).stderr
            ca = token.with_name("ca.pem")
            ca.write_text(other.ca.read_text())
    finally:
        cluster.kubectl("delete", "configmap", plain)
    done = flargo(cluster, "jobs", "--federation", "nobody", "--argo-server", other.url, "--argo-ca", ca)
    assert "can't be reached" in done.stderr


# Argo's own Python SDK


@pytest.fixture
def sdk(cluster: Cluster, server: Server) -> Iterator[WorkflowServiceApi]:
    """As the FLARE parent's own account."""
    settings = argo_workflows.Configuration(host=server.url, ssl_ca_cert=str(server.ca))
    settings.api_key["BearerToken"] = f"Bearer {read_token(cluster.target.launcher_kubeconfig)}"
    with argo_workflows.ApiClient(settings) as client:
        yield WorkflowServiceApi(client)


def test_the_sdk_lists_jobs_by_label_reads_one_and_ends_it_and_flare_hears_of_it(
    cluster: Cluster, site: Site, sdk: WorkflowServiceApi
) -> None:
    namespace, unchecked = cluster.target.namespace, {"_check_return_type": False}
    ended, other = site.launch(SLEEPS).expect_running(), site.launch(SLEEPS).expect_running()
    label = f"{Label.JOB_ID}={ended.id}"
    (listed,) = sdk.list_workflows(namespace, list_options_label_selector=label, **unchecked)["items"]
    assert listed["metadata"]["name"] == ended.name
    read = sdk.get_workflow(namespace, ended.name, **unchecked)
    assert read["metadata"]["annotations"]["flargo.dev/site-name"] == site.name
    assert read["status"]["phase"] == "Running"
    wish = IoArgoprojWorkflowV1alpha1WorkflowTerminateRequest(name=ended.name, namespace=namespace)
    sdk.terminate_workflow(namespace, ended.name, wish, **unchecked)
    ended.expect_end(Reason.SHUT_DOWN, 9, NOTICED)
    ended.expect_nothing_left()
    assert other.launched_job.verdict is None
    other.abort()
    other.expect_end(Reason.ABORTED, 9, NOTICED)


def test_the_argo_ui_is_given_the_columns_and_links_of_deploy(server: Server, token: Path) -> None:
    heads = {"Authorization": f"Bearer {token.read_text()}"}
    told = requests.get(f"{server.url}/api/v1/info", headers=heads, verify=str(server.ca), timeout=10).json()
    for key, said in SHOWN.items():
        assert told[key] == yaml.safe_load(said), key
