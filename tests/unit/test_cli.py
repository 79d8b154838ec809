"""Tests of the commands' output and exit codes, for people and for programs."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from flargo.flare.launch_records import FOLDER
from flargo.flare.redact import install_filter
from flargo.tools.cli.examples import EXAMPLES
from flargo.tools.cli.lazy_group import _OTHER_TOOLS_COMMANDS
from flargo.tools.cli.main import COMMANDS, group
from flargo.tools.cli.missing_extra import describe_missing_extra
from flargo.tools.cli.output import wrap, write_hanging
from tests.harness.command_line import file_contents, run, write_kubeconfig

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


# The writers


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
def test_wrap_breaks_no_word_or_command(text: str, lines: list[str]) -> None:
    assert wrap(text, 12) == lines


@pytest.mark.parametrize(
    ("terminal", "columns", "expected"),
    [
        (True, 45, "  event  FailedMount: the volume could not be\n         mounted\n"),
        (True, 20, "  event  FailedMount: the volume could not be mounted\n"),
        (False, 45, "  event  FailedMount: the volume could not be mounted\n"),
    ],
    ids=["terminal", "narrow terminal", "file"],
)
def test_write_hanging_indents_only_on_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool, columns: int, expected: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    write_hanging("  event  ", "FailedMount: the volume could not be mounted")
    assert capsys.readouterr().out == expected


# All commands


def test_help_imports_no_command() -> None:
    code = (
        "import sys; from flargo.tools.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert all(line in result.stdout for line in COMMANDS.values())
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    assert not loaded & {"nvflare", "kubernetes", "hera", "yaml", "rich"}
    own = {name for name in result.stderr.split() if name.startswith("flargo.")}
    assert not [name for name in own - {"flargo.tools"} if not name.startswith("flargo.tools.cli")]


WITHOUT_JSON = {"completion", "demo"}
"""Commands without output for programs."""


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT_JSON))
def test_every_command_has_help_and_json(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_examples_that_parse(name: str) -> None:
    text = run(name, "--help").stdout
    command = group().get_command(click.Context(group()), name)
    assert command is not None
    assert len(EXAMPLES[name]) > 1
    for example in EXAMPLES[name]:
        assert f"  {example}\n" in text
        program, first, *arguments = shlex.split(example)
        assert (program, first) == ("flargo", name)
        context = click.Context(command, info_name=name)
        _, surplus, _ = command.make_parser(context).parse_args(arguments)
        assert surplus == []


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("click", ["--help"], "cli"),
        ("rich", ["jobs"], "cli"),
        ("rich", ["why", "x", "--debug"], "cli"),
        ("aiohttp", ["demo"], "demo"),
    ],
)
def test_missing_extra_names_the_install_command(module: str, arguments: list[str], extra: str) -> None:
    """Nvflare brings click, so that the command began, and ended with a traceback."""
    code = f"import sys; sys.modules[{module!r}] = None; from flargo.tools.cli.main import main; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: the package {module} is not installed;")
    assert result.stderr.endswith(f"In a checkout of flargo: pip install '.[{extra}]'\n")


def test_other_missing_modules_are_not_hidden() -> None:
    assert describe_missing_extra(ModuleNotFoundError("x", name="yaml")) is None
    assert describe_missing_extra(ModuleNotFoundError("x")) is None


def test_shell_completes_commands_and_options() -> None:
    def complete(line: str) -> str:
        completion = {"_FLARGO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        code = "from flargo.tools.cli.main import main; import sys; sys.argv[0] = 'flargo'; main()"
        command = [sys.executable, "-c", code]
        environment = {**os.environ, **completion}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    assert "prepare" in complete("flargo pre")
    assert "--dry-run" in complete("flargo prepare --dr")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("perpare", " Did you mean 'prepare'?"),
        ("log", " Did you mean 'logs'?"),
        ("list", " Did you mean 'jobs'?"),
        ("describe", " Did you mean 'why'?"),
        ("delete", " Did you mean 'terminate'?"),
        ("xyzzy", ""),
    ],
)
def test_unknown_command_is_a_usage_error(word: str, hint: str) -> None:
    result = run(word)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"Error: No such command {word!r}.{hint}\n")


def test_suggested_commands_exist() -> None:
    for word in _OTHER_TOOLS_COMMANDS.values():
        command, *options = word.split()
        assert all(option in run(command, "--help").stdout for option in options)
        assert command in COMMANDS
    assert not COMMANDS.keys() & _OTHER_TOOLS_COMMANDS.keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("render", "--json"), "Missing argument 'META'."),
        (("render", "/nowhere", "--json"), "'/nowhere' does not exist"),
        (("jobs", "--json", "--sites", "x"), "No such option"),
        (("perpare", "--json"), "No such command 'perpare'. Did you mean 'prepare'?"),
    ],
    ids=["missing argument", "missing file", "unknown option", "unknown command"],
)
def test_usage_errors_are_json_with_json_option(arguments: tuple[str, ...], expected: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (2, "")
    assert expected in json.loads(result.stdout)["error"]["message"]
    text_result = run(*(word for word in arguments if word != "--json"))
    assert (text_result.exit_code, text_result.stdout) == (2, "")
    assert "Usage:" in text_result.stderr


@pytest.mark.parametrize("arguments", [("prepare", "KIT", "--dry-run"), ("render", "META")], ids=" ".join)
def test_yaml_and_json_are_the_same_document(kit: Kit, meta: Path, arguments: tuple[str, ...]) -> None:
    places = {"KIT": kit("k8s/site-1"), "META": meta}
    words = [places.get(word, word) for word in arguments]
    document = json.loads(run(*words, "-o", "json").stdout)
    assert yaml.safe_load(run(*words, "-o", "yaml").stdout) == document


# flargo prepare


def test_prepare_prints_changes_and_next_steps(kit: Kit) -> None:
    root = kit("k8s/site-1")
    result = run("prepare", root)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "create  local/resources.json",
        "create  local/flargo__p_resources.json",
        "change  helm_chart/templates/role.yaml",
        "change  helm_chart/templates/client-deployment.yaml",
    ]
    assert "image (registry.example/flare:2.9) has flargo in it, like those of deploy/images\n" in result.stderr
    assert "pip install" not in result.stderr, (
        "flargo is in no package index: a package of that name there would be somebody else's"
    )
    assert f"nvflare deploy k8s stage {root}\n" in result.stderr
    second_result = run("prepare", root)
    assert (second_result.exit_code, second_result.stdout) == (0, "")
    assert "Nothing to change." in second_result.stderr


def test_next_steps_quote_the_kit_path(kit: Kit) -> None:
    root = kit("k8s/site-1")
    moved_kit = root.rename(root.with_name("my kit; $(id) `id` 'x'"))
    (line,) = (line for line in run("prepare", moved_kit).stderr.splitlines() if "nvflare deploy k8s stage" in line)
    command = line.partition("on the cluster: ")[2]
    assert shlex.split(command) == ["nvflare", "deploy", "k8s", "stage", str(moved_kit)]
    hostile_kit = moved_kit.rename(moved_kit.with_name("kit\x1b[2J\n"))
    assert "put the kit on the cluster: with nvflare deploy k8s stage\n" in run("prepare", hostile_kit).stderr


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["people", "programs"])
def test_prepare_dry_run_prints_only_a_diff(kit: Kit, options: tuple[str, ...]) -> None:
    root = kit("k8s/server.lab")
    before = file_contents(root)
    result = run("prepare", root, "--dry-run", "--max-jobs", "2", *options)
    assert result.exit_code == 0
    diff = "".join(each["diff"] for each in json.loads(result.stdout)["changes"]) if options else result.stdout
    assert '+                "max_jobs": 2' in diff
    assert '-            "id": "k8s_launcher",' in diff
    assert '+            "path": "flargo.ServerArgoJobLauncher",' in diff
    assert "undo.json" not in diff
    assert ("Nothing was written: this was a dry run.\n" in result.stderr) is not bool(options)
    assert file_contents(root) == before


def test_diff_has_colours_on_a_terminal(kit: Kit) -> None:
    root = kit("k8s/server.lab")
    coloured, plain = (run("prepare", root, "--dry-run", color=color).stdout for color in (True, False))
    assert "\x1b[32m+" in coloured
    assert "\x1b[31m-" in coloured
    assert "\x1b[1m+++ b/local/resources.json" in coloured, "a header is no added line"
    assert click.unstyle(coloured) == plain


def test_diff_of_plain_kit_is_short(kit: Kit) -> None:
    """The diff contains no line that changes only its format."""
    result = run("prepare", kit("plain/site-1"), "--namespace", "lab", "--dry-run")
    assert "class_allow_list" not in result.stdout, "provisioning formats this list in its own way"


def test_undo_restores_content_and_modes(kit: Kit) -> None:
    root = kit("k8s/server.lab")
    before, modes = file_contents(root), {path: path.stat().st_mode for path in root.rglob("*")}
    run("prepare", root, "--workspace", "/data", "--max-jobs", "2")
    after = file_contents(root)
    result = run("prepare", root, "--undo", "--dry-run")
    assert "-    mountPath: /data\n+    mountPath: /var/tmp/nvflare/workspace" in result.stdout
    assert (result.exit_code, file_contents(root)) == (0, after)
    result = run("prepare", root, "--undo")
    assert result.exit_code == 0
    assert "remove  local/resources.json" in result.stdout
    assert file_contents(root) == before
    assert {path: path.stat().st_mode for path in root.rglob("*")} == modes


def test_records_of_launches_disturb_no_undo(kit: Kit) -> None:
    """A parent that runs in the kit's own folder keeps its records beside that of `prepare`."""
    root = kit("k8s/site-1")
    before = file_contents(root)
    assert run("prepare", root, "--workspace", "/data").exit_code == 0
    (root / FOLDER).mkdir()
    (root / FOLDER / "job.json").write_text("{}")
    assert run("prepare", root, "--workspace", "/other").exit_code == 0
    assert run("prepare", root, "--undo").exit_code == 0
    assert file_contents(root) == before | {str(FOLDER / "job.json"): b"{}"}
    assert run("prepare", root, "--undo").exit_code != 0, "the record of `prepare` is gone"


