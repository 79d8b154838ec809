"""A job's metadata is read as FLARE's server reads it, so that render shows what the launcher would submit."""

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvflare.apis.fl_constant import JobConstants

from flargo.flare import dry_run as dry_run_module
from flargo.flare.config_text import MAX_EXPANDED_TEXT, MAX_REFERENCES
from flargo.flare.dry_run import EXAMPLE_JOB_ID, SimulatedParent, dry_run, study_data_file
from flargo.flare.job_meta import find_meta, meta_names, read_meta
from flargo.flare.request import read_launch
from flargo.job.plan import build_plan
from flargo.job.settings import Settings, check_settings
from flargo.job.validate import InvalidInput
from flargo.terms import Plan, Role
from flargo.tools.cli.staged_kit import example_parent
from flargo.tools.demo import job_folder
from flargo.tools.demo.options import DemoError
from tests.harness.command_line import run
from tests.harness.job_submission import SHAPES, WRITERS, apps_of, hocon, submit, write_job

HAS_OMEGACONF = importlib.util.find_spec("omegaconf") is not None
NAMES = [name for name in WRITERS if HAS_OMEGACONF or "y" not in name]
"""The names of metadata that FLARE can read here."""
STUDIES = {
    "format_version": 2,
    "studies": {
        "default": {"container": {"image": "registry.example/default:1"}, "env": {"STUDY": "default"}},
        "cardio": {"container": {"image": "registry.example/cardio:1"}},
    },
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedParent, Settings]:
    """A site whose studies have images, so that jobs need none."""
    root = tmp_path_factory.mktemp("site")
    staged = example_parent(root)
    (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(STUDIES))
    return staged.simulation, staged.settings


def launch(meta: dict[str, Any], parent: SimulatedParent, site_settings: Settings) -> Plan:
    """Return the plan of the launcher for metadata that FLARE's server hands on."""
    kit_settings = replace(site_settings, study_data_pvc_file_path=study_data_file(site_settings))
    before = Path.cwd()
    os.chdir(parent.kit)
    try:
        context = dry_run_module._build_context(meta["job_id"], parent, site_settings.workspace_mount_path)
        request, transfer = read_launch(meta, context, parent.role, kit_settings, attempt="example", epoch="example")
    finally:
        os.chdir(before)
    transfer.remove()
    return build_plan(request, site_settings)


def shown(plan: Plan) -> Any:
    """Return what of a plan does not depend on the random token of its launch."""
    return plan.workflow, plan.startup, plan.credentials.name, sorted(plan.credentials.data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("role", list(Role), ids=str)
def test_render_shows_what_the_launcher_submits(
    shape: str, name: str, role: Role, tmp_path: Path, parent: tuple[SimulatedParent, Settings]
) -> None:
    simulated, site_settings = replace(parent[0], role=role), parent[1]
    meta = SHAPES[shape]
    folder = write_job(tmp_path / "job", name, WRITERS[name](meta), apps=apps_of(meta))
    # A person says by the study in the metadata which session would submit the job; the server asks only the session.
    study = meta.get("study")
    stored, problem = submit(folder, study if isinstance(study, str) else "")
    assert stored is not None, problem
    rendered = dry_run({**read_meta(folder), "job_id": stored["job_id"]}, simulated, site_settings)
    assert shown(rendered) == shown(launch(stored, simulated, site_settings))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False, width=32) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
