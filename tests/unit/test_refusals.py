"""Refusals of the API server, and answers of a gateway in front of it, over real HTTP: what the launcher makes of them.

A gateway's answer says nothing about an object, and a conflict of something else is no conflict of the object.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.control.command import Command
from flargo.control.inputs import CommandDone, SiteInput, Unanswered
from flargo.control.perform import Performer
from flargo.control.submit import SubmitError, Submitter
from flargo.status.job_state import Action, ActionKind
from flargo.terms import Uid
from tests.harness.kubernetes_api import (
    NAMESPACE,
    PODS,
    SECRETS,
    WORKFLOWS,
    KubernetesApi,
    RawAnswer,
    kubernetes_api,
    status,
)
from tests.harness.plans import submit_plan

STEPS = {
    "reading the kit": ("GET", f"{SECRETS}/nvflare-startup-site"),
    "writing the kit": ("POST", SECRETS),
    "the Workflow": ("POST", WORKFLOWS),
    "the release": ("PATCH", f"{WORKFLOWS}/job-site"),
}
"""The requests of a submit, by what they do. ``credentials`` is the second POST of a Secret."""
QUOTA_CONFLICT = status(
    409,
    "Conflict",
    'Operation cannot be fulfilled on resourcequotas "q": the object has been modified; please apply your changes to '
    "the latest version and try again",
)
GATEWAYS: dict[str, RawAnswer] = {
    "a page": (404, b"<html><h1>404 Not Found</h1></html>"),
    "Go's own answer": (404, b"404 page not found\n"),
    "JSON without a reason": (404, b'{"error": "no route"}'),
    "JSON with a reason that is no Status": (404, b'{"reason": "NotFound", "message": "no route"}'),
    "a Status without a reason": status(404),
    "a Status with another reason": status(404, "NoRoute"),
    "nothing": (404, b""),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubernetesApi]:
    """Serve a Kubernetes API over HTTP."""
    with kubernetes_api(tmp_path) as serving:
        yield serving


def client(server: KubernetesApi) -> Api:
    return Api(config_loader(str(server.kubeconfig)), NAMESPACE)


class Clock:
    """A clock that only pauses advance."""

    now = 0.0

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False


def submit(server: KubernetesApi) -> float:
    """Submit a plan; return the seconds that the submit has paused."""
    clock = Clock()
    Submitter(client(server), clock.pause, lambda: clock.now, deadline=60.0).run(submit_plan())
    return clock.now


def instead(server: KubernetesApi, step: tuple[str, str], answer: RawAnswer, times: float = 1) -> None:
    """Give an answer instead of the server's to a number of requests of a step."""
    left = [times]

    def answer_instead(method: str, path: str) -> RawAnswer | None:
        if (method, path) != step or left[0] <= 0:
            return None
        left[0] -= 1
        return answer

    server.answer_instead = answer_instead


def assert_submitted(server: KubernetesApi) -> None:
    """Check that all objects of the plan exist, and that the Workflow was released."""
    assert server.objects[f"{WORKFLOWS}/job-site"]["spec"]["suspend"] is False
    names = sorted(item["metadata"]["name"] for item in server.items(SECRETS))
    assert names == ["nvflare-cred-job-site-a1", "nvflare-startup-site"]


# --- conflicts


@pytest.mark.parametrize("step", ["writing the kit", "the Workflow", "the release"])
def test_a_conflict_of_a_quota_is_retried(server: KubernetesApi, step: str) -> None:
    """The quota's own object has changed, which says nothing about the object that was to be created."""
    instead(server, STEPS[step], QUOTA_CONFLICT)
    submit(server)
    assert_submitted(server)


def test_credentials_after_a_conflict_are_created(server: KubernetesApi) -> None:
    server.put(SECRETS, {"metadata": {"name": "nvflare-startup-site"}})
    instead(server, STEPS["writing the kit"], QUOTA_CONFLICT)
    submit(server)
    assert_submitted(server)


OTHER_UID = "the UID in the precondition (u1) does not match the UID in record (u2). The object might have been deleted"
STORED_UID = "Precondition failed: UID in precondition: u1, UID in object meta: u2"
IMMUTABLE = 'Workflow.argoproj.io "w" is invalid: metadata.uid: Invalid value: "u1": field is immutable'
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
WEBHOOK = 'admission webhook "w" denied the request: try again'
CHANGES: dict[str, tuple[ActionKind, str, RawAnswer, bool]] = {
    "delete, another uid": (ActionKind.DELETE_SECRET, "DELETE", status(409, "Conflict", OTHER_UID), True),
    "delete, another uid stored": (ActionKind.DELETE_POD, "DELETE", status(409, "Conflict", STORED_UID), True),
    "patch, another uid": (ActionKind.SHUTDOWN, "PATCH", status(422, "Invalid", IMMUTABLE), True),
    "patch, changed": (ActionKind.SHUTDOWN, "PATCH", status(409, "Conflict", MODIFIED), False),
    "delete, a webhook's": (ActionKind.DELETE_SECRET, "DELETE", status(409, "Conflict", WEBHOOK), False),
    "patch, not valid": (ActionKind.SHUTDOWN, "PATCH", status(422, "Invalid", "spec.shutdown: Invalid value"), False),
    "delete, gone": (ActionKind.DELETE_SECRET, "DELETE", status(404, "NotFound", 'secrets "s" not found'), True),
}


