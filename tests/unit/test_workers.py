"""Tests of Workers: threads only when there is work, and no task is lost without the caller's knowledge."""

import threading
from collections.abc import Callable

import pytest

from flargo.control.workers import Workers
from tests.harness.fake_api import THREAD_SECONDS


def waiting_for(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        event.wait(THREAD_SECONDS)

    return wait


def test_threads_are_reused_and_limited() -> None:
    workers, may_go_on, done = Workers(2, "test"), threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        may_go_on.wait(THREAD_SECONDS)
        done.release()

    for _ in range(5):
        assert workers.run(wait)
    assert len(workers._threads) == 2
    may_go_on.set()
    for _ in range(5):
        assert done.acquire(timeout=THREAD_SECONDS)
    workers.close(wait=True)


def test_task_that_is_not_due_occupies_no_thread() -> None:
    workers, done, order = Workers(1, "test"), threading.Event(), list[int]()
    for number in (30, 20):
        assert workers.run(lambda number=number: order.append(number), delay=0.01 * number)  # type: ignore[misc]
    assert workers.run(done.set, delay=0.4)
    assert workers.run(lambda: order.append(0))
    for _ in range(100):
        assert workers.run(lambda: order.append(1000), delay=1000.0)
    assert done.wait(THREAD_SECONDS)
    workers.close()
    assert order == [0, 20, 30]


def test_closed_workers_do_what_is_queued_at_once() -> None:
    workers, done = Workers(1, "test"), threading.Event()
    assert workers.run(done.set, delay=1000.0)
    workers.close(wait=True)
    assert done.is_set()
    assert not workers.run(done.clear)


def test_failed_task_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    workers, done = Workers(1, "test"), threading.Event()
    assert workers.run(lambda: (_ for _ in ()).throw(ValueError("a defect")))
    assert workers.run(done.set)
    assert done.wait(THREAD_SECONDS)
    workers.close(wait=True)
    assert "test: a task failed" in caplog.text


def test_task_without_a_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    workers, done = Workers(4, "test"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
        assert not workers.run(done.set)
    assert workers.run(lambda: None)
    workers.close(wait=True)
    assert not done.is_set(), "a refused task is not kept"


def test_task_that_finds_one_thread_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is busy, and no second one can be started."""
    workers, may_go_on, done = Workers(4, "test"), threading.Event(), threading.Event()
    assert workers.run(waiting_for(may_go_on))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start")))
        assert workers.run(done.set)
    may_go_on.set()
    assert done.wait(THREAD_SECONDS)
    workers.close(wait=True)


def test_close_drops_tasks_unless_it_waits() -> None:
    workers, may_go_on, done = Workers(1, "test"), threading.Event(), threading.Event()
    workers.run(waiting_for(may_go_on))
    workers.run(done.set)
    workers.close()
    may_go_on.set()
    workers.close(wait=True)
    assert not done.is_set()
    assert not workers.run(done.set), "closed"
