"""The driver's own, cheap way to the API server, so that the driver is not what is measured."""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
PATIENCE = 60.0
"""Seconds for an answer."""
_BRIEF = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""An answer's metadata is enough to know that a change was taken."""


class Refusal(Exception):  # noqa: N818
    """The API server said no."""


class Client:
    """One connection, for one thread."""

    def __init__(self, port: int, authority: str, token: str) -> None:
        """Of a user's token; connects at the first request."""
        self._where = ("127.0.0.1", port)
        self._authority = authority
        self._headers = {"Authorization": f"Bearer {token}"}
        self._patience: float | None = PATIENCE
        self._connection: http.client.HTTPSConnection | None = None

    def request(self, method: str, path: str, body: Object | None = None) -> bytes:
        """One request, answered as briefly as the API server can."""
        response = self._open(method, path, body, "application/json" if method == "GET" else _BRIEF)
        said = response.read()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise Refusal(f"{method} {path}: {response.status} {said[:300]!r}")
        return said

    def watch(self, path: str) -> Iterator[Object]:
        """The events of a watch, whole, for as long as the server has it go on."""
        self._patience = None  # a namespace in which all is over has nothing to tell
        response = self._open("GET", path, None, "application/json")
        while line := response.readline():
            yield json.loads(line)

    def _open(self, method: str, path: str, body: Object | None, accept: str) -> http.client.HTTPResponse:
        if self._connection is None:
            context = ssl.create_default_context(cafile=self._authority)
            self._connection = http.client.HTTPSConnection(*self._where, context=context, timeout=self._patience)
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers["Content-Type"] = kind
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return self._connection.getresponse()