def test_argo_option_parses_yaml_values(kit: Kit) -> None:
    root = kit("k8s/site-1")
    pairs = ["keep_success=null", "kill_grace=5", "instance_id=7", "labels={team: heart}", "gpu_resource=amd.com/gpu"]
    pairs += ["semaphore={name: flargo-queue, key: jobs}", "queued=86400"]
    assert run("prepare", root, *(word for pair in pairs for word in ("--argo", pair))).exit_code == 0
    (launcher,) = json.loads((root / "local/flargo__p_resources.json").read_text())["components"]
    settings = {key: value for key, value in launcher["args"]["argo"].items() if "account" not in key}
    assert settings == {
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
    "an unknown key": (("--argo", "grace=3"), ("`--argo grace`", "3", "kill_grace"), "3"),
    "a wrong value": (("--argo", "kill_grace=0"), ("`--argo kill_grace`", "0", ">= 1"), "0"),
    "a queue without a time limit": (
        ("--argo", "semaphore={name: q, key: jobs}"),
        ("`--argo queued`", "seconds"),
        "None",
    ),
    "a limit for a client": (("--max-jobs", "3"), ("--max-jobs", "applies only to a server's kit"), "3"),
}
"""Wrong options of `flargo prepare`, with texts in the message and with the value in JSON."""


