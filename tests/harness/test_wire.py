"""The wire breaks what a test tells it to break, and is transparent otherwise."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.cluster import eventually
from tests.harness.kubernetes_api import PODS, SECRETS, WORKFLOWS, KubernetesApi, kubernetes_api
from tests.harness.wire import Match, Wire

Object = dict[str, Any]
DELAY_SECONDS = 0.3


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    with kubernetes_api(tmp_path) as server:
        yield server


@pytest.fixture
def wire(api: KubernetesApi) -> Iterator[Wire]:
    with Wire(api.kubeconfig, with_tls=False) as proxy:
        yield proxy


class Answer:
    """An HTTP answer that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def ask(port: int, method: str, path: str, body: Object | None = None, user: str = "a-token") -> Answer:
    """Send one request; a closed connection raises an error."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        headers = {"Authorization": f"Bearer {user}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return Answer(connection.getresponse())


class Watch:
    """An open watch of pods through the wire."""

    def __init__(self, wire: Wire) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", wire.port, timeout=5)
        self._connection.request("GET", f"{PODS}?watch=true")
        self._response = self._connection.getresponse()

    def read_event(self) -> str:
        """Return the name in the next event, or its reason if it is an error; raise an error if the watch is cut."""
        item = json.loads(self._response.readline())["object"]
        return str(item.get("reason") or item["metadata"]["name"])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@pytest.fixture
def watch(wire: Wire) -> Iterator[Watch]:
    with closing(Watch(wire)) as stream:
        eventually(lambda: wire.open_watches == 1, 5, "the watch is open")
        yield stream


def add_pods(api: KubernetesApi, *names: str) -> None:
    for name in names:
        api.put(PODS, {"kind": "Pod", "metadata": {"name": name}})


def secret(name: str) -> Object:
    return {"metadata": {"name": name}, "stringData": {"token": "t0psecret"}}


def names(api: KubernetesApi, collection: str) -> list[str]:
    return [item["metadata"]["name"] for item in api.items(collection)]


# Requests


def test_without_faults_answers_are_unchanged(api: KubernetesApi, wire: Wire) -> None:
    ask(wire.port, "POST", SECRETS, secret("one"))
    for path in (SECRETS, f"{SECRETS}/one", f"{SECRETS}/missing", "/version"):
        direct, forwarded = ask(api.server_port, "GET", path), ask(wire.port, "GET", path)
        assert (forwarded.status, forwarded.body) == (direct.status, direct.body)
        assert forwarded.headers["Content-Type"] == direct.headers["Content-Type"]
    assert names(api, SECRETS) == ["one"]


def test_requests_are_recorded_without_secrets(wire: Wire) -> None:
    ask(wire.port, "POST", SECRETS, secret("one"))
    ask(wire.port, "GET", f"{SECRETS}/one")
    ask(wire.port, "GET", WORKFLOWS)
    rows = [(request.verb, request.resource, request.name) for request in wire.requests]
    assert rows == [("create", "secrets", "one"), ("get", "secrets", "one"), ("list", "workflows", "")]
    assert all((request.token, request.body) == ("", b"") for request in wire.requests)


def test_refused_requests_have_no_effect(api: KubernetesApi, wire: Wire) -> None:
    fault = wire.refuse(Match("create", "secrets"))
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(wire.port, "POST", SECRETS, secret("one"))
    assert (fault.hits, names(api, SECRETS)) == (1, [])
    assert ask(wire.port, "POST", SECRETS, secret("one")).status == 201, "a fault strikes once unless a test says more"


def test_requests_with_lost_replies_take_effect(api: KubernetesApi, wire: Wire) -> None:
    wire.lose_reply(Match("create", "secrets"))
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(wire.port, "POST", SECRETS, secret("one"))
    assert names(api, SECRETS) == ["one"]


def test_an_error_answer_is_not_forwarded(api: KubernetesApi, wire: Wire) -> None:
    wire.answer_with_status(Match("create"), 429, retry_after=7, times=2)
    for _ in range(2):
        answer = ask(wire.port, "POST", SECRETS, secret("one"))
        assert (answer.status, answer.headers["Retry-After"], json.loads(answer.body)["code"]) == (429, "7", 429)
    assert api.writes == []
    assert ask(wire.port, "POST", SECRETS, secret("one")).status == 201


def test_delayed_requests_arrive_late(api: KubernetesApi, wire: Wire) -> None:
    wire.delay(Match("create"), DELAY_SECONDS)
    start = time.monotonic()
    api.on_write = lambda *_: times.append(time.monotonic() - start)
    times: list[float] = []
    ask(wire.port, "POST", SECRETS, secret("one"))
    eventually(lambda: times, 5, "the server has noted the request")
    assert times[0] >= DELAY_SECONDS


def test_late_replies_follow_prompt_requests(api: KubernetesApi, wire: Wire) -> None:
    wire.late_reply(Match("create"), DELAY_SECONDS)
    start = time.monotonic()
    api.on_write = lambda *_: times.append(time.monotonic() - start)
    times: list[float] = []
    ask(wire.port, "POST", SECRETS, secret("one"))
    assert times[0] < DELAY_SECONDS <= time.monotonic() - start


def test_a_disarmed_fault_breaks_nothing(wire: Wire) -> None:
    wire.answer_with_status(Match(), 500, times=float("inf")).disarm()
    assert ask(wire.port, "GET", SECRETS).status == 200


@pytest.mark.parametrize(
    ("match", "is_broken"),
    [
        (Match(), True),
        (Match("get"), True),
        (Match("list"), False),
        (Match(resource="secrets"), True),
        (Match(resource="pods"), False),
        (Match(name="on"), True),
        (Match(name="two"), False),
        (Match(token="a-token"), True),
        (Match(token="another"), False),
    ],
)
def test_only_matching_requests_are_broken(api: KubernetesApi, wire: Wire, match: Match, is_broken: bool) -> None:  # noqa: FBT001
    api.put(SECRETS, secret("one"))
    wire.answer_with_status(match, 503)
    assert ask(wire.port, "GET", f"{SECRETS}/one").status == (503 if is_broken else 200)


def test_a_stopped_wire_answers_nothing(wire: Wire, watch: Watch) -> None:
    wire.stop_answering()
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(wire.port, "GET", SECRETS)
    with pytest.raises((http.client.HTTPException, OSError, ValueError)):
        watch.read_event()
    wire.resume_answering()
    assert ask(wire.port, "GET", SECRETS).status == 200


def test_its_token_is_added_only_where_none_is(api: KubernetesApi, tmp_path: Path) -> None:
    with Wire(api.kubeconfig, with_tls=False) as outer:
        kubeconfig = outer.kubeconfig(tmp_path / "outer", "ignored")
        with Wire(kubeconfig, token="added", with_tls=False) as inner:
            fault = outer.answer_with_status(Match(token="added"), 401)
            assert ask(inner.port, "GET", SECRETS, user="own").status == 200
            with closing(http.client.HTTPConnection("127.0.0.1", inner.port, timeout=10)) as connection:
                connection.request("GET", SECRETS)
                assert connection.getresponse().status == 401
            assert fault.hits == 1


def test_its_kubeconfig_leads_to_it(wire: Wire, tmp_path: Path) -> None:
    document = yaml.safe_load(wire.kubeconfig(tmp_path / "kubeconfig", "a-token").read_text())
    assert document["clusters"][0]["cluster"] == {"server": f"http://127.0.0.1:{wire.port}"}
    assert document["users"][0]["user"] == {"token": "a-token"}


# Watches


def test_without_faults_all_events_arrive(api: KubernetesApi, watch: Watch) -> None:
    add_pods(api, "one", "two", "three")
    assert [watch.read_event() for _ in range(3)] == ["one", "two", "three"]


def test_cut_watches_end_without_an_end(wire: Wire, watch: Watch) -> None:
    wire.cut_watches()
    with pytest.raises((http.client.HTTPException, OSError, ValueError)):
        watch.read_event()
    eventually(lambda: wire.open_watches == 0, 5, "no watch is open")


def test_frozen_watches_stay_open_and_silent(api: KubernetesApi, wire: Wire, watch: Watch) -> None:
    wire.freeze_watches()
    add_pods(api, "one")
    with closing(Watch(wire)) as new_watch:
        assert new_watch.read_event() == "one"
        assert wire.open_watches == 2
    watch._connection.sock.settimeout(DELAY_SECONDS)
    with pytest.raises(TimeoutError):
        watch.read_event()


def test_expired_watches_get_410(wire: Wire, watch: Watch) -> None:
    wire.expire_watches(1)
    with closing(Watch(wire)) as expired:
        assert expired.read_event() == "Expired"
    with pytest.raises((http.client.HTTPException, OSError, ValueError)):
        watch.read_event()


def test_dropped_events_never_arrive(api: KubernetesApi, wire: Wire, watch: Watch) -> None:
    event_filter = wire.drop_events(lambda item: item["metadata"]["name"] == "lost")
    add_pods(api, "lost", "two")
    assert watch.read_event() == "two"
    event_filter.disarm()
    add_pods(api, "lost")
    assert (watch.read_event(), event_filter.hits) == ("lost", 1)


def test_repeated_events_arrive_twice(api: KubernetesApi, wire: Wire, watch: Watch) -> None:
    wire.repeat_events(lambda item: item["metadata"]["name"] == "twice")
    add_pods(api, "twice", "once")
    assert [watch.read_event() for _ in range(3)] == ["twice", "twice", "once"]


def test_held_events_arrive_late_and_reversed(api: KubernetesApi, wire: Wire, watch: Watch) -> None:
    event_filter = wire.hold_events(lambda item: item["metadata"]["name"] != "two")
    add_pods(api, "one", "two", "three")
    assert watch.read_event() == "two"
    eventually(lambda: event_filter.hits == 2, 5, "both events are held")
    wire.release_events()
    add_pods(api, "four")
    assert [watch.read_event() for _ in range(3)] == ["three", "one", "four"]
