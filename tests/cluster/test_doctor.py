"""Tests of `flargo doctor` on a real cluster: it reports no problem where jobs run, and its advice fixes each problem.

Each test breaks only objects of its own: a kit, an account, a namespace, or a controller for that namespace.
"""

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from flargo.cluster import service_account
from flargo.flare.request import federation_id
from flargo.tools.cli.main import group
from flargo.tools.demo import kits
from flargo.tools.doctor.access_checks import OPTIONAL_RIGHTS
from flargo.tools.doctor.gather import split_rules
from flargo.tools.kit.chart import LAUNCHER_RULES
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import images, parts
from tests.harness.real_cluster.target import Target
from tests.harness.variants import altering_proxy

SITE = "site-1"
TOKEN_TYPE = "kubernetes.io/service-account-token"
NO_CONTROLLER = {"controller"}
"""The checks that fail in a namespace of its own, because the cluster's controller watches another namespace."""


@dataclass(frozen=True)
class Report:
    """The doctor's findings and its exit code."""

    exit_code: int
    findings: list[dict[str, str]]

    def by_check(self, level: str) -> dict[str, list[dict[str, str]]]:
        """Return the findings of a level, by check."""
        findings: dict[str, list[dict[str, str]]] = {}
        for each in self.findings:
            if each["level"] == level:
                findings.setdefault(each["check"], []).append(each)
        return findings

    @property
    def failures(self) -> set[str]:
        """The checks that report a failure."""
        return set(self.by_check("failure"))


