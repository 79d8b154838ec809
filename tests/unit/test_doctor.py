"""Tests of the doctor on a fake cluster: each problem fails the right check, with advice, and no probe is left."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from flargo.cluster.answer import Answer
from flargo.job.plan import build_plan
from flargo.job.workflow import INSTANCE_ID
from flargo.status.reasons import Reason
from flargo.tools.doctor import access_checks, job_checks, probe
from flargo.tools.doctor.access_checks import token_secret_name
from flargo.tools.doctor.argo_pod import build_pod
from flargo.tools.doctor.check_table import CHECKS
from flargo.tools.doctor.facts import Right
from flargo.tools.doctor.findings import Finding, Level
from flargo.tools.doctor.gather import Doctor, named_objects, split_rules
from flargo.tools.doctor.references import Kind, Reference, references
from flargo.tools.doctor.samples import study_names
from flargo.tools.kit.chart import EXECUTOR_RULES, LAUNCHER_RULES, accounts_command
from tests.harness.differential import argo
from tests.harness.differential.cases import samples
from tests.harness.fake_cluster import HOME, FakeCluster, failed_checks, sample_job, site_needs

INSECURE = 'pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)'
FULL = 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3'
NEVER = f"{FULL.partition('requested')[0]}requested: limits.cpu=2,pods=1, used: limits.cpu=0, limited: limits.cpu=1500m"
UNLIMITED = 'pods "x" is forbidden: failed quota: q: must specify limits.memory for: main'
NO_TEMPLATE = "workflows must use workflowTemplateRef to be executed when the controller is in reference mode"


def results_of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def only(findings: list[Finding], check: str, level: Level) -> Finding:
    (finding,) = (finding for finding in results_of(findings, check) if finding.level is level)
    return finding


def test_healthy_site_has_no_problem() -> None:
    findings = FakeCluster().run_doctor()
    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert {finding.check for finding in findings} == {check.name for check in CHECKS}


def set_fields(**attributes: object) -> Callable[[FakeCluster], None]:
    def change(cluster: FakeCluster) -> None:
        for name, value in attributes.items():
            setattr(cluster, name, value)

    return change


def set_controller_settings(settings: dict[str, str], **attributes: object) -> Callable[[FakeCluster], None]:
    def change(cluster: FakeCluster) -> None:
        cluster.object_at("configmaps/workflow-controller-configmap")["data"] = settings
        set_fields(**attributes)(cluster)

    return change


def controller_pod(image: str, *args: str) -> Callable[[FakeCluster], None]:
    def change(cluster: FakeCluster) -> None:
        container = {"name": "workflow-controller", "image": image, "args": [*args]}
        pod = {"metadata": {"namespace": "argo-system"}, "spec": {"containers": [container]}}
        cluster.objects["/api/v1/pods"] = {"items": [pod]}
        cluster.objects["/api/v1/namespaces/argo-system/configmaps/settings"] = {
            "data": {"config": "workflowRestrictions: {templateReferencing: Secure}"}
        }

    return change


PROBLEMS: dict[str, tuple[Callable[[FakeCluster], object], str, str]] = {
    "no answer": (set_fields(connection_error="Connection refused"), "api", "Connection refused"),
    "clock a minute slow": (set_fields(clock_skew=61.0), "clock", "61 s behind"),
    "clock a minute fast": (set_fields(clock_skew=-61.0), "clock", "61 s ahead"),
    "no namespace": (lambda c: c.delete_object(f"namespaces/{HOME}"), "namespace", "There is no namespace lab"),
    "namespace on its way out": (
        lambda c: c.object_at(f"namespaces/{HOME}").update(status={"phase": "Terminating"}),
        "namespace",
        "being deleted",
    ),
    "no Argo": (lambda c: c.delete_object("argoproj.io/v1alpha1"), "argo", "does not serve Argo's API"),
    "half of Argo": (
        lambda c: c.object_at("argoproj.io/v1alpha1").update(resources=[{"name": "workflows"}]),
        "argo",
        "lacks workflowtaskresults",
    ),
    "Argo 3.5": (controller_pod("quay.io/argoproj/workflow-controller:v3.5.13"), "argo", "v3.5.13"),
    "no controller": (set_fields(controllers=()), "controller", "No Workflow controller picked up the probe"),
    "a controller with an instance id": (
        set_controller_settings({"instanceID": "blue"}, controllers=("blue",)),
        "controller",
        "A controller with instance id blue did",
    ),
    "a probe that fails": (
        set_fields(phase="Error", message="boom"),
        "controller",
        "boom",
    ),
    "no Workflow may be made": (
        set_fields(refusals={"Workflow": "denied by a policy"}),
        "controller",
        "denied by a policy",
    ),
    "reference mode, as the probe meets it": (
        set_fields(phase="Failed", message=NO_TEMPLATE),
        "restrictions",
        "reference mode",
    ),
    "reference mode, as the settings say": (
        set_controller_settings({"workflowRestrictions": "templateReferencing: Strict\n"}, controllers=()),
        "restrictions",
        "Strict in namespace lab",
    ),
    "no launcher account": (
        lambda c: c.delete_object("flargo-launcher"),
        "launcher",
        "no service account flargo-launcher",
    ),
    "no executor account": (
        lambda c: c.delete_object("s/flargo-executor"),
        "executor",
        "no service account flargo-executor",
    ),
    "no executor token": (lambda c: c.delete_object("account-token"), "executor", "Argo's containers have no token"),
    "an empty executor token": (lambda c: c.object_at("account-token").update(data={}), "executor", "holds no token"),
    "another Secret in its place": (
        lambda c: c.object_at("account-token").update(type="Opaque"),
        "executor",
        "is not the token of flargo-executor",
    ),
    "an executor without rights": (
        lambda c: c.denied_rights.add("patch workflowtaskresults"),
        "executor",
        "may not patch workflowtaskresults.argoproj.io",
    ),
    "no job account": (lambda c: c.delete_object("flargo-job"), "job account", "no service account flargo-job"),
    "no claim": (
        lambda c: c.delete_object("claims/claim"),
        "volume claims",
        "no volume claim claim, which a job needs",
    ),
    "a lost claim": (lambda c: c.object_at("claims/claim").update(status={"phase": "Lost"}), "volume claims", "lost"),
    "no study Secret": (lambda c: c.delete_object("secrets/study"), "study secrets", "no Secret study"),
    "a study Secret without the key": (
        lambda c: c.object_at("secrets/study").update(data={"other": "eA=="}),
        "study secrets",
        "has no key k",
    ),
    "no pull Secret": (lambda c: c.delete_object("secrets/registry"), "pull secrets", "no Secret registry"),
    "a pull Secret that is none": (
        lambda c: c.object_at("secrets/registry").update(type="Opaque"),
        "pull secrets",
        "Secret registry has type Opaque",
    ),
    "Pod Security": (set_fields(refusals={"Pod": INSECURE}), "pod security", "hostNetwork"),
    "a quota too small": (set_fields(refusals={"Pod": NEVER}), "quota", "limits.cpu=1500m"),
    "a quota that asks for limits": (set_fields(refusals={"Pod": UNLIMITED}), "quota", "limits.memory"),
    "another refusal of pods": (set_fields(refusals={"Pod": "no such class"}), "pod", "no such class"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_each_problem_fails_its_check(case: str) -> None:
    break_cluster, check, text = PROBLEMS[case]
    cluster = FakeCluster()
    break_cluster(cluster)
    findings = cluster.run_doctor()
    failures = [finding for finding in results_of(findings, check) if finding.level is Level.FAILURE]
    assert any(text in finding.what for finding in failures), findings
    assert all(finding.todo for finding in findings if finding.level is not Level.OK)
    also = {"controller", "workflow"} if check in {"controller", "restrictions"} else set()
    assert failed_checks(findings) - also == {check} - also


@pytest.mark.parametrize(
    ("message", "unknown", "passed"),
    [
        (FULL, set(), {"pod security", "pod"}),
        (NEVER, set(), {"pod security", "pod"}),
        (INSECURE, {"quota", "pod"}, set()),
        ("no such class", {"pod security", "quota"}, set()),
    ],
)
def test_checks_hidden_by_a_rejection_are_unknown(message: str, unknown: set[str], passed: set[str]) -> None:
    """The API server stops at the first rejection, and asks the quota after all others have agreed."""
    findings = FakeCluster(refusals={"Pod": message}).run_doctor()
    admission = {"pod security", "quota", "pod"}
    levels = {finding.check: finding.level for finding in findings if finding.check in admission}
    assert {check for check, level in levels.items() if level is Level.UNKNOWN} == unknown
    assert {check for check, level in levels.items() if level is Level.OK} == passed


def test_equal_rejections_are_reported_once() -> None:
    one = sample_job()
    other = replace(one, name="another job")
    findings = FakeCluster(refusals={"Pod": INSECURE}).run_doctor(site_needs(samples=(one, other)))
    assert "a job, another job" in only(findings, "pod security", Level.FAILURE).what


def test_job_checks_need_a_sample_job() -> None:
    none = replace(site_needs(rejected_jobs={"a job": "`image` is missing"}), samples=())
    findings = FakeCluster().run_doctor(none)
    of_jobs = {check.name for check in CHECKS if check.needs_samples}
    assert {finding.check for finding in findings if finding.level is Level.UNKNOWN} == of_jobs
    assert failed_checks(findings) == {"kit"}
    assert len(of_jobs) == 10


def test_every_check_has_a_failing_case() -> None:
    assert {check for _, check, _ in PROBLEMS.values()} | {"kit", "config maps", "queue", "workflow"} == {
        check.name for check in CHECKS
    }


@pytest.mark.parametrize("right", split_rules(LAUNCHER_RULES), ids=str)
def test_missing_launcher_right_is_named(right: Right) -> None:
    """The advice has the commands that grant the right."""
    findings = FakeCluster(denied_rights={f"{right.verb} {right.resource}"}).run_doctor()
    is_optional = right in access_checks.OPTIONAL_RIGHTS
    finding = only(findings, "launcher", Level.WARNING if is_optional else Level.FAILURE)
    assert f"flargo-launcher may not {right.verb} {right.resource}" in finding.what
    resource = f"{right.resource}.{right.group}" if right.group else right.resource
    assert f"--verb={right.verb} --resource={resource} --namespace lab`" in finding.todo
    assert failed_checks(findings) == (set() if is_optional else {"launcher"})


def test_optional_rights_are_granted_with_the_others() -> None:
    findings = FakeCluster(denied_rights={"list events", "create events"}).run_doctor()
    finding = only(findings, "launcher", Level.FAILURE)
    assert "may not list, create events" in finding.what
    assert "--verb=list,create --resource=events" in finding.todo


def test_rights_come_from_the_deployed_rules() -> None:
    assert {str(right) for right in split_rules(LAUNCHER_RULES)} >= {"get pods/log", "delete pods", "list events"}
    assert len(split_rules(EXECUTOR_RULES)) == 2


def test_access_reviews_name_the_subresource_separately() -> None:
    """A resource "pods/log" in one field would be another resource."""
    cluster = FakeCluster()
    cluster.run_doctor()
    log = {"namespace": HOME, "verb": "get", "group": "", "resource": "pods", "subresource": "log"}
    assert log in cluster.reviewed_attributes
    assert not [each for each in cluster.reviewed_attributes if "/" in each["resource"]]


def test_rejected_job_is_found_without_cluster() -> None:
    findings = FakeCluster(connection_error="x").run_doctor(
        site_needs(rejected_jobs={"a job of study heart": "`image` is missing"})
    )
    assert failed_checks(findings) == {"api", "kit"}
    assert "study heart" in only(findings, "kit", Level.FAILURE).what


def test_rejected_workflow_is_found() -> None:
    cluster = FakeCluster(denied_rights={"create workflows"}, refusals={"Workflow": 'unknown field "spec.x"'})
    finding = only(cluster.run_doctor(), "workflow", Level.FAILURE)
    assert 'unknown field "spec.x"' in finding.what


def test_missing_config_map_is_found() -> None:
    needs = site_needs()
    (sample,) = needs.samples
    template = sample.workflow["spec"]["templates"][0]
    template["volumes"].append({"name": "m", "configMap": {"name": "settings", "items": [{"key": "a", "path": "a"}]}})
    findings = FakeCluster().run_doctor(needs)
    assert "no ConfigMap settings" in only(findings, "config maps", Level.FAILURE).what


QUEUEING = {"argo": {"semaphore": {"name": "queue", "key": "jobs"}, "queued": 60}}
QUEUE = f"/api/v1/namespaces/{HOME}/configmaps/queue"


def queueing(cluster: FakeCluster) -> list[Finding]:
    return cluster.run_doctor(site_needs(samples=(sample_job(**QUEUEING),)))


@pytest.mark.parametrize("number", ["1", "2", "+3", "007"])
def test_queue_limit_is_shown(number: str) -> None:
    cluster = FakeCluster()
    cluster.objects[QUEUE] = {"data": {"jobs": number, "others": "many"}}
    findings = queueing(cluster)
    assert {finding.level for finding in findings} == {Level.OK}
    assert f"lets {int(number)} run at once" in only(findings, "queue", Level.OK).what


def test_jobs_without_a_semaphore_need_no_queue() -> None:
    cluster = FakeCluster(forbidden_paths={QUEUE})
    assert "do not queue" in only(cluster.run_doctor(), "queue", Level.OK).what


@pytest.mark.parametrize("limit", ["0", "-1", "two", "", " 2", "2\n", "1.5", "1_0", "0x2", "2" * 20, "٢"])
def test_invalid_queue_limit_is_a_failure(limit: str) -> None:
    cluster = FakeCluster()
    cluster.objects[QUEUE] = {"data": {"jobs": limit}}
    finding = only(queueing(cluster), "queue", Level.FAILURE)
    assert repr(limit) in finding.what
    assert '--patch=\'{"data": {"jobs": "2"}}\'`' in finding.todo


@pytest.mark.parametrize(
    ("config_map", "text", "command"),
    [
        (None, "no ConfigMap queue", "`kubectl create configmap queue --namespace lab --from-literal=jobs=2`"),
        ({}, "has no key jobs", "`kubectl patch configmap queue"),
        ({"data": {"job": "2"}, "binaryData": {"jobs": "Mg=="}}, "has no key jobs", "`kubectl patch configmap queue"),
    ],
    ids=["no ConfigMap", "empty", "another key"],
)
def test_missing_queue_comes_with_its_command(config_map: dict[str, object] | None, text: str, command: str) -> None:
    cluster = FakeCluster()
    cluster.objects |= {} if config_map is None else {QUEUE: config_map}
    findings = queueing(cluster)
    finding = only(findings, "queue", Level.FAILURE)
    assert text in finding.what
    assert command in finding.todo
    assert failed_checks(findings) == {"queue"}


def test_unreadable_queue_is_unknown() -> None:
    findings = queueing(FakeCluster(forbidden_paths={QUEUE}))
    assert failed_checks(findings) == set()
    assert only(findings, "queue", Level.UNKNOWN)


@pytest.mark.parametrize("spec", ["{onExit: notify}", "{hooks: {exit: {template: notify}}}"])
def test_exit_handlers_are_mentioned(spec: str) -> None:
    """They are no problem: flargo does not take them for the job."""
    cluster = FakeCluster()
    set_controller_settings({"workflowDefaults": f"spec: {spec}"})(cluster)
    findings = cluster.run_doctor()
    assert failed_checks(findings) == set()
    assert any("exit handler or hooks" in finding.what for finding in findings if finding.check == "restrictions")


# Warnings


@pytest.mark.parametrize(
    ("break_cluster", "check", "text"),
    [
        (set_fields(clock_skew=10.0), "clock", "10 s behind"),
        (set_fields(refusals={"Pod": FULL}), "quota", "exceeded quota"),
        (lambda c: c.object_at("claims/claim").update(status={"phase": "Pending"}), "volume claims", "Pending"),
        (set_fields(phase="Pending", message="too many"), "controller", "too many"),
        (
            set_controller_settings({"workflowDefaults": "spec: {retryStrategy: {limit: 1}}"}),
            "restrictions",
            "retries failed steps",
        ),
    ],
    ids=["clock", "quota full now", "claim pending", "parallelism", "retries"],
)
def test_problems_with_running_jobs_are_warnings(
    break_cluster: Callable[[FakeCluster], object], check: str, text: str
) -> None:
    cluster = FakeCluster()
    break_cluster(cluster)
    findings = cluster.run_doctor()
    assert failed_checks(findings) == set()
    assert text in only(findings, check, Level.WARNING).what


# Unreadable objects and controllers


def test_parent_sees_less_than_an_administrator() -> None:
    """The doctor runs as the parent: it is the launcher, and what it may not read is unknown."""
    core = ("serviceaccounts/", "persistentvolumeclaims/", "namespaces/argo/", "/api/v1/pods", "localsubject")
    cluster = FakeCluster(
        user="system:serviceaccount:lab:site-1", forbidden_paths={*core, "configmaps/", f"{HOME}/pods"}
    )
    findings = cluster.run_doctor(is_account_guessed=True)
    assert failed_checks(findings) == set()
    assert only(findings, "launcher", Level.OK).what.startswith("site-1 has all the rights")
    unknown = {finding.check for finding in findings if finding.level is Level.UNKNOWN}
    assert unknown == {"executor", "job account", "volume claims", "pod security", "quota", "pod"}
    # The token Secret, which goes with its account, and the probe, which a restricted controller fails, tell enough.
    assert "flargo-executor for Argo's containers exists" in results_of(findings, "executor")[0].what
    assert only(findings, "restrictions", Level.OK)


@pytest.mark.parametrize(
    ("user", "who", "command"),
    [
        ("system:serviceaccount:lab:site-1", "site-1", "--serviceaccount=lab:site-1"),
        ("system:serviceaccount:other:site-1", "system:serviceaccount:other:site-1", ""),
        ("alice", "alice", ""),
    ],
)
def test_current_user_can_be_the_parent(user: str, who: str, command: str) -> None:
    cluster = FakeCluster(user=user, denied_rights={"list events"})
    finding = only(cluster.run_doctor(site_needs(launcher=None)), "launcher", Level.FAILURE)
    assert finding.what.startswith(f"{who} may not list events")
    assert command in finding.todo
    assert ("kubectl" in finding.todo) is bool(command)


def test_account_of_other_namespace_is_no_parent() -> None:
    cluster = FakeCluster(user="system:serviceaccount:ci:runner", denied_rights={"list events"})
    assert (
        "flargo-launcher may not" in only(cluster.run_doctor(is_account_guessed=True), "launcher", Level.FAILURE).what
    )


def test_named_account_is_checked_for_any_user() -> None:
    cluster = FakeCluster(user="system:serviceaccount:lab:other", denied_rights={"list events"})
    finding = only(cluster.run_doctor(is_account_guessed=False), "launcher", Level.FAILURE)
    assert "flargo-launcher may not list events" in finding.what


def test_working_controller_outweighs_restrictive_settings() -> None:
    """The settings may be those of another controller."""
    cluster = FakeCluster()
    controller_pod("quay.io/argoproj/workflow-controller:v3.7.18", "--configmap", "settings")(cluster)
    findings = cluster.run_doctor()
    assert failed_checks(findings) == set()
    assert "v3.7.18 in namespace argo-system" in only(findings, "argo", Level.OK).what


def test_silent_controllers_own_config_map_is_read() -> None:
    cluster = FakeCluster(controllers=())
    controller_pod("quay.io/argoproj/workflow-controller:v3.7.18", "--configmap", "settings")(cluster)
    assert "Secure in namespace argo-system" in only(cluster.run_doctor(), "restrictions", Level.FAILURE).what


FAKE = "tenant-7"
"""A namespace whose owner can create pods there, and nothing else."""


def add_fake_controller(cluster: FakeCluster, version: str = "v3.5.0", **metadata: object) -> None:
    """Add a pod that only looks like a controller's, and the settings that it names."""
    container = {
        "name": "workflow-controller",
        "image": f"x/workflow-controller:{version}",
        "args": ["--configmap=settings"],
    }
    pod = {"metadata": {"namespace": FAKE, **metadata}, "spec": {"containers": [container]}}
    cluster.objects["/api/v1/pods"]["items"].append(pod)
    settings = {"config": "instanceID: theirs\nworkflowRestrictions: {templateReferencing: Secure}"}
    cluster.objects[f"/api/v1/namespaces/{FAKE}/configmaps/settings"] = {"data": settings}


