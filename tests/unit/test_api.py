"""The API client without a server: the requests that it sends, and that it raises nothing but ApiError."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster import bodies, connections, transport
from flargo.cluster.access import Access
from flargo.cluster.api import ALL_NAMESPACES, Api, Kind
from flargo.cluster.bodies import MAX_PIECE_BYTES, LogPiece
from flargo.cluster.errors import ApiError
from flargo.cluster.http_request import Request
from flargo.terms import Object, Uid
from tests.harness.scripted_api import Response, ScriptedApi, ScriptedTransport


def test_delete_has_uid_and_grace() -> None:
    api = ScriptedApi(Response(200))
    api.delete(Kind.POD, "p", Uid("u1"), 3)
    method, url, body = api.requests[0]
    assert (method, url) == ("DELETE", "/api/v1/namespaces/ns/pods/p")
    assert body is not None
    assert body["preconditions"] == {"uid": "u1"}
    assert body["gracePeriodSeconds"] == 3


def test_an_eviction_is_of_one_pod() -> None:
    """A pod of the same name that was created meanwhile is not evicted."""
    api = ScriptedApi(Response(201))
    api.evict("p", Uid("u1"))
    method, url, body = api.requests[0]
    assert (method, url) == ("POST", "/api/v1/namespaces/ns/pods/p/eviction")
    assert body is not None
    assert (body["kind"], body["metadata"]["name"]) == ("Eviction", "p")
    assert body["deleteOptions"] == {"preconditions": {"uid": "u1"}}
    with pytest.raises(ApiError, match="no usable uid"):
        api.evict("p", Uid(""))
    assert len(api.requests) == 1


def test_a_delete_without_name_is_not_sent() -> None:
    """Without a name, the request would delete the whole collection."""
    api = ScriptedApi(Response(200))
    with pytest.raises((ApiError, ValueError)):
        api.delete(Kind.POD, "", Uid("u1"))
    assert api.requests == []


def test_a_401_reloads_credentials_once() -> None:
    unauthorized = Response(401)
    api = ScriptedApi(unauthorized, Response(200, b'{"a": 1}'))
    assert api.get(Kind.POD, "p")["a"] == 1
    assert api.logins == 2
    assert unauthorized.is_released
    with pytest.raises(ApiError, match="401"):
        ScriptedApi(Response(401), Response(401)).get(Kind.POD, "p")


class Pool:
    """A connection that accepts one token. Its requests carry the token with which it was made."""

    valid = "old"
    access = Access("https://cluster.example")

    def __init__(self, token: str, _on_credential: Any) -> None:
        self.token = token

    def request(self, *_: Any) -> Any:
        return Response(200 if self.token == self.valid else 401, b'{"kind": "Pod", "apiVersion": "v1"}')


def test_one_thread_loads_while_others_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a slow plugin renews the credentials of one thread, requests on the old connection are answered."""
    monkeypatch.setattr(connections, "Connection", Pool)
    loading, go_on = threading.Event(), threading.Event()
    loads: list[int] = []

    def load() -> Any:
        loads.append(len(loads))
        if len(loads) == 1:
            return "old"
        loading.set()
        assert go_on.wait(10)
        return "new"

    api = Api(load, "ns")
    api.get(Kind.POD, "p")
    answers: list[Object] = []
    threads = [threading.Thread(target=lambda: answers.append(api.get(Kind.POD, "p")), daemon=True) for _ in range(6)]
    monkeypatch.setattr(Pool, "valid", "new")
    for thread in threads[:5]:
        thread.start()
    assert loading.wait(5)
    monkeypatch.setattr(Pool, "valid", "old")
    threads[5].start()
    threads[5].join(5)
    was_answered = len(answers) >= 1
    monkeypatch.setattr(Pool, "valid", "new")
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert was_answered
    assert len(answers) == 6
    assert len(loads) == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b"null", b'{"message": 7}'])
def test_any_error_body_is_an_api_error(body: bytes) -> None:
    answer = Response(503, body, {"Retry-After": "7"})
    with pytest.raises(ApiError) as error:
        ScriptedApi(answer).get(Kind.POD, "p")
    assert (error.value.status, error.value.retry_after, answer.is_released) == (503, 7.0, True)


