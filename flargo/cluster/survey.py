"""Questions about a cluster of any kind, namespaced or not, by their paths; for those who look and do not run jobs."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import urllib3

from flargo.cluster.answer import Answer
from flargo.cluster.api import READ_TIMEOUT, Connection
from flargo.terms import Object

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

_JSON = "application/json"
Keep = Callable[[Object], Object]
"""Makes of an object what is kept of it."""


class Survey:
    """An API server that is asked one question at a time. Never raises for what the server says, or does not say."""

    def __init__(self, load: Callable[[], "Configuration"]) -> None:
        """Connect with the credentials that ``load`` reads.

        Raises:
            Exception: what ``load`` raises, there being no usable configuration.
        """
        self._connection = Connection(load())

    def get(self, path: str, keep: Keep | None = None, **query: str) -> Answer:
        """Read something."""
        return self._ask("GET", path, query, None, keep)

    def post(self, path: str, body: Object, **query: str) -> Answer:
        """Create something, or have it looked at as if."""
        return self._ask("POST", path, query, body, None)

    def delete(self, path: str, uid: str) -> Answer:
        """Delete the very object that has this uid."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._ask("DELETE", path, {}, {**options, "preconditions": {"uid": uid}}, None)

    def _ask(self, method: str, path: str, query: Mapping[str, str], body: Object | None, keep: Keep | None) -> Answer:
        url = path + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._connection.request(method, url, body, _JSON, READ_TIMEOUT, accept=_JSON)
            content = response.read()
        except Exception as error:  # noqa: BLE001  (credentials are refreshed by plugins, which may raise anything)
            return Answer(0, message=_cause(error))
        date = response.headers.get("Date", "")
        response.release_conn()
        found = _parsed(content)
        if response.status < 300:  # noqa: PLR2004
            return Answer(response.status, keep(found) if keep else found, date=date)
        said = {key: str(found.get(key) or "") for key in ("reason", "message")}
        return Answer(response.status, reason=said["reason"] or str(response.reason or ""), message=said["message"])


def _parsed(content: bytes) -> Object:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _cause(error: Exception) -> str:
    """What went wrong, without urllib3's objects and their addresses in memory."""
    inner = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason else error
    said = str(inner).rpartition(">: ")[2] or type(inner).__name__
    return said.removeprefix("HTTPSConnectionPool").removeprefix("HTTPConnectionPool")
