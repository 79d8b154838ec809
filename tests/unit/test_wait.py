"""Holding a server's launch: what ends the wait, and what does not."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from nvflare.apis.job_def import JobMetaKey, RunStatus

from flargo.control.launched_job import LaunchedJob
from flargo.flare import wait as holding
from flargo.flare.handle import ArgoJobHandle
from flargo.job.plan import SERVER_START_SECONDS
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict


def hold_limit(limit: float = holding.MAX_WAIT) -> float:
    """As it is where no test has made it short."""
    return limit


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(holding, "MAX_WAIT", 5.0)


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
    ticket: LaunchedJob,
    store: Store | None = None,
    deaf: float = 0.0,
    connected: Callable[[], bool] = lambda: False,
    given_up: list[str] | None = None,
) -> list[Cause]:
    """Hold a launch; what was asked of its handle. ``given_up`` takes why it was given up."""
    asked: list[Cause] = []
    handle = ArgoJobHandle(ticket, asked.append)
    context = SimpleNamespace(get_engine=lambda: SimpleNamespace(get_component=lambda _: store or Store()))

    def give_up(detail: str) -> None:
        assert given_up is not None, detail
        given_up.append(detail)
        ticket.conclude(Verdict(Reason.LAUNCH_FAILED, 101, detail))

    holding.wait_until_running(handle, ticket, lambda: deaf, connected, give_up, "job", context)
    return asked


def test_a_launch_returns_when_the_process_runs() -> None:
    ticket = LaunchedJob("wf")
    ticket.update(Stage.RUNNING, is_released=True)
    assert hold(ticket) == []


def test_an_abort_that_only_the_job_store_knows_of_ends_the_job_though_the_store_failed_once() -> None:
    assert hold(LaunchedJob("wf"), Store(RunStatus.FINISHED_ABORTED)) == [Cause.ABORT]


def test_an_abort_just_before_the_process_runs_is_not_lost() -> None:
    """FLARE's server overwrites the stored status once the launch has returned: nobody would hear of it again."""
    ticket, store = LaunchedJob("wf"), Store(RunStatus.FINISHED_ABORTED)
    store.looks = 1
    ticket.update(Stage.RUNNING, is_released=True)
    assert hold(ticket, store) == [Cause.ABORT]


def test_a_silent_api_holds_up_no_process_that_may_run() -> None:
    ticket = LaunchedJob("wf")
    ticket.update(Stage.STARTING, is_released=True)
    assert hold(ticket, deaf=3.0) == []


def test_a_process_that_has_connected_is_not_kept_waiting_for_an_api_that_stalls() -> None:
    ticket = LaunchedJob("wf")
    looks: Iterator[bool | OSError] = iter([OSError("not yet"), False, True])

    def connected() -> bool:
        look = next(looks)
        if isinstance(look, OSError):
            raise look
        return look

    ticket.update(Stage.STARTING, is_released=True)
    assert hold(ticket, connected=connected) == []
    assert [*looks] == [], "it was waited for, and no longer"


def test_a_silent_api_before_the_release_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "MAX_WAIT", 0.2)
    store, given_up = Store(), list[str]()
    assert hold(LaunchedJob("wf"), store, deaf=3.0, given_up=given_up) == []
    assert store.looks > 5, "until the bound"
    (detail,) = given_up
    assert detail.startswith("its process was not seen to run within 0.2 s; it was seen last as ABSENT, and the")
    assert detail.endswith("Kubernetes API has not been heard for 3 s")


@pytest.mark.parametrize(
    "stage", [stage for stage in Stage if stage is not Stage.RUNNING], ids=lambda stage: stage.label
)
@pytest.mark.parametrize("released", [True, False])
def test_a_launch_never_returns_the_handle_of_a_job_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, *, released: bool
) -> None:
    """FLARE would start the clients, which would wait for its process and give up."""
    monkeypatch.setattr(holding, "MAX_WAIT", 0.05)
    ticket, given_up = LaunchedJob("wf"), list[str]()
    ticket.update(stage, is_released=released)
    assert hold(ticket, given_up=given_up) == []
    assert ticket.verdict is not None
    assert ticket.verdict.code == 101
    assert given_up == [f"its process was not seen to run within 0.05 s; it was seen last as {stage.label}"]


def test_the_jobs_own_limit_comes_before_the_launchs() -> None:
    """So that FLARE hears the reason for which the job did not run."""
    assert hold_limit() >= SERVER_START_SECONDS + 60


@pytest.mark.parametrize("seen", [Stage.RUNNING, Stage.STARTING])
def test_a_job_that_is_being_ended_has_no_handle_though_it_runs_at_last(seen: Stage) -> None:
    """Its place came just after the decision that it has waited too long: FLARE would start the clients for nothing."""
    ticket = LaunchedJob("wf")
    ticket.update(seen, is_released=True, is_stopping=True)
    over = threading.Timer(0.3, lambda: ticket.conclude(Verdict(Reason.SHORTAGE, 101)))
    over.start()
    assert hold(ticket, deaf=3600.0, connected=lambda: True) == []
    assert ticket.verdict is not None
    over.join()


@pytest.mark.parametrize("seen", [Stage.SUBMITTED, Stage.QUEUED, Stage.SHORTAGE, Stage.TAINTED])
def test_a_short_silence_is_no_sign_that_a_job_without_a_node_runs(
    seen: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "MAX_WAIT", 0.5)
    ticket, given_up = LaunchedJob("wf"), list[str]()
    ticket.update(seen, is_released=True)
    hold(ticket, deaf=holding.API_SILENCE_LIMIT + 1, given_up=given_up)
    assert given_up
    ticket = LaunchedJob("wf")
    ticket.update(seen, is_released=True)
    hold(ticket, deaf=holding.API_SILENCE_LIMIT_WITHOUT_NODE + 1)
    assert ticket.verdict is None