@pytest.mark.parametrize(
    ("header", "lowest", "highest"),
    [
        pytest.param(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 3000.0, 3600.0, id="a date"),
        pytest.param("Thu, 01 Jan 2015 00:00:00 GMT", 0.0, 0.0, id="a date that is past"),
        pytest.param("30", 30.0, 30.0, id="seconds"),
    ],
)
def test_retry_after_is_seconds_or_date(header: str, lowest: float, highest: float) -> None:
    with pytest.raises(ApiError) as error:
        ScriptedApi(Response(429, b"", {"Retry-After": header})).get(Kind.POD, "p")
    assert error.value.retry_after is not None
    assert lowest <= error.value.retry_after <= highest


@pytest.mark.parametrize("header", ["", "soon", "-1", "Thu, 01 Jan 2015"])
def test_an_invalid_retry_after_is_ignored(header: str) -> None:
    with pytest.raises(ApiError) as error:
        ScriptedApi(Response(429, b"", {"Retry-After": header})).get(Kind.POD, "p")
    assert error.value.retry_after is None


@pytest.mark.parametrize(
    "failure",
    [
        urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
        ConnectionResetError("reset"),
        ValueError("Invalid header value b'bearer x\\n'"),  # http.client, of a token file that ends with a newline
        RuntimeError("Token file exists but empty."),  # stands for kubernetes' ConfigException, of its refresh hook
    ],
    ids=["timeout", "reset", "header", "credentials"],
)
def test_every_send_failure_is_an_api_error(failure: Exception) -> None:
    with pytest.raises(ApiError):
        ScriptedApi(failure).get(Kind.POD, "p")
    with pytest.raises(ApiError):
        list(ScriptedApi(failure).watch(Kind.POD, "", "1", 45, 50.0))


def test_list_reads_all_pages() -> None:
    pages = [
        {"items": [{"n": 1}], "metadata": {"continue": "c"}},
        {"items": None, "metadata": {"resourceVersion": "9"}},
    ]
    api = ScriptedApi(*(Response(200, json.dumps(page).encode()) for page in pages))
    assert api.list(Kind.POD, "a=b") == ([{"n": 1}], "9")
    assert "continue=c" in api.requests[1][1]


def test_an_endless_list_is_an_error() -> None:
    class Endless(ScriptedTransport):
        request_count = 0

        def request(self, _request: Request) -> Any:
            self.request_count += 1
            assert self.request_count < 20_000, "it is asked for ever"
            page = {"items": [], "metadata": {"continue": str(self.request_count)}}
            return Response(200, json.dumps({"kind": "PodList", "apiVersion": "v1", **page}).encode())

    endless = Endless()
    with pytest.raises(ApiError, match="more than 10000 pages"):
        ScriptedApi(transport=endless).list(Kind.POD, "a=b")
    assert endless.request_count == 10_000


POD = b'"object": {"kind": "Pod", "apiVersion": "v1", "metadata": {}}'


def test_watch_joins_lines_and_releases_its_connection() -> None:
    added, deleted = (b'{"type": "%s", %s}' % (each, POD) for each in (b"ADDED", b"DELETED"))
    answer = Response(200, added + b"\n\n" + deleted + b"\n")
    assert [event["type"] for event in ScriptedApi(answer).watch(Kind.POD, "", "1", 45, 50.0)] == ["ADDED", "DELETED"]
    assert answer.is_released


def test_half_an_event_ends_the_watch() -> None:
    """What follows it is unknown."""
    answer = Response(200, b'{"type": "ADDED", %s}\n{"ty' % POD)
    events = ScriptedApi(answer).watch(Kind.POD, "", "1", 45, 50.0)
    assert next(events)["type"] == "ADDED"
    with pytest.raises(ApiError):
        next(events)
    assert answer.is_released


def test_a_refused_watch_is_an_api_error() -> None:
    with pytest.raises(ApiError, match="410"):
        list(ScriptedApi(Response(410)).watch(Kind.POD, "", "1", 45, 50.0))


