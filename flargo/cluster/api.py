"""Client of the Kubernetes API for one namespace: one method per verb, plain dicts, one error type, bounded requests.

The ``kubernetes`` client supplies configuration, credentials and the connection pool. Its typed models are not used:
they reject values that a pod template may hold (a GPU count as a number, for example) and take a second to import.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import urllib3

from flargo.cluster import target as targets
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.errors import INVALID_TARGET, ApiError
from flargo.cluster.target import InvalidTargetError, Target
from flargo.parsing import http_date, is_uid, load_json, whole_number
from flargo.terms import ARGO_API_VERSION, Object, Uid

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

CONNECT_TIMEOUT = 5.0
"""Seconds to establish a connection."""
READ_TIMEOUT = 15.0
"""Seconds without a byte after which a request fails; watches and logs have limits of their own."""
PAGE_SIZE = 100
"""Objects in one page of a list. Parsing a page blocks all other threads, and the whole page is held in memory."""
MAX_PAGES = 10_000
"""Pages of one list: a million objects. It stops the loop if a server always names another page."""
MAX_PIECE_BYTES = 64 * 1024
"""Bytes of a log line, its timestamp included, that one LogPiece holds; a longer line is split into pieces."""
MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one watch event. etcd holds objects of at most 1.5 MiB."""
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Bytes of a successful response: a page of the largest objects."""
MAX_ERROR_RESPONSE_BYTES = 1024 * 1024
"""Bytes of a response with an error status."""
MAX_MESSAGE_LENGTH = 4096
"""Characters that are kept of an error's message and reason."""
CHUNK_BYTES = 64 * 1024
"""Bytes of one read from a connection."""
JSON_CONTENT_TYPE = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_CREDENTIAL = re.compile(r"\s*(?:([!-~]+)\s+)?([!-~]+)\s*", re.ASCII)
"""The value of an Authorization header: usually a scheme, then a secret."""
_SCHEMES = frozenset({"bearer", "basic"})
_MAX_RETRY_AFTER = 10**9
"""The largest Retry-After, in seconds, that is accepted as a number. Callers that wait have lower limits."""
_MAX_CONNECTIONS = 32
"""Size of the connection pool: more than the threads that use it (control/loop.py), so that no connection is dropped
and opened again."""


class Kind(Enum):
    """The kinds that flargo reads and writes. The value is the API path of the group and version, and the plural."""

    WORKFLOW = (f"apis/{ARGO_API_VERSION}", "workflows")
    POD = ("api/v1", "pods")
    SECRET = ("api/v1", "secrets")
    EVENT = ("api/v1", "events")


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A line of a log, or a piece of a long line. A piece never ends inside a UTF-8 character."""

    text: str
    """Decoded as UTF-8; an invalid byte is kept as a surrogate, as Python's ``surrogateescape`` does."""
    is_partial: bool = False
    """True if the line continues in the next piece."""
    has_newline: bool = True
    """True if a line end follows. If a log does not end with a line end, its last line has neither a line end nor a
    continuation."""


RequestCallback = Callable[[str, Kind, int, float], None]
"""Called after each request with its verb, its kind, the HTTP status (0: no response) and the seconds until that status
was known. The body of a stream or a long response is read after that."""
CredentialCallback = Callable[[str], None]
"""Called with each secret that is about to be sent as a credential, so that it can be redacted from texts."""