@pytest.mark.parametrize("controllers", [(None,), (), ("theirs",)])
def test_fake_controller_elsewhere_is_only_mentioned(controllers: tuple[str | None, ...]) -> None:
    """Anybody who can create a pod in any namespace can give it that label."""
    cluster, without = FakeCluster(controllers=controllers), FakeCluster(controllers=controllers)
    add_fake_controller(cluster)
    findings, expected = cluster.run_doctor(), without.run_doctor()
    argo = only(findings, "argo", Level.OK)
    assert (
        f"also in namespace {FAKE}: if one of them serves this site, name its namespace with --argo-namespace"
        in argo.what
    )
    assert [each for each in findings if each.check != "argo"] == [each for each in expected if each.check != "argo"]
    assert not [path for path in cluster.requested_paths if FAKE in path]
    assert not [each for each in cluster.probes if each["metadata"]["labels"].get(INSTANCE_ID)]


def test_many_fake_controllers_are_counted() -> None:
    cluster = FakeCluster()
    for number in range(20):
        add_fake_controller(cluster, namespace=f"tenant-{number:02}")
    add_fake_controller(cluster, namespace="../../secrets")
    what = only(cluster.run_doctor(), "argo", Level.OK).what
    assert "tenant-04 and 15 more" in what
    assert "secrets" not in what


