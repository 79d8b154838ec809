"""A client for requests of any kind, by their paths, that returns errors as data. ``flargo doctor`` uses it.

The launcher uses Api instead, which knows one namespace and a few kinds.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flargo.cluster.answer import Answer
from flargo.cluster.api import (
    JSON_CONTENT_TYPE,
    MAX_ERROR_RESPONSE_BYTES,
    MAX_MESSAGE_LENGTH,
    MAX_RESPONSE_BYTES,
    READ_TIMEOUT,
    Connection,
    CredentialCallback,
    read_bounded,
)
from flargo.cluster.error_text import describe
from flargo.cluster.errors import INVALID_TARGET
from flargo.cluster.target import InvalidTargetError, Target
from flargo.parsing import is_uid, load_json
from flargo.terms import Object

if TYPE_CHECKING:
    from kubernetes.client.configuration import Configuration

Trim = Callable[[Object], Object]
"""Reduces an object to the part of it that is kept."""
BuildTarget = Callable[[], Target]
"""Builds the path of a request. It may raise InvalidTargetError: names come from kits and from the cluster."""


class Survey:
    """A client of an API server that returns an Answer for every request, and raises nothing for a failed one."""

    def __init__(self, load: Callable[[], "Configuration"], on_credential: CredentialCallback = lambda _: None) -> None:
        """Load the configuration; no request is sent yet.

        Args:
            load: reads the configuration with its credentials.
            on_credential: called with each credential before it is sent.

        Raises:
            Exception: ``load`` raised it, because there is no usable configuration.
        """
        self._connection = Connection(load(), on_credential)

    def get(self, build_target: BuildTarget, trim: Trim | None = None) -> Answer:
        """Read an object or a list; ``trim`` reduces it to the part that is kept."""
        return self._request("GET", build_target, None, trim)

    def post(self, build_target: BuildTarget, body: Object) -> Answer:
        """Create an object, or let the server check it in a dry run."""
        return self._request("POST", build_target, body, None)

    def delete(self, build_target: BuildTarget, uid: str) -> Answer:
        """Delete the object, provided that it has this uid."""
        if not is_uid(uid):
            return Answer(0, message="no uid: another object of that name could be deleted", reason=INVALID_TARGET)
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._request("DELETE", build_target, {**options, "preconditions": {"uid": uid}}, None)

    def _request(self, method: str, build_target: BuildTarget, body: Object | None, trim: Trim | None) -> Answer:
        try:
            target = build_target()
        except InvalidTargetError as error:
            return Answer(0, message=str(error), reason=INVALID_TARGET)
        return self._send(method, target, body, trim)

    def _send(self, method: str, target: Target, body: Object | None, trim: Trim | None) -> Answer:
        try:
            response = self._connection.request(
                method, target, body, JSON_CONTENT_TYPE, READ_TIMEOUT, accept=JSON_CONTENT_TYPE
            )
            content = read_bounded(
                response, MAX_RESPONSE_BYTES if response.status < HTTPStatus.BAD_REQUEST else MAX_ERROR_RESPONSE_BYTES
            )
        except Exception as error:  # noqa: BLE001  (credentials are refreshed by plugins, which may raise anything)
            return Answer(0, message=describe(error))
        date = response.headers.get("Date", "")
        response.release_conn()
        item = _parse_object(content)
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return Answer(response.status, trim(item) if trim else item, date=date)
        reason, message = (str(item.get(key) or "")[:MAX_MESSAGE_LENGTH] for key in ("reason", "message"))
        return Answer(response.status, reason=reason or str(response.reason or ""), message=message)


def _parse_object(content: bytes) -> Object:
    """Parse a JSON object; return an empty one for anything else."""
    try:
        item = load_json(content)
    except ValueError:
        return {}
    return item if isinstance(item, dict) else {}
