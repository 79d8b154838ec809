"""No value of a site's files reaches a researcher, a log or a terminal, from whatever place in a file.

Each test puts a marker into every place of a file that a site writes: in place of each value, as several types, and
under a misspelt key of each mapping. All output of the launch is then searched for the marker.
"""

import ast
import inspect
import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import flargo
from flargo.control.launched_job import LaunchedJob
from flargo.control.submit import SubmitError
from flargo.flare import job_options, launcher, nvflare_messages, request
from flargo.flare.launcher import ArgoJobLauncher
from flargo.flare.redact import LOGGERS
from flargo.job import choices, pod, policy, validate, workflow
from flargo.job.settings import check_settings
from flargo.job.site_errors import HIDDEN_KEY, Place, SiteFileError
from flargo.job.validate import InvalidInput
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.command_line import run
from tests.harness.differential.cases import IMAGE, JOB_ID, STUDY
from tests.harness.differential.parent import Parent
from tests.harness.fake_cluster import FakeCluster

MARKER = "Mark3r/s3cr3t=7"
"""Like a password, it has digits and punctuation."""
JOB: dict[str, Any] = {"name": "x", "study": STUDY, "launcher_spec": {"default": {"k8s": {"image": IMAGE}}}}
TEMPLATE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"team": "heart"}, "annotations": {"contact": "a@example.com"}},
    "spec": {
        "containers": [
            {
                "name": "nvflare_job",
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "envFrom": [{"secretRef": {"name": "s"}, "prefix": "P_"}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch", "readOnly": True}],
                "securityContext": {"runAsUser": 5, "capabilities": {"add": ["NET_BIND_SERVICE"]}},
                "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 5},
                "lifecycle": {"preStop": {"httpGet": {"path": "/", "port": "http"}}},
                "terminationMessagePolicy": "File",
            },
            {
                "name": "proxy",
                "image": "envoy:1",
                "args": ["-c", "/etc/envoy.yaml"],
                "ports": [{"containerPort": 80, "name": "http"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "volumeDevices": [{"name": "disk", "devicePath": "/dev/x"}],
            },
        ],
        "initContainers": [{"name": "first", "image": "busybox", "command": ["true"]}],
        "volumes": [
            {"name": "scratch", "nfs": {"server": "nfs.example.com", "path": "/scratch"}},
            {"name": "disk", "persistentVolumeClaim": {"claimName": "disk", "readOnly": False}},
            {
                "name": "all",
                "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}]},
            },
        ],
        "securityContext": {"fsGroup": 7, "sysctls": [{"name": "a", "value": "b"}]},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "imagePullSecrets": [{"name": "registry"}],
        "hostAliases": [{"ip": "10.0.0.2", "hostnames": ["server"]}],
        "dnsConfig": {"nameservers": ["10.0.0.1"]},
        "schedulerName": "volcano",
        "serviceAccountName": "somebody",
        "restartPolicy": "Never",
        "hostNetwork": False,
        "activeDeadlineSeconds": 600,
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    },
}
RUNTIME: dict[str, Any] = {
    "format_version": 2,
    "studies": {
        STUDY: {
            "container": {"image": IMAGE},
            "datasets": {"images": {"type": "mount", "source": "pvc", "mode": "ro"}},
            "env": {"EPOCHS": "5"},
            "secret_env": {"DB_PASSWORD": {"source": "db", "key": "password"}},
            "secret_mounts": {"keys": {"source": "keys", "mount_path": "/k", "mode": "ro", "items": {"crt": "a/crt"}}},
            "pod_template": "pod.yaml",
        },
        "other": {"env": {"A": "1"}},
    },
}
DATA: dict[str, Any] = {
    STUDY: {"images": {"source": "pvc", "mode": "ro"}},
    "other": {"more": {"source": "p", "mode": "rw"}},
}
ARGUMENTS: dict[str, Any] = {
    "python_path": "/usr/bin/python",
    "security_context": {"runAsUser": 5, "sysctls": [{"name": "a", "value": "b"}], "seLinuxOptions": {"level": "s0"}},
    "image_pull_secrets": ["registry"],
    "namespace": "lab",
    "ephemeral_storage": "1Gi",
    "argo": {
        "service_account": "somebody",
        "labels": {"team": "heart"},
        "annotations": {"contact": "a@example.com"},
        "gpu_resource": "amd.com/gpu",
        "executor_resources": {"limits": {"cpu": "1"}},
    },
}
"""The arguments that end up in jobs. Messages show two other kinds on purpose: the policy, and paths of files."""


def typed_values() -> Iterator[Any]:
    """Yield values of several types that contain the marker."""
    yield from (MARKER, f"{{{{{MARKER}}}}}", [MARKER], {MARKER: None}, {MARKER: MARKER}, [{"name": MARKER}])
    yield from ({"value": MARKER}, b"Mark3r/s3cr3t=7")


def misspelt_entries() -> Iterator[tuple[Any, Any]]:
    """Yield keys that no file has, with a value that contains the marker."""
    yield "enviroment", MARKER
    yield "enviroment", [{"name": "DB_PASSWORD", "value": MARKER}]
    yield "Secret_Env", {"A": {"source": MARKER}}
    yield MARKER, MARKER
    yield f"{{{{{MARKER}}}}}", 1


def variants(tree: Any) -> Iterator[Any]:
    """Yield copies of a tree, each with the marker in another place."""
    yield from typed_values()
    if isinstance(tree, dict):
        for key, value in misspelt_entries():
            yield {**tree, key: value}
        for key, entry in tree.items():
            for variant in variants(entry):
                yield {**tree, key: variant}
    elif isinstance(tree, list):
        yield from ([*tree, MARKER], [*tree, {"enviroment": MARKER}])
        for at, entry in enumerate(tree):
            for variant in variants(entry):
                yield [*tree[:at], variant, *tree[at + 1 :]]


def inline(template: Any) -> Any:
    """Return a study file with a pod template in it."""
    runtime = deepcopy(RUNTIME)
    runtime["studies"][STUDY]["pod_template"] = template
    return runtime


class Site:
    """A parent that launches jobs without a cluster, and the output of its launches."""

    def __init__(self, root: Path, role: Role, **arguments: Any) -> None:
        self.parent = Parent(root, role)
        self.root = root
        kind = flargo.ServerArgoJobLauncher if role is Role.SERVER else flargo.ClientArgoJobLauncher
        self.launcher: ArgoJobLauncher = kind(**{"workspace_mount_path": str(root), **arguments})
        self.records: list[logging.LogRecord] = []
        self.run_dir = root / JOB_ID
        self.run_dir.mkdir(exist_ok=True)

    def write(self, **files: Any) -> None:
        for name in ("study_runtime", "study_data", "pod"):
            path = self.root / "local" / f"{name}.yaml"
            path.unlink(missing_ok=True)
            if name in files:
                path.write_text(yaml.dump(files[name], Dumper=yaml.CSafeDumper))

    def launch(self) -> str:
        """Launch a job, and return everything that was logged or reported about it."""
        for path in self.run_dir.iterdir():
            path.unlink()
        messages: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(logging.Formatter().format(record))  # type: ignore[method-assign]
        loggers = [logging.getLogger(name) for name in (*LOGGERS, "nvflare")]
        for each in loggers:
            each.addHandler(handler)
        try:
            handle = self.launcher.launch_job({"job_id": JOB_ID, **JOB}, self.parent.context(JOB_ID))
        finally:
            for each in loggers:
                each.removeHandler(handler)
        assert handle.poll() == 101
        verdict = handle._job.verdict
        assert verdict is not None
        assert verdict.reason is Reason.LAUNCH_FAILED
        files = [path.read_text() for path in sorted(self.run_dir.iterdir())]
        assert len(files) == 1, "the outcome of a server's job, or a client's error log"
        return "\n".join([*files, *messages, repr(verdict)])


@pytest.fixture(params=list(Role), ids=str)
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", no_cluster)
    # The C parser, since the tests read thousands of files.
    monkeypatch.setattr(yaml, "safe_load", lambda stream: yaml.load(stream, Loader=yaml.CSafeLoader))
    data = str(tmp_path / "local" / "study_data.yaml")
    return Site(tmp_path, request.param, study_data_pvc_file_path=data)


def no_cluster(*_: object) -> None:
    raise SubmitError(PASSED)


PASSED = "the plan is made, and there is no cluster"
UNEXPLAINED = "it raises ValueError"


def check_variants(site: Site, files: Iterator[dict[str, Any]], minimum: int) -> None:
    """Launch with each of the files; no output has the marker, and every refusal names a place."""
    refusals = 0
    for each in files:
        site.write(**each)
        output = site.launch()
        assert "Mark3r" not in output, (each, output)
        assert "unexpected" not in output, (each, output)
        assert UNEXPLAINED not in output, (each, output)
        refusals += PASSED not in output
    assert refusals >= minimum


def test_unchanged_files_are_launched(site: Site) -> None:
    for files in (
        {"study_runtime": inline(TEMPLATE)},
        {"study_runtime": RUNTIME, "pod": TEMPLATE},
        {"study_data": DATA},
    ):
        site.write(**files)
        assert PASSED in site.launch()


def test_inline_template_values_are_hidden(site: Site) -> None:
    step = 1 if site.launcher.role is Role.CLIENT else 8
    check_variants(site, ({"study_runtime": inline(each)} for each in [*variants(TEMPLATE)][::step]), 800 // step)


def test_template_file_values_are_hidden(site: Site) -> None:
    check_variants(site, ({"study_runtime": RUNTIME, "pod": each} for each in [*variants(TEMPLATE)][::8]), 100)


def test_runtime_file_values_are_hidden(site: Site) -> None:
    check_variants(site, ({"study_runtime": each, "pod": TEMPLATE} for each in variants(RUNTIME)), 150)


def test_data_file_values_are_hidden(site: Site) -> None:
    check_variants(site, ({"study_data": each} for each in variants(DATA)), 50)


@pytest.mark.parametrize("file", ["study_runtime", "study_data", "pod"])
@pytest.mark.parametrize(
    "text",
    [f"a: '{MARKER}", f"{MARKER}: [", f"? [{MARKER}]\n: x", f"- {MARKER}\nb: c", f"!!{MARKER} x", f"\t{MARKER}: x"],
)
def test_lines_of_invalid_yaml_are_hidden(site: Site, file: str, text: str) -> None:
    site.write(**({"study_runtime": RUNTIME} if file == "pod" else {}))
    (site.root / "local" / f"{file}.yaml").write_text(text)
    output = site.launch()
    assert "Mark3r" not in output
    assert "is unreadable; expected YAML" in output


@pytest.mark.parametrize("file", ["study_runtime", "study_data", "pod"])
def test_an_unreadable_file_is_reported_by_errno(site: Site, file: str) -> None:
    site.write(**({"study_runtime": RUNTIME} if file == "pod" else {}))
    (site.root / "local" / f"{file}.yaml").mkdir()
    assert "can be read (Is a directory)" in site.launch()


def test_launcher_argument_values_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", no_cluster)
    launches = 0
    for arguments in variants(ARGUMENTS):
        try:
            check_settings(**arguments)
        except (InvalidInput, TypeError):
            continue  # the parent does not start with it
        launches += 1
        output = Site(tmp_path, Role.CLIENT, **arguments).launch()
        assert "Mark3r" not in output, (arguments, output)
        assert "unexpected" not in output, (arguments, output)
    assert launches > 40


# --- the commands


def prepare_kit(kit: Any) -> Path:
    root: Path = kit("k8s/site-1")
    assert run("prepare", root).exit_code == 0
    return root


def test_render_hides_values(kit: Any, tmp_path: Path) -> None:
    root = prepare_kit(kit)
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps(JOB))
    refusals = 0
    for template in [*variants(TEMPLATE)][::12]:
        (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(inline(template)))
        result = run("render", meta, "--kit", root, "--json")
        if result.exit_code == 0:
            continue  # the Workflow has the value where the template puts it
        refusals += 1
        assert "Mark3r" not in result.output
        assert json.loads(result.stdout)["error"]["value"] == "not shown here"
    assert refusals > 50


def test_doctor_hides_values(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    monkeypatch.setattr("flargo.tools.cli.doctor._survey", lambda *_: cluster)
    cluster.connection_error = "Connection refused"
    root = prepare_kit(kit)
    for template in [*variants(TEMPLATE)][::40]:
        (root / "local/study_runtime.yaml").write_text(yaml.safe_dump(inline(template)))
        result = run("doctor", "--kit", root, "--json")
        assert "findings" in json.loads(result.stdout)
        assert "Mark3r" not in result.output


# --- unforeseen exceptions


@pytest.mark.parametrize("where", ["read_launch", "build_plan", "REDACTION"])
def test_unforeseen_exceptions_are_reported_by_type(site: Site, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise TypeError(MARKER)

    monkeypatch.setattr(launcher, where, fails if where != "REDACTION" else SimpleNamespace(learn=fails, forget=repr))
    output = site.launch()
    assert "Mark3r" not in output
    assert "unexpected TypeError" in output
    assert "in fails" in output, "the log says where it was raised"


def test_an_exception_after_launch_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's Workflow exists already, so the exception must end that job's own handle."""

    def fails(*_: object) -> None:
        raise TypeError(MARKER)

    class Loop:
        def launch(self, *arguments: Any, **_: Any) -> LaunchedJob:
            self.on_verdict = arguments[2]
            return LaunchedJob("wf")

        def give_up(self, ticket: LaunchedJob, detail: str) -> None:
            verdict = Verdict(Reason.LAUNCH_FAILED, 101, detail)
            self.on_verdict(verdict, "")
            ticket.conclude(verdict)

        def seconds_out_of_sync(self) -> float:
            return 0.0

    loop = Loop()
    monkeypatch.setattr(launcher, "wait_until_running", fails)
    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", lambda *_: loop)
    with pytest.raises(RuntimeError, match=r"was not started: LAUNCH_FAILED: .* an unexpected TypeError") as failed:
        Site(tmp_path, Role.SERVER).launch()
    assert "Mark3r" not in str(failed.value)


# --- the type


def test_site_file_error_takes_no_value() -> None:
    assert list(inspect.signature(SiteFileError).parameters) == ["place", "allowed"]
    error = SiteFileError(Place("pod_template").key("spec").key("enviroment"), "one of a, b")
    assert str(error) == "`pod_template.spec.enviroment` is not allowed (value not shown); expected one of a, b"


@pytest.mark.parametrize("key", [MARKER, "hunter2", "a" * 41, "a_b_c_d_e", "", " env", "env\n", 5, None, ("a",)])
def test_keys_unlike_field_names_are_hidden(key: object) -> None:
    assert str(Place("file:").key(key)) == f"file: {HIDDEN_KEY}"


def calls(module: Any, name: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield all calls of a name in a module, with the functions that contain them."""
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(function, ast.FunctionDef):
            for each in ast.walk(function):
                if isinstance(each, ast.Call) and name in ast.unparse(each.func).split("."):
                    yield function.name, each


@pytest.mark.parametrize("module", [pod, workflow, nvflare_messages])
def test_pod_errors_are_site_file_errors(module: Any) -> None:
    assert list(calls(module, InvalidInput.__name__)) == []
    assert list(calls(module, validate.__name__.rpartition(".")[2])) == [], (
        "its checks show the value; use check_hidden()"
    )


def test_functions_whose_errors_show_values() -> None:
    modules = (request, job_options, choices, policy)
    assert {function for module in modules for function, _ in calls(module, InvalidInput.__name__)} == {
        "read_launch",  # flargo's own id of the launch
        "federation_id",  # the kit's certificate
        "read_cell",
        "_read_request",
        "_read_site",
        "_context_error",
        "_shape_error",  # the job's metadata
        "_portable_memory",
        "_missing_image",
        "_read_study",  # the paths of two files
        "_build_env",  # the job's folder
        "_check_resources",
        "enforce",  # what the job asks for
        "_image_pattern",  # the launcher's arguments
        "_list_of",
        "checked",
        "_read_startup_files",
        "read_startup_kit",  # the path of the kit's certificate
    }


def test_places_begin_with_flargos_names() -> None:
    begins = {
        ast.unparse(each.args[0]) for module in (pod, workflow, nvflare_messages) for _, each in calls(module, "Place")
    }
    assert begins == {"'pod'", "''", "where", "f'{file}:'", "'pod_template'"}
    wheres = {ast.unparse(each.args[1]) for _, each in calls(workflow, "refuse_expressions")}
    assert wheres == {"'pod'", "'workflow'"}
