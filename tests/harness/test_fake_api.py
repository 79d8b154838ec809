"""The API in memory refuses what a real API server refuses."""

from collections.abc import Callable

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.terms import Object, Uid
from tests.harness.fake_api import MemoryApi, RecordingApi


def workflow(name: str = "job") -> Object:
    return {"metadata": {"name": name, "annotations": {"first": "1"}}, "spec": {"suspend": True}}


def status_of(write: Callable[[], object]) -> int:
    """Return the status with which a write is refused."""
    with pytest.raises(ApiError) as error:
        write()
    return error.value.status


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


def test_a_name_is_used_once(api: MemoryApi) -> None:
    uid = api.create(Kind.WORKFLOW, workflow())["metadata"]["uid"]
    with pytest.raises(ApiError) as error:
        api.create(Kind.WORKFLOW, workflow())
    assert (error.value.status, error.value.reason) == (409, "AlreadyExists")
    assert api.get(Kind.WORKFLOW, "job")["metadata"]["uid"] == uid
    assert api.create(Kind.SECRET, workflow()), "another kind may have the same name"


def test_writes_with_a_wrong_uid_are_refused(api: MemoryApi) -> None:
    uid = api.create(Kind.WORKFLOW, workflow())["metadata"]["uid"]
    for write in (
        lambda: api.delete(Kind.WORKFLOW, "job", Uid("another")),
        lambda: api.merge(Kind.WORKFLOW, "job", {"metadata": {"uid": "another"}, "spec": {"suspend": False}}),
        lambda: api.merge(Kind.WORKFLOW, "job", {"metadata": {}, "spec": {"suspend": False}}),
    ):
        with pytest.raises(ApiError) as error:
            write()
        assert error.value.meaning is Meaning.PRECONDITION_FAILED
    assert api.get(Kind.WORKFLOW, "job")["spec"] == {"suspend": True}
    api.delete(Kind.WORKFLOW, "job", Uid(uid))
    assert api.named(Kind.WORKFLOW) == []


def test_writes_over_an_old_version_are_conflicts(api: MemoryApi) -> None:
    """A write that names no version replaces any, but not that of a Lease."""
    first = api.create(Kind.WORKFLOW, workflow())
    api.replace(Kind.WORKFLOW, first)
    meta = first["metadata"]
    assert status_of(lambda: api.replace(Kind.WORKFLOW, first)) == 409
    assert status_of(lambda: api.merge(Kind.WORKFLOW, "job", {"metadata": meta, "spec": {}})) == 409
    other = {**meta, "uid": "another", "resourceVersion": None}
    assert status_of(lambda: api.replace(Kind.WORKFLOW, {"metadata": other})) == 409
    api.replace(Kind.WORKFLOW, workflow())


def test_a_lease_behaves_as_in_kubernetes(api: MemoryApi) -> None:
    """An update creates it, but not over another's uid, and replaces it only over a version."""
    lease = {"kind": "Lease", **workflow()}
    first = api.replace(Kind.LEASE, lease)
    assert first["metadata"]["managedFields"][0]["fieldsV1"] == {"f:spec": {"f:renewTime": {}}}
    with pytest.raises(ApiError) as error:
        api.replace(Kind.LEASE, lease)
    assert error.value.meaning is Meaning.INVALID
    api.delete(Kind.LEASE, "job", Uid(first["metadata"]["uid"]))
    with pytest.raises(ApiError) as error:
        api.replace(Kind.LEASE, first)
    assert error.value.meaning is Meaning.PRECONDITION_FAILED


def test_a_merge_changes_only_what_it_names(api: MemoryApi) -> None:
    uid = api.create(Kind.WORKFLOW, workflow())["metadata"]["uid"]
    patch = {"metadata": {"uid": uid, "annotations": {"second": "2"}}, "spec": {"shutdown": "Terminate"}}
    merged = api.merge(Kind.WORKFLOW, "job", patch)
    assert merged["spec"] == {"suspend": True, "shutdown": "Terminate"}
    assert merged["metadata"]["annotations"] == {"first": "1", "second": "2"}


def test_missing_objects_are_not_found(api: MemoryApi) -> None:
    for request in (
        lambda: api.get(Kind.POD, "none"),
        lambda: api.delete(Kind.POD, "none", Uid("u")),
        lambda: api.merge(Kind.POD, "none", {}),
    ):
        with pytest.raises(ApiError) as error:
            request()
        assert error.value.status == 404


def test_answers_are_copies(api: MemoryApi) -> None:
    item = workflow()
    api.create(Kind.WORKFLOW, item)["spec"]["suspend"] = False
    item["spec"]["suspend"] = False
    api.get(Kind.WORKFLOW, "job")["spec"]["suspend"] = False
    assert api.get(Kind.WORKFLOW, "job")["spec"] == {"suspend": True}


@pytest.mark.parametrize(("moment", "names"), [("before", []), ("after", ["job"])])
def test_trouble_refuses_or_loses_the_answer(api: MemoryApi, moment: str, names: list[str]) -> None:
    def trouble(_: int, when: str) -> None:
        if when == moment:
            raise ApiError("create", "workflows", 0)

    api.trouble = trouble
    with pytest.raises(ApiError):
        api.create(Kind.WORKFLOW, workflow())
    assert (api.named(Kind.WORKFLOW), api.requests) == (names, 1)


def test_recording_api_records_refused_changes_too() -> None:
    api = RecordingApi((Kind.POD, {"metadata": {"name": "p", "uid": "u"}, "spec": {}}))
    api.refusals["delete"] = ApiError("delete", "pods p", 403, "Forbidden")
    with pytest.raises(ApiError, match="403"):
        api.delete(Kind.POD, "p", Uid("u"), 3)
    assert api.changes == [("delete", Kind.POD, "p", ("u", 3))]
    assert api.named(Kind.POD) == ["p"]
