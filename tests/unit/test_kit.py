"""Tests of `flargo prepare` on kits in memory: what it changes in a kit of nvflare's, and how --undo restores it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.job.validate import InvalidInput
from flargo.tools.cli.kit_disk import read_kit
from flargo.tools.kit.files import apply_changes
from flargo.tools.kit.preparation import Preparation, PrepareOptions, prepare
from flargo.tools.kit.undo import RECORD, plan_undo
from tests.harness.paths import DEPLOY

Kit = Callable[[str], Path]
ALL = ("k8s/site-1", "k8s/server.lab", "plain/site-1", "plain/server.lab")
OPTIONS = {
    "nothing": PrepareOptions(namespace="lab"),
    "everything": PrepareOptions("other", "/data/flare", "/etc/kube/config", None, {"labels": {"team": "heart"}}),
}


def files_of(shared_kits: Path, name: str, **texts: Any) -> dict[str, bytes]:
    """Return a kit's files, some of them replaced by another JSON or text, or removed (None)."""
    files = read_kit(shared_kits / name)
    for path, content in texts.items():
        if content is None:
            del files[path]
        else:
            files[path] = (content if isinstance(content, str) else json.dumps(content)).encode()
    return files


def prepare_files(files: dict[str, bytes], options: PrepareOptions | None = None) -> dict[str, bytes]:
    """Return the kit's files after `flargo prepare`."""
    return apply_changes(files, plan(files, options).changes)


def plan(files: dict[str, bytes], options: PrepareOptions | None = None) -> Preparation:
    return prepare(files, options or PrepareOptions(namespace="lab"))


def components(files: dict[str, bytes], path: str = "local/resources.json") -> dict[str, Any]:
    return {part["id"]: part for part in json.loads(files[path])["components"]}


def arguments(files: dict[str, bytes]) -> dict[str, Any]:
    return dict(components(files, "local/flargo__p_resources.json")["argo_launcher"]["args"])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ALL)
def test_second_run_plans_no_changes(shared_kits: Path, name: str, options: PrepareOptions) -> None:
    after = prepare_files(files_of(shared_kits, name), options)
    assert plan(after, options).changes == []
    assert plan(after, PrepareOptions()).changes == [], "the options of the first run still hold"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ALL)
def test_undo_restores_every_byte(shared_kits: Path, name: str, options: PrepareOptions) -> None:
    before = files_of(shared_kits, name)
    after = prepare_files(before, options)
    assert after != before
    assert apply_changes(after, plan_undo(after)) == before
    again = prepare_files(after, PrepareOptions(argo={"keep_success": 60}))
    assert apply_changes(again, plan_undo(again)) == before, "the state before the first run, not before the second"


@pytest.mark.parametrize("name", ["k8s/site-1", "k8s/server.lab"])
def test_kubernetes_kit_loses_only_the_launcher(shared_kits: Path, name: str) -> None:
    """Every other component stays, and so do the files that nvflare made."""
    before = files_of(shared_kits, name)
    after = prepare_files(before)
    was, now = json.loads(before["local/resources.json.default"]), json.loads(after["local/resources.json"])
    was["components"] = [part for part in was["components"] if part["id"] != "k8s_launcher"]
    assert now == was, "class_allow_list, stores and all"
    assert after["local/resources.json.default"] == before["local/resources.json.default"]
    assert after["local/comm_config.json"] == before["local/comm_config.json"]
    assert after["helm_chart/values.yaml"] == before["helm_chart/values.yaml"]


def test_launcher_inherits_the_stock_arguments(shared_kits: Path) -> None:
    after = prepare_files(files_of(shared_kits, "k8s/site-1"))
    stock = components(after, "local/resources.json.default")["k8s_launcher"]["args"]
    assert stock["pending_timeout"] == 60
    assert stock["image_pull_secrets"] == ["registry"]
    assert {key: value for key, value in arguments(after).items() if key != "argo"} == stock
    assert (
        components(after, "local/flargo__p_resources.json")["argo_launcher"]["path"] == "flargo.ClientArgoJobLauncher"
    )


