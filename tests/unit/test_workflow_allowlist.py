"""Whatever a job's metadata contains, the job is refused with InvalidInput, or its Workflow passes the allow-list."""

import logging
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager

from flargo.flare.request import read_launch
from flargo.job.plan import build_plan
from flargo.job.settings import check_settings as site_settings
from flargo.job.validate import InvalidInput
from flargo.terms import Plan, Role
from tests.harness.differential.cases import ATTEMPT, EPOCH, IMAGE, JOB_ID
from tests.harness.differential.parent import FEDERATION, Parent
from tests.harness.workflow_allowlist import LABEL, SiteFacts, find_problems

Object = dict[str, Any]
thoroughly = settings(
    max_examples=80, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
LONGEST_MESSAGE = 2000


def label_pattern(text: str) -> str:
    """Return the pattern that docs/operations.md documents: the text itself if it is a label, else one with a hash."""
    if re.fullmatch(LABEL, text) and "--" not in text:
        return re.escape(text)
    return r"[A-Za-z0-9][-A-Za-z0-9_.]{0,40}--[0-9a-f]{20}"


@dataclass(frozen=True)
class SiteCase:
    """A site, and the form that its jobs' Workflows must have."""

    name: str
    role: Role = Role.CLIENT
    argo: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] | None = None
    site_facts: Mapping[str, Any] = field(default_factory=dict)
    site: str = "site-1"

    def plan(self, root: Path, meta: Any) -> Plan | InvalidInput:
        """Return the plan of a job, or the error that refuses it, which must leave no workspace transfer behind."""
        runtime = None if self.study is None else {"cardio": self.study}
        parent = Parent(root, self.role, self.site, runtime=runtime)
        context = parent.context(str(meta.get("job_id")))
        launcher = site_settings(argo=dict(self.argo))
        before = deepcopy(meta)
        try:
            launch, transfer = read_launch(meta, context, self.role, launcher, attempt=ATTEMPT, epoch=EPOCH)
        except InvalidInput as refused:
            assert WorkspaceTransferManager.get_or_create(context.get_engine().cell).jobs == {}
            return refused
        finally:
            assert repr(meta) == repr(before)
        try:
            return build_plan(launch, launcher)
        except InvalidInput as refused:
            return refused
        finally:
            transfer.remove()

    def expects(self, root: Path) -> SiteFacts:
        """Return the facts that are fixed before a job is read."""
        client = (
            *("-u", "-m", "nvflare.private.fed.app.client.worker_process", "-m", f"{root}", "-w", f"{root}/startup"),
            *("-n", "{JOB}", "-c", self.site, "-p", "tcp://site:8102", "--parent_conn_sec", "mtls"),
            *("-g", "server:8002", "-scheme", "grpc", "-s", "fed_client.json"),
        )
        server = (
            *("-u", "-m", "nvflare.private.fed.app.server.runner_process", "-m", f"{root}", "-s", "fed_server.json"),
            *("-r", "/workspace/{JOB}/app_server", "-n", "{JOB}", "-p", "tcp://server:8102"),
            *("--parent_conn_sec", "mtls", "-u", "grpc://server:8002", "--host", "server", "--port", "8002"),
        )
        is_server = self.role is Role.SERVER
        return SiteFacts(
            role=self.role.value,
            labels={
                "flargo.dev/site": label_pattern(self.site),
                "flargo.dev/federation": FEDERATION,
                "flargo.dev/parent": EPOCH,
            },
            args=server if is_server else client,
            owner="server" if is_server else self.site,
            root=str(root),
            startup=f"nvflare-startup-[-a-z0-9]+-{FEDERATION}",
            credentials=(
                "NVFLARE_JOB_AUTH_TOKEN",
                "NVFLARE_JOB_TOKEN_SIGNATURE",
                "NVFLARE_JOB_SSID",
                "NVFL_WORKSPACE_TRANSFER_TOKEN",
            ),
            **self.site_facts,
        )


