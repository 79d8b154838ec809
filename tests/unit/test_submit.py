"""Putting a plan on the cluster: whatever breaks, no Secret is left alone and no half-made job runs."""

from collections.abc import Callable

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.submit import DIGEST_ANNOTATION, SubmitError, Submitter
from flargo.terms import Annotation, Label, Plan, SecretData
from tests.harness.fake_api import MemoryApi
from tests.harness.plans import STARTUP, plan

REQUESTS = 5
"""Of an undisturbed first submit: look for the startup Secret, create it, the Workflow, its Secret; release."""


class Clock:
    """It moves only by pausing."""

    now = 0.0

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


def submit(
    api: MemoryApi,
    wanted: Plan | None = None,
    pause: Callable[[float], bool] | None = None,
    clock: Clock | None = None,
) -> None:
    """Submit, for a minute at the most."""
    time = clock or Clock()
    Submitter(api, pause or time.pause, lambda: time.now, deadline=60.0).run(wanted or plan())


def assert_harmless(api: MemoryApi) -> None:
    """No credentials without an owner that is there, and none missing from a Workflow that may run."""
    workflow = api.store.get((Kind.WORKFLOW, "job-site"))
    for name in api.named(Kind.SECRET):
        if name.startswith("nvflare-cred-"):
            (owner,) = api.store[Kind.SECRET, name]["metadata"]["ownerReferences"]
            assert workflow is not None
            assert (owner["kind"], owner["uid"]) == ("Workflow", workflow["metadata"]["uid"])
    if workflow is not None and not workflow["spec"]["suspend"]:
        assert len(api.named(Kind.SECRET)) == 2


def failing(number: int, when: str, status: int, times: int = 1) -> Callable[[int, str], None]:
    """Trouble with one request: refused before it takes effect, or its answer lost after."""

    def trouble(count: int, moment: str) -> None:
        if number <= count < number + times and moment == when:
            raise ApiError("any", "request", status)

    return trouble


def test_a_plan_is_put_on_the_cluster_with_five_requests_the_first_time_and_four_later() -> None:
    api = MemoryApi()
    submit(api)
    assert api.requests == REQUESTS
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)
    api.store.pop((Kind.WORKFLOW, "job-site"))
    submit(api, plan("a2"))
    assert api.requests == REQUESTS + 4


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_passing_trouble_at_any_request_is_outlasted(number: int, when: str, status: int) -> None:
    api = MemoryApi(failing(number, when, status, times=3))
    submit(api)
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [0, 403])
def test_trouble_that_stays_is_named_and_leaves_nothing_that_runs_or_leaks(number: int, when: str, status: int) -> None:
    api = MemoryApi(failing(number, when, status, times=10_000))
    with pytest.raises(SubmitError, match="any request"):
        submit(api)
    assert_harmless(api)


def test_an_answer_that_was_lost_does_not_make_a_second_workflow() -> None:
    api = MemoryApi(failing(3, "after", 0))
    submit(api)
    assert api.named(Kind.WORKFLOW) == ["job-site"]
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a1"


def test_an_earlier_launch_that_has_finished_makes_room() -> None:
    api = MemoryApi()
    submit(api, plan("a1"))
    api.store[Kind.WORKFLOW, "job-site"]["status"] = {"phase": "Failed"}
    submit(api, plan("a2"))
    found = api.store[Kind.WORKFLOW, "job-site"]
    assert found["metadata"]["annotations"][Annotation.ATTEMPT] == "a2"
    assert found["spec"]["suspend"] is False


def test_a_launch_of_somebody_else_that_lives_is_left_alone_and_named() -> None:
    api = MemoryApi()
    submit(api, plan("a1"))
    api.store[Kind.WORKFLOW, "job-site"]["metadata"]["labels"] = {Label.PARENT: "other-parent"}
    with pytest.raises(SubmitError, match="other-parent"):
        submit(api, plan("a2"))
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a1"


