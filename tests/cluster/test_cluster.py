"""Tests of the test cluster itself: its node is ready, its accounts have their rights, and Workflows run."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flargo.tools.kit.chart import accounts_command
from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import audit
from tests.harness.real_cluster.target import Target

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def run_kubectl(kubeconfig: Path, *arguments: str, document: dict[str, Any] | None = None) -> str:
    """Run kubectl and return its output; fail the test if kubectl fails."""
    command = ("kubectl", f"--kubeconfig={kubeconfig}", *arguments)
    stdin = json.dumps(document) if document else None
    result = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def can(kubeconfig: Path, namespace: str, verb: str, resource: str) -> bool:
    """Return whether the account has a right."""
    # kubectl would read "pods/log" as a pod with the name "log".
    kind, _, subresource = resource.partition("/")
    question = (verb, kind, *((f"--subresource={subresource}",) if subresource else ()))
    command = ("kubectl", f"--kubeconfig={kubeconfig}", "auth", "can-i", *question, f"--namespace={namespace}")
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.stdout.strip() in ("yes", "no"), result
    assert not result.stderr or "namespace scoped" in result.stderr, result
    return result.stdout.strip() == "yes"


def workflow(image: str) -> dict[str, Any]:
    """Return a Workflow that a launcher may create: one step that "restricted" allows, with no token."""
    patch = {"containers": [{"name": "wait", "securityContext": RESTRICTED}]}
    patch["initContainers"] = [{"name": "init", "securityContext": RESTRICTED}]
    main = {
        "image": image,
        "imagePullPolicy": "Always",
        "command": ["python", "-c", "import nvflare, numpy; print('versions', nvflare.__version__, numpy.__version__)"],
        "securityContext": RESTRICTED,
    }
    managed = {"app.kubernetes.io/managed-by": "flargo"}
    template = {
        "name": "job",
        "metadata": {"labels": managed},
        "container": main,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "podSpecPatch": json.dumps(patch),
    }
    spec = {
        "entrypoint": "job",
        "serviceAccountName": "flargo-job",
        "automountServiceAccountToken": False,
        "executor": {"serviceAccountName": "flargo-executor"},
        "templates": [template],
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "smoke-", "labels": managed},
        "spec": spec,
    }


@pytest.fixture
def ended_workflow(target: Target) -> Iterator[tuple[dict[str, Any], int]]:
    """A Workflow that the launcher's account created and polled until its end, and the audit log's mark before it."""
    before = audit.mark(target.audit_log) if target.audit_log else 0
    *_, last = poll_workflow(target)
    yield last, before
    run_kubectl(
        target.launcher_kubeconfig, "delete", f"--namespace={target.namespace}", "workflow", last["metadata"]["name"]
    )


def poll_workflow(target: Target) -> Iterator[dict[str, Any]]:
    """Create a Workflow with the launcher's account, and yield its state every half second until it has ended."""
    launcher = target.launcher_kubeconfig
    namespace = f"--namespace={target.namespace}"
    document = workflow(target.job_image)
    name = run_kubectl(launcher, "create", namespace, "--filename=-", "--output=name", document=document)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        item = json.loads(run_kubectl(launcher, "get", namespace, name, "--output=json"))
        yield item
        if item.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error"):
            break
        time.sleep(0.5)


def test_node_is_ready(target: Target) -> None:
    nodes = json.loads(run_kubectl(target.kubeconfig, "get", "nodes", "--output=json"))["items"]
    conditions = [row for node in nodes for row in node["status"]["conditions"] if row["type"] == "Ready"]
    assert any(row["status"] == "True" for row in conditions)


def test_bridge_keeps_its_hardware_address(target: Target) -> None:
    """The address stays the same while a pod comes and goes."""
    if target.audit_log is None:
        pytest.skip("a cluster of one's own has a network of its own")
    bridge_states = []
    for item in poll_workflow(target):
        result = subprocess.run(("ip", "-json", "link", "show"), capture_output=True, check=True)
        links = json.loads(result.stdout)
        (address,) = (link["address"] for link in links if link["ifname"] == "cni0")
        bridge_states.append((address, any(link.get("master") == "cni0" for link in links)))
        name = item["metadata"]["name"]
    run_kubectl(target.launcher_kubeconfig, "delete", f"--namespace={target.namespace}", "workflow", name)
    assert any(has_pod for _, has_pod in bridge_states)
    assert len({address for address, _ in bridge_states}) == 1, bridge_states


@pytest.mark.parametrize(
    ("verbs", "resource"),
    [
        ("create get list watch patch delete", "workflows.argoproj.io"),
        ("create get update delete", "secrets"),
        ("list watch delete", "pods"),
        ("get", "pods/log"),
        ("list", "events"),
    ],
)
def test_launcher_has_right(target: Target, verbs: str, resource: str) -> None:
    for verb in verbs.split():
        assert can(target.launcher_kubeconfig, target.namespace, verb, resource), verb


