"""flargo's API client, connected to a list of responses instead of a server."""

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from flargo.cluster.access import Access
from flargo.cluster.api import Api
from flargo.cluster.connections import Connections
from flargo.cluster.http_request import Request
from flargo.cluster.transport import Transport
from flargo.terms import Object
from tests.harness.kubernetes_api import as_kubernetes


class Response:
    """A response with the methods of urllib3's that the client calls."""

    def __init__(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers, self.reason = status, body, headers or {}, "Reason"
        self.is_released = False
        self._chunks: Any = None

    def complete(self, request: Request) -> None:
        """Add what the API server sends besides: content type, version and kind."""
        if request.target.subresource == "log":
            self.headers = {"Content-Type": "text/plain", **self.headers}
            return
        self.headers = {"Content-Type": "application/json", **self.headers}
        with suppress(ValueError, RecursionError):
            if self.status < HTTPStatus.MULTIPLE_CHOICES and request.verb != "watch":
                content = json.loads(self.body)
                self.body = json.dumps(as_kubernetes(request.method, request.target.url, content)).encode()

    def read(self, _: int | None = None) -> bytes:
        return self.body

    def stream(self, *_: Any, **__: Any) -> Any:
        yield from (self.body[at : at + 7] for at in range(0, len(self.body), 7))

    def read1(self, *_: Any, **__: Any) -> bytes:
        if self._chunks is None:
            self._chunks = iter(self.stream())
        chunk: bytes = next(self._chunks, b"")
        return chunk

    def drain_conn(self) -> None:
        self.is_released = True

    release_conn = close = drain_conn


class ScriptedConnections(Connections):
    """Connections that are all the same."""

    def __init__(self, connection: Any) -> None:
        super().__init__(lambda: None, lambda _: None)  # type: ignore[arg-type,return-value]
        self._connection = connection
        self.logins = 1

    def replace(self, rejected: Any) -> Any:
        self.logins += 1
        return rejected


class ScriptedTransport(Transport):
    """A transport that gets the given responses, one for each request; an exception among them is raised."""

    def __init__(self, *responses: Response | Exception) -> None:
        super().__init__(lambda: None)  # type: ignore[arg-type,return-value]
        self.responses = list(responses)
        self.requests: list[Request] = []
        self.scripted = self._connections = ScriptedConnections(self)

    access = Access("https://cluster.example")

    def request(self, request: Request) -> Any:
        """Answer a request, as a Connection does."""
        self.requests.append(request)
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        response.complete(request)
        return response


class ScriptedApi(Api):
    """A client with a scripted transport."""

    def __init__(self, *responses: Response | Exception, transport: ScriptedTransport | None = None) -> None:
        super().__init__(lambda: None, "ns")  # type: ignore[arg-type,return-value]
        self.scripted = self._transport = transport or ScriptedTransport(*responses)

    @property
    def requests(self) -> list[tuple[str, str, Object | None]]:
        """The methods, URLs and bodies of all requests."""
        return [(request.method, request.target.url, request.body) for request in self.scripted.requests]

    @property
    def logins(self) -> int:
        """How often a connection was opened."""
        return self.scripted.scripted.logins