@pytest.mark.parametrize("site", ["site-1", "server.lab"])
def test_plain_kit_matches_nvflare_deploy_prepare(shared_kits: Path, site: str) -> None:
    """Apart from the launcher, the result is the one of `nvflare deploy prepare`."""
    plain = prepare_files(files_of(shared_kits, f"plain/{site}"))
    theirs = files_of(shared_kits, f"k8s/{site}")
    expected = json.loads(theirs["local/resources.json.default"])
    expected["components"] = [part for part in expected["components"] if part["id"] != "k8s_launcher"]
    assert json.loads(plain["local/resources.json"]) == expected
    assert json.loads(plain["local/comm_config.json"]) == json.loads(theirs["local/comm_config.json"])


def test_workspace_path_changes_everywhere(shared_kits: Path) -> None:
    after = prepare_files(files_of(shared_kits, "k8s/server.lab"), PrepareOptions(workspace="/data/flare/"))
    assert arguments(after)["workspace_mount_path"] == "/data/flare"
    values = yaml.safe_load(after["helm_chart/values.yaml"])
    assert values["persistence"]["workspace"]["mountPath"] == "/data/flare"
    assert values["args"][values["args"].index("fed_server.json") - 2] == "/data/flare"
    resources = json.loads(after["local/resources.json"])
    assert resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] == "/data/flare/snapshot-storage"
    assert components(after)["job_manager"]["args"]["uri_root"] == "/data/flare/jobs-storage"
    assert not [path for path, text in after.items() if path in CURRENT_FILES and b"/var/tmp/nvflare/workspace" in text]


CURRENT_FILES = (
    "local/resources.json",
    "local/flargo__p_resources.json",
    "helm_chart/values.yaml",
    "local/comm_config.json",
)


def test_custom_job_store_path_is_kept(shared_kits: Path) -> None:
    files = files_of(shared_kits, "plain/server.lab")
    text = files["local/resources.json.default"].decode().replace("/tmp/nvflare/jobs-storage", "/vault/jobs")
    after = prepare_files(
        {**files, "local/resources.json.default": text.encode()}, PrepareOptions("lab", workspace="/data/flare")
    )
    assert components(after)["job_manager"]["args"]["uri_root"] == "/vault/jobs"
    assert "/data/flare/snapshot-storage" in after["local/resources.json"].decode()


def test_handwritten_launcher_keeps_its_settings(shared_kits: Path) -> None:
    args = {"namespace": "lab", "workspace_mount_path": "/w", "argo": {"kill_grace": 9}}
    launcher = {"id": "mine", "path": "flargo.ClientArgoJobLauncher", "args": args}
    by_hand = {"local/flargo__p_resources.json": {"format_version": 2, "components": [launcher]}}
    after = prepare_files(files_of(shared_kits, "plain/site-1", **by_hand), PrepareOptions())
    assert arguments(after) == {"config_file_path": None, **args}


def test_old_study_file_stays_configured(shared_kits: Path) -> None:
    files = files_of(shared_kits, "plain/site-1", **{"local/study_data.yaml": "{}"})
    assert (
        arguments(prepare_files(files))["study_data_pvc_file_path"]
        == "/var/tmp/nvflare/workspace/local/study_data.yaml"
    )


def test_only_gpu_resource_managers_are_removed(shared_kits: Path) -> None:
    """A site's own resource manager stays; removing one that counts local GPUs is noted for the user."""
    files = files_of(shared_kits, "plain/site-1")
    text = files["local/resources.json.default"].decode()
    own = text.replace("nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager", "site.Manager")
    assert (
        components(prepare_files({**files, "local/resources.json.default": own.encode()}))["resource_manager"]["path"]
        == "site.Manager"
    )
    gpus = text.replace('"num_of_gpus": 0', '"num_of_gpus": 4')
    (note,) = plan({**files, "local/resources.json.default": gpus.encode()}).notes
    assert "resource_manager" in note
    assert "'num_of_gpus': 4" in note
    assert plan(files).notes == []


def test_max_jobs_configures_the_scheduler(shared_kits: Path) -> None:
    after = prepare_files(files_of(shared_kits, "k8s/server.lab"), PrepareOptions(max_jobs=2))
    assert components(after)["job_scheduler"]["args"] == {"max_jobs": 2}
    assert components(prepare_files(after, PrepareOptions(max_jobs=5)))["job_scheduler"]["args"] == {"max_jobs": 5}


