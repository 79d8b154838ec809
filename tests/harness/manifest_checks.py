"""Checks of manifests in files that create nothing: the API server's dry run, and Argo's linter."""

import subprocess
from pathlib import Path

from tests.harness.real_cluster.target import Target


def server_dry_run(target: Target, path: Path) -> subprocess.CompletedProcess[str]:
    """Ask the API server whether it would create the objects of a file or folder, with unknown fields forbidden.

    The administrator asks: what a launcher may create under the admission policy is another test's subject.
    """
    argv = ("kubectl", f"--kubeconfig={target.kubeconfig}", f"--namespace={target.namespace}", "create")
    options = ("--dry-run=server", "--validate=strict", "--output=name", f"--filename={path}")
    return subprocess.run((*argv, *options), text=True, capture_output=True, check=False)


def argo_lint(path: Path, kinds: str = "workflows") -> subprocess.CompletedProcess[str]:
    """Run ``argo lint``, offline and strict, on a file or folder."""
    argv = ("argo", "lint", "--offline", "--strict", f"--kinds={kinds}", "--no-color", str(path))
    return subprocess.run(argv, text=True, capture_output=True, check=False)
