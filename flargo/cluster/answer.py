"""The API server's answer to one request, as data: an error status is an answer too, not an exception."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus

from flargo.cluster.errors import INVALID_TARGET
from flargo.terms import Object

_NO_RIGHT = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>[a-z]+) (resource|path) "(?P<what>[^"]*)"')
"""The API server's message for a missing right (apiserver's forbiddenMessage). Admission uses other messages."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The API server's answer, or the fact that there was none."""

    status: int
    """HTTP status; 0: no answer."""
    body: Object = field(default_factory=dict)
    """The requested object; empty if the request failed."""
    reason: str = ""
    """Kubernetes' machine-readable reason, such as ``NotFound``."""
    message: str = ""
    date: str = ""
    """The ``Date`` header: the server's clock."""

    @property
    def ok(self) -> bool:
        """True if the request succeeded."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def not_found(self) -> bool:
        """True if the object does not exist."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def invalid_target(self) -> bool:
        """True if no request was sent, because Kubernetes allows no object of that name."""
        return self.reason == INVALID_TARGET

    @property
    def lacks_permission(self) -> bool:
        """True if the account lacks the right to do this, or is not authenticated."""
        is_forbidden = self.status == HTTPStatus.FORBIDDEN and _NO_RIGHT.search(self.message) is not None
        return is_forbidden or self.status == HTTPStatus.UNAUTHORIZED

    def __str__(self) -> str:
        """Return one line for people; its text may come from the API server."""
        if not self.status:
            return self.message or "no answer"
        if match := _NO_RIGHT.search(self.message):
            return f"{match['user']} may not {match['verb']} {match['what']}"
        return self.message or f"{self.status} {self.reason}".strip()
