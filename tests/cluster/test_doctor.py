"""The doctor on a real cluster: green where jobs run, finds each broken set-up, and its advice, followed, mends it.

Whatever is broken is the test's own: a kit, an account, a namespace, a controller for that namespace.
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
from kubernetes.config import incluster_config

from flargo.cluster import client_config
from flargo.flare.request import federation_id
from flargo.tools.cli.main import group
from flargo.tools.demo import kits
from flargo.tools.kit.chart import LAUNCHER_RULES
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import images, parts
from tests.harness.real_cluster.target import Target
from tests.harness.variants import altering_proxy

SITE = "site-1"
TOKEN_TYPE = "kubernetes.io/service-account-token"
FOREIGN = {"controller"}
"""What a namespace of one's own lacks here: the tests' controller watches another."""


@dataclass(frozen=True)
class Found:
    """What the doctor said."""

    exit_code: int
    findings: list[dict[str, str]]

    def of(self, level: str) -> dict[str, list[dict[str, str]]]:
        """The findings of a level, by check."""
        made: dict[str, list[dict[str, str]]] = {}
        for each in self.findings:
            if each["level"] == level:
                made.setdefault(each["check"], []).append(each)
        return made

    @property
    def failed(self) -> set[str]:
        """The checks that found a failure."""
        return set(self.of("failure"))


@dataclass
class Clinic:
    """A kit of one's own on the tests' namespace, and the doctor."""

    target: Target
    cluster: Cluster
    kit: Path
    mark: str = field(default_factory=lambda: f"doctor-{uuid.uuid4().hex[:8]}")
    """What all that the test makes is called."""

    def prepare(self, *options: str) -> None:
        """Let the kit use flargo, with options."""
        self.flargo("prepare", str(self.kit), *options)

    def examine(self, *options: str | Path, kubeconfig: Path | None = None) -> Found:
        """Run the doctor, as an administrator unless somebody else is named."""
        who = ("--kubeconfig", str(kubeconfig or self.target.kubeconfig))
        words = ["doctor", "--json", "--kit", str(self.kit), *who, *map(str, options)]
        done = CliRunner().invoke(group(), words)
        assert done.exit_code in {0, 1}, done.output
        return Found(done.exit_code, json.loads(done.stdout)["findings"])

    def flargo(self, *words: str) -> None:
        """Run another command."""
        done = CliRunner().invoke(group(), words)
        assert done.exit_code == 0, done.output

    def follow(self, found: Found, check: str, commands: int) -> None:
        """Run the commands that the advice of a check has in it."""
        told = " ".join(each["todo"] for each in found.of("failure")[check])
        ran = 0
        for command in re.findall(r"`((?:kubectl|flargo) [^`]*)`", told):
            program, *words = shlex.split(command.removesuffix(" ...").replace("KIT", str(self.kit)))
            if program == "kubectl":
                self.cluster.kubectl(*words)
            else:
                self.flargo(*words)
            ran += 1
        assert ran == commands, told

    def study(self, **said: Any) -> None:
        """Give the kit's site a study."""
        runtime = {"format_version": 2, "studies": {"heart": said}}
        (self.kit / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))

    def create(self, kind: str, name: str, api: str = "v1", **more: Any) -> None:
        """Make an object in the namespace, which goes when the test ends."""
        meta = {"name": name, "namespace": self.target.namespace, **more.pop("metadata", {})}
        labels = {**meta.get("labels", {}), "flargo.test/doctor": self.mark}
        self.cluster.create({"apiVersion": api, "kind": kind, "metadata": {**meta, "labels": labels}, **more})

    def drop(self, *kinds_and_names: str) -> None:
        """Delete what was made."""
        for each in kinds_and_names:
            self.cluster.kubectl("delete", *each.split("/"), "--ignore-not-found", "--wait=false")

    def sweep(self) -> None:
        """Delete all that was made under this mark, by label or by name."""
        kinds = "serviceaccounts,secrets,configmaps,roles,rolebindings,persistentvolumeclaims"
        named = [name for name in self.cluster.kubectl("get", kinds, "--output=name").split() if self.mark in name]
        for name in named:
            self.cluster.kubectl("delete", name, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def made_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's kit as FLARE provisions it."""
    project = kits.Project("doctor", [SITE], "admin@flargo.test", "10.88.0.1", 8002)
    return kits.make(project, tmp_path_factory.mktemp("provisioned")) / SITE


@pytest.fixture
def clinic(target: Target, made_kit: Path, tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic(target, Cluster(target), Path(shutil.copytree(made_kit, tmp_path / SITE)))
    made.prepare("--namespace", target.namespace)
    yield made
    made.sweep()
    assert made.cluster.items("workflows.argoproj.io", "flargo.dev/doctor") == [], "no probe is left"


@pytest.fixture
def apart(clinic: Clinic, tmp_path: Path) -> Iterator[Clinic]:
    """The same in a namespace of its own, with deploy/ applied."""
    name = clinic.mark
    levels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": levels}}
    clinic.cluster.create(namespace)
    try:
        deploy(clinic.cluster, name, tmp_path)
        target = replace(clinic.target, namespace=name)
        made = replace(clinic, target=target, cluster=Cluster(target))
        made.prepare("--namespace", name)
        yield made
    finally:
        clinic.cluster.kubectl("delete", "namespace", name, "--wait=false")


def deploy(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    resources = [os.path.relpath(DEPLOY, overlay.resolve())]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": namespace, "resources": resources}))
    apart = Cluster(replace(cluster.target, namespace=namespace))
    apart.kubectl("apply", "--kustomize", str(overlay))
    eventually(lambda: "token" in _data(apart, "flargo-executor.service-account-token"), 20, "the token is there")


def _data(cluster: Cluster, secret: str) -> Object:
    found: Object = json.loads(cluster.kubectl("get", "secret", secret, "--output=json")).get("data") or {}
    return found


# Green


def test_all_is_green_for_an_administrator(clinic: Clinic) -> None:
    found = clinic.examine()
    assert {each["level"] for each in found.findings} == {"ok"}, found.findings
    assert found.exit_code == 0


def test_the_command_runs_as_people_run_it(clinic: Clinic) -> None:
    program = str(Path(sys.executable).with_name("flargo"))
    words = [program, "doctor", "--kit", str(clinic.kit), "--kubeconfig", str(clinic.target.kubeconfig)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 warning, 0 failure, 0 unknown" in done.stdout


UNSEEN = {"executor", "job account", "pod security", "quota", "pod"}
"""What flargo-launcher has no right to look at."""


def test_the_parent_itself_sees_that_nothing_fails_and_what_it_cannot_see(clinic: Clinic) -> None:
    found = clinic.examine(kubeconfig=clinic.target.launcher_kubeconfig)
    assert (found.exit_code, found.failed, set(found.of("warning"))) == (0, set(), set())
    assert set(found.of("unknown")) == UNSEEN, found.findings
    assert found.of("ok")["launcher"][0]["what"].startswith("flargo-launcher has all the rights")
    assert {"api", "clock", "namespace", "argo", "controller", "restrictions", "workflow"} <= set(found.of("ok"))


def test_a_kit_that_names_a_kubeconfig_is_looked_at_as_its_parent_would(clinic: Clinic) -> None:
    clinic.prepare("--config-file", str(clinic.target.launcher_kubeconfig))
    done = CliRunner().invoke(group(), ["doctor", "--json", "--kit", str(clinic.kit), "--use-kit-kubeconfig"])
    said = " ".join(each["what"] for each in json.loads(done.stdout)["findings"])
    assert f"answers requests of system:serviceaccount:{clinic.target.namespace}:flargo-launcher" in said


def test_in_a_pod_it_is_the_pods_account(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what a pod finds: the mounted token, and the API server's Service in its environment."""
    config = yaml.safe_load(clinic.target.launcher_kubeconfig.read_text())
    files = {"token": config["users"][0]["user"]["token"], "namespace": clinic.target.namespace}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(authority))
    monkeypatch.setattr(client_config, "IN_CLUSTER_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG")
    done = CliRunner().invoke(group(), ["doctor", "--json"])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["namespace"]) == (0, clinic.target.namespace)
    assert said["summary"]["failure"] == 0


# The cluster


def test_a_wrong_server_address(clinic: Clinic, tmp_path: Path) -> None:
    config = yaml.safe_load(clinic.target.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "wrong").write_text(yaml.safe_dump(config))
    found = clinic.examine(kubeconfig=tmp_path / "wrong")
    assert (found.exit_code, found.failed) == (1, {"api"})
    assert "refused" in found.of("failure")["api"][0]["what"]
    assert "server's address in the kubeconfig" in found.of("failure")["api"][0]["todo"]
    assert clinic.examine().failed == set()


def test_a_token_that_is_none(clinic: Clinic, tmp_path: Path) -> None:
    config = yaml.safe_load(clinic.target.launcher_kubeconfig.read_text())
    config["users"][0]["user"]["token"] += "x"
    (tmp_path / "old").write_text(yaml.safe_dump(config))
    found = clinic.examine(kubeconfig=tmp_path / "old")
    assert found.failed == {"api"}
    assert "token" in found.of("failure")["api"][0]["todo"]


def launchers_token(clinic: Clinic) -> str:
    """Of somebody who passes a proxy, as the administrator with his certificate does not."""
    return clinic.cluster.kubectl("create", "token", "flargo-launcher", "--duration=1h")


def test_a_clock_that_is_off(clinic: Clinic, tmp_path: Path) -> None:
    token = launchers_token(clinic)
    for seconds, level in ((-300.0, "failure"), (20.0, "warning"), (0.0, "ok")):
        with altering_proxy(clinic.target.kubeconfig, tmp_path / "config", token, seconds=seconds) as kubeconfig:
            found = clinic.examine(kubeconfig=kubeconfig)
        assert [*found.of(level)].count("clock") == 1, found.findings
        assert found.failed == ({"clock"} if level == "failure" else set())


def test_no_argo(clinic: Clinic, tmp_path: Path) -> None:
    token = launchers_token(clinic)
    for hidden, failed in (("/apis/argoproj.io", {"argo"}), ("", set())):
        with altering_proxy(clinic.target.kubeconfig, tmp_path / "config", token, hidden=hidden) as kubeconfig:
            found = clinic.examine(kubeconfig=kubeconfig)
        assert found.failed == failed, found.findings
        assert (found.of("unknown").get("controller") is not None) is bool(failed)


def test_no_namespace(clinic: Clinic, tmp_path: Path) -> None:
    name = clinic.mark
    clinic.prepare("--namespace", name)
    found = clinic.examine()
    assert found.failed == {"namespace"}
    try:
        clinic.follow(found, "namespace", commands=1)
        deploy(clinic.cluster, name, tmp_path)
        assert clinic.examine("--wait", "0.5").failed == FOREIGN
    finally:
        clinic.cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def test_a_wrong_instance_id(clinic: Clinic) -> None:
    clinic.prepare("--argo", f"instance_id={clinic.mark}")
    found = clinic.examine("--wait", "3")
    assert found.failed == {"controller"}
    clinic.follow(found, "controller", commands=1)
    assert clinic.examine().failed == set()


SETTINGS = "workflow-controller-configmap"
ENVIRONMENT = {"LEADER_ELECTION_DISABLE": "true"}


@contextlib.contextmanager
def controller(apart: Clinic, **settings: str) -> Iterator[None]:
    """A controller for a namespace of one's own, as long as the ``with`` lasts."""
    if apart.target.own:
        pytest.skip("no controller can be started there")
    apart.drop(f"configmap/{SETTINGS}")
    # The ports of its metrics are the other controller's.
    quiet = dict.fromkeys(("metricsConfig", "telemetryConfig"), "enabled: false\n")
    apart.create("ConfigMap", SETTINGS, data={**quiet, **settings})
    namespace = apart.target.namespace
    flags = {"kubeconfig": apart.target.kubeconfig, "namespace": namespace, "managed-namespace": namespace}
    flags |= {"executor-image": images.names()["argoexec"]}
    words = [str(parts.program("workflow-controller")), *(f"--{key}={value}" for key, value in flags.items())]
    with (
        (apart.kit.parent / "controller.log").open("ab") as log,
        subprocess.Popen([*words, "--namespaced"], stdout=log, stderr=log, env=os.environ | ENVIRONMENT) as process,
    ):
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["Strict", "Secure"])
def test_a_controller_in_reference_mode(apart: Clinic, mode: str) -> None:
    with controller(apart, workflowRestrictions=f"templateReferencing: {mode}\n"):
        found = apart.examine()
        assert found.failed == {"restrictions"}
        (said,) = found.of("failure")["restrictions"]
        assert "in reference mode" in said["what"]
        assert "Remove workflowRestrictions.templateReferencing from the controller's ConfigMap" in said["todo"]
    with controller(apart):
        assert apart.examine().failed == set()


def test_a_controller_in_reference_mode_as_its_settings_say(apart: Clinic) -> None:
    apart.create("ConfigMap", SETTINGS, data={"workflowRestrictions": "templateReferencing: Strict\n"})
    found = apart.examine("--wait", "0.5")
    assert found.failed == {"restrictions", *FOREIGN}
    assert "Strict" in found.of("failure")["restrictions"][0]["what"]


def test_an_instance_id_that_the_kit_does_not_say(apart: Clinic) -> None:
    with controller(apart, instanceID="blue"):
        eventually(lambda: "controller" in apart.examine("--wait", "1").failed, 30, "it is found")
        found = apart.examine("--wait", "5")
        assert "instance_id=blue" in found.of("failure")["controller"][0]["todo"]
        apart.follow(found, "controller", commands=1)
        mended = apart.examine()
        assert mended.failed == set()
        assert "with instance id blue picked up the probe" in mended.of("ok")["controller"][0]["what"]


def test_a_controller_that_lets_nothing_more_run_and_runs_failed_steps_again(apart: Clinic) -> None:
    defaults = "spec: {retryStrategy: {limit: 1}}\n"
    with controller(apart, namespaceParallelism="1", workflowDefaults=defaults):
        steps = [{"name": "wait", "suspend": {}}]
        spec = {"entrypoint": "wait", "templates": steps}
        apart.create("Workflow", "the-only-one", "argoproj.io/v1alpha1", spec=spec)
        eventually(lambda: (apart.cluster.workflow("the-only-one").get("status") or {}).get("phase"), 30, "it runs")
        found = apart.examine()
        assert (found.failed, set(found.of("warning"))) == (set(), {"controller", "restrictions"})
        assert "too many workflows" in found.of("warning")["controller"][0]["what"]
        apart.drop("workflows.argoproj.io/the-only-one")
    with controller(apart):
        assert set(apart.examine().of("warning")) == set()


# Accounts


@pytest.mark.parametrize("rule", LAUNCHER_RULES, ids=lambda rule: rule["resources"][0])
def test_a_launcher_that_lacks_a_right(clinic: Clinic, rule: Object) -> None:
    account, api = clinic.mark, "rbac.authorization.k8s.io/v1"
    clinic.create("ServiceAccount", account)
    clinic.create("Role", account, api, rules=[each for each in LAUNCHER_RULES if each is not rule])
    subject = {"kind": "ServiceAccount", "name": account, "namespace": clinic.target.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
    clinic.create("RoleBinding", account, api, subjects=[subject], roleRef=role)
    found = clinic.examine("--account", account)
    assert found.failed == {"launcher"}
    (said,) = found.of("failure")["launcher"]
    assert all(verb in said["what"] for verb in rule["verbs"])
    clinic.follow(found, "launcher", commands=2)
    assert clinic.examine("--account", account).failed == set()


def test_a_parent_without_any_right(clinic: Clinic, tmp_path: Path) -> None:
    clinic.create("ServiceAccount", clinic.mark)
    config = yaml.safe_load(clinic.target.launcher_kubeconfig.read_text())
    config["users"][0]["user"]["token"] = clinic.cluster.kubectl("create", "token", clinic.mark)
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    found = clinic.examine(kubeconfig=tmp_path / "config")
    assert found.failed == {"launcher"}
    assert "create workflows.argoproj.io" in found.of("unknown")["controller"][0]["what"]
    clinic.follow(found, "launcher", commands=2 * len(LAUNCHER_RULES))
    mended = clinic.examine(kubeconfig=tmp_path / "config")
    assert mended.failed == set()
    assert set(mended.of("unknown")) == UNSEEN


def test_no_launcher_account(clinic: Clinic) -> None:
    found = clinic.examine("--account", clinic.mark)
    assert found.failed == {"launcher"}
    clinic.follow(found, "launcher", commands=1 + 2 * len(LAUNCHER_RULES))
    assert clinic.examine("--account", clinic.mark).failed == set()


def token_secret(clinic: Clinic) -> None:
    """As deploy/executor.yaml does, and as the advice says."""
    annotations = {"kubernetes.io/service-account.name": clinic.mark}
    name = f"{clinic.mark}.service-account-token"
    clinic.create("Secret", name, type=TOKEN_TYPE, metadata={"annotations": annotations})
    eventually(lambda: "token" in _data(clinic.cluster, name), 20, "the token is there")


def test_no_executor_account(clinic: Clinic) -> None:
    clinic.prepare("--argo", f"executor_service_account={clinic.mark}")
    found = clinic.examine()
    assert found.failed == {"executor"}
    assert len(found.of("failure")["executor"]) == 3, "the account, its token, its rights"
    clinic.follow(found, "executor", commands=3)
    token_secret(clinic)
    assert clinic.examine().failed == set()


def test_no_executor_token(clinic: Clinic) -> None:
    clinic.prepare("--argo", f"executor_service_account={clinic.mark}")
    clinic.follow(clinic.examine(), "executor", commands=3)
    found = clinic.examine()
    assert found.failed == {"executor"}
    (said,) = found.of("failure")["executor"]
    assert f"{clinic.mark}.service-account-token" in said["what"]
    assert f"annotation kubernetes.io/service-account.name: {clinic.mark}" in said["todo"]
    token_secret(clinic)
    assert clinic.examine().failed == set()


def test_no_job_account(clinic: Clinic) -> None:
    clinic.prepare("--argo", f"service_account={clinic.mark}")
    found = clinic.examine()
    assert found.failed == {"job account", "pod"}
    clinic.follow(found, "job account", commands=1)
    assert clinic.examine().failed == set()


# What jobs name


def test_no_volume_claim(clinic: Clinic) -> None:
    clinic.study(datasets={"images": {"type": "mount", "source": clinic.mark, "mode": "ro"}})
    found = clinic.examine()
    assert found.failed == {"volume claims"}
    both: Object = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeMode": "Filesystem"}
    claimed = {"resources": {"requests": {"storage": "1Mi"}}, "volumeName": clinic.mark}
    clinic.create("PersistentVolumeClaim", clinic.mark, spec={**both, **claimed})
    waiting = clinic.examine()
    assert (waiting.failed, set(waiting.of("warning"))) == (set(), {"volume claims"})
    volume = {"capacity": {"storage": "1Mi"}, "hostPath": {"path": "/tmp"}}
    document = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": clinic.mark}}
    clinic.cluster.create({**document, "spec": {**both, **volume}})
    try:
        eventually(lambda: "volume claims" in clinic.examine().of("ok"), 60, "the claim is bound")
        assert clinic.examine().failed == set()
    finally:
        clinic.drop(f"persistentvolumeclaims/{clinic.mark}", f"persistentvolume/{clinic.mark}")


def test_no_study_secret_and_one_without_the_key(clinic: Clinic) -> None:
    clinic.study(secret_env={"PASSWORD": {"source": clinic.mark, "key": "password"}})
    found = clinic.examine()
    assert found.failed == {"study secrets"}
    assert "a job of study heart" in found.of("failure")["study secrets"][0]["what"]
    clinic.create("Secret", clinic.mark, stringData={"pasword": "x"})
    found = clinic.examine()
    assert "has no key password" in found.of("failure")["study secrets"][0]["what"]
    clinic.cluster.kubectl("patch", "secret", clinic.mark, '--patch={"stringData": {"password": "x"}}')
    assert clinic.examine().failed == set()


def test_no_config_map(clinic: Clinic) -> None:
    volumes = [{"name": "settings", "configMap": {"name": clinic.mark}}]
    with_template(clinic, volumes=volumes)
    assert clinic.examine().failed == {"config maps"}
    clinic.create("ConfigMap", clinic.mark, data={"a": "b"})
    assert clinic.examine().failed == set()


def with_template(clinic: Clinic, **spec: Any) -> None:
    template = {"spec": {"containers": [{"name": "nvflare_job"}], **spec}}
    (clinic.kit / "local/pod.yaml").write_text(yaml.safe_dump(template))
    clinic.study(pod_template="pod.yaml")


def test_no_queue_and_one_without_a_number(clinic: Clinic) -> None:
    clinic.prepare("--argo", f"semaphore={{name: {clinic.mark}, key: jobs}}", "--argo", "queued=60")
    found = clinic.examine()
    assert found.failed == {"queue"}
    assert f"no ConfigMap {clinic.mark}" in found.of("failure")["queue"][0]["what"]
    clinic.follow(found, "queue", commands=1)
    assert clinic.examine().failed == set()
    for broken in ('{"jobs": "0"}', '{"jobs": null, "job": "2"}'):
        clinic.cluster.kubectl("patch", "configmap", clinic.mark, f'--patch={{"data": {broken}}}')
        found = clinic.examine()
        assert found.failed == {"queue"}, broken
        clinic.follow(found, "queue", commands=1)
        assert "lets 2 run at once" in clinic.examine().of("ok")["queue"][0]["what"]
    unseen = clinic.examine(kubeconfig=clinic.target.launcher_kubeconfig)
    assert set(unseen.of("unknown")) == {*UNSEEN, "queue"}, "the parent may not read ConfigMaps"


def test_no_pull_secret(clinic: Clinic) -> None:
    file = clinic.kit / "local/flargo__p_resources.json"
    resources = json.loads(file.read_text())
    resources["components"][-1]["args"]["image_pull_secrets"] = [clinic.mark]
    file.write_text(json.dumps(resources))
    found = clinic.examine()
    assert found.failed == {"pull secrets"}
    (said,) = found.of("failure")["pull secrets"]
    (command,) = re.findall(r"`kubectl ([^`]*) \.\.\.`", said["todo"])
    user = ("--docker-server=registry.example", "--docker-username=a", "--docker-password=b")
    clinic.cluster.kubectl(*command.split(), *user)
    assert clinic.examine().failed == set()


def test_a_study_that_flargo_would_refuse(clinic: Clinic) -> None:
    clinic.study(envy={})
    found = clinic.examine()
    assert found.failed == {"kit"}
    clinic.study(env={"A": "1"})
    assert clinic.examine().failed == set()


# Admission


def test_pod_security(clinic: Clinic) -> None:
    with_template(clinic, hostNetwork=True)
    found = clinic.examine()
    assert found.failed == {"pod security"}
    (said,) = found.of("failure")["pod security"]
    assert "hostNetwork=true" in said["what"]
    assert "pod template" in said["todo"]
    with_template(clinic)
    assert clinic.examine().failed == set()


def test_a_level_that_argos_own_containers_do_not_meet(clinic: Clinic) -> None:
    clinic.prepare("--argo", "patch_executor=false")
    found = clinic.examine()
    assert found.failed == {"pod security"}
    assert '"wait"' in found.of("failure")["pod security"][0]["what"]
    clinic.prepare("--argo", "patch_executor=true")
    assert clinic.examine().failed == set()


def test_a_quota_of_no_pods(apart: Clinic) -> None:
    assert apart.examine("--wait", "0.5").failed == FOREIGN
    with apart.cluster.apply_quota("none", pods="0"):
        found = apart.examine("--wait", "0.5")
        assert found.failed == {"quota", *FOREIGN}
        assert "Raise the quota" in found.of("failure")["quota"][0]["todo"]
        apart.cluster.kubectl(
            "patch", "resourcequota", "none", "--type=merge", '--patch={"spec": {"hard": {"pods": "5"}}}'
        )
        eventually(lambda: "quota" not in apart.examine("--wait", "0.5").failed, 20, "the quota is counted anew")
        assert apart.examine("--wait", "0.5").failed == FOREIGN


def test_a_quota_that_asks_for_limits(apart: Clinic) -> None:
    with apart.cluster.apply_quota("memory", **{"limits.memory": "64Gi"}):
        found = apart.examine("--wait", "0.5")
        assert found.failed == {"quota", *FOREIGN}
        meta = apart.kit.parent / "meta.json"
        spec = {"image": "registry.example/job:1", "memory": "1Gi"}
        meta.write_text(json.dumps({"name": "job", "launcher_spec": {"default": {"k8s": spec}}}))
        assert apart.examine("--wait", "0.5", "--job", meta).failed == FOREIGN


@pytest.mark.parametrize("kind", ["workflows", "pods"])
def test_a_policy_that_refuses(clinic: Clinic, kind: str) -> None:
    with clinic.cluster.deny(kind, federation_id(clinic.kit / "startup")):
        found = clinic.examine()
        check = {"workflows": "workflow", "pods": "pod"}[kind]
        assert found.failed == {check}
        assert "not on a Tuesday" in found.of("failure")[check][0]["what"]
    eventually(lambda: clinic.examine().failed == set(), 30, "the policy is gone")
