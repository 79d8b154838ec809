"""The cluster that tests run on: the harness's own, or one of the user's, which the environment names.

========================= ==================================================================
FLARGO_KUBECONFIG         an administrator's kubeconfig of an existing cluster; then nothing is built
FLARGO_JOB_IMAGE          an image on it with python, nvflare and numpy, for any user
FLARGO_NAMESPACE          its namespace with deploy/ applied (default ``flare``)
FLARGO_ADDRESS            this machine's address for pods (default: the sandbox's bridge)
FLARGO_LAUNCHER_KUBECONFIG the launcher account's kubeconfig; by default made from the administrator's
========================= ==================================================================
"""

import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.harness.real_cluster import state


@dataclasses.dataclass(frozen=True)
class Target:
    """A cluster, and what a test needs to use it."""

    kubeconfig: Path
    """An administrator's kubeconfig."""
    launcher_kubeconfig: Path
    """The kubeconfig of the account flargo-launcher, which a FLARE parent uses."""
    namespace: str
    job_image: str
    address: str = dataclasses.field(default_factory=lambda: os.environ.get("FLARGO_ADDRESS", "10.88.0.1"))
    """The address at which pods reach the parents, which run on this machine."""
    audit_log: Path | None = None
    """The API server's audit log, which only the harness's own cluster has."""

    @property
    def is_external(self) -> bool:
        """True for a user's cluster: only its API is within reach, no daemons and no audit log."""
        return self.audit_log is None

    def save(self) -> None:
        """Store the target with the running cluster, for :func:`find`."""
        fields = {key: str(value) for key, value in dataclasses.asdict(self).items() if value is not None}
        (state.RUN / "place.json").write_text(json.dumps(fields))


def configured_namespace() -> str:
    """Return the namespace that the environment names."""
    return os.environ.get("FLARGO_NAMESPACE", "flare")


def find() -> Target | None:
    """Return the cluster that the environment names, else the harness's cluster if it is up, else None."""
    if os.environ.get("FLARGO_KUBECONFIG"):
        return _external_target(Path(os.environ["FLARGO_KUBECONFIG"]))
    try:
        saved = json.loads((state.RUN / "place.json").read_text())
    except OSError:
        return None
    return Target(
        kubeconfig=Path(saved["kubeconfig"]),
        launcher_kubeconfig=Path(saved["launcher_kubeconfig"]),
        namespace=saved["namespace"],
        job_image=saved["job_image"],
        audit_log=Path(saved["audit_log"]),
    )


def _external_target(kubeconfig: Path) -> Target:
    image = os.environ.get("FLARGO_JOB_IMAGE")
    if not image:
        raise RuntimeError("FLARGO_KUBECONFIG is set, FLARGO_JOB_IMAGE is not: which image do job pods run?")
    path = os.environ.get("FLARGO_LAUNCHER_KUBECONFIG")
    launcher = Path(path) if path else _write_launcher_kubeconfig(kubeconfig, configured_namespace())
    return Target(kubeconfig, launcher, configured_namespace(), image)


def _write_launcher_kubeconfig(kubeconfig: Path, namespace: str) -> Path:
    """Write the administrator's kubeconfig with the launcher account's token as its user; return the path."""
    view = ("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    document: dict[str, Any] = json.loads(_kubectl(kubeconfig, *view))
    options = f"--namespace={namespace}", "--duration=24h"
    document["users"][0]["user"] = {"token": _kubectl(kubeconfig, "create", "token", "flargo-launcher", *options)}
    document["contexts"][0]["context"]["namespace"] = namespace
    # Only its owner can read mkdtemp's folder, and it is kept for as long as the tests may need it.
    path = Path(tempfile.mkdtemp(prefix="flargo-")) / "launcher.kubeconfig"
    path.write_text(json.dumps(document))
    return path


def _kubectl(kubeconfig: Path, *arguments: str) -> str:
    command = ("kubectl", f"--kubeconfig={kubeconfig}", *arguments)
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()