SILENT = urllib3.exceptions.ReadTimeoutError(None, "/", "silent")  # type: ignore[arg-type]


class BrokenResponse(Response):
    """A response whose connection fails in the middle of the body."""

    def __init__(self, body: bytes, error: Exception) -> None:
        super().__init__(200, body)
        self.error = error

    def stream(self, *_: Any, **__: Any) -> Any:
        yield from super().stream()
        raise self.error


def lines(answer: Response, *, follow: bool = True) -> list[str]:
    log_pieces = ScriptedApi(answer).log_lines("p", "main", follow=follow, since="2026-01-01T00:00:00+00:00")
    return [piece.text for piece in log_pieces]


def test_log_lines_include_an_unfinished_last_line() -> None:
    assert lines(Response(200, b"t one, and longer\n\nt two")) == ["t one, and longer", "", "t two"]


def test_a_broken_connection_drops_the_unfinished_line() -> None:
    """The line is read again by the next connection, and would appear twice."""
    log_lines = []
    with pytest.raises(ApiError):
        log_lines += lines(BrokenResponse(b"t one\nt tw", urllib3.exceptions.ProtocolError("cut")))
    assert lines(BrokenResponse(b"t one\nt tw", SILENT)) == ["t one"]


def test_silence_ends_only_a_followed_log() -> None:
    assert lines(BrokenResponse(b"", SILENT)) == []
    with pytest.raises(ApiError, match="no answer in time"):
        lines(BrokenResponse(b"", SILENT), follow=False)


def pieces(body: bytes, size: int) -> list[LogPiece]:
    chunks = (body[at : at + size] for at in range(0, len(body), size))
    return list(bodies.log_pieces(chunks))


def join_pieces(log_pieces: list[LogPiece]) -> bytes:
    content = ((piece.text.encode(errors="surrogateescape"), piece.has_newline) for piece in log_pieces)
    return b"".join(text + b"\n" * has_newline for text, has_newline in content)


@pytest.mark.parametrize("size", [1, 7, 4096, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 10**7])
@pytest.mark.parametrize(
    "length",
    [0, 1, MAX_PIECE_BYTES - 1, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 3 * MAX_PIECE_BYTES, 3 * MAX_PIECE_BYTES + 5],
)
def test_a_long_line_is_split_into_pieces(length: int, size: int) -> None:
    body = b"before\n" + b"x" * length + b"\nafter"
    log_pieces = pieces(body, size)
    assert join_pieces(log_pieces) == body
    assert all(len(piece.text) <= MAX_PIECE_BYTES for piece in log_pieces)
    assert [piece.is_partial for piece in log_pieces] == [
        False,
        *[True] * ((max(1, length) - 1) // MAX_PIECE_BYTES),
        False,
        False,
    ]
    assert log_pieces == pieces(body, 100), "wherever the chunks begin"


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30), st.integers(8, 50))
def test_no_byte_of_a_log_is_lost(lines: list[bytes], size: int, piece: int) -> None:
    body = b"\n".join(lines)
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(bodies, "MAX_PIECE_BYTES", piece)
        log_pieces = pieces(body, size)
    assert join_pieces(log_pieces) == body
    assert all(len(each.text.encode(errors="surrogateescape")) <= piece for each in log_pieces)
    assert not any(each.is_partial and each.has_newline for each in log_pieces)


@given(st.text(), st.integers(8, 20))
def test_no_character_is_split(text: str, piece: int) -> None:
    text = text.replace("\n", "")
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(bodies, "MAX_PIECE_BYTES", piece)
        assert "".join(each.text for each in pieces(text.encode(), 3)) == text


