"""The driver's own HTTP client, cheap enough not to distort what the benchmark measures."""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
RESPONSE_TIMEOUT = 60.0
"""Seconds to wait for a response."""
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
"""Accept header for changes: the object's metadata is enough to know that a change was accepted."""


class Refusal(Exception):  # noqa: N818
    """The API server answered with a status of 400 or above."""


class Client:
    """One connection, for one thread."""

    def __init__(self, port: int, authority: str, token: str) -> None:
        """Use a user's token; the connection opens with the first request."""
        self._address = ("127.0.0.1", port)
        self._authority = authority
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout: float | None = RESPONSE_TIMEOUT
        self._connection: http.client.HTTPSConnection | None = None

    def request(self, method: str, path: str, body: Object | None = None) -> bytes:
        """Send one request and return the body; after a change, the body is the object's metadata only."""
        response = self._open(method, path, body, "application/json" if method == "GET" else _METADATA_ONLY)
        content = response.read()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise Refusal(f"{method} {path}: {response.status} {content[:300]!r}")
        return content

    def watch(self, path: str) -> Iterator[Object]:
        """Yield the events of a watch, with whole objects, until the server closes it."""
        self._timeout = None  # a namespace whose jobs are all over sends no events
        response = self._open("GET", path, None, "application/json")
        while line := response.readline():
            yield json.loads(line)

    def _open(self, method: str, path: str, body: Object | None, accept: str) -> http.client.HTTPResponse:
        if self._connection is None:
            context = ssl.create_default_context(cafile=self._authority)
            self._connection = http.client.HTTPSConnection(*self._address, context=context, timeout=self._timeout)
        headers = {**self._headers, "Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return self._connection.getresponse()
