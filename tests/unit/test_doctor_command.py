"""`flargo doctor` as a person or a program meets it, where no cluster is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from flargo.cluster import client_config, target
from flargo.cluster.survey import Survey
from flargo.job.validate import InvalidInput
from flargo.tools.cli import doctor as command
from flargo.tools.cli.cluster_options import load_config
from tests.harness import command_line
from tests.harness.fake_cluster import HOME, FakeCluster

Kit = Callable[[str], Path]


def run(*arguments: str | Path) -> Result:
    return command_line.run("doctor", *arguments)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Whichever kubeconfig is named."""
    fake_cluster = FakeCluster()
    monkeypatch.setattr(command, "_survey", lambda *_: fake_cluster)
    monkeypatch.setattr("time.time", lambda: fake_cluster.time)
    monkeypatch.setattr("time.sleep", fake_cluster.pause)
    return fake_cluster


def accounts(cluster: FakeCluster, *names: str) -> None:
    for name in names:
        cluster.objects[f"/api/v1/namespaces/{HOME}/serviceaccounts/{name}"] = {"metadata": {}}


@pytest.mark.usefixtures("cluster")
def test_all_is_well_and_the_exit_code_says_so() -> None:
    shown = run("--namespace", HOME)
    assert shown.exit_code == 0, shown.stdout
    assert "0 failure" in shown.stdout
    assert shown.stdout.splitlines()[0].split()[:2] == ["ok", "api"]


def test_a_failure_is_said_with_what_to_do_and_is_exit_code_1(cluster: FakeCluster) -> None:
    cluster.delete_object("flargo-job")
    shown = run("--namespace", HOME)
    assert shown.exit_code == 1
    assert "failure  job account" in shown.stdout
    assert "-> Apply deploy/" in shown.stdout


def test_programs_get_json(cluster: FakeCluster) -> None:
    cluster.delete_object("flargo-job")
    said = json.loads(run("--namespace", HOME, "--json").stdout)
    assert said["namespace"] == HOME
    assert said["summary"]["failure"] == 1
    (failure,) = (each for each in said["findings"] if each["level"] == "failure")
    assert failure["check"] == "job account"
    assert set(failure) == {"check", "level", "what", "todo"}


def test_a_kit_says_what_its_site_needs(cluster: FakeCluster, kit: Kit) -> None:
    root = kit("k8s/site-1")
    runtime = {"studies": {"heart": {"secret_env": {"DB": {"source": "base", "key": "k"}}}}, "format_version": 2}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    prepared = command_line.run("prepare", root, "--argo", "instance_id=blue")
    assert prepared.exit_code == 0
    cluster.controllers = ("blue",)
    accounts(cluster, "site-1", "site-1-flargo-job", "site-1-flargo-executor")
    secret = cluster.object_at("flargo-executor.service-account-token")
    secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] = "site-1-flargo-executor"
    path = f"/api/v1/namespaces/{HOME}/secrets/site-1-flargo-executor.service-account-token"
    cluster.objects[path] = secret
    shown = run("--kit", root)
    assert "There is no Secret base, which a job of study heart needs." in shown.stdout
    assert "1 failure" in shown.stdout
    cluster.objects[f"/api/v1/namespaces/{HOME}/secrets/base"] = {"metadata": {}, "data": {"k": "eA=="}}
    mended = run("--kit", root)
    assert mended.exit_code == 0, mended.stdout
    assert "site-1 has all the rights" in mended.stdout
    assert "instance id blue" in mended.stdout


def test_a_study_that_flargo_would_refuse_is_found(cluster: FakeCluster, kit: Kit) -> None:
    root = kit("k8s/site-1")
    command_line.run("prepare", root)
    runtime = {"studies": {"heart": {"envy": {}}}, "format_version": 2}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    cluster.connection_error = "Connection refused"
    shown = run("--kit", root)
    assert shown.exit_code == 1
    assert "flargo would reject a job of study heart" in shown.stdout
    assert "envy" in shown.stdout