@pytest.mark.parametrize(
    ("verb", "resource", "namespace"),
    [
        ("list", "secrets", ""),
        ("create", "pods", ""),
        ("create", "pods/exec", ""),
        ("update", "workflows.argoproj.io", ""),
        ("create", "serviceaccounts/token", ""),
        ("get", "workflows.argoproj.io", "default"),
        ("list", "nodes", ""),
    ],
)
def test_launcher_lacks_right(target: Target, verb: str, resource: str, namespace: str) -> None:
    assert not can(target.launcher_kubeconfig, namespace or target.namespace, verb, resource)


@pytest.mark.parametrize("account", ["flargo-launcher", "flargo-job", "flargo-executor"])
def test_account_has_only_the_rights_of_deploy(target: Target, account: str) -> None:
    namespace = f"--namespace={target.namespace}"
    bindings = json.loads(run_kubectl(target.kubeconfig, "get", "rolebindings", namespace, "--output=json"))["items"]
    subject = {"kind": "ServiceAccount", "name": account}
    roles = [
        (item["roleRef"]["kind"], item["roleRef"]["name"])
        for item in bindings
        if any(subject.items() <= each.items() for each in item.get("subjects", []))
    ]
    documents = [document for file in DEPLOY.glob("*.yaml") for document in yaml.safe_load_all(file.read_text())]
    rules = {each["metadata"]["name"]: each["rules"] for each in documents if each.get("kind") == "Role"}
    assert roles == [("Role", account)] * (account in rules)
    for _, name in roles:
        role = json.loads(run_kubectl(target.kubeconfig, "get", "role", name, namespace, "--output=json"))
        assert role["rules"] == rules[name]
    cluster_bindings = json.loads(run_kubectl(target.kubeconfig, "get", "clusterrolebindings", "--output=json"))[
        "items"
    ]
    assert not [
        item["metadata"]["name"]
        for item in cluster_bindings
        if any(subject.items() <= each.items() for each in item.get("subjects", []))
    ]


def test_pod_security_is_restricted(target: Target) -> None:
    bare = {"name": "main", "image": target.job_image}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": {"containers": [bare]}}
    command = ("kubectl", f"--kubeconfig={target.kubeconfig}", f"--namespace={target.namespace}", "create")
    argv = (*command, "--dry-run=server", "--filename=-")
    result = subprocess.run(argv, input=json.dumps(pod), text=True, capture_output=True, check=False)
    assert 'violates PodSecurity "restricted' in result.stderr


def test_accounts_can_be_created_in_any_namespace(target: Target) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flargo-elsewhere"}}
    run_kubectl(target.kubeconfig, "create", "--filename=-", document=namespace)
    try:
        environment = {**os.environ, "KUBECONFIG": str(target.kubeconfig)}
        command = ("bash", "-o", "pipefail", "-c", accounts_command("flargo-elsewhere"))
        subprocess.run(command, cwd=DEPLOY.parent, env=environment, check=True)
        option = "--namespace=flargo-elsewhere"
        names = run_kubectl(target.kubeconfig, "get", "serviceaccounts,roles", option, "--output=name")
        assert {"serviceaccount/flargo-launcher", "serviceaccount/flargo-job"} < {*names.split()}
        question = ("auth", "can-i", "create", "workflows.argoproj.io", option)
        account = "--as=system:serviceaccount:flargo-elsewhere:flargo-launcher"
        assert run_kubectl(target.kubeconfig, *question, account) == "yes"
    finally:
        run_kubectl(target.kubeconfig, "delete", "namespace", "flargo-elsewhere", "--wait=false")


def test_workflow_runs_the_job_image(target: Target, ended_workflow: tuple[dict[str, Any], int]) -> None:
    item, _ = ended_workflow
    assert item["status"]["phase"] == "Succeeded", item["status"]
    (node,) = item["status"]["nodes"].values()
    assert node["outputs"]["exitCode"] == "0"
    name = item["metadata"]["name"]
    path = f"/api/v1/namespaces/{target.namespace}/pods/{name}/log?container=main"
    # `kubectl logs` would get the pod first, which the launcher's account may not.
    output = run_kubectl(target.launcher_kubeconfig, "get", f"--raw={path}")
    assert output.startswith("versions ")
    pod = json.loads(
        run_kubectl(target.kubeconfig, "get", "pod", f"--namespace={target.namespace}", name, "--output=json")
    )
    (main,) = (row for row in pod["spec"]["containers"] if row["name"] == "main")
    assert not any("serviceaccount" in mount["mountPath"] for mount in main["volumeMounts"])


def test_audit_log_distinguishes_the_launcher(target: Target, ended_workflow: tuple[dict[str, Any], int]) -> None:
    if target.audit_log is None:
        pytest.skip("the audit log of a cluster of one's own cannot be read")
    item, before = ended_workflow
    counts = audit.count_by_user(":flargo-launcher", target.audit_log, before)
    assert counts["create", "workflows"] >= 1
    assert counts["get", "workflows"] >= 1
    assert audit.count_by_user(":argo", target.audit_log, before)["create", "pods"] >= 1
    assert item["status"]["phase"] == "Succeeded"
