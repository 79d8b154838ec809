"""What a parent's earlier run left of a launch is read with care, and taken over in the version that was read."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.reclaim import PATIENCE_SECONDS, Reclaimer, ReclaimError
from flargo.job.names import site_labels
from flargo.terms import Object, Parent, Role
from tests.harness.fake_api import MemoryApi
from tests.harness.objects import workflow

NAME, SECRET, ATTEMPT = "job-site", "nvflare-cred-job-site-a1", "a1"
PARENT = Parent("site-1", "f" * 32, "next0run", Role.CLIENT)
LABELS = site_labels(PARENT)
DENIED_SECONDS = 15.0
"""Seconds after its start for which an API server may refuse everything."""


class Cluster:
    """An API in memory with a launch of an earlier run, and a clock that runs only while the reclaimer pauses."""

    def __init__(self) -> None:
        self.api, self.now = MemoryApi(), 0.0
        item = workflow(NAME, uid="w1", attempt=ATTEMPT, version=77, parent="earlier", phase="Running")
        item["metadata"]["labels"] |= LABELS | {"team": "heart"}
        self.api.store[Kind.WORKFLOW, NAME] = item
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": NAME, "uid": "w1"}
        self.api.store[Kind.SECRET, SECRET] = {
            "metadata": {"name": SECRET, "uid": "s1", "labels": dict(LABELS), "ownerReferences": [owner]},
            "data": {"TOKEN": base64.b64encode(b"a token").decode()},
        }
        self.reclaimer = Reclaimer(self.api, PARENT, lambda: self.now, self.pause)
        self.ends_at = float("inf")

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.ends_at

    @property
    def workflow(self) -> Object:
        return self.api.store[Kind.WORKFLOW, NAME]

    @property
    def secret(self) -> Object:
        return self.api.store[Kind.SECRET, SECRET]

    def fails(self, error: ApiError, *, until: float = float("inf"), when: str = "before") -> None:
        """Let each request fail until a time."""

        def trouble(_: int, moment: str) -> None:
            if moment == when and self.now < until:
                raise error

        self.api.trouble = trouble

    def reads(self) -> dict[str, bytes]:
        view = self.reclaimer.read_workflow(NAME, ATTEMPT)
        return self.reclaimer.read_credentials(SECRET, view)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_launch_is_read(cluster: Cluster) -> None:
    assert cluster.reclaimer.read_workflow(NAME, ATTEMPT).uid == "w1"
    assert cluster.reads() == {"TOKEN": b"a token"}


def change(*path: str, to: Any) -> Callable[[Object], None]:
    """Return a function that changes a field of an object."""

    def apply(item: Object) -> None:
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    "forge",
    [
        change("metadata", "annotations", to={"flargo.dev/attempt": "a2"}),
        change("metadata", "annotations", to={}),
        change("metadata", "annotations", to=None),
        change("metadata", "labels", "flargo.dev/site", to="site-2"),
        change("metadata", "labels", "flargo.dev/federation", to="e" * 32),
        change("metadata", "labels", "flargo.dev/federation", to=["x"]),
        change("metadata", "labels", "app.kubernetes.io/managed-by", to="somebody"),
        change("metadata", "labels", to=["a", "list"]),
        change("metadata", "labels", to=None),
        change("metadata", "uid", to=None),
        change("metadata", "uid", to="../x"),
        change("metadata", "name", to="another"),
        change("metadata", to=None),
        change("metadata", to="text"),
    ],
)
def test_another_workflow_is_not_taken_for_the_launchs(forge: Callable[[Object], None], cluster: Cluster) -> None:
    """Anybody who may write Workflows may have written this one."""
    forge(cluster.workflow)
    for attempt in (cluster.reclaimer.read_workflow, cluster.reclaimer.take):
        with pytest.raises(ReclaimError, match="is not the one that was launched"):
            attempt(NAME, ATTEMPT)


@pytest.mark.parametrize("status", [None, [], {"nodes": "text"}, {"nodes": {"n": None}}, {"phase": 7}])
def test_a_strange_status_hides_no_launch(status: object, cluster: Cluster) -> None:
    cluster.workflow["status"] = status
    assert cluster.reclaimer.read_workflow(NAME, ATTEMPT).uid == "w1"


def test_a_workflow_that_is_gone_is_named(cluster: Cluster) -> None:
    del cluster.api.store[Kind.WORKFLOW, NAME]
    for attempt in (cluster.reclaimer.read_workflow, cluster.reclaimer.take):
        with pytest.raises(ReclaimError, match="its Workflow job-site does not exist"):
            attempt(NAME, ATTEMPT)
    assert cluster.now == 0.0


def test_without_credentials_the_job_has_ended(cluster: Cluster) -> None:
    view = cluster.reclaimer.read_workflow(NAME, ATTEMPT)
    del cluster.api.store[Kind.SECRET, SECRET]
    with pytest.raises(ReclaimError, match="its credentials are deleted"):
        cluster.reclaimer.read_credentials(SECRET, view)


@pytest.mark.parametrize(
    "forge",
    [
        change("metadata", "ownerReferences", to=[]),
        change("metadata", "ownerReferences", to=[{"kind": "Workflow", "name": NAME, "uid": "w2"}]),
        change("metadata", "labels", to={}),
        change("metadata", to=[]),
    ],
)
def test_another_secret_is_not_taken_for_the_launchs(forge: Callable[[Object], None], cluster: Cluster) -> None:
    forge(cluster.secret)
    with pytest.raises(ReclaimError, match="is not that of its Workflow"):
        cluster.reads()


@pytest.mark.parametrize("value", ["%%%", "YQ", 7, None, ["YQ=="], {"a": 1}, "ü"])
def test_damaged_credentials_are_refused(value: object, cluster: Cluster) -> None:
    cluster.secret["data"] = {"TOKEN": value}
    with pytest.raises(ReclaimError, match="is damaged"):
        cluster.reads()


@pytest.mark.parametrize("data", [None, {}, "text", []])
def test_a_secret_without_content_has_none(data: object, cluster: Cluster) -> None:
    cluster.secret["data"] = data
    assert cluster.reads() == {}


PASSING = [
    ApiError("get", NAME, 0),
    ApiError("get", NAME, 500, "InternalError"),
    ApiError("get", NAME, 503, "ServiceUnavailable"),
    ApiError("get", NAME, 429, "TooManyRequests", retry_after=3.0),
    ApiError("get", NAME, 404),
]
DENIALS = [
    ApiError("get", NAME, 401, "Unauthorized"),
    ApiError("get", NAME, 403, "Forbidden", 'User "x" cannot get resource "secrets"'),
]


@pytest.mark.parametrize("error", PASSING)
def test_a_long_outage_loses_no_job(error: ApiError, cluster: Cluster) -> None:
    """A job that trains for weeks must not end because the API server was away when its parent came back."""
    cluster.fails(error, until=PATIENCE_SECONDS - 10)
    assert cluster.reads() == {"TOKEN": b"a token"}
    cluster.reclaimer.take(NAME, ATTEMPT)
    assert cluster.api.requests < 50


@pytest.mark.parametrize("error", PASSING)
def test_an_endless_outage_ends_the_wait(error: ApiError, cluster: Cluster) -> None:
    """All jobs share the time, so that a parent with many jobs waits no longer."""
    cluster.fails(error)
    for _ in range(20):
        with pytest.raises(ReclaimError, match="get job-site"):
            cluster.reads()
    assert cluster.now <= PATIENCE_SECONDS


@pytest.mark.parametrize("error", DENIALS)
def test_an_api_server_that_starts_may_refuse(error: ApiError, cluster: Cluster) -> None:
    cluster.fails(error, until=DENIED_SECONDS - 5)
    assert cluster.reads() == {"TOKEN": b"a token"}


@pytest.mark.parametrize("error", DENIALS)
def test_a_missing_right_is_told_soon(error: ApiError, cluster: Cluster) -> None:
    cluster.fails(error)
    with pytest.raises(ReclaimError, match=error.reason):
        cluster.reads()
    assert cluster.now <= DENIED_SECONDS


@pytest.mark.parametrize("error", [ApiError("get", NAME, 400, "BadRequest"), ApiError("get", NAME, 422, "Invalid")])
def test_what_never_passes_is_not_repeated(error: ApiError, cluster: Cluster) -> None:
    cluster.fails(error)
    with pytest.raises(ReclaimError, match=error.reason):
        cluster.reads()
    assert (cluster.now, cluster.api.requests) == (0.0, 1)


def test_a_shutdown_ends_the_wait(cluster: Cluster) -> None:
    cluster.ends_at = 3.0
    cluster.fails(PASSING[0])
    with pytest.raises(ReclaimError):
        cluster.reads()
    assert cluster.now < 10.0


def test_only_the_parent_changes(cluster: Cluster) -> None:
    before = {**cluster.workflow["metadata"]["labels"]}
    view = cluster.reclaimer.take(NAME, ATTEMPT)
    assert (view.uid, cluster.workflow["metadata"]["labels"]) == ("w1", before | {"flargo.dev/parent": "next0run"})
    assert cluster.workflow["metadata"]["annotations"] == {"flargo.dev/attempt": ATTEMPT}
    assert cluster.workflow["spec"] == {}


def conflicts(cluster: Cluster, times: int, meanwhile: Callable[[Object], None] = lambda _: None) -> None:
    """Let somebody change the Workflow before each of so many patches."""
    merge, left = cluster.api.merge, [times]

    def change_first(kind: Kind, name: str, patch: Object) -> Object:
        if left[0]:
            left[0] -= 1
            meanwhile(cluster.workflow)
            cluster.api._stamp(kind, cluster.workflow)
        return merge(kind, name, patch)

    cluster.api.merge = change_first  # type: ignore[method-assign]


def test_a_change_at_the_same_moment_is_read(cluster: Cluster) -> None:
    conflicts(cluster, 2, change("status", "phase", to="Succeeded"))
    assert cluster.reclaimer.take(NAME, ATTEMPT).is_completed
    assert cluster.workflow["metadata"]["labels"]["flargo.dev/parent"] == "next0run"


def test_endless_changes_end_the_takeover(cluster: Cluster) -> None:
    conflicts(cluster, 1000)
    with pytest.raises(ReclaimError, match="changes faster"):
        cluster.reclaimer.take(NAME, ATTEMPT)
    assert cluster.workflow["metadata"]["labels"]["flargo.dev/parent"] == "earlier"


@pytest.mark.parametrize(
    "forge",
    [
        change("metadata", "annotations", to={"flargo.dev/attempt": "a2"}),
        change("metadata", "labels", "flargo.dev/site", to="site-2"),
    ],
)
def test_a_workflow_that_is_replaced_meanwhile_is_not_taken(forge: Callable[[Object], None], cluster: Cluster) -> None:
    conflicts(cluster, 1, forge)
    with pytest.raises(ReclaimError, match="is not the one"):
        cluster.reclaimer.take(NAME, ATTEMPT)
    assert cluster.workflow["metadata"]["labels"]["flargo.dev/parent"] == "earlier"


def test_a_copy_of_the_workflow_is_not_taken_by_mistake(cluster: Cluster) -> None:
    """It was deleted and created again after it was read; the patch names the uid."""
    conflicts(cluster, 1, change("metadata", "uid", to="w2"))
    with pytest.raises(ReclaimError):
        cluster.reclaimer.take(NAME, ATTEMPT)
    assert cluster.workflow["metadata"]["labels"]["flargo.dev/parent"] == "earlier"


def test_a_takeover_whose_answer_is_lost_is_found(cluster: Cluster) -> None:
    answered: list[int] = []

    def lose_the_first_patch(number: int, when: str) -> None:
        if number == 2 and when == "after":
            answered.append(number)
            raise ApiError("patch", NAME, 0)

    cluster.api.trouble = lose_the_first_patch
    assert cluster.reclaimer.take(NAME, ATTEMPT).parent in {"earlier", "next0run"}
    assert (answered, cluster.workflow["metadata"]["labels"]["flargo.dev/parent"]) == ([2], "next0run")
