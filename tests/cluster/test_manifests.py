"""Tests of the differential test's cases on a real cluster: their Workflows are valid, and Argo creates their pods."""

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
class CreatedWorkflow:
    """A case's Workflow as flargo submits it, as the cluster has it, and its pod."""

    name: str
    workflow: Object
    document: Object
    """The Workflow as the API server returns it."""
    pod: Object | None


@pytest.fixture(scope="module")
def manifests(target: Target) -> dict[str, Object]:
    """The Workflow of each case, in the tests' namespace, by the case's name."""
    workflows = {}
    for name, settings, launch in samples():
        workflow = json.loads(json.dumps(build_plan(launch, settings).workflow))
        workflow["metadata"]["namespace"] = target.namespace
        workflows[name] = workflow
    return workflows


@pytest.fixture(scope="module")
def folder(manifests: dict[str, Object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each Workflow."""
    path = tmp_path_factory.mktemp("workflows")
    for workflow in manifests.values():
        (path / f"{workflow['metadata']['name']}.json").write_text(json.dumps(workflow))
    return path


def test_api_server_accepts_every_workflow_strictly(target: Target, manifests: dict[str, Object], folder: Path) -> None:
    result = server_dry_run(target, folder)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == len(manifests)


def test_argo_lints_every_workflow(folder: Path) -> None:
    result = argo_lint(folder)
    assert result.returncode == 0, result.stdout


def test_both_checks_detect_errors(target: Target, manifests: dict[str, Object], tmp_path: Path) -> None:
    workflow = json.loads(json.dumps(next(iter(manifests.values()))))
    workflow["spec"]["templates"][0]["container"]["memroy"] = "1Gi"
    workflow["spec"]["entrypoint"] = "none"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(workflow))
    assert 'unknown field "spec.templates[0].container.memroy"' in server_dry_run(target, path).stderr
    assert argo_lint(path).returncode != 0


@pytest.fixture(scope="module")
def created_workflows(cluster: Cluster, manifests: dict[str, Object]) -> Iterator[list[CreatedWorkflow]]:
    """The client cases, created and released; each with its pod, or with Argo's message why there is none."""
    clients = {name: item for name, item in manifests.items() if name.startswith("client")}
    documents = [{**item, "spec": {**item["spec"], "suspend": False}} for item in clients.values()]
    mark = "flargo.test/matrix"
    for document in documents:
        document["metadata"] = json.loads(json.dumps(document["metadata"]))
        document["metadata"]["labels"][mark] = "true"
        # With an instance id, the Workflow would be left to a controller that this cluster does not have.
        document["metadata"]["labels"].pop("workflows.argoproj.io/controller-instanceid", None)
    cluster.kubectl("create", "--filename=-", document={"apiVersion": "v1", "kind": "List", "items": documents})
    try:
        yield _wait_for_pods(cluster, clients, mark)
    finally:
        cluster.kubectl("delete", "workflows.argoproj.io", f"--selector={mark}", "--wait=false")
        eventually(lambda: not cluster.items("workflows.argoproj.io", mark), 60, "the Workflows are gone")


def _wait_for_pods(cluster: Cluster, manifests: dict[str, Object], mark: str) -> list[CreatedWorkflow]:
    workflows: list[CreatedWorkflow] = []

    def is_complete() -> bool:
        documents = {item["metadata"]["name"]: item for item in cluster.items("workflows.argoproj.io", mark)}
        pods = {pod["metadata"]["name"]: pod for pod in cluster.items("pods")}
        workflows[:] = [
            CreatedWorkflow(name, item, documents[item["metadata"]["name"]], pods.get(item["metadata"]["name"]))
            for name, item in manifests.items()
        ]
        return all(
            each.pod is not None or each.document.get("status", {}).get("phase") == "Error" for each in workflows
        )

    eventually(is_complete, 120, "every Workflow has its pod, or Argo's message that it cannot have one")
    return workflows


def test_argo_creates_the_expected_pod(created_workflows: list[CreatedWorkflow]) -> None:
    with_pod = [each for each in created_workflows if each.pod is not None]
    assert len(with_pod) >= 60, f"only {len(with_pod)} of {len(created_workflows)}"
    for each in with_pod:
        assert each.pod is not None
        assert_contains(as_argo_wraps(pod_from_workflow(each.workflow)), each.pod, each.name)
        assert_nothing_else(pod_from_workflow(each.workflow), each.pod, each.name)


def test_workflows_without_pod_have_expected_errors(created_workflows: list[CreatedWorkflow]) -> None:
    """Argo creates no pod only if the namespace forbids it, or if the case names an object that does not exist."""
    errors = {each.name: each.document["status"]["message"] for each in created_workflows if each.pod is None}
    others = {name: message for name, message in errors.items() if NOT_RESTRICTED not in message}
    assert all(any(text in message for text in EXPECTED_ERRORS) for message in others.values()), json.dumps(
        others, indent=1
    )


EXPECTED_ERRORS = (
    "no PriorityClass with name batch",
    "the integer value of priority (5) must not be provided",
    'serviceaccount "cardio" not found',
    'serviceaccounts "argo-x" not found',
    "/ConfigMap/flargo-queue/jobs",
)
"""Messages of Argo or the API server for cases that name objects that this cluster does not have."""


def as_argo_wraps(pod: Object) -> Object:
    """Give every container but Argo's own a command, as Argo does: its executor runs the program, also in sidecars."""
    for container in pod["spec"]["containers"]:
        if container["name"] != "wait":
            container["command"] = container.get("command", [])
    return pod


def assert_contains(expected: object, actual: object, where: str) -> None:
    """Assert that every expected leaf is in the actual object.

    Items of a list are matched by their names, and a command has to end with the expected one.
    """
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        for key, value in expected.items():
            if value is False and key not in actual:
                continue  # the API server omits a flag that is false
            assert key in actual, f"{where}.{key} is missing"
            if key == "command":
                assert actual[key][len(actual[key]) - len(value) :] == value, f"{where}.{key}"
            else:
                assert_contains(value, actual[key], f"{where}.{key}")
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict) and "name" in expected[0]:
        assert isinstance(actual, list), where
        for value in expected:
            key = "mountPath" if "mountPath" in value else "name"
            matches = [item for item in actual if item[key] == value[key]]
            assert len(matches) == 1, f"{where}[{value[key]}] exists {len(matches)} times"
            assert_contains(value, matches[0], f"{where}[{value[key]}]")
    elif any(part in where for part in (".limits.", ".requests.", ".sizeLimit", ".overhead.")):
        # The API server normalises quantities: 0.5 becomes 500m.
        assert parse_quantity(expected) == parse_quantity(actual), where  # type: ignore[no-untyped-call]
    else:
        assert expected == actual, f"{where}: {actual!r} is not {expected!r}"


def assert_nothing_else(expected: Object, actual: Object, where: str) -> None:
    """Assert that a pod has only the expected containers, volumes, variables and mounts, besides Argo's own."""
    spec, expected_spec = actual["spec"], expected["spec"]
    for group in ("containers", "initContainers"):
        assert {c["name"] for c in spec[group]} == {c["name"] for c in expected_spec[group]}, f"{where}.{group}"
    own = {"var-run-argo", "tmp-dir-argo", "exec-sa-token"}
    volumes = {volume["name"] for volume in spec["volumes"]} - own
    assert {name for name in volumes if not name.startswith("kube-api-access")} == {
        volume["name"] for volume in expected_spec.get("volumes", [])
    }, where
    main = next(c for c in spec["containers"] if c["name"] == "main")
    expected_main = next(c for c in expected_spec["containers"] if c["name"] == "main")
    env = {entry["name"] for entry in main["env"] if not entry["name"].startswith("ARGO_")}
    assert env == {entry["name"] for entry in expected_main.get("env", [])}, where
    mounts = {mount["mountPath"] for mount in main["volumeMounts"] if mount["name"] not in own}
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mounts - {token} == {mount["mountPath"] for mount in expected_main.get("volumeMounts", [])}, where
    assert (token in mounts) == (spec["automountServiceAccountToken"] is True), where