@pytest.mark.usefixtures("cluster")
def test_a_kit_that_is_not_prepared_is_a_failure(kit: Kit) -> None:
    root = kit("k8s/site-1")
    assert "The kit does not use flargo" in run("--kit", root).stdout
    command_line.run("prepare", root)
    assert "The kit does not use flargo" not in run("--kit", root).stdout


def test_in_the_parents_pod_its_workspace_is_the_kit(cluster: FakeCluster, kit: Kit, tmp_path: Path) -> None:
    """Without the chart, and with every file a link, as Kubernetes mounts ConfigMaps and Secrets."""
    root = kit("k8s/site-1")
    command_line.run("prepare", root)
    workspace = mounted(root, tmp_path / "workspace")
    cluster.user = "system:serviceaccount:lab:site-1"
    shown = run("--kit", workspace)
    assert "site-1 has all the rights" in shown.stdout
    assert "failure  kit" not in shown.stdout
    assert "no service account site-1-flargo-job" in shown.stdout


def mounted(root: Path, workspace: Path) -> Path:
    """A kit as the kubelet mounts it: each file a link to ..data/FILE, and ..data a link to a dated folder."""
    for folder in ("startup", "local"):
        dated = workspace / folder / "..2026_01_01"
        shutil.copytree(root / folder, dated)
        (workspace / folder / "..data").symlink_to(dated.name)
        for file in dated.iterdir():
            (workspace / folder / file.name).symlink_to(f"..data/{file.name}")
    return workspace


@pytest.mark.usefixtures("cluster")
def test_a_policy_on_images_does_not_fail_the_example(kit: Kit) -> None:
    root = kit("k8s/site-1")
    policy = "policy={images: [registry.example/only/*], digests: true, memory: 4Gi, cpu: 2, ephemeral_storage: 1Gi}"
    assert command_line.run("prepare", root, "--argo", policy).exit_code == 0
    said = json.loads(run("--kit", root, "--json").stdout)
    assert not [each for each in said["findings"] if each["check"] == "kit" and each["level"] != "ok"]


@pytest.mark.usefixtures("cluster")
def test_a_job_of_ones_own_is_tried(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"launcher_spec": {"default": {"k8s": {"image": "x", "memory": "4 GB"}}}}')
    shown = run("--namespace", HOME, "--job", tmp_path)
    assert shown.exit_code == 1
    assert "memory" in shown.stdout


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
def test_what_cannot_be_asked_is_exit_code_2(options: tuple[str, str]) -> None:
    shown = run(*options)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert options[0] in shown.stderr


@pytest.mark.parametrize(
    "user", [{"client-certificate": "/nowhere", "client-key": "/nowhere"}, {"tokenFile": "/nowhere"}], ids=list
)
def test_a_kubeconfig_whose_credentials_are_not_there_is_exit_code_2(tmp_path: Path, user: dict[str, str]) -> None:
    file = kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"users": [{"name": "u", "user": user}]}))
    shown = run("--kubeconfig", file)
    assert (shown.exit_code, shown.stdout, len(shown.stderr.splitlines())) == (2, "", 1)
    assert f"`--kubeconfig` '{file}' cannot be used: " in shown.stderr
    assert "/nowhere" in shown.stderr


def test_what_is_no_kit_or_job_is_exit_code_2(tmp_path: Path) -> None:
    assert run("--kit", tmp_path).exit_code == 2
    assert run("--job", tmp_path).exit_code == 2
    assert "--kit" in json.loads(run("--kit", tmp_path, "--json").stdout)["error"]["field"]


# Where the cluster is


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


def running(path: Path, marker: Path) -> Path:
    """A kubeconfig whose credential plugin makes a file."""
    program = path.parent / "plugin"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    program.chmod(0o755)
    execute = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    document = yaml.safe_load(kubeconfig(path).read_text())
    path.write_text(yaml.safe_dump(document | {"users": [{"name": "u", "user": {"exec": execute}}]}))
    return path