@dataclass
class KitSetup:
    """A site's kit of the test's own, its namespace, and the doctor to check both."""

    target: Target
    cluster: Cluster
    kit: Path
    mark: str = field(default_factory=lambda: f"doctor-{uuid.uuid4().hex[:8]}")
    """The name, or part of the name, of every object that the test creates."""

    def prepare(self, *options: str) -> None:
        """Run `flargo prepare` on the kit."""
        self.run_flargo("prepare", str(self.kit), *options)

    def run_doctor(self, *options: str | Path, kubeconfig: Path | None = None) -> Report:
        """Run the doctor with a kubeconfig, by default the administrator's."""
        access = ("--kubeconfig", str(kubeconfig or self.target.kubeconfig))
        argv = ["doctor", "--json", "--kit", str(self.kit), *access, *map(str, options)]
        result = CliRunner().invoke(group(), argv)
        assert result.exit_code in {0, 1}, result.output
        return Report(result.exit_code, json.loads(result.stdout)["findings"])

    def run_flargo(self, *argv: str) -> None:
        """Run another command of flargo, which must succeed."""
        result = CliRunner().invoke(group(), argv)
        assert result.exit_code == 0, result.output

    def follow_advice(self, report: Report, check: str, commands: int) -> None:
        """Run the commands in a check's advice, and assert how many there are."""
        findings = [each for level in ("failure", "warning") for each in report.by_check(level).get(check, [])]
        advice = " ".join(each["todo"] for each in findings)
        count = 0
        for command in re.findall(r"`((?:kubectl|flargo) [^`]*)`", advice):
            program, *arguments = shlex.split(command.removesuffix(" ...").replace("KIT", str(self.kit)))
            if program == "kubectl":
                self.cluster.kubectl(*arguments)
            else:
                self.run_flargo(*arguments)
            count += 1
        assert count == commands, advice

    def write_study(self, **study: Any) -> None:
        """Give the kit's site a study."""
        runtime = {"format_version": 2, "studies": {"heart": study}}
        (self.kit / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))

    def create(self, kind: str, name: str, api: str = "v1", **more: Any) -> None:
        """Create an object in the namespace, which is deleted when the test ends."""
        meta = {"name": name, "namespace": self.target.namespace, **more.pop("metadata", {})}
        labels = {**meta.get("labels", {}), "flargo.test/doctor": self.mark}
        self.cluster.create({"apiVersion": api, "kind": kind, "metadata": {**meta, "labels": labels}, **more})

    def delete(self, *kinds_and_names: str) -> None:
        """Delete objects, each given as KIND/NAME."""
        for each in kinds_and_names:
            self.cluster.kubectl("delete", *each.split("/"), "--ignore-not-found", "--wait=false")

    def delete_all(self) -> None:
        """Delete every object whose name contains this test's mark."""
        kinds = "serviceaccounts,secrets,configmaps,roles,rolebindings,persistentvolumeclaims"
        names = self.cluster.kubectl("get", kinds, "--output=name").split()
        for name in (name for name in names if self.mark in name):
            self.cluster.kubectl("delete", name, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def provisioned_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's startup kit, as FLARE provisions it."""
    project = kits.Project("doctor", [SITE], "admin@flargo.test", "10.88.0.1", 8002)
    return kits.make(project, tmp_path_factory.mktemp("provisioned")) / SITE


@pytest.fixture
def kit_setup(target: Target, provisioned_kit: Path, tmp_path: Path) -> Iterator[KitSetup]:
    setup = KitSetup(target, Cluster(target), Path(shutil.copytree(provisioned_kit, tmp_path / SITE)))
    setup.prepare("--namespace", target.namespace)
    yield setup
    setup.delete_all()
    assert setup.cluster.items("workflows.argoproj.io", "flargo.dev/doctor") == [], "no probe is left"


@pytest.fixture
def separate_setup(kit_setup: KitSetup, tmp_path: Path) -> Iterator[KitSetup]:
    """A kit in a namespace of its own, to which deploy/ is applied."""
    name = kit_setup.mark
    levels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": levels}}
    kit_setup.cluster.create(namespace)
    try:
        deploy(kit_setup.cluster, name, tmp_path)
        target = replace(kit_setup.target, namespace=name)
        setup = replace(kit_setup, target=target, cluster=Cluster(target))
        setup.prepare("--namespace", name)
        yield setup
    finally:
        kit_setup.cluster.kubectl("delete", "namespace", name, "--wait=false")


def deploy(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    resources = [os.path.relpath(DEPLOY, overlay.resolve())]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": namespace, "resources": resources}))
    scoped_cluster = Cluster(replace(cluster.target, namespace=namespace))
    scoped_cluster.kubectl("apply", "--kustomize", str(overlay))
    token_secret = "flargo-executor.service-account-token"
    eventually(lambda: "token" in _secret_data(scoped_cluster, token_secret), 20, "the token exists")


def _secret_data(cluster: Cluster, secret: str) -> Object:
    data: Object = json.loads(cluster.kubectl("get", "secret", secret, "--output=json")).get("data") or {}
    return data


# No problems


def test_administrator_sees_no_problem(kit_setup: KitSetup) -> None:
    report = kit_setup.run_doctor()
    assert {each["level"] for each in report.findings} == {"ok"}, report.findings
    assert report.exit_code == 0


def test_command_runs_as_a_program(kit_setup: KitSetup) -> None:
    program = str(Path(sys.executable).with_name("flargo"))
    argv = [program, "doctor", "--kit", str(kit_setup.kit), "--kubeconfig", str(kit_setup.target.kubeconfig)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 warning, 0 failure, 0 unknown" in result.stdout


UNREADABLE = {"executor", "job account", "pod security", "quota", "pod"}
"""The checks that flargo-launcher has no right to make."""


def test_parent_account_names_what_it_cannot_read(kit_setup: KitSetup) -> None:
    """With the rights of flargo-launcher no check fails; the checks that need other rights are unknown."""
    report = kit_setup.run_doctor(kubeconfig=kit_setup.target.launcher_kubeconfig)
    assert (report.exit_code, report.failures, set(report.by_check("warning"))) == (0, set(), set())
    assert set(report.by_check("unknown")) == UNREADABLE, report.findings
    assert report.by_check("ok")["launcher"][0]["what"].startswith("flargo-launcher has all the rights")
    assert {"api", "clock", "namespace", "argo", "controller", "restrictions", "workflow"} <= set(report.by_check("ok"))


def test_kit_kubeconfig_is_used_on_request(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--config-file", str(kit_setup.target.launcher_kubeconfig))
    result = CliRunner().invoke(group(), ["doctor", "--json", "--kit", str(kit_setup.kit), "--use-kit-kubeconfig"])
    text = " ".join(each["what"] for each in json.loads(result.stdout)["findings"])
    assert f"answers requests of system:serviceaccount:{kit_setup.target.namespace}:flargo-launcher" in text


def test_pod_uses_its_service_account(kit_setup: KitSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod, the doctor uses the mounted token and the API server's address in the environment."""
    config = yaml.safe_load(kit_setup.target.launcher_kubeconfig.read_text())
    files = {"token": config["users"][0]["user"]["token"], "namespace": kit_setup.target.namespace}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(authority))
    monkeypatch.setattr(service_account, "FOLDER", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG")
    result = CliRunner().invoke(group(), ["doctor", "--json"])
    output = json.loads(result.stdout)
    assert (result.exit_code, output["namespace"]) == (0, kit_setup.target.namespace)
    assert output["summary"]["failure"] == 0


# The cluster


def test_wrong_server_address(kit_setup: KitSetup, tmp_path: Path) -> None:
    config = yaml.safe_load(kit_setup.target.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "wrong").write_text(yaml.safe_dump(config))
    report = kit_setup.run_doctor(kubeconfig=tmp_path / "wrong")
    assert (report.exit_code, report.failures) == (1, {"api"})
    assert "refused" in report.by_check("failure")["api"][0]["what"]
    assert "server's address in the kubeconfig" in report.by_check("failure")["api"][0]["todo"]
    assert kit_setup.run_doctor().failures == set()


def test_invalid_token(kit_setup: KitSetup, tmp_path: Path) -> None:
    config = yaml.safe_load(kit_setup.target.launcher_kubeconfig.read_text())
    config["users"][0]["user"]["token"] += "x"
    (tmp_path / "old").write_text(yaml.safe_dump(config))
    report = kit_setup.run_doctor(kubeconfig=tmp_path / "old")
    assert report.failures == {"api"}
    assert "token" in report.by_check("failure")["api"][0]["todo"]


def create_launcher_token(kit_setup: KitSetup) -> str:
    """Return a token, which works through a proxy, unlike the administrator's client certificate."""
    return kit_setup.cluster.kubectl("create", "token", "flargo-launcher", "--duration=1h")


def test_clock_skew(kit_setup: KitSetup, tmp_path: Path) -> None:
    token = create_launcher_token(kit_setup)
    for seconds, level in ((-300.0, "failure"), (20.0, "warning"), (0.0, "ok")):
        with altering_proxy(kit_setup.target.kubeconfig, tmp_path / "config", token, seconds=seconds) as kubeconfig:
            report = kit_setup.run_doctor(kubeconfig=kubeconfig)
        assert [*report.by_check(level)].count("clock") == 1, report.findings
        assert report.failures == ({"clock"} if level == "failure" else set())


def test_missing_argo(kit_setup: KitSetup, tmp_path: Path) -> None:
    token = create_launcher_token(kit_setup)
    for hidden, failures in (("/apis/argoproj.io", {"argo"}), ("", set())):
        with altering_proxy(kit_setup.target.kubeconfig, tmp_path / "config", token, hidden=hidden) as kubeconfig:
            report = kit_setup.run_doctor(kubeconfig=kubeconfig)
        assert report.failures == failures, report.findings
        assert (report.by_check("unknown").get("controller") is not None) is bool(failures)


def test_missing_namespace(kit_setup: KitSetup, tmp_path: Path) -> None:
    name = kit_setup.mark
    kit_setup.prepare("--namespace", name)
    report = kit_setup.run_doctor()
    assert report.failures == {"namespace"}
    try:
        kit_setup.follow_advice(report, "namespace", commands=1)
        deploy(kit_setup.cluster, name, tmp_path)
        assert kit_setup.run_doctor("--wait", "0.5").failures == NO_CONTROLLER
    finally:
        kit_setup.cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def test_wrong_instance_id(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", f"instance_id={kit_setup.mark}")
    report = kit_setup.run_doctor("--wait", "3")
    assert report.failures == {"controller"}
    kit_setup.follow_advice(report, "controller", commands=1)
    assert kit_setup.run_doctor().failures == set()


SETTINGS = "workflow-controller-configmap"
ENVIRONMENT = {"LEADER_ELECTION_DISABLE": "true"}


@contextlib.contextmanager
def run_controller(separate_setup: KitSetup, **settings: str) -> Iterator[None]:
    """Run a controller for the separate namespace within the ``with`` block."""
    if separate_setup.target.is_external:
        pytest.skip("no controller can be started on a cluster of one's own")
    separate_setup.delete(f"configmap/{SETTINGS}")
    # The cluster's controller already uses the metrics ports.
    without_metrics = dict.fromkeys(("metricsConfig", "telemetryConfig"), "enabled: false\n")
    separate_setup.create("ConfigMap", SETTINGS, data={**without_metrics, **settings})
    namespace = separate_setup.target.namespace
    flags = {"kubeconfig": separate_setup.target.kubeconfig, "namespace": namespace, "managed-namespace": namespace}
    flags |= {"executor-image": images.names()["argoexec"]}
    argv = [str(parts.program("workflow-controller")), *(f"--{key}={value}" for key, value in flags.items())]
    with (
        (separate_setup.kit.parent / "controller.log").open("ab") as log,
        subprocess.Popen([*argv, "--namespaced"], stdout=log, stderr=log, env=os.environ | ENVIRONMENT) as process,
    ):
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["Strict", "Secure"])
def test_controller_in_reference_mode(separate_setup: KitSetup, mode: str) -> None:
    with run_controller(separate_setup, workflowRestrictions=f"templateReferencing: {mode}\n"):
        report = separate_setup.run_doctor()
        assert report.failures == {"restrictions"}
        (finding,) = report.by_check("failure")["restrictions"]
        assert "in reference mode" in finding["what"]
        assert "Remove workflowRestrictions.templateReferencing from the controller's ConfigMap" in finding["todo"]
    with run_controller(separate_setup):
        assert separate_setup.run_doctor().failures == set()


def test_reference_mode_is_read_from_the_settings(separate_setup: KitSetup) -> None:
    separate_setup.create("ConfigMap", SETTINGS, data={"workflowRestrictions": "templateReferencing: Strict\n"})
    report = separate_setup.run_doctor("--wait", "0.5")
    assert report.failures == {"restrictions", *NO_CONTROLLER}
    assert "Strict" in report.by_check("failure")["restrictions"][0]["what"]


def test_instance_id_missing_in_the_kit(separate_setup: KitSetup) -> None:
    with run_controller(separate_setup, instanceID="blue"):
        eventually(
            lambda: "controller" in separate_setup.run_doctor("--wait", "1").failures,
            30,
            "the doctor reports the controller",
        )
        report = separate_setup.run_doctor("--wait", "5")
        assert "instance_id=blue" in report.by_check("failure")["controller"][0]["todo"]
        separate_setup.follow_advice(report, "controller", commands=1)
        fixed_report = separate_setup.run_doctor()
        assert fixed_report.failures == set()
        assert "with instance id blue picked up the probe" in fixed_report.by_check("ok")["controller"][0]["what"]


def test_controller_with_parallelism_limit_and_retries(separate_setup: KitSetup) -> None:
    """The doctor warns of a full controller, and of defaults that would run a failed program again."""
    defaults = "spec: {retryStrategy: {limit: 1}}\n"
    with run_controller(separate_setup, namespaceParallelism="1", workflowDefaults=defaults):
        steps = [{"name": "wait", "suspend": {}}]
        spec = {"entrypoint": "wait", "templates": steps}
        separate_setup.create("Workflow", "the-only-one", "argoproj.io/v1alpha1", spec=spec)
        eventually(
            lambda: (separate_setup.cluster.workflow("the-only-one").get("status") or {}).get("phase"),
            30,
            "the Workflow runs",
        )
        report = separate_setup.run_doctor()
        assert (report.failures, set(report.by_check("warning"))) == (set(), {"controller", "restrictions"})
        assert "too many workflows" in report.by_check("warning")["controller"][0]["what"]
        separate_setup.delete("workflows.argoproj.io/the-only-one")
    with run_controller(separate_setup):
        assert set(separate_setup.run_doctor().by_check("warning")) == set()


# Accounts


@pytest.mark.parametrize("rule", LAUNCHER_RULES, ids=lambda rule: rule["resources"][0])
def test_launcher_without_a_rule(kit_setup: KitSetup, rule: Object) -> None:
    account, api = kit_setup.mark, "rbac.authorization.k8s.io/v1"
    kit_setup.prepare("--argo", "policy={rejoin: 1}")  # only then the parent creates Events
    kit_setup.create("ServiceAccount", account)
    kit_setup.create("Role", account, api, rules=[each for each in LAUNCHER_RULES if each is not rule])
    subject = {"kind": "ServiceAccount", "name": account, "namespace": kit_setup.target.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    kit_setup.create("RoleBinding", account, api, subjects=[subject], roleRef=role)
    report = kit_setup.run_doctor("--account", account)
    is_optional = OPTIONAL_RIGHTS.keys() >= {*split_rules([rule])}
    assert report.failures == (set() if is_optional else {"launcher"})
    (finding,) = report.by_check("warning" if is_optional else "failure")["launcher"]
    assert all(verb in finding["what"] for verb in rule["verbs"])
    kit_setup.follow_advice(report, "launcher", commands=2)
    assert kit_setup.run_doctor("--account", account).failures == set()


def test_parent_without_any_right(kit_setup: KitSetup, tmp_path: Path) -> None:
    kit_setup.create("ServiceAccount", kit_setup.mark)
    config = yaml.safe_load(kit_setup.target.launcher_kubeconfig.read_text())
    config["users"][0]["user"]["token"] = kit_setup.cluster.kubectl("create", "token", kit_setup.mark)
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    report = kit_setup.run_doctor(kubeconfig=tmp_path / "config")
    assert report.failures == {"launcher"}
    assert "create workflows.argoproj.io" in report.by_check("unknown")["controller"][0]["what"]
    kit_setup.follow_advice(report, "launcher", commands=2 * len(LAUNCHER_RULES))
    fixed_report = kit_setup.run_doctor(kubeconfig=tmp_path / "config")
    assert fixed_report.failures == set()
    assert set(fixed_report.by_check("unknown")) == UNREADABLE


def test_missing_launcher_account(kit_setup: KitSetup) -> None:
    report = kit_setup.run_doctor("--account", kit_setup.mark)
    assert report.failures == {"launcher"}
    kit_setup.follow_advice(report, "launcher", commands=1 + 2 * len(LAUNCHER_RULES))
    assert kit_setup.run_doctor("--account", kit_setup.mark).failures == set()


def create_token_secret(kit_setup: KitSetup) -> None:
    """Create the executor's token Secret as in deploy/executor.yaml and the doctor's advice."""
    annotations = {"kubernetes.io/service-account.name": kit_setup.mark}
    name = f"{kit_setup.mark}.service-account-token"
    kit_setup.create("Secret", name, type=TOKEN_TYPE, metadata={"annotations": annotations})
    eventually(lambda: "token" in _secret_data(kit_setup.cluster, name), 20, "the token exists")


def test_missing_executor_account(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", f"executor_service_account={kit_setup.mark}")
    report = kit_setup.run_doctor()
    assert report.failures == {"executor"}
    assert len(report.by_check("failure")["executor"]) == 3, "the account, its token, its rights"
    kit_setup.follow_advice(report, "executor", commands=3)
    create_token_secret(kit_setup)
    assert kit_setup.run_doctor().failures == set()


def test_missing_executor_token(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", f"executor_service_account={kit_setup.mark}")
    kit_setup.follow_advice(kit_setup.run_doctor(), "executor", commands=3)
    report = kit_setup.run_doctor()
    assert report.failures == {"executor"}
    (finding,) = report.by_check("failure")["executor"]
    assert f"{kit_setup.mark}.service-account-token" in finding["what"]
    assert f"annotation kubernetes.io/service-account.name: {kit_setup.mark}" in finding["todo"]
    create_token_secret(kit_setup)
    assert kit_setup.run_doctor().failures == set()


def test_missing_job_account(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", f"service_account={kit_setup.mark}")
    report = kit_setup.run_doctor()
    assert report.failures == {"job account", "pod"}
    kit_setup.follow_advice(report, "job account", commands=1)
    assert kit_setup.run_doctor().failures == set()


# Objects that jobs refer to


def test_missing_volume_claim(kit_setup: KitSetup) -> None:
    kit_setup.write_study(datasets={"images": {"type": "mount", "source": kit_setup.mark, "mode": "ro"}})
    report = kit_setup.run_doctor()
    assert report.failures == {"volume claims"}
    common_spec: Object = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeMode": "Filesystem"}
    claim = {"resources": {"requests": {"storage": "1Mi"}}, "volumeName": kit_setup.mark}
    kit_setup.create("PersistentVolumeClaim", kit_setup.mark, spec={**common_spec, **claim})
    report = kit_setup.run_doctor()
    assert (report.failures, set(report.by_check("warning"))) == (set(), {"volume claims"})
    volume = {"capacity": {"storage": "1Mi"}, "hostPath": {"path": "/tmp"}}
    document = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": kit_setup.mark}}
    kit_setup.cluster.create({**document, "spec": {**common_spec, **volume}})
    try:
        eventually(lambda: "volume claims" in kit_setup.run_doctor().by_check("ok"), 60, "the claim is bound")
        assert kit_setup.run_doctor().failures == set()
    finally:
        kit_setup.delete(f"persistentvolumeclaims/{kit_setup.mark}", f"persistentvolume/{kit_setup.mark}")


def test_study_secret_missing_or_without_key(kit_setup: KitSetup) -> None:
    kit_setup.write_study(secret_env={"PASSWORD": {"source": kit_setup.mark, "key": "password"}})
    report = kit_setup.run_doctor()
    assert report.failures == {"study secrets"}
    assert "a job of study heart" in report.by_check("failure")["study secrets"][0]["what"]
    kit_setup.create("Secret", kit_setup.mark, stringData={"pasword": "x"})
    report = kit_setup.run_doctor()
    assert "has no key password" in report.by_check("failure")["study secrets"][0]["what"]
    kit_setup.cluster.kubectl("patch", "secret", kit_setup.mark, '--patch={"stringData": {"password": "x"}}')
    assert kit_setup.run_doctor().failures == set()


def test_missing_config_map(kit_setup: KitSetup) -> None:
    volumes = [{"name": "settings", "configMap": {"name": kit_setup.mark}}]
    write_pod_template(kit_setup, volumes=volumes)
    assert kit_setup.run_doctor().failures == {"config maps"}
    kit_setup.create("ConfigMap", kit_setup.mark, data={"a": "b"})
    assert kit_setup.run_doctor().failures == set()


def write_pod_template(kit_setup: KitSetup, **spec: Any) -> None:
    template = {"spec": {"containers": [{"name": "nvflare_job"}], **spec}}
    (kit_setup.kit / "local/pod.yaml").write_text(yaml.safe_dump(template))
    kit_setup.write_study(pod_template="pod.yaml")


def test_queue_missing_or_without_a_number(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", f"semaphore={{name: {kit_setup.mark}, key: jobs}}", "--argo", "queued=60")
    report = kit_setup.run_doctor()
    assert report.failures == {"queue"}
    assert f"no ConfigMap {kit_setup.mark}" in report.by_check("failure")["queue"][0]["what"]
    kit_setup.follow_advice(report, "queue", commands=1)
    assert kit_setup.run_doctor().failures == set()
    for data in ('{"jobs": "0"}', '{"jobs": null, "job": "2"}'):
        kit_setup.cluster.kubectl("patch", "configmap", kit_setup.mark, f'--patch={{"data": {data}}}')
        report = kit_setup.run_doctor()
        assert report.failures == {"queue"}, data
        kit_setup.follow_advice(report, "queue", commands=1)
        assert "lets 2 run at once" in kit_setup.run_doctor().by_check("ok")["queue"][0]["what"]
    parent_report = kit_setup.run_doctor(kubeconfig=kit_setup.target.launcher_kubeconfig)
    assert set(parent_report.by_check("unknown")) == {*UNREADABLE, "queue"}, "the parent may not read ConfigMaps"


def test_missing_pull_secret(kit_setup: KitSetup) -> None:
    file = kit_setup.kit / "local/flargo__p_resources.json"
    resources = json.loads(file.read_text())
    resources["components"][-1]["args"]["image_pull_secrets"] = [kit_setup.mark]
    file.write_text(json.dumps(resources))
    report = kit_setup.run_doctor()
    assert report.failures == {"pull secrets"}
    (finding,) = report.by_check("failure")["pull secrets"]
    (command,) = re.findall(r"`kubectl ([^`]*) \.\.\.`", finding["todo"])
    user = ("--docker-server=registry.example", "--docker-username=a", "--docker-password=b")
    kit_setup.cluster.kubectl(*command.split(), *user)
    assert kit_setup.run_doctor().failures == set()


def test_invalid_study(kit_setup: KitSetup) -> None:
    kit_setup.write_study(envy={})
    report = kit_setup.run_doctor()
    assert report.failures == {"kit"}
    kit_setup.write_study(env={"A": "1"})
    assert kit_setup.run_doctor().failures == set()


# Admission


def test_pod_security_violation(kit_setup: KitSetup) -> None:
    write_pod_template(kit_setup, hostNetwork=True)
    report = kit_setup.run_doctor()
    assert report.failures == {"pod security"}
    (finding,) = report.by_check("failure")["pod security"]
    assert "hostNetwork=true" in finding["what"]
    assert "pod template" in finding["todo"]
    write_pod_template(kit_setup)
    assert kit_setup.run_doctor().failures == set()


def test_argos_containers_violate_pod_security(kit_setup: KitSetup) -> None:
    kit_setup.prepare("--argo", "patch_executor=false")
    report = kit_setup.run_doctor()
    assert report.failures == {"pod security"}
    assert '"wait"' in report.by_check("failure")["pod security"][0]["what"]
    kit_setup.prepare("--argo", "patch_executor=true")
    assert kit_setup.run_doctor().failures == set()


def test_quota_of_no_pods(separate_setup: KitSetup) -> None:
    assert separate_setup.run_doctor("--wait", "0.5").failures == NO_CONTROLLER
    with separate_setup.cluster.apply_quota("none", pods="0"):
        report = separate_setup.run_doctor("--wait", "0.5")
        assert report.failures == {"quota", *NO_CONTROLLER}
        assert "Raise the quota" in report.by_check("failure")["quota"][0]["todo"]
        separate_setup.cluster.kubectl(
            "patch", "resourcequota", "none", "--type=merge", '--patch={"spec": {"hard": {"pods": "5"}}}'
        )
        eventually(
            lambda: "quota" not in separate_setup.run_doctor("--wait", "0.5").failures, 20, "the quota is updated"
        )
        assert separate_setup.run_doctor("--wait", "0.5").failures == NO_CONTROLLER


def test_quota_that_requires_limits(separate_setup: KitSetup) -> None:
    with separate_setup.cluster.apply_quota("memory", **{"limits.memory": "64Gi"}):
        report = separate_setup.run_doctor("--wait", "0.5")
        assert report.failures == {"quota", *NO_CONTROLLER}
        meta = separate_setup.kit.parent / "meta.json"
        spec = {"image": "registry.example/job:1", "memory": "1Gi"}
        meta.write_text(json.dumps({"name": "job", "launcher_spec": {"default": {"k8s": spec}}}))
        assert separate_setup.run_doctor("--wait", "0.5", "--job", meta).failures == NO_CONTROLLER


@pytest.mark.parametrize("kind", ["workflows", "pods"])
def test_admission_policy_refuses(kit_setup: KitSetup, kind: str) -> None:
    with kit_setup.cluster.deny(kind, federation_id(kit_setup.kit / "startup")):
        report = kit_setup.run_doctor()
        check = {"workflows": "workflow", "pods": "pod"}[kind]
        assert report.failures == {check}
        assert "not on a Tuesday" in report.by_check("failure")[check][0]["what"]
    eventually(lambda: kit_setup.run_doctor().failures == set(), 30, "the policy is gone")
