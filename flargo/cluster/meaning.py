"""What an error of a request means, decided in one table. Pure.

Decisions are made by the meaning only; HTTP statuses, reasons and messages are for people.
"""

import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus


class Meaning(Enum):
    """The meaning of an error. The value is its description where there is no HTTP status to show."""

    NOT_FOUND = "not found"
    """The object does not exist."""
    EXISTS = "it exists already"
    """An object of that name exists already, or another version of it."""
    CONFLICT = "a conflict"
    """Something changed at the same time; the same request, or its whole step, may succeed later."""
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
    """The API server, etcd or a webhook failed."""
    UNANSWERED = "no answer"
    """There was no response, or an unreadable one, so it is unknown whether the request took effect."""


TRANSIENT = frozenset({Meaning.CONFLICT, Meaning.TOO_MANY_REQUESTS, Meaning.SERVER_ERROR, Meaning.UNANSWERED})
"""The errors after which the same request may succeed later."""
LACKS_PERMISSION = frozenset({Meaning.FORBIDDEN, Meaning.UNAUTHENTICATED})
"""The errors of an account that may not do this, or that is not known."""

MISSING_RIGHT = re.compile(
    r'User "(?P<user>(?:[^"\\]|\\.)*)" cannot (?P<verb>[a-z]+) (?:resource|path) "(?P<what>[^"]*)"'
)
"""The API server's message for a missing right (apiserver's forbiddenMessage). Admission uses other messages."""
_QUOTA = re.compile(r"(?:exceeded|failed) quota: ")
"""Part of the messages of the quota admission (k8s.io/apiserver, plugin/resourcequota/controller.go)."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A row of the table: an error that has one of the statuses and the message has the meaning."""

    meaning: Meaning
    statuses: frozenset[int]
    message: re.Pattern[str] | None = None
    """A pattern that the message must contain; None: any message."""


def _rule(meaning: Meaning, *statuses: int, message: re.Pattern[str] | None = None) -> _Rule:
    return _Rule(meaning, frozenset(statuses), message)


_RULES = (
    _rule(Meaning.UNANSWERED, 0),
    _rule(Meaning.NOT_FOUND, HTTPStatus.NOT_FOUND),
    _rule(Meaning.EXISTS, HTTPStatus.CONFLICT),
    _rule(Meaning.FORBIDDEN, HTTPStatus.FORBIDDEN, message=MISSING_RIGHT),
    _rule(Meaning.QUOTA, HTTPStatus.FORBIDDEN, message=_QUOTA),
    _rule(Meaning.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED),
    _rule(Meaning.TOO_MANY_REQUESTS, HTTPStatus.TOO_MANY_REQUESTS),
    _rule(Meaning.INVALID, HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY),
    _rule(Meaning.SERVER_ERROR, 408, 500, 502, 503, 504),
)
"""The first rule that applies decides."""


def classify(status: int, message: str = "") -> Meaning:
    """Return the meaning of an error.

    Args:
        status: its HTTP status; 0: no response.
        message: the message of its Status object.
    """
    for rule in _RULES:
        if status in rule.statuses and (rule.message is None or rule.message.search(message)):
            return rule.meaning
    return Meaning.REFUSED
