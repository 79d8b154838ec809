"""Sends requests to the API server: loads the configuration when it is needed, and turns every failure into ApiError.

The two clients, Api (the launcher's) and Survey (the doctor's), share this path.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import urllib3

from flargo.cluster.bodies import MAX_ERROR_RESPONSE_BYTES, MAX_RESPONSE_BYTES, read_bounded
from flargo.cluster.client_config import LoadConfig
from flargo.cluster.connection import Connection, CredentialCallback
from flargo.cluster.errors import ApiError, error_from
from flargo.cluster.request import Request
from flargo.parsing import http_date, load_json, whole_number
from flargo.terms import Object

_MAX_RETRY_AFTER = 10**9
"""The largest Retry-After, in seconds, that is accepted as a number. Callers that wait have lower limits."""
ResponseCallback = Callable[[int, float], None]
"""Called after each request with its HTTP status (0: no response) and the seconds until that status was known. The
body of a stream or a long response is read after that."""


class Transport:
    """The way to one API server. Safe to use from many threads. Every method raises ApiError unless it says more."""

    def __init__(self, load: LoadConfig, on_credential: CredentialCallback = lambda _: None) -> None:
        """Store the arguments; the configuration is loaded by the first request.

        Args:
            load: reads the configuration with its credentials; called at the first request and after a 401.
            on_credential: called with each credential before it is sent.
        """
        self._load = load
        self._on_credential = on_credential
        self._load_lock = threading.Lock()
        self._connection: Connection | None = None

    def connect(self) -> None:
        """Load the configuration; no request is sent yet.

        Raises:
            Exception: ``load`` raised it, because there is no usable configuration.
        """
        self._connection = Connection(self._load(), self._on_credential)

    def read(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> tuple[Object, str]:
        """Send a request; return the object in its response, and the response's ``Date`` header."""
        response = self.send(request, on_response)
        with closing(response):
            try:
                content = load_json(read_bounded(response, MAX_RESPONSE_BYTES))
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                raise request.failure("unreadable response: ", error) from error
            finally:
                response.release_conn()
        return content if isinstance(content, dict) else {}, response.headers.get("Date", "")

    def send(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> urllib3.BaseHTTPResponse:
        """Send a request; return its successful response with the body unread."""
        failed_connection: Connection | None = None
        for may_retry in (True, False):
            connection = self._connect(request, failed_connection)
            start = time.monotonic()
            try:
                response = connection.request(request)
            except Exception as error:
                # Not only network errors: the kubernetes client or an exec plugin refreshes credentials here, and
                # may raise anything.
                on_response(0, time.monotonic() - start)
                raise request.failure("", error) from error
            on_response(response.status, time.monotonic() - start)
            if response.status == HTTPStatus.UNAUTHORIZED and may_retry:  # the token was rotated: load it again, once
                response.drain_conn()
                failed_connection = connection
                continue
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _error_from(request, response)
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                # A gateway in front of the API server redirects, perhaps because the server is down. The location is
                # not the intended path, so it is not followed.
                response.drain_conn()
                message = "a redirect, which flargo does not follow"
                raise ApiError(request.verb, request.what, response.status, message=message)
            return response
        raise AssertionError

    def _connect(self, request: Request, failed_connection: Connection | None = None) -> Connection:
        """Return the current connection; open a new one if there is none, or if the server rejected the current one.

        One thread loads the configuration. Other threads keep using the current connection, and wait only after the
        server has rejected it for them too.
        """
        connection = self._connection
        if connection is not None and connection is not failed_connection:
            return connection
        with self._load_lock:
            connection = self._connection
            if connection is None or connection is failed_connection:
                try:
                    connection = self._connection = Connection(self._load(), self._on_credential)
                except Exception as error:
                    raise request.failure("no usable Kubernetes configuration: ", error) from error
            return connection


def _error_from(request: Request, response: urllib3.BaseHTTPResponse) -> ApiError:
    retry_after = response.headers.get("Retry-After", "")
    try:
        content: Any = load_json(read_bounded(response, MAX_ERROR_RESPONSE_BYTES))
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
        content = {}
    finally:
        response.release_conn()
    return error_from(request.verb, request.what, response.status, content, _seconds(retry_after))


def _seconds(retry_after: str) -> float | None:
    """Return the seconds that a Retry-After header asks for. Kubernetes sends seconds, a proxy may send a date."""
    seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
    if seconds is not None:
        return float(seconds)
    until = http_date(retry_after)
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until is not None else None