def test_named_argo_namespaces_are_trusted() -> None:
    for namespaces, home in (((FAKE,), FAKE), ((), HOME), ((), "argo")):
        cluster = FakeCluster(controllers=())
        add_fake_controller(cluster, "v3.7.18", namespace=home)
        cluster.objects[f"/api/v1/namespaces/{home}/configmaps/settings"] = {
            "data": {"config": "workflowRestrictions: {templateReferencing: Secure}"}
        }
        findings = cluster.run_doctor(site_needs(argo_namespaces=namespaces))
        assert f"Secure in namespace {home}" in only(findings, "restrictions", Level.FAILURE).what
        assert f"v3.7.18 in namespace {home}" in only(findings, "argo", Level.OK).what


@pytest.mark.parametrize("name", ["../../secrets/database", "a/b", "?x", "", "No_Name", "a" * 254])
def test_invalid_config_map_name_is_not_requested(name: str) -> None:
    cluster = FakeCluster()
    controller_pod("quay.io/argoproj/workflow-controller:v3.7.18", "--configmap", name)(cluster)
    findings = cluster.run_doctor()
    assert failed_checks(findings) == set()
    requests = [path for path in cluster.requested_paths if "/configmaps/" in path]
    assert {path.rpartition("/")[2] for path in requests} <= {"workflow-controller-configmap"}


