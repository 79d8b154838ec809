"""Workflows that somebody forged, with flargo's labels: a sweep and a parent's own clean-up touch nothing else.

A forged Workflow is in the namespace already, so its author may write Workflows there. What he may not do is delete
Secrets, or anything in another namespace, by what flargo makes of his annotations.
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

VICTIM = f"flargo-victim-{secrets.token_hex(3)}"
"""A namespace that is nobody's business here."""
PASSWORD = "database-password"
LONG_AGO = "2026-01-01T00:00:00Z"
ATTEMPTS = {
    "a Secret of another namespace": f"/../../../{VICTIM}/secrets/{PASSWORD}",
    "another namespace": f"/../../../../namespaces/{VICTIM}",
    "a Secret of the same namespace": f"/../{PASSWORD}",
    "the collection of Secrets": "/..",
    "an encoded path": f"%2F..%2F..%2F..%2F{VICTIM}%2Fsecrets%2F{PASSWORD}",
    "half encoded": f"/%2e%2e/%2e%2e/%2e%2e/{VICTIM}/secrets/{PASSWORD}",
    "a query": "x?propagationPolicy=Foreground",
    "a line end": f"x\r\nDELETE /api/v1/namespaces/{VICTIM} HTTP/1.1",
    "a digit that is none": "²",
}
CODES = {"a digit that is none": "²", "five thousand digits": "9" * 5000, "a number below none": "-1"}


@pytest.fixture(scope="module")
def planted(cluster: Cluster) -> Iterator[None]:
    """A Secret in a namespace of its own, and one beside the jobs."""
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": PASSWORD}, "stringData": {"p": "x"}}
    cluster.kubectl("create", "namespace", VICTIM)
    cluster.kubectl("create", f"--namespace={VICTIM}", "--filename=-", document=secret)
    cluster.create(secret)
    yield
    cluster.kubectl("delete", "secret", PASSWORD)
    cluster.kubectl("delete", "namespace", VICTIM, "--wait=false")


def forged(name: str, labels: Object, *, attempt: str = "abc", code: str = "0", **meta: Object) -> Object:
    """A Workflow that looks as if a parent had launched it long ago, and as if it were over."""
    step = {"id": name, "name": name, "type": "Pod", "phase": "Succeeded", "outputs": {"exitCode": code}}
    known = {Label.MANAGED_BY.value: "flargo", Label.PARENT.value: "another-run", Label.JOB_ID.value: name}
    # Or else Argo writes the time at which it meets the Workflow over the one that was forged.
    known["workflows.argoproj.io/completed"] = "true"
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": name,
            "labels": {**known, **labels},
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


def survives(cluster: Cluster) -> None:
    """Everything that was planted is there, and is not being deleted."""
    for kind, name, namespace in (
        ("namespace", VICTIM, VICTIM),
        ("secret", PASSWORD, VICTIM),
        ("secret", PASSWORD, cluster.target.namespace),
    ):
        found = json.loads(cluster.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json"))
        assert "deletionTimestamp" not in found["metadata"], (kind, name, namespace)


def deletes(cluster: Cluster, since: int) -> list[str]:
    """The URIs of all deletes of objects by flargo and by the administrator, since a mark of the audit log."""
    assert cluster.target.audit_log is not None
    return [
        event["requestURI"]
        for target, event in audit.events(cluster.target.audit_log)
        if target >= since and event["verb"] in {"delete", "deletecollection"} and event.get("userAgent") == "flargo"
    ]


@pytest.mark.usefixtures("planted")
def test_an_administrators_sweep_deletes_nothing_by_a_forged_annotation(cluster: Cluster) -> None:
    if cluster.target.own:
        pytest.skip("needs the API server's audit log")
    labels = {Label.FEDERATION.value: f"forged-{secrets.token_hex(3)}", Label.SITE.value: "site-1"}
    names = [f"forged-{index}-{secrets.token_hex(3)}" for index in range(len(ATTEMPTS))]
    for name, attempt in zip(names, ATTEMPTS.values(), strict=True):
        cluster.create(forged(name, labels, attempt=attempt))
    mark = audit.mark(cluster.target.audit_log)  # type: ignore[arg-type]
    where = (f"--kubeconfig={cluster.target.kubeconfig}", f"--namespace={cluster.target.namespace}")
    for more in ((), ("--older-than", "1h")):
        words = ["sweep", "--json", "--federation", labels[Label.FEDERATION.value], *more, *where]
        done = CliRunner().invoke(group(), words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        taken = {row["name"] for row in json.loads(done.stdout)}
        assert taken == ({*names} if more else set())
        survives(cluster)
    prefix = f"/apis/argoproj.io/v1alpha1/namespaces/{cluster.target.namespace}/workflows/"
    assert {*deletes(cluster, mark)} == {f"{prefix}{name}" for name in names}


@pytest.mark.usefixtures("planted")
def test_a_parent_that_finds_forged_workflows_of_its_site_deletes_nothing_by_them(cluster: Cluster) -> None:
    if cluster.target.own:
        pytest.skip("needs the API server's audit log")
    with Site(cluster) as site:
        labels = {Label.FEDERATION.value: site.federation, Label.SITE.value: site.name}
        names = [f"forged-{index}-{secrets.token_hex(3)}" for index in range(len(ATTEMPTS))]
        for name, attempt in zip(names, ATTEMPTS.values(), strict=True):
            cluster.create(forged(name, labels, attempt=attempt))
        mark = audit.mark(cluster.target.audit_log)  # type: ignore[arg-type]
        job = site.launch(SLEEPS).expect_running()
        # A second one, which the site's watch hears of while it goes on.
        late = f"forged-late-{secrets.token_hex(3)}"
        cluster.create(forged(late, labels, attempt=ATTEMPTS["a Secret of another namespace"]))
        honest = f"forged-honest-{secrets.token_hex(3)}"
        cluster.create(forged(honest, labels, attempt="abc"))
        asked = f"/api/v1/namespaces/{cluster.target.namespace}/secrets/nvflare-cred-{honest}-abc"
        eventually(lambda: asked in _uris(cluster, mark), 20, "the last of them has been looked at")
        assert deletes(cluster, mark) == []
        survives(cluster)
        assert job.launched_job.verdict is None


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_workflow_that_nobody_can_read_blinds_neither_people_nor_a_parent(cluster: Cluster, code: str) -> None:
    with Site(cluster) as site:
        labels = {Label.FEDERATION.value: site.federation, Label.SITE.value: site.name}
        name = f"forged-{secrets.token_hex(3)}"
        cluster.create(forged(name, labels, code=code))
        job = site.launch(SLEEPS).expect_running()
        where = (f"--kubeconfig={cluster.target.launcher_kubeconfig}", f"--namespace={cluster.target.namespace}")
        done = CliRunner().invoke(group(), ["jobs", "--json", "--federation", site.federation, *where])
        assert done.exit_code == 0, done.output
        assert {row["workflow"] for row in json.loads(done.stdout)} == {name, job.name}
        for command in ("why", "terminate"):
            done = CliRunner().invoke(group(), [command, "--json", job.id, *where])
            assert done.exit_code == 0, done.output
        job.handle.wait()
        assert job.handle.poll() == 9
        cluster.kubectl("delete", "workflows.argoproj.io", name, "--wait=false")


def _uris(cluster: Cluster, since: int) -> set[str]:
    assert cluster.target.audit_log is not None
    return {event["requestURI"] for target, event in audit.events(cluster.target.audit_log) if target >= since}
