"""The meanings of errors: one table for the launcher and the doctor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.answer import Answer
from flargo.cluster.errors import MAX_MESSAGE_LENGTH, ApiError, error_from
from flargo.cluster.meaning import Meaning

MISSING_RIGHT = 'pods is forbidden: User "a" cannot create resource "pods" in API group ""'
MISSING_PATH = 'forbidden: User "system:anonymous" cannot get path "/version"'
QUOTA = 'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'
NO_REQUEST = 'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: main'
INSECURE = 'pods "p" is forbidden: violates PodSecurity "restricted:latest": host namespaces'

OTHER_UID = "the UID in the precondition (a) does not match the UID in record (b). The object might have been deleted"
STORED_UID = "Precondition failed: UID in precondition: a, UID in object meta: b"
IMMUTABLE_UID = 'Workflow.argoproj.io "w" is invalid: metadata.uid: Invalid value: "a": field is immutable'
RESOURCE_QUOTA = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified; please try again'
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
    (404, "", "page not found", Meaning.AWAY),
    (404, "NoRoute", "", Meaning.AWAY),
    (302, "", "", Meaning.AWAY),
    (409, "AlreadyExists", 'secrets "s" already exists', Meaning.EXISTS),
    (
        409,
        "Conflict",
        RESOURCE_QUOTA,
        Meaning.CONFLICT,
    ),
    (409, "Conflict", 'admission webhook "w" denied the request: try again', Meaning.CONFLICT),
    (409, "", "", Meaning.CONFLICT),
    (409, "Conflict", f'Operation cannot be fulfilled on pods "p": {OTHER_UID}', Meaning.PRECONDITION_FAILED),
    (409, "Conflict", f"StorageError: invalid object, AdditionalErrorMsg: {STORED_UID}", Meaning.PRECONDITION_FAILED),
    (409, "", OTHER_UID, Meaning.CONFLICT),
    (422, "Invalid", IMMUTABLE_UID, Meaning.PRECONDITION_FAILED),
    (410, "Expired", "too old resource version", Meaning.REFUSED),
    (422, "Invalid", 'Workflow.argoproj.io "w" is invalid: spec: Required value', Meaning.INVALID),
    (429, "TooManyRequests", "please try again later", Meaning.TOO_MANY_REQUESTS),
    (500, "InternalError", 'failed calling webhook "w"', Meaning.SERVER_ERROR),
    (500, "", "etcdserver: request timed out", Meaning.AWAY),
    (502, "", "", Meaning.AWAY),
    (503, "ServiceUnavailable", "apiserver is shutting down", Meaning.SERVER_ERROR),
    (503, "", "upstream connect error", Meaning.AWAY),
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


texts = st.one_of(st.sampled_from(["NotFound", "AlreadyExists", "Conflict", "InvalidTarget", "Status", ""]), st.text())
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
bodies = st.one_of(
    values,
    st.fixed_dictionaries({"kind": st.one_of(st.just("Status"), values), "reason": values, "message": values}),
)


@given(st.integers(300, 599), bodies)
def test_hostile_bodies_prove_nothing(status: int, body: Any) -> None:
    """Only a Status object with the right status and reason says that an object is missing or exists already."""
    error = error_from("get", "pods p", status, body)
    proof = (status, body.get("kind"), body.get("reason")) if isinstance(body, dict) else ()
    assert (error.meaning is Meaning.NOT_FOUND) == (proof == (404, "Status", "NotFound"))
    assert (error.meaning is Meaning.EXISTS) == (proof == (409, "Status", "AlreadyExists"))
    assert error.meaning not in {Meaning.INVALID_TARGET, Meaning.UNANSWERED}
    assert len(error.message) <= 2 * MAX_MESSAGE_LENGTH
    assert str(error).startswith("get pods p: ")


@given(st.integers(-1, 1000), texts, st.text(max_size=200))
def test_every_error_has_one_meaning(status: int, reason: str, message: str) -> None:
    error = ApiError("get", "pods p", status, reason, message)
    assert error.meaning is Answer(status, reason=reason, message=message).meaning
    assert (error.meaning is Meaning.UNANSWERED) == (status == 0)


def test_error_passes_a_context_manager() -> None:
    """Contextlib sets the traceback of an exception, which a frozen dataclass refuses."""

    @contextmanager
    def manager() -> Iterator[None]:
        yield

    with pytest.raises(ApiError), manager():
        raise ApiError("get", "pods x", 404, "NotFound")