PLAIN = SiteCase("plain")
PLACES = (
    PLAIN,
    SiteCase("server", role=Role.SERVER),
    SiteCase(
        "with a policy",
        argo={
            "policy": {
                "images": ["registry.example.com/flare/*"],
                "python_paths": ["/usr/bin/python3"],
                "cpu": "4",
                "memory": "8Gi",
                "ephemeral_storage": "4Gi",
                "gpus": 2,
                "running_time": 3600,
            }
        },
        site_facts={
            "ceilings": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": "2"},
            "images": r"registry\.example\.com/flare/[-A-Za-z0-9._:/@]+",
            "programs": "/usr/bin/python3|/usr/local/bin/python",
            "deadline": 3600,
        },
    ),
)
WITH_STUDY = SiteCase(
    "with a study",
    study={
        "container": {"image": IMAGE},
        "datasets": {"scans": {"type": "mount", "source": "pvc-scans", "mode": "ro"}},
        "env": {"SITE_VALUE": "1"},
        "secret_env": {"DB_PASSWORD": {"source": "db", "key": "password"}},
    },
    site_facts={
        "env": {"SITE_VALUE": "1"},
        "secret_env": {"DB_PASSWORD": ("db", "password")},
        "mounts": [{"mountPath": "/data/cardio/scans", "readOnly": True}],
        "volumes": [{"persistentVolumeClaim": {"claimName": "pvc-scans", "readOnly": True}}],
    },
)

NASTY = [
    "",
    " ",
    "{{workflow.uid}}",
    "{{=sprig.env('HOME')}}",
    "{",
    "{{{",
    "$(NVFLARE_JOB_AUTH_TOKEN)",
    "`[free](http://evil.example)`",
    "<img src=http://evil.example/x>",
    "![x](http://evil.example/x)",
    "a\x00b",
    "line\nbreak",
    "\u202eright",
    "half \ud800",
    "../../../etc",
    "/etc/passwd",
    "; rm -rf /",
    "--privileged",
    "'\"\\",
    "x" * 5000,
    "kube-system",
    "cluster-admin",
    "default",
    "病院",
    "site-1",
    "cardio",
]
ABUSES = [
    "serviceAccountName",
    "service_account",
    "namespace",
    "volumes",
    "volumeMounts",
    "hostPath",
    "hostNetwork",
    "hostPID",
    "securityContext",
    "security_context",
    "privileged",
    "priorityClassName",
    "priority",
    "podSpecPatch",
    "pod_template",
    "command",
    "args",
    "env",
    "envFrom",
    "nodeSelector",
    "nodeName",
    "tolerations",
    "runtimeClassName",
    "labels",
    "annotations",
    "hooks",
    "onExit",
    "sidecars",
    "initContainers",
    "image_pull_secrets",
    "imagePullPolicy",
    "activeDeadlineSeconds",
    "ttlStrategy",
    "policy",
    "{{workflow.name}}",
    "",
]
texts = st.sampled_from(NASTY) | st.text(max_size=12)
numbers = (
    st.sampled_from([0, -1, 1, 3, 0.5, -0.0, 2**31, 2**63, 10**30, 1e300, float("inf"), float("-inf"), float("nan")])
    | st.integers()
    | st.floats()
)
atoms = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
AMOUNTS = [
    "1",
    "2",
    "500m",
    "1Gi",
    "1.5Gi",
    "100M",
    "1e3",
    "9Ei",
    "0",
    "-1",
    "1 Gi",
    "NaN",
    "1e-9",
    "3000m",
    "99Gi",
    ".5",
]
IMAGES = [
    IMAGE,
    "registry.example.com/flare/x@sha256:" + "a" * 64,
    "registry.example.com/flare/../../evil",
    "registry.example.com.evil/flare/x",
    "evil.example/flare:1",
    "http://evil.example/x",
]
PROGRAMS = ["/usr/bin/python3", "/opt/my python", "sh", "/bin/sh -c"]
SPEC: Mapping[str, list[Any]] = {
    "image": IMAGES,
    "python_path": PROGRAMS,
    **dict.fromkeys(("cpu", "memory", "cpu_request", "memory_request", "ephemeral_storage"), AMOUNTS),
    "num_of_gpus": ["1", "8", 10**9, "\u0663"],
    "pending_timeout": [5],
    "argo": [{"service_account": "admin"}],
}
"""Values that a job may have for each key, and attacks."""
ODD = [
    *NASTY,
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 2**31, 2**63, 10**30, 1e300, float("inf"), float("nan")),
    *([], [1], {}, [["image", "x"]], {"hostPath": "/"}, ["/bin/sh", "-c"], {"": None}),
]
SENSIBLE: Object = {"image": IMAGE, "cpu": "1", "memory": "1Gi"}


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """Draw a job's part of launcher_spec: mostly sensible, with an odd value in it, or odd altogether."""
    if draw(st.integers(0, 19)) == 0:
        return draw(anything)
    keys = draw(st.lists(st.sampled_from(sorted(set(SPEC) - {"argo"})), max_size=4, unique=True))
    spec = SENSIBLE | {key: draw(st.sampled_from(SPEC[key])) for key in keys}
    for _ in range(draw(st.integers(0, 2))):
        spec[draw(st.sampled_from(ABUSES))] = draw(anything)
    if draw(st.integers(0, 3)) == 0:
        spec[draw(st.sampled_from(sorted(SPEC)))] = draw(anything)
    return spec


