"""The keeper of a Lease: its requests, its thread, what it logs, and how it gives the Lease back."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.lease import RECHECK_SECONDS, LeaseStage, LeaseStatus
from flargo.control.lease_keeper import LeaseKeeper, boot_time
from flargo.terms import Object, Parent, Role
from tests.harness.fake_api import THREAD_SECONDS, MemoryApi
from tests.harness.lease_parents import FEDERATION, LABELS, NAME, SITE

MAX_PAUSES = 2000
START = datetime(2026, 1, 1, tzinfo=UTC)
FORBIDDEN = ApiError("get", f"leases {NAME}", 403, "Forbidden", 'User "x" cannot get resource "leases"')
UNANSWERED = ApiError("get", f"leases {NAME}", 0)


class Clock:
    """A time that only passes while a keeper pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(clock: Clock) -> MemoryApi:
    memory = MemoryApi()
    memory.server_clock = clock.wall
    return memory


def keeper(api: MemoryApi, clock: Clock, epoch: str = "1", *, until: float = 0.0) -> LeaseKeeper:
    """Return a keeper whose pauses pass the time, and which stops at a time."""
    pauses = itertools.count()

    def pause(seconds: float) -> bool:
        assert next(pauses) < MAX_PAUSES, "requests without a pause"
        is_over = clock.now + seconds > until
        clock.now = max(clock.now, min(clock.now + seconds, until))
        return is_over

    parent = Parent(SITE, FEDERATION, epoch, Role.CLIENT)
    return LeaseKeeper(api, parent, "host", clock=clock, wall_clock=clock.wall, pause=pause)


def spec(api: MemoryApi) -> Object:
    stored: Object = api.store[Kind.LEASE, NAME]["spec"]
    return stored


def fail(api: MemoryApi, clock: Clock, error: ApiError, start: float = 0.0, end: float = 1e9) -> None:
    """Let every request within a time fail."""

    def trouble(_: int, when: str) -> None:
        if when == "before" and start <= clock.now < end:
            raise error

    api.trouble = trouble


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "flargo.control.lease_keeper")

    def take() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return take


def test_the_lease_is_created_with_labels_and_holder(api: MemoryApi, clock: Clock) -> None:
    keeper(api, clock, until=5.0).run()
    item = api.store[Kind.LEASE, NAME]
    assert item["metadata"]["labels"] == LABELS
    assert (item["apiVersion"], item["kind"]) == ("coordination.k8s.io/v1", "Lease")
    assert (item["spec"]["holderIdentity"], item["spec"]["leaseDurationSeconds"]) == ("host_1", 15)


def test_an_idle_parent_sends_six_requests_a_minute(api: MemoryApi, clock: Clock) -> None:
    """The number in docs/scale.md."""
    keeper(api, clock, until=5.0).run()
    before = api.requests
    clock.now = 0.0
    keeper(api, clock, until=605.0).run()
    started = 2
    assert api.requests - before - started == 60


def test_a_predecessor_that_died_is_replaced(api: MemoryApi, clock: Clock, lines: Callable[[], list[str]]) -> None:
    keeper(api, clock, "1", until=12.0).run()
    clock.now += 4.0
    new = keeper(api, clock, "2", until=32.0)
    new.run()
    assert spec(api)["holderIdentity"] == "host_2"
    assert lines() == [
        f"Lease {NAME} acquired; no earlier parent of this site is on record",
        f"Lease {NAME} was held by host_1; waiting until it renews or expires",
        f"Lease {NAME} acquired; the site had no parent for 21 s",
    ]


def test_a_parent_that_was_away_for_long_does_not_wait(api: MemoryApi, clock: Clock) -> None:
    keeper(api, clock, "1", until=12.0).run()
    clock.now += 120.0
    new = keeper(api, clock, "2", until=clock.now)
    new.run()
    assert new._lease.stage is LeaseStage.RELEASED
    assert spec(api)["holderIdentity"] == "host_2"
    assert new._lease.away_seconds == 122.0


def test_a_second_parent_is_fenced_and_says_so(api: MemoryApi, clock: Clock, lines: Callable[[], list[str]]) -> None:
    keeper(api, clock, "1", until=5.0).run()

    def renew(_: int, when: str) -> None:
        if when == "before":  # the living first parent, each time that the second one looks
            api._stamp(Kind.LEASE, api.store[Kind.LEASE, NAME])

    lines()
    api.trouble = renew
    second = keeper(api, clock, "2", until=60.0)
    second.run()
    assert spec(api)["holderIdentity"] == "host_1"
    fenced = f"Lease {NAME} is held by host_1, another parent of this site"
    assert lines()[1:] == [f"{fenced}; this parent launches no jobs until that parent has ended"]


def test_a_parent_that_lost_the_lease_says_so(api: MemoryApi, clock: Clock, lines: Callable[[], list[str]]) -> None:
    first = keeper(api, clock, until=25.0)

    def take(number: int, when: str) -> None:
        if number == 4 and when == "before":
            spec(api)["holderIdentity"] = "thief_9"
            api._stamp(Kind.LEASE, api.store[Kind.LEASE, NAME])

    api.trouble = take
    first.run()
    assert lines()[-1] == (
        f"Lease {NAME} was taken by thief_9, another parent of this site; this parent launches and ends no jobs until"
        " that parent has ended"
    )


def test_a_missing_right_is_one_warning(api: MemoryApi, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flargo.control.lease_keeper")
    fail(api, clock, FORBIDDEN)
    keeper(api, clock, until=1500.0).run()
    records = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in records] == [logging.INFO, logging.WARNING]
    assert records[0][1].startswith(f"Lease {NAME} refused so far: get leases")
    assert records[1][1].startswith(
        f"Lease {NAME} refused; a second parent of this site is not noticed, and no job is taken back after a restart;"
        " apply deploy/launcher.yaml again, or the kit's chart: get leases"
    )
    assert api.requests < 10 + 1500.0 / RECHECK_SECONDS