class Api:
    """Client of one namespace of a Kubernetes API server. Safe to use from many threads.

    Every method raises ApiError, and nothing else, if the server refuses the request or does not respond.
    """

    def __init__(
        self,
        load: Callable[[], "Configuration"],
        namespace: str,
        on_request: RequestCallback = lambda *_: None,
        on_credential: CredentialCallback = lambda _: None,
    ) -> None:
        """Store the arguments; the connection is opened by the first request.

        Args:
            load: reads the configuration with its credentials; called at the first request and after a 401.
            namespace: the namespace of all requests.
            on_request: called after each request.
            on_credential: called with each credential before it is sent.
        """
        self._load = load
        self._on_request = on_request
        self._on_credential = on_credential
        self.namespace = namespace
        self._load_lock = threading.Lock()
        self._connection: Connection | None = None

    def create(self, kind: Kind, item: Object) -> Object:
        """Create an object; return it as the server stored it."""
        target = self._target("create", kind)
        return self._call("create", kind, item["metadata"]["name"], method="POST", target=target, body=item)

    def get(self, kind: Kind, name: str) -> Object:
        """Read one object by its name."""
        return self._call("get", kind, name, method="GET", target=self._target("get", kind, name))

    def list(
        self, kind: Kind, labels: str = "", fields: str = "", trim: Callable[[Object], Object] | None = None
    ) -> tuple[list[Object], str]:
        """List all matching objects, page by page; return them and the resourceVersion to watch from.

        Args:
            kind: the kind to list.
            labels: a label selector.
            fields: a field selector.
            trim: reduces each object to the part that is kept, so that only one page is ever held whole.
        """
        items: list[Object] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        for _ in range(MAX_PAGES):
            target = self._target("list", kind, query=query)
            page = self._call("list", kind, labels or fields, method="GET", target=target)
            page_items, meta = page.get("items"), page.get("metadata")
            objects = [item for item in (page_items if isinstance(page_items, list) else ()) if isinstance(item, dict)]
            items += map(trim, objects) if trim is not None else objects
            meta = meta if isinstance(meta, dict) else {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query = {**query, "continue": str(meta["continue"])}
        raise ApiError("list", kind.value[1], 0, message=f"the list has more than {MAX_PAGES} pages")

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch to an object; return the patched object."""
        target, content_type = self._target("patch", kind, name), "application/merge-patch+json"
        return self._call("patch", kind, name, method="PATCH", target=target, body=patch, content_type=content_type)

    def replace(self, kind: Kind, item: Object) -> Object:
        """Replace a whole object (PUT); return it as the server stored it."""
        name = item["metadata"]["name"]
        return self._call("update", kind, name, method="PUT", target=self._target("update", kind, name), body=item)

    def delete(self, kind: Kind, name: str, uid: Uid, grace: int | None = None) -> None:
        """Delete the object that has this name and this uid.

        Args:
            kind: the object's kind.
            name: the object's name.
            uid: a precondition, so that a newer object of the same name is not deleted.
            grace: the grace period in seconds; None: the object's own.
        """
        if not is_uid(uid):
            message = "no usable uid: another object of that name could be deleted"
            raise ApiError("delete", f"{kind.value[1]} {name}", HTTPStatus.BAD_REQUEST, INVALID_TARGET, message)
        # The grace period is in the body: the server ignores one in the query if the request has a body.
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        self._call("delete", kind, name, method="DELETE", target=self._target("delete", kind, name), body=body)

    def watch(self, kind: Kind, labels: str, version: str, seconds: int, silence: float) -> Iterator[Object]:
        """Watch for changes after a resourceVersion; yield events with ``type`` and ``object``, bookmarks included.

        Args:
            kind: the kind to watch.
            labels: a label selector.
            version: the resourceVersion to start from.
            seconds: the server ends the stream after this time, which is no error.
            silence: seconds without a byte after which the connection counts as dead.
        """
        query = {
            "labelSelector": labels,
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "watch": "true",
            "allowWatchBookmarks": "true",
        }
        target = self._target("watch", kind, query=query)
        response = self._send("watch", kind, labels, "GET", target, None, None, silence)
        with closing(response):
            try:
                for line in _lines(response):
                    yield load_json(line)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                raise ApiError("watch", kind.value[1], 0, message=describe(error)) from error
            finally:
                # The pool cannot reuse a connection whose response is only half read.
                response.close()

    def log(self, pod: str, container: str, lines: int, max_bytes: int, silence: float) -> str:
        """Return the end of a container's log.

        If bytes had to be left out, the text begins with a whole line, provided that it has a line end at all.

        Args:
            pod: the pod's name.
            container: the container's name.
            lines: the number of lines at most.
            max_bytes: the number of bytes at most.
            silence: seconds without a byte after which reading fails.
        """
        # The server counts limitBytes from the first of these lines, but the last ones are wanted.
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(16 * max_bytes)}
        target = self._target("log", Kind.POD, pod, "log", query)
        response = self._send("log", Kind.POD, pod, "GET", target, None, None, silence)
        with closing(response):
            try:
                return _last_bytes(response.stream(CHUNK_BYTES, decode_content=True), max_bytes).decode(
                    errors="replace"
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiError("log", pod, 0, message=describe(error)) from error

    def log_lines(
        self, pod: str, container: str, *, follow: bool, since: str = "", silence: float = READ_TIMEOUT
    ) -> Iterator[LogPiece]:
        """Yield a container's log line by line, each line with its timestamp in front.

        A line of more than ``MAX_PIECE_BYTES`` is split into pieces, at the same places whenever it is read from its
        beginning. If the connection breaks, the unfinished line or piece is dropped; a last line without a line end is
        yielded.

        Args:
            pod: the pod's name.
            container: the container's name.
            follow: continue for as long as the container runs.
            since: start time in RFC 3339; the server honours whole seconds only.
            silence: seconds without a byte after which the connection counts as dead. With ``follow`` this ends the
                iteration without an error, since the program may have nothing to write.
        """
        query = {
            "container": container,
            "timestamps": "true",
            "follow": "true" if follow else "",
            "sinceTime": since,
        }
        target = self._target("log", Kind.POD, pod, "log", query)
        response = self._send("log", Kind.POD, pod, "GET", target, None, None, silence)
        with closing(response):
            try:
                yield from _pieces(response.stream(CHUNK_BYTES, decode_content=True))
            except urllib3.exceptions.ReadTimeoutError as error:
                if not follow:
                    raise ApiError("log", pod, 0, message=describe(error)) from error
                return
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiError("log", pod, 0, message=describe(error)) from error
            finally:
                response.close()

    def metadata(self, kind: Kind, name: str) -> Object:
        """Read only an object's metadata, so that the content of a Secret never leaves the cluster."""
        target = self._target("get", kind, name)
        item = self._call("get", kind, name, method="GET", target=target, accept=_METADATA)
        meta = item.get("metadata")
        return meta if isinstance(meta, dict) else {}

    def time(self) -> datetime:
        """Return the API server's clock, in whole seconds. Creation timestamps of objects are written by it."""
        response = self._send("get", None, "version", "GET", targets.version(), None, None, READ_TIMEOUT)
        moment = http_date(response.headers.get("Date", ""))
        response.drain_conn()
        if moment is None:
            raise ApiError("get", "version", 0, message="the response has no usable Date header")
        return moment

    def _target(
        self, verb: str, kind: Kind, name: str | None = None, subresource: str = "", query: dict[str, str] | None = None
    ) -> Target:
        group_version, plural = kind.value
        try:
            return targets.resource(
                group_version, plural, namespace=self.namespace, name=name, subresource=subresource, query=query
            )
        except InvalidTargetError as error:
            # 400 is not transient, so nobody retries a request that can never be sent.
            raise ApiError(verb, plural, HTTPStatus.BAD_REQUEST, INVALID_TARGET, str(error)) from None

    def _call(
        self,
        verb: str,
        kind: Kind,
        name: str,
        *,
        method: str,
        target: Target,
        body: Object | None = None,
        content_type: str = JSON_CONTENT_TYPE,
        accept: str = JSON_CONTENT_TYPE,
    ) -> Object:
        response = self._send(verb, kind, name, method, target, body, content_type, READ_TIMEOUT, accept)
        with closing(response):
            try:
                content = load_json(read_bounded(response, MAX_RESPONSE_BYTES))
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                message = f"unreadable response: {describe(error)}"
                raise ApiError(verb, f"{kind.value[1]} {name}", 0, message=message) from error
            finally:
                response.release_conn()
        return content if isinstance(content, dict) else {}

    def _send(
        self,
        verb: str,
        kind: Kind | None,
        name: str,
        method: str,
        target: Target,
        body: Object | None,
        content_type: str | None,
        read_timeout: float,
        accept: str = JSON_CONTENT_TYPE,
    ) -> urllib3.BaseHTTPResponse:
        what = f"{kind.value[1]} {name}".strip() if kind is not None else name
        failed_connection: Connection | None = None
        for may_retry in (True, False):
            connection = self._connect(verb, what, failed_connection)
            start = time.monotonic()
            try:
                response = connection.request(method, target, body, content_type, read_timeout, accept)
            except Exception as error:
                # Not only network errors: the kubernetes client or an exec plugin refreshes credentials here, and
                # may raise anything.
                self._report_request(verb, kind, 0, start)
                raise ApiError(verb, what, 0, message=describe(error)) from error
            self._report_request(verb, kind, response.status, start)
            if response.status == HTTPStatus.UNAUTHORIZED and may_retry:  # the token was rotated: load it again, once
                response.drain_conn()
                failed_connection = connection
                continue
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _error_from(verb, what, response)
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                # A gateway in front of the API server redirects, perhaps because the server is down. The location is
                # not the intended path, so it is not followed.
                response.drain_conn()
                raise ApiError(verb, what, 0, message=f"a redirect ({response.status}), which flargo does not follow")
            return response
        raise AssertionError

    def _report_request(self, verb: str, kind: Kind | None, status: int, start: float) -> None:
        if kind is not None:  # None only for time(), which no launcher calls
            self._on_request(verb, kind, status, time.monotonic() - start)

    def _connect(self, verb: str, what: str, failed_connection: "Connection | None" = None) -> "Connection":
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
                    message = f"no usable Kubernetes configuration: {describe(error)}"
                    raise ApiError(verb, what, 0, message=message) from error
            return connection


class UnsafeUrlError(OwnError):
    """The HTTP library would send a request to another URL than the intended one."""


class CredentialError(OwnError):
    """A credential can't be read, or can't be part of a request."""


class NoAnswerError(OwnError):
    """A request got no response."""


class Connection:
    """A connection pool to one server, with the credentials that its requests carry."""

    def __init__(self, configuration: "Configuration", on_credential: CredentialCallback = lambda _: None) -> None:
        """Create the pool; connections are opened by requests."""
        from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415  (a slow import)

        configuration.connection_pool_maxsize = _MAX_CONNECTIONS
        self._configuration = configuration
        self._on_credential = on_credential
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager

    def request(
        self,
        method: str,
        target: Target,
        body: Object | None,
        content_type: str | None,
        read_timeout: float,
        accept: str,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request; return the response with its body unread.

        Raises:
            OwnError: the request could not be sent, or got no response.
        """
        headers = {"Accept": accept, "User-Agent": "flargo", **self._credentials()}
        if content_type is not None and body is not None:
            headers["Content-Type"] = content_type
        url = _checked_url(self._configuration.host, target)
        try:
            return self._pool.request(
                method,
                url,
                body=json.dumps(body).encode() if body is not None else None,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except Exception as error:
            server = urllib3.util.parse_url(url)
            raise NoAnswerError(f"{server.scheme}://{server.netloc}: {describe(error)}") from error

    def _credentials(self) -> dict[str, str]:
        """Return the headers that authenticate a request."""
        try:
            settings: Any = self._configuration.auth_settings()
        except Exception as error:  # the client or a plugin may refresh credentials here, and may raise anything
            raise CredentialError(f"the credentials can't be read: {describe(error)}") from error
        return {setting["key"]: self._credential(setting["value"]) for setting in settings.values()}

    def _credential(self, value: str) -> str:
        """Return a credential as a header's value, without the line end that most token files have.

        Raises:
            CredentialError: it can't be a header's value. (http.client would quote the secret in its error.)
        """
        match = _CREDENTIAL.fullmatch(value)
        scheme, secret = match.groups() if match is not None else (None, "")
        if not secret or (scheme is None and secret.lower() in _SCHEMES):
            raise CredentialError("the token of the Kubernetes configuration is empty or not one line of ASCII")
        self._on_credential(secret)
        return f"{scheme} {secret}" if scheme else secret


def _checked_url(host: str, target: Target) -> str:
    """Return the URL of a request, after checking how the HTTP library parses it.

    Raises:
        UnsafeUrlError: the library would send another request than the intended one.
    """
    base, parsed = urllib3.util.parse_url(host), urllib3.util.parse_url(f"{host}{target.url}")
    expected = (base.scheme, base.host, base.port, f"{(base.path or '').rstrip('/')}{target.url}")
    if (parsed.scheme, parsed.host, parsed.port, parsed.request_uri) != expected or parsed.auth or parsed.fragment:
        raise UnsafeUrlError("the HTTP library would send the request to another path than the intended one")
    return f"{host}{target.url}"


class TooLongError(OwnError, ValueError):
    """A response, or an event of a watch, is longer than any that an API server sends."""


def read_bounded(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    """Read a response's body.

    An Argo Server's response is read by argo_archive, with a deadline and in the way that requests needs.

    Raises:
        TooLongError: the body is longer than ``max_bytes``; the connection is closed.
        HTTPError, OSError: the body cannot be read.
    """
    body = bytearray()
    for chunk in response.stream(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > max_bytes:
            # Back in the pool, the unread rest would be taken for the next response.
            response.close()
            raise TooLongError(f"more than {max_bytes} bytes")
    return bytes(body)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the non-empty lines of a stream; bytes after the last line end are dropped."""
    buffer = bytearray()
    for chunk in response.stream(CHUNK_BYTES, decode_content=True):
        begin, search_from = 0, len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", max(begin, search_from))) >= 0:
            if end > begin:
                yield bytes(buffer[begin:end])
            begin = end + 1
        del buffer[:begin]
        if len(buffer) > MAX_EVENT_BYTES:
            raise TooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")


def _pieces(chunks: Iterable[bytes]) -> Iterator[LogPiece]:
    """Split a log into lines and pieces. Each byte is searched for a line end once, however small the chunks are."""
    buffer = bytearray()
    for chunk in chunks:
        begin, search_from = 0, len(buffer)
        buffer += chunk
        while True:
            end = buffer.find(b"\n", max(begin, search_from), begin + MAX_PIECE_BYTES + 1)
            if end >= 0:
                yield LogPiece(_text(buffer[begin:end]))
                begin = end + 1
            elif len(buffer) - begin > MAX_PIECE_BYTES:
                end = _character_end(buffer, begin, begin + MAX_PIECE_BYTES)
                yield LogPiece(_text(buffer[begin:end]), is_partial=True, has_newline=False)
                begin = end
            else:
                break
        del buffer[:begin]
    if buffer:
        yield LogPiece(_text(buffer), has_newline=False)


def _last_bytes(chunks: Iterable[bytes], max_bytes: int) -> bytearray:
    end, size = bytearray(), 0
    for chunk in chunks:
        size += len(chunk)
        end += chunk
        if len(end) > 2 * max_bytes:  # trimmed seldom, so that each byte is moved at most twice
            del end[:-max_bytes]
    if size <= max_bytes:
        return end
    del end[:-max_bytes]
    return end[end.find(b"\n", 0, -1) + 1 :]


def _character_end(buffer: bytearray, begin: int, end: int) -> int:
    """Return the last position up to ``end`` that is not inside a UTF-8 character."""
    for position in range(end, max(begin, end - 4), -1):
        if buffer[position] & 0xC0 != 0x80:  # noqa: PLR2004  (10xxxxxx is a continuation byte)
            return position
    return end


def _text(content: bytearray) -> str:
    return content.decode(errors="surrogateescape")


def _error_from(verb: str, what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    retry_after = response.headers.get("Retry-After", "")
    try:
        content: Any = load_json(read_bounded(response, MAX_ERROR_RESPONSE_BYTES))
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
        content = {}
    finally:
        response.release_conn()
    status = content if isinstance(content, dict) else {}
    return ApiError(
        verb,
        what,
        response.status,
        str(status.get("reason") or response.reason or "")[:MAX_MESSAGE_LENGTH],
        str(status.get("message") or "")[:MAX_MESSAGE_LENGTH],
        _seconds(retry_after),
    )


def _seconds(retry_after: str) -> float | None:
    """Return the seconds that a Retry-After header asks for. Kubernetes sends seconds, a proxy may send a date."""
    seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
    if seconds is not None:
        return float(seconds)
    until = http_date(retry_after)
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until is not None else None
