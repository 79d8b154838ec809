"""flargo refuses every launch that the stock launcher refuses, and names the field, the value and what is expected."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager

from flargo.flare.request import read_launch
from flargo.job.settings import check_settings
from flargo.job.trust import JOB_SPEC
from flargo.job.validate import InvalidInput
from flargo.terms import Role
from tests.harness.differential.cases import ATTEMPT, EPOCH, IMAGE, JOB_ID
from tests.harness.differential.parent import Parent
from tests.harness.differential.stock import FakeCoreV1Api

Object = dict[str, Any]


def _leave(_: FLContext) -> None:
    """Leave the context as FLARE makes it."""


def forget(*keys: str) -> Callable[[FLContext], None]:
    """Return a function that removes properties from a context."""

    def change(context: FLContext) -> None:
        for key in keys:
            context.props.pop(key)

    return change


def put(key: str, value: Any) -> Callable[[FLContext], None]:
    """Return a function that sets a property of a context."""

    def change(context: FLContext) -> None:
        context.set_prop(key, value, private=True, sticky=False)

    return change


@dataclass(frozen=True)
class Wrong:
    """A launch with one mistake."""

    name: str
    says: tuple[str, ...]
    """All of these stand in the message."""
    spec: Object = field(default_factory=dict)
    meta: Object = field(default_factory=dict)
    files: Object = field(default_factory=dict)
    arguments: Object = field(default_factory=dict)
    context: Callable[[FLContext], None] = _leave
    stock: bool = True
    """True if the stock launcher refuses the launch too."""

    def job_meta(self) -> Object:
        spec = {"image": IMAGE, **self.spec}
        return {"job_id": JOB_ID, "name": "x", "launcher_spec": {"site-1": {"k8s": spec}}, **self.meta}

    def prepare(self, root: Path) -> FLContext:
        context = Parent(root, Role.CLIENT, files=self.files).context(JOB_ID)
        self.context(context)
        return context


def outside(context: FLContext) -> None:
    """Put the job's custom code outside of the workspace."""
    workspace = context.get_prop(FLContextKey.WORKSPACE_OBJECT)
    workspace.get_app_custom_dir = lambda _: "/elsewhere/custom"


def study(entry: Any) -> Object:
    """Return the arguments of a launch with one study in study_runtime.yaml."""
    content = yaml.safe_dump({"format_version": 2, "studies": {"cardio": entry}})
    return {"files": {"local/study_runtime.yaml": content}, "meta": {"study": "cardio"}}


def template(pod: Any) -> Object:
    """Return the arguments of a launch whose study has a pod template."""
    return study({"pod_template": pod})


def data(text: str) -> Object:
    """Return the arguments of a launch with a study_data.yaml."""
    path = "local/study_data.yaml"
    return {"files": {path: text}, "meta": {"study": "cardio"}, "arguments": {"study_data_pvc_file_path": path}}


def in_default(spec: Any) -> Object:
    """Return the arguments of a launch whose job has this spec in its default block."""
    return {"meta": {"launcher_spec": {"default": {"k8s": spec}}}}


