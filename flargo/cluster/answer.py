"""The API server's answer to one request, as data: an error status is an answer too, not an exception."""

from dataclasses import dataclass, field
from http import HTTPStatus

from flargo.cluster.errors import status_text
from flargo.cluster.meaning import LACKS_PERMISSION, MISSING_RIGHT, Meaning, classify
from flargo.terms import Object


@dataclass(frozen=True, slots=True)
class Answer:
    """The API server's answer, or the fact that there was none."""

    status: int
    """HTTP status; 0: no answer."""
    body: Object = field(default_factory=dict)
    """The requested object; empty if the request failed."""
    reason: str = ""
    """The reason in Kubernetes' Status object, such as ``NotFound``; empty if the response held none."""
    message: str = ""
    date: str = ""
    """The ``Date`` header: the server's clock."""
    own_meaning: Meaning | None = None
    """The meaning, where flargo itself knows it; None: the response says it."""

    @property
    def ok(self) -> bool:
        """True if the request succeeded. What is no answer of Kubernetes is none, whatever its status says."""
        return self.own_meaning is None and HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def meaning(self) -> Meaning:
        """What a failed request means."""
        return self.own_meaning or classify(self.status, self.reason, self.message)

    @property
    def not_found(self) -> bool:
        """True if the object does not exist."""
        return self.meaning is Meaning.NOT_FOUND

    @property
    def is_not_served(self) -> bool:
        """True if nothing is served at the path. Proves nothing about an object, but enough to advise on an API."""
        return self.meaning in {Meaning.NOT_FOUND, Meaning.NOT_SERVED}

    @property
    def invalid_target(self) -> bool:
        """True if no request was sent, because Kubernetes allows no object of that name."""
        return self.meaning is Meaning.INVALID_TARGET

    @property
    def lacks_permission(self) -> bool:
        """True if the account lacks the right to do this, or is not authenticated."""
        return self.meaning in LACKS_PERMISSION

    def __str__(self) -> str:
        """Return one line for people; its text may come from the API server."""
        if not self.status:
            return self.message or self.meaning.value
        if match := MISSING_RIGHT.search(self.message):
            return f"{match['user']} may not {match['verb']} {match['what']}"
        return self.message or status_text(self.status, self.reason)
