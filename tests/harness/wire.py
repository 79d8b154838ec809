"""A proxy in front of the API server that breaks the requests and watches that a test selects, and no others.

A launcher reaches it over HTTPS on the loopback device, since neither flargo nor Go's clients send a token without it;
the proxy forwards everything, the launcher's token included. A test arms a fault for the requests that match, for a
number of times or until it is disarmed::

    fault = wire.lose_reply(Match("create", "workflows", name))
    ...
    assert fault.hits == 1
"""

import asyncio
import base64
import contextlib
import json
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

from flargo.embedded import tls
from tests.harness.foreign_answers import ForeignAnswer

Object = dict[str, Any]
T = TypeVar("T")

_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "upgrade"})
"""Headers that concern one connection, and are not forwarded."""


@dataclass(frozen=True)
class Request:
    """A request in Kubernetes' terms: verb, resource and name."""

    verb: str
    resource: str
    name: str
    token: str
    body: bytes


@dataclass(frozen=True)
class Match:
    """A selection of requests by their fields; an empty field matches everything."""

    verb: str = ""
    resource: str = ""
    name: str = ""
    """A prefix of the object's name."""
    token: str = ""

    def __call__(self, request: Request) -> bool:
        """Return whether a request is selected."""
        return (
            self.verb in {"", request.verb}
            and self.resource in {"", request.resource}
            and request.name.startswith(self.name)
            and self.token in {"", request.token}
        )


RequestMatch = Callable[[Request], bool]
"""A predicate of requests: a :class:`Match` or any other function."""


class FaultKind(Enum):
    """A kind of fault that a request suffers."""

    REFUSE = "the connection is closed without forwarding the request"
    LOSE_REPLY = "the request is forwarded and the connection closed without an answer"
    DELAY = "the request is forwarded late"
    LATE_REPLY = "the request is forwarded at once and answered late"
    STATUS = "the request is answered by the wire and not forwarded"


@dataclass
class Fault:
    """An armed fault of requests."""

    kind: FaultKind
    match: RequestMatch
    times: float
    """How many more requests it breaks; infinite means until it is disarmed."""
    seconds: float = 0.0
    code: int = 0
    body: bytes | None = None
    """The body of the answer; None: a Status object without a reason."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers of an answer that has a body."""
    retry_after: int | None = None
    hits: int = 0
    """How many requests it has broken so far."""

    def disarm(self) -> None:
        """Break no more requests, and let delayed ones go on at once."""
        self.times = self.seconds = 0

    async def wait(self) -> None:
        """Wait for the fault's seconds, or until it is disarmed."""
        start = time.monotonic()
        while time.monotonic() < start + self.seconds:  # noqa: ASYNC110  (another thread disarms it)
            await asyncio.sleep(0.05)

    def take(self, request: Request) -> bool:
        """Return whether the fault breaks this request, and count it if so."""
        if self.times <= 0 or not self.match(request):
            return False
        self.times -= 1
        self.hits += 1
        return True


class EventAction(Enum):
    """The treatment of one event of a watch."""

    DROP = "it is lost"
    REPEAT = "it is sent twice"
    HOLD = "it is sent later, and out of order"


@dataclass
class EventFilter:
    """A fault of all watches' events that match."""

    action: EventAction
    match: Callable[[Object], bool]
    is_armed: bool = True
    hits: int = 0
    """How many events it has met so far."""

    def disarm(self) -> None:
        """Let all further events through."""
        self.is_armed = False


