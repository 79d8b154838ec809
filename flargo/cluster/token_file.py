"""Reads tokens from files: one of a configuration, again when it may have been rotated, or one that a person names."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from flargo.cluster.error_text import OwnError, describe

READ_INTERVAL_SECONDS = 50.0
"""Seconds after which the file is read again, as by client-go (transport/token_source.go: a minute, less ten seconds).
Kubernetes rotates a pod's token long before it expires."""

_MAX_TOKEN_BYTES = 16 * 1024
_BEARER = re.compile(rb"\s*(?:bearer\s+)?([!-~]+)\s*", re.IGNORECASE)
"""The content of a file with a bearer token. http.client would quote any other text in its error."""


class TokenFileError(OwnError):
    """The file holds no token."""


def read_bearer_token(path: str) -> str:
    """Return the bearer token in a file that a person has named. The word Bearer may stand before it.

    Raises:
        TokenFileError: the file does not hold one token and nothing else.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        content = file.read(_MAX_TOKEN_BYTES + 1)
    match = _BEARER.fullmatch(content)
    if match is None or len(content) > _MAX_TOKEN_BYTES:
        raise TokenFileError(f"{path} does not hold one token in ASCII")
    return match[1].decode("ascii")


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