@pytest.mark.parametrize("value", ["[a]", "{a: b}", "true", "''", "a/b", "x" * 64, "1.5", "null"])
def test_impossible_instance_id_is_not_tried(value: str) -> None:
    cluster = FakeCluster(controllers=())
    set_controller_settings({"instanceID": value}, controllers=())(cluster)
    cluster.run_doctor()
    assert [each["metadata"]["labels"].get(INSTANCE_ID) for each in cluster.probes] == [None]


def test_numeric_instance_id_is_tried() -> None:
    cluster = FakeCluster(controllers=("7",))
    set_controller_settings({"instanceID": "7"}, controllers=("7",))(cluster)
    assert "instance_id=7" in only(cluster.run_doctor(), "controller", Level.FAILURE).todo


def test_alias_bomb_in_settings_is_ignored() -> None:
    bomb = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))])
    cluster = FakeCluster()
    settings = f"workflowRestrictions: {{templateReferencing: Strict}}\n{bomb}"
    set_controller_settings({"config": settings}, controllers=())(cluster)
    assert failed_checks(cluster.run_doctor()) == {"controller"}


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/version", 503, "can't be reached"),
        ("/apis/authentication.k8s.io/v1/selfsubjectreviews", 401, "rejected the credentials"),
        ("/apis/authentication.k8s.io/v1/selfsubjectreviews", 404, ""),
        ("/version", 403, ""),
    ],
)
def test_api_check_needs_answer_and_credentials(path: str, status: int, text: str) -> None:
    cluster = FakeCluster(statuses={path: status})
    if status == 503:
        cluster.forbidden_paths = {"selfsubjectreviews"}
    findings = cluster.run_doctor()
    assert failed_checks(findings) == ({"api"} if text else set()), findings
    assert text in results_of(findings, "api")[0].what


