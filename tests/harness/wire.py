"""A proxy before the API server that breaks what it is told to break, and is transparent otherwise.

A launcher reaches it over plain HTTP on the loop-back device; it passes everything on, the launcher's token
included. Faults are armed by the test for the requests that match, so many often or until they are disarmed::

    fault = wire.lose_reply(Match("create", "workflows", name))
    ...
    assert fault.hits == 1
"""

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

Object = dict[str, Any]
T = TypeVar("T")

_VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "upgrade"})
"""Headers that concern one connection, and are not passed on."""


@dataclass(frozen=True)
class Request:
    """A request, in Kubernetes' words."""

    verb: str
    resource: str
    name: str
    token: str
    body: bytes


@dataclass(frozen=True)
class Match:
    """Which requests a fault concerns. What is empty matches everything."""

    verb: str = ""
    resource: str = ""
    name: str = ""
    """The beginning of the object's name."""
    token: str = ""

    def __call__(self, asked: Request) -> bool:
        """Whether a request is one of these."""
        return (
            self.verb in {"", asked.verb}
            and self.resource in {"", asked.resource}
            and asked.name.startswith(self.name)
            and self.token in {"", asked.token}
        )


RequestMatch = Callable[[Request], bool]
"""Which requests: a ``Match``, or anything else that tells."""


class FaultKind(Enum):
    """How a request is broken."""

    REFUSE = "the connection is closed, and the request never forwarded"
    LOSE_REPLY = "the request is forwarded, its answer never sent"
    DELAY = "forwarded late"
    LATE_REPLY = "forwarded at once, and answered late"
    STATUS = "answered with an error without being forwarded"


@dataclass
class Fault:
    """One armed fault."""

    kind: FaultKind
    match: RequestMatch
    times: float
    """How often it strikes; infinite until it is disarmed."""
    seconds: float = 0.0
    code: int = 0
    retry_after: int | None = None
    hits: int = 0

    def disarm(self) -> None:
        """Strike no more, and hold up nothing any longer."""
        self.times = self.seconds = 0

    async def wait(self) -> None:
        """Return after its seconds, or when it is disarmed."""
        begun = time.monotonic()
        while time.monotonic() < begun + self.seconds:  # noqa: ASYNC110  (it is disarmed from another thread)
            await asyncio.sleep(0.05)

    def take(self, asked: Request) -> bool:
        """Whether it breaks this request; counts if so."""
        if self.times <= 0 or not self.match(asked):
            return False
        self.times -= 1
        self.hits += 1
        return True


class EventAction(Enum):
    """What becomes of a watch's event."""

    DROP = "it is lost"
    TWICE = "it is told twice"
    HOLD = "it is told later, and out of order"


@dataclass
class EventFilter:
    """What is done to the events of watches that match."""

    action: EventAction
    match: Callable[[Object], bool]
    is_armed: bool = True
    hits: int = 0


@dataclass(frozen=True)
class Route:
    """The way over a wire."""

    port: int
    """On the loop-back device."""

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig for somebody who comes over this wire."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "wire", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "launcher", "user": {"token": token}}],
            "contexts": [{"name": "wire", "context": {"cluster": "wire", "user": "launcher"}}],
            "current-context": "wire",
        }
        # By way of another file: who reads it meanwhile finds the old one or the new one, whole.
        beside = path.with_suffix(".new")
        beside.write_text(yaml.safe_dump(document))
        return beside.rename(path)


@dataclass(eq=False)
class _Stream:
    """A watch, or a log that is followed: open until it ends."""

    request: web.BaseRequest
    response: web.StreamResponse
    frozen: bool = False
    held: list[bytes] = field(default_factory=list)

    def cut(self) -> None:
        """Close the connection as a dying network does: no end of the body, no word."""
        if self.request.transport is not None:
            self.request.transport.abort()


