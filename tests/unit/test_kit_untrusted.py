"""Tests with hostile startup kits: no file, link or record of a kit makes flargo touch anything outside of it."""

import base64
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flargo.job.validate import InvalidInput
from flargo.tools.cli.staged_kit import parent_from_kit
from flargo.tools.kit.preparation import PrepareOptions, prepare
from flargo.tools.kit.site import WRITTEN_FILES
from flargo.tools.kit.undo import RECORD, plan_undo
from tests.harness.command_line import file_contents, run

Kit = Callable[[str], Path]
META = {"name": "hello", "study": "heart", "launcher_spec": {"default": {"k8s": {"image": "registry.example/job:1"}}}}
LAUNCHER = "local/flargo__p_resources.json"


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    file = tmp_path / "meta.json"
    file.write_text(json.dumps(META))
    return file


@pytest.fixture
def prepared_kit(kit: Kit) -> Path:
    """Prepare a client's kit and return its folder."""
    root = kit("k8s/site-1")
    assert run("prepare", root).exit_code == 0
    return root


# The record for --undo


def record(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / RECORD).read_text())
    return content


def forge(root: Path, path: str, **entry: Any) -> None:
    """Add an entry to a kit's record, or change one."""
    content = record(root)
    content["files"][path] = {
        **content["files"].get(path, {"before": base64.b64encode(b"forged").decode(), "after": None}),
        **entry,
    }
    (root / RECORD).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "path",
    ["ABSOLUTE", "../outside", "local/../../outside", "local/custom/code.py", "startup/start.sh", "local", "", RECORD],
)
def test_forged_record_restores_no_other_file(prepared_kit: Path, path: str) -> None:
    outside = prepared_kit.parent / "outside"
    outside.write_text("mine")
    forge(prepared_kit, str(outside) if path == "ABSOLUTE" else path)
    before = file_contents(prepared_kit)
    result = run("prepare", prepared_kit, "--undo")
    assert outside.read_text() == "mine"
    assert file_contents(prepared_kit) == before, "nothing is written if one entry is wrong"
    assert result.exit_code == 1
    assert f"{RECORD}: files[" in result.stderr
    assert "is not one of the files that flargo writes" in result.stderr


INVALID_ENTRIES: dict[str, dict[str, Any]] = {
    "no Base64": {"before": "%%%"},
    "content that is no text": {"before": 7},
    "no hash": {"after": "abc"},
    "a hash that is no text": {"after": ["0" * 64]},
    "a mode that is no text": {"mode": 420},
    "a mode with more than permissions": {"mode": "4755"},
    "a key without meaning": {"extra": "x"},
}


@pytest.mark.parametrize("case", INVALID_ENTRIES)
def test_invalid_record_entry_is_named(prepared_kit: Path, case: str) -> None:
    """Nothing is written if one entry of the record is invalid."""
    forge(prepared_kit, "helm_chart/templates/role.yaml", **INVALID_ENTRIES[case])
    before = file_contents(prepared_kit)
    for options in (("--undo",), ("--argo", "kill_grace=9")):
        result = run("prepare", prepared_kit, *options)
        assert result.exit_code == 1
        assert f"{RECORD}: files['helm_chart/templates/role.yaml']" in result.stderr
        assert file_contents(prepared_kit) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CONTENTS = st.sampled_from(["eA==", "x", None, 7, hashlib.sha256(b"x").hexdigest()])
ENTRIES = st.fixed_dictionaries(
    {"before": CONTENTS, "after": CONTENTS}, optional={"mode": st.sampled_from(["0600", "x"])}
)
PATHS = st.sampled_from([*sorted(WRITTEN_FILES), "../x", "/x", "startup/start.sh"]) | st.text(max_size=5)


@given(JSON | st.fixed_dictionaries({"files": st.dictionaries(PATHS, ENTRIES | JSON, max_size=3)}))
def test_any_record_restores_only_flargos_files(content: Any) -> None:
    """A record of any content is rejected, or restores only files that flargo writes."""
    try:
        changes = plan_undo({RECORD: json.dumps(content).encode()})
    except InvalidInput:
        return
    assert {change.path for change in changes} <= WRITTEN_FILES | {RECORD}


