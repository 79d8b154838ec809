"""The meanings of errors: one table for the launcher and the doctor."""

import pytest

from flargo.cluster.answer import Answer
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning

MISSING_RIGHT = 'pods is forbidden: User "a" cannot create resource "pods" in API group ""'
MISSING_PATH = 'forbidden: User "system:anonymous" cannot get path "/version"'
QUOTA = 'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'
NO_REQUEST = 'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: main'
INSECURE = 'pods "p" is forbidden: violates PodSecurity "restricted:latest": host namespaces'

ROWS = [
    (0, "", "Connection refused", Meaning.UNANSWERED),
    (400, "BadRequest", 'container "main" in pod "p" is waiting to start: PodInitializing', Meaning.INVALID),
    (401, "Unauthorized", "Unauthorized", Meaning.UNAUTHENTICATED),
    (403, "Forbidden", MISSING_RIGHT, Meaning.FORBIDDEN),
    (403, "Forbidden", MISSING_PATH, Meaning.FORBIDDEN),
    (403, "Forbidden", QUOTA, Meaning.QUOTA),
    (403, "Forbidden", NO_REQUEST, Meaning.QUOTA),
    (403, "Forbidden", INSECURE, Meaning.REFUSED),
    (403, "", "", Meaning.REFUSED),
    (404, "NotFound", 'pods "p" not found', Meaning.NOT_FOUND),
    (409, "AlreadyExists", 'secrets "s" already exists', Meaning.EXISTS),
    (410, "Expired", "too old resource version", Meaning.REFUSED),
    (422, "Invalid", 'Workflow.argoproj.io "w" is invalid: spec: Required value', Meaning.INVALID),
    (429, "TooManyRequests", "please try again later", Meaning.TOO_MANY_REQUESTS),
    (500, "InternalError", 'failed calling webhook "w"', Meaning.SERVER_ERROR),
    (503, "ServiceUnavailable", "apiserver is shutting down", Meaning.SERVER_ERROR),
    (504, "Timeout", "request timed out", Meaning.SERVER_ERROR),
    (999, "", "", Meaning.REFUSED),
]


@pytest.mark.parametrize(("status", "reason", "message", "meaning"), ROWS)
def test_launcher_and_doctor_agree(status: int, reason: str, message: str, meaning: Meaning) -> None:
    assert ApiError("get", "pods p", status, reason, message).meaning is meaning
    assert Answer(status, reason=reason, message=message).meaning is meaning


def test_known_meaning_replaces_the_responses() -> None:
    """A server can't claim what only flargo can know: that nothing was sent."""
    assert ApiError("get", "pods p", 400, "InvalidTarget").meaning is not Meaning.INVALID_TARGET
    error = ApiError("get", "pods p", 400, "InvalidTarget", own_meaning=Meaning.INVALID_TARGET)
    assert error.meaning is Meaning.INVALID_TARGET