SITES = st.sampled_from(["site-1", "site-2", "default", "@default"])
OPTIONS = st.dictionaries(
    st.sampled_from(["image", "cpu", "memory", "python_path", "num_of_gpus", "pending_timeout", "argo", "x"]),
    st.sampled_from([None, "registry.example/job:1", "4Gi", 2, "500m", "", {"rejoin": 1}, 1.5]) | VALUES,
    max_size=3,
)
PORTABLE = st.dictionaries(
    st.sampled_from(["num_of_gpus", "num_of_cpus", "memory", "mem_per_gpu_in_GiB"]),
    st.sampled_from([0, 1, 2, "4Gi", "x", None]),
    max_size=3,
)
DEPLOY_MAPS = st.sampled_from([each["deploy_map"] for each in SHAPES.values()])
METAS = st.fixed_dictionaries(
    {"deploy_map": DEPLOY_MAPS},
    optional={
        "name": VALUES,
        "study": st.sampled_from([None, "", "cardio", "default", 5]),
        "min_clients": st.sampled_from([None, 1, "1", 1.5, True]),
        "launcher_spec": st.dictionaries(SITES, st.dictionaries(st.just("k8s"), OPTIONS, max_size=1), max_size=3),
        "resource_spec": st.dictionaries(SITES, PORTABLE | st.dictionaries(st.just("k8s"), OPTIONS), max_size=3),
        "custom_props": VALUES,
        "scope": TEXTS,
    },
)


def outcome(build: Any, *args: Any) -> Any:
    try:
        return shown(build(*args))
    except InvalidInput as error:
        return str(error)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(meta=METAS, name=st.sampled_from(NAMES))
def test_render_and_launcher_agree_about_any_metadata(
    meta: dict[str, Any],
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    parent: tuple[SimulatedParent, Settings],
) -> None:
    """For whatever FLARE's server accepts, both build the same Workflow, or refuse for the same reason."""
    folder = write_job(tmp_path_factory.mktemp("jobs") / "job", name, WRITERS[name](meta), apps=apps_of(meta))
    study = meta.get("study")
    stored, _ = submit(folder, study if isinstance(study, str) else "")
    if stored is None:
        return
    ours = {**read_meta(folder), "job_id": stored["job_id"]}
    assert outcome(dry_run, ours, *parent) == outcome(launch, stored, *parent)


@given(number=st.none() | st.integers(-3, 200) | st.floats(-3, 200) | st.sampled_from(["1", "3", "x", "", True, [1]]))
def test_demo_starts_the_sites_that_flare_counts(number: Any) -> None:
    """FLARE's rule for min_clients is int(), and no number below 1."""
    meta = {"deploy_map": {"app": ["@ALL"]}, "min_clients": number}
    try:
        sites: Any = len(job_folder.site_names(meta, 1))
    except DemoError:
        sites = None
    try:
        allowed: Any = 1 if number is None else int(number)
    except (ValueError, TypeError):
        allowed = None
    if allowed is not None and 0 < allowed <= job_folder.MAX_SITES:
        assert sites == allowed
    elif allowed != 0 and number:  # FLARE itself refuses 0
        assert sites is None


@pytest.mark.parametrize("shape", SHAPES)
def test_demo_finds_the_sites_of_every_shape(shape: str) -> None:
    sites = job_folder.site_names(SHAPES[shape], 2)
    text = json.dumps(SHAPES[shape]["deploy_map"])
    assert sites == tuple(site for site in ("site-1", "site-2") if site in text or "@all" in text.lower())


# Which file is read


def test_names_are_flares() -> None:
    assert meta_names()[:4] == ("meta.json", "meta.conf", "meta.yml", "meta.yaml")
    assert meta_names()[0] == JobConstants.META_FILE


@pytest.mark.parametrize("first", range(4))
def test_the_first_name_wins_as_for_flare(first: int, tmp_path: Path) -> None:
    names = ["meta.json", "meta.conf", "meta.json.default", "meta.conf.default"][first:]
    folder = tmp_path / "job"
    write_job(folder, names[0], '{"name": "first", "deploy_map": {"app": ["@ALL"]}}')
    for name in names[1:]:
        (folder / name).write_text('{"name": "second", "deploy_map": {"app": ["@ALL"]}}')
    assert find_meta(folder) == folder / names[0]
    stored, _ = submit(folder)
    assert stored is not None
    assert stored["name"] == read_meta(folder)["name"] == read_meta(folder / names[0])["name"] == "first"
    for name in names[1:]:
        with pytest.raises(InvalidInput, match=f"is not what FLARE reads, which is {names[0]}"):
            read_meta(folder / name)