SPEC = "launcher_spec['site-1']['k8s']"
SHAPE = "a dictionary, as in {'launcher_spec': {'default': {'k8s': {'image': 'registry.example/name:tag'}}}}"
CONTEXT = (
    Wrong("no job id", ("job_id", "missing"), meta={"job_id": ""}),
    Wrong("no workspace", ("__workspace_object__", "missing"), context=forget(FLContextKey.WORKSPACE_OBJECT)),
    Wrong("no arguments", ("__args__", "missing"), context=forget(FLContextKey.ARGS)),
    Wrong("no process arguments", ("job_process_args", "missing"), context=forget(FLContextKey.JOB_PROCESS_ARGS)),
    Wrong("empty process arguments", ("job_process_args", "{}"), context=put(FLContextKey.JOB_PROCESS_ARGS, {})),
    Wrong("no module", ("exe_module", "missing"), context=put(FLContextKey.JOB_PROCESS_ARGS, {"job_id": ("-n", "x")})),
    Wrong("no engine", ("cell", "missing"), context=forget(ReservedKey.ENGINE)),
    Wrong("no cell", ("cell", "missing"), context=put(ReservedKey.ENGINE, Namespace())),
    Wrong("custom code elsewhere", ("custom folder", "/elsewhere/custom", "under the workspace"), context=outside),
    Wrong("no site name", ("site's name", "missing"), context=put(ReservedKey.IDENTITY_NAME, ""), stock=False),
    Wrong(
        "a site that is an expression",
        ("site's name", "'{{x}}'", "evaluate"),
        context=put(ReservedKey.IDENTITY_NAME, "{{x}}"),
        stock=False,
    ),
)
JOB = (
    Wrong(
        "no image",
        (f"{SPEC}['image']", "missing", "launcher_spec['default']", "resource_spec['site-1']", "study_runtime.yaml"),
        spec={"image": None},
    ),
    Wrong("negative pending timeout", (f"{SPEC}['pending_timeout']", "-1", ">= 0"), spec={"pending_timeout": -1}),
    Wrong("pending timeout as text", (f"{SPEC}['pending_timeout']", "'5'", "seconds"), spec={"pending_timeout": "5"}),
    Wrong("pending timeout as flag", (f"{SPEC}['pending_timeout']", "True", "seconds"), spec={"pending_timeout": True}),
    Wrong(
        "empty ephemeral storage", (f"{SPEC}['ephemeral_storage']", "''", "non-empty"), spec={"ephemeral_storage": ""}
    ),
    Wrong(
        "number for ephemeral storage", (f"{SPEC}['ephemeral_storage']", "5", "string"), spec={"ephemeral_storage": 5}
    ),
    Wrong("empty python path", (f"{SPEC}['python_path']", "''", "non-empty"), spec={"python_path": ""}),
    Wrong("null python path", (f"{SPEC}['python_path']", "None", "non-empty"), spec={"python_path": None}),
    Wrong(
        "portable GPUs below 0",
        ("`resource_spec['site-1']['num_of_gpus']`", "-1", "a whole number >= 0"),
        meta={"resource_spec": {"site-1": {"num_of_gpus": -1}}},
    ),
    Wrong(
        "portable CPUs below 1",
        ("`resource_spec['@default']['num_of_cpus']`", "0", "a whole number >= 1"),
        meta={"resource_spec": {"@default": {"num_of_cpus": 0}}},
    ),
    Wrong(
        "portable memory in other units",
        ("`resource_spec['site-1']['memory']`", "5GB", "Mi, Gi, or Ti"),
        meta={"resource_spec": {"site-1": {"memory": "5GB"}}},
    ),
    Wrong("launcher_spec that is none", ("`launcher_spec`", "'x'", SHAPE), meta={"launcher_spec": "x"}),
    Wrong(
        "site's launcher_spec that is none",
        ("`launcher_spec['site-1']`", "5", SHAPE),
        meta={"launcher_spec": {"site-1": 5}},
    ),
    Wrong(
        "resource_spec that is a list",
        ("`resource_spec`", "[1]", "as in {'resource_spec': {'@default': {'num_of_gpus': 1}}}"),
        meta={"resource_spec": [1]},
    ),
    # What the stock launcher lets pass, and the API server or nobody refuses.
    Wrong("GPUs below 0", (f"{SPEC}['num_of_gpus']", "-1", ">= 0"), spec={"num_of_gpus": -1}, stock=False),
    Wrong("GPUs as a word", (f"{SPEC}['num_of_gpus']", "'two'", ">= 0"), spec={"num_of_gpus": "two"}, stock=False),
    Wrong("cpu that is no quantity", (f"{SPEC}['cpu']", "'many'", "500m"), spec={"cpu": "many"}, stock=False),
    Wrong(
        "memory request that is no quantity",
        (f"{SPEC}['memory_request']", "1GB"),
        spec={"memory_request": "1GB"},
        stock=False,
    ),
    Wrong("image that is no text", (f"{SPEC}['image']", "5"), spec={"image": 5}, stock=False),
    Wrong("study that is no text", ("job_meta['study']", "5"), meta={"study": 5}, stock=False),
    Wrong("an image that is none", (f"{SPEC}['image']", "'a b'", "registry"), spec={"image": "a b"}, stock=False),
    Wrong(
        "a request above its limit",
        (f"{SPEC}['memory_request']", "'2Gi'", f"1Gi in {SPEC}['memory']"),
        spec={"memory": "1Gi", "memory_request": "2Gi"},
        stock=False,
    ),
    Wrong(
        "a request above its limit in other words",
        (f"{SPEC}['cpu_request']", "is 3", f"2000m in {SPEC}['cpu']"),
        spec={"cpu_request": 3, "cpu": "2000m"},
        stock=False,
    ),
    Wrong("more memory than can be counted", (f"{SPEC}['memory']", "'8Ei'"), spec={"memory": "8Ei"}, stock=False),
    Wrong("more GPUs than can be counted", (f"{SPEC}['num_of_gpus']",), spec={"num_of_gpus": 2**31}, stock=False),
    Wrong(
        "more portable CPUs than can be counted",
        ("`resource_spec['site-1']['num_of_cpus']`", "quantity"),
        meta={"resource_spec": {"site-1": {"num_of_cpus": 10**30}}},
        stock=False,
    ),
    # threading's clocks overflow: it would end the thread that follows all of a site's jobs.
    Wrong("a wait of ages", (f"{SPEC}['pending_timeout']", "1e+300"), spec={"pending_timeout": 1e300}, stock=False),
    Wrong(
        "a program that is an expression",
        (f"{SPEC}['python_path']", "{{workflow.uid}}", "evaluate"),
        spec={"python_path": "{{workflow.uid}}"},
        stock=False,
    ),
    Wrong(
        "a program that is a secret's value",
        (f"{SPEC}['python_path']", "$(NVFLARE_JOB_AUTH_TOKEN)", "evaluate"),
        spec={"python_path": "$(NVFLARE_JOB_AUTH_TOKEN)"},
        stock=False,
    ),
    Wrong(
        "a job's spec that is a list of pairs",
        ("`launcher_spec['default']['k8s']`", SHAPE),
        **in_default([["image", "x"]]),
    ),
    Wrong("a study with control characters", ("job_meta['study']", "\\n"), meta={"study": "a\nb"}, stock=False),
    Wrong("a job id that is a path", ("job_meta['job_id']", "'../x'"), meta={"job_id": "../x"}, stock=False),
    Wrong("a job id that is an expression", ("job_meta['job_id']",), meta={"job_id": "{{x}}"}, stock=False),
    Wrong(
        "a job that speaks of Argo",
        (f"{SPEC}['argo']['service_account']", "'admin'", "one of the keys rejoin"),
        spec={"argo": {"service_account": "admin"}},
        stock=False,
    ),
)
FILES = (
    Wrong(
        "both study files",
        ("study_runtime.yaml", "study_data.yaml", "one study file only"),
        files={"local/study_runtime.yaml": "format_version: 2", "local/study_data.yaml": ""},
    ),
    Wrong("runtime file that is no YAML", ("study_runtime.yaml", "parse"), files={"local/study_runtime.yaml": "{"}),
    Wrong(
        "runtime file of another version",
        ("study_runtime.yaml", "format_version", "expected 2"),
        files={"local/study_runtime.yaml": "format_version: 3"},
    ),
    Wrong("unknown key of a study", ("study_runtime.yaml", "cardio", "imagee"), **study({"imagee": "x"})),
    Wrong("container without an image", ("cardio.container.image",), **study({"container": {"image": ""}})),
    Wrong("dataset without a mode", ("datasets.a.mode",), **study({"datasets": {"a": {"source": "pvc"}}})),
    Wrong("environment that is the launcher's", ("PYTHONPATH",), **study({"env": {"PYTHONPATH": "x"}})),
    Wrong("secret environment without a key", ("secret_env.A.key",), **study({"secret_env": {"A": {"source": "s"}}})),
    Wrong(
        "writable secret mount",
        ("secret_mounts.a.mode",),
        **study({"secret_mounts": {"a": {"source": "s", "mount_path": "/s", "mode": "rw"}}}),
    ),
    Wrong("pod template outside the workspace", ("pod_template", "relative path"), **template("../pod.yaml")),
    Wrong("pod template that is not there", ("pod_template", "not found"), **template("pod.yaml")),
    Wrong("pod template of another kind", ("pod_template", "kind: Pod"), **template({"kind": "Job"})),
    Wrong(
        "pod template without a main container",
        ("pod_template", "nvflare_job"),
        **template({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
    ),
    Wrong(
        "containers that are no list",
        ("pod_template", "containers must be a list"),
        **template({"spec": {"containers": {}}}),
    ),
    Wrong(
        "container that is none", ("pod_template", "must be dictionaries"), **template({"spec": {"containers": [5]}})
    ),
    Wrong("spec that is none", ("pod_template", "spec must be a dictionary"), **template({"spec": []})),
    Wrong("metadata that is none", ("pod_template", "metadata must be a dictionary"), **template({"metadata": "x"})),
    Wrong(
        "volumes that are no list", ("pod_template", "volumes must be a list"), **template({"spec": {"volumes": {}}})
    ),
    Wrong(
        "environment that is no list",
        ("pod_template", "env must be a list"),
        **template({"spec": {"containers": [{"name": "nvflare_job", "env": {}}]}}),
    ),
    Wrong("data file that is no dictionary", ("study_data.yaml", "dictionary"), **data("[]")),
    Wrong(
        "data file without a mode", ("study_data.yaml", "cardio/a", "'ro' or 'rw'"), **data("cardio: {a: {source: x}}")
    ),
    Wrong("data file without a source", ("study_data.yaml", "source"), **data("cardio: {a: {mode: ro}}")),
    Wrong(
        "data file with an odd name",
        ("study_data.yaml", "dataset names of a-z"),
        **data("cardio: {A B: {source: x, mode: ro}}"),
    ),
)


def policy(**limits: Any) -> Object:
    """Return the arguments of a launch at a site with a policy, which the stock launcher does not know."""
    return {"arguments": {"argo": {"policy": limits}}, "stock": False}


POLICY = (
    Wrong(
        "an image of elsewhere", (f"{SPEC}['image']", IMAGE, "other.example/*"), **policy(images=["other.example/*"])
    ),
    Wrong("no image at all", (f"{SPEC}['image']", "allows: (none)"), **policy(images=[])),
    Wrong("an image without its digest", (f"{SPEC}['image']", "name@sha256"), **policy(digests=True)),
    Wrong(
        "a registry that begins like the allowed one",
        (f"{SPEC}['image']", "registry.example.evil.com"),
        spec={"image": "registry.example.evil.com/a"},
        **policy(images=["registry.example/*"]),
    ),
    Wrong(
        "another Python",
        (f"{SPEC}['python_path']", "/bin/sh", "/usr/bin/python3"),
        spec={"python_path": "/bin/sh"},
        **policy(python_paths=["/usr/bin/python3"]),
    ),
    Wrong("too much cpu", (f"{SPEC}['cpu']", "'2001m'", "at most 2"), spec={"cpu": "2001m"}, **policy(cpu=2)),
    Wrong("cpu without a limit", (f"{SPEC}['cpu']", "missing", "at most 2"), **policy(cpu=2)),
    Wrong("cpu with a limit that is none", (f"{SPEC}['cpu']", "more than 0"), spec={"cpu": "0"}, **policy(cpu=2)),
    Wrong("too much memory", (f"{SPEC}['memory']", "'1.1Gi'"), spec={"memory": "1.1Gi"}, **policy(memory="1Gi")),
    Wrong(
        "too much portable memory",
        ("`resource_spec['@default']['memory']`", "'2Gi'"),
        meta={"resource_spec": {"@default": {"memory": "2Gi"}}},
        **policy(memory="1Gi"),
    ),
    Wrong(
        "too much storage",
        (f"{SPEC}['ephemeral_storage']", "'3Gi'"),
        spec={"ephemeral_storage": "3Gi"},
        **policy(ephemeral_storage="2Gi"),
    ),
    Wrong(
        "a longer wait than the site allows",
        (f"{SPEC}['pending_timeout']", "is 601", "at most 600 seconds, the limit of this site"),
        spec={"pending_timeout": 601},
        **policy(pending_timeout=600),
    ),
    Wrong(
        "a wait without end where the site has a ceiling",
        (f"{SPEC}['pending_timeout']", "is None", "at most 600 seconds, the limit of this site"),
        spec={"pending_timeout": None},
        **policy(pending_timeout=600),
    ),
    Wrong(
        "any wait where the site allows none",
        (f"{SPEC}['pending_timeout']", "is 0.5", "at most 0 seconds"),
        spec={"pending_timeout": 0.5},
        **policy(pending_timeout=0),
    ),
    Wrong("too many GPUs", (f"{SPEC}['num_of_gpus']", "'3'", "at most 2"), spec={"num_of_gpus": "3"}, **policy(gpus=2)),
)
EVERY = (*POLICY, *CONTEXT, *JOB, *FILES)


@pytest.fixture(autouse=True)
def in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the workspace, since paths of study files may be relative to it."""
    monkeypatch.chdir(tmp_path)


every = pytest.mark.parametrize("wrong", EVERY, ids=lambda wrong: wrong.name.replace(" ", "-"))


@every
def test_flargo_refuses_with_reason(wrong: Wrong, tmp_path: Path) -> None:
    context = wrong.prepare(tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (what it says is looked at below)
        read_launch(
            wrong.job_meta(), context, Role.CLIENT, check_settings(**wrong.arguments), attempt=ATTEMPT, epoch=EPOCH
        )
    message = str(caught.value)
    assert [word for word in wrong.says if word not in message] == [], message


@every
def test_a_refused_launch_registers_no_workspace(wrong: Wrong, tmp_path: Path) -> None:
    context = wrong.prepare(tmp_path)
    with pytest.raises(ValueError):  # noqa: PT011
        read_launch(
            wrong.job_meta(), context, Role.CLIENT, check_settings(**wrong.arguments), attempt=ATTEMPT, epoch=EPOCH
        )
    cell = getattr(context.get_engine(), "cell", None)
    assert cell is None or WorkspaceTransferManager.get_or_create(cell).jobs == {}


@pytest.mark.parametrize(
    "wrong", [wrong for wrong in EVERY if wrong.stock], ids=lambda wrong: wrong.name.replace(" ", "-")
)
def test_stock_launcher_refuses_too(wrong: Wrong, tmp_path: Path) -> None:
    launcher = ClientK8sJobLauncher(**{"config_file_path": None, **wrong.arguments})
    launcher.core_v1 = FakeCoreV1Api()
    with pytest.raises((RuntimeError, ValueError, AttributeError, TypeError)):
        launcher.launch_job(wrong.job_meta(), wrong.prepare(tmp_path))


def test_job_keys_are_the_stock_launchers() -> None:
    """A job's part of launcher_spec has the keys that the stock launcher reads, and no others."""
    assert set(JOB_SPEC) - {"argo"} == {
        "image",
        "python_path",
        "cpu",
        "memory",
        "cpu_request",
        "memory_request",
        "ephemeral_storage",
        "num_of_gpus",
        "pending_timeout",
    }


def test_an_empty_argo_part_is_allowed(tmp_path: Path) -> None:
    wrong = Wrong("none", (), spec={"argo": {}})
    read_launch(wrong.job_meta(), wrong.prepare(tmp_path), Role.CLIENT, check_settings(), attempt=ATTEMPT, epoch=EPOCH)


def test_a_refusal_names_its_field(tmp_path: Path) -> None:
    wrong = next(each for each in EVERY if each.name == "no image")
    with pytest.raises(InvalidInput) as caught:
        read_launch(
            wrong.job_meta(), wrong.prepare(tmp_path), Role.CLIENT, check_settings(), attempt=ATTEMPT, epoch=EPOCH
        )
    assert caught.value.field == f"{SPEC}['image']"


def test_long_paths_are_shown_in_full(tmp_path: Path) -> None:
    root = tmp_path / ("a-long-name-" * 10)
    root.mkdir()
    files = {"local/study_runtime.yaml": "format_version: 2", "local/study_data.yaml": ""}
    context = Parent(root, Role.CLIENT, files=files).context(JOB_ID)
    with pytest.raises(
        InvalidInput, match=r"is used together with \S+/local/study_data\.yaml; expected one study file only"
    ):
        read_launch(Wrong("", ()).job_meta(), context, Role.CLIENT, check_settings(), attempt=ATTEMPT, epoch=EPOCH)