@pytest.mark.parametrize("case", USAGE)
def test_prepare_rejects_wrong_options(kit: Kit, case: str) -> None:
    options, texts, value = USAGE[case]
    root = kit("k8s/site-1")
    before = file_contents(root)
    result = run("prepare", root, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(text in result.stderr for text in texts), result.stderr
    assert json.loads(run("prepare", root, *options, "--json").stdout)["error"]["value"] == value
    assert file_contents(root) == before


@pytest.mark.parametrize("options", [("--namespace", "lab"), ("--argo", "kill_grace=3"), ("--max-jobs", "3")])
def test_undo_takes_no_settings(kit: Kit, options: tuple[str, str]) -> None:
    root = kit("k8s/site-1")
    result = run("prepare", root, "--undo", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"Error: {options[0]} and --undo cannot be combined.\n")


def test_a_part_of_a_setting_is_named_as_it_is_written(kit: Kit) -> None:
    result = run("prepare", kit("k8s/site-1"), "--argo", "policy={cpu: many}")
    assert result.exit_code == 2
    assert "`--argo policy['cpu']` is 'many'; expected a Kubernetes quantity" in result.stderr


def test_kit_errors_are_json_with_json_option(kit: Kit) -> None:
    root = kit("k8s/site-1")
    (root / "local/comm_config.json").write_text('{"internal": {"scheme": "file"}}')
    result = run("prepare", root, "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["field"], error["value"]) == ("local/comm_config.json: internal.scheme", "'file'")
    assert "tcp" in error["allowed"]


def test_messages_quote_only_foreign_values(kit: Kit) -> None:
    root = kit("k8s/site-1")
    assert "`--argo kill_grace` is 'soon'; expected" in run("prepare", root, "--argo", "kill_grace=soon").stderr
    assert "`--argo kill_grace` is -1; expected" in run("prepare", root, "--argo", "kill_grace=-1").stderr
    (root / "local/comm_config.json").write_text("nothing")
    assert "`local/comm_config.json` is unreadable; expected" in run("prepare", root).stderr


def test_deep_nesting_is_rejected(kit: Kit, meta: Path) -> None:
    root = kit("k8s/site-1")
    (root / "helm_chart/values.yaml").write_text("a: " + "[" * 100_000)
    assert "`helm_chart/values.yaml` is nested too deeply; expected a YAML mapping" in run("prepare", root).stderr
    meta.write_text("[" * 100_000)
    assert f"`{meta}` is nested too deeply; expected a JSON object" in run("render", meta).stderr


def test_prepare_writes_through_no_link(kit: Kit, tmp_path: Path) -> None:
    root = kit("k8s/site-1")
    (tmp_path / "elsewhere.json").write_text("{}")
    (root / "local/resources.json").symlink_to(tmp_path / "elsewhere.json")
    result = run("prepare", root)
    assert result.exit_code == 1
    assert "symbolic link" in result.stderr


# flargo render


def test_render_defaults_to_an_example_site(meta: Path) -> None:
    result = run("render", meta)
    assert result.exit_code == 0
    workflow = yaml.safe_load(result.stdout)
    (template,) = workflow["spec"]["templates"]
    assert workflow["kind"] == "Workflow"
    assert template["container"]["image"] == "registry.example/job:1"
    assert "nvflare.private.fed.app.client.worker_process" in template["container"]["args"]
    assert "no id yet" in result.stderr


def test_render_takes_folder_site_and_role(meta: Path) -> None:
    result = run("render", meta.parent, "--site", "clinic", "--json")
    labels = json.loads(result.stdout)["workflow"]["metadata"]["labels"]
    assert (labels["flargo.dev/site"], labels["flargo.dev/role"]) == ("clinic", "client")
    server = json.loads(run("render", meta, "--role", "server", "--json").stdout)["workflow"]
    assert server["metadata"]["labels"]["flargo.dev/site"] == "server"
    assert "nvflare.private.fed.app.server.runner_process" in server["spec"]["templates"][0]["container"]["args"]


@pytest.mark.parametrize("arguments", [("render", "{}"), ("doctor", "--job", "{}")])
def test_job_metadata_has_a_size_limit(arguments: tuple[str, ...], meta: Path) -> None:
    with meta.open("wb") as file:
        file.write(b"{}")
        file.truncate(4 * 2**20 + 1)
    result = run(*(word.format(meta) for word in arguments))
    assert result.exit_code != 0
    assert f"`{meta}` is too large a file; expected at most 4194304 bytes" in result.output


def test_render_uses_the_kit(kit: Kit, meta: Path) -> None:
    root = kit("k8s/site-1")
    runtime = {"format_version": 2, "studies": {"heart": {"env": {"DB": "postgres"}, "pod_template": "pod.yaml"}}}
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(runtime))
    template = {"spec": {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "nvflare_job"}]}}
    (root / "local/pod.yaml").write_text(yaml.safe_dump(template))
    meta.write_text(json.dumps({**META, "study": "heart", "job_id": "11111111-2222-3333-4444-555555555555"}))
    run("prepare", root, "--argo", "labels={team: heart}", "--workspace", "/data/flare")
    before = file_contents(root)
    result = run("render", meta, "--kit", root)
    assert (result.exit_code, result.stderr) == (0, "")
    assert file_contents(root) == before
    workflow = yaml.safe_load(result.stdout)
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
    command_line = " ".join(container["args"])
    assert "-p tcp://site-1:8102" in command_line
    assert "-g server.lab:8002" in command_line
    assert "uid=site-1" in command_line
    assert str(root) not in result.stdout


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["people", "programs"])
def test_render_prints_no_content_of_secrets(kit: Kit, meta: Path, options: tuple[str, ...]) -> None:
    root = kit("k8s/server.lab")
    result = run("render", meta, "--kit", root, *options)
    assert result.exit_code == 0
    assert "nvflare-startup-server-" in result.stdout
    assert "server.key" in result.stdout
    for file in (root / "startup").iterdir():
        for line in file.read_text().splitlines():
            assert len(line) < 20 or line not in result.stdout, f"a line of {file.name}"


