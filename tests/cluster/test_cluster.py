"""The cluster is what it promises to be: a node, accounts with their rights, workflows that run."""

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


def kubectl(kubeconfig: Path, *arguments: str, document: dict[str, Any] | None = None) -> str:
    """What kubectl prints; its failure is the test's."""
    command = ("kubectl", f"--kubeconfig={kubeconfig}", *arguments)
    stdin = json.dumps(document) if document else None
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def can(kubeconfig: Path, namespace: str, verb: str, resource: str) -> bool:
    """Whether the account may do a thing."""
    # Written with a slash it would be a pod called "log".
    what, _, sub = resource.partition("/")
    asked = (verb, what, *((f"--subresource={sub}",) if sub else ()))
    command = ("kubectl", f"--kubeconfig={kubeconfig}", "auth", "can-i", *asked, f"--namespace={namespace}")
    said = subprocess.run(command, text=True, capture_output=True, check=False)
    assert said.stdout.strip() in ("yes", "no"), said
    assert not said.stderr or "namespace scoped" in said.stderr, said
    return said.stdout.strip() == "yes"


def workflow(image: str) -> dict[str, Any]:
    """One step that "restricted" allows, whose container has no token; of the form that a launcher may create."""
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
def finished(target: Target) -> Iterator[tuple[dict[str, Any], int]]:
    """A workflow made and watched over by the launcher's account, ended; and the mark before it."""
    before = audit.mark(target.audit_log) if target.audit_log else 0
    *_, last = looks_at_a_workflow(target)
    yield last, before
    kubectl(
        target.launcher_kubeconfig, "delete", f"--namespace={target.namespace}", "workflow", last["metadata"]["name"]
    )


def looks_at_a_workflow(target: Target) -> Iterator[dict[str, Any]]:
    """Make a workflow by the launcher's account, and look at it every half second until it has ended."""
    launcher = target.launcher_kubeconfig
    here = f"--namespace={target.namespace}"
    made = kubectl(launcher, "create", here, "--filename=-", "--output=name", document=workflow(target.job_image))
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = json.loads(kubectl(launcher, "get", here, made, "--output=json"))
        yield found
        if found.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error"):
            break
        time.sleep(0.5)


def test_the_node_is_ready(target: Target) -> None:
    nodes = json.loads(kubectl(target.kubeconfig, "get", "nodes", "--output=json"))["items"]
    conditions = [row for node in nodes for row in node["status"]["conditions"] if row["type"] == "Ready"]
    assert any(row["status"] == "True" for row in conditions)


def test_the_bridge_keeps_its_hardware_address_while_a_pod_comes_and_goes(target: Target) -> None:
    if target.audit_log is None:
        pytest.skip("somebody's own cluster has a network of its own")
    seen = []
    for found in looks_at_a_workflow(target):
        said = subprocess.run(("ip", "-json", "link", "show"), capture_output=True, check=True)
        links = json.loads(said.stdout)
        (address,) = (link["address"] for link in links if link["ifname"] == "cni0")
        seen.append((address, any(link.get("master") == "cni0" for link in links)))
        name = found["metadata"]["name"]
    kubectl(target.launcher_kubeconfig, "delete", f"--namespace={target.namespace}", "workflow", name)
    assert any(has_pod for _, has_pod in seen)
    assert len({address for address, _ in seen}) == 1, seen


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
def test_the_launcher_may(target: Target, verbs: str, resource: str) -> None:
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
def test_the_launcher_may_not(target: Target, verb: str, resource: str, namespace: str) -> None:
    assert not can(target.launcher_kubeconfig, namespace or target.namespace, verb, resource)


