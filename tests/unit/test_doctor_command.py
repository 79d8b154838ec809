"""Tests of the command `flargo doctor` without a cluster: options, exit codes, text and JSON."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from flargo.cluster import client_config, service_account, target
from flargo.cluster.survey import Survey
from flargo.job.validate import InvalidInput
from flargo.tools.cli import doctor as command
from flargo.tools.cli.cluster_options import choose_cluster
from tests.harness import command_line
from tests.harness.fake_cluster import HOME, FakeCluster

Kit = Callable[[str], Path]


def run(*arguments: str | Path) -> Result:
    return command_line.run("doctor", *arguments)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Replace the cluster of any kubeconfig by a fake one."""
    fake_cluster = FakeCluster()
    monkeypatch.setattr(command, "_survey", lambda *_: fake_cluster)
    monkeypatch.setattr("time.time", lambda: fake_cluster.time)
    monkeypatch.setattr("time.sleep", fake_cluster.pause)
    return fake_cluster


def add_accounts(cluster: FakeCluster, *names: str) -> None:
    for name in names:
        cluster.objects[f"/api/v1/namespaces/{HOME}/serviceaccounts/{name}"] = {"metadata": {}}


@pytest.mark.usefixtures("cluster")
def test_success_is_exit_code_0() -> None:
    result = run("--namespace", HOME)
    assert result.exit_code == 0, result.stdout
    assert "0 failure" in result.stdout
    assert result.stdout.splitlines()[0].split()[:2] == ["ok", "api"]


def test_failure_with_advice_is_exit_code_1(cluster: FakeCluster) -> None:
    cluster.delete_object("flargo-job")
    result = run("--namespace", HOME)
    assert result.exit_code == 1
    assert "failure  job account" in result.stdout
    assert "-> Apply deploy/" in result.stdout
    levels = [line.split()[0] for line in result.stdout.splitlines()[:-1] if not line.startswith(" ")]
    assert levels[0] == "failure", "the worst comes first"
    assert levels[-1] == "ok"
    lines, problems = (
        [" ".join(line.split()) for line in run("--namespace", HOME, *options).stdout.splitlines()]
        for options in ((), ("--problems",))
    )
    assert len(problems) < len(lines)
    assert problems == [line for line in lines if not line.startswith("ok ")]


def test_what_cannot_be_checked_is_one_line(cluster: FakeCluster) -> None:
    """An API server that does not answer was told as one failure and eighteen unknown states."""
    cluster.connection_error = "Connection refused"
    result = run("--namespace", HOME, "--problems")
    *lines, summary = result.stdout.splitlines()
    first, second = (line.split()[:2] for line in lines if not line.startswith(" "))
    assert (first, second[0]) == (["failure", "api"], "unknown")
    assert " checks  Not checked, because the check api did not succeed (clock, namespace, argo, " in result.stdout
    assert int(second[1]) == int(summary.split(", ")[3].split()[0]) > 5


def test_json_has_summary_and_findings(cluster: FakeCluster) -> None:
    cluster.delete_object("flargo-job")
    report = json.loads(run("--namespace", HOME, "--json").stdout)
    assert report["namespace"] == HOME
    assert report["summary"]["failure"] == 1
    (failure,) = (each for each in report["findings"] if each["level"] == "failure")
    assert failure["check"] == "job account"
    assert set(failure) == {"check", "level", "what", "todo"}
    assert yaml.safe_load(run("--namespace", HOME, "-o", "yaml").stdout) == report


def test_site_needs_come_from_the_kit(cluster: FakeCluster, kit: Kit) -> None:
    root = kit("k8s/site-1")
    runtime = {"studies": {"heart": {"secret_env": {"DB": {"source": "base", "key": "k"}}}}, "format_version": 2}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    preparation = command_line.run("prepare", root, "--argo", "instance_id=blue")
    assert preparation.exit_code == 0
    cluster.controllers = ("blue",)
    add_accounts(cluster, "site-1", "site-1-flargo-job", "site-1-flargo-executor")
    secret = cluster.object_at("flargo-executor.service-account-token")
    secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] = "site-1-flargo-executor"
    path = f"/api/v1/namespaces/{HOME}/secrets/site-1-flargo-executor.service-account-token"
    cluster.objects[path] = secret
    result = run("--kit", root)
    assert "There is no Secret base, which a job of study heart needs." in result.stdout
    assert "1 failure" in result.stdout
    cluster.objects[f"/api/v1/namespaces/{HOME}/secrets/base"] = {"metadata": {}, "data": {"k": "eA=="}}
    fixed = run("--kit", root)
    assert fixed.exit_code == 0, fixed.stdout
    assert "site-1 has all the rights" in fixed.stdout
    assert "instance id blue" in fixed.stdout


