"""A startup kit comes from another institution: what its files, links and records say is only ever about the kit."""

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
from flargo.tools.cli.staged_kit import of_kit
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
def prepared(kit: Kit) -> Path:
    """A prepared kit of a client."""
    root = kit("k8s/site-1")
    assert run("prepare", root).exit_code == 0
    return root


# Undoing


def record(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / RECORD).read_text())
    return found


def forge(root: Path, path: str, **entry: Any) -> None:
    """Add an entry to a kit's record, or change one."""
    said = record(root)
    said["files"][path] = {
        **said["files"].get(path, {"before": base64.b64encode(b"forged").decode(), "after": None}),
        **entry,
    }
    (root / RECORD).write_text(json.dumps(said))


@pytest.mark.parametrize(
    "path",
    ["ABSOLUTE", "../outside", "local/../../outside", "local/custom/code.py", "startup/start.sh", "local", "", RECORD],
)
def test_a_forged_record_restores_no_other_file(prepared: Path, path: str) -> None:
    outside = prepared.parent / "outside"
    outside.write_text("mine")
    forge(prepared, str(outside) if path == "ABSOLUTE" else path)
    before = file_contents(prepared)
    done = run("prepare", prepared, "--undo")
    assert outside.read_text() == "mine"
    assert file_contents(prepared) == before, "nothing is written if one entry is wrong"
    assert done.exit_code == 1
    assert f"{RECORD}: files[" in done.stderr
    assert "is not one of the files that flargo writes" in done.stderr


