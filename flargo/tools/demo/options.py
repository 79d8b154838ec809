"""The options of `flargo demo`, and the error that it reports to users."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class DemoError(Exception):
    """The demo cannot continue. The message is for users: a sentence or two that also say what to do."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        """Keep the message, and lines of a log that show what it means."""
        super().__init__(message)
        self.lines = tuple(lines)


class OptionsError(DemoError):
    """The options contradict each other or the job, or one is missing. Nothing has started."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    sites: int = 2
    rounds: int = 2
    job: Path | None = None
    """The user's own job folder; None runs the demo's federated average."""
    kubeconfig: Path | None = None
    """The kubeconfig of a real cluster; None runs the embedded engine."""
    context: str | None = None
    """A context in the kubeconfig; None is its current context."""
    namespace: str = "default"
    image: str | None = None
    """The image of job pods, if the job names none."""
    address: str = "127.0.0.1"
    """The address at which job pods reach this machine."""
    keep: Path | None = None
    """The folder for kits, logs and the result; None is a temporary folder that the demo deletes."""
    timeout: float = 300.0
    """The seconds that the job may take."""
    drain: bool = False
    """Evict a site's pod while its program trains; only with the demo's own job."""
    is_site_count_given: bool = False
    """True if a person has chosen ``sites``, which a job that names its sites would override."""
