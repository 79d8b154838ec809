"""Tests of forged Workflows with flargo's labels: neither a sweep nor a parent's clean-up deletes anything by them.

The author of a forged Workflow may write Workflows in the namespace. He must not be able to delete Secrets, or objects
of another namespace, through the names that flargo derives from his annotations.
"""

import json
import secrets
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from flargo.terms import Label
from flargo.tools.cli.main import group
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.real_cluster import audit
from tests.harness.site import SLEEPS, Site

VICTIM_NAMESPACE = f"flargo-victim-{secrets.token_hex(3)}"
"""A namespace that flargo must not touch."""
SECRET_NAME = "database-password"
LONG_AGO = "2026-01-01T00:00:00Z"
ATTEMPTS = {
    "a Secret of another namespace": f"/../../../{VICTIM_NAMESPACE}/secrets/{SECRET_NAME}",
    "another namespace": f"/../../../../namespaces/{VICTIM_NAMESPACE}",
    "a Secret of the same namespace": f"/../{SECRET_NAME}",
    "the collection of Secrets": "/..",
    "an encoded path": f"%2F..%2F..%2F..%2F{VICTIM_NAMESPACE}%2Fsecrets%2F{SECRET_NAME}",
    "half encoded": f"/%2e%2e/%2e%2e/%2e%2e/{VICTIM_NAMESPACE}/secrets/{SECRET_NAME}",
    "a query": "x?propagationPolicy=Foreground",
    "a line end": f"x\r\nDELETE /api/v1/namespaces/{VICTIM_NAMESPACE} HTTP/1.1",
    "a digit that is none": "²",
}
CODES = {"a digit that is none": "²", "five thousand digits": "9" * 5000, "a number below none": "-1"}


@pytest.fixture(scope="module")
def victim_objects(cluster: Cluster) -> Iterator[None]:
    """A Secret in the victim's namespace, and one in the jobs' namespace."""
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET_NAME}, "stringData": {"p": "x"}}
    cluster.kubectl("create", "namespace", VICTIM_NAMESPACE)
    cluster.kubectl("create", f"--namespace={VICTIM_NAMESPACE}", "--filename=-", document=secret)
    cluster.create(secret)
    yield
    cluster.kubectl("delete", "secret", SECRET_NAME)
    cluster.kubectl("delete", "namespace", VICTIM_NAMESPACE, "--wait=false")


def forge_workflow(name: str, labels: Object, *, attempt: str = "abc", code: str = "0", **meta: Object) -> Object:
    """Return a Workflow that looks as if a parent had launched it long ago and it had finished."""
    step = {
        "id": name,
        "name": name,
        "type": "Pod",
        "templateName": "job",
        "phase": "Succeeded",
        "outputs": {"exitCode": code},
    }
    base_labels = {Label.MANAGED_BY.value: "flargo", Label.PARENT.value: "another-run", Label.JOB_ID.value: name}
    # Without this label, Argo would overwrite the forged time with the time at which it first sees the Workflow.
    base_labels["workflows.argoproj.io/completed"] = "true"
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": name,
            "labels": {**base_labels, **labels},
            "annotations": {"flargo.dev/attempt": attempt, "flargo.dev/site-name": "site-1"},
            **meta,
        },
        "spec": {"entrypoint": "job", "templates": [{"name": "job", "suspend": {}}]},
        "status": {
            "phase": "Succeeded",
            "startedAt": LONG_AGO,
            "finishedAt": LONG_AGO,
            "nodes": {name: {**step, "startedAt": LONG_AGO, "finishedAt": LONG_AGO, "displayName": name}},
        },
    }