WRONG: dict[str, dict[str, Any]] = {
    "no Base64": {"before": "%%%"},
    "content that is no text": {"before": 7},
    "no hash": {"after": "abc"},
    "a hash that is no text": {"after": ["0" * 64]},
    "a mode that is no text": {"mode": 420},
    "a mode with more than permissions": {"mode": "4755"},
    "a key without meaning": {"extra": "x"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named_and_nothing_is_written(prepared: Path, case: str) -> None:
    forge(prepared, "helm_chart/templates/role.yaml", **WRONG[case])
    before = file_contents(prepared)
    for options in (("--undo",), ("--argo", "kill_grace=9")):
        done = run("prepare", prepared, *options)
        assert done.exit_code == 1
        assert f"{RECORD}: files['helm_chart/templates/role.yaml']" in done.stderr
        assert file_contents(prepared) == before


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
def test_any_record_is_refused_or_restores_flargos_files_only(said: Any) -> None:
    try:
        changes = plan_undo({RECORD: json.dumps(said).encode()})
    except InvalidInput:
        return
    assert {change.path for change in changes} <= WRITTEN_FILES | {RECORD}


def test_a_record_of_an_earlier_version_still_works(kit: Kit) -> None:
    root = kit("k8s/site-1")
    before = file_contents(root)
    run("prepare", root)
    said = record(root)
    for entry in said["files"].values():
        entry.pop("mode", None)
    (root / RECORD).write_text(json.dumps(said))
    assert run("prepare", root, "--undo").exit_code == 0
    assert file_contents(root) == before


# Links


@pytest.mark.parametrize("folder", ["local", "startup", "helm_chart", "helm_chart/templates", ".flargo"])
@pytest.mark.parametrize("options", [(), ("--undo",)], ids=["prepare", "undo"])
def test_prepare_goes_through_no_linked_folder(kit: Kit, folder: str, options: tuple[str, ...]) -> None:
    root = kit("k8s/site-1")
    if options:
        run("prepare", root)
    elsewhere = root.parent / "elsewhere"
    if (root / folder).exists():
        (root / folder).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (root / folder).symlink_to(elsewhere)
    before, theirs = file_contents(root), file_contents(elsewhere)
    done = run("prepare", root, *options)
    assert file_contents(elsewhere) == theirs
    assert file_contents(root) == before
    assert done.exit_code == 1
    assert "symbolic link" in done.stderr


@pytest.mark.parametrize(
    "path",
    ["local/study_runtime.yaml", "local/pod.yaml", "local/study_data.yaml", "startup/rootCA.pem", "startup/site.key"],
)
@pytest.mark.parametrize("command", ["render", "doctor"])
def test_nothing_that_a_link_out_of_the_kit_names_is_read(prepared: Path, meta: Path, path: str, command: str) -> None:
    (prepared / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pod.yaml")))
    (prepared / "local/pod.yaml").write_text(yaml.safe_dump({"spec": {"containers": [{"name": "nvflare_job"}]}}))
    outside = prepared.parent / "outside"
    outside.write_text(yaml.safe_dump(studies(env={"FROM": "outside"})))
    (prepared / path).unlink(missing_ok=True)
    (prepared / path).symlink_to(outside)
    arguments: list[str | Path] = ["render", meta]
    if command == "doctor":
        arguments = ["doctor", "--job", meta, "--kubeconfig", "/nowhere"]
    done = run(*arguments, "--kit", prepared)
    assert done.exit_code in {1, 2}
    assert path in done.stderr
    assert "symbolic link" in done.stderr
    assert "outside" not in done.stdout


def test_a_kit_that_the_kubelet_has_mounted_is_rendered(prepared: Path, meta: Path) -> None:
    (prepared / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pods/gpu.tmpl")))
    (prepared / "local/pods").mkdir()
    template = {"spec": {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "nvflare_job"}]}}
    (prepared / "local/pods/gpu.tmpl").write_text(yaml.safe_dump(template))
    plain = run("render", meta, "--kit", prepared)
    assert "gpu: 'yes'" in plain.stdout
    mounted = prepared.parent / "mounted"
    for folder in ("startup", "local"):
        shutil.copytree(prepared / folder, mounted / folder / "..2026_01_01")
        (mounted / folder / "..data").symlink_to("..2026_01_01")
        for each in (mounted / folder / "..2026_01_01").iterdir():
            (mounted / folder / each.name).symlink_to(f"..data/{each.name}")
    shown = run("render", meta, "--kit", mounted)
    assert shown.exit_code == 0, shown.stderr
    assert "gpu: 'yes'" in shown.stdout


def studies(**said: Any) -> dict[str, Any]:
    return {"format_version": 2, "studies": {"heart": said}}


@pytest.mark.parametrize(
    "path", ["local/comm_config.json", "local/study_runtime.yaml", "startup/site.key", "local/pod.yaml"]
)
def test_a_fifo_stops_no_command(prepared: Path, meta: Path, path: str) -> None:
    (prepared / "local/study_runtime.yaml").write_text(yaml.safe_dump(studies(pod_template="pod.yaml")))
    (prepared / path).unlink(missing_ok=True)
    os.mkfifo(prepared / path)
    done = run("render", meta, "--kit", prepared)
    assert done.exit_code == 1
    assert f"`{path}`" in done.stderr
    assert "a regular file" in done.stderr


# Modes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["k8s/site-1", "plain/site-1"])
def test_what_was_private_stays_private(kit: Kit, name: str) -> None:
    root = kit(name)
    for path in root.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    assert run("prepare", root, "--namespace", "lab").exit_code == 0
    wide = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and mode_of(path) & 0o077]
    assert set(wide) <= {"local/comm_config.json"}, "its content is flargo's own"
    assert mode_of(root / "local/resources.json") == mode_of(root / LAUNCHER) == 0o600


@pytest.mark.parametrize("before", [0o600, 0o640, 0o644])
def test_a_file_that_is_deleted_and_restored_has_its_earlier_mode(kit: Kit, before: int) -> None:
    root = kit("k8s/site-1")
    template = root / "helm_chart/templates/role.yaml"
    template.chmod(before)
    run("prepare", root)
    template.unlink()
    assert run("prepare", root, "--undo").exit_code == 0
    assert mode_of(template) == before


def test_the_record_is_private_whatever_the_umask_and_the_files(kit: Kit) -> None:
    root = kit("k8s/site-1")
    run("prepare", root)
    assert mode_of(root / RECORD) == 0o600
    (root / RECORD).chmod(0o644)
    run("prepare", root, "--argo", "kill_grace=9")
    assert mode_of(root / RECORD) == 0o600


# Aliases


def bomb(levels: int) -> str:
    """YAML entries of which the last stands for 10 ** levels values."""
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
def test_an_alias_bomb_is_refused_by_render(prepared: Path, meta: Path, case: str) -> None:
    for path, text in BOMBS[case].items():
        (prepared / path).write_text(text)
    done = run("render", meta, "--kit", prepared)
    assert done.exit_code == 1
    assert "is too large; expected" in done.stderr
    assert [*BOMBS[case]][-1] in done.stderr


def test_an_alias_bomb_is_refused_by_prepare(prepared: Path) -> None:
    (prepared / "helm_chart/values.yaml").write_text(bomb(6))
    assert "`helm_chart/values.yaml` is too large" in run("prepare", prepared).stderr
    done = run("prepare", prepared, "--argo", f"labels={{{bomb(6).replace(chr(10), ', ')}}}")
    assert done.exit_code in {1, 2}


# What the launcher would read


def test_a_rehearsal_gets_no_byte_of_a_key(prepared: Path, tmp_path: Path) -> None:
    """The launcher puts the startup kit into a Secret; a rehearsal needs names and sizes."""
    (prepared / "startup/passwords.json").write_text('{"a": "hunter2"}')
    (tmp_path / "copy").mkdir()
    staged = of_kit(prepared, tmp_path / "copy")
    assert staged.stage.kit == tmp_path / "copy"
    copies = file_contents(tmp_path / "copy")
    certificate = (prepared / "startup/rootCA.pem").read_bytes()
    assert copies.pop("startup/rootCA.pem") == certificate
    startup = {path: content for path, content in copies.items() if path.startswith("startup/")}
    assert {"startup/client.key", "startup/client.crt", "startup/passwords.json"} <= set(startup)
    for path, content in startup.items():
        assert content == bytes((prepared / path).stat().st_size)


@pytest.mark.parametrize("place", ["{outside}", "{workspace}/{up}{outside}", "{workspace}"])
@pytest.mark.parametrize("command", ["render", "doctor"])
def test_a_study_file_outside_the_workspace_is_refused(prepared: Path, meta: Path, place: str, command: str) -> None:
    """Such a path is one of the parent's pod; on another machine it is whatever lies there."""
    outside = prepared.parent / "outside.yaml"
    outside.write_text(yaml.safe_dump({"heart": {"a": {"source": "found-outside", "mode": "ro"}}}))
    said = json.loads((prepared / LAUNCHER).read_text())
    (part,) = said["components"]
    workspace = part["args"]["workspace_mount_path"]
    up = "/".join([".."] * 20)
    part["args"]["study_data_pvc_file_path"] = place.format(outside=outside, workspace=workspace, up=up)
    (prepared / LAUNCHER).write_text(json.dumps(said))
    (prepared / "local/study_runtime.yaml").unlink(missing_ok=True)
    arguments: list[str | Path] = ["render", meta]
    if command == "doctor":
        arguments = ["doctor", "--job", meta, "--kubeconfig", kubeconfig(meta)]
    done = run(*arguments, "--kit", prepared)
    assert "found-outside" not in done.stdout
    assert done.exit_code == 1
    assert "study_data_pvc_file_path" in done.output
    assert "a file below the parent's workspace" in done.output


def kubeconfig(beside: Path) -> Path:
    """One of a cluster that does not answer."""
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
def test_a_study_file_in_the_workspace_is_read(prepared: Path, meta: Path, path: str) -> None:
    said = json.loads((prepared / LAUNCHER).read_text())
    (part,) = said["components"]
    part["args"]["study_data_pvc_file_path"] = f"{part['args']['workspace_mount_path']}/{path}"
    (prepared / LAUNCHER).write_text(json.dumps(said))
    (prepared / "local/study_runtime.yaml").unlink(missing_ok=True)
    (prepared / path).parent.mkdir(exist_ok=True)
    (prepared / path).write_text(yaml.safe_dump({"heart": {"a": {"source": "images", "mode": "ro"}}}))
    done = run("render", meta, "--kit", prepared)
    assert done.exit_code == 0, done.stderr
    assert "claimName: images" in done.stdout


def test_messages_name_files_as_the_kit_has_them(prepared: Path, meta: Path) -> None:
    (prepared / "local/study_runtime.yaml").write_text("format_version: 2\nstudies: {")
    done = run("render", meta, "--kit", prepared)
    assert "`./local/study_runtime.yaml` is unreadable" in done.stderr
    assert "line 2" in done.stderr


def test_preparing_a_kit_of_memory_needs_no_modes(made_kits: Path) -> None:
    files = {
        path: (made_kits / "plain/site-1" / path).read_bytes()
        for path in ("startup/fed_client.json", "local/resources.json.default")
    }
    assert all(change.mode in {None, 0o600} for change in prepare(files, PrepareOptions("lab")).changes)