def test_an_outage_is_one_warning(api: MemoryApi, clock: Clock, lines: Callable[[], list[str]]) -> None:
    fail(api, clock, UNANSWERED, start=5.0, end=300.0)
    keeper(api, clock, until=400.0).run()
    acquired, lapsed, renewed = lines()
    assert "acquired" in acquired
    effect = "Workflows that no launch follows are left alone until it is"
    assert lapsed.startswith(f"Lease {NAME} not renewed for 13 s; {effect}: get leases")
    assert renewed == f"Lease {NAME} renewed again"


def test_an_unexpected_error_does_not_end_the_renewals(api: MemoryApi, clock: Clock) -> None:
    def trouble(number: int, when: str) -> None:
        if number == 3 and when == "before":
            raise ZeroDivisionError

    api.trouble = trouble
    keeper(api, clock, until=60.0).run()
    assert api.requests >= 6


@pytest.fixture
def running(api: MemoryApi) -> Iterator[LeaseKeeper]:
    """A keeper on a thread of its own."""
    thread_keeper = LeaseKeeper(api, Parent(SITE, FEDERATION, "1", Role.CLIENT), "host")
    thread_keeper.start()
    yield thread_keeper
    thread_keeper.close(release=False)


def is_held(status: LeaseStatus) -> bool:
    return status.stage is LeaseStage.HELD


def test_wait_returns_when_the_lease_is_held(running: LeaseKeeper) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    assert running.state == LeaseStatus(LeaseStage.HELD)
    assert not running.wait(lambda status: status.is_fenced, 0.01)


def test_starting_twice_is_one_thread(running: LeaseKeeper) -> None:
    running.start()
    assert [thread.name for thread in threading.enumerate()].count("flargo-lease") == 1


def test_closing_gives_the_lease_back(running: LeaseKeeper, api: MemoryApi) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    running.close()
    assert spec(api)["holderIdentity"] == ""
    assert running.state.stage is LeaseStage.RELEASED


def test_belief_ends_before_the_release(running: LeaseKeeper, api: MemoryApi) -> None:
    """The next parent takes the Lease as soon as it is released."""
    assert running.wait(is_held, THREAD_SECONDS)
    stages: list[LeaseStage] = []
    api.trouble = lambda *_: stages.append(running.state.stage)
    running.close()
    assert stages == 2 * [LeaseStage.RELEASED]


def test_closing_without_release_keeps_the_holder(running: LeaseKeeper, api: MemoryApi) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    running.close(release=False)
    assert spec(api)["holderIdentity"] == "host_1"


def test_a_lease_that_another_parent_has_is_not_released(running: LeaseKeeper, api: MemoryApi) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    spec(api)["holderIdentity"] = "thief_9"
    api._stamp(Kind.LEASE, api.store[Kind.LEASE, NAME])
    running.close()
    assert spec(api)["holderIdentity"] == "thief_9"


def test_a_version_that_is_not_known_is_read_before_the_release(running: LeaseKeeper, api: MemoryApi) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    api._stamp(Kind.LEASE, api.store[Kind.LEASE, NAME])
    running.close()
    assert spec(api)["holderIdentity"] == ""


def test_a_failed_release_is_a_warning(
    running: LeaseKeeper, api: MemoryApi, clock: Clock, lines: Callable[[], list[str]]
) -> None:
    assert running.wait(is_held, THREAD_SECONDS)
    fail(api, clock, UNANSWERED)
    running.close()
    assert "not released; the next parent has to wait until it expires" in lines()[-1]


def test_a_hanging_request_does_not_keep_the_parent(api: MemoryApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody believes in the Lease then, whatever the request does later."""
    monkeypatch.setattr("flargo.control.lease_keeper.RELEASE_SECONDS", 0.05)
    hangs, goes_on = threading.Event(), threading.Event()

    def trouble(number: int, when: str) -> None:
        if number == 2 and when == "after":
            hangs.set()
            goes_on.wait(THREAD_SECONDS)

    api.trouble = trouble
    hanging = LeaseKeeper(api, Parent(SITE, FEDERATION, "1", Role.CLIENT), "host")
    hanging.start()
    assert hangs.wait(THREAD_SECONDS)
    hanging.close()
    assert hanging.state.stage is LeaseStage.RELEASED
    goes_on.set()
    assert hanging._thread is not None
    hanging._thread.join(THREAD_SECONDS)
    assert hanging.state.stage is LeaseStage.RELEASED


def test_the_boot_clock_runs() -> None:
    assert boot_time() <= boot_time()


def test_the_lease_decides_what_a_parent_may_change(api: MemoryApi, clock: Clock) -> None:
    """Asked before each request about the Lease: before it is held, at the renewal, and once it is taken."""
    parent, answers = keeper(api, clock, until=30.0), list[tuple[LeaseStage, bool, bool]]()

    def take(number: int, when: str) -> None:
        if when == "before":
            own, others = parent.may_change(is_followed=True), parent.may_change(is_followed=False)
            answers.append((parent.state.stage, own, others))
        if number == 4 and when == "before":
            spec(api)["holderIdentity"] = "thief_9"
            api._stamp(Kind.LEASE, api.store[Kind.LEASE, NAME])

    api.trouble = take
    parent.run()
    assert answers[0] == (LeaseStage.ACQUIRING, True, False)
    assert (LeaseStage.HELD, True, True) in answers
    assert (LeaseStage.LOST, False, False) in answers
