"""flargo's API client, connected to a list of responses instead of a server."""

from typing import Any

from flargo.cluster.api import Api
from flargo.cluster.target import Target
from flargo.terms import Object


class Response:
    """A response with the methods of urllib3's that the client calls."""

    def __init__(self, status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers, self.reason = status, body, headers or {}, "Reason"
        self.is_released = False

    def read(self, _: int | None = None) -> bytes:
        return self.body

    def stream(self, *_: Any, **__: Any) -> Any:
        yield from (self.body[at : at + 7] for at in range(0, len(self.body), 7))

    def drain_conn(self) -> None:
        self.is_released = True

    release_conn = close = drain_conn


class ScriptedApi(Api):
    """A client that gets the given responses, one for each request; an exception among them is raised."""

    def __init__(self, *responses: Response | Exception) -> None:
        super().__init__(lambda: None, "ns")  # type: ignore[arg-type,return-value]
        self.responses = list(responses)
        self.logins = 0
        self.requests: list[tuple[str, str, Object | None]] = []

    def _connect(self, _verb: str, _what: str, failed_connection: Any = None) -> Any:
        self.logins += self._connection in (None, failed_connection)
        self._connection = self  # type: ignore[assignment]
        return self

    def request(self, method: str, target: Target, body: Object | None, *_: Any) -> Any:
        self.requests.append((method, target.url, body))
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response