# The chart


def render_role_template(template: bytes, chart: str) -> list[dict[str, Any]]:
    """Render a role template as Helm would; only the stock template's expressions are supported."""
    text = template.decode()
    for expression, value in {
        "{{- if .Values.rbac.create }}\n": "",
        "{{- end }}\n": "",
        f'{{{{- include "{chart}.labels" . | nindent 4 }}}}': "a: label",
        f'{{{{ include "{chart}.name" . }}}}': "the-parent",
        "{{ .Release.Namespace }}": "the-namespace",
    }.items():
        text = text.replace(expression, value)
    assert "{{" not in text
    return list(yaml.safe_load_all(text))


def rules(objects: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {each["metadata"]["name"]: each["rules"] for each in objects if each["kind"] == "Role"}


def deploy_manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / f"{name}.yaml").read_text()))


@pytest.mark.parametrize(("name", "parent"), [("k8s/site-1", "site-1"), ("k8s/server.lab", "server.lab")])
def test_chart_grants_the_rights_of_deploy(shared_kits: Path, name: str, parent: str) -> None:
    after = prepare_files(files_of(shared_kits, name))
    chart = "nvflare-server" if "server" in name else "nvflare-client"
    objects = render_role_template(after["helm_chart/templates/role.yaml"], chart)
    job, executor = f"{parent}-flargo-job", f"{parent}-flargo-executor"
    assert rules(objects) == {
        "the-parent-launcher": rules(deploy_manifests("launcher"))["flargo-launcher"],
        executor: rules(deploy_manifests("executor"))["flargo-executor"],
    }
    accounts = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ServiceAccount"}
    assert {*accounts} == {job, executor}
    assert not any(each["automountServiceAccountToken"] for each in accounts.values())
    bound = {each["roleRef"]["name"]: each["subjects"][0]["name"] for each in objects if each["kind"] == "RoleBinding"}
    assert bound == {"the-parent-launcher": "the-parent", executor: executor}
    (token,) = (each for each in objects if each["kind"] == "Secret")
    assert token["metadata"]["name"] == f"{executor}.service-account-token"
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": executor}
    assert arguments(after)["argo"] == {"service_account": job, "executor_service_account": executor}


@pytest.mark.parametrize("name", ["k8s/site-1", "k8s/server.lab"])
def test_deployment_fits_pod_security_restricted(shared_kits: Path, name: str) -> None:
    """The security context is added only for a parent that does not run as root."""
    before = files_of(shared_kits, name)
    (template,) = (path for path in before if path.endswith("-deployment.yaml"))
    was, now = before[template].decode(), prepare_files(before)[template].decode()
    now = without_grace_period(now)
    start, end = (
        now.index("          {{- with .Values.securityContext }}\n          {{"),
        now.index("          command:"),
    )
    assert now[:start] + now[end:] == was, "nothing else differs"
    assert yaml.safe_load(re.sub(r" *{{.*}}\n", "", now[start:end])) == {
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    }
    assert "if .runAsNonRoot" in now[start:end], "root without capabilities could not write to its workspace"


GRACE_PERIOD = re.compile(r"(      # .*\n)+      terminationGracePeriodSeconds: .*\n")


def without_grace_period(template: str) -> str:
    return GRACE_PERIOD.sub("", template)


def render_deployment(kit: dict[str, bytes]) -> dict[str, Any]:
    """Render a kit's Deployment with its values, every condition true, and "x" for what is no value."""
    (template,) = (text.decode() for path, text in kit.items() if path.endswith("-deployment.yaml"))
    values = yaml.safe_load(kit["helm_chart/values.yaml"])
    for key, value in values["persistence"]["workspace"].items():
        for name in (f".Values.persistence.workspace.{key}", f"$.Values.persistence.workspace.{key}"):
            template = template.replace(f"{{{{ {name} }}}}", value)
    spec: dict[str, Any] = yaml.safe_load(re.sub("{{.*?}}", "x", re.sub("(?m)^ *{{-.*\n", "", template)))["spec"]
    return spec


