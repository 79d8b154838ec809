"""Tests of the Submitter: whatever breaks, no Secret is left without owner and no incomplete job runs."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.submit import DIGEST_ANNOTATION, SubmitError, Submitter
from flargo.terms import Annotation, Credentials, Label, Object, Plan, SecretData, Uid
from tests.harness.fake_api import IdleApi, MemoryApi
from tests.harness.objects import pod
from tests.harness.plans import LABELS, STARTUP, submit_plan

REQUESTS = 5
"""Requests of an undisturbed first submit: read the startup Secret, create it, the Workflow and its Secret, release."""


class Clock:
    """A clock that only pauses advance."""

    now = 0.0

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


def submit(
    api: MemoryApi,
    requested_plan: Plan | None = None,
    pause: Callable[[float], bool] | None = None,
    clock: Clock | None = None,
) -> None:
    """Submit a plan, with a deadline after a minute."""
    time = clock or Clock()
    Submitter(api, pause or time.pause, lambda: time.now, deadline=60.0).run(requested_plan or submit_plan())


def assert_harmless(api: MemoryApi) -> None:
    """Check that credentials have an existing owner, and that a released Workflow has its Secrets."""
    workflow = api.store.get((Kind.WORKFLOW, "job-site"))
    for name in api.named(Kind.SECRET):
        if name.startswith("nvflare-cred-"):
            (owner,) = api.store[Kind.SECRET, name]["metadata"]["ownerReferences"]
            assert workflow is not None
            assert (owner["kind"], owner["uid"]) == ("Workflow", workflow["metadata"]["uid"])
    if workflow is not None and not workflow["spec"]["suspend"]:
        assert len(api.named(Kind.SECRET)) == 2


def failure_at(number: int, when: str, status: int, times: int = 1) -> Callable[[int, str], None]:
    """Return a failure of one request: refused before it takes effect, or its response lost after it."""

    def fail(count: int, moment: str) -> None:
        if number <= count < number + times and moment == when:
            raise ApiError("any", "request", status)

    return fail


def test_number_of_requests_of_a_submit() -> None:
    """Five requests for a site's first submit, four for later ones."""
    api = MemoryApi()
    submit(api)
    assert api.requests == REQUESTS
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)
    api.store.pop((Kind.WORKFLOW, "job-site"))
    submit(api, submit_plan("a2"))
    assert api.requests == REQUESTS + 4


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [0, 429, 503])
def test_transient_error_at_any_request_is_retried(number: int, when: str, status: int) -> None:
    api = MemoryApi(failure_at(number, when, status, times=3))
    submit(api)
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [0, 403])
def test_permanent_error_leaves_nothing_running(number: int, when: str, status: int) -> None:
    api = MemoryApi(failure_at(number, when, status, times=10_000))
    with pytest.raises(SubmitError, match="any request"):
        submit(api)
    assert_harmless(api)


def test_lost_response_creates_no_second_workflow() -> None:
    api = MemoryApi(failure_at(3, "after", 0))
    submit(api)
    assert api.named(Kind.WORKFLOW) == ["job-site"]
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a1"


def test_withdrawn_launch_creates_no_workflow() -> None:
    api, clock, is_asked = MemoryApi(), Clock(), list[int]()

    def refuse() -> bool:
        is_asked.append(api.requests)
        return False

    with pytest.raises(SubmitError, match="ended before it was submitted"):
        Submitter(api, clock.pause, lambda: clock.now, 60.0, begin_create=refuse).run(submit_plan())
    assert is_asked == [2], "just before the create"
    assert api.named(Kind.WORKFLOW) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_created_workflow_is_handed_over_before_the_release(when: str) -> None:
    """Also if the response to its creation was lost."""
    api, clock, created = MemoryApi(failure_at(3, when, 0)), Clock(), list[Object]()
    Submitter(api, clock.pause, lambda: clock.now, 60.0, on_created=created.append).run(submit_plan())
    (item,) = created
    assert item["metadata"]["uid"] == api.store[Kind.WORKFLOW, "job-site"]["metadata"]["uid"]
    assert item["spec"]["suspend"] is True


class OldPod:
    """A store with the pod of an earlier Workflow of the name, and its end."""

    def __init__(self, *, is_deleted_at: float = 5.0, deleting: bool = False) -> None:
        self.clock, self.is_deleted_at = Clock(), is_deleted_at
        self.api = IdleApi()
        self.pod = pod(uid="p0", owner="w0", phase="Succeeded")
        self.pod["metadata"]["labels"] |= LABELS
        if deleting:
            self.pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.api.store[Kind.POD, "job-site"] = self.pod
        self.deletions: list[str] = []
        self.released_at: float | None = None
        self.asked: list[tuple[str, str]] = []
        self.api.delete = self._delete  # type: ignore[assignment, method-assign]
        self.api.test_ended.set()

    def _delete(self, _kind: Kind, _name: str, uid: Uid, _grace: int | None = None) -> None:
        self.deletions.append(uid)
        self.pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    def _pause(self, seconds: float) -> bool:
        self.clock.now += seconds
        if self.clock.now >= self.is_deleted_at:
            self.api.store.pop((Kind.POD, "job-site"), None)
        return False

    def submit(self, *, may_have_other_pods: bool = True) -> None:
        def ask(name: str, uid: Uid) -> bool:
            self.asked.append((name, uid))
            return may_have_other_pods

        submitter = Submitter(self.api, self._pause, lambda: self.clock.now, deadline=60.0, may_have_other_pods=ask)
        submitter.run(submit_plan())

    @property
    def is_released(self) -> bool:
        return self.api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False


