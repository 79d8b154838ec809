"""Sends one job's outcome to the receiver that a site has named (``argo.notify``): one POST, without surprises.

The request goes to that URL and nowhere else: no redirect is followed and no proxy of the environment is used. The
server's certificate is verified. Of the answer only the status and ``Retry-After`` are read. A delivery ends in time,
however slowly its receiver connects, reads or answers.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import urllib3

from flargo.cluster.error_text import OwnError
from flargo.cluster.token_file import read_bearer_token
from flargo.job.settings import Receiver
from flargo.parsing import whole_number

DELIVERY_SECONDS = 10.0
"""Seconds of one delivery as a whole, from the resolution of the receiver's name to the headers of its answer."""
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
        DeliveryError: the receiver has not answered with a status of success in time.
        OwnError, OSError, HTTPError: the token cannot be read, or the receiver cannot be reached.
        RuntimeError: the operating system allows this process no more threads.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "flargo", "Connection": "close"}
    if receiver.token_file is not None:
        headers["Authorization"] = f"Bearer {read_bearer_token(receiver.token_file)}"
    status, retry_after = _Delivery(receiver.url, headers, body).run()
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
        raise DeliveryError(f"HTTP status {status:d}", float(seconds) if seconds is not None else None)


class _Delivery:
    """One POST in a thread of its own, which its caller leaves when the time is over.

    The time limits of sockets are of no use here: they begin anew with each byte and with each address of a name, and
    the resolution of a name has none.
    """

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self._url, self._headers, self._body = url, headers, body
        self._has_ended = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_late = False
        self._answer: tuple[int, str] | Exception = DeliveryError("no answer")

    def run(self) -> tuple[int, str]:
        """Return the answer's status and its ``Retry-After``."""
        threading.Thread(target=self._work, name="flargo-notify-post", daemon=True).start()
        if not self._has_ended.wait(DELIVERY_SECONDS):
            self._abandon()
            raise DeliveryError(f"no answer within {DELIVERY_SECONDS:g} s")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def _abandon(self) -> None:
        with self._lock:
            self._is_late, connected = True, self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _on_connect(self, connected: socket.socket) -> None:
        """Take a connection, on which nothing has been sent yet; raise if the time is over."""
        with self._lock:
            self._socket = connected
            if self._is_late:
                raise DeliveryError("connected too late")

    def _work(self) -> None:
        try:
            self._answer = self._send()
        except Exception as error:  # noqa: BLE001  (the caller gets it)
            self._answer = error
        self._has_ended.set()

    def _send(self) -> tuple[int, str]:
        # A pool of its own for each request: outcomes are rare, and authorities of SSL_CERT_FILE may have changed.
        with urllib3.PoolManager(ssl_context=ssl.create_default_context()) as pool:
            _observe_connections(pool, self._on_connect)
            response = pool.request(
                "POST",
                self._url,
                body=self._body,
                headers=self._headers,
                timeout=DELIVERY_SECONDS,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            response.close()
        return response.status, response.headers.get("Retry-After", "")


def _observe_connections(pool: urllib3.PoolManager, on_connect: Callable[[socket.socket], None]) -> None:
    """Have a function called with each connection of a pool, before something is sent on it."""

    class Observed:
        def connect(self) -> None:
            super().connect()  # type: ignore[misc]
            on_connect(self.sock)  # type: ignore[attr-defined]

    pools: dict[str, Any] = pool.pool_classes_by_scheme
    pool.pool_classes_by_scheme = {
        scheme: type("_Pool", (each,), {"ConnectionCls": type("_Connection", (Observed, each.ConnectionCls), {})})
        for scheme, each in pools.items()
    }