@pytest.mark.parametrize(
    "date",
    ["", "x", "Tue, 06 Jan 2026 10:00:00", "Tue, 06 Jan 2026 10:00:00 +9999999999999999999", f"{'1' * 5000} Jan 2026"],
)
def test_invalid_date_header_is_unknown(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.harness.fake_cluster.formatdate", lambda *_, **__: date)
    assert "have no valid Date header" in only(FakeCluster().run_doctor(), "clock", Level.UNKNOWN).what


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("quay.io/argoproj/workflow-controller:v3.7.18", "v3.7.18"),
        ("localhost:5000/workflow-controller:3.7", "3.7"),
        ("workflow-controller:v3.7.0-rc1", "v3.7.0-rc1"),
        (f"workflow-controller:v3.7.18@sha256:{'0' * 64}", "v3.7.18"),
        ("workflow-controller:latest", "unknown"),
        ("workflow-controller", "unknown"),
        ("localhost:3.7/workflow-controller", "unknown"),
        (f"workflow-controller:v{'9' * 5000}.1", "unknown"),
        (f"workflow-controller:v3.{'9' * 5000}", "unknown"),
        ("workflow-controller:v\u0663.\u0667.1", "unknown"),
        (f"workflow-controller{':1.1.' * 60_000}\n", "unknown"),
    ],
    ids=lambda text: text[:40],
)
def test_argo_version_is_the_image_tag(image: str, version: str) -> None:
    cluster = FakeCluster()
    controller_pod(image)(cluster)
    start = time.monotonic()
    assert f"its version is {version}" in only(cluster.run_doctor(), "argo", Level.OK).what
    assert time.monotonic() - start < 5


