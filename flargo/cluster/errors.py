"""The errors that requests to the API server and to an Argo Server raise."""

from dataclasses import dataclass, replace
from enum import Enum
from http import HTTPStatus
from typing import Any

from flargo.cluster.meaning import TRANSIENT, Meaning, classify

MAX_MESSAGE_LENGTH = 4096
"""Characters that are kept of an error's message and reason."""


@dataclass(unsafe_hash=True)
class ApiError(Exception):
    """The API server refused a request, or did not answer it.

    It is not frozen, because contextlib sets the traceback of an exception that passes a context manager.

    The error never holds a request's body, which may be a Secret.
    """

    verb: str
    what: str
    """The resource and the name of the object."""
    status: int
    """HTTP status; 0: there was no response."""
    reason: str = ""
    """The reason in Kubernetes' Status object, such as ``AlreadyExists``; empty if the response held none."""
    message: str = ""
    retry_after: float | None = None
    """Seconds of the Retry-After header, if the server sent one."""

    own_meaning: Meaning | None = None
    """The meaning, where flargo itself knows it; None: the response says it."""

    def __str__(self) -> str:
        """Return one line for people; its text may come from the API server."""
        answer = status_text(self.status, self.reason) if self.status else self.meaning.value
        names_answer = self.own_meaning in {Meaning.AWAY, Meaning.NOT_SERVED}
        parts = (f"{self.verb} {self.what}", "" if names_answer else answer, self.message)
        return ": ".join(filter(None, parts))

    @property
    def meaning(self) -> Meaning:
        """What the error means. Decisions are made by it."""
        return self.own_meaning or classify(self.status, self.reason, self.message)

    @property
    def is_foreign(self) -> bool:
        """True if something else than the API server has answered. The message names the server and the status then."""
        return self.own_meaning is Meaning.AWAY

    @property
    def brief(self) -> str:
        """The error in one line; of an answer of something else only that, since the transport has logged the rest."""
        return "something else than the API server answers" if self.is_foreign else str(self)

    @property
    def is_transient(self) -> bool:
        """True if the same request may succeed later."""
        return self.meaning in TRANSIENT


def error_from(verb: str, what: str, status: int, content: Any, retry_after: float | None = None) -> ApiError:
    """Return the error that a server's error response stands for.

    Args:
        verb: the verb of the request.
        what: the resource and the name of the object.
        status: the HTTP status, or the code of a Status object in a watch.
        content: the parsed body: a Status object of Kubernetes, or anything.
        retry_after: the seconds of a Retry-After header, if there was one.
    """
    if not isinstance(content, dict) or content.get("kind") != "Status":
        return ApiError(verb, what, status, "", _NOT_KUBERNETES, retry_after, Meaning.AWAY)
    reason, message = (_text(content.get(key)) for key in ("reason", "message"))
    error = ApiError(verb, what, status, reason, message, retry_after)
    if error.meaning is Meaning.AWAY:
        return replace(error, message=": ".join(filter(None, (_NOT_KUBERNETES, message))))
    return error


_NOT_KUBERNETES = "this is no answer of the API server; a gateway in front of it may have answered"


def _text(value: Any) -> str:
    return value[:MAX_MESSAGE_LENGTH] if isinstance(value, str) else ""


def status_text(status: int, reason: str) -> str:
    """Return an HTTP status with the server's reason, or with the words of the status if there was none."""
    words = reason or (HTTPStatus(status).phrase if status in set(HTTPStatus) else "")
    return f"{status} {words}".strip()


class ArchiveProblem(Enum):
    """A reason why an Argo Server's archive can't be read. The value follows "the Argo Server https://..."."""

    UNREACHABLE = "can't be reached"
    UNTRUSTED = "can't be trusted"
    """Its certificate is signed by an unknown authority, or it does not speak TLS."""
    TIMEOUT = "does not answer in time"
    UNAUTHENTICATED = "requires a valid token"
    FORBIDDEN = "denies access"
    NOT_FOUND = "does not have this path"
    SERVER_ERROR = "fails"
    REFUSED = "refuses the request"
    INVALID_ANSWER = "does not answer like an Argo Server"
    NO_ARCHIVE = "keeps no archive"


_PROBLEMS_BY_STATUS = {
    401: ArchiveProblem.UNAUTHENTICATED,
    403: ArchiveProblem.FORBIDDEN,
    404: ArchiveProblem.NOT_FOUND,
}


@dataclass(unsafe_hash=True)
class ArchiveError(Exception):
    """An Argo Server's archive can't be read."""

    server: str
    """The server's address."""
    problem: ArchiveProblem
    message: str = ""
    """Details: the server's own message, or flargo's description of the failure."""
    status: int = 0
    """HTTP status of an error response; 0: there was none."""

    @classmethod
    def from_status(cls, server: str, status: int, message: str) -> "ArchiveError":
        """Return the error for a response with an error status."""
        is_server_error = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        other = ArchiveProblem.SERVER_ERROR if is_server_error else ArchiveProblem.REFUSED
        return cls(server, _PROBLEMS_BY_STATUS.get(status, other), message, status)