def test_rejected_study_is_found(cluster: FakeCluster, kit: Kit) -> None:
    root = kit("k8s/site-1")
    command_line.run("prepare", root)
    runtime = {"studies": {"heart": {"envy": {}}}, "format_version": 2}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    cluster.connection_error = "Connection refused"
    result = run("--kit", root)
    assert result.exit_code == 1
    assert "flargo would reject a job of study heart" in result.stdout
    assert "envy" in result.stdout


@pytest.mark.usefixtures("cluster")
def test_unprepared_kit_is_a_failure(kit: Kit) -> None:
    root = kit("k8s/site-1")
    assert "The kit does not use flargo" in run("--kit", root).stdout
    command_line.run("prepare", root)
    assert "The kit does not use flargo" not in run("--kit", root).stdout


def test_parents_workspace_serves_as_kit(cluster: FakeCluster, kit: Kit, tmp_path: Path) -> None:
    """The workspace has no chart, and each file is a link, as Kubernetes mounts ConfigMaps and Secrets."""
    root = kit("k8s/site-1")
    command_line.run("prepare", root)
    workspace = mount_like_kubelet(root, tmp_path / "workspace")
    cluster.user = "system:serviceaccount:lab:site-1"
    result = run("--kit", workspace)
    assert "site-1 has all the rights" in result.stdout
    assert "failure  kit" not in result.stdout
    assert "no service account site-1-flargo-job" in result.stdout


def mount_like_kubelet(root: Path, workspace: Path) -> Path:
    """Copy a kit as the kubelet mounts it: each file is a link to ..data/FILE, and ..data a link to a dated folder."""
    for folder in ("startup", "local"):
        dated = workspace / folder / "..2026_01_01"
        shutil.copytree(root / folder, dated)
        (workspace / folder / "..data").symlink_to(dated.name)
        for file in dated.iterdir():
            (workspace / folder / file.name).symlink_to(f"..data/{file.name}")
    return workspace


@pytest.mark.usefixtures("cluster")
def test_image_policy_does_not_reject_the_example(kit: Kit) -> None:
    root = kit("k8s/site-1")
    policy = "policy={images: [registry.example/only/*], digests: true, memory: 4Gi, cpu: 2, ephemeral_storage: 1Gi}"
    assert command_line.run("prepare", root, "--argo", policy).exit_code == 0
    report = json.loads(run("--kit", root, "--json").stdout)
    assert not [each for each in report["findings"] if each["check"] == "kit" and each["level"] != "ok"]


@pytest.mark.usefixtures("cluster")
def test_users_job_is_checked(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"launcher_spec": {"default": {"k8s": {"image": "x", "memory": "4 GB"}}}}')
    result = run("--namespace", HOME, "--job", tmp_path)
    assert result.exit_code == 1
    assert "memory" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--kubeconfig", "/nowhere"),
        ("--kubeconfig", ""),
        ("--namespace", "No_Name"),
        ("-n", ""),
        ("--account", ""),
        ("--account", "No_Name"),
        ("--wait", "0"),
    ],
    ids=" ".join,
)
def test_invalid_options_are_exit_code_2(options: tuple[str, str]) -> None:
    result = run(*options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert options[0] in result.stderr


@pytest.mark.parametrize(
    "user", [{"client-certificate": "/nowhere", "client-key": "/nowhere"}, {"tokenFile": "/nowhere"}], ids=list
)
def test_missing_credential_files_are_exit_code_1(tmp_path: Path, user: dict[str, str]) -> None:
    file = kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"users": [{"name": "u", "user": user}]}))
    result = run("--kubeconfig", file)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert f"the kubeconfig {file} can't be used: " in result.stderr
    assert "/nowhere" in result.stderr


# The kubeconfig


def kubeconfig(path: Path, server: str = "http://127.0.0.1:1") -> Path:
    contexts = [{"name": name, "context": {"cluster": "c", "user": "u", "namespace": name}} for name in ("one", "two")]
    document = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": contexts,
        "current-context": "one",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def kubeconfig_with_plugin(path: Path, marker: Path) -> Path:
    """Write a kubeconfig whose credential plugin creates a file."""
    program = path.parent / "plugin"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    program.chmod(0o755)
    execute = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    document = yaml.safe_load(kubeconfig(path, "https://127.0.0.1:1").read_text())
    path.write_text(yaml.safe_dump(document | {"users": [{"name": "u", "user": {"exec": execute}}]}))
    return path