def test_slow_answer_is_no_clock_skew() -> None:
    assert only(FakeCluster(answer_seconds=14.0).run_doctor(), "clock", Level.OK)


@pytest.mark.parametrize("is_forbidden", [True, False])
def test_invisible_settings_are_unknown(*, is_forbidden: bool) -> None:
    cluster = FakeCluster(controllers=(), forbidden_paths={"configmaps/workflow"} if is_forbidden else set())
    cluster.delete_object("configmaps/workflow-controller-configmap")
    finding = only(cluster.run_doctor(), "restrictions", Level.UNKNOWN)
    assert ("could not be read" if is_forbidden else "No settings of a controller are visible") in finding.what


def test_one_old_controller_is_a_warning() -> None:
    cluster = FakeCluster()
    controller_pod("quay.io/argoproj/workflow-controller:v3.5.13")(cluster)
    old = cluster.objects["/api/v1/pods"]
    controller_pod("quay.io/argoproj/workflow-controller:v3.7.18")(cluster)
    both = [*old["items"], *cluster.objects["/api/v1/pods"]["items"]]
    cluster.objects["/api/v1/pods"] = {"items": both}
    findings = cluster.run_doctor()
    assert (failed_checks(findings), bool(only(findings, "argo", Level.WARNING))) == (set(), True)


@pytest.mark.parametrize("value", ["[", "text", "[1, 2]", "spec: 7", ""])
def test_malformed_settings_are_ignored(value: str) -> None:
    cluster = FakeCluster()
    set_controller_settings({"workflowDefaults": value, "workflowRestrictions": value})(cluster)
    assert failed_checks(cluster.run_doctor()) == set()


def test_advice_depends_on_why_unreadable() -> None:
    path = f"/api/v1/namespaces/{HOME}/persistentvolumeclaims/claim"
    assert (
        only(FakeCluster(statuses={path: 500}).run_doctor(), "volume claims", Level.UNKNOWN).todo
        == "Run flargo doctor again."
    )
    findings = FakeCluster(forbidden_paths={path}).run_doctor()
    assert "as a user with more rights" in only(findings, "volume claims", Level.UNKNOWN).todo


@pytest.mark.parametrize(
    ("patched", "readable", "level"),
    [(True, False, Level.FAILURE), (False, True, Level.FAILURE), (False, False, Level.UNKNOWN)],
)
def test_unreadable_executor_settings_make_rejection_unknown(*, patched: bool, readable: bool, level: Level) -> None:
    """Without the controller's settings of its own containers, a rejection of the pod proves nothing."""
    needs = site_needs(samples=(sample_job(argo={"patch_executor": patched}),))
    cluster = FakeCluster(refusals={"Pod": INSECURE}, forbidden_paths=set() if readable else {"configmaps/workflow"})
    assert only(cluster.run_doctor(needs), "pod security", level)


