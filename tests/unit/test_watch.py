"""The one loop that follows a kind: what it tells, when it lists anew, and how hard it knocks when it is not let in."""

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
    """Answers lists, and watches with the next of some streams; then is followed until a number of requests."""

    def __init__(
        self,
        *streams: Stream,
        lasting: float = 45.0,
        requests: int = 6,
        then: Stream | None = None,
        lists: Sequence[Exception] = (),
    ) -> None:
        self.streams = list(streams)
        self.lists = list(lists)
        self.then = then or []
        self.lasting = lasting
        self.most = requests
        self.now = 0.0
        self.slept: list[float] = []
        self.asked: list[str] = []
        self.told: list[str] = []
        Watch(cast("Api", self), Kind.POD, "", strip_unused_fields, self, self.pause, lambda: self.now).run()

    def list(self, _kind: Kind, _labels: str, *, trim: Callable[[Object], Object]) -> tuple[list[Object], str]:
        assert trim is strip_unused_fields
        self.asked.append("list")
        if self.lists:
            raise self.lists.pop(0)
        return [], "100"

    def watch(self, _kind: Kind, _labels: str, version: str, _seconds: int, _silence: float) -> Iterator[Object]:
        self.asked.append(version)
        self.now += self.lasting
        for item in self.streams.pop(0) if self.streams else self.then:
            if isinstance(item, ApiError):
                raise item
            yield item

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        if seconds:
            self.slept.append(seconds)
        return len(self.asked) >= self.most

    def on_listed(self, _kind: Kind, _items: Sequence[Object], _version: str) -> None:
        self.told.append("listed")

    def on_changed(self, _kind: Kind, _item: Object, *, deleted: bool) -> None:
        self.told.append("gone" if deleted else "changed")

    def on_contact(self, _kind: Kind) -> None:
        self.told.append("alive")

    def on_lost(self, _kind: Kind, _error: ApiError) -> None:
        self.told.append("lost")


def test_a_stream_that_ends_is_taken_up_where_it_ended_bookmarks_included() -> None:
    server = Server([event("ADDED", 101), event("BOOKMARK", 150)], [event("DELETED", 151)], requests=4)
    assert server.asked == ["list", "100", "150", "151"]
    assert server.told == ["listed", "changed", "alive", "alive", "gone", "alive", "alive"]


def test_an_expired_version_is_told_as_a_loss_and_listed_anew() -> None:
    server = Server([event("ADDED", 101), EXPIRED], requests=3)
    assert server.asked[:3] == ["list", "100", "list"]
    assert server.told == ["listed", "changed", "lost", "listed", "alive"]


def test_a_cut_stream_is_told_as_a_loss_and_listed_anew() -> None:
    server = Server([event("ADDED", 101), ApiError("watch", "pods", 0)], requests=3)
    assert server.told == ["listed", "changed", "lost", "listed", "alive"]


def test_a_list_repairs_now_and_then_what_a_stream_may_have_lost() -> None:
    server = Server(lasting=RELIST_SECONDS / 2 + 1, requests=5)
    assert server.asked == ["list", "100", "100", "list", "100"]


def test_a_server_that_asks_for_time_gets_it() -> None:
    server = Server([ApiError("watch", "pods", 429, retry_after=30.0)], requests=2)
    assert max(server.slept, default=0.0) >= 30.0


@pytest.mark.parametrize("seconds", [3600.0, 1e12])
def test_a_server_that_asks_for_more_time_than_a_job_has_is_asked_again_all_the_same(seconds: float) -> None:
    """A gateway's page for its maintenance, say; and no clock can wait until the year 9999."""
    server = Server([ApiError("watch", "pods", 503, retry_after=seconds)], requests=3)
    assert max(server.slept) <= 60.0
    assert server.told[-2:] == ["listed", "alive"]


def test_a_watch_that_is_always_refused_knocks_ever_more_seldom_although_lists_work() -> None:
    server = Server(lasting=0.0, requests=40, then=[REFUSED])
    assert server.now > 100.0, f"{len(server.asked)} requests in {server.now:.1f} s"


def test_a_server_that_is_away_is_knocked_at_every_few_seconds() -> None:
    server = Server(lasting=0.0, requests=60, then=[ApiError("watch", "pods", 0)])
    assert 2.0 < max(server.slept) <= 5.0


def test_streams_that_are_cut_after_half_a_minute_each_are_taken_up_at_once() -> None:
    """A load balancer with a limit of its own must not make a site ever more blind."""
    server = Server(lasting=30.0, requests=40, then=[event("MODIFIED", 101), ApiError("watch", "pods", 0)])
    assert max(server.slept) < 1.0, server.slept


def test_streams_that_end_at_once_are_no_busy_loop() -> None:
    server = Server(lasting=0.0, requests=40)
    assert server.now > 10.0, f"{len(server.asked)} requests in {server.now:.1f} s"


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param({"type": "ERROR", "object": {"code": "many"}}, id="a code that is no number"),
        pytest.param({"type": "ADDED", "object": "pod"}, id="an object that is a text"),
    ],
)
def test_a_stream_of_nonsense_is_a_loss_like_any_other_and_ends_no_watch(nonsense: Any) -> None:
    server = Server([event("ADDED", 101), nonsense], requests=3)
    assert server.asked[:3] == ["list", "100", "list"]
    assert server.told == ["listed", "changed", "lost", "listed", "alive"]


def test_a_list_that_cannot_be_read_is_asked_for_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(lists=[TypeError("it is null"), TypeError("it is null")], requests=3)
    assert server.told == ["lost", "lost", "listed", "alive"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_message_of_a_stream_that_ends_is_cut_where_it_is_read() -> None:
    watch = Watch(cast("Api", None), Kind.POD, "", strip_unused_fields, cast("Any", None), lambda _: True, lambda: 0.0)
    error = watch._error_from({"code": 500, "reason": "r" * 100_000, "message": 'User "' * 100_000})
    assert (len(error.reason), len(error.message)) == (4096, 4096)
