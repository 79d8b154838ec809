"""Where tests run: the cluster of this harness, or somebody's own, which the environment names.

========================= ==================================================================
FLARGO_KUBECONFIG         an existing cluster's administrator; then nothing is built
FLARGO_JOB_IMAGE          an image on it with python, nvflare and numpy, for any user
FLARGO_NAMESPACE          its namespace with deploy/ applied (default ``flare``)
FLARGO_ADDRESS            this machine's address as pods reach it (default: the sandbox's bridge)
FLARGO_LAUNCHER_KUBECONFIG the launcher account's; made from the administrator's if not given
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
    """A cluster to test on."""

    kubeconfig: Path
    """of an administrator"""
    launcher_kubeconfig: Path
    """of the account flargo-launcher, which a FLARE parent runs as"""
    namespace: str
    job_image: str
    address: str = dataclasses.field(default_factory=lambda: os.environ.get("FLARGO_ADDRESS", "10.88.0.1"))
    """where pods reach the parents, which run beside the tests"""
    audit_log: Path | None = None
    """the API server's audit log, which only the harness's own cluster has"""

    @property
    def own(self) -> bool:
        """Somebody's own cluster: nothing but the API is within reach, no daemon, no audit log."""
        return self.audit_log is None

    def save(self) -> None:
        """Keep it beside the running cluster, for :func:`find`."""
        fields = {key: str(value) for key, value in dataclasses.asdict(self).items() if value is not None}
        (state.RUN / "place.json").write_text(json.dumps(fields))


def wanted_namespace() -> str:
    """The namespace the environment asks for."""
    return os.environ.get("FLARGO_NAMESPACE", "flare")


def find() -> Target | None:
    """The cluster that the environment names, else the one that is up, else none."""
    if os.environ.get("FLARGO_KUBECONFIG"):
        return _own(Path(os.environ["FLARGO_KUBECONFIG"]))
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


def _own(kubeconfig: Path) -> Target:
    image = os.environ.get("FLARGO_JOB_IMAGE")
    if not image:
        raise RuntimeError("FLARGO_KUBECONFIG is set, FLARGO_JOB_IMAGE is not: which image do job pods run?")
    named = os.environ.get("FLARGO_LAUNCHER_KUBECONFIG")
    launcher = Path(named) if named else _launcher(kubeconfig, wanted_namespace())
    return Target(kubeconfig, launcher, wanted_namespace(), image)


def _launcher(kubeconfig: Path, namespace: str) -> Path:
    """The administrator's kubeconfig with the launcher account's token in the place of its user."""
    view = ("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    document: dict[str, Any] = json.loads(_kubectl(kubeconfig, *view))
    duration = f"--namespace={namespace}", "--duration=24h"
    document["users"][0]["user"] = {"token": _kubectl(kubeconfig, "create", "token", "flargo-launcher", *duration)}
    document["contexts"][0]["context"]["namespace"] = namespace
    # mkdtemp's folder is its owner's alone, and stays for as long as the tests may need it.
    where = Path(tempfile.mkdtemp(prefix="flargo-")) / "launcher.kubeconfig"
    where.write_text(json.dumps(document))
    return where


def _kubectl(kubeconfig: Path, *arguments: str) -> str:
    command = ("kubectl", f"--kubeconfig={kubeconfig}", *arguments)
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()
