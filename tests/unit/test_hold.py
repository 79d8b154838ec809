"""Holding a server's launch: what ends the wait, and what does not."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from nvflare.apis.job_def import JobMetaKey, RunStatus

from flargo.control.ticket import Ticket
from flargo.flare import hold as holding
from flargo.flare.handle import ArgoJobHandle
from flargo.status.diagnosis import Stage
from flargo.status.verdict import Cause


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "LOOK", 0.01)
    monkeypatch.setattr(holding, "MOST", 5.0)


class Store:
    """A job store with one job."""

    def __init__(self, status: RunStatus = RunStatus.DISPATCHED) -> None:
        self.status = status
        self.looks = 0

    def get_job(self, _job_id: str, _fl_ctx: object) -> object:
        self.looks += 1
        if self.looks == 1:
            raise OSError("the store is away")
        return SimpleNamespace(meta={JobMetaKey.STATUS.value: self.status.value})


def hold(
    ticket: Ticket,
    store: Store | None = None,
    deaf: float = 0.0,
    connected: Callable[[], bool] = lambda: False,
) -> list[Cause]:
    """Hold a launch; what was asked of its handle."""
    asked: list[Cause] = []
    handle = ArgoJobHandle(ticket, asked.append)
    context = SimpleNamespace(get_engine=lambda: SimpleNamespace(get_component=lambda _: store or Store()))
    holding.hold(handle, ticket, lambda: deaf, connected, "job", context)
    return asked


def test_a_launch_returns_when_the_process_runs() -> None:
    ticket = Ticket("wf")
    ticket.update(Stage.RUNNING, released=True)
    assert hold(ticket) == []


def test_an_abort_that_only_the_job_store_knows_of_ends_the_job_though_the_store_failed_once() -> None:
    assert hold(Ticket("wf"), Store(RunStatus.FINISHED_ABORTED)) == [Cause.ABORT]


def test_an_abort_just_before_the_process_runs_is_not_lost() -> None:
    """FLARE's server overwrites the stored status once the launch has returned: nobody would hear of it again."""
    ticket, store = Ticket("wf"), Store(RunStatus.FINISHED_ABORTED)
    store.looks = 1
    ticket.update(Stage.RUNNING, released=True)
    assert hold(ticket, store) == [Cause.ABORT]


def test_a_silent_api_holds_up_no_process_that_may_run() -> None:
    ticket = Ticket("wf")
    ticket.update(Stage.STARTING, released=True)
    assert hold(ticket, deaf=3.0) == []


def test_a_process_that_has_connected_is_not_kept_waiting_for_an_api_that_stalls() -> None:
    ticket = Ticket("wf")
    looks: Iterator[bool | OSError] = iter([OSError("not yet"), False, True])

    def connected() -> bool:
        look = next(looks)
        if isinstance(look, OSError):
            raise look
        return look

    ticket.update(Stage.STARTING, released=True)
    assert hold(ticket, connected=connected) == []
    assert [*looks] == [], "it was waited for, and no longer"


def test_a_silent_api_before_the_release_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MOST", 0.2)
    store = Store()
    assert hold(Ticket("wf"), store, deaf=3.0) == []
    assert store.looks > 5, "until the bound"
