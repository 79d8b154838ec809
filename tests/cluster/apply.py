"""What is applied to a fresh cluster: Argo's definitions, the namespace, accounts and their kubeconfigs."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import parts, pki, sandbox, state

HERE = Path(__file__).parent
DEPLOY = HERE.parent.parent / "deploy"


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
    kubectl("apply", f"--filename={HERE / 'dns.yaml'}")
    write_kubeconfig(namespace, "flargo-launcher", state.LAUNCHER)
    write_kubeconfig(namespace, "argo", state.ARGO)


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