def test_pod_has_the_executor_settings() -> None:
    cluster = FakeCluster()
    set_controller_settings({"executor": "securityContext: {runAsNonRoot: true}\nresources: {limits: {cpu: 1}}\n"})(
        cluster
    )
    cluster.run_doctor(site_needs(samples=(sample_job(argo={"patch_executor": False}),)))
    (pod,) = cluster.dry_run_pods
    for container in (*pod["spec"]["initContainers"], pod["spec"]["containers"][0]):
        assert container["securityContext"] == {"runAsNonRoot": True}
        assert container["resources"] == {"limits": {"cpu": 1}}


def test_dependent_checks_are_skipped() -> None:
    cluster = FakeCluster(connection_error="Connection refused")
    findings = cluster.run_doctor()
    assert failed_checks(findings) == {"api"}
    assert {finding.what for finding in findings if finding.level is Level.UNKNOWN} == {
        "Not checked, because the check api did not succeed.",
    }


# Probes


def test_probe_is_harmless() -> None:
    """A probe makes no pod, ends by itself, and no parent or sweep takes it for a job."""
    cluster = FakeCluster()
    cluster.run_doctor(site_needs(instance_id="blue"))
    for each in cluster.probes:
        (step,) = each["spec"]["templates"]
        assert set(step) == {"name", "suspend"}
        assert float(step["suspend"]["duration"]) > 15.0
        assert each["spec"]["ttlStrategy"]
        assert not {"app.kubernetes.io/managed-by", "flargo.dev/site"} & set(each["metadata"]["labels"])
    assert cluster.probes[0]["metadata"]["labels"][INSTANCE_ID] == "blue"


def undeleted_probes(cluster: FakeCluster) -> list[str]:
    return [path for path in cluster.objects if "flargo-doctor-" in path]


@pytest.mark.parametrize("controllers", [(None,), (), ("blue",)])
def test_every_probe_is_deleted(controllers: tuple[str | None, ...]) -> None:
    cluster = FakeCluster(controllers=controllers)
    cluster.run_doctor()
    assert cluster.probes
    assert undeleted_probes(cluster) == []


def test_interrupt_deletes_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(controllers=())

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "pause", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.run_doctor()
    assert cluster.probes
    assert undeleted_probes(cluster) == []


def test_undeleted_probe_comes_with_its_command() -> None:
    cluster = FakeCluster(deletes_fail=True)
    finding = only(cluster.run_doctor(), "controller", Level.WARNING)
    (path,) = undeleted_probes(cluster)
    assert f"kubectl delete workflows.argoproj.io {path.rpartition('/')[2]} --namespace lab" in finding.todo


@pytest.mark.parametrize("right", probe.PROBE_RIGHTS, ids=str)
def test_probe_needs_all_its_rights(right: Right) -> None:
    cluster = FakeCluster(denied_rights={f"{right.verb} {right.resource}"})
    assert str(right) in only(cluster.run_doctor(), "controller", Level.UNKNOWN).what
    assert cluster.probes == []


def test_wrong_instance_id_comes_with_right_one() -> None:
    without = only(FakeCluster().run_doctor(site_needs(instance_id="blue")), "controller", Level.FAILURE)
    assert "instance_id=null" in without.todo
    cluster = FakeCluster(controllers=("green",))
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{HOME}/workflows"
    cluster.objects[path] = {"items": [{"metadata": {"labels": {INSTANCE_ID: "green"}}}]}
    assert "instance_id=green" in only(cluster.run_doctor(), "controller", Level.FAILURE).todo


@pytest.mark.parametrize("word", ["$(id)", "a;id", "a b", "a`id`", "--all", "a\nid", "x" * 254])
def test_no_command_contains_an_invalid_name(word: str) -> None:
    """Names come from a kit or the cluster, and a user would paste the command into a shell."""
    cluster = FakeCluster(denied_rights={"list events", "create workflowtaskresults"}, controllers=(word,))
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{HOME}/workflows"
    cluster.objects[path] = {"items": [{"metadata": {"labels": {INSTANCE_ID: word}}}]}
    findings = cluster.run_doctor(site_needs(launcher=word, executor=word, instance_id="blue"))
    assert {"launcher", "executor", "controller"} <= failed_checks(findings)
    for finding in findings:
        assert "kubectl" not in finding.todo
        assert "flargo prepare KIT --argo" not in finding.todo
    queue = Reference(Kind.CONFIG_MAP, word, ("jobs",))
    for answer in (Answer(404, reason="NotFound"), Answer(200, {"data": {}}), Answer(200, {"data": {"jobs": "x"}})):
        assert "kubectl" not in job_checks._judge_queue(answer, queue, HOME).todo
        assert "kubectl" not in job_checks._judge_queue(answer, replace(queue, name="queue", keys=(word,)), HOME).todo
        assert "kubectl" not in job_checks._judge_queue(answer, replace(queue, name="queue"), word).todo
    assert accounts_command(word) == ""


