"""A client for requests of any kind, by their paths, that returns errors as data. ``flargo doctor`` uses it.

The launcher uses Api instead, which knows one namespace and a few kinds.
"""

from collections.abc import Callable
from http import HTTPStatus

from flargo.cluster.answer import Answer
from flargo.cluster.client_config import LoadConfig
from flargo.cluster.connection import CredentialCallback
from flargo.cluster.errors import ApiError
from flargo.cluster.http_request import Request
from flargo.cluster.meaning import Meaning
from flargo.cluster.target import InvalidTargetError, Target
from flargo.cluster.transport import Transport
from flargo.parsing import is_uid
from flargo.terms import Object

Trim = Callable[[Object], Object]
"""Reduces an object to the part of it that is kept."""
BuildTarget = Callable[[], Target]
"""Builds the path of a request. It may raise InvalidTargetError: names come from kits and from the cluster."""


class Survey:
    """A client of an API server that returns an Answer for every request, and raises nothing for a failed one."""

    def __init__(self, load: LoadConfig, on_credential: CredentialCallback = lambda _: None) -> None:
        """Load the configuration; no request is sent yet.

        Args:
            load: reads the configuration with its credentials.
            on_credential: called with each credential before it is sent.

        Raises:
            Exception: ``load`` raised it, because there is no usable configuration.
        """
        self._transport = Transport(load, on_credential, max_wait=None)
        self._transport.connect()

    def get(self, build_target: BuildTarget, trim: Trim | None = None) -> Answer:
        """Read an object or a list; ``trim`` reduces it to the part that is kept."""
        return self._request("GET", build_target, None, trim)

    def post(self, build_target: BuildTarget, body: Object) -> Answer:
        """Create an object, or let the server check it in a dry run."""
        return self._request("POST", build_target, body, None)

    def delete(self, build_target: BuildTarget, uid: str) -> Answer:
        """Delete the object, provided that it has this uid."""
        if not is_uid(uid):
            message = "no uid: another object of that name could be deleted"
            return Answer(0, message=message, own_meaning=Meaning.INVALID_TARGET)
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._request("DELETE", build_target, {**options, "preconditions": {"uid": uid}}, None)

    def _request(self, method: str, build_target: BuildTarget, body: Object | None, trim: Trim | None) -> Answer:
        try:
            target = build_target()
        except InvalidTargetError as error:
            return Answer(0, message=str(error), own_meaning=Meaning.INVALID_TARGET)
        return self._send(method, target, body, trim)

    def _send(self, method: str, target: Target, body: Object | None, trim: Trim | None) -> Answer:
        try:
            item, date = self._transport.read(Request(method.lower(), target.url, method, target, body))
        except ApiError as error:
            return Answer(error.status, reason=error.reason, message=error.message, own_meaning=error.own_meaning)
        return Answer(HTTPStatus.OK, trim(item) if trim else item, date=date)