@pytest.mark.parametrize("prepared", [True, False])
def test_render_reports_unprepared_kits(kit: Kit, meta: Path, *, prepared: bool) -> None:
    root = kit("k8s/site-1")
    if prepared:
        run("prepare", root)
    assert ("is not prepared" in run("render", meta, "--kit", root).stderr) is not prepared


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"name": "x"}, "launcher_spec['site-1']['k8s']['image']"),
    "a wrong amount": (
        {"launcher_spec": {"default": {"k8s": {"image": "x", "memory": "4 GB"}}}},
        "launcher_spec['default']['k8s']['memory']",
    ),
    "a wrong amount for the site": (
        {
            "launcher_spec": {
                "default": {"k8s": {"image": "x", "memory": "4Gi"}},
                "site-1": {"k8s": {"memory": "4 GB"}},
            }
        },
        "launcher_spec['site-1']['k8s']['memory']",
    ),
    "a wrong number of attempts": (
        {"launcher_spec": {"default": {"k8s": {"image": "x", "argo": {"rejoin": "2"}}}, "site-1": {"k8s": None}}},
        "launcher_spec['default']['k8s']['argo']['rejoin']",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_render_prints_the_launchers_error(meta: Path, case: str) -> None:
    job, field = REFUSED[case]
    meta.write_text(json.dumps(job))
    result = run("render", meta)
    assert (result.exit_code, result.stdout) == (1, "")
    assert field in result.stderr
    assert json.loads(run("render", meta, "--json").stdout)["error"]["field"] == field


def test_render_prints_the_launchers_warnings(meta: Path) -> None:
    spec = {"default": {"k8s": {"image": "x", "node": "gpu-7"}}}
    meta.write_text(json.dumps({"launcher_spec": spec}))
    result = run("render", meta)
    assert "Warning: launcher_spec" in result.stderr
    assert "node" in result.stderr


@pytest.mark.parametrize(
    ("block", "key", "place"),
    [
        ("default", "argo", "launcher_spec['default']['k8s']"),
        ("site-1", "argo", "launcher_spec['site-1']['k8s']"),
        ("site-1", "rejoin", "launcher_spec['site-1']['k8s']['argo']"),
    ],
)
def test_render_warns_of_a_key_beside_the_launchers_block(meta: Path, block: str, key: str, place: str) -> None:
    """FLARE takes the key for the name of another launcher, and reads it nowhere."""
    spec: dict[str, Any] = {"default": {"k8s": {"image": "x"}}, "site-1": {"k8s": {}}}
    spec[block][key] = {"rejoin": 1}
    meta.write_text(json.dumps({"launcher_spec": spec}))
    warning = f"Warning: launcher_spec[{block!r}][{key!r}] is ignored: write it in {place}\n"
    assert run("render", meta).stderr.startswith(warning)


@pytest.mark.parametrize(("role", "is_warned"), [("client", True), ("server", False)])
def test_render_warns_of_attempts_that_a_site_refuses(meta: Path, role: str, is_warned: bool) -> None:  # noqa: FBT001
    """The job's author counts on them. A server's process is never started again."""
    spec = {"default": {"k8s": {"image": "x", "argo": {"rejoin": 2}}}}
    meta.write_text(json.dumps({"launcher_spec": spec}))
    warning = "asks for 2 further attempts (argo.rejoin), and this site grants 0 (argo.policy.rejoin)"
    assert (warning in run("render", meta, "--role", role).stderr) is is_warned


def test_render_hides_warnings_of_every_kit(kit: Kit, meta: Path) -> None:
    """Warnings that hold for every kit of `nvflare deploy prepare` are of no use to people."""
    root = kit("k8s/site-1")
    run("prepare", root)
    assert "Warning" not in run("render", meta, "--kit", root).stderr
    install_filter()  # it replaces the format of a warning by the whole message
    assert "Warning" not in run("render", meta, "--kit", root).stderr


def test_render_rejects_wrong_arguments(tmp_path: Path, kit: Kit, meta: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("render", empty).exit_code == 1
    assert run("render", tmp_path / "nothing").exit_code == 2
    assert run("render", meta, "--kit", kit("k8s/site-1"), "--role", "server").exit_code == 2
    assert run("render", meta, "--site", "").exit_code == 2


def test_render_asks_to_prepare_plain_kits(kit: Kit, meta: Path) -> None:
    root = kit("plain/site-1")
    result = run("render", meta, "--kit", root)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not prepared for Kubernetes: run `flargo prepare` with --namespace first" in result.stderr
    run("prepare", root, "--namespace", "lab")
    assert run("render", meta, "--kit", root).exit_code == 0


# flargo demo


@pytest.mark.parametrize(
    "options", [("--namespace", ""), ("--namespace", "No_Name"), ("--address", ""), ("--address", "a b")], ids=" ".join
)
def test_demo_rejects_invalid_names_at_once(options: tuple[str, str]) -> None:
    result = run("demo", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{options[1]!r} is not" in result.stderr


@pytest.mark.parametrize(
    ("options", "meta", "message"),
    [
        (("--rounds", "3"), {}, "--rounds works only with the demo's own job, not with --job"),
        (("--sites", "3"), {"deploy_map": {"app": ["a", "b"]}}, "--sites 3 contradicts the job's meta.json"),
        (("--image", "x"), {"launcher_spec": {"default": {"k8s": {"image": "y"}}}}, "--image has no effect"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
@pytest.mark.parametrize("file", [".", "meta.json"])
def test_demo_refuses_what_the_job_overrides(
    tmp_path: Path, options: tuple[str, str], meta: dict[str, Any], message: str, file: str
) -> None:
    """These options were ignored. A job is named by its folder or its meta.json, as for `flargo render`."""
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "app").mkdir()
    result = run("demo", "--job", tmp_path / file, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_demo_on_a_cluster_needs_an_image(tmp_path: Path) -> None:
    """It is told before any request."""
    result = run("demo", "--kubeconfig", write_kubeconfig(tmp_path / "config"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name it with --image" in result.stderr


def test_demo_drains_only_its_own_job(meta: Path) -> None:
    """A job of the user's may not be safe to start again."""
    result = run("demo", "--drain", "--job", meta)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--drain works only with the demo's own job, not with --job" in result.stderr


# One cause, one exit code

JOB_COMMANDS = [("render",), ("doctor", "--job"), ("demo", "--job")]
KIT_COMMANDS = [("prepare",), ("render", "META", "--kit"), ("doctor", "--kit")]


@pytest.mark.parametrize("arguments", JOB_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            "Error: `{}` has no meta.json, meta.conf, meta.yml or meta.yaml: name one, or the folder with it\n",
        ),
        ("[", "Error: `{}/meta.json` is unreadable; expected a JSON object (the parser stops at line 1)\n"),
        ("[1]", "Error: `{}/meta.json` is [1]; expected a JSON object\n"),
    ],
    ids=["missing", "no JSON", "a list"],
)
def test_a_wrong_job_has_one_message(
    arguments: tuple[str, ...], content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    result = run(*arguments, tmp_path)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message.format(tmp_path))


@pytest.mark.parametrize("arguments", KIT_COMMANDS, ids=" ".join)
@pytest.mark.parametrize("case", ["no kit", "no JSON"])
def test_a_wrong_kit_has_one_message(
    arguments: tuple[str, ...], case: str, kit: Kit, meta: Path, tmp_path: Path
) -> None:
    root, message = tmp_path / "empty", "Error: `startup/` is missing; expected exactly one of startup/fed_server.json"
    root.mkdir()
    if case == "no JSON":
        root, message = (
            kit("k8s/site-1"),
            "Error: `local/comm_config.json` is unreadable; expected a JSON object (the parser stops at line 1)\n",
        )
        (root / "local/comm_config.json").write_text("nothing")
    result = run(*(meta if word == "META" else word for word in arguments), root)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(message)


@pytest.mark.parametrize("arguments", [*JOB_COMMANDS, *KIT_COMMANDS], ids=" ".join)
def test_a_path_without_a_file_is_a_usage_error(arguments: tuple[str, ...], meta: Path) -> None:
    result = run(*(meta if word == "META" else word for word in arguments), "/nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'/nowhere' does not exist.\n" in result.stderr


NAMESPACED = [
    ("jobs",),
    ("why", "x"),
    ("logs", "x"),
    ("terminate", "x"),
    ("sweep",),
    ("doctor",),
    ("demo",),
    ("prepare", "KIT"),
]


@pytest.mark.parametrize("arguments", NAMESPACED, ids=" ".join)
def test_a_wrong_namespace_has_one_message(arguments: tuple[str, ...], kit: Kit) -> None:
    words = [*(kit("k8s/site-1") if word == "KIT" else word for word in arguments), "-n", "Lab"]
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert (
        "Error: Invalid value for '--namespace' / '-n': 'Lab' is not valid: expected a Kubernetes name: "
        in result.stderr
    )
    if arguments != ("demo",):
        error = json.loads(run(*words, "--json").stdout)["error"]
        assert (error["field"], error["value"]) == ("--namespace", "'Lab'")
