"""The Kubernetes API in plain dicts: one method per verb, one error, every request bounded in time.

The ``kubernetes`` client gives configuration, credentials and the connection pool. Its typed models are left
aside: they refuse what a pod template may hold (a GPU count as a number, for one) and cost a second to import.
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

from flargo.cluster import target
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.errors import INVALID_TARGET, ApiError
from flargo.cluster.target import InvalidTargetError, Target
from flargo.parsing import http_date, is_uid, load_json, whole_number
from flargo.terms import ARGO_API_VERSION, Object, Uid

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
PAGE_SIZE = 100
"""Objects at a time. A page is parsed in one go: meanwhile no other thread runs, and it is whole in memory."""
MAX_PAGES = 10_000
"""Pages of one list: a million objects. A server that names page after page is not asked for ever."""
MAX_PIECE_BYTES = 64 * 1024
"""Bytes of a log's line that are told at once, its time included; a longer line is told in pieces."""
MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one event of a watch. An object of etcd's has 1.5 MiB at most."""
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Bytes of an answer that is no refusal: a page of the largest objects."""
MAX_ERROR_RESPONSE_BYTES, MAX_MESSAGE_LENGTH = 1024 * 1024, 4096
"""Bytes of a refusal, and characters that are kept of its message."""
CHUNK_BYTES = 64 * 1024
"""Bytes that are read at once."""
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_CREDENTIAL = re.compile(r"\s*(?:([!-~]+)\s+)?([!-~]+)\s*", re.ASCII)
"""The value of an Authorization header: mostly a scheme, then a secret."""
_SCHEMES = frozenset({"bearer", "basic"})
_MAX_RETRY_AFTER = 10**9
"""Seconds. Whoever waits has a limit of his own."""
_CONNECTIONS = 32
"""More than there are threads to use them (control/loop.py), so that none is thrown away and made anew."""


class Kind(Enum):
    """The kinds that flargo touches: API path and plural."""

    WORKFLOW = (f"apis/{ARGO_API_VERSION}", "workflows")
    POD = ("api/v1", "pods")
    SECRET = ("api/v1", "secrets")
    EVENT = ("api/v1", "events")


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A line of a log, or a piece of a long one. A character is never cut in two."""

    text: str
    """Read as UTF-8; a byte that is none is kept as a surrogate, as Python's ``surrogateescape`` has it."""
    continued: bool = False
    """Whether the line goes on in the next piece."""
    ended: bool = True
    """Whether a line end follows. A log that does not end with one has a last line that neither ends nor goes on."""


RequestCallback = Callable[[str, Kind, int, float], None]
"""Told of each request: its verb, what of, the HTTP status (0: no answer), and after how many seconds that was known.
Of a stream or a long answer, these are for its beginning."""
CredentialCallback = Callable[[str], None]
"""Called with each secret word that is about to be sent as a credential, so that it can be kept out of texts."""