def test_a_kit_chooses_no_credentials(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig can have any command run; the kit's runs none unless a person says that it is the parent's own."""
    marker = tmp_path / "ran"
    theirs = running(tmp_path / "theirs", marker)
    root = kit("k8s/site-1")
    prepared = command_line.run("prepare", root, "--config-file", theirs)
    assert prepared.exit_code == 0
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "mine")))
    for options in ((), ("--kubeconfig", tmp_path / "mine")):
        shown = run("--kit", root, *options)
        assert not marker.exists()
        assert "api" in shown.stdout
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert run("--kit", root).exit_code == 2, "there is no cluster, and the kit's is not taken instead"
    assert not marker.exists()
    run("--kit", root, "--use-kit-kubeconfig")
    assert marker.exists()


def test_with_the_kits_kubeconfig_whoever_asks_is_the_parent(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = kit("k8s/site-1")
    theirs = str(kubeconfig(tmp_path / "theirs"))
    assert command_line.run("prepare", root, "--config-file", theirs).exit_code == 0
    used: list[tuple[str | None, str | None]] = []

    def survey(config_file: str | None, context: str | None) -> FakeCluster:
        used.append((config_file, context))
        return FakeCluster(user="alice")

    monkeypatch.setattr(command, "_survey", survey)
    shown = run("--kit", root, "--use-kit-kubeconfig")
    assert used == [(theirs, None)]
    assert "alice has all the rights" in shown.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "--use-kit-kubeconfig needs --kit"),
        (("--kit",), "config_file_path"),
        (("--kit", "--kubeconfig", "/mine"), "--kubeconfig and --use-kit-kubeconfig cannot be combined"),
    ],
    ids=["without a kit", "a kit that names none", "beside another"],
)
def test_the_kits_kubeconfig_is_used_for_a_kit_that_names_one(kit: Kit, options: tuple[str, ...], told: str) -> None:
    root = kit("k8s/site-1")
    words = [word for option in options for word in ((option, root) if option == "--kit" else (option,))]
    shown = run("--use-kit-kubeconfig", *words)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert told in shown.stderr


def test_a_kubeconfig_of_the_kits_that_is_not_here_is_no_other_one(kit: Kit) -> None:
    root = kit("k8s/site-1")
    command_line.run("prepare", root, "--config-file", "/nowhere/config")
    shown = run("--kit", root, "--use-kit-kubeconfig")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "kubeconfig /nowhere/config does not exist here" in shown.stderr


def test_a_namespace_of_argos_can_be_named(cluster: FakeCluster) -> None:
    container = {"name": "workflow-controller", "image": "quay.io/argoproj/workflow-controller:v3.7.18"}
    pod = {"metadata": {"namespace": "workflows"}, "spec": {"containers": [container]}}
    cluster.objects["/api/v1/pods"] = {"items": [pod]}
    assert "name its namespace with --argo-namespace" in run("--namespace", HOME).stdout
    shown = run("--namespace", HOME, "--argo-namespace", "other", "--argo-namespace", "workflows")
    assert "v3.7.18 in namespace workflows" in shown.stdout
    assert "--argo-namespace" not in shown.stdout
    assert run("--argo-namespace", "../kube-system").exit_code == 2


def test_the_namespace_is_the_contexts(tmp_path: Path) -> None:
    file = str(kubeconfig(tmp_path / "config"))
    assert load_config(file, None)[1] == "one"
    assert load_config(file, "two")[1] == "two"
    with pytest.raises(InvalidInput, match="three"):
        load_config(file, "three")


def test_a_pod_is_its_own_account_unless_a_kubeconfig_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "namespace").write_text("lab\n")
    monkeypatch.setattr(client_config, "IN_CLUSTER_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert load_config(None, None)[1] == "lab"
    assert load_config(str(kubeconfig(tmp_path / "config")), None)[1] == "one"


def test_a_server_that_is_not_there_is_an_answer_without_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = Survey(client_config.config_loader(str(kubeconfig(tmp_path / "config"))))

    def refuse(*_: object, accept: str) -> None:
        del accept
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(survey._connection, "request", refuse)
    answer = survey.get(target.version)
    assert (answer.status, str(answer)) == (0, "Connection refused")
