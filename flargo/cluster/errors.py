"""The errors of the transport: of the API server, and of an Argo Server."""

import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

INVALID_TARGET = "InvalidTarget"
"""The reason of an answer that flargo gave itself: the name is none that Kubernetes has, so nothing was asked."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_NO_RIGHT = re.compile(r'User ".*" cannot \w+ resource ')


@dataclass(frozen=True)
class ApiError(Exception):
    """A request that the API server refused, or that never came to an answer.

    Never holds a request's body: that may be a Secret's.
    """

    verb: str
    what: str
    """Kind and name of the object."""
    status: int
    """HTTP status; 0: no answer, so it is unknown whether the request took effect."""
    reason: str = ""
    """Kubernetes' machine-readable reason, as ``AlreadyExists``."""
    message: str = ""
    retry_after: float | None = None
    """Seconds, where the server named them."""

    def __str__(self) -> str:
        """One line for people."""
        answer = f"{self.status} {self.reason}".strip() if self.status else "no answer"
        return f"{self.verb} {self.what}: {answer}" + (f": {self.message}" if self.message else "")

    @property
    def transient(self) -> bool:
        """Whether the same request may work later."""
        return self.status == 0 or self.status in TRANSIENT

    @property
    def lacks_permission(self) -> bool:
        """Whether who asks has no right to it; admission, quotas and policies refuse in other words.

        An API server that has just started says so of everything, until it has read its roles
        (kubernetes/kubernetes#121635).
        """
        return self.status == HTTPStatus.FORBIDDEN and _NO_RIGHT.search(self.message) is not None

    @property
    def not_found(self) -> bool:
        """Whether the object is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def invalid_target(self) -> bool:
        """Whether no object can have that name, so that nothing was sent."""
        return self.reason == INVALID_TARGET

    @property
    def conflict(self) -> bool:
        """Whether an object of that name, or another version of it, is there."""
        return self.status == HTTPStatus.CONFLICT


class ArchiveProblem(Enum):
    """What is wrong with an Argo Server, or with the way to it."""

    UNREACHED = "can't be reached"
    UNTRUSTED = "can't be trusted"
    """Its certificate is of nobody who is known, or it speaks no TLS."""
    SILENT = "does not answer in time"
    UNKNOWN = "does not know who asks"
    BARRED = "does not allow it"
    ABSENT = "does not have that"
    FAILS = "fails"
    REFUSES = "refuses"
    STRANGE = "does not answer as one"
    NO_ARCHIVE = "keeps no archive"


_BY_STATUS = {401: ArchiveProblem.UNKNOWN, 403: ArchiveProblem.BARRED, 404: ArchiveProblem.ABSENT}


@dataclass(frozen=True)
class ArchiveError(Exception):
    """An Argo Server that does not tell of its archive."""

    server: str
    """Its address."""
    problem: ArchiveProblem
    message: str = ""
    """Its own words, or the network's."""
    status: int = 0
    """HTTP status; 0: no answer, or one that is no refusal."""

    @classmethod
    def from_status(cls, server: str, status: int, said: str) -> "ArchiveError":
        """A refusal."""
        other = ArchiveProblem.FAILS if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ArchiveProblem.REFUSES
        return cls(server, _BY_STATUS.get(status, other), said, status)