def test_records_without_modes_still_work(kit: Kit) -> None:
    root = kit("k8s/site-1")
    before = file_contents(root)
    run("prepare", root)
    content = record(root)
    for entry in content["files"].values():
        entry.pop("mode", None)
    (root / RECORD).write_text(json.dumps(content))
    assert run("prepare", root, "--undo").exit_code == 0
    assert file_contents(root) == before


# Links


@pytest.mark.parametrize("folder", ["local", "startup", "helm_chart", "helm_chart/templates", ".flargo"])
@pytest.mark.parametrize("options", [(), ("--undo",)], ids=["prepare", "undo"])
def test_prepare_follows_no_linked_folder(kit: Kit, folder: str, options: tuple[str, ...]) -> None:
    root = kit("k8s/site-1")
    if options:
        run("prepare", root)
    elsewhere = root.parent / "elsewhere"
    if (root / folder).exists():
        (root / folder).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (root / folder).symlink_to(elsewhere)
    before, elsewhere_before = file_contents(root), file_contents(elsewhere)
    result = run("prepare", root, *options)
    assert file_contents(elsewhere) == elsewhere_before
    assert file_contents(root) == before
    assert result.exit_code == 1
    assert "symbolic link" in result.stderr


@pytest.mark.parametrize(
    "path",
    ["local/study_runtime.yaml", "local/pod.yaml", "local/study_data.yaml", "startup/rootCA.pem", "startup/site.key"],
)
@pytest.mark.parametrize("command", ["render", "doctor"])
def test_links_out_of_the_kit_are_rejected(prepared_kit: Path, meta: Path, path: str, command: str) -> None:
    (prepared_kit / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pod.yaml")))
    (prepared_kit / "local/pod.yaml").write_text(yaml.safe_dump({"spec": {"containers": [{"name": "nvflare_job"}]}}))
    outside = prepared_kit.parent / "outside"
    outside.write_text(yaml.safe_dump(studies(env={"FROM": "outside"})))
    (prepared_kit / path).unlink(missing_ok=True)
    (prepared_kit / path).symlink_to(outside)
    arguments: list[str | Path] = ["render", meta]
    if command == "doctor":
        kubeconfig = prepared_kit.parent / "kubeconfig"
        kubeconfig.touch()
        arguments = ["doctor", "--job", meta, "--kubeconfig", kubeconfig]
    result = run(*arguments, "--kit", prepared_kit)
    assert result.exit_code in {1, 2}
    assert path in result.stderr
    assert "symbolic link" in result.stderr
    assert "outside" not in result.stdout


def test_kit_mounted_by_kubelet_is_rendered(prepared_kit: Path, meta: Path) -> None:
    """The kubelet mounts ConfigMaps and Secrets with relative links inside of the kit."""
    (prepared_kit / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pods/gpu.tmpl")))
    (prepared_kit / "local/pods").mkdir()
    template = {"spec": {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "nvflare_job"}]}}
    (prepared_kit / "local/pods/gpu.tmpl").write_text(yaml.safe_dump(template))
    plain = run("render", meta, "--kit", prepared_kit)
    assert "gpu: 'yes'" in plain.stdout
    mounted = prepared_kit.parent / "mounted"
    for folder in ("startup", "local"):
        shutil.copytree(prepared_kit / folder, mounted / folder / "..2026_01_01")
        (mounted / folder / "..data").symlink_to("..2026_01_01")
        for each in (mounted / folder / "..2026_01_01").iterdir():
            (mounted / folder / each.name).symlink_to(f"..data/{each.name}")
    rendered = run("render", meta, "--kit", mounted)
    assert rendered.exit_code == 0, rendered.stderr
    assert "gpu: 'yes'" in rendered.stdout


