"""The commands as a person or a program meets them: what is said where, and with which exit code."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.tools.cli.main import COMMANDS
from flargo.tools.cli.output import wrap, write_hanging
from tests.harness.command_line import file_contents, run

Kit = Callable[[str], Path]
META: dict[str, Any] = {
    "name": "hello",
    "deploy_map": {"app": ["@ALL"]},
    "launcher_spec": {"default": {"k8s": {"image": "registry.example/job:1", "memory": "4Gi"}}},
}


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    file = tmp_path / "meta.json"
    file.write_text(json.dumps(META))
    return file


# What people read


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("short", ["short"]),
        ("the pod was evicted by its node", ["the pod was", "evicted by", "its node"]),
        ("see `kubectl describe pvc a` now", ["see", "`kubectl describe pvc a`", "now"]),
        ("(`a b c d e f`, or c) and on", ["(`a b c d e f`,", "or c) and on"]),
        ("a-name-that-is-longer-than-it-all x", ["a-name-that-is-longer-than-it-all", "x"]),
    ],
)
def test_a_long_text_is_filled_without_breaking_a_word_or_a_command(text: str, lines: list[str]) -> None:
    assert wrap(text, 12) == lines


@pytest.mark.parametrize(
    ("terminal", "columns", "told"),
    [
        (True, 45, "  event  FailedMount: the volume could not be\n         mounted\n"),
        (True, 20, "  event  FailedMount: the volume could not be mounted\n"),
        (False, 45, "  event  FailedMount: the volume could not be mounted\n"),
    ],
    ids=["a terminal", "a narrow one", "a file"],
)
def test_a_text_stays_beside_its_head_on_a_terminal_and_on_its_line_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool, columns: int, told: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    write_hanging("  event  ", "FailedMount: the volume could not be mounted")
    assert capsys.readouterr().out == told


# All commands


def test_help_loads_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys; from flargo.tools.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert all(line in done.stdout for line in COMMANDS.values())
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & {"nvflare", "kubernetes", "hera", "yaml", "rich"}
    own = {name for name in done.stderr.split() if name.startswith("flargo.")}
    assert not [name for name in own - {"flargo.tools"} if not name.startswith("flargo.tools.cli")]


FOR_EYES = {"demo"}
"""Commands that are to be looked at, and say nothing to programs."""


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - FOR_EYES))
def test_every_command_says_what_it_does_and_speaks_json(name: str) -> None:
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert "--json" in shown.stdout


def test_without_the_extra_a_person_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; from flargo.tools.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'flargo[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> str:
        asked = {"_FLARGO_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "from flargo.tools.cli.main import main; import sys; sys.argv[0] = 'flargo'; main()"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False).stdout

    assert "prepare" in completed("flargo pre")
    assert "--dry-run" in completed("flargo prepare --dr")


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("perpare").exit_code == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("render", "--json"), "Missing argument 'META'."),
        (("render", "/nowhere", "--json"), "'/nowhere' does not exist"),
        (("jobs", "--json", "--sites", "x"), "No such option"),
        (("perpare", "--json"), "No such command 'perpare'."),
    ],
    ids=["a missing word", "no such file", "an unknown option", "an unknown command"],
)
def test_wrong_usage_is_told_in_json_to_a_program(words: tuple[str, ...], told: str) -> None:
    done = run(*words)
    assert (done.exit_code, done.stderr) == (2, "")
    assert told in json.loads(done.stdout)["error"]["message"]
    people = run(*(word for word in words if word != "--json"))
    assert (people.exit_code, people.stdout) == (2, "")
    assert "Usage:" in people.stderr


# flargo prepare


def test_prepare_says_what_it_did_and_what_is_left_to_do(kit: Kit) -> None:
    root = kit("k8s/site-1")
    done = run("prepare", root)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "create  local/resources.json",
        "create  local/flargo__p_resources.json",
        "change  helm_chart/templates/role.yaml",
        "change  helm_chart/templates/client-deployment.yaml",
    ]
    assert "image (registry.example/flare:2.9) has flargo in it, like those of deploy/images\n" in done.stderr
    assert "pip install" not in done.stderr, "no index has flargo: whoever took the name there would be installed"
    assert f"nvflare deploy k8s stage {root}\n" in done.stderr
    again = run("prepare", root)
    assert (again.exit_code, again.stdout) == (0, "")
    assert "Nothing to change." in again.stderr


def test_a_kits_path_is_quoted_in_what_is_left_to_do(kit: Kit) -> None:
    root = kit("k8s/site-1")
    moved = root.rename(root.with_name("my kit; $(id) `id` 'x'"))
    (line,) = (line for line in run("prepare", moved).stderr.splitlines() if "nvflare deploy k8s stage" in line)
    command = line.partition("on the cluster: ")[2]
    assert shlex.split(command) == ["nvflare", "deploy", "k8s", "stage", str(moved)]
    hostile = moved.rename(moved.with_name("kit\x1b[2J\n"))
    assert "put the kit on the cluster: with nvflare deploy k8s stage\n" in run("prepare", hostile).stderr


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["people", "programs"])
def test_a_dry_run_shows_a_diff_and_changes_nothing(kit: Kit, options: tuple[str, ...]) -> None:
    root = kit("k8s/server.lab")
    before = file_contents(root)
    shown = run("prepare", root, "--dry-run", "--max-jobs", "2", *options)
    assert shown.exit_code == 0
    diff = "".join(each["diff"] for each in json.loads(shown.stdout)["changes"]) if options else shown.stdout
    assert '+                "max_jobs": 2' in diff
    assert '-            "id": "k8s_launcher",' in diff
    assert '+            "path": "flargo.ServerArgoJobLauncher",' in diff
    assert "undo.json" not in diff
    assert file_contents(root) == before


def test_a_plain_kits_diff_is_short(kit: Kit) -> None:
    shown = run("prepare", kit("plain/site-1"), "--namespace", "lab", "--dry-run")
    assert "class_allow_list" not in shown.stdout, "provisioning lays the list out in a way of its own"


def test_undo_leaves_no_trace(kit: Kit) -> None:
    root = kit("k8s/server.lab")
    before, modes = file_contents(root), {path: path.stat().st_mode for path in root.rglob("*")}
    run("prepare", root, "--workspace", "/data", "--max-jobs", "2")
    after = file_contents(root)
    shown = run("prepare", root, "--undo", "--dry-run")
    assert "-    mountPath: /data\n+    mountPath: /var/tmp/nvflare/workspace" in shown.stdout
    assert (shown.exit_code, file_contents(root)) == (0, after)
    done = run("prepare", root, "--undo")
    assert done.exit_code == 0
    assert "remove  local/resources.json" in done.stdout
    assert file_contents(root) == before
    assert {path: path.stat().st_mode for path in root.rglob("*")} == modes


def test_settings_are_read_as_what_they_have_to_be(kit: Kit) -> None:
    root = kit("k8s/site-1")
    pairs = ["keep_success=null", "kill_grace=5", "instance_id=7", "labels={team: heart}", "gpu_resource=amd.com/gpu"]
    pairs += ["semaphore={name: flargo-queue, key: jobs}", "queued=86400"]
    assert run("prepare", root, *(word for pair in pairs for word in ("--argo", pair))).exit_code == 0
    (launcher,) = json.loads((root / "local/flargo__p_resources.json").read_text())["components"]
    said = {key: value for key, value in launcher["args"]["argo"].items() if "account" not in key}
    assert said == {
        "keep_success": None,
        "kill_grace": 5,
        "instance_id": "7",
        "labels": {"team": "heart"},
        "gpu_resource": "amd.com/gpu",
        "semaphore": {"name": "flargo-queue", "key": "jobs"},
        "queued": 86400,
    }


USAGE: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "no value": (("--argo", "kill_grace"), ("--argo", "'kill_grace'", "KEY=VALUE"), "'kill_grace'"),
    "an empty value": (
        ("--argo", "keep_success="),
        ("--argo", "'keep_success='", "keep_success=null"),
        "'keep_success='",
    ),
    "an unknown key": (("--argo", "grace=3"), ("argo['grace']", "3", "kill_grace"), "3"),
    "a wrong value": (("--argo", "kill_grace=0"), ("argo['kill_grace']", "0", ">= 1"), "0"),
    "a queue without an end": (
        ("--argo", "semaphore={name: q, key: jobs}"),
        ("--argo", "argo['queued']", "seconds"),
        "None",
    ),
    "a wrong namespace": (("--namespace", "Lab"), ("--namespace", "'Lab'", "a-z"), "'Lab'"),
    "a bound for a client": (("--max-jobs", "3"), ("--max-jobs", "applies only to a server's kit"), "3"),
    "undo and more": (
        ("--undo", "--namespace", "lab"),
        ("--namespace", "cannot be combined with --undo"),
        "'lab'",
    ),
    "undo and settings": (
        ("--undo", "--argo", "kill_grace=3"),
        ("--argo", "cannot be combined with --undo"),
        "('kill_grace=3',)",
    ),
}
"""Wrong options of `flargo prepare`, with texts in the message and with the value in JSON."""


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(kit: Kit, case: str) -> None:
    options, texts, value = USAGE[case]
    root = kit("k8s/site-1")
    before = file_contents(root)
    done = run("prepare", root, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert all(text in done.stderr for text in texts), done.stderr
    assert json.loads(run("prepare", root, *options, "--json").stdout)["error"]["value"] == value
    assert file_contents(root) == before


def test_a_problem_of_the_kit_is_told_in_json_to_a_program(kit: Kit) -> None:
    root = kit("k8s/site-1")
    (root / "local/comm_config.json").write_text('{"internal": {"scheme": "file"}}')
    done = run("prepare", root, "--json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert (error["field"], error["value"]) == ("local/comm_config.json: internal.scheme", "'file'")
    assert "tcp" in error["allowed"]


def test_a_value_is_quoted_once_and_words_of_our_own_never(kit: Kit) -> None:
    root = kit("k8s/site-1")
    assert "argo['kill_grace']` is 'soon'; expected" in run("prepare", root, "--argo", "kill_grace=soon").stderr
    assert "argo['kill_grace']` is -1; expected" in run("prepare", root, "--argo", "kill_grace=-1").stderr
    (root / "local/comm_config.json").write_text("nothing")
    assert "`local/comm_config.json` is unreadable; expected" in run("prepare", root).stderr


def test_what_is_nested_too_deeply_is_refused_as_any_other_file(kit: Kit, meta: Path) -> None:
    root = kit("k8s/site-1")
    (root / "helm_chart/values.yaml").write_text("a: " + "[" * 100_000)
    assert "`helm_chart/values.yaml` is nested too deeply; expected a YAML mapping" in run("prepare", root).stderr
    meta.write_text("[" * 100_000)
    assert f"`{meta}` is nested too deeply; expected a JSON object" in run("render", meta).stderr


def test_a_symbolic_link_is_not_written_through(kit: Kit, tmp_path: Path) -> None:
    root = kit("k8s/site-1")
    (tmp_path / "elsewhere.json").write_text("{}")
    (root / "local/resources.json").symlink_to(tmp_path / "elsewhere.json")
    done = run("prepare", root)
    assert done.exit_code == 1
    assert "symbolic link" in done.stderr


# flargo render


def test_render_prints_the_workflow_of_a_plain_example_site(meta: Path) -> None:
    shown = run("render", meta)
    assert shown.exit_code == 0
    workflow = yaml.safe_load(shown.stdout)
    (template,) = workflow["spec"]["templates"]
    assert workflow["kind"] == "Workflow"
    assert template["container"]["image"] == "registry.example/job:1"
    assert "nvflare.private.fed.app.client.worker_process" in template["container"]["args"]
    assert "no id yet" in shown.stderr


def test_render_takes_a_job_folder_a_site_and_a_side(meta: Path) -> None:
    shown = run("render", meta.parent, "--site", "clinic", "--json")
    labels = json.loads(shown.stdout)["workflow"]["metadata"]["labels"]
    assert (labels["flargo.dev/site"], labels["flargo.dev/role"]) == ("clinic", "client")
    server = json.loads(run("render", meta, "--role", "server", "--json").stdout)["workflow"]
    assert server["metadata"]["labels"]["flargo.dev/site"] == "server"
    assert "nvflare.private.fed.app.server.runner_process" in server["spec"]["templates"][0]["container"]["args"]


@pytest.mark.parametrize("words", [("render", "{}"), ("doctor", "--job", "{}")])
def test_a_jobs_metadata_is_read_to_a_limit(words: tuple[str, ...], meta: Path) -> None:
    with meta.open("wb") as file:
        file.write(b"{}")
        file.truncate(4 * 2**20 + 1)
    done = run(*(word.format(meta) for word in words))
    assert done.exit_code != 0
    assert "META` is too large a file; expected at most 4194304 bytes" in done.output


def test_render_shows_what_a_kits_site_would_submit(kit: Kit, meta: Path) -> None:
    root = kit("k8s/site-1")
    runtime = {"format_version": 2, "studies": {"heart": {"env": {"DB": "postgres"}, "pod_template": "pod.yaml"}}}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    template = {"spec": {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "nvflare_job"}]}}
    (root / "local/pod.yaml").write_text(yaml.safe_dump(template))
    meta.write_text(json.dumps({**META, "study": "heart", "job_id": "11111111-2222-3333-4444-555555555555"}))
    run("prepare", root, "--argo", "labels={team: heart}", "--workspace", "/data/flare")
    before = file_contents(root)
    shown = run("render", meta, "--kit", root)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert file_contents(root) == before
    workflow = yaml.safe_load(shown.stdout)
    assert workflow["metadata"]["namespace"] == "lab"
    assert workflow["metadata"]["labels"]["team"] == "heart"
    spec = workflow["spec"]
    assert spec["serviceAccountName"] == "site-1-flargo-job"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    (step,) = spec["templates"]
    assert step["nodeSelector"] == {"gpu": "yes"}
    container = step["container"]
    assert {"name": "DB", "value": "postgres"} in container["env"]
    assert {each["mountPath"] for each in container["volumeMounts"]} == {"/data/flare", "/data/flare/startup"}
    words = " ".join(container["args"])
    assert "-p tcp://site-1:8102" in words
    assert "-g server.lab:8002" in words
    assert "uid=site-1" in words
    assert str(root) not in shown.stdout


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["people", "programs"])
def test_render_names_secrets_and_shows_no_byte_of_them(kit: Kit, meta: Path, options: tuple[str, ...]) -> None:
    root = kit("k8s/server.lab")
    shown = run("render", meta, "--kit", root, *options)
    assert shown.exit_code == 0
    assert "nvflare-startup-server-" in shown.stdout
    assert "server.key" in shown.stdout
    for file in (root / "startup").iterdir():
        for line in file.read_text().splitlines():
            assert len(line) < 20 or line not in shown.stdout, f"a line of {file.name}"


@pytest.mark.parametrize("prepared", [True, False])
def test_render_says_when_a_kit_is_not_prepared(kit: Kit, meta: Path, *, prepared: bool) -> None:
    root = kit("k8s/site-1")
    if prepared:
        run("prepare", root)
    assert ("is not prepared" in run("render", meta, "--kit", root).stderr) is not prepared


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"name": "x"}, "launcher_spec['site-1']['k8s']['image']"),
    "a wrong amount": (
        {"launcher_spec": {"default": {"k8s": {"image": "x", "memory": "4 GB"}}}},
        "launcher_spec['site-1']['k8s']['memory']",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_render_prints_the_launchers_refusal(meta: Path, case: str) -> None:
    job, field = REFUSED[case]
    meta.write_text(json.dumps(job))
    shown = run("render", meta)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert field in shown.stderr
    assert json.loads(run("render", meta, "--json").stdout)["error"]["field"] == field


def test_render_passes_the_launchers_warnings_on(meta: Path) -> None:
    spec = {"default": {"k8s": {"image": "x", "node": "gpu-7"}}}
    meta.write_text(json.dumps({"launcher_spec": spec}))
    shown = run("render", meta)
    assert "Warning: launcher_spec" in shown.stderr
    assert "node" in shown.stderr


def test_render_does_not_warn_of_what_each_kit_of_flares_own_command_is_like(kit: Kit, meta: Path) -> None:
    root = kit("k8s/site-1")
    run("prepare", root)
    assert "Warning" not in run("render", meta, "--kit", root).stderr


def test_what_is_no_job_is_refused(tmp_path: Path, kit: Kit, meta: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("render", empty).exit_code == 1
    assert run("render", tmp_path / "nothing").exit_code == 2
    assert run("render", meta, "--kit", kit("k8s/site-1"), "--role", "server").exit_code == 2
    assert run("render", meta, "--site", "").exit_code == 2


def test_render_sends_a_plain_kit_to_prepare(kit: Kit, meta: Path) -> None:
    root = kit("plain/site-1")
    shown = run("render", meta, "--kit", root)
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "is not prepared for Kubernetes: run `flargo prepare` with --namespace first" in shown.stderr
    run("prepare", root, "--namespace", "lab")
    assert run("render", meta, "--kit", root).exit_code == 0


# flargo demo


@pytest.mark.parametrize(
    "options", [("--namespace", ""), ("--namespace", "No_Name"), ("--address", ""), ("--address", "a b")], ids=" ".join
)
def test_the_demo_begins_nothing_with_a_word_that_can_name_nothing(options: tuple[str, str]) -> None:
    done = run("demo", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{options[1]!r} is not" in done.stderr