@pytest.mark.parametrize("account", ["flargo-launcher", "flargo-job", "flargo-executor"])
def test_an_account_has_no_right_but_those_of_deploy(target: Target, account: str) -> None:
    here = f"--namespace={target.namespace}"
    bindings = json.loads(kubectl(target.kubeconfig, "get", "rolebindings", here, "--output=json"))["items"]
    subject = {"kind": "ServiceAccount", "name": account}
    roles = [
        (item["roleRef"]["kind"], item["roleRef"]["name"])
        for item in bindings
        if any(subject.items() <= each.items() for each in item.get("subjects", []))
    ]
    stated = [doc for file in DEPLOY.glob("*.yaml") for doc in yaml.safe_load_all(file.read_text())]
    given = {doc["metadata"]["name"]: doc["rules"] for doc in stated if doc.get("kind") == "Role"}
    assert roles == [("Role", account)] * (account in given)
    for _, name in roles:
        role = json.loads(kubectl(target.kubeconfig, "get", "role", name, here, "--output=json"))
        assert role["rules"] == given[name]
    everywhere = json.loads(kubectl(target.kubeconfig, "get", "clusterrolebindings", "--output=json"))["items"]
    assert not [
        item["metadata"]["name"]
        for item in everywhere
        if any(subject.items() <= each.items() for each in item.get("subjects", []))
    ]


def test_pod_security_is_restricted(target: Target) -> None:
    bare = {"name": "main", "image": target.job_image}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": {"containers": [bare]}}
    command = ("kubectl", f"--kubeconfig={target.kubeconfig}", f"--namespace={target.namespace}", "create")
    tried = (*command, "--dry-run=server", "--filename=-")
    done = subprocess.run(tried, input=json.dumps(pod), text=True, capture_output=True, check=False)
    assert 'violates PodSecurity "restricted' in done.stderr


def test_the_accounts_can_be_made_in_any_namespace(target: Target) -> None:
    elsewhere = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flargo-elsewhere"}}
    kubectl(target.kubeconfig, "create", "--filename=-", document=elsewhere)
    try:
        environment = {**os.environ, "KUBECONFIG": str(target.kubeconfig)}
        command = ("bash", "-o", "pipefail", "-c", accounts_command("flargo-elsewhere"))
        subprocess.run(command, cwd=DEPLOY.parent, env=environment, check=True)
        there = "--namespace=flargo-elsewhere"
        found = kubectl(target.kubeconfig, "get", "serviceaccounts,roles", there, "--output=name")
        assert {"serviceaccount/flargo-launcher", "serviceaccount/flargo-job"} < {*found.split()}
        said = ("auth", "can-i", "create", "workflows.argoproj.io", there)
        who = "--as=system:serviceaccount:flargo-elsewhere:flargo-launcher"
        assert kubectl(target.kubeconfig, *said, who) == "yes"
    finally:
        kubectl(target.kubeconfig, "delete", "namespace", "flargo-elsewhere", "--wait=false")


def test_a_workflow_runs_the_job_image(target: Target, finished: tuple[dict[str, Any], int]) -> None:
    found, _ = finished
    assert found["status"]["phase"] == "Succeeded", found["status"]
    (node,) = found["status"]["nodes"].values()
    assert node["outputs"]["exitCode"] == "0"
    name = found["metadata"]["name"]
    path = f"/api/v1/namespaces/{target.namespace}/pods/{name}/log?container=main"
    said = kubectl(target.launcher_kubeconfig, "get", f"--raw={path}")  # `kubectl logs` would get the pod first
    assert said.startswith("versions ")
    pod = json.loads(kubectl(target.kubeconfig, "get", "pod", f"--namespace={target.namespace}", name, "--output=json"))
    (main,) = (row for row in pod["spec"]["containers"] if row["name"] == "main")
    assert not any("serviceaccount" in mount["mountPath"] for mount in main["volumeMounts"])


def test_the_audit_log_tells_the_launcher_apart(target: Target, finished: tuple[dict[str, Any], int]) -> None:
    if target.audit_log is None:
        pytest.skip("somebody's own cluster: its audit log is not within reach")
    found, before = finished
    asked = audit.by(":flargo-launcher", target.audit_log, before)
    assert asked["create", "workflows"] >= 1
    assert asked["get", "workflows"] >= 1
    assert audit.by(":argo", target.audit_log, before)["create", "pods"] >= 1
    assert found["status"]["phase"] == "Succeeded"