portable = (
    st.fixed_dictionaries(
        {},
        optional={
            "num_of_gpus": st.sampled_from([0, 1, 9, -1]),
            "num_of_cpus": st.sampled_from([1, 64, 10**30]),
            "memory": st.sampled_from(["1Gi", "99999Ti", "1GB"]),
        },
    )
    | anything
)


@st.composite
def metadata(draw: st.DrawFn) -> Object:
    """Draw a job's metadata, of any shape."""
    meta: Object = {"job_id": JOB_ID, "name": draw(texts), "launcher_spec": {"site-1": {"k8s": draw(specs())}}}
    odd = draw(st.integers(0, 7))
    if odd == 0:
        meta["launcher_spec"] = draw(anything)
    elif odd == 1:
        meta["launcher_spec"] = {"default": {"k8s": draw(specs())}, "site-1": draw(anything)}
    elif odd in {2, 3}:
        meta["resource_spec"] = draw(
            st.dictionaries(st.sampled_from(["@default", "site-1", "site-2"]), portable, max_size=2) | anything
        )
    elif odd == 4:
        meta[draw(st.sampled_from(["job_id", "name", "study", *ABUSES]))] = draw(anything)
    return meta


@pytest.fixture(scope="module", autouse=True)
def silence_logs() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as result:
        yield Path(result)


def verdict(place: SiteCase, root: Path, meta: Object) -> str:
    """Return "refused" or "harmless"; fail if the message is long or the Workflow has problems."""
    result = place.plan(root, meta)
    if isinstance(result, InvalidInput):
        assert len(str(result)) < LONGEST_MESSAGE
        assert str(result).isprintable()
        return "refused"
    pending = result.timeouts.pending
    assert pending is None or 0 <= pending < threading.TIMEOUT_MAX
    assert find_problems(result.workflow, str(meta["job_id"]), place.expects(root)) == []
    return "harmless"


@pytest.mark.parametrize("place", PLACES[::2], ids=lambda place: place.name.replace(" ", "-"))
@pytest.mark.parametrize("key", SPEC)
def test_any_single_value_is_refused_or_allowed(place: SiteCase, key: str, root: Path) -> None:
    for value in (*SPEC[key], *ODD):
        spec = {**SENSIBLE, key: value}
        verdict(place, root / "one", {"job_id": JOB_ID, "name": "x", "launcher_spec": {"site-1": {"k8s": spec}}})


@pytest.mark.parametrize("shape", ODD, ids=lambda shape: type(shape).__name__)
def test_any_metadata_shape_is_refused_or_allowed(shape: Any, root: Path) -> None:
    good: Object = {"default": {"k8s": SENSIBLE}}
    for meta in (
        {"launcher_spec": shape},
        {"launcher_spec": {"site-1": shape}},
        {"launcher_spec": {"default": shape}},
        {"launcher_spec": {"site-1": {"k8s": shape}}},
        {"launcher_spec": good, "resource_spec": shape},
        {"launcher_spec": good, "resource_spec": {"site-1": shape}},
        {"launcher_spec": good, "resource_spec": {"@default": {"num_of_cpus": shape}}},
        {"launcher_spec": good, "resource_spec": {"@default": {"memory": shape}}},
        {"launcher_spec": good, "resource_spec": {"site-1": {"num_of_gpus": shape}}},
        {"launcher_spec": good, "job_id": shape},
        {"launcher_spec": good, "study": shape},
        {"launcher_spec": good, "name": shape},
    ):
        verdict(PLAIN, root / "shape", {"job_id": JOB_ID, **meta})


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name.replace(" ", "-"))
def test_any_metadata_is_refused_or_allowed(place: SiteCase, root: Path) -> None:
    verdicts: Counter[str] = Counter()

    @thoroughly
    @given(metadata())
    def every(meta: Object) -> None:
        verdicts[verdict(place, root / place.name, meta)] += 1

    every()
    assert min(verdicts["refused"], verdicts["harmless"]) > thoroughly.max_examples / 10, verdicts


odd_names = st.sampled_from(NASTY) | st.text(max_size=30) | st.text(alphabet="ab-_./ é{}`$(", min_size=1, max_size=80)