class Api:
    """One namespace of a Kubernetes API server. Safe to use from many threads.

    Every method raises ApiError, and nothing else, where the server refuses or does not answer.
    """

    def __init__(
        self,
        load: Callable[[], "Configuration"],
        namespace: str,
        answered: RequestCallback = lambda *_: None,
        on_credential: CredentialCallback = lambda _: None,
    ) -> None:
        """Connect lazily: ``load`` reads credentials at the first request and again after a 401."""
        self._load = load
        self._answered = answered
        self._on_credential = on_credential
        self.namespace = namespace
        self._loading = threading.Lock()
        self._connection: Connection | None = None

    def create(self, kind: Kind, item: Object) -> Object:
        """Create an object."""
        to = self._to("create", kind)
        return self._call("create", kind, item["metadata"]["name"], method="POST", to=to, body=item)

    def get(self, kind: Kind, name: str) -> Object:
        """Read an object."""
        return self._call("get", kind, name, method="GET", to=self._to("get", kind, name))

    def list(
        self, kind: Kind, labels: str = "", fields: str = "", trim: Callable[[Object], Object] | None = None
    ) -> tuple[list[Object], str]:
        """Read all objects that match, page by page; and the resourceVersion to watch from.

        Args:
            kind: what to list.
            labels: a label selector.
            fields: a field selector.
            trim: makes of each object what is kept of it; never more than a page is held whole.
        """
        items: list[Object] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        for _ in range(MAX_PAGES):
            to = self._to("list", kind, query=query)
            page = self._call("list", kind, labels or fields, method="GET", to=to)
            listed, meta = page.get("items"), page.get("metadata")
            whole = [item for item in (listed if isinstance(listed, list) else ()) if isinstance(item, dict)]
            items += map(trim, whole) if trim is not None else whole
            meta = meta if isinstance(meta, dict) else {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query = {**query, "continue": str(meta["continue"])}
        raise ApiError("list", kind.value[1], 0, message=f"the server names more than {MAX_PAGES} pages")

    def merge(self, kind: Kind, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch."""
        to, content_type = self._to("patch", kind, name), "application/merge-patch+json"
        return self._call("patch", kind, name, method="PATCH", to=to, body=patch, content_type=content_type)

    def replace(self, kind: Kind, item: Object) -> Object:
        """Replace an object as a whole."""
        name = item["metadata"]["name"]
        return self._call("update", kind, name, method="PUT", to=self._to("update", kind, name), body=item)

    def delete(self, kind: Kind, name: str, uid: Uid, grace: int | None = None) -> None:
        """Delete the object that has this name and this uid, with that many seconds of grace."""
        if not is_uid(uid):
            message = "no usable uid: another object of that name could be deleted"
            raise ApiError("delete", f"{kind.value[1]} {name}", HTTPStatus.BAD_REQUEST, INVALID_TARGET, message)
        # A grace period in the query is ignored once there is a body.
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        self._call("delete", kind, name, method="DELETE", to=self._to("delete", kind, name), body=body)

    def watch(self, kind: Kind, labels: str, version: str, seconds: int, silence: float) -> Iterator[Object]:
        """Follow changes after a resourceVersion: objects with ``type`` and ``object``, bookmarks included.

        Args:
            kind: what to follow.
            labels: a label selector.
            version: where to begin.
            seconds: after which the server ends the stream, which is no error.
            silence: seconds without a byte after which the connection counts as dead.
        """
        query = {
            "labelSelector": labels,
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "watch": "true",
            "allowWatchBookmarks": "true",
        }
        to = self._to("watch", kind, query=query)
        response = self._send("watch", kind, labels, "GET", to, None, None, silence)
        with closing(response):
            try:
                for line in _lines(response):
                    yield load_json(line)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                raise ApiError("watch", kind.value[1], 0, message=describe(error)) from error
            finally:
                # A half-read stream is of no use to the pool.
                response.close()

    def log(self, pod: str, container: str, lines: int, most_bytes: int, seconds: float) -> str:
        """The end of a container's log: at most so many lines and bytes, read within so many seconds.

        Where bytes are left out, it begins with a whole line, if it has a line end at all.
        """
        # The server counts limitBytes from the first of those lines, and it is the last that matter.
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(16 * most_bytes)}
        to = self._to("log", Kind.POD, pod, "log", query)
        response = self._send("log", Kind.POD, pod, "GET", to, None, None, seconds)
        with closing(response):
            try:
                return _last_bytes(response.stream(CHUNK_BYTES, decode_content=True), most_bytes).decode(
                    errors="replace"
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise ApiError("log", pod, 0, message=describe(error)) from error

    def log_lines(
        self, pod: str, container: str, *, follow: bool, since: str = "", silence: float = READ_TIMEOUT
    ) -> Iterator[LogPiece]:
        """A container's log, line by line, each with its time before it; a line of more than ``PIECE`` in pieces.

        What a connection that breaks has left of a line or piece is not told; a last line without an end is. A line is
        taken apart at the same places whenever it is read from its beginning.

        Args:
            pod: the pod's name.
            container: the container's.
            follow: go on for as long as the container runs.
            since: RFC 3339; the server takes whole seconds only.
            silence: seconds without a byte after which the connection counts as dead. Where it is followed that is no
                error but an end: the program may have nothing to say.
        """
        follows = "true" if follow else ""
        query = {"container": container, "timestamps": "true", "follow": follows, "sinceTime": since}
        to = self._to("log", Kind.POD, pod, "log", query)
        response = self._send("log", Kind.POD, pod, "GET", to, None, None, silence)
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
        """The metadata of an object of which nothing else is to be known: a Secret's content stays where it is."""
        found = self._call("get", kind, name, method="GET", to=self._to("get", kind, name), accept=_METADATA)
        meta = found.get("metadata")
        return meta if isinstance(meta, dict) else {}

    def time(self) -> datetime:
        """What the API server's clock says, by which it writes when objects were made; by the second."""
        response = self._send("get", None, "version", "GET", target.version(), None, None, READ_TIMEOUT)
        moment = http_date(response.headers.get("Date", ""))
        response.drain_conn()
        if moment is None:
            raise ApiError("get", "version", 0, message="the answer has no usable Date header")
        return moment

    def _to(
        self, verb: str, kind: Kind, name: str | None = None, subresource: str = "", query: dict[str, str] | None = None
    ) -> Target:
        group_version, plural = kind.value
        try:
            return target.resource(
                group_version, plural, namespace=self.namespace, name=name, subresource=subresource, query=query
            )
        except InvalidTargetError as error:
            # No transient status: the same request would never be sent.
            raise ApiError(verb, plural, HTTPStatus.BAD_REQUEST, INVALID_TARGET, str(error)) from None

    def _call(
        self,
        verb: str,
        kind: Kind,
        name: str,
        *,
        method: str,
        to: Target,
        body: Object | None = None,
        content_type: str = "application/json",
        accept: str = _JSON,
    ) -> Object:
        response = self._send(verb, kind, name, method, to, body, content_type, READ_TIMEOUT, accept)
        with closing(response):
            try:
                found = load_json(read_bounded(response, MAX_RESPONSE_BYTES))
            except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
                message = f"unreadable answer: {describe(error)}"
                raise ApiError(verb, f"{kind.value[1]} {name}", 0, message=message) from error
            finally:
                response.release_conn()
        return found if isinstance(found, dict) else {}

    def _send(
        self,
        verb: str,
        kind: Kind | None,
        name: str,
        method: str,
        to: Target,
        body: Object | None,
        content_type: str | None,
        read_timeout: float,
        accept: str = _JSON,
    ) -> urllib3.BaseHTTPResponse:
        what = f"{kind.value[1]} {name}".strip() if kind is not None else name
        refused: Connection | None = None
        for again in (True, False):
            connection = self._connect(verb, what, refused)
            begun = time.monotonic()
            try:
                response = connection.request(method, to, body, content_type, read_timeout, accept)
            except Exception as error:
                # Not only the network: credentials are refreshed by code of the kubernetes client's, or an
                # exec plugin's, that may raise anything.
                self._tell(verb, kind, 0, begun)
                raise ApiError(verb, what, 0, message=describe(error)) from error
            self._tell(verb, kind, response.status, begun)
            if response.status == HTTPStatus.UNAUTHORIZED and again:  # the token was rotated: read it afresh, once
                response.drain_conn()
                refused = connection
                continue
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(verb, what, response)
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                # Of a gateway before the API server, which may be in trouble. Where it leads is not the intended path.
                response.drain_conn()
                raise ApiError(verb, what, 0, message=f"a redirect ({response.status}), which flargo does not follow")
            return response
        raise AssertionError

    def _tell(self, verb: str, kind: Kind | None, status: int, begun: float) -> None:
        if kind is not None:  # else the server's clock is asked for, which no launcher does
            self._answered(verb, kind, status, time.monotonic() - begun)

    def _connect(self, verb: str, what: str, refused: "Connection | None" = None) -> "Connection":
        """The current connection; a new one if there is none yet, or if the server refused the current one.

        One thread loads. Others go on with the connection that there is, and wait only once it was refused to them.
        """
        connection = self._connection
        if connection is not None and connection is not refused:
            return connection
        with self._loading:
            connection = self._connection
            if connection is None or connection is refused:
                try:
                    connection = self._connection = Connection(self._load(), self._on_credential)
                except Exception as error:
                    message = f"no usable Kubernetes configuration: {describe(error)}"
                    raise ApiError(verb, what, 0, message=message) from error
            return connection


class UnsafeUrlError(OwnError):
    """What would be sent is not what was meant to be."""


class CredentialError(OwnError):
    """A credential that can't be read, or that no request can carry."""


class NoAnswerError(OwnError):
    """A request that was not answered."""


class Connection:
    """A pool of connections with its credentials."""

    def __init__(self, configuration: "Configuration", on_credential: CredentialCallback = lambda _: None) -> None:
        """Connect when something is requested."""
        from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415  (a slow import)

        configuration.connection_pool_maxsize = _CONNECTIONS
        self._configuration = configuration
        self._on_credential = on_credential
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager

    def request(
        self,
        method: str,
        to: Target,
        body: Object | None,
        content_type: str | None,
        read_timeout: float,
        accept: str,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, whose answer is left to be read.

        Raises:
            OwnError: it could not be sent, or was not answered.
        """
        headers = {"Accept": accept, "User-Agent": "flargo", **self._credentials()}
        if content_type is not None and body is not None:
            headers["Content-Type"] = content_type
        url = _checked_url(self._configuration.host, to)
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
        """The headers that say who asks."""
        try:
            settings: Any = self._configuration.auth_settings()
        except Exception as error:  # they are refreshed by the client's code, or a plugin's, which may raise anything
            raise CredentialError(f"the credentials can't be read: {describe(error)}") from error
        return {setting["key"]: self._credential(setting["value"]) for setting in settings.values()}

    def _credential(self, value: str) -> str:
        """A header's value that holds a credential: a token file mostly ends with a line end, which is none of it.

        Raises:
            CredentialError: it is no header's value. (http.client would quote it in its complaint.)
        """
        found = _CREDENTIAL.fullmatch(value)
        scheme, secret = found.groups() if found is not None else (None, "")
        if not secret or (scheme is None and secret.lower() in _SCHEMES):
            raise CredentialError("the token of the Kubernetes configuration is empty or not one line of ASCII")
        self._on_credential(secret)
        return f"{scheme} {secret}" if scheme else secret


def _checked_url(host: str, to: Target) -> str:
    """The URL of a request, once more as the HTTP library will read it.

    Raises:
        UnsafeUrlError: the library would make another request of it than the one that was meant.
    """
    base, sent = urllib3.util.parse_url(host), urllib3.util.parse_url(f"{host}{to.url}")
    meant = (base.scheme, base.host, base.port, f"{(base.path or '').rstrip('/')}{to.url}")
    if (sent.scheme, sent.host, sent.port, sent.request_uri) != meant or sent.auth or sent.fragment:
        raise UnsafeUrlError("the HTTP library would send the request to another path than the one that was meant")
    return f"{host}{to.url}"


class TooLongError(OwnError, ValueError):
    """An answer, or an event of a watch, that is longer than any that an API server sends."""


def read_bounded(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """An answer's body.

    Raises:
        TooLongError: it has more bytes; the connection is closed.
        HTTPError, OSError: it cannot be read.
    """
    body = bytearray()
    for chunk in response.stream(CHUNK_BYTES, decode_content=True):
        body += chunk
        if len(body) > most:
            response.close()  # before it goes back to the pool, where its rest would be taken for the next answer
            raise TooLongError(f"more than {most} bytes")
    return bytes(body)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of a stream that are not empty; what comes after the last line end is none."""
    buffer = bytearray()
    for chunk in response.stream(CHUNK_BYTES, decode_content=True):
        begin, searched = 0, len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", max(begin, searched))) >= 0:
            if end > begin:
                yield bytes(buffer[begin:end])
            begin = end + 1
        del buffer[:begin]
        if len(buffer) > MAX_EVENT_BYTES:
            raise TooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")


def _pieces(chunks: Iterable[bytes]) -> Iterator[LogPiece]:
    """The lines of a log. Each byte is searched for a line end once, however small the chunks are."""
    buffer = bytearray()
    for chunk in chunks:
        begin, searched = 0, len(buffer)
        buffer += chunk
        while True:
            end = buffer.find(b"\n", max(begin, searched), begin + MAX_PIECE_BYTES + 1)
            if end >= 0:
                yield LogPiece(_text(buffer[begin:end]))
                begin = end + 1
            elif len(buffer) - begin > MAX_PIECE_BYTES:
                end = _character_end(buffer, begin, begin + MAX_PIECE_BYTES)
                yield LogPiece(_text(buffer[begin:end]), continued=True, ended=False)
                begin = end
            else:
                break
        del buffer[:begin]
    if buffer:
        yield LogPiece(_text(buffer), ended=False)


def _last_bytes(chunks: Iterable[bytes], most: int) -> bytearray:
    end, size = bytearray(), 0
    for chunk in chunks:
        size += len(chunk)
        end += chunk
        if len(end) > 2 * most:  # seldom, so that each byte is moved once or twice
            del end[:-most]
    if size <= most:
        return end
    del end[:-most]
    return end[end.find(b"\n", 0, -1) + 1 :]


def _character_end(buffer: bytearray, begin: int, end: int) -> int:
    """The last place up to an end at which no character of UTF-8 is cut in two."""
    for place in range(end, max(begin, end - 4), -1):
        if buffer[place] & 0xC0 != 0x80:  # noqa: PLR2004  (10xxxxxx: a character goes on)
            return place
    return end


def _text(content: bytearray) -> str:
    return content.decode(errors="surrogateescape")


def _refusal(verb: str, what: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    retry_after = response.headers.get("Retry-After", "")
    try:
        said: Any = load_json(read_bounded(response, MAX_ERROR_RESPONSE_BYTES))
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError):
        said = {}
    finally:
        response.release_conn()
    status = said if isinstance(said, dict) else {}
    return ApiError(
        verb,
        what,
        response.status,
        str(status.get("reason") or response.reason or "")[:MAX_MESSAGE_LENGTH],
        str(status.get("message") or "")[:MAX_MESSAGE_LENGTH],
        _seconds(retry_after),
    )


def _seconds(retry_after: str) -> float | None:
    """What a Retry-After asks for: Kubernetes says seconds, a proxy before it may say a date."""
    seconds = whole_number(retry_after, _MAX_RETRY_AFTER)
    if seconds is not None:
        return float(seconds)
    until = http_date(retry_after)
    return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until is not None else None
