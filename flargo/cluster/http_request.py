"""A request to the API server, as data."""

from dataclasses import dataclass

from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.target import Target
from flargo.terms import Object

READ_TIMEOUT = 15.0
"""Seconds without a byte after which a request fails; watches and logs have limits of their own."""
MAX_REQUEST_SECONDS = 30.0
"""Seconds from a request's beginning after which its response must have arrived as a whole, or it fails; one silence
more, if no byte comes at the end. Watches, and logs that a person reads, take as long as they take. The retries of
flargo.status count on it."""
JSON_CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """A request: what is sent, and how messages name it."""

    verb: str
    """The verb of a role that grants it, such as ``create``; ``log`` for reading a log."""
    what: str
    """The resource and the name of the object."""
    method: str
    target: Target
    body: Object | None = None
    content_type: str = JSON_CONTENT_TYPE
    accept: str = JSON_CONTENT_TYPE
    read_timeout: float = READ_TIMEOUT
    """Seconds without a byte after which the request fails."""

    def failure(self, message: str, cause: BaseException | None = None) -> ApiError:
        """Return the error of a request that got no answer, or one that can't be read."""
        return ApiError(self.verb, self.what, 0, message=message + (describe(cause) if cause is not None else ""))