def test_kits_kubeconfig_is_not_loaded(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig can run any command, so the kit's own is loaded only if the user says so."""
    marker = tmp_path / "ran"
    kit_config = kubeconfig_with_plugin(tmp_path / "kit-config", marker)
    root = kit("k8s/site-1")
    preparation = command_line.run("prepare", root, "--config-file", kit_config)
    assert preparation.exit_code == 0
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "mine")))
    for options in ((), ("--kubeconfig", tmp_path / "mine")):
        result = run("--kit", root, *options)
        assert not marker.exists()
        assert "api" in result.stdout
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert run("--kit", root).exit_code == 1, "there is no cluster, and the kit's kubeconfig is not used instead"
    assert not marker.exists()
    run("--kit", root, "--use-kit-kubeconfig")
    assert marker.exists()


def test_use_kit_kubeconfig_makes_user_the_parent(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kit("k8s/site-1")
    kit_config = str(kubeconfig(tmp_path / "kit-config"))
    assert command_line.run("prepare", root, "--config-file", kit_config).exit_code == 0
    loaded: list[tuple[str | None, str | None]] = []

    def survey(config_file: str | None, context: str | None) -> FakeCluster:
        loaded.append((config_file, context))
        return FakeCluster(user="alice")

    monkeypatch.setattr(command, "_survey", survey)
    result = run("--kit", root, "--use-kit-kubeconfig")
    assert loaded == [(kit_config, None)]
    assert "alice has all the rights" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--use-kit-kubeconfig needs --kit"),
        (("--kit",), "config_file_path"),
        (("--kit", "--kubeconfig", __file__), "--kubeconfig and --use-kit-kubeconfig cannot be combined"),
    ],
    ids=["without a kit", "a kit that names none", "beside another"],
)
def test_use_kit_kubeconfig_needs_a_kubeconfig(kit: Kit, options: tuple[str, ...], message: str) -> None:
    root = kit("k8s/site-1")
    arguments = [word for option in options for word in ((option, root) if option == "--kit" else (option,))]
    result = run("--use-kit-kubeconfig", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_missing_kit_kubeconfig_is_exit_code_2(kit: Kit) -> None:
    root = kit("k8s/site-1")
    command_line.run("prepare", root, "--config-file", "/nowhere/config")
    result = run("--kit", root, "--use-kit-kubeconfig")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "kubeconfig /nowhere/config does not exist here" in result.stderr


def test_argo_namespace_option_names_a_namespace(cluster: FakeCluster) -> None:
    container = {"name": "workflow-controller", "image": "quay.io/argoproj/workflow-controller:v3.7.18"}
    pod = {"metadata": {"namespace": "workflows"}, "spec": {"containers": [container]}}
    cluster.objects["/api/v1/pods"] = {"items": [pod]}
    assert "name its namespace with --argo-namespace" in run("--namespace", HOME).stdout
    result = run("--namespace", HOME, "--argo-namespace", "other", "--argo-namespace", "workflows")
    assert "v3.7.18 in namespace workflows" in result.stdout
    assert "--argo-namespace" not in result.stdout
    assert run("--argo-namespace", "../kube-system").exit_code == 2


def test_namespace_comes_from_the_context(tmp_path: Path) -> None:
    file = str(kubeconfig(tmp_path / "config"))
    assert choose_cluster(file, None).namespace == "one"
    assert choose_cluster(file, "two").namespace == "two"
    with pytest.raises(InvalidInput, match="three"):
        choose_cluster(file, "three")


def test_pods_own_account_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "namespace").write_text("lab\n")
    (tmp_path / "token").write_text("t")
    monkeypatch.setattr(service_account, "FOLDER", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert choose_cluster(None, None).namespace == "lab"
    assert choose_cluster(str(kubeconfig(tmp_path / "config")), None).namespace == "one"


def test_unreachable_server_has_no_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = Survey(client_config.config_loader(str(kubeconfig(tmp_path / "config"))))

    def refuse(_: object) -> None:
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(survey._transport._connections._connection, "request", refuse)
    answer = survey.get(target.version)
    assert (answer.status, str(answer)) == (0, "Connection refused")