def perform(server: KubernetesApi, kind: ActionKind) -> tuple[SiteInput, ...]:
    action = Action(kind, Uid("u1"))
    return Performer(client(server)).perform(Command("w", "w", action, "s", pod_name="p", workflow_uid=Uid("u1")))


@pytest.mark.parametrize(("kind", "method", "answer", "ok"), CHANGES.values(), ids=CHANGES)
def test_only_another_object_ends_an_action(
    server: KubernetesApi, kind: ActionKind, method: str, answer: RawAnswer, *, ok: bool
) -> None:
    """A conflict about the same object is retried; one that shows another object by that name is an end."""
    server.answer_instead = lambda sent, _: answer if sent == method else None
    results = [each for each in perform(server, kind) if isinstance(each, CommandDone)]
    assert [result.ok for result in results] == [ok]


# --- answers that are not the API server's


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("answer", GATEWAYS.values(), ids=GATEWAYS)
def test_a_gateways_404_is_retried(server: KubernetesApi, step: str, answer: RawAnswer) -> None:
    instead(server, STEPS[step], answer, times=3)
    submit(server)
    assert_submitted(server)


GONE_BY_404 = {
    ActionKind.DELETE_SECRET: f"{SECRETS}/s",
    ActionKind.DELETE_POD: f"{PODS}/p",
    ActionKind.DELETE_WORKFLOW: f"{WORKFLOWS}/w",
    ActionKind.SHUTDOWN: f"{WORKFLOWS}/w",
    ActionKind.CONFIRM: f"{WORKFLOWS}/w",
}


@pytest.mark.parametrize("kind", GONE_BY_404)
@pytest.mark.parametrize("answer", GATEWAYS.values(), ids=GATEWAYS)
def test_a_gateways_404_proves_nothing(server: KubernetesApi, kind: ActionKind, answer: RawAnswer) -> None:
    """Neither is a Secret deleted nor a Workflow gone, and the silence does not count for start timeouts."""
    server.answer_instead = lambda _, path: answer if path == GONE_BY_404[kind] else None
    unanswered, result = perform(server, kind)
    assert isinstance(unanswered, Unanswered)
    assert isinstance(result, CommandDone)
    assert not result.ok


@pytest.mark.parametrize("step", STEPS)
def test_a_401_is_retried_for_a_while(server: KubernetesApi, step: str) -> None:
    """Each try sends two requests, the second one with credentials that were loaded again."""
    instead(server, STEPS[step], status(401, "Unauthorized", "Unauthorized"), times=6)
    assert 0.0 < submit(server) < 15.0
    assert_submitted(server)


def test_a_lasting_401_fails_the_launch_soon(server: KubernetesApi) -> None:
    instead(server, STEPS["the Workflow"], status(401, "Unauthorized", "Unauthorized"), times=1000)
    clock = Clock()
    with pytest.raises(SubmitError, match="401"):
        Submitter(client(server), clock.pause, lambda: clock.now, deadline=60.0).run(submit_plan())
    assert 5.0 < clock.now <= 15.0


@pytest.mark.parametrize(
    ("read", "answer", "meaning"),
    [
        (lambda api: api.get(Kind.POD, "p"), (302, b""), Meaning.AWAY),
        (lambda api: api.get(Kind.POD, "p"), (503, b"<html>"), Meaning.AWAY),
        (lambda api: api.get(Kind.POD, "p"), (200, b"<html>"), Meaning.AWAY),
        (lambda api: api.get(Kind.POD, "p"), status(503, "ServiceUnavailable"), Meaning.SERVER_ERROR),
    ],
    ids=["a redirect", "a gateway's 503", "a login page", "the API server's own 503"],
)
def test_gateways_differ_from_the_server(
    server: KubernetesApi, read: Callable[[Api], object], answer: RawAnswer, meaning: Meaning
) -> None:
    server.answer_instead = lambda *_: answer
    with pytest.raises(ApiError) as error:
        read(client(server))
    assert error.value.meaning is meaning


def test_messages_name_the_gateway(server: KubernetesApi) -> None:
    server.answer_instead = lambda *_: (404, b"<html>secret page</html>")
    with pytest.raises(ApiError) as error:
        client(server).get(Kind.WORKFLOW, "w")
    assert "404 Not Found" in str(error.value)
    assert "gateway" in str(error.value)
    assert "Argo Workflows" not in str(error.value)
    assert "secret page" not in json.dumps(str(error.value))


def test_messages_name_a_missing_api(server: KubernetesApi) -> None:
    """The API server has this page for an API that it does not serve, and so do other servers in Go."""
    server.answer_instead = lambda *_: (404, b"404 page not found\n", "text/plain; charset=utf-8", "")
    with pytest.raises(ApiError) as error:
        client(server).get(Kind.WORKFLOW, "w")
    for part in (f"http://127.0.0.1:{server.server_port}", "404 Not Found", "gateway", "Argo Workflows"):
        assert part in str(error.value)
