"""What the demo is asked for, and the one error it tells people."""

from dataclasses import dataclass
from pathlib import Path


class DemoError(Exception):
    """It can't go on. The message is one sentence for people, and says what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    sites: int = 2
    rounds: int = 2
    job: Path | None = None
    """The user's own job folder; None: the demo's federated average."""
    kubeconfig: Path | None = None
    """Of a real cluster; None: the embedded engine."""
    context: str | None = None
    """In the kubeconfig; None: its current one."""
    namespace: str = "default"
    image: str | None = None
    """For job pods, where the job names none."""
    address: str = "127.0.0.1"
    """Where job pods reach this machine."""
    keep: Path | None = None
    """The folder for kits, logs and the result; None: a temporary one that goes at the end."""
    timeout: float = 300.0
    """Seconds for the job."""