COMMANDS = {"render": ("render",), "doctor": ("doctor", "--job"), "demo": ("demo", "--job")}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file", [".", "meta.conf"])
def test_commands_read_hocon(command: str, file: str, tmp_path: Path) -> None:
    """Each of them reports the value that is wrong, which it found in meta.conf."""
    meta = {"deploy_map": {"app": ["@ALL"]}, "min_clients": 10**6, "launcher_spec": {"default": {"k8s": {"cpu": "x"}}}}
    write_job(tmp_path / "job", "meta.conf", hocon(meta))
    options = ["--kubeconfig", "/dev/null"] if command == "doctor" else []
    result = run(*COMMANDS[command], tmp_path / "job" / file, *options)
    assert "meta.json" not in result.stderr
    if command == "demo":
        assert "min_clients in the job's meta.conf must be" in result.stderr
    if command == "render":
        assert "`launcher_spec['default']['k8s']['cpu']` is 'x'" in result.stderr


def test_demo_runs_the_metadata_of_another_format(tmp_path: Path) -> None:
    """The copy that the demo submits has the image that it adds, and is what FLARE reads."""
    folder = write_job(tmp_path / "job", "meta.conf", hocon(SHAPES["one app"]))
    copy = job_folder.copy_job(folder, tmp_path / "copies", "registry.example/added:1")
    stored, problem = submit(copy)
    assert stored is not None, problem
    assert stored["launcher_spec"]["default"]["k8s"]["image"] == "registry.example/added:1"
    assert stored["deploy_map"] == SHAPES["one app"]["deploy_map"]


# What cannot be read

