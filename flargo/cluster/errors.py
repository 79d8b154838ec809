"""The one error of the transport."""

from dataclasses import dataclass
from http import HTTPStatus

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


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
    def gone(self) -> bool:
        """Whether the object is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        """Whether an object of that name, or another version of it, is there."""
        return self.status == HTTPStatus.CONFLICT