def test_pod_of_an_earlier_launch_is_waited_for() -> None:
    """Argo would take the pod, with its exit, for the new Workflow's."""
    old = OldPod()
    old.submit()
    assert (old.deletions, old.is_released, old.clock.now) == (["p0"], True, 5.0)


def test_pod_that_is_being_deleted_is_only_waited_for() -> None:
    old = OldPod(deleting=True)
    old.submit()
    assert (old.deletions, old.is_released, old.clock.now) == ([], True, 5.0)


def test_pod_that_does_not_end_fails_the_launch() -> None:
    old = OldPod(is_deleted_at=1000.0)
    with pytest.raises(SubmitError, match="pods of an earlier launch of this job do not end: job-site"):
        old.submit()
    assert not old.is_released
    assert old.clock.now <= 60.0


@pytest.mark.parametrize(
    "changed",
    [
        {"ownerReferences": [{"kind": "StatefulSet", "name": "job-site", "uid": "s1"}]},
        {"ownerReferences": [{"kind": "Workflow", "name": "another", "uid": "w0"}]},
        {"labels": {**pod()["metadata"]["labels"], **LABELS, Label.SITE: "another"}},
    ],
)
def test_pod_of_somebody_else_is_not_deleted(changed: Object) -> None:
    """Who may label pods, but not delete them, could have flargo delete one."""
    old = OldPod(is_deleted_at=1000.0)
    old.pod["metadata"] |= changed
    old.submit()
    assert (old.deletions, old.is_released) == ([], True)


def test_pod_without_owner_is_deleted() -> None:
    """Somebody has deleted only the earlier Workflow (``--cascade=orphan``)."""
    old = OldPod()
    del old.pod["metadata"]["ownerReferences"]
    old.submit()
    assert (old.deletions, old.is_released) == (["p0"], True)


def test_pods_are_not_listed_without_need() -> None:
    old = OldPod()
    old.api.list = lambda *_, **__: pytest.fail("listed")  # type: ignore[method-assign]
    old.submit(may_have_other_pods=False)
    (asked,) = old.asked
    assert asked == ("job-site", old.api.store[Kind.WORKFLOW, "job-site"]["metadata"]["uid"])
    assert old.api.requests == REQUESTS


def test_own_pod_is_not_deleted() -> None:
    """A repeated release has started it already."""
    old = OldPod()
    old.pod["metadata"]["ownerReferences"][0]["uid"] = "uid-2"
    old.submit()
    assert (old.deletions, old.is_released) == ([], True)


def test_completed_earlier_launch_is_replaced() -> None:
    api = MemoryApi()
    submit(api, submit_plan("a1"))
    api.store[Kind.WORKFLOW, "job-site"]["status"] = {"phase": "Failed"}
    submit(api, submit_plan("a2"))
    workflow = api.store[Kind.WORKFLOW, "job-site"]
    assert workflow["metadata"]["annotations"][Annotation.ATTEMPT] == "a2"
    assert workflow["spec"]["suspend"] is False


def test_running_workflow_of_others_is_kept() -> None:
    api = MemoryApi()
    submit(api, submit_plan("a1"))
    api.store[Kind.WORKFLOW, "job-site"]["metadata"]["labels"] = {Label.PARENT: "other-parent"}
    with pytest.raises(SubmitError, match="other-parent"):
        submit(api, submit_plan("a2"))
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a1"


def test_completed_workflow_of_others_is_kept() -> None:
    api = MemoryApi()
    submit(api, submit_plan("a1"))
    theirs = api.store[Kind.WORKFLOW, "job-site"]
    theirs["status"] = {"phase": "Succeeded"}
    theirs["metadata"] |= {"labels": {"team": "other"}, "annotations": {}}
    with pytest.raises(SubmitError, match=r"is not this site's \(Succeeded\)"):
        submit(api, submit_plan("a2"))
    assert api.store[Kind.WORKFLOW, "job-site"] is theirs


@pytest.mark.parametrize("parent", ["an earlier run", "me"])
def test_orphan_of_the_name_is_waited_for(parent: str) -> None:
    """Somebody may have started the Workflow of an earlier launch of this run again, by Argo's Retry."""
    api = MemoryApi()
    submit(api, submit_plan("a1"))
    orphan = api.store[Kind.WORKFLOW, "job-site"]
    orphan["metadata"]["labels"][Label.PARENT] = parent
    clock = [0.0]

    def end_orphan(seconds: float) -> bool:
        clock[0] += seconds
        if clock[0] > 5:
            orphan["status"] = {"phase": "Failed"}
        return False

    Submitter(api, end_orphan, lambda: clock[0], deadline=60.0).run(submit_plan("a2"))
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a2"


