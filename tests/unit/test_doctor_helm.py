"""Where a Helm chart is in charge, the doctor advises no command whose effect Helm would undo or refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flargo.job.settings import check_settings
from flargo.terms import Role
from flargo.tools.cli import doctor as command
from flargo.tools.doctor.access_checks import OPTIONAL_RIGHTS, unused_rights
from flargo.tools.doctor.findings import Finding, Level
from flargo.tools.doctor.gather import split_rules
from flargo.tools.doctor.helm import APPLY_KIT_CHART
from flargo.tools.kit.chart import LAUNCHER_RULES
from tests.harness import command_line
from tests.harness.fake_cluster import HOME, FakeCluster, sample_job, site_needs

Kit = Callable[[str], Path]
ACCOUNTS = frozenset({"flargo-launcher", "flargo-job", "flargo-executor"})
HELM = {
    "labels": {"app.kubernetes.io/managed-by": "Helm"},
    "annotations": {"meta.helm.sh/release-name": "site-1"},
}
RIGHT = "delete pods"
CHANGING = ("kubectl create", "kubectl patch", "kubectl apply", "kubectl label", "kubectl delete")


def mark(cluster: FakeCluster, *endings: str) -> None:
    """Let a Helm release manage the objects whose paths end so."""
    for ending in endings:
        meta = cluster.object_at(ending).setdefault("metadata", {})
        for key, entries in HELM.items():
            meta[key] = {**meta.get(key, {}), **entries}


def advice(findings: list[Finding], check: str) -> str:
    return " ".join(each.todo for each in findings if each.check == check and each.level is not Level.OK)


LOSSES: dict[str, tuple[Callable[[FakeCluster], object], str]] = {
    "no launcher": (lambda c: c.delete_object("flargo-launcher"), "launcher"),
    "a right less": (lambda c: c.denied_rights.add(RIGHT), "launcher"),
    "no executor": (lambda c: c.delete_object("s/flargo-executor"), "executor"),
    "no token": (lambda c: c.delete_object("account-token"), "executor"),
    "another Secret": (lambda c: c.object_at("account-token").update(type="Opaque"), "executor"),
    "an executor's right less": (lambda c: c.denied_rights.add("patch workflowtaskresults"), "executor"),
    "no job account": (lambda c: c.delete_object("flargo-job"), "job account"),
}


@pytest.mark.parametrize("case", LOSSES)
@pytest.mark.parametrize("has_chart", [True, False])
def test_what_a_kits_chart_creates_is_not_created_by_hand(case: str, has_chart: bool) -> None:  # noqa: FBT001
    lose, check = LOSSES[case]
    cluster = FakeCluster()
    lose(cluster)
    needs = site_needs(chart_accounts=ACCOUNTS if has_chart else frozenset(), chart_grants_rights=has_chart)
    text = advice(cluster.run_doctor(needs), check)
    assert (APPLY_KIT_CHART in text) is has_chart, text
    assert any(word in text for word in (*CHANGING, "as in deploy/executor.yaml")) is not has_chart, text


def test_a_chart_without_rights_leaves_them_to_the_person() -> None:
    """With rbac.create=false the chart creates the parent's account only."""
    needs = site_needs(chart_accounts=frozenset({"flargo-launcher"}), chart_grants_rights=False)
    cluster = FakeCluster(denied_rights={RIGHT})
    mark(cluster, "flargo-launcher")
    assert "kubectl create role" in advice(cluster.run_doctor(needs), "launcher")


@pytest.mark.parametrize(
    ("account", "lose", "check"),
    [
        ("s/flargo-launcher", LOSSES["a right less"][0], "launcher"),
        ("s/flargo-executor", LOSSES["an executor's right less"][0], "executor"),
        ("s/flargo-executor", LOSSES["no token"][0], "executor"),
    ],
)
def test_the_release_of_an_account_is_named(account: str, lose: Callable[[FakeCluster], object], check: str) -> None:
    cluster = FakeCluster()
    mark(cluster, account)
    lose(cluster)
    text = advice(cluster.run_doctor(), check)
    assert "Let Helm release site-1" in text
    assert not any(word in text for word in CHANGING)


def test_a_controllers_chart_is_named() -> None:
    cluster = FakeCluster(controllers=())
    settings = cluster.object_at("configmaps/workflow-controller-configmap")
    settings["data"] = {"config": "workflowRestrictions: {templateReferencing: Strict}"}
    assert "from the controller's ConfigMap" in advice(cluster.run_doctor(), "restrictions")
    mark(cluster, "configmaps/workflow-controller-configmap")
    assert "from the values of Helm release site-1" in advice(cluster.run_doctor(), "restrictions")