# Single functions


def test_secret_values_are_dropped() -> None:
    cluster = FakeCluster()
    facts = Doctor(cluster, lambda: 0.0, cluster.pause).gather(
        site_needs(), is_account_guessed=False, probe_seconds=1.0
    )
    assert "k" in facts.objects[Kind.SECRET, "study"].body["keys"]
    assert "aGlkZGVu" not in repr(facts)


def test_dry_run_pod_matches_argos_pod() -> None:
    """The pod equals that of the tests' own translation of Argo's source."""
    number = 0
    for name, settings, launch in samples():
        workflow = build_plan(launch, settings).workflow
        mine, theirs = build_pod(workflow), argo.pod_from_workflow(workflow)
        for group in ("containers", "initContainers"):
            for container in mine["spec"][group]:
                if container["name"] in {"init", "wait"}:
                    assert container.pop("image"), name
        assert mine == theirs, name
        number += 1
    assert number > 50


def test_references_names_all_required_objects() -> None:
    pod = {
        "spec": {
            "volumes": [
                {"persistentVolumeClaim": {"claimName": "claim"}},
                {"secret": {"secretName": "s1", "items": [{"key": "a", "path": "x"}]}},
                {"secret": {"secretName": "left-out", "optional": True}},
                {"configMap": {"name": "m1"}},
                {"projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "m2"}}]}},
                {"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s3"}}},
                {"emptyDir": {}},
            ],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s4"}}, {"configMapRef": {"name": "m3"}}]}],
            "containers": [
                {
                    "env": [
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s5", "key": "k"}}},
                        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "m4", "key": "k"}}},
                        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}},
                        {"name": "D", "value": "1"},
                    ]
                }
            ],
        }
    }
    assert list(references(pod)) == [
        Reference(Kind.CLAIM, "claim"),
        Reference(Kind.SECRET, "s1", ("a",)),
        Reference(Kind.CONFIG_MAP, "m1"),
        Reference(Kind.SECRET, "s2"),
        Reference(Kind.CONFIG_MAP, "m2"),
        Reference(Kind.SECRET, "s3"),
        Reference(Kind.SECRET, "s4"),
        Reference(Kind.CONFIG_MAP, "m3"),
        Reference(Kind.SECRET, "s5", ("k",)),
        Reference(Kind.CONFIG_MAP, "m4", ("k",)),
    ]


def test_jobs_own_secrets_are_not_requested() -> None:
    needs = site_needs()
    names = {name for _, name in named_objects(needs)}
    assert {"claim", "study", "registry", "flargo-job", token_secret_name("flargo-executor")} <= names
    assert not names & needs.samples[0].own_secrets
    assert not named_objects(replace(needs, launcher=None, samples=()))[2:]


def test_studies_come_from_both_file_formats() -> None:
    runtime = b"format_version: 2\nstudies: {heart: {}, lung: {}}"
    assert study_names({"local/study_runtime.yaml": runtime}) == ["heart", "lung"]
    assert study_names({"local/study_data.yaml": b"brain: {a: {source: x, mode: ro}}"}) == ["brain"]
    assert study_names({"local/study_runtime.yaml": b"{"}) == []


@pytest.mark.parametrize(
    ("answer", "lacks_permission"),
    [
        (Answer(401), True),
        (Answer(403, message='pods is forbidden: User "a" cannot create resource "pods" in API group ""'), True),
        (Answer(403, message=INSECURE), False),
        (Answer(403, message=FULL), False),
        (Answer(404), False),
    ],
)
def test_missing_rights_differ_from_admission_rejections(answer: Answer, *, lacks_permission: bool) -> None:
    assert answer.lacks_permission is lacks_permission


def test_consequences_name_existing_reasons() -> None:
    names = {word for check in CHECKS for word in check.consequence.split("`") if word.isupper()}
    assert names
    assert names <= {reason.name for reason in Reason}


@pytest.mark.parametrize("name", ["../../../../namespaces/prod", "a/../b", "..", "%2e%2e%2fb", "A", "a?x=y", "a\nb"])
def test_invalid_names_in_kits_are_not_requested(name: str) -> None:
    """A name that no object can have is a failure, and no request is sent for it."""
    workflow_document = json.loads(
        json.dumps(sample_job().workflow).replace('"study"', json.dumps(name)).replace('"claim"', json.dumps(name))
    )
    cluster = FakeCluster()
    findings = cluster.run_doctor(site_needs(samples=(replace(sample_job(), workflow=workflow_document),)))
    assert {"study secrets", "volume claims"} <= failed_checks(findings)
    assert not [path for path in cluster.requested_paths if "prod" in path or ".." in path or "%" in path]
    texts = [finding.what for finding in findings if finding.check == "study secrets"]
    assert any("is not a valid name in secrets in Kubernetes, so nothing was sent" in text for text in texts), texts
