"""Questions about a cluster of any kind, namespaced or not, by their paths; for those who look and do not run jobs."""

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from flargo.cluster.answer import Answer
from flargo.cluster.api import (
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

_JSON = "application/json"
Trim = Callable[[Object], Object]
"""Makes of an object what is kept of it."""


BuildTarget = Callable[[], Target]
"""Builds the path of a question. It may raise InvalidTargetError: names come from kits and from the cluster."""


class Survey:
    """An API server that is asked one question at a time. Never raises for what the server says, or does not say."""

    def __init__(self, load: Callable[[], "Configuration"], on_credential: CredentialCallback = lambda _: None) -> None:
        """Connect with the credentials that ``load`` reads.

        Raises:
            Exception: what ``load`` raises, there being no usable configuration.
        """
        self._connection = Connection(load(), on_credential)

    def get(self, to: BuildTarget, keep: Trim | None = None) -> Answer:
        """Read something."""
        return self._ask("GET", to, None, keep)

    def post(self, to: BuildTarget, body: Object) -> Answer:
        """Create something, or have it looked at as if."""
        return self._ask("POST", to, body, None)

    def delete(self, to: BuildTarget, uid: str) -> Answer:
        """Delete the very object that has this uid."""
        if not is_uid(uid):
            return Answer(0, message="no uid: another object of that name could be deleted", reason=INVALID_TARGET)
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._ask("DELETE", to, {**options, "preconditions": {"uid": uid}}, None)

    def _ask(self, method: str, to: BuildTarget, body: Object | None, keep: Trim | None) -> Answer:
        try:
            where = to()
        except InvalidTargetError as error:
            return Answer(0, message=str(error), reason=INVALID_TARGET)
        return self._send(method, where, body, keep)

    def _send(self, method: str, where: Target, body: Object | None, keep: Trim | None) -> Answer:
        try:
            response = self._connection.request(method, where, body, _JSON, READ_TIMEOUT, accept=_JSON)
            content = read_bounded(
                response, MAX_RESPONSE_BYTES if response.status < HTTPStatus.BAD_REQUEST else MAX_ERROR_RESPONSE_BYTES
            )
        except Exception as error:  # noqa: BLE001  (credentials are refreshed by plugins, which may raise anything)
            return Answer(0, message=describe(error))
        date = response.headers.get("Date", "")
        response.release_conn()
        found = _parsed(content)
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return Answer(response.status, keep(found) if keep else found, date=date)
        said = {key: str(found.get(key) or "")[:MAX_MESSAGE_LENGTH] for key in ("reason", "message")}
        return Answer(response.status, reason=said["reason"] or str(response.reason or ""), message=said["message"])


def _parsed(content: bytes) -> Object:
    try:
        found = load_json(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
