"""What the API server said to one question, whatever it was: a refusal is an answer too."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus

from flargo.cluster.errors import INVALID_TARGET
from flargo.terms import Object

_NO_RIGHT = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>[a-z]+) (resource|path) "(?P<what>[^"]*)"')
"""How the API server says that somebody lacks a right (apiserver's forbiddenMessage); admission speaks otherwise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, or the lack of one."""

    status: int
    """HTTP status; 0: no answer."""
    body: Object = field(default_factory=dict)
    """What was asked for; of a refusal nothing."""
    reason: str = ""
    """Kubernetes' machine-readable reason, as ``NotFound``."""
    message: str = ""
    date: str = ""
    """The ``Date`` header, by the server's clock."""

    @property
    def ok(self) -> bool:
        """Whether it is what was asked for."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def not_found(self) -> bool:
        """Whether the thing is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def invalid_target(self) -> bool:
        """Whether nothing was asked, because there can be no object of such a name."""
        return self.reason == INVALID_TARGET

    @property
    def lacks_permission(self) -> bool:
        """Whether whoever asked lacks the right to."""
        lacks = self.status == HTTPStatus.FORBIDDEN and _NO_RIGHT.search(self.message) is not None
        return lacks or self.status == HTTPStatus.UNAUTHORIZED

    def __str__(self) -> str:
        """One line for people."""
        if not self.status:
            return self.message or "no answer"
        if lacking := _NO_RIGHT.search(self.message):
            return f"{lacking['user']} may not {lacking['verb']} {lacking['what']}"
        return self.message or f"{self.status} {self.reason}".strip()