def test_endless_line_is_read_in_pieces() -> None:
    """A hundred megabytes in small chunks: copied once for each chunk, they take an hour."""

    def endless() -> Iterator[bytes]:
        for _ in range(100 * 2**20 // 2**10):
            yield b"x" * 2**10

    log_pieces = bodies.log_pieces(endless())
    assert next(log_pieces) == LogPiece("x" * MAX_PIECE_BYTES, is_partial=True, has_newline=False)
    assert sum(len(piece.text) for piece in log_pieces) == 100 * 2**20 - MAX_PIECE_BYTES


class Endless(Response):
    """A response whose body does not end."""

    def __init__(self, status: int, chunk: bytes) -> None:
        super().__init__(status)
        self.chunk, self.sent, self.closed_at = chunk, 0, 0

    def stream(self, *_: Any, **__: Any) -> Any:
        while not self.closed_at:
            self.sent += len(self.chunk)
            yield self.chunk

    def close(self) -> None:
        self.closed_at = self.closed_at or self.sent


def test_an_endless_event_ends_the_watch() -> None:
    answer = Endless(200, b"x" * 2**16)
    with pytest.raises(ApiError, match="more than 16777216 bytes"):
        list(ScriptedApi(answer).watch(Kind.POD, "", "1", 45, 50.0))
    assert answer.closed_at < 17 * 2**20


def test_an_endless_response_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 2**20)
    answer = Endless(200, b"x" * 2**16)
    with pytest.raises(ApiError, match="unreadable response"):
        ScriptedApi(answer).get(Kind.POD, "p")
    assert answer.closed_at < 2 * 2**20, "and not given back to the pool with its rest"


def test_an_endless_error_response_is_an_error() -> None:
    answer = Endless(503, b"x" * 2**16)
    with pytest.raises(ApiError, match="503"):
        ScriptedApi(answer).get(Kind.POD, "p")
    assert answer.closed_at < 2 * 2**20


def test_a_long_error_message_is_shortened() -> None:
    body = json.dumps({"kind": "Status", "reason": "r" * 100_000, "message": "m" * 100_000}).encode()
    with pytest.raises(ApiError) as error:
        ScriptedApi(Response(403, body)).get(Kind.POD, "p")
    assert (len(error.value.reason), len(error.value.message)) == (4096, 4096)


@pytest.mark.parametrize("status", [200, 403])
def test_a_deeply_nested_response_is_an_error(status: int) -> None:
    with pytest.raises(ApiError):
        ScriptedApi(Response(status, b"[" * 100_000)).get(Kind.POD, "p")
    with pytest.raises(ApiError):
        list(ScriptedApi(Response(200, b"[" * 100_000 + b"\n")).watch(Kind.POD, "", "1", 45, 50.0))


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"one\ntwo\nthree\n", "two\nthree\n"),
        (b"one\ntwo\nthree", "two\nthree"),
        (b"x" * 30, "x" * 12),
        (b"x" * 30 + b"\n", "x" * 11 + "\n"),
        (b"short", "short"),
        (b"\xc3\xa9" * 30, "\xe9" * 6),
    ],
)
def test_trimmed_log_begins_with_whole_line(body: bytes, end: str) -> None:
    assert ScriptedApi(Response(200, body)).log("p", "main", 10, 12, 5.0) == end


def test_all_namespaces_are_listed_at_once() -> None:
    api = ScriptedApi(Response(200, b'{"items": []}'))
    api.in_namespace(ALL_NAMESPACES).list(Kind.WORKFLOW, "a=b")
    assert [url.partition("?")[0] for _, url, _ in api.requests] == ["/apis/argoproj.io/v1alpha1/workflows"]


def test_nothing_is_named_in_all_namespaces() -> None:
    """Without a namespace a name would be that of an object without namespace."""
    api = ScriptedApi(Response(200))
    everywhere = api.in_namespace(ALL_NAMESPACES)
    requests: list[Callable[[], object]] = [
        lambda: everywhere.get(Kind.POD, "p"),
        lambda: everywhere.delete(Kind.POD, "p", Uid("u1")),
        lambda: everywhere.merge(Kind.WORKFLOW, "w", {}),
        lambda: everywhere.create(Kind.POD, {"metadata": {"name": "p"}}),
    ]
    for request in requests:
        with pytest.raises(ApiError, match="namespace"):
            request()
    assert api.requests == []


