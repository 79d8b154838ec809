"""What is applied to a fresh cluster: Argo's definitions, the namespace, accounts and their kubeconfigs."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.harness.paths import DEPLOY
from tests.harness.real_cluster import parts, pki, sandbox, state

HERE = Path(__file__).parent
PARENTS = ("nvflare-server", "site-1", "site-2")
"""The accounts of the parents of docs/install.md."""
POWERLESS = "flargo-powerless"
"""An account that a test takes for the executor's, and that may not report."""
NOT_THERE = "not-there"
"""An account that a test names for a job's pod, and that does not exist."""


def everything(namespace: str) -> None:
    """All of it; ends when every account can be used."""
    # Argo's definitions are too large for the annotation that a client-side apply leaves.
    kubectl("apply", "--server-side", *(f"--filename={path}" for path in sorted(parts.crds().glob("argoproj*.yaml"))))
    # Tried again, for kubectl fails on a definition that has no status at all yet.
    established = ("kubectl", "wait", "--for=condition=Established", "--timeout=5s", "crd", "--all")
    sandbox.wait("Argo's definitions", lambda: sandbox.works(*established), 60)
    # What kubectl learned of the API before that lacks Argo's part, and it would believe it for hours.
    shutil.rmtree(state.KUBECTL, ignore_errors=True)
    kubectl("apply", "--filename=-", document=restricted(namespace))
    for folder in (DEPLOY, HERE / "argo"):
        kubectl("apply", "--kustomize", overlay(folder, namespace))
    kubectl("apply", "--filename=-", document=admission_policy(namespace))
    kubectl("apply", f"--filename={HERE / 'dns.yaml'}")
    write_kubeconfig(namespace, "flargo-launcher", state.LAUNCHER)
    write_kubeconfig(namespace, "argo", state.ARGO)


def admission_policy(namespace: str) -> dict[str, Any]:
    """deploy/admission-policy.yaml, fitted to the tests as its comments tell a site to, so that all of them obey it."""
    return fitted(
        "flargo-launcher",
        [f"system:serviceaccount:{namespace}:{name}" for name in ("flargo-launcher", *PARENTS)],
        jobAccounts=["flargo-job", NOT_THERE, *(f"{name}-flargo-job" for name in PARENTS)],
        executorAccounts=["flargo-executor", POWERLESS, *(f"{name}-flargo-executor" for name in PARENTS)],
        # Tests hand Pod Security what it has to refuse.
        nodeAccess=True,
    )


def fitted(name: str, launchers: list[str], **variables: Any) -> dict[str, Any]:
    """deploy/admission-policy.yaml as a List: by another name, for these users, with other values of its variables."""
    policy, binding = yaml.safe_load_all((DEPLOY / "admission-policy.yaml").read_text())
    for each in (policy, binding):
        each["metadata"]["name"] = name
    binding["spec"]["policyName"] = name
    (condition,) = policy["spec"]["matchConditions"]
    condition["expression"] = f"request.userInfo.username in {json.dumps(launchers)}"
    rows = {row["name"]: row for row in policy["spec"]["variables"]}
    for variable, value in variables.items():
        rows[variable]["expression"] = json.dumps(value)
    return {"apiVersion": "v1", "kind": "List", "items": [policy, binding]}


def restricted(namespace: str) -> dict[str, Any]:
    """A namespace that takes only pods which the strictest of the Pod Security standards allows."""
    enforce = "pod-security.kubernetes.io/enforce"
    labels = {enforce: "restricted", f"{enforce}-version": "latest"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}


def overlay(base: Path, namespace: str) -> Path:
    """A kustomization that is the one in ``base`` for another namespace."""
    folder = state.CONFIG / f"overlay-{base.name}"
    folder.mkdir()
    # Kustomize takes no absolute path of another kustomization.
    path = os.path.relpath(base.resolve(), folder.resolve())
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": namespace, "resources": [path]}))
    return folder


def write_kubeconfig(namespace: str, account: str, where: Path) -> None:
    """A kubeconfig with a fresh token of a service account."""
    token = kubectl("create", "token", account, "--duration=24h", f"--namespace={namespace}").strip()
    pki.write_kubeconfig(where, account, {"token": token}, namespace)


def kubectl(*arguments: str | Path, document: dict[str, Any] | None = None) -> str:
    """Run kubectl inside as the administrator, with a document on its standard input."""
    return sandbox.run("kubectl", *arguments, stdin=json.dumps(document) if document else "")
