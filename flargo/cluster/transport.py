"""Sends requests to the API server: loads the configuration when it is needed, and turns every failure into ApiError.

The two clients, Api (the launcher's) and Survey (the doctor's), share this path.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
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
from flargo.cluster.foreign_answer import Head, foreign_error, is_answer, is_status, is_stream, with_kind
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

    @property
    def server(self) -> str:
        """The URL of the server; requests a configuration if none is loaded yet."""
        return self._connections.current().access.server

    def read(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> tuple[Object, str]:
        """Send a request; return the object in its response, and the response's ``Date`` header."""
        deadline = time.monotonic() + MAX_REQUEST_SECONDS
        reply = self._send(request, on_response)
        with closing(reply.response) as response:
            try:
                body = read_bounded(response, MAX_RESPONSE_BYTES, deadline)
                content = _parse(body)
            except (urllib3.exceptions.HTTPError, OSError, OwnError, RecursionError) as error:
                raise request.failure(f"{reply.head.server}: unreadable response: ", error) from error
            finally:
                response.release_conn()
        if not is_answer(request, content):
            raise self.on_foreign(reply.foreign_error(body))
        self._connections.on_answer()
        return content, response.headers.get("Date", "")

    def stream(self, request: Request, on_response: ResponseCallback = lambda *_: None) -> "Reply":
        """Send a request for a log or a watch; return its successful response with the body unread."""
        reply = self._send(request, on_response)
        if not is_stream(request, reply.head, reply.response.headers.get("Content-Length", "")):
            reply.response.close()
            raise self.on_foreign(reply.foreign_error())
        return reply

    def on_foreign(self, error: ApiError) -> ApiError:
        """Note that something else than the API server has answered; return the error."""
        self._connections.on_foreign_answer(str(error))
        return error

    def _send(self, request: Request, on_response: ResponseCallback) -> "Reply":
        """Send a request; return its response if that has a status of success."""
        try:
            connection = self._connections.current()
            reply = self._attempt(connection, request, on_response)
            if reply.head.status == HTTPStatus.UNAUTHORIZED:
                # The token was rotated, perhaps: load it again, once.
                rejection = reply.refusal()
                other_connection = self._connections.replace(connection)
                if other_connection is None:
                    raise self._on_refusal(rejection)
                reply = self._attempt(other_connection, request, on_response)
        except LoadError as error:
            raise request.failure("", error) from error
        if reply.head.status < HTTPStatus.MULTIPLE_CHOICES:
            return reply
        raise self._on_refusal(reply.refusal())

    def _on_refusal(self, refusal: ApiError) -> ApiError:
        if refusal.meaning not in NO_CONTACT:
            self._connections.on_answer()
            return refusal
        if refusal.is_foreign:
            return self.on_foreign(refusal)
        self._connections.on_no_answer()
        return refusal

    def _attempt(self, connection: Connection, request: Request, on_response: ResponseCallback) -> "Reply":
        start = time.monotonic()
        try:
            response = connection.request(request)
        except Exception as error:
            # Not only network errors: a token is read here, and the HTTP library may raise anything.
            on_response(0, time.monotonic() - start)
            self._connections.on_no_answer()
            raise request.failure("", error) from error
        on_response(response.status, time.monotonic() - start)
        content_type, location = (response.headers.get(name, "") for name in ("Content-Type", "Location"))
        return Reply(request, Head(connection.access.server, response.status, content_type, location), response)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with its body unread, to the request that it answers."""

    request: Request
    head: Head
    response: urllib3.BaseHTTPResponse

    def refusal(self) -> ApiError:
        """Read a response with an error status, or a redirect, and return its error."""
        if self.head.status < HTTPStatus.BAD_REQUEST:
            # The location is not the intended path, so it is not followed. The body may be of any length.
            self.response.close()
            return self.foreign_error()
        retry_after = _seconds(self.response.headers.get("Retry-After", ""))
        body, content = b"", None
        try:
            body = read_bounded(self.response, MAX_ERROR_RESPONSE_BYTES, time.monotonic() + MAX_REQUEST_SECONDS)
            content = with_kind(self.head.status, _parse(body))
        except (urllib3.exceptions.HTTPError, OSError, OwnError, RecursionError):
            pass  # without a Status, the error is that of an answer that is not the API server's
        finally:
            self.response.release_conn()
        if not is_status(content):
            return self.foreign_error(body, retry_after)
        return error_from(self.request.verb, self.request.what, self.head.status, content, retry_after)

    def foreign_error(self, body: bytes = b"", retry_after: float | None = None) -> ApiError:
        """Return the error of an answer that is not the API server's."""
        return foreign_error(self.request, self.head, body, retry_after)


def _parse(body: bytes) -> Any:
    """Return the content of a body; None if it is not JSON."""
    try:
        return load_json(body)
    except ValueError:
        return None


def _seconds(retry_after: str) -> float | None:
    """Return the seconds that a Retry-After header asks for. Kubernetes sends seconds, a proxy may send a date."""
    seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
    if seconds is not None:
        return float(seconds)
    until = http_date(retry_after)
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until is not None else None