@thoroughly
@given(site=odd_names, study=odd_names, job=odd_names)
def test_any_names_are_refused_or_allowed(root: Path, site: str, study: str, job: str) -> None:
    place = replace(PLAIN, site=site or "site-1")
    meta = {"job_id": JOB_ID, "name": job, "study": study, "launcher_spec": {"default": {"k8s": {"image": IMAGE}}}}
    verdict(place, root / "names", meta)


@thoroughly
@given(job=odd_names)
def test_a_job_name_never_stops_a_launch(root: Path, job: str) -> None:
    meta = {"job_id": JOB_ID, "name": job, "launcher_spec": {"default": {"k8s": {"image": IMAGE}}}}
    assert verdict(PLAIN, root / "jobs", meta) == "harmless"


@settings(thoroughly, max_examples=60)
@given(
    dataset=st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", fullmatch=True),
    claim=st.sampled_from(["pvc", "a/b", "{{x}}", "x" * 300]),
)
def test_any_dataset_is_refused_or_mounted(root: Path, dataset: str, claim: str) -> None:
    place = replace(
        WITH_STUDY,
        study={**(WITH_STUDY.study or {}), "datasets": {dataset: {"type": "mount", "source": claim, "mode": "ro"}}},
        site_facts={
            **WITH_STUDY.site_facts,
            "mounts": [{"mountPath": f"/data/cardio/{dataset}", "readOnly": True}],
            "volumes": [{"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        },
    )
    verdicts = verdict(place, root / "datasets", {"job_id": JOB_ID, "name": "x", "study": "cardio"})
    assert verdicts == ("refused" if "{{" in claim else "harmless")


def test_a_job_gets_only_its_study(root: Path) -> None:
    meta = {"job_id": JOB_ID, "name": "x", "study": "cardio"}
    assert verdict(WITH_STUDY, root / "study", meta) == "harmless"
    outside = replace(WITH_STUDY, site_facts={})
    for study in (None, "", "other", "Cardio", "cardio "):
        meta_of_study: Object = {
            "job_id": JOB_ID,
            "study": study,
            "launcher_spec": {"default": {"k8s": {"image": IMAGE}}},
        }
        assert verdict(outside, root / "study", meta_of_study) == "harmless"


def test_the_parents_environment_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "HTTP_PROXY", "PATH", "HOME"):
        monkeypatch.setenv(name, "/of-the-parent")
    result = PLAIN.plan(root / "environment", GOOD)
    assert "of-the-parent" not in repr(result)
    assert verdict(PLAIN, root / "environment", GOOD) == "harmless"


GOOD: Object = {
    "job_id": JOB_ID,
    "name": "fedavg",
    "launcher_spec": {"site-1": {"k8s": {"image": IMAGE, "cpu": "1", "memory": "1Gi", "num_of_gpus": 1}}},
}


@pytest.fixture(scope="module")
def good(root: Path) -> Object:
    result = PLAIN.plan(root / "good", GOOD)
    assert isinstance(result, Plan)
    return result.workflow


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every path in an object, the empty one included."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths(entry, (*path, key))


def value_at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def problems(root: Path, variant: Object) -> list[str]:
    return find_problems(variant, JOB_ID, PLAIN.expects(root / "good"))


def test_the_allowlist_refuses_any_addition(root: Path, good: Object) -> None:
    assert problems(root, good) == []
    for path in paths(good):
        variant = deepcopy(good)
        place = value_at(variant, path)
        if isinstance(place, dict):
            place["smuggled"] = "x"
            assert problems(root, variant), path
        elif isinstance(place, list):
            place.append(deepcopy(place[-1]))
            assert problems(root, variant), path


def test_the_allowlist_refuses_any_expression(root: Path, good: Object) -> None:
    for path in paths(good):
        if isinstance(value_at(good, path), str):
            variant = deepcopy(good)
            value_at(variant, path[:-1])[path[-1]] = "{{workflow.uid}}"
            if path[-1] != "podSpecPatch":
                assert problems(root, variant), path


def test_the_allowlist_requires_every_protection(root: Path, good: Object) -> None:
    container = ("spec", "templates", 0, "container")
    for path in (
        (*container, "securityContext"),
        *((*container, "securityContext", key) for key in value_at(good, (*container, "securityContext"))),
        ("spec", "automountServiceAccountToken"),
        ("spec", "serviceAccountName"),
        ("spec", "executor"),
        ("spec", "suspend"),
        ("spec", "templates", 0, "podSpecPatch"),
        (*container, "volumeMounts", 1, "readOnly"),
        (*container, "resources", "limits", "ephemeral-storage"),
    ):
        variant = deepcopy(good)
        del value_at(variant, path[:-1])[path[-1]]
        assert problems(root, variant), path
