"""Tests of the Watch: its notifications, when it relists, and how it backs off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.watch import RELIST_SECONDS, Watch
from flargo.status.views import strip_unused_fields
from flargo.terms import Object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REFUSED = ApiError("watch", "pods", 403, "Forbidden")
EXPIRED: Object = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
Stream = list[Object | ApiError]


def event(kind: str, version: int) -> Object:
    return {"type": kind, "object": {"metadata": {"name": "x", "resourceVersion": str(version)}}}


class Server:
    """An API server that answers watches with the given streams; it is watched for a number of requests."""

    def __init__(
        self,
        *streams: Stream,
        stream_seconds: float = 45.0,
        requests: int = 6,
        final_stream: Stream | None = None,
        lists: Sequence[Exception] = (),
    ) -> None:
        self.streams = list(streams)
        self.lists = list(lists)
        self.final_stream = final_stream or []
        self.stream_seconds = stream_seconds
        self.max_requests = requests
        self.now = 0.0
        self.pauses: list[float] = []
        self.requests: list[str] = []
        self.notifications: list[str] = []
        Watch(cast("Api", self), Kind.POD, "", strip_unused_fields, self, self.pause, lambda: self.now).run()

    def list(self, _kind: Kind, _labels: str, *, trim: Callable[[Object], Object]) -> tuple[list[Object], str]:
        assert trim is strip_unused_fields
        self.requests.append("list")
        if self.lists:
            raise self.lists.pop(0)
        return [], "100"

    def watch(self, _kind: Kind, _labels: str, version: str, _seconds: int, _silence: float) -> Iterator[Object]:
        self.requests.append(version)
        self.now += self.stream_seconds
        for item in self.streams.pop(0) if self.streams else self.final_stream:
            if isinstance(item, ApiError):
                raise item
            yield item

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        if seconds:
            self.pauses.append(seconds)
        return len(self.requests) >= self.max_requests

    def on_listed(self, _kind: Kind, _items: Sequence[Object], _version: str) -> None:
        self.notifications.append("listed")

    def on_changed(self, _kind: Kind, _item: Object, *, deleted: bool) -> None:
        self.notifications.append("gone" if deleted else "changed")

    def on_contact(self, _kind: Kind) -> None:
        self.notifications.append("alive")

    def on_lost(self, _kind: Kind, _error: ApiError) -> None:
        self.notifications.append("lost")


def test_watch_resumes_at_last_version() -> None:
    """Bookmarks count as versions, too."""
    server = Server([event("ADDED", 101), event("BOOKMARK", 150)], [event("DELETED", 151)], requests=4)
    assert server.requests == ["list", "100", "150", "151"]
    assert server.notifications == ["listed", "changed", "alive", "alive", "gone", "alive", "alive"]


def test_expired_version_causes_relist() -> None:
    server = Server([event("ADDED", 101), EXPIRED], requests=3)
    assert server.requests[:3] == ["list", "100", "list"]
    assert server.notifications == ["listed", "changed", "lost", "listed", "alive"]


def test_cut_stream_causes_relist() -> None:
    server = Server([event("ADDED", 101), ApiError("watch", "pods", 0)], requests=3)
    assert server.notifications == ["listed", "changed", "lost", "listed", "alive"]


def test_periodic_relist() -> None:
    """A relist repairs what a stream may have lost."""
    server = Server(stream_seconds=RELIST_SECONDS / 2 + 1, requests=5)
    assert server.requests == ["list", "100", "100", "list", "100"]


def test_retry_after_is_obeyed() -> None:
    server = Server([ApiError("watch", "pods", 429, retry_after=30.0)], requests=2)
    assert max(server.pauses, default=0.0) >= 30.0


@pytest.mark.parametrize("seconds", [3600.0, 1e12])
def test_long_retry_after_is_capped(seconds: float) -> None:
    """A gateway's maintenance page may send one, and no clock can wait until the year 9999."""
    server = Server([ApiError("watch", "pods", 503, retry_after=seconds)], requests=3)
    assert max(server.pauses) <= 60.0
    assert server.notifications[-2:] == ["listed", "alive"]


def test_refused_watch_backs_off() -> None:
    """The watch is refused although the list works."""
    server = Server(stream_seconds=0.0, requests=40, final_stream=[REFUSED])
    assert server.now > 100.0, f"{len(server.requests)} requests in {server.now:.1f} s"


def test_unreachable_server_is_retried_soon() -> None:
    server = Server(stream_seconds=0.0, requests=60, final_stream=[ApiError("watch", "pods", 0)])
    assert 2.0 < max(server.pauses) <= 5.0


def test_long_streams_reset_the_backoff() -> None:
    """A load balancer with a limit of its own must not make the watch ever slower."""
    server = Server(
        stream_seconds=30.0, requests=40, final_stream=[event("MODIFIED", 101), ApiError("watch", "pods", 0)]
    )
    assert max(server.pauses) < 1.0, server.pauses


def test_short_streams_cause_no_busy_loop() -> None:
    server = Server(stream_seconds=0.0, requests=40)
    assert server.now > 10.0, f"{len(server.requests)} requests in {server.now:.1f} s"


@pytest.mark.parametrize(
    "malformed_event",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param({"type": "ERROR", "object": {"code": "many"}}, id="code that is no number"),
        pytest.param({"type": "ADDED", "object": "pod"}, id="object that is a string"),
    ],
)
def test_unreadable_stream_causes_relist(malformed_event: Any) -> None:
    server = Server([event("ADDED", 101), malformed_event], requests=3)
    assert server.requests[:3] == ["list", "100", "list"]
    assert server.notifications == ["listed", "changed", "lost", "listed", "alive"]


def test_unreadable_list_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    """The error is reported once."""
    server = Server(lists=[TypeError("it is null"), TypeError("it is null")], requests=3)
    assert server.notifications == ["lost", "lost", "listed", "alive"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_error_message_of_stream_is_limited() -> None:
    watch = Watch(cast("Api", None), Kind.POD, "", strip_unused_fields, cast("Any", None), lambda _: True, lambda: 0.0)
    error = watch._error_from({"kind": "Status", "code": 500, "reason": "r" * 100_000, "message": 'User "' * 100_000})
    assert (len(error.reason), len(error.message)) == (4096, 4096)