def test_what_an_earlier_run_of_the_parent_left_is_waited_out() -> None:
    api = MemoryApi()
    submit(api, plan("a1"))
    left = api.store[Kind.WORKFLOW, "job-site"]
    left["metadata"]["labels"][Label.PARENT] = "an earlier run"
    slept = [0.0]

    def end_the_orphan(seconds: float) -> bool:
        slept[0] += seconds
        if slept[0] > 5:
            left["status"] = {"phase": "Failed"}
        return False

    Submitter(api, end_the_orphan, lambda: slept[0], deadline=60.0).run(plan("a2"))
    assert api.store[Kind.WORKFLOW, "job-site"]["metadata"]["annotations"][Annotation.ATTEMPT] == "a2"


def test_the_startup_secret_is_written_again_only_when_the_kit_has_changed() -> None:
    api = MemoryApi()
    submit(api)
    before = api.store[Kind.SECRET, STARTUP.name]["metadata"]["annotations"][DIGEST_ANNOTATION]
    api.store.pop((Kind.WORKFLOW, "job-site"))
    submit(api, plan("a2", SecretData(STARTUP.name, {"rootCA.pem": b"renewed"})))
    after = api.store[Kind.SECRET, STARTUP.name]
    assert after["metadata"]["annotations"][DIGEST_ANNOTATION] != before
    assert after["data"] == {"rootCA.pem": "cmVuZXdlZA=="}


def test_a_job_that_is_no_longer_wanted_is_not_submitted_any_further() -> None:
    calls = iter([False, False, True])
    api = MemoryApi()
    with pytest.raises(SubmitError, match="ended before"):
        submit(api, pause=lambda _: next(calls))
    assert_harmless(api)


def test_a_workflow_that_somebody_deletes_meanwhile_is_no_failed_launch() -> None:
    api = MemoryApi()

    def delete(count: int, moment: str) -> None:
        if (count, moment) == (REQUESTS, "before"):
            api.store.pop((Kind.WORKFLOW, "job-site"))

    api.trouble = delete
    submit(api)
    assert api.requests == REQUESTS
    assert not api.named(Kind.WORKFLOW)


def test_no_secret_byte_is_in_a_plans_repr() -> None:
    assert "root" not in repr(plan().startup).replace("rootCA", "")
    assert "b't'" not in repr(plan())


def test_a_gateway_that_asks_for_an_hour_ends_no_launch_that_has_time_left() -> None:
    def away(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 503, retry_after=3600.0)

    api = MemoryApi(away)
    submit(api)
    assert api.named(Kind.WORKFLOW) == ["job-site"]


BARRED = 'secrets "s" is forbidden: User "system:serviceaccount:flare:f" cannot get resource "secrets" in API group ""'


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
def test_an_api_server_that_has_not_read_its_roles_yet_fails_no_launch(number: int) -> None:
    def forgetful(count: int, when: str) -> None:
        if number <= count < number + 5 and when == "before":
            raise ApiError("get", "secrets", 403, "Forbidden", BARRED)

    api = MemoryApi(forgetful)
    submit(api)
    assert api.store[Kind.WORKFLOW, "job-site"]["spec"]["suspend"] is False
    assert_harmless(api)


@pytest.mark.parametrize(
    ("message", "least", "most"),
    [
        pytest.param(BARRED, 10.0, 20.0, id="a right that is missing for good"),
        pytest.param('pods "p" is forbidden: exceeded quota: q', 0.0, 0.0, id="what admission refuses"),
    ],
)
def test_what_is_forbidden_for_good_fails_the_launch_soon(message: str, least: float, most: float) -> None:
    def forbidding(_: int, __: str) -> None:
        raise ApiError("create", "workflows", 403, "Forbidden", message)

    clock = Clock()
    with pytest.raises(SubmitError, match="forbidden"):
        submit(MemoryApi(forbidding), clock=clock)
    assert least <= clock.now <= most
