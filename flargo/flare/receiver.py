"""Sends one job's outcome to the receiver that a site has named (``argo.notify``): one POST, without surprises.

The request goes to that URL and nowhere else: no redirect is followed and no proxy of the environment is used. The
server's certificate is verified. Of the answer only the status and ``Retry-After`` are read.
"""

import ssl
from http import HTTPStatus

import urllib3

from flargo.cluster.error_text import OwnError
from flargo.cluster.token_file import read_bearer_token
from flargo.job.settings import Receiver
from flargo.parsing import whole_number

CONNECT_SECONDS = 5.0
"""Seconds to establish a connection."""
READ_SECONDS = 10.0
"""Seconds without a byte of the answer after which it counts as missing."""
_MAX_RETRY_AFTER = 24 * 60 * 60


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
        headers["Authorization"] = f"Bearer {read_bearer_token(receiver.token_file)}"
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