def assert_objects_exist(cluster: Cluster) -> None:
    """Assert that the victim's objects exist and are not being deleted."""
    for kind, name, namespace in (
        ("namespace", VICTIM_NAMESPACE, VICTIM_NAMESPACE),
        ("secret", SECRET_NAME, VICTIM_NAMESPACE),
        ("secret", SECRET_NAME, cluster.target.namespace),
    ):
        item = json.loads(cluster.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json"))
        assert "deletionTimestamp" not in item["metadata"], (kind, name, namespace)


def deleted_uris(cluster: Cluster, mark: int) -> list[str]:
    """Return the URIs of all delete requests by flargo's commands and launchers, since a mark of the audit log."""
    assert cluster.target.audit_log is not None
    return [
        event["requestURI"]
        for offset, event in audit.events(cluster.target.audit_log)
        if offset >= mark and event["verb"] in {"delete", "deletecollection"} and event.get("userAgent") == "flargo"
    ]


@pytest.mark.usefixtures("victim_objects")
def test_sweep_ignores_forged_annotations(cluster: Cluster) -> None:
    if cluster.target.is_external:
        pytest.skip("needs the API server's audit log")
    labels = {Label.FEDERATION.value: f"forged-{secrets.token_hex(3)}", Label.SITE.value: "site-1"}
    names = [f"forged-{index}-{secrets.token_hex(3)}" for index in range(len(ATTEMPTS))]
    for name, attempt in zip(names, ATTEMPTS.values(), strict=True):
        cluster.create(forge_workflow(name, labels, attempt=attempt))
    mark = audit.mark(cluster.target.audit_log)  # type: ignore[arg-type]
    options = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
    for age in ((), ("--older-than", "1h")):
        argv = ["sweep", "--json", "--federation", labels[Label.FEDERATION.value], *age, *options]
        result = CliRunner().invoke(group(), argv, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        rows = {row["name"] for row in json.loads(result.stdout)}
        assert rows == ({*names} if age else set())
        assert_objects_exist(cluster)
    prefix = f"/apis/argoproj.io/v1alpha1/namespaces/{cluster.target.namespace}/workflows/"
    assert {*deleted_uris(cluster, mark)} == {f"{prefix}{name}" for name in names}


@pytest.mark.usefixtures("victim_objects")
def test_parent_ignores_forged_workflows_of_its_site(cluster: Cluster) -> None:
    if cluster.target.is_external:
        pytest.skip("needs the API server's audit log")
    with Site(cluster) as site:
        labels = {Label.FEDERATION.value: site.federation, Label.SITE.value: site.name}
        names = [f"forged-{index}-{secrets.token_hex(3)}" for index in range(len(ATTEMPTS))]
        for name, attempt in zip(names, ATTEMPTS.values(), strict=True):
            cluster.create(forge_workflow(name, labels, attempt=attempt))
        mark = audit.mark(cluster.target.audit_log)  # type: ignore[arg-type]
        job = site.launch(SLEEPS).expect_running()
        # Another forged Workflow, which the site's watch receives while it is open.
        late = f"forged-late-{secrets.token_hex(3)}"
        cluster.create(forge_workflow(late, labels, attempt=ATTEMPTS["a Secret of another namespace"]))
        honest = f"forged-honest-{secrets.token_hex(3)}"
        cluster.create(forge_workflow(honest, labels, attempt="abc"))
        uri = f"/api/v1/namespaces/{cluster.target.namespace}/secrets/nvflare-cred-{honest}-abc"
        eventually(lambda: uri in _uris(cluster, mark), 20, "the last Workflow has been processed")
        assert deleted_uris(cluster, mark) == []
        assert_objects_exist(cluster)
        assert job.launched_job.verdict is None


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_malformed_exit_code_hides_no_job(cluster: Cluster, code: str) -> None:
    """A Workflow with an invalid exit code disturbs neither the commands nor a parent."""
    with Site(cluster) as site:
        labels = {Label.FEDERATION.value: site.federation, Label.SITE.value: site.name}
        name = f"forged-{secrets.token_hex(3)}"
        cluster.create(forge_workflow(name, labels, code=code))
        job = site.launch(SLEEPS).expect_running()
        options = (f"--kubeconfig={cluster.target.launcher_kubeconfig}", f"--namespace={cluster.target.namespace}")
        result = CliRunner().invoke(group(), ["jobs", "--json", "--federation", site.federation, *options])
        assert result.exit_code == 0, result.output
        assert {row["workflow"] for row in json.loads(result.stdout)} == {name, job.name}
        for command in ("why", "terminate"):
            result = CliRunner().invoke(group(), [command, "--json", job.id, *options])
            assert result.exit_code == 0, result.output
        job.handle.wait()
        assert job.handle.poll() == 9
        cluster.kubectl("delete", "workflows.argoproj.io", name, "--wait=false")


def _uris(cluster: Cluster, mark: int) -> set[str]:
    assert cluster.target.audit_log is not None
    return {event["requestURI"] for offset, event in audit.events(cluster.target.audit_log) if offset >= mark}
