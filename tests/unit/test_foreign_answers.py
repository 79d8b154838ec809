"""Whatever answers in place of the API server, every command says so, and nothing is concluded from it."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from flargo.backoff import Backoff
from flargo.cluster import target
from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.errors import ApiError
from flargo.cluster.foreign_answer import Head, foreign_error, is_answer
from flargo.cluster.http_request import Request
from flargo.cluster.meaning import Meaning
from flargo.cluster.watch import Watch
from flargo.terms import Object, Uid
from flargo.tools.cli import jobs
from flargo.tools.jobs import log_tail
from tests.harness.command_line import run
from tests.harness.foreign_answers import FOREIGN_ANSWERS, SECRET, ForeignAnswer
from tests.harness.kubernetes_api import (
    EVENTS,
    PODS,
    SECRETS,
    WORKFLOWS,
    KubernetesApi,
    kubernetes_api,
)
from tests.harness.objects import FAILED_STATUS, RUNNING, job_workflow, pod, terminated_state

COMMANDS = [
    ("jobs",),
    ("jobs", "-o", "name"),
    ("jobs", "-o", "wide"),
    ("jobs", "--all-namespaces"),
    ("jobs", "--site", "x"),
    ("jobs", "--watch"),
    ("why", "x"),
    ("logs", "x"),
    ("logs", "-f", "--since", "5m", "x"),
    ("terminate", "x"),
    ("sweep",),
    ("sweep", "--dry-run"),
    ("sweep", "--older-than", "30d"),
    ("doctor", "--wait", "0.5"),
    ("demo", "--image", "x"),
]
PROBLEM = "he cluster can't be reached: {} does not answer as Kubernetes does ({}"


def text_of(result: Result) -> str:
    return result.stderr + " ".join(result.stdout.split())


@pytest.mark.parametrize("name", FOREIGN_ANSWERS)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_names_server_and_answer(arguments: tuple[str, ...], name: str, tmp_path: Path) -> None:
    answer = FOREIGN_ANSWERS[name]
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: answer.raw
        result = run(*arguments, "--kubeconfig", api.kubeconfig)
        server = f"http://127.0.0.1:{api.server_port}"
    assert result.exit_code == 1
    text = text_of(result)
    assert PROBLEM.format(server, answer.code) in text
    assert answer.content_type.partition(";")[0] in text
    assert SECRET not in text
    if arguments[0] not in {"doctor", "demo"}:
        assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize("name", FOREIGN_ANSWERS)
@pytest.mark.parametrize(
    "arguments", [each for each in COMMANDS if each[0] != "demo" and "-o" not in each], ids=" ".join
)
def test_documents_have_the_same_error(arguments: tuple[str, ...], name: str, tmp_path: Path) -> None:
    answer = FOREIGN_ANSWERS[name]
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: answer.raw
        result = run(*arguments, "--json", "--kubeconfig", api.kubeconfig)
        server = f"http://127.0.0.1:{api.server_port}"
    assert (result.exit_code, result.stderr) == (1, "")
    document = json.loads(result.stdout)
    if arguments[0] == "doctor":
        assert PROBLEM.format(server, answer.code) in document["findings"][0]["what"]
        assert document["findings"][0]["level"] == "failure"
    else:
        assert PROBLEM.format(server, answer.code) in document["error"]["message"]
        assert document["error"]["status"] == answer.code
    assert SECRET not in result.stdout


# Only some requests meet it


WRONG = [FOREIGN_ANSWERS[name] for name in ("login page", "empty object", "captive portal", "firewall", "gone")]
LEFTOVER = f"{WORKFLOWS}/broken"


@pytest.fixture(params=WRONG, ids=lambda answer: f"{answer.code} {answer.content_type}")
def wrong(request: pytest.FixtureRequest) -> ForeignAnswer:
    answer: ForeignAnswer = request.param
    return answer


def fill(api: KubernetesApi) -> None:
    """Store a running job, an ended one whose credentials are left, and a launch that was never completed."""
    api.put(WORKFLOWS, job_workflow("w1"))
    api.put(PODS, pod("w1", main=RUNNING, phase="Running"))
    api.put(WORKFLOWS, job_workflow("ended", "222", uid="w2", **FAILED_STATUS))
    api.put(PODS, pod("ended", uid="p2", owner="w2", main=terminated_state(1), phase="Failed"))
    meta: Object = {"labels": {"app.kubernetes.io/managed-by": "flargo"}, "uid": "s1", "name": "nvflare-cred-ended-a1"}
    meta["ownerReferences"] = [{"kind": "Workflow", "name": "ended", "uid": "w2"}]
    api.put(SECRETS, {"metadata": meta})
    api.put(WORKFLOWS, job_workflow("broken", "333", uid="w3", phase="", suspend=True))


def meets(api: KubernetesApi, answer: ForeignAnswer, *requests: tuple[str, str]) -> None:
    """Let the API answer so at requests of these methods whose paths begin so."""
    api.answer_instead = lambda method, path: (
        answer.raw if any(method == each and path.startswith(begin) for each, begin in requests) else None
    )


PARTS = [
    pytest.param(("jobs",), [("GET", PODS)], id="jobs pods"),
    pytest.param(("jobs",), [("GET", "/version")], id="jobs time"),
    pytest.param(("jobs", "--json"), [("GET", PODS)], id="jobs json"),
    pytest.param(("why", "222"), [("GET", PODS)], id="why pods"),
    pytest.param(("logs", "111"), [("GET", f"{PODS}/w1/log")], id="logs log"),
    pytest.param(("logs", "--since", "5m", "111"), [("GET", "/version")], id="logs time"),
    pytest.param(("terminate", "111"), [("PATCH", WORKFLOWS)], id="terminate patch"),
    pytest.param(("terminate", "111", "--json"), [("PATCH", WORKFLOWS)], id="terminate patch json"),
    pytest.param(("sweep",), [("DELETE", WORKFLOWS)], id="sweep Workflow"),
    pytest.param(("sweep",), [("DELETE", SECRETS)], id="sweep Secret"),
    pytest.param(("sweep",), [("GET", SECRETS)], id="sweep metadata"),
    pytest.param(("sweep", "--json"), [("DELETE", "/")], id="sweep json"),
    pytest.param(("sweep",), [("GET", "/version")], id="sweep time"),
]


@pytest.mark.parametrize(("arguments", "requests"), PARTS)
def test_a_part_of_the_requests_meets_it(
    arguments: tuple[str, ...],
    requests: list[tuple[str, str]],
    wrong: ForeignAnswer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change that something else has answered is not one that was made."""
    monkeypatch.setattr(log_tail, "_BACKOFF", Backoff((0.01,)))
    with kubernetes_api(tmp_path) as api:
        fill(api)
        meets(api, wrong, *requests)
        result = run(*arguments, "--kubeconfig", api.kubeconfig)
        objects = {*api.objects}
    assert result.exit_code == 1
    text = text_of(result)
    assert f"http://127.0.0.1:{api.server_port} does not answer as Kubernetes does ({wrong.code}" in text
    assert SECRET not in text
    assert {LEFTOVER, f"{SECRETS}/nvflare-cred-ended-a1"} & objects or requests[0][0] != "DELETE"


