"""Sends requests to the API server: loads the configuration when it is needed, and turns every failure into ApiError.

The two clients, Api (the launcher's) and Survey (the doctor's), share this path.
"""

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
from flargo.cluster.connections import MAX_WAIT_SECONDS, Connections, LoadError
from flargo.cluster.error_text import OwnError
from flargo.cluster.errors import ApiError, error_from
from flargo.cluster.http_request import MAX_REQUEST_SECONDS, Request
from flargo.cluster.meaning import NO_CONTACT
from flargo.parsing import http_date, load_json, whole_number
from flargo.terms import Object

_MAX_RETRY_AFTER = 10**9
"""The largest Retry-After, in seconds, that is accepted as a number. Callers that wait have lower limits."""
ResponseCallback = Callable[[int, float], None]
"""Called after each request with its HTTP status (0: no response) and the seconds until that status was known. The
body of a stream or a long response is read after that."""


class Transport:
    """The way to one API server. Safe to use from many threads. Every method raises ApiError unless it says more."""

    def __init__(
        self,
        load_config: LoadConfig,
        on_credential: CredentialCallback = lambda _: None,
        max_wait: float | None = MAX_WAIT_SECONDS,
    ) -> None:
        """Store the arguments; the configuration is loaded by the first request.

        Args:
            load_config: reads the configuration with its credentials.
            on_credential: called with each credential before it is sent.
            max_wait: seconds that a request waits for the configuration; None: for as long as it takes.
        """
        self._connections = Connections(load_config, on_credential, max_wait)

    def connect(self) -> None:
        """Load the configuration, for as long as it takes; no request is sent yet.

        Raises:
            Exception: the loader raised it, because there is no usable configuration.
        """
        self._connections.load()

    def read(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> tuple[Object, str]:
        """Send a request; return the object in its response, and the response's ``Date`` header."""
        deadline = time.monotonic() + MAX_REQUEST_SECONDS
        response = self.send(request, on_response)
        with closing(response):
            try:
                content = load_json(read_bounded(response, MAX_RESPONSE_BYTES, deadline))
            except (urllib3.exceptions.HTTPError, OSError, OwnError, ValueError, RecursionError) as error:
                raise request.failure("unreadable response: ", error) from error
            finally:
                response.release_conn()
        return content if isinstance(content, dict) else {}, response.headers.get("Date", "")

    def send(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> urllib3.BaseHTTPResponse:
        """Send a request; return its successful response with the body unread."""
        try:
            connection = self._connections.current()
            response = self._attempt(connection, request, on_response)
            if response.status == HTTPStatus.UNAUTHORIZED:
                # The token was rotated, perhaps: load it again, once.
                rejection = _error_from(request, response)
                other_connection = self._connections.replace(connection)
                if other_connection is None:
                    raise rejection
                response = self._attempt(other_connection, request, on_response)
        except LoadError as error:
            raise request.failure("", error) from error
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            self._connections.on_answer()
            return response
        refusal = _error_from(request, response)
        if refusal.meaning in NO_CONTACT:
            self._connections.on_no_answer()
        else:
            self._connections.on_answer()
        raise refusal

    def _attempt(
        self, connection: Connection, request: Request, on_response: ResponseCallback
    ) -> urllib3.BaseHTTPResponse:
        start = time.monotonic()
        try:
            response = connection.request(request)
        except Exception as error:
            # Not only network errors: a token is read here, and the HTTP library may raise anything.
            on_response(0, time.monotonic() - start)
            self._connections.on_no_answer()
            raise request.failure("", error) from error
        on_response(response.status, time.monotonic() - start)
        return response


def _error_from(request: Request, response: urllib3.BaseHTTPResponse) -> ApiError:
    if response.status < HTTPStatus.BAD_REQUEST:
        # A gateway in front of the API server redirects, perhaps because the server is down. The location is not the
        # intended path, so it is not followed.
        response.drain_conn()
        return ApiError(request.verb, request.what, response.status, message="a redirect, which flargo does not follow")
    retry_after = response.headers.get("Retry-After", "")
    try:
        deadline = time.monotonic() + MAX_REQUEST_SECONDS
        content: Any = load_json(read_bounded(response, MAX_ERROR_RESPONSE_BYTES, deadline))
    except (urllib3.exceptions.HTTPError, OSError, OwnError, ValueError, RecursionError):
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