def test_startup_secret_is_replaced_when_changed() -> None:
    api = MemoryApi()
    submit(api)
    before = api.store[Kind.SECRET, STARTUP.name]["metadata"]["annotations"][DIGEST_ANNOTATION]
    api.store.pop((Kind.WORKFLOW, "job-site"))
    submit(api, submit_plan("a2", SecretData(STARTUP.name, {"rootCA.pem": b"renewed"})))
    after = api.store[Kind.SECRET, STARTUP.name]
    assert after["metadata"]["annotations"][DIGEST_ANNOTATION] != before
    assert after["data"] == {"rootCA.pem": "cmVuZXdlZA=="}


def test_cancelled_submit_stops() -> None:
    calls = iter([False, False, True])
    api = MemoryApi()
    with pytest.raises(SubmitError, match="ended before"):
        submit(api, pause=lambda _: next(calls))
    assert_harmless(api)


def test_workflow_deleted_during_submit_is_no_error() -> None:
    api = MemoryApi()

    def delete(count: int, moment: str) -> None:
        if (count, moment) == (REQUESTS, "before"):
            api.store.pop((Kind.WORKFLOW, "job-site"))

    api.trouble = delete
    submit(api)
    assert api.requests == REQUESTS
    assert not api.named(Kind.WORKFLOW)


def replacing(api: MemoryApi, **owner: str) -> Plan:
    """Return the plan of a second attempt; the API has the credentials of the first one."""
    labels = {Label.MANAGED_BY.value: "flargo"}
    owners = [{"kind": "Workflow", "name": "old-job", "uid": "w1"} | owner]
    api.store[Kind.SECRET, "nvflare-cred-old"] = {
        "metadata": {"name": "nvflare-cred-old", "uid": "s1", "labels": labels, "ownerReferences": owners}
    }
    return replace(submit_plan(), replaces=Credentials("nvflare-cred-old", "old-job", Uid("w1")))


def credentials(api: MemoryApi) -> list[str]:
    return [name for name in api.named(Kind.SECRET) if name.startswith("nvflare-cred-")]


@pytest.mark.parametrize("status", [None, 503])
def test_credentials_of_the_attempt_before_are_replaced(status: int | None) -> None:
    """As late as possible: a parent that begins anew needs one of the two. Whatever request fails once."""
    api = MemoryApi()
    submit(api, replacing(api))
    (name,) = credentials(api)
    assert name != "nvflare-cred-old"
    for number in range(1, api.requests + 1) if status else ():
        for when in ("before", "after"):
            other = MemoryApi(failure_at(number, when, status or 0))
            submit(other, replacing(other))
            assert credentials(other) == [name]
            assert_harmless(other)


@pytest.mark.parametrize("owner", [{"name": "other"}, {"uid": "w2"}, {"kind": "Pod"}])
def test_credentials_of_another_workflow_are_not_deleted(owner: dict[str, str]) -> None:
    api = MemoryApi()
    submit(api, replacing(api, **owner))
    assert "nvflare-cred-old" in credentials(api)


def test_credentials_that_are_gone_need_no_replacement() -> None:
    api = MemoryApi()
    plan = replacing(api)
    del api.store[Kind.SECRET, "nvflare-cred-old"]
    submit(api, plan)
    assert len(credentials(api)) == 1


def test_plan_repr_has_no_secret_bytes() -> None:
    assert "root" not in repr(submit_plan().startup).replace("rootCA", "")
    assert "b't'" not in repr(submit_plan())


def test_long_retry_after_is_capped() -> None:
    def no_service(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 503, retry_after=3600.0)

    api = MemoryApi(no_service)
    submit(api)
    assert api.named(Kind.WORKFLOW) == ["job-site"]


MISSING_RIGHT = (
    'secrets "s" is forbidden: User "system:serviceaccount:flare:f" cannot get resource "secrets" in API group ""'
)


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
def test_forbidden_is_retried_for_a_while(number: int) -> None:
    """An API server that has just started has not loaded its roles yet."""

    def forbid_at_first(count: int, when: str) -> None:
        if number <= count < number + 5 and when == "before":
            raise ApiError("get", "secrets", 403, "Forbidden", MISSING_RIGHT)

    api = MemoryApi(forbid_at_first)
    submit(api)
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)


@pytest.mark.parametrize(
    ("message", "min_seconds", "max_seconds"),
    [
        pytest.param(MISSING_RIGHT, 10.0, 20.0, id="missing right"),
        pytest.param('pods "p" is forbidden: exceeded quota: q', 0.0, 0.0, id="refused by admission"),
    ],
)
def test_permanently_forbidden_fails_soon(message: str, min_seconds: float, max_seconds: float) -> None:
    def forbid_always(_: int, __: str) -> None:
        raise ApiError("create", "workflows", 403, "Forbidden", message)

    clock = Clock()
    with pytest.raises(SubmitError, match="forbidden"):
        submit(MemoryApi(forbid_always), clock=clock)
    assert min_seconds <= clock.now <= max_seconds