def test_clients_pod_is_replaced_soon(shared_kits: Path) -> None:
    """A client's parent that gets no SIGKILL keeps the Lease from its successor; a server's holds none."""
    client, server = (
        render_deployment(prepare_files(files_of(shared_kits, name))) for name in ("k8s/site-1", "k8s/server.lab")
    )
    assert client["template"]["spec"]["terminationGracePeriodSeconds"] == 5
    assert "terminationGracePeriodSeconds" not in server["template"]["spec"]


def test_sites_own_grace_period_is_kept(shared_kits: Path) -> None:
    kit = files_of(shared_kits, "k8s/site-1")
    template = "helm_chart/templates/client-deployment.yaml"
    own = b"\n    spec:\n      terminationGracePeriodSeconds: 60\n"
    kit[template] = kit[template].replace(b"\n    spec:\n", own)
    after = prepare_files(kit)[template]
    assert own in after
    assert after.count(b"terminationGracePeriodSeconds") == 1


def test_kit_of_an_earlier_flargo_gets_the_grace_period(shared_kits: Path) -> None:
    kit = prepare_files(files_of(shared_kits, "k8s/site-1"))
    template = "helm_chart/templates/client-deployment.yaml"
    older = {**kit, template: without_grace_period(kit[template].decode()).encode()}
    assert older[template] != kit[template]
    assert prepare_files(older)[template] == kit[template]


@pytest.mark.parametrize("name", ["k8s/site-1", "k8s/server.lab"])
def test_chart_runs_one_parent_with_a_lasting_workspace(shared_kits: Path, name: str) -> None:
    """An update starts the new pod when the old one is gone, and records of launches outlive both."""
    kit = prepare_files(files_of(shared_kits, name))
    deployment = render_deployment(kit)
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    volumes = {each["name"]: each for each in deployment["template"]["spec"]["volumes"]}
    (container,) = deployment["template"]["spec"]["containers"]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert "persistentVolumeClaim" in volumes[mounts[arguments(kit)["workspace_mount_path"]]]


@pytest.mark.parametrize("name", ["k8s/site-1", "k8s/server.lab"])
def test_role_template_adds_no_expressions(shared_kits: Path, name: str) -> None:
    before = files_of(shared_kits, name)
    template = "helm_chart/templates/role.yaml"
    expression = re.compile(r"{{.*?}}")
    assert {*expression.findall(prepare_files(before)[template].decode())} <= {
        *expression.findall(before[template].decode())
    }


def test_chart_skips_the_sites_own_account(shared_kits: Path) -> None:
    after = prepare_files(files_of(shared_kits, "k8s/site-1"), PrepareOptions(argo={"service_account": "ours"}))
    objects = render_role_template(after["helm_chart/templates/role.yaml"], "nvflare-client")
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"] == [
        "site-1-flargo-executor"
    ]


# Invalid kits and options