def test_other_objects_of_a_chart_are_changed_there() -> None:
    cluster = FakeCluster(refusals={"Pod": 'pods "x" is forbidden: violates PodSecurity "restricted:latest": x'})
    cluster.object_at("secrets/study")["data"] = {}
    cluster.object_at("secrets/registry")["type"] = "Opaque"
    path = f"/api/v1/namespaces/{HOME}/configmaps/queue"
    cluster.objects[path] = {"metadata": {}, "data": {"jobs": "none"}}
    job = sample_job(argo={"semaphore": {"name": "queue", "key": "jobs"}, "queued": 60})
    before = cluster.run_doctor(site_needs(samples=(job,)))
    mark(cluster, "secrets/study", "secrets/registry", "configmaps/queue", f"namespaces/{HOME}")
    after = cluster.run_doctor(site_needs(samples=(job,)))
    for check in ("study secrets", "pull secrets", "queue", "pod security"):
        assert "Helm" not in advice(before, check)
        assert "in the values of Helm release site-1, which manages it." in advice(after, check), check
        assert not any(word in advice(after, check) for word in CHANGING)


@pytest.mark.parametrize("setting", ["rbac", "serviceAccount"])
def test_the_kit_tells_what_its_chart_creates(kit: Kit, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kit("k8s/site-1")
    command_line.run("prepare", root)
    cluster = FakeCluster()
    monkeypatch.setattr(command, "_survey", lambda *_: cluster)
    monkeypatch.setattr("time.sleep", cluster.pause)

    def outputs() -> str:
        return " ".join(command_line.run("doctor", "--kit", root, "--problems").stdout.split())

    assert outputs().count(f"The kit's chart creates it. {APPLY_KIT_CHART}") == 4
    values = root / "helm_chart/values.yaml"
    text = values.read_text()
    begin = text.index(f"{setting}:")
    values.write_text(text[:begin] + text[begin:].replace("create: true", "create: false", 1))
    count = {"rbac": 1, "serviceAccount": 3}[setting]
    assert outputs().count(f"The kit's chart creates it. {APPLY_KIT_CHART}") == count


# Rights that a parent never uses


@pytest.mark.parametrize(
    ("role", "argo", "unused"),
    [
        (Role.CLIENT, {"policy": {"rejoin": 1}}, set()),
        (Role.CLIENT, {}, {"events"}),
        (Role.CLIENT, {"adopt": False, "policy": {"rejoin": 1}}, {"leases"}),
        (Role.CLIENT, {"adopt": False}, {"events", "leases"}),
        (Role.SERVER, {"policy": {"rejoin": 1}}, {"events", "leases"}),
    ],
)
def test_a_right_that_is_not_used_is_not_missed(role: Role, argo: dict[str, Any], unused: set[str]) -> None:
    rights = unused_rights(role, check_settings(argo=argo).argo)
    cluster = FakeCluster(denied_rights={f"{right.verb} {right.resource}" for right in OPTIONAL_RIGHTS})
    findings = cluster.run_doctor(site_needs(unused_rights=rights))
    warnings = [each.what for each in findings if each.level is Level.WARNING]
    assert {name for name in ("events", "leases") if not any(name in each for each in warnings)} == unused
    assert rights <= OPTIONAL_RIGHTS.keys() <= {*split_rules(LAUNCHER_RULES)}
    asked = {(each["verb"], each["resource"]) for each in cluster.reviewed_attributes}
    assert not asked & {(right.verb, right.resource) for right in rights}


@pytest.mark.parametrize(("name", "is_missed"), [("k8s/site-1", True), ("k8s/server.lab", False)])
def test_a_servers_kit_needs_no_lease(kit: Kit, name: str, is_missed: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    root = kit(name)
    command_line.run("prepare", root)
    cluster = FakeCluster(denied_rights={f"{right.verb} {right.resource}" for right in OPTIONAL_RIGHTS})
    monkeypatch.setattr(command, "_survey", lambda *_: cluster)
    monkeypatch.setattr("time.sleep", cluster.pause)
    output = command_line.run("doctor", "--kit", root).stdout
    assert ("leases.coordination.k8s.io" in output) is is_missed
    assert "create events" not in output