@dataclass(frozen=True)
class Route:
    """The address of a wire, for users in another process."""

    port: int
    """The port on the loopback device."""
    certificate: bytes = b""
    """The wire's self-signed certificate, in PEM; empty if it serves plain HTTP."""

    def user(self, token: str) -> Object:
        """Return the kubeconfig's user."""
        return {"token": token}

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig that leads to this wire, for a user with this token."""
        cluster = {"server": f"http{'s' if self.certificate else ''}://127.0.0.1:{self.port}"}
        if self.certificate:
            cluster["certificate-authority-data"] = base64.b64encode(self.certificate).decode()
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "wire", "cluster": cluster}],
            "users": [{"name": "launcher", "user": self.user(token)}],
            "contexts": [{"name": "wire", "context": {"cluster": "wire", "user": "launcher"}}],
            "current-context": "wire",
        }
        # Replace the file in one step: whoever reads it meanwhile gets the old or the new one, whole.
        new = path.with_suffix(".new")
        new.write_text(yaml.safe_dump(document))
        return new.rename(path)


@dataclass(eq=False)
class _Stream:
    """An open watch or followed log."""

    request: web.BaseRequest
    response: web.StreamResponse
    is_frozen: bool = False
    held_lines: list[bytes] = field(default_factory=list)

    def cut(self) -> None:
        """Close the connection as a failing network does, without an end of the body."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Wire:
    """The proxy, in a thread of its own, until the end of its ``with`` or its ``close``."""

    def __init__(self, kubeconfig: Path, token: str = "", *, with_tls: bool = True) -> None:
        """Start a proxy for the API server that a kubeconfig names.

        Args:
            kubeconfig: names the server; its user is ignored.
            token: is added to requests that have none.
            with_tls: serve HTTPS, with a certificate of this wire's own. Otherwise clients send no token.
        """
        self._token = token
        self._certificate, self._key = tls.create_certificate() if with_tls else (b"", b"")
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self._address: str = cluster["server"]
        self._tls = tls_context(cluster)
        self._faults: list[Fault] = []
        self._filters: list[EventFilter] = []
        self._streams: set[_Stream] = set()
        self._expiries = 0
        self._is_down = False
        self.requests: list[Request] = []
        """All requests so far, watches and broken requests included; without tokens and bodies."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self.port: int = self._call(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the proxy and close all its connections."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def route(self) -> Route:
        """The wire's address, for users in another process."""
        return Route(self.port, self._certificate)

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig that leads to this wire, for a user with this token."""
        return self.route.kubeconfig(path, token)

    # --- faults of requests

    def refuse(self, match: RequestMatch, times: float = 1) -> Fault:
        """Close the connection before the request is forwarded."""
        return self._arm(Fault(FaultKind.REFUSE, match, times))

    def lose_reply(self, match: RequestMatch, times: float = 1) -> Fault:
        """Forward the request, and close the connection instead of answering."""
        return self._arm(Fault(FaultKind.LOSE_REPLY, match, times))

    def delay(self, match: RequestMatch, seconds: float, times: float = 1) -> Fault:
        """Forward the request late."""
        return self._arm(Fault(FaultKind.DELAY, match, times, seconds=seconds))

    def late_reply(self, match: RequestMatch, seconds: float, times: float = 1) -> Fault:
        """Forward the request at once, and answer it late."""
        return self._arm(Fault(FaultKind.LATE_REPLY, match, times, seconds=seconds))

    def answer_with_status(
        self, match: RequestMatch, code: int, *, retry_after: int | None = None, times: float = 1
    ) -> Fault:
        """Answer with an HTTP error instead of forwarding the request."""
        return self._arm(Fault(FaultKind.STATUS, match, times, code=code, retry_after=retry_after))

    def answer_with_body(self, match: RequestMatch, code: int, body: bytes, times: float = 1) -> Fault:
        """Answer with an HTTP error and a body, as a gateway does, instead of forwarding the request."""
        return self._arm(Fault(FaultKind.STATUS, match, times, code=code, body=body))

    def answer_as(self, answer: ForeignAnswer, match: RequestMatch, times: float = 1) -> Fault:
        """Answer as something that is no Kubernetes, instead of forwarding the request."""
        named = {"Content-Type": answer.content_type, "Location": answer.location}
        headers = {name: value for name, value in named.items() if value}
        return self._arm(Fault(FaultKind.STATUS, match, times, code=answer.code, body=answer.body, headers=headers))

    def stop_answering(self) -> None:
        """Answer no request and cut all watches, until ``resume_answering``."""
        self._is_down = True
        self.cut_watches()

    def resume_answering(self) -> None:
        """Forward requests again."""
        self._is_down = False

    # --- faults of watches

    @property
    def open_watches(self) -> int:
        """The number of open watches and followed logs."""
        return len(self._streams)

    def cut_watches(self) -> None:
        """Close all open watches at once."""

        async def cut() -> None:
            for stream in list(self._streams):
                stream.cut()

        self._call(cut())

    def cut_connections(self) -> None:
        """Close all connections at once, idle ones included."""

        async def cut() -> None:
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.abort()

        self._call(cut())

    def freeze_watches(self) -> None:
        """Send nothing more over the open watches, but keep their sockets open; new watches work."""
        for stream in list(self._streams):
            stream.is_frozen = True

    def expire_watches(self, times: int = 2) -> None:
        """Cut the open watches, and answer so many new ones that their resourceVersion is too old."""
        self._expiries = times
        self.cut_watches()

    def drop_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Lose the events that match, until the filter is disarmed."""
        return self._add_filter(EventAction.DROP, match)

    def repeat_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Send the events that match twice, until the filter is disarmed."""
        return self._add_filter(EventAction.REPEAT, match)

    def hold_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Hold back the events that match, until ``release_events``."""
        return self._add_filter(EventAction.HOLD, match)

    def release_events(self) -> None:
        """Send the held events, the latest first, and hold back nothing more."""
        for each in self._filters:
            each.is_armed = each.is_armed and each.action is not EventAction.HOLD
        for stream in list(self._streams):
            lines, stream.held_lines = stream.held_lines, []
            for line in reversed(lines):
                self._call(stream.response.write(line))

    # --- the proxy

    def _arm(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def _add_filter(self, action: EventAction, match: Callable[[Object], bool]) -> EventFilter:
        event_filter = EventFilter(action, match)
        self._filters.append(event_filter)
        return event_filter

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> int:
        self._client = ClientSession(
            connector=TCPConnector(ssl=self._tls, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        # Without handler_cancellation, the handler of a watch would not end when its client disconnects.
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._runner = web.ServerRunner(self._server)
        await self._runner.setup()
        context = None
        if self._certificate:
            with tempfile.TemporaryDirectory() as folder:
                context = tls.server_context(self._certificate, self._key, Path(folder))
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.2, ssl_context=context)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        for stream in list(self._streams):
            stream.cut()
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, http_request: web.BaseRequest) -> web.StreamResponse:
        request = _parse(http_request, await http_request.read())
        self.requests.append(Request(request.verb, request.resource, request.name, "", b""))
        fault = next((fault for fault in self._faults if fault.take(request)), None)
        kind = FaultKind.REFUSE if self._is_down else fault.kind if fault is not None else None
        if kind is FaultKind.REFUSE:
            return _hang_up(http_request)
        if fault is not None and kind is FaultKind.STATUS:
            return _error(fault)
        if fault is not None and kind is FaultKind.DELAY:
            await fault.wait()
        if request.verb == "watch" and self._expiries > 0:
            self._expiries -= 1
            return web.Response(body=_TOO_OLD, content_type="application/json")
        try:
            response = await self._forward(http_request, request, lose=kind is FaultKind.LOSE_REPLY)
        except ClientError:
            return _hang_up(http_request)
        if fault is not None and kind is FaultKind.LATE_REPLY:
            await asyncio.sleep(fault.seconds)
        return response

    async def _forward(self, http_request: web.BaseRequest, request: Request, *, lose: bool) -> web.StreamResponse:
        headers = {key: value for key, value in http_request.headers.items() if key.lower() not in _HOP}
        if self._token:
            headers.setdefault("Authorization", f"Bearer {self._token}")
        url = f"{self._address}{http_request.raw_path}"
        skip = ("Accept-Encoding", "User-Agent", "Content-Type")
        async with self._client.request(
            http_request.method, url, headers=headers, data=request.body or None, skip_auto_headers=skip
        ) as answer:
            is_stream = request.verb == "watch" or http_request.query.get("follow") == "true"
            if is_stream and answer.status == web.HTTPOk.status_code:
                return await self._stream(http_request, answer)
            content = await answer.read()
        if lose or self._is_down:
            return _hang_up(http_request)
        forwarded = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
        return web.Response(status=answer.status, body=content, headers=forwarded)

    async def _stream(self, request: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": answer.headers.get("Content-Type", "application/json")})
        response.enable_chunked_encoding()
        stream = _Stream(request, response)
        await response.prepare(request)
        self._streams.add(stream)
        try:
            async for line in _lines(answer):
                if stream.is_frozen:
                    continue
                for output in self._apply_filters(stream, line):
                    await response.write(output)
            if stream.is_frozen:
                await asyncio.Event().wait()
        except (ClientError, OSError):
            stream.cut()
        finally:
            self._streams.discard(stream)
        return response

    def _apply_filters(self, stream: _Stream, line: bytes) -> list[bytes]:
        """Return the lines to send in place of one line."""
        if stream.request.query.get("watch") != "true":
            return [line]
        item = json.loads(line).get("object") or {}
        for each in self._filters:
            if each.is_armed and each.match(item):
                each.hits += 1
                if each.action is EventAction.HOLD:
                    stream.held_lines.append(line)
                return [line, line] if each.action is EventAction.REPEAT else []
        return [line]


_TOO_OLD = (
    json.dumps(
        {
            "type": "ERROR",
            "object": {
                "kind": "Status",
                "code": 410,
                "reason": "Expired",
                "status": "Failure",
                "message": "too old resource version",
            },
        }
    ).encode()
    + b"\n"
)


def tls_context(cluster: Object) -> ssl.SSLContext | bool:
    """Return the TLS context for a kubeconfig's cluster; True if the cluster is reached over plain HTTP."""
    if not cluster["server"].startswith("https"):
        return True
    data = cluster.get("certificate-authority-data")
    if data:
        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    return ssl.create_default_context(cafile=cluster["certificate-authority"])


def _parse(request: web.BaseRequest, body: bytes) -> Request:
    """Parse a request for a resource of a namespace, as ``/api/v1/namespaces/N/pods/NAME/log``."""
    _, _, tail = request.path.partition("/namespaces/")
    resource, name = [*tail.split("/")[1:3], "", ""][:2]
    if request.method == "GET":
        is_watch = request.query.get("watch") == "true"
        verb = "watch" if is_watch else "get" if name else "list"
    else:
        verb = _VERBS[request.method]
    if verb == "create" and not name:
        with contextlib.suppress(ValueError, KeyError):
            name = json.loads(body)["metadata"]["name"]
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return Request(verb, resource, name, token, body)


def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _error(fault: Fault) -> web.StreamResponse:
    if fault.body is not None:
        return web.Response(status=fault.code, body=fault.body, headers=fault.headers)
    status = {"kind": "Status", "status": "Failure", "code": fault.code, "message": "a fault of the wire"}
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    return web.json_response(status, status=fault.code, headers=headers)


async def _lines(answer: ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in filter(None, whole):
            yield line + b"\n"
    if rest:
        yield rest