LOCAL = "local/resources.json.default"
NOT_STRINGS: tuple[object, ...] = (None, 1, [], {})
INVALID: dict[str, tuple[str, dict[str, Any], PrepareOptions, str]] = {
    "no kit": ("plain/site-1", {"startup/fed_client.json": None}, PrepareOptions("lab"), "startup/"),
    "no resources": ("plain/site-1", {LOCAL: None}, PrepareOptions("lab"), LOCAL),
    "broken JSON": ("plain/site-1", {LOCAL: "{"}, PrepareOptions("lab"), LOCAL),
    "no list": ("plain/site-1", {LOCAL: {"components": {}}}, PrepareOptions("lab"), f"{LOCAL}: components"),
    "a kit for Docker": ("docker/site-1", {}, PrepareOptions("lab"), f"{LOCAL}: components"),
    "no namespace": ("plain/site-1", {}, PrepareOptions(), "--namespace"),
    "a wrong namespace": ("plain/site-1", {}, PrepareOptions("Lab"), "--namespace"),
    "a relative workspace": ("plain/site-1", {}, PrepareOptions("lab", "work"), "--workspace"),
    "a relative kubeconfig": ("plain/site-1", {}, PrepareOptions("lab", config_file="config"), "--config-file"),
    "a wrong setting": (
        "plain/site-1",
        {},
        PrepareOptions("lab", argo={"kill_grace": 0}),
        "--argo kill_grace",
    ),
    "an unknown setting": ("plain/site-1", {}, PrepareOptions("lab", argo={"x": 0}), "--argo x"),
    "a bound for a client": ("k8s/site-1", {}, PrepareOptions(max_jobs=1), "--max-jobs"),
    "no job at all": ("k8s/server.lab", {}, PrepareOptions(max_jobs=0), "--max-jobs"),
    "a scheduler of another kind": (
        "k8s/server.lab",
        {LOCAL: {"components": [{"id": "job_scheduler", "path": "site.Scheduler"}]}},
        PrepareOptions("lab", max_jobs=1),
        f"{LOCAL}: components['job_scheduler'].path",
    ),
    "a launcher in another file": (
        "k8s/site-1",
        {"local/mine__resources.json": {"components": [{"id": "process_launcher", "path": "x"}]}},
        PrepareOptions(),
        "local/mine__resources.json: components",
    ),
    "a listener in shared files": (
        "k8s/site-1",
        {"local/comm_config.json": {"internal": {"scheme": "file"}}},
        PrepareOptions(),
        "local/comm_config.json: internal.scheme",
    ),
    **{
        f"a component's {key} that is {value!r}": (
            "k8s/site-1",
            {LOCAL: {"components": [{"id": "a", "path": "b"}, {"id": "a", "path": "b", key: value}]}},
            PrepareOptions(),
            f"{LOCAL}: components[1].{key}",
        )
        for key in ("id", "path")
        for value in NOT_STRINGS
    },
    "an unknown argument": (
        "k8s/site-1",
        {LOCAL: {"components": [{"id": "k8s_launcher", "path": "x", "args": {"namespace": "lab", "new": 1}}]}},
        PrepareOptions(),
        f"{LOCAL}: args['new']",
    ),
    "a record of another kind": ("k8s/site-1", {RECORD: {"files": []}}, PrepareOptions(), f"{RECORD}: files"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_kit_names_file_and_field(shared_kits: Path, case: str) -> None:
    name, texts, options, field = INVALID[case]
    with pytest.raises(InvalidInput) as caught:
        prepare(files_of(shared_kits, name, **texts), options)
    assert caught.value.field == field
    assert caught.value.allowed


# Undo


@pytest.mark.parametrize("path", CURRENT_FILES[:2])
def test_undo_discards_no_edit(shared_kits: Path, path: str) -> None:
    before = files_of(shared_kits, "k8s/server.lab")
    edited = prepare_files(before)
    edited[path] = edited[path].replace(b"{", b"{ ", 1)
    for kit in (edited, prepare_files(edited, PrepareOptions(max_jobs=9, argo={"kill_grace": 9}))):
        with pytest.raises(InvalidInput) as caught:
            plan_undo(kit)
        assert caught.value.field == path
        del kit[path]
        assert apply_changes(kit, plan_undo(kit)) == before, "as the message says: delete the file, and undo again"


def test_undo_works_after_interrupted_writing(shared_kits: Path) -> None:
    before = files_of(shared_kits, "k8s/site-1")
    changes = plan(before).changes
    assert changes[0].path == RECORD, "first, because --undo needs the record of every file written"
    for count in range(1, len(changes) + 1):
        half = apply_changes(before, changes[:count])
        assert apply_changes(half, plan_undo(half)) == before
        assert prepare_files(half) == prepare_files(before)


def test_undo_needs_a_prepared_kit(shared_kits: Path) -> None:
    with pytest.raises(InvalidInput, match="was not prepared by `flargo prepare`"):
        plan_undo(files_of(shared_kits, "k8s/site-1"))


def test_undo_demands_unstaging_first(shared_kits: Path) -> None:
    after = prepare_files(files_of(shared_kits, "k8s/site-1"), PrepareOptions(workspace="/data"))
    values = yaml.safe_load(after["helm_chart/values.yaml"])
    values["workspaceConfig"]["local"]["configMapName"] = "nvflare-local-site-1"
    after["helm_chart/values.yaml"] = yaml.safe_dump(values).encode()
    with pytest.raises(InvalidInput, match="unstage"):
        plan_undo(after)