WRONG = {
    "no HOCON": ("meta.conf", 'name = "x"\ndeploy_map {\n', "`{}` is unreadable; expected HOCON (the parser stops at"),
    "a missing reference": (
        "meta.conf",
        "a = 1\nb = ${missing}",
        "`{}` refers to an environment variable or another file, which only FLARE's server has",
    ),
    "a duration": (
        "meta.conf",
        "launcher_spec { default { k8s { cpu = 500m } } }",
        "`{}: launcher_spec['default']['k8s']['cpu']` is a duration (HOCON reads 500m as minutes); expected",
    ),
    "a duration in a list": ("meta.conf", "a = [1, {b = 2 days}]", "`{}: a[1]['b']` is a duration"),
    "a list": ("meta.conf", "[1, 2]", "`{}` is [1, 2]; expected a HOCON object"),
    "too deep HOCON": ("meta.conf", f"a={'[' * 400}{']' * 400}", "`{}` is nested too deeply"),
    "large HOCON": ("meta.conf", f"a = {'x' * MAX_EXPANDED_TEXT}", "`{}` is too large"),
    "many references": ("meta.conf", "a = 1\n" + "b = ${a}\n" * (MAX_REFERENCES + 1), "`{}` is too large; expected"),
    "no UTF-8": ("meta.conf", "name = \udcff", "`{}` is unreadable; expected a HOCON object in UTF-8"),
    "JSON in UTF-16": (
        "meta.json",
        "\ufeff{}",
        "`{}` is unreadable; expected a JSON object (the parser stops at line 1",
    ),
    "JSON not in UTF-8": ("meta.json", '{"name": "\udcff"}', "`{}` is unreadable; expected a JSON object in UTF-8"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", WRONG)
def test_what_flare_cannot_read_is_named(case: str, command: str, tmp_path: Path) -> None:
    name, text, message = WRONG[case]
    folder = write_job(tmp_path / "job", name, "")
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert submit(folder)[0] is None or "large" in case or "many" in case
    result = run(*COMMANDS[command], folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message.format(folder / name)}")
    assert result.stderr.count("\n") == 1


OUTSIDE = {
    "a variable": "name = ${FLARGO_TEST_SECRET}",
    "an optional variable": "name = ${?FLARGO_TEST_SECRET}",
    "a variable by its own name": "FLARGO_TEST_SECRET = ${?FLARGO_TEST_SECRET}x",
    "a file": 'include "{file}"',
    "a file by its URL": 'include url("file://{file}")',
    "a required file": 'include required(file("{file}"))',
    "files by a pattern": 'include "{folder}/*.conf"',
    "files by a pattern that nothing fits": 'include "{folder}/**/*.none"',
    "a package": 'include package("flargo.tools.demo:train.py")',
    "a URL": 'x { include url("http://127.0.0.1:1/") }',
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_hocon_reads_nothing_of_this_machine(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of another institution would otherwise show or send its values."""
    monkeypatch.setenv("FLARGO_TEST_SECRET", "t0psecret")
    (tmp_path / "secret.conf").write_text('secret = "t0psecret"')
    text = OUTSIDE[case].replace("{file}", str(tmp_path / "secret.conf")).replace("{folder}", str(tmp_path))
    folder = write_job(tmp_path / "job", "meta.conf", f'{text}\ndeploy_map {{ app = ["@ALL"] }}')
    result = run("render", folder)
    assert result.stderr.startswith(f"Error: `{folder}/meta.conf` refers to an environment variable or another file")
    assert "t0psecret" not in result.output
    # pyhocon itself is as before.
    stored, _ = submit(write_job(tmp_path / "again", "meta.conf", 'a = ${?HOME}\ndeploy_map { app = ["@ALL"] }'))
    assert stored is not None
    assert stored["a"] == os.environ["HOME"]


def test_references_within_hocon_are_resolved(tmp_path: Path) -> None:
    text = 'base = "registry.example"\nlauncher_spec.default.k8s.image = ${base}"/job:1"'
    folder = write_job(tmp_path / "job", "meta.conf", text)
    assert read_meta(folder)["launcher_spec"] == {"default": {"k8s": {"image": "registry.example/job:1"}}}


@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_without_omegaconf_says_what_to_install(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "omegaconf", None)
    folder = write_job(tmp_path / "job", "meta.yml", "name: x\n")
    result = run(*COMMANDS[command], folder)
    problem = "needs the package omegaconf, with which FLARE reads it: pip install omegaconf, or write meta.json"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: `{folder}/meta.yml` {problem}\n")


YAML = {
    "no YAML": ("a: [", "`{}` is unreadable; expected a YAML mapping (the parser stops at line 1)"),
    "an alias bomb": (
        "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" if n else "a0: &a0 x\n" for n in range(40)),
        "`{}` is",
    ),
    "a variable": ("name: ${oc.env:FLARGO_TEST_SECRET}", "`{}` refers to an environment variable"),
    "many references": ("a: 1\n" + "".join(f"b{n}: ${{a}}\n" for n in range(20)), "`{}` is too large"),
    "a hidden variable": (
        'e: oc.env\nname: "\\x24{${e}:FLARGO_TEST_SECRET}"',
        "`{}` refers to an environment variable",
    ),
    "references and aliases": ("a: &a x\nb: *a\nc: ${a}\n", "`{}` is too large"),
    "a list": ("[1]", "`{}` is [1]; expected a YAML mapping"),
    "binary data": ("a: [!!binary aGVsbG8=]", "`{}: a[0]` is a bytes; expected"),
    "a missing reference": ("a: ${b}", "`{}` is unreadable"),
}


@pytest.mark.skipif(not HAS_OMEGACONF, reason="needs omegaconf, as FLARE's server does")
@pytest.mark.parametrize("case", YAML)
def test_wrong_yaml_is_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLARGO_TEST_SECRET", "t0psecret")
    text, message = YAML[case]
    folder = write_job(tmp_path / "job", "meta.yml", text)
    result = run("render", folder)
    assert result.stderr.startswith(f"Error: {message.format(folder / 'meta.yml')}")
    assert "t0psecret" not in result.output


def test_a_job_without_a_study_is_of_the_default_study(parent: tuple[SimulatedParent, Settings]) -> None:
    """FLARE's server names it, and a site may have an image for it."""
    plan = dry_run({"name": "x"}, *parent)
    assert "registry.example/default:1" in json.dumps(plan.workflow)
    assert EXAMPLE_JOB_ID in json.dumps(plan.workflow)
    assert check_settings() == parent[1]