class Wire:
    """The proxy, in a thread of its own. Use it in a ``with``, or ``close`` it."""

    def __init__(self, kubeconfig: Path, token: str = "") -> None:
        """Stand before the API server that a kubeconfig names; of its user nothing is taken.

        Args:
            kubeconfig: of anybody.
            token: for requests that come without one.
        """
        self._token = token
        cluster = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        self._server: str = cluster["server"]
        self._tls = tls_context(cluster)
        self._faults: list[Fault] = []
        self._filters: list[EventFilter] = []
        self._streams: set[_Stream] = set()
        self._gone = 0
        self._down = False
        self.requests: list[Request] = []
        """All requests so far, watches too, and those that were broken; without their bodies."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self.port: int = self._call(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and all connections with it."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    @property
    def route(self) -> "Route":
        """The way over it, for who is in another process."""
        return Route(self.port)

    def kubeconfig(self, path: Path, token: str) -> Path:
        """Write a kubeconfig for somebody who comes over this wire."""
        return self.route.kubeconfig(path, token)

    # --- faults of requests

    def refuse(self, match: RequestMatch, times: float = 1) -> Fault:
        """Close the connection before the request is forwarded."""
        return self._arm(Fault(FaultKind.REFUSE, match, times))

    def lose_reply(self, match: RequestMatch, times: float = 1) -> Fault:
        """Forward the request; close the connection in the place of an answer."""
        return self._arm(Fault(FaultKind.LOSE_REPLY, match, times))

    def delay(self, match: RequestMatch, seconds: float, times: float = 1) -> Fault:
        """Forward the request late."""
        return self._arm(Fault(FaultKind.DELAY, match, times, seconds=seconds))

    def late_reply(self, match: RequestMatch, seconds: float, times: float = 1) -> Fault:
        """Forward the request at once; answer it late."""
        return self._arm(Fault(FaultKind.LATE_REPLY, match, times, seconds=seconds))

    def answer_with_status(
        self, match: RequestMatch, code: int, *, retry_after: int | None = None, times: float = 1
    ) -> Fault:
        """Answer with an error, and forward nothing."""
        return self._arm(Fault(FaultKind.STATUS, match, times, code=code, retry_after=retry_after))

    def stop_answering(self) -> None:
        """No request is answered and no stream goes on, until ``up``."""
        self._down = True
        self.cut_watches()

    def resume_answering(self) -> None:
        """Answer again."""
        self._down = False

    # --- faults of watches

    @property
    def open_watches(self) -> int:
        """How many are open."""
        return len(self._streams)

    def cut_watches(self) -> None:
        """Close all open watches at once."""

        async def cut() -> None:
            for stream in list(self._streams):
                stream.cut()

        self._call(cut())

    def freeze_watches(self) -> None:
        """No byte comes over the open watches any more, and their sockets stay; new watches work."""
        for stream in list(self._streams):
            stream.frozen = True

    def expire_watches(self, times: int = 2) -> None:
        """The next watches hear that their resourceVersion is too old; the open ones are cut for that."""
        self._gone = times
        self.cut_watches()

    def drop_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Lose the events that match, until disarmed."""
        return self._filter(EventAction.DROP, match)

    def repeat_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Tell the events that match twice."""
        return self._filter(EventAction.TWICE, match)

    def hold_events(self, match: Callable[[Object], bool]) -> EventFilter:
        """Keep the events that match back, until ``release_events``."""
        return self._filter(EventAction.HOLD, match)

    def release_events(self) -> None:
        """Tell what was held back, the latest first, and hold nothing any more."""
        for each in self._filters:
            each.is_armed = each.is_armed and each.action is not EventAction.HOLD
        for stream in list(self._streams):
            held, stream.held = stream.held, []
            for line in reversed(held):
                self._call(stream.response.write(line))

    # --- the proxy

    def _arm(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def _filter(self, deal: EventAction, match: Callable[[Object], bool]) -> EventFilter:
        made = EventFilter(deal, match)
        self._filters.append(made)
        return made

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> int:
        self._client = ClientSession(
            connector=TCPConnector(ssl=self._tls, limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        # Only so does the handler of a watch end when its client goes away.
        self._runner = web.ServerRunner(web.Server(self._answer, handler_cancellation=True))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.2)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        for stream in list(self._streams):
            stream.cut()
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        asked = _read(request, body)
        self.requests.append(Request(asked.verb, asked.resource, asked.name, "", b""))
        fault = next((fault for fault in self._faults if fault.take(asked)), None)
        way = FaultKind.REFUSE if self._down else fault.kind if fault is not None else None
        if way is FaultKind.REFUSE:
            return _hang_up(request)
        if fault is not None and way is FaultKind.STATUS:
            return _error(fault)
        if fault is not None and way is FaultKind.DELAY:
            await fault.wait()
        if asked.verb == "watch" and self._gone > 0:
            self._gone -= 1
            return web.Response(body=_TOO_OLD, content_type="application/json")
        try:
            response = await self._forward(request, asked, lose=way is FaultKind.LOSE_REPLY)
        except ClientError:
            return _hang_up(request)
        if fault is not None and way is FaultKind.LATE_REPLY:
            await asyncio.sleep(fault.seconds)
        return response

    async def _forward(self, request: web.BaseRequest, asked: Request, *, lose: bool) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        if self._token:
            headers.setdefault("Authorization", f"Bearer {self._token}")
        url = f"{self._server}{request.raw_path}"
        skip = ("Accept-Encoding", "User-Agent", "Content-Type")
        async with self._client.request(
            request.method, url, headers=headers, data=asked.body or None, skip_auto_headers=skip
        ) as answer:
            flows = asked.verb == "watch" or request.query.get("follow") == "true"
            if flows and answer.status == web.HTTPOk.status_code:
                return await self._stream(request, answer)
            whole = await answer.read()
        if lose or self._down:
            return _hang_up(request)
        kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
        return web.Response(status=answer.status, body=whole, headers=kept)

    async def _stream(self, request: web.BaseRequest, answer: ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        stream = _Stream(request, response)
        await response.prepare(request)
        self._streams.add(stream)
        try:
            async for line in _lines(answer):
                if stream.frozen:
                    continue
                for told in self._told(stream, line):
                    await response.write(told)
            if stream.frozen:
                await asyncio.Event().wait()
        except (ClientError, OSError):
            stream.cut()
        finally:
            self._streams.discard(stream)
        return response

    def _told(self, stream: _Stream, line: bytes) -> list[bytes]:
        if stream.request.query.get("watch") != "true":
            return [line]
        item = json.loads(line).get("object") or {}
        for each in self._filters:
            if each.is_armed and each.match(item):
                each.hits += 1
                if each.action is EventAction.HOLD:
                    stream.held.append(line)
                return [line, line] if each.action is EventAction.TWICE else []
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
    if not cluster["server"].startswith("https"):
        return True
    data = cluster.get("certificate-authority-data")
    if data:
        import base64

        return ssl.create_default_context(cadata=base64.b64decode(data).decode())
    return ssl.create_default_context(cafile=cluster["certificate-authority"])


def _read(request: web.BaseRequest, body: bytes) -> Request:
    """A request to a namespace's resource, as ``/api/v1/namespaces/N/pods/NAME/log``."""
    _, _, tail = request.path.partition("/namespaces/")
    resource, name = [*tail.split("/")[1:3], "", ""][:2]
    if request.method == "GET":
        watches = request.query.get("watch") == "true"
        verb = "watch" if watches else "get" if name else "list"
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
    said = {"kind": "Status", "status": "Failure", "code": fault.code, "message": "a fault of the wire"}
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    return web.json_response(said, status=fault.code, headers=headers)


async def _lines(answer: ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in filter(None, whole):
            yield line + b"\n"
    if rest:
        yield rest