def test_explanation_says_what_could_not_be_read(wrong: ForeignAnswer, tmp_path: Path) -> None:
    """An explanation needs neither events nor the log."""
    with kubernetes_api(tmp_path) as api:
        fill(api)
        meets(api, wrong, ("GET", EVENTS), ("GET", f"{PODS}/ended/log"))
        result = run("why", "222", "--kubeconfig", api.kubeconfig)
    assert result.stdout.count("does not answer as Kubernetes does") == 2
    assert SECRET not in result.stdout


def test_watch_that_never_begins_ends_the_command(
    wrong: ForeignAnswer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is served to everybody, and the rest behind a login page. The command would wait for ever."""
    monkeypatch.setattr(jobs, "_MAX_MISSING_SECONDS", 0.1)
    with kubernetes_api(tmp_path) as api:
        meets(api, wrong, ("GET", "/api"))
        result = run("jobs", "--watch", "--kubeconfig", api.kubeconfig)
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert "does not answer as Kubernetes does" in result.stderr


def test_doctor_goes_on_without_a_version(wrong: ForeignAnswer, tmp_path: Path) -> None:
    """A gateway may keep the version for itself. What is behind it is still Kubernetes."""
    with kubernetes_api(tmp_path) as api:
        meets(api, wrong, ("GET", "/version"))
        result = run("doctor", "--wait", "0.5", "--json", "--kubeconfig", api.kubeconfig)
    assert json.loads(result.stdout)["findings"][0]["check"] != "api" or "can't be reached" not in result.stdout


# The client


VERBS: dict[str, Callable[[Api], object]] = {
    "create": lambda api: api.create(Kind.WORKFLOW, {"metadata": {"name": "x"}}),
    "get": lambda api: api.get(Kind.WORKFLOW, "x"),
    "get with time": lambda api: api.get_with_time(Kind.LEASE, "x"),
    "list": lambda api: api.list(Kind.POD),
    "merge": lambda api: api.merge(Kind.WORKFLOW, "x", {}),
    "replace": lambda api: api.replace(Kind.LEASE, {"metadata": {"name": "x"}}),
    "delete": lambda api: api.delete(Kind.SECRET, "x", Uid("u")),
    "evict": lambda api: api.evict("x", Uid("u")),
    "watch": lambda api: [*api.watch(Kind.POD, "", "1", 1, 2.0)],
    "log": lambda api: api.log("x", "main", 5, 50, 2.0),
    "log lines": lambda api: [*api.log_lines("x", "main", follow=True)],
    "metadata": lambda api: api.metadata(Kind.SECRET, "x"),
    "time": lambda api: api.time(),
}


@pytest.mark.parametrize("name", FOREIGN_ANSWERS)
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_it_for_an_answer(verb: str, name: str, tmp_path: Path) -> None:
    """Neither a success, nor an object that is gone, exists already or conflicts, nor a refusal."""
    with kubernetes_api(tmp_path) as server:
        server.answer_instead = lambda *_: FOREIGN_ANSWERS[name].raw
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        with pytest.raises(ApiError) as error:
            VERBS[verb](api)
    assert (error.value.meaning, error.value.status) == (Meaning.AWAY, FOREIGN_ANSWERS[name].code)
    assert error.value.is_transient
    assert SECRET not in str(error.value)
    assert error.value.brief == "something else than the API server answers"


def test_plain_pages_of_kubernetes_keep_their_meaning(tmp_path: Path) -> None:
    """The API server tells in plain text that it serves no such API, and that it is overloaded."""
    pages = [
        (404, b"404 page not found\n", Meaning.NOT_SERVED),
        (429, b"Too many requests, please try again later.\n", Meaning.TOO_MANY_REQUESTS),
        (429, b"The apiserver is shutting down, please try again later\n", Meaning.TOO_MANY_REQUESTS),
        (429, b"The apiserver is shutting down, please try again later.\n", Meaning.TOO_MANY_REQUESTS),
        (429, b"The apiserver hasn't been fully initialized, please try again later\n", Meaning.TOO_MANY_REQUESTS),
    ]
    with kubernetes_api(tmp_path) as server:
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        for code, body, meaning in pages:
            server.answer_instead = lambda *_, code=code, body=body: (code, body, "text/plain; charset=utf-8", "")
            with pytest.raises(ApiError) as error:
                api.list(Kind.WORKFLOW)
            assert error.value.meaning is meaning
            assert "as Kubernetes does" not in str(error.value)
        server.answer_instead = lambda *_: (404, b"404 page not found\n", "text/plain", "")
        assert "the cluster has no Argo Workflows" in run("jobs", "--kubeconfig", server.kubeconfig).stderr


def test_timeout_of_kubernetes_keeps_its_words(tmp_path: Path) -> None:
    """Its timeout filter sends a Status without the kind."""
    status = {"metadata": {}, "status": "Failure", "message": "Timeout: too long", "reason": "Timeout", "code": 504}
    body = json.dumps(status).encode()
    with kubernetes_api(tmp_path) as server:
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        for code, is_kubernetes in ((504, True), (403, False)):
            server.answer_instead = lambda *_, code=code: (code, body, "application/json", "")
            with pytest.raises(ApiError) as error:
                api.list(Kind.WORKFLOW)
            assert ("Timeout: too long" in str(error.value)) is is_kubernetes
            assert error.value.is_transient


def test_an_api_that_is_not_served_is_no_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The API server is there; it is Argo's API that is missing."""
    with kubernetes_api(tmp_path) as server:
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        server.answer_instead = lambda *_: (404, b"404 page not found\n", "text/plain", "")
        with pytest.raises(ApiError, match="is Argo Workflows installed") as error:
            api.list(Kind.WORKFLOW)
    assert not error.value.is_foreign
    assert error.value.brief == str(error.value)
    assert "is away" not in caplog.text


def test_hint_at_a_login(tmp_path: Path) -> None:
    """A proxy such as Rancher answers so when a token has expired."""
    body = b'{"type": "error", "status": "401", "message": "must authenticate"}'
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: (401, body, "application/json", "")
        assert "log in again" in run("jobs", "--kubeconfig", api.kubeconfig).stderr


def test_hint_at_https(tmp_path: Path) -> None:
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: FOREIGN_ANSWERS["http for https"].raw
        assert "it may expect https" in run("jobs", "--kubeconfig", api.kubeconfig).stderr


def test_redirect_shows_only_the_host(tmp_path: Path) -> None:
    with kubernetes_api(tmp_path) as api:
        api.answer_instead = lambda *_: FOREIGN_ANSWERS["captive portal"].raw
        message = run("jobs", "--kubeconfig", api.kubeconfig).stderr
    assert "(307 Temporary Redirect, text/html, a redirect to portal.example)" in message


header = st.text(max_size=300) | st.builds(
    "{}{}".format, st.sampled_from(["text/html", "https://", "//", "https://[", "a/b;c="]), st.text(max_size=50)
)


@given(st.integers(100, 999), header, header, st.binary(max_size=100))
def test_description_quotes_nothing_else(code: int, content_type: str, location: str, body: bytes) -> None:
    """Headers and bodies are text of anybody."""
    request = Request("get", "pods x", "GET", target.resource("api/v1", "pods", namespace="ns", name="x"))
    head = Head("https://cluster.example", code, f"{content_type}; {SECRET}", f"{location}/?{SECRET}")
    message = foreign_error(request, head, body + SECRET.encode()).message
    assert message.startswith("https://cluster.example does not answer as Kubernetes does (")
    assert SECRET not in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 700


WORKFLOW = target.resource("apis/argoproj.io/v1alpha1", "workflows", namespace="ns", name="x")
ALL_WORKFLOWS = target.resource("apis/argoproj.io/v1alpha1", "workflows", namespace="ns")
POD, SECRET_TARGET = (target.resource("api/v1", each, namespace="ns", name="x") for each in ("pods", "secrets"))
EVICTION = target.resource("api/v1", "pods", namespace="ns", name="x", subresource="eviction")
CLASS = target.resource("apis/scheduling.k8s.io/v1", "priorityclasses", name="x")
REVIEWS = target.resource("apis/authorization.k8s.io/v1", "selfsubjectaccessreviews")
POLICY = target.resource("apis/networking.k8s.io/v1", "networkpolicies", namespace="ns", name="x")
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
SUCCESS = {"kind": "Status", "apiVersion": "v1", "status": "Success"}


def kind(name: str, version: str = "v1") -> Object:
    return {"kind": name, "apiVersion": version}


ACCEPTED: list[tuple[str, target.Target, Object]] = [
    ("GET", target.version(), {"major": "1", "gitVersion": "v1.34.0"}),
    ("GET", target.group("api/v1"), {"kind": "APIResourceList", "groupVersion": "v1"}),
    ("GET", target.group("apis/a.io/v1"), {**kind("APIResourceList"), "groupVersion": "a.io/v1"}),
    ("GET", WORKFLOW, kind("Workflow", "argoproj.io/v1alpha1")),
    ("PATCH", WORKFLOW, kind("Workflow", "argoproj.io/v1alpha1")),
    ("DELETE", WORKFLOW, SUCCESS),
    ("DELETE", POD, kind("Pod")),
    ("POST", EVICTION, SUCCESS),
    ("GET", ALL_WORKFLOWS, {**kind("WorkflowList", "argoproj.io/v1alpha1"), "items": []}),
    ("GET", ALL_WORKFLOWS, {**kind("WorkflowList", "argoproj.io/v1alpha1"), "items": None}),
    ("POST", ALL_WORKFLOWS, kind("Workflow", "argoproj.io/v1alpha1")),
    ("GET", CLASS, kind("PriorityClass", "scheduling.k8s.io/v1")),
    ("GET", POLICY, kind("NetworkPolicy", "networking.k8s.io/v1")),
    ("POST", REVIEWS, kind("SelfSubjectAccessReview", "authorization.k8s.io/v1")),
]


@pytest.mark.parametrize(("method", "where", "content"), ACCEPTED)
def test_answers_of_kubernetes_are_accepted(method: str, where: target.Target, content: Object) -> None:
    """Each of them only for its own path."""
    assert is_answer(Request("", "", method, where), content)
    for other in {other for _, other, _ in ACCEPTED if not other.subresource}:
        is_same = (other.api_version, other.plural) == (where.api_version, where.plural)
        assert is_same or not is_answer(Request("", "", "GET", other), content)


def test_metadata_is_accepted_where_it_was_requested() -> None:
    content = kind("PartialObjectMetadata", "meta.k8s.io/v1")
    assert is_answer(Request("", "", "GET", SECRET_TARGET, accept=METADATA), content)
    assert is_answer(Request("", "", "GET", SECRET_TARGET, accept=METADATA), kind("Secret"))
    assert not is_answer(Request("", "", "GET", SECRET_TARGET), content)


# The parent's log and its watches


def test_parents_log_has_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One for all requests and answers, until the API server answers, and in a minute; and none of the commands'."""
    caplog.set_level(logging.INFO, "flargo.cluster.connections")
    with kubernetes_api(tmp_path) as server:
        server.put(WORKFLOWS, job_workflow("w1"))
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        now = [1000.0]
        api._transport._connections._clock = lambda: now[0]

        def send_all() -> None:
            for answer in FOREIGN_ANSWERS.values():
                server.answer_instead = lambda *_, answer=answer: answer.raw
                for request in VERBS.values():
                    with pytest.raises(ApiError):
                        request(api)

        for seconds in (59.0, 2.0, 59.0):
            send_all()
            server.answer_instead = lambda *_: None
            api.get(Kind.WORKFLOW, "w1")
            now[0] += seconds
        command_api = Api(config_loader(str(server.kubeconfig)), "lab", max_wait=None)
        server.answer_instead = lambda *_: FOREIGN_ANSWERS["login page"].raw
        with pytest.raises(ApiError):
            command_api.get(Kind.WORKFLOW, "w1")
    lines = [record.getMessage() for record in caplog.records if "loaded again" not in record.getMessage()]
    away = "Kubernetes API server is away, and nothing is decided until it answers: "
    answer = f"http://127.0.0.1:{server.server_port} does not answer as Kubernetes does (200 OK, text/html): "
    assert len(lines) == 4
    assert [line.startswith(away) and answer in line for line in lines] == [True, False, True, False]
    assert lines[1] == "Kubernetes API server answers again"


class Listener:
    """Notes what a Watch tells."""

    def __init__(self) -> None:
        self.notifications: list[str] = []
        self.event = threading.Event()

    def on_listed(self, *_: Any) -> None:
        self.notifications.append("listed")

    def on_changed(self, *_: Any, **__: Any) -> None:
        self.notifications.append("changed")

    def on_contact(self, *_: Any) -> None:
        self.notifications.append("contact")

    def on_lost(self, _kind: Kind, error: ApiError) -> None:
        self.notifications.append("lost")
        assert error.meaning is Meaning.AWAY
        self.event.set()


@pytest.mark.parametrize("name", FOREIGN_ANSWERS)
def test_watch_is_lost_and_tells_nothing(name: str, tmp_path: Path) -> None:
    """Neither contact nor an object comes from it, however its lines look."""
    with kubernetes_api(tmp_path) as server:
        server.answer_instead = lambda _, __: FOREIGN_ANSWERS[name].raw if server.is_listed else None  # type: ignore[attr-defined]
        listener = Listener()

        def on_listed(*_: Any) -> None:
            listener.notifications.append("listed")
            server.is_listed = True  # type: ignore[attr-defined]

        server.is_listed = False  # type: ignore[attr-defined]
        listener.on_listed = on_listed  # type: ignore[method-assign]
        api = Api(config_loader(str(server.kubeconfig)), "lab")
        Watch(api, Kind.POD, "", dict, listener, lambda _: listener.event.is_set(), lambda: 0.0).run()
    assert listener.notifications == ["listed", "lost"]


EVENTS_OF_OTHERS = [
    b"{}",
    b'{"type": "ADDED"}',
    b'{"type": "ADDED", "object": {}}',
    b'{"type": "MODIFIED", "object": {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "p"}}}',
    b'{"type": "DELETED", "object": {"metadata": {"name": "p"}}}',
    b'{"type": "PING", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {}}}',
    b'{"type": "ERROR", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {}}}',
    b'{"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}',
    b'{"type": "ADDED", "object": {"kind": "Pod", "apiVersion": "v1"}}',
    b"<html>",
]
EVENT = b'{"type": "ADDED", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}}\n'


@pytest.mark.parametrize("end", [b"\n", b""], ids=["line", "no line end"])
@pytest.mark.parametrize("line", EVENTS_OF_OTHERS)
def test_a_line_that_is_no_event_ends_the_stream(line: bytes, end: bytes, tmp_path: Path) -> None:
    with kubernetes_api(tmp_path) as server:
        server.answer_instead = lambda *_: (200, EVENT + line + end)
        stream = Api(config_loader(str(server.kubeconfig)), "lab").watch(Kind.POD, "", "1", 1, 2.0)
        assert next(stream)["type"] == "ADDED"
        with pytest.raises(ApiError) as error:
            next(stream)
    assert error.value.meaning is Meaning.AWAY
