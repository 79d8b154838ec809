"""Reads a token from a file, and again when it may have been rotated."""

import time
from collections.abc import Callable
from pathlib import Path

from flargo.cluster.error_text import OwnError, describe

READ_INTERVAL_SECONDS = 50.0
"""Seconds after which the file is read again, as by client-go (transport/token_source.go: a minute, less ten seconds).
Kubernetes rotates a pod's token long before it expires."""


class TokenFileError(OwnError):
    """The file holds no token."""


class TokenFile:
    """A token that is read from a file. Safe to use from many threads: each reads at most once too often."""

    def __init__(self, path: str, token: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """Store the arguments; the file is read when its token is needed.

        Args:
            path: the file.
            token: the token that is used as long as the file could never be read; empty: there is none.
            clock: returns a monotonic time in seconds.
        """
        self._path = Path(path)
        self._clock = clock
        self._token = token
        self._next_read_at = clock()

    def read(self) -> str:
        """Return the token, the last one if the file can't be read any more.

        Raises:
            TokenFileError: no token could ever be read.
        """
        if self._clock() >= self._next_read_at:
            try:
                self._token = self._read()
                self._next_read_at = self._clock() + READ_INTERVAL_SECONDS
            except TokenFileError:
                if not self._token:
                    raise
        return self._token

    def _read(self) -> str:
        try:
            token = self._path.read_text().strip()
        except (OSError, ValueError) as error:
            raise TokenFileError(f"the token file {self._path} can't be read: {describe(error)}") from None
        if not token:
            raise TokenFileError(f"the token file {self._path} is empty")
        return token
