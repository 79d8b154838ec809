"""Sends one job's outcome to the receiver that a site has named (``argo.notify``): one POST, without surprises.

The request goes to that URL and nowhere else: no redirect is followed and no proxy of the environment is used. The
server's certificate is verified. Of the answer only the status and ``Retry-After`` are read.
"""

import re
import ssl
from http import HTTPStatus
from pathlib import Path

import urllib3

from flargo.cluster.error_text import OwnError
from flargo.job.settings import Receiver
from flargo.parsing import whole_number

CONNECT_SECONDS = 5.0
"""Seconds to establish a connection."""
READ_SECONDS = 10.0
"""Seconds without a byte of the answer after which it counts as missing."""
_MAX_TOKEN_BYTES = 16 * 1024
_MAX_RETRY_AFTER = 24 * 60 * 60
_TOKEN = re.compile(rb"\s*(?:Bearer +)?([!-~]+)\s*")
"""The content of a token file. http.client would quote any other text in its error."""


class DeliveryError(OwnError):
    """The receiver did not take an outcome."""

    def __init__(self, problem: str, retry_after: float | None = None) -> None:
        """Say why, in flargo's own words, and for how many seconds the receiver wants to be left alone."""
        super().__init__(problem)
        self.retry_after = retry_after


def post(receiver: Receiver, body: bytes) -> None:
    """Send one JSON document to a receiver. The token's file is read each time, because tokens are rotated.

    Raises:
        DeliveryError: the receiver has not answered with a status of success.
        OwnError, OSError, HTTPError: the token cannot be read, or the receiver cannot be reached.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "flargo", "Connection": "close"}
    if receiver.token_file is not None:
        headers["Authorization"] = f"Bearer {_read_token(receiver.token_file)}"
    # A pool of its own for each request: outcomes are rare, and authorities of SSL_CERT_FILE may have changed.
    with urllib3.PoolManager(ssl_context=ssl.create_default_context()) as pool:
        response = pool.request(
            "POST",
            receiver.url,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        status, retry_after = response.status, response.headers.get("Retry-After", "")
        response.close()
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
        raise DeliveryError(f"HTTP status {status:d}", float(seconds) if seconds is not None else None)


def _read_token(path: str) -> str:
    """Return the token in a file, without the line end that most such files have.

    Raises:
        OwnError: the file holds no token.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        content = file.read(_MAX_TOKEN_BYTES + 1)
    match = _TOKEN.fullmatch(content)
    if match is None or len(content) > _MAX_TOKEN_BYTES:
        raise OwnError(f"{path} does not hold one token in ASCII")
    return match[1].decode("ascii")
