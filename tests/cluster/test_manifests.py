"""The matrix of the differential test on the real cluster: what flargo submits is valid, and Argo makes that pod."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubernetes.utils.quantity import parse_quantity

from flargo.job.plan import build_plan
from tests.harness.cluster import Cluster, Object, eventually
from tests.harness.differential.argo import pod_from_workflow
from tests.harness.differential.cases import samples
from tests.harness.manifest_checks import argo_lint, server_dry_run
from tests.harness.real_cluster.target import Target

SANDBOX_PATH = "/var/run/argo"
NOT_RESTRICTED = 'violates PodSecurity "restricted'


@dataclass(frozen=True)
class Made:
    """A Workflow of the matrix, and what the cluster made of it."""

    name: str
    workflow: Object
    shown: Object
    pod: Object | None


@pytest.fixture(scope="module")
def manifests(target: Target) -> dict[str, Object]:
    """Every Workflow of the matrix, in the namespace of the tests, by the case's name."""
    made = {}
    for name, settings, launch in samples():
        workflow = json.loads(json.dumps(build_plan(launch, settings).workflow))
        workflow["metadata"]["namespace"] = target.namespace
        made[name] = workflow
    return made


@pytest.fixture(scope="module")
def folder(manifests: dict[str, Object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each."""
    path = tmp_path_factory.mktemp("workflows")
    for workflow in manifests.values():
        (path / f"{workflow['metadata']['name']}.json").write_text(json.dumps(workflow))
    return path


def test_the_api_server_takes_every_workflow_strictly(
    target: Target, manifests: dict[str, Object], folder: Path
) -> None:
    done = server_dry_run(target, folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(manifests)


def test_argo_lints_every_workflow(folder: Path) -> None:
    done = argo_lint(folder)
    assert done.returncode == 0, done.stdout


def test_neither_check_is_blind(target: Target, manifests: dict[str, Object], tmp_path: Path) -> None:
    broken = json.loads(json.dumps(next(iter(manifests.values()))))
    broken["spec"]["templates"][0]["container"]["memroy"] = "1Gi"
    broken["spec"]["entrypoint"] = "none"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    assert 'unknown field "spec.templates[0].container.memroy"' in server_dry_run(target, path).stderr
    assert argo_lint(path).returncode != 0


@pytest.fixture(scope="module")
def made(cluster: Cluster, manifests: dict[str, Object]) -> Iterator[list[Made]]:
    """The client cases, created and released; each with its pod, or with Argo's words on why there is none."""
    wanted = {name: item for name, item in manifests.items() if name.startswith("client")}
    documents = [{**item, "spec": {**item["spec"], "suspend": False}} for item in wanted.values()]
    mark = "flargo.test/matrix"
    for document in documents:
        document["metadata"] = json.loads(json.dumps(document["metadata"]))
        document["metadata"]["labels"][mark] = "true"
        # An instance id names a controller that this cluster does not have.
        document["metadata"]["labels"].pop("workflows.argoproj.io/controller-instanceid", None)
    cluster.kubectl("create", "--filename=-", document={"apiVersion": "v1", "kind": "List", "items": documents})
    try:
        yield _settled(cluster, wanted, mark)
    finally:
        cluster.kubectl("delete", "workflows.argoproj.io", f"--selector={mark}", "--wait=false")
        eventually(lambda: not cluster.items("workflows.argoproj.io", mark), 60, "the matrix is gone")


def _settled(cluster: Cluster, wanted: dict[str, Object], mark: str) -> list[Made]:
    found: list[Made] = []

    def complete() -> bool:
        shown = {item["metadata"]["name"]: item for item in cluster.items("workflows.argoproj.io", mark)}
        pods = {pod["metadata"]["name"]: pod for pod in cluster.items("pods")}
        found[:] = [
            Made(name, item, shown[item["metadata"]["name"]], pods.get(item["metadata"]["name"]))
            for name, item in wanted.items()
        ]
        return all(each.pod is not None or each.shown.get("status", {}).get("phase") == "Error" for each in found)

    eventually(complete, 120, "every Workflow has its pod, or Argo's word that it cannot have one")
    return found


def test_argo_makes_the_very_pod(made: list[Made]) -> None:
    with_pod = [each for each in made if each.pod is not None]
    assert len(with_pod) >= 60, f"only {len(with_pod)} of {len(made)}"
    for each in with_pod:
        assert each.pod is not None
        assert_holds(as_argo_wraps(pod_from_workflow(each.workflow)), each.pod, each.name)
        assert_nothing_else(pod_from_workflow(each.workflow), each.pod, each.name)


def test_where_argo_makes_no_pod_the_site_asked_for_what_the_namespace_forbids(made: list[Made]) -> None:
    refused = {each.name: each.shown["status"]["message"] for each in made if each.pod is None}
    said_so = {name: message for name, message in refused.items() if NOT_RESTRICTED in message}
    others = {name: message for name, message in refused.items() if name not in said_so}
    assert all(any(words in message for words in EXPECTED) for message in others.values()), json.dumps(others, indent=1)


EXPECTED = (
    "no PriorityClass with name batch",
    "the integer value of priority (5) must not be provided",
    'serviceaccount "cardio" not found',
    'serviceaccounts "argo-x" not found',
    "/ConfigMap/flargo-queue/jobs",
)
"""Argo's or the API server's words where a case names what this cluster does not have."""


def as_argo_wraps(pod: Object) -> Object:
    """What Argo makes of commands: its executor runs them, in main and in sidecars."""
    for container in pod["spec"]["containers"]:
        if container["name"] != "wait":
            container["command"] = container.get("command", [])
    return pod


def assert_holds(wanted: object, found: object, where: str) -> None:
    """Every leaf that was wanted is found; lists of named things by their names, a command as its end."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        for key, value in wanted.items():
            if value is False and key not in found:
                continue  # how the API server shows a flag that is not set
            assert key in found, f"{where}.{key} is missing"
            if key == "command":
                assert found[key][len(found[key]) - len(value) :] == value, f"{where}.{key}"
            else:
                assert_holds(value, found[key], f"{where}.{key}")
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict) and "name" in wanted[0]:
        assert isinstance(found, list), where
        for value in wanted:
            key = "mountPath" if "mountPath" in value else "name"
            same = [item for item in found if item[key] == value[key]]
            assert len(same) == 1, f"{where}[{value[key]}] is there {len(same)} times"
            assert_holds(value, same[0], f"{where}[{value[key]}]")
    elif any(part in where for part in (".limits.", ".requests.", ".sizeLimit", ".overhead.")):
        # The API server writes amounts in its own way: 0.5 as 500m.
        assert parse_quantity(wanted) == parse_quantity(found), where  # type: ignore[no-untyped-call]
    else:
        assert wanted == found, f"{where}: {found!r} is not {wanted!r}"


def assert_nothing_else(wanted: Object, found: Object, where: str) -> None:
    """Nothing is there that was not asked for but Argo's own and the API server's usual tolerations."""
    spec, asked = found["spec"], wanted["spec"]
    for group in ("containers", "initContainers"):
        assert {c["name"] for c in spec[group]} == {c["name"] for c in asked[group]}, f"{where}.{group}"
    own = {"var-run-argo", "tmp-dir-argo", "exec-sa-token"}
    volumes = {volume["name"] for volume in spec["volumes"]} - own
    assert {name for name in volumes if not name.startswith("kube-api-access")} == {
        volume["name"] for volume in asked.get("volumes", [])
    }, where
    main = next(c for c in spec["containers"] if c["name"] == "main")
    said = next(c for c in asked["containers"] if c["name"] == "main")
    env = {entry["name"] for entry in main["env"] if not entry["name"].startswith("ARGO_")}
    assert env == {entry["name"] for entry in said.get("env", [])}, where
    mounts = {mount["mountPath"] for mount in main["volumeMounts"] if mount["name"] not in own}
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mounts - {token} == {mount["mountPath"] for mount in said.get("volumeMounts", [])}, where
    assert (token in mounts) == (spec["automountServiceAccountToken"] is True), where
