"""Applies what a new cluster needs: Argo's definitions, the namespace, the accounts and their kubeconfigs."""

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
POWERLESS_ACCOUNT = "flargo-powerless"
"""An executor account of a test, which has no right to report a program's result."""
MISSING_ACCOUNT = "not-there"
"""An account that does not exist, which tests name for a job's pod and for Argo's executor."""


def apply_all(namespace: str) -> None:
    """Apply everything; return when every account can be used."""
    # Argo's definitions are too large for the annotation that a client-side apply leaves.
    kubectl("apply", "--server-side", *(f"--filename={path}" for path in sorted(parts.crds().glob("argoproj*.yaml"))))
    # Retried, since kubectl wait fails on a definition that has no status yet.
    established = ("kubectl", "wait", "--for=condition=Established", "--timeout=5s", "crd", "--all")
    sandbox.wait("Argo's definitions", lambda: sandbox.succeeds(*established), 60)
    # kubectl has cached the API without Argo's resources, and would use that for hours.
    shutil.rmtree(state.KUBECTL, ignore_errors=True)
    kubectl("apply", "--filename=-", document=restricted_namespace(namespace))
    for folder in (DEPLOY, HERE / "argo"):
        kubectl("apply", "--kustomize", overlay(folder, namespace))
    kubectl("apply", "--filename=-", document=admission_policy(namespace))
    kubectl("apply", f"--filename={HERE / 'dns.yaml'}")
    write_kubeconfig(namespace, "flargo-launcher", state.LAUNCHER)
    write_kubeconfig(namespace, "argo", state.ARGO)


def admission_policy(namespace: str) -> dict[str, Any]:
    """Return deploy/admission-policy.yaml, adapted as its comments say, so that it applies to all tests."""
    return fit_admission_policy(
        "flargo-launcher",
        [f"system:serviceaccount:{namespace}:{name}" for name in ("flargo-launcher", *PARENTS)],
        jobAccounts=["flargo-job", MISSING_ACCOUNT, *(f"{name}-flargo-job" for name in PARENTS)],
        executorAccounts=[
            "flargo-executor",
            POWERLESS_ACCOUNT,
            MISSING_ACCOUNT,
            *(f"{name}-flargo-executor" for name in PARENTS),
        ],
        # Tests submit what Pod Security has to refuse.
        nodeAccess=True,
    )


def fit_admission_policy(name: str, launchers: list[str], **variables: Any) -> dict[str, Any]:
    """Return deploy/admission-policy.yaml as a List, with another name, for these users, and with these variables."""
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


def restricted_namespace(namespace: str) -> dict[str, Any]:
    """Return a namespace that enforces the strictest Pod Security standard."""
    enforce = "pod-security.kubernetes.io/enforce"
    labels = {enforce: "restricted", f"{enforce}-version": "latest"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}


def overlay(base: Path, namespace: str) -> Path:
    """Write a kustomization that is ``base`` for another namespace, and return its folder."""
    folder = state.CONFIG / f"overlay-{base.name}"
    folder.mkdir()
    # Kustomize refuses an absolute path of another kustomization.
    path = os.path.relpath(base.resolve(), folder.resolve())
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": namespace, "resources": [path]}))
    return folder


def write_kubeconfig(namespace: str, account: str, path: Path) -> None:
    """Write a kubeconfig with a new token of a service account."""
    token = kubectl("create", "token", account, "--duration=24h", f"--namespace={namespace}").strip()
    pki.write_kubeconfig(path, account, {"token": token}, namespace)


def kubectl(*arguments: str | Path, document: dict[str, Any] | None = None) -> str:
    """Run kubectl in the sandbox as the administrator, with a document on its standard input; return its output."""
    return sandbox.run("kubectl", *arguments, stdin=json.dumps(document) if document else "")
