"""When a parent of this workspace ran last, by a file beside the records of its launches.

The site's Lease tells the same, but only as long as the API server answers. A parent that is registered with FLARE's
server is alive for that server whether or not it can renew its Lease, and so are its jobs.
"""

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flargo.cluster.error_text import describe
from flargo.control.lease_keeper import utc_now

FILE = Path(".flargo", "heartbeat")
"""The file, in the parent's workspace."""
WRITE_SECONDS = 10.0
"""Seconds between two writes."""
_MAX_BYTES = 100
_log = logging.getLogger(__name__)


class Heartbeat:
    """The file with the time at which a parent of the workspace ran last, by the clock of its machine.

    It can only prove that the site had a parent, so a file that cannot be read, or is wrong, proves nothing. A copied
    workspace has an old one. A clock that was set back between two runs makes the time between them look shorter: FLARE
    then ends what was taken back too late, as a job that its server does not know.
    """

    def __init__(self, workspace: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Use the file of a workspace.

        Args:
            workspace: the parent's workspace.
            clock: the time of day.
        """
        self._path = workspace / FILE
        self._clock = clock
        self._has_failed = False

    def seconds_since(self) -> float | None:
        """Return how long ago a parent of this workspace ran, at least 0; None if the file does not tell."""
        try:
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                written_at = datetime.fromisoformat(file.read(_MAX_BYTES).decode("ascii"))
            seconds = (self._clock() - written_at).total_seconds()
        except (OSError, ValueError, TypeError, OverflowError):
            return None
        return seconds if seconds >= 0.0 else None

    def write(self) -> None:
        """Note that a parent runs now. A failure is logged once: then only the Lease tells."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            if self._path.parent.is_symlink():
                raise NotADirectoryError
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with os.fdopen(os.open(self._path, flags, 0o600), "w", encoding="ascii") as file:
                file.write(self._clock().astimezone(UTC).isoformat())
        except OSError as error:
            if not self._has_failed:
                _log.warning("%s cannot be written: %s", self._path, describe(error))
            self._has_failed = True
