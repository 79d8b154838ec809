"""What an error of a request means, decided in one table. Pure.

Decisions are made by the meaning only; HTTP statuses, reasons and messages are for people.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus


class Meaning(Enum):
    """The meaning of an error. The value is its description where there is no HTTP status to show."""

    NOT_FOUND = "not found"
    """The object does not exist: the API server itself says so, with the reason ``NotFound``."""
    EXISTS = "it exists already"
    """An object of that name exists already."""
    PRECONDITION_FAILED = "another object has that name"
    """The object of that name has another uid than the request's."""
    CONFLICT = "a conflict"
    """Something changed at the same time: another version of the object, a quota that counts it, or what a webhook
    looks at. The same request, or its whole step, may succeed later."""
    QUOTA = "a quota"
    """A ResourceQuota of the namespace has no room, or demands a value that the object lacks."""
    FORBIDDEN = "forbidden"
    """The account lacks the right. An API server that has just started answers every request like this until it has
    read its roles (kubernetes/kubernetes#121635)."""
    UNAUTHENTICATED = "the credentials are rejected"
    TOO_MANY_REQUESTS = "too many requests"
    INVALID_TARGET = "nothing was sent"
    """Kubernetes allows no object of that name, so flargo sent nothing."""
    INVALID = "not valid"
    """The request, or an object in it, is not valid, or not valid now: a log of a container that waits to start."""
    REFUSED = "refused"
    """Any other refusal that lasts: an admission webhook, a policy, an unknown status."""
    SERVER_ERROR = "the server failed"
    """The API server has answered that it, etcd or a webhook failed."""
    AWAY = "the server is away"
    """Something else than the API server has answered (flargo.cluster.foreign_answer): a gateway in front of it, a
    login page or another service. Nothing is known about the object, nor whether the request took effect."""
    NOT_SERVED = "nothing is served at this path"
    """A 404 page like the API server's own for an API that it does not serve, such as Argo's on a cluster without it.
    Other servers written in Go have the same page, so nothing is known about the object."""
    UNANSWERED = "no answer"
    """There was no response, or an unreadable one, so it is unknown whether the request took effect."""


NO_CONTACT = frozenset({Meaning.AWAY, Meaning.NOT_SERVED, Meaning.UNANSWERED})
"""The errors of requests that the API server has not answered."""
TRANSIENT = NO_CONTACT | {Meaning.CONFLICT, Meaning.TOO_MANY_REQUESTS, Meaning.SERVER_ERROR}
"""The errors after which the same request may succeed later."""
GONE = frozenset({Meaning.NOT_FOUND, Meaning.PRECONDITION_FAILED})
"""The errors of a request to an object that was deleted, or replaced by another one of its name."""
LACKS_PERMISSION = frozenset({Meaning.FORBIDDEN, Meaning.UNAUTHENTICATED})
"""The errors of an account that may not do this, or that is not known."""

MISSING_RIGHT = re.compile(
    r'User "(?P<user>(?:[^"\\]|\\.)*)" cannot (?P<verb>[a-z]+) (?:resource|path) "(?P<what>[^"]*)"'
)
"""The API server's message for a missing right (apiserver's forbiddenMessage). Admission uses other messages."""
_QUOTA = re.compile(r"(?:exceeded|failed) quota: ")
"""Part of the messages of the quota admission (k8s.io/apiserver, plugin/resourcequota/controller.go)."""
_OTHER_UID = re.compile(r"\bUID in (?:the )?precondition\b")
"""Part of the messages for a uid in a delete's or a PUT's precondition that is not the object's (k8s.io/apiserver,
registry/rest/delete.go and storage/interfaces.go). Other conflicts of the same status are about the same object."""
_IMMUTABLE_UID = re.compile(r"\bmetadata\.uid: Invalid value\b")
"""Part of the message for a patch whose uid is not the object's (k8s.io/apimachinery, api/validation/objectmeta.go)."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A row of the table: an error that has one of the statuses, the reason and the message has the meaning."""

    meaning: Meaning
    statuses: Container[int]
    reason: re.Pattern[str] | None = None
    """A pattern that the whole reason must have; None: any reason, or none."""
    message: re.Pattern[str] | None = None
    """A pattern that the message must contain; None: any message."""

    def applies(self, status: int, reason: str, message: str) -> bool:
        """Return whether an error has this rule's meaning, provided that no earlier rule applies."""
        return (
            status in self.statuses
            and (self.reason is None or self.reason.fullmatch(reason) is not None)
            and (self.message is None or self.message.search(message) is not None)
        )


def _rule(meaning: Meaning, *statuses: int, reason: str | None = None, message: re.Pattern[str] | None = None) -> _Rule:
    return _Rule(meaning, frozenset(statuses), re.compile(reason) if reason is not None else None, message)


_SERVER_STATUSES = (408, 500, 502, 503, 504)
"""The statuses of servers and gateways after which the same request may succeed."""
_RULES = (
    _rule(Meaning.UNANSWERED, 0),
    _Rule(Meaning.AWAY, range(300, 400)),
    _rule(Meaning.NOT_FOUND, HTTPStatus.NOT_FOUND, reason="NotFound"),
    _rule(Meaning.EXISTS, HTTPStatus.CONFLICT, reason="AlreadyExists"),
    _rule(Meaning.PRECONDITION_FAILED, HTTPStatus.CONFLICT, reason="Conflict", message=_OTHER_UID),
    _rule(Meaning.PRECONDITION_FAILED, HTTPStatus.UNPROCESSABLE_ENTITY, reason="Invalid", message=_IMMUTABLE_UID),
    _rule(Meaning.CONFLICT, HTTPStatus.CONFLICT),
    _rule(Meaning.FORBIDDEN, HTTPStatus.FORBIDDEN, message=MISSING_RIGHT),
    _rule(Meaning.QUOTA, HTTPStatus.FORBIDDEN, message=_QUOTA),
    _rule(Meaning.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED),
    _rule(Meaning.TOO_MANY_REQUESTS, HTTPStatus.TOO_MANY_REQUESTS),
    _rule(Meaning.INVALID, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY),
    _rule(Meaning.SERVER_ERROR, *_SERVER_STATUSES, reason=".+"),
    _rule(Meaning.AWAY, *_SERVER_STATUSES, HTTPStatus.NOT_FOUND),
)
"""The first rule that applies decides."""


def classify(status: int, reason: str = "", message: str = "") -> Meaning:
    """Return the meaning of an error.

    Args:
        status: its HTTP status; 0: no response.
        reason: the reason in Kubernetes' Status object; empty if the body is no such object.
        message: the message in the body.
    """
    return next((rule.meaning for rule in _RULES if rule.applies(status, reason, message)), Meaning.REFUSED)