def studies(**settings: Any) -> dict[str, Any]:
    return {"format_version": 2, "studies": {"heart": settings}}


@pytest.mark.parametrize(
    "path", ["local/comm_config.json", "local/study_runtime.yaml", "startup/site.key", "local/pod.yaml"]
)
def test_fifo_does_not_block_commands(prepared_kit: Path, meta: Path, path: str) -> None:
    (prepared_kit / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pod.yaml")))
    (prepared_kit / path).unlink(missing_ok=True)
    os.mkfifo(prepared_kit / path)
    result = run("render", meta, "--kit", prepared_kit)
    assert result.exit_code == 1
    assert f"`{path}`" in result.stderr
    assert "a regular file" in result.stderr


# Modes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["k8s/site-1", "plain/site-1"])
def test_private_kits_stay_private(kit: Kit, name: str) -> None:
    root = kit(name)
    for path in root.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    assert run("prepare", root, "--namespace", "lab").exit_code == 0
    wide = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and mode_of(path) & 0o077]
    assert set(wide) <= {"local/comm_config.json"}, "its content is flargo's own, not the kit's"
    assert mode_of(root / "local/resources.json") == mode_of(root / LAUNCHER) == 0o600


@pytest.mark.parametrize("before", [0o600, 0o640, 0o644])
def test_restored_file_has_its_earlier_mode(kit: Kit, before: int) -> None:
    root = kit("k8s/site-1")
    template = root / "helm_chart/templates/role.yaml"
    template.chmod(before)
    run("prepare", root)
    template.unlink()
    assert run("prepare", root, "--undo").exit_code == 0
    assert mode_of(template) == before


def test_record_is_always_private(kit: Kit) -> None:
    root = kit("k8s/site-1")
    run("prepare", root)
    assert mode_of(root / RECORD) == 0o600
    (root / RECORD).chmod(0o644)
    run("prepare", root, "--argo", "kill_grace=9")
    assert mode_of(root / RECORD) == 0o600


# Aliases