def test_log_request_has_a_tail() -> None:
    for tail, expected in ((None, False), (0, True), (7, True)):
        api = ScriptedApi(Response(200, b""))
        list(api.log_lines("p", "main", follow=False, tail=tail))
        assert (f"tailLines={tail}" in api.requests[0][1]) is expected


def test_log_request_has_start_time_and_timestamps() -> None:
    api = ScriptedApi(Response(200, b""))
    list(api.log_lines("p", "main", follow=True, since="2026-01-01T00:00:00+00:00"))
    _, url, _ = api.requests[0]
    assert url.startswith("/api/v1/namespaces/ns/pods/p/log?")
    assert set(url.partition("?")[2].split("&")) == {
        "container=main",
        "timestamps=true",
        "follow=true",
        "sinceTime=2026-01-01T00%3A00%3A00%2B00%3A00",
    }


def test_time_is_the_responses_date() -> None:
    api = ScriptedApi(Response(200, headers={"Date": "Thu, 01 Jan 2026 02:03:04 GMT"}))
    assert api.time().isoformat() == "2026-01-01T02:03:04+00:00"
    with pytest.raises(ApiError, match="no usable Date"):
        ScriptedApi(Response(200)).time()


@pytest.mark.parametrize(
    ("date", "moment"), [("Thu, 01 Jan 2026 02:03:04 GMT", "2026-01-01T02:03:04+00:00"), ("soon", "None"), ("", "None")]
)
def test_an_object_comes_with_the_servers_clock(date: str, moment: str) -> None:
    api = ScriptedApi(Response(200, b'{"metadata": {"uid": "l1"}}', headers={"Date": date}))
    item, time = api.get_with_time(Kind.LEASE, "l")
    assert item["metadata"] == {"uid": "l1"}
    assert (time.isoformat() if time is not None else "None") == moment
    assert api.requests == [("GET", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l", None)]


def test_metadata_requests_no_secret_content() -> None:
    api = ScriptedApi(Response(200, b'{"metadata": {"uid": "s1"}}'))
    assert api.metadata(Kind.SECRET, "s") == {"uid": "s1"}
    assert "as=PartialObjectMetadata" in api.scripted.requests[0].accept


def test_a_deeply_nested_object_hides_no_other() -> None:
    deep = b'{"metadata": {"name": "deep"}, "spec": {"x": ' + b"[" * 3000 + b"]" * 3000 + b"}}"
    head = b'{"kind": "WorkflowList", "apiVersion": "argoproj.io/v1alpha1", "metadata": {"resourceVersion": "7"}, '
    page = head + b'"items": [' + deep + b', {"metadata": {"name": "good"}}]}'
    items, version = ScriptedApi(Response(200, page)).list(Kind.WORKFLOW)
    assert ([item["metadata"]["name"] for item in items], version) == (["deep", "good"], "7")
    head = b'{"kind": "Workflow", "apiVersion": "argoproj.io/v1alpha1", "metadata": {'
    deep, good = deep.replace(b'{"metadata": {', head), head + b'"name": "good"}}'
    events = b'{"type": "ADDED", "object": ' + deep + b'}\n{"type": "ADDED", "object": ' + good + b"}\n"
    watched = [*ScriptedApi(Response(200, events)).watch(Kind.WORKFLOW, "", "1", 1, 1.0)]
    assert [event["object"]["metadata"]["name"] for event in watched] == ["deep", "good"]


@pytest.mark.parametrize("page", [{"items": [5, None, "x"]}, {"metadata": []}, {"items": None, "metadata": "x"}])
def test_malformed_parts_of_a_list_are_left_out(page: Object) -> None:
    assert ScriptedApi(Response(200, json.dumps(page).encode())).list(Kind.POD) == ([], "")


@pytest.mark.parametrize("page", [{"items": 5}, {"items": {}, "metadata": "x"}, {"kind": "List"}, {"kind": "Pod"}])
def test_what_is_no_list_is_an_error(page: Object) -> None:
    """It counted as an empty list."""
    with pytest.raises(ApiError):
        ScriptedApi(Response(200, json.dumps(page).encode())).list(Kind.POD)