def bomb(levels: int) -> str:
    """Return YAML whose last entry expands to 10 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


TEMPLATE = "spec: {containers: [{name: nvflare_job}]}\nmetadata:\n  annotations:\n"
BOMBS = {
    "an inline pod template": {
        "local/study_runtime.yaml": "format_version: 2\nstudies:\n  heart:\n    pod_template:\n      "
        + (TEMPLATE + "    " + bomb(6).replace("\n", "\n    ")).replace("\n", "\n      ")
    },
    "a pod template's file": {
        "local/study_runtime.yaml": yaml.safe_dump(studies(pod_template="pod.yaml")),
        "local/pod.yaml": f"{TEMPLATE}    {bomb(6).replace(chr(10), chr(10) + '    ')}",
    },
    "the chart's values": {"helm_chart/values.yaml": bomb(6)},
}


@pytest.mark.parametrize("case", BOMBS)
def test_render_rejects_alias_bombs(prepared_kit: Path, meta: Path, case: str) -> None:
    for path, text in BOMBS[case].items():
        (prepared_kit / path).write_text(text)
    result = run("render", meta, "--kit", prepared_kit)
    assert result.exit_code == 1
    assert "is too large; expected" in result.stderr
    assert [*BOMBS[case]][-1] in result.stderr


def test_prepare_rejects_alias_bombs(prepared_kit: Path) -> None:
    (prepared_kit / "helm_chart/values.yaml").write_text(bomb(6))
    assert "`helm_chart/values.yaml` is too large" in run("prepare", prepared_kit).stderr
    result = run("prepare", prepared_kit, "--argo", f"labels={{{bomb(6).replace(chr(10), ', ')}}}")
    assert result.exit_code in {1, 2}


# Files that only the launcher reads


def test_dry_run_gets_no_key_material(prepared_kit: Path, tmp_path: Path) -> None:
    """The launcher puts the startup kit into a Secret; a dry run needs only names and sizes."""
    (prepared_kit / "startup/passwords.json").write_text('{"a": "hunter2"}')
    (tmp_path / "copy").mkdir()
    staged = parent_from_kit(prepared_kit, tmp_path / "copy")
    assert staged.simulation.kit == tmp_path / "copy"
    copies = file_contents(tmp_path / "copy")
    certificate = (prepared_kit / "startup/rootCA.pem").read_bytes()
    assert copies.pop("startup/rootCA.pem") == certificate
    startup = {path: content for path, content in copies.items() if path.startswith("startup/")}
    assert {"startup/client.key", "startup/client.crt", "startup/passwords.json"} <= set(startup)
    for path, content in startup.items():
        assert content == bytes((prepared_kit / path).stat().st_size)


@pytest.mark.parametrize("path", ["{outside}", "{workspace}/{up}{outside}", "{workspace}"])
@pytest.mark.parametrize("command", ["render", "doctor"])
def test_study_file_outside_workspace_is_rejected(prepared_kit: Path, meta: Path, path: str, command: str) -> None:
    """The path is valid in the parent's pod; on another machine it is another file."""
    outside = prepared_kit.parent / "outside.yaml"
    outside.write_text(yaml.safe_dump({"heart": {"a": {"source": "found-outside", "mode": "ro"}}}))
    content = json.loads((prepared_kit / LAUNCHER).read_text())
    (part,) = content["components"]
    workspace = part["args"]["workspace_mount_path"]
    up = "/".join([".."] * 20)
    part["args"]["study_data_pvc_file_path"] = path.format(outside=outside, workspace=workspace, up=up)
    (prepared_kit / LAUNCHER).write_text(json.dumps(content))
    (prepared_kit / "local/study_runtime.yaml").unlink(missing_ok=True)
    arguments: list[str | Path] = ["render", meta]
    if command == "doctor":
        arguments = ["doctor", "--job", meta, "--kubeconfig", kubeconfig(meta)]
    result = run(*arguments, "--kit", prepared_kit)
    assert "found-outside" not in result.stdout
    assert result.exit_code == 1
    assert "study_data_pvc_file_path" in result.output
    assert "a file below the parent's workspace" in result.output


def kubeconfig(beside: Path) -> Path:
    """Write the kubeconfig of a cluster that does not answer."""
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    document = {
        "clusters": [cluster],
        "users": [{"name": "u", "user": {}}],
        "contexts": [context],
        "current-context": "c",
    }
    file = beside.parent / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.mark.parametrize("path", ["local/study_data.yaml", "data/studies.yaml"])
def test_study_file_in_workspace_is_read(prepared_kit: Path, meta: Path, path: str) -> None:
    content = json.loads((prepared_kit / LAUNCHER).read_text())
    (part,) = content["components"]
    part["args"]["study_data_pvc_file_path"] = f"{part['args']['workspace_mount_path']}/{path}"
    (prepared_kit / LAUNCHER).write_text(json.dumps(content))
    (prepared_kit / "local/study_runtime.yaml").unlink(missing_ok=True)
    (prepared_kit / path).parent.mkdir(exist_ok=True)
    (prepared_kit / path).write_text(yaml.safe_dump({"heart": {"a": {"source": "images", "mode": "ro"}}}))
    result = run("render", meta, "--kit", prepared_kit)
    assert result.exit_code == 0, result.stderr
    assert "claimName: images" in result.stdout


def test_messages_name_paths_in_the_kit(prepared_kit: Path, meta: Path) -> None:
    (prepared_kit / "local/study_runtime.yaml").write_text("format_version: 2\nstudies: {")
    result = run("render", meta, "--kit", prepared_kit)
    assert "`./local/study_runtime.yaml` is unreadable" in result.stderr
    assert "line 2" in result.stderr


def test_prepare_works_without_modes(shared_kits: Path) -> None:
    files = {
        path: (shared_kits / "plain/site-1" / path).read_bytes()
        for path in ("startup/fed_client.json", "local/resources.json.default")
    }
    assert all(change.mode in {None, 0o600} for change in prepare(files, PrepareOptions("lab")).changes)
