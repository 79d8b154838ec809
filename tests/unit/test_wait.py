"""Tests of the wait in a server's launch: what ends it, and what does not."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from nvflare.apis.job_def import JobMetaKey, RunStatus

from flargo.control.launched_job import LaunchedJob
from flargo.flare import wait
from flargo.flare.handle import ArgoJobHandle
from flargo.job.plan import SERVER_START_SECONDS
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict


def default_limit(limit: float = wait.MAX_WAIT) -> float:
    """Return the limit that no test has shortened."""
    return limit


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(wait, "MAX_WAIT", 5.0)


class JobStore:
    """A job store with one job. Its first read fails."""

    def __init__(self, status: RunStatus = RunStatus.DISPATCHED) -> None:
        self.status = status
        self.reads = 0

    def get_job(self, _job_id: str, _fl_ctx: object) -> object:
        self.reads += 1
        if self.reads == 1:
            raise OSError("the store is away")
        return SimpleNamespace(meta={JobMetaKey.STATUS.value: self.status.value})


def wait_for_start(
    launched: LaunchedJob,
    store: JobStore | None = None,
    silence: float = 0.0,
    is_connected: Callable[[], bool] = lambda: False,
    given_up: list[str] | None = None,
) -> list[Cause]:
    """Wait in a launch, and return the causes with which its handle was stopped.

    ``given_up`` collects the explanations of a launch that is given up.
    """
    causes: list[Cause] = []
    handle = ArgoJobHandle(launched, causes.append)
    context = SimpleNamespace(get_engine=lambda: SimpleNamespace(get_component=lambda _: store or JobStore()))

    def give_up(detail: str) -> None:
        assert given_up is not None, detail
        given_up.append(detail)
        launched.conclude(Verdict(Reason.LAUNCH_FAILED, 101, detail))

    wait.wait_until_running(handle, launched, lambda: silence, is_connected, give_up, "job", context)
    return causes


def test_launch_returns_when_process_runs() -> None:
    launched = LaunchedJob("wf")
    launched.update(Stage.RUNNING, is_released=True)
    assert wait_for_start(launched) == []


def test_abort_in_job_store_ends_the_job() -> None:
    """Only the job store knows of the abort, and reading it fails once."""
    assert wait_for_start(LaunchedJob("wf"), JobStore(RunStatus.FINISHED_ABORTED)) == [Cause.ABORT]


def test_abort_just_before_start_is_not_lost() -> None:
    """FLARE's server overwrites the stored status once the launch has returned, so the abort would be lost."""
    launched, store = LaunchedJob("wf"), JobStore(RunStatus.FINISHED_ABORTED)
    store.reads = 1
    launched.update(Stage.RUNNING, is_released=True)
    assert wait_for_start(launched, store) == [Cause.ABORT]


def test_silent_api_does_not_delay_released_job() -> None:
    launched = LaunchedJob("wf")
    launched.update(Stage.STARTING, is_released=True)
    assert wait_for_start(launched, silence=7.0) == []


def test_connected_process_needs_no_api() -> None:
    launched = LaunchedJob("wf")
    reads: Iterator[bool | OSError] = iter([OSError("not yet"), False, True])

    def is_connected() -> bool:
        answer = next(reads)
        if isinstance(answer, OSError):
            raise answer
        return answer

    launched.update(Stage.STARTING, is_released=True)
    assert wait_for_start(launched, is_connected=is_connected) == []
    assert [*reads] == [], "the wait ended with the connection"


def test_silent_api_before_release_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "MAX_WAIT", 0.2)
    store, given_up = JobStore(), list[str]()
    assert wait_for_start(LaunchedJob("wf"), store, silence=3.0, given_up=given_up) == []
    assert store.reads > 5, "polled until the limit"
    (detail,) = given_up
    assert detail.startswith("its process was not seen running within 0.2 s; its last known state is ABSENT, and the")
    assert detail.endswith("Kubernetes API has been silent for 3 s")


@pytest.mark.parametrize(
    "stage", [stage for stage in Stage if stage is not Stage.RUNNING], ids=lambda stage: stage.label
)
@pytest.mark.parametrize("is_released", [True, False])
def test_job_that_never_runs_has_no_handle(monkeypatch: pytest.MonkeyPatch, stage: Stage, *, is_released: bool) -> None:
    """FLARE would start the clients, which would wait for the job's process and give up."""
    monkeypatch.setattr(wait, "MAX_WAIT", 0.05)
    launched, given_up = LaunchedJob("wf"), list[str]()
    launched.update(stage, is_released=is_released)
    assert wait_for_start(launched, given_up=given_up) == []
    assert launched.verdict is not None
    assert launched.verdict.code == 101
    assert given_up == [f"its process was not seen running within 0.05 s; its last known state is {stage.label}"]


def test_job_timeout_precedes_launch_limit() -> None:
    """FLARE is then told the reason for which the job did not run."""
    assert default_limit() >= SERVER_START_SECONDS + 60


@pytest.mark.parametrize("stage", [Stage.RUNNING, Stage.STARTING])
def test_stopping_job_has_no_handle(stage: Stage) -> None:
    """The job started just after its timeout had expired: FLARE would start the clients in vain."""
    launched = LaunchedJob("wf")
    launched.update(stage, is_released=True, is_stopping=True)
    timer = threading.Timer(0.3, lambda: launched.conclude(Verdict(Reason.SHORTAGE, 101)))
    timer.start()
    assert wait_for_start(launched, silence=3600.0, is_connected=lambda: True) == []
    assert launched.verdict is not None
    timer.join()


PROCESS_PATIENCE = 30.0
"""Seconds after which a process gives up if its parent does not know it."""
SILENCES = {
    Stage.STARTING: (5.0, 7.0),
    Stage.WAITING: (5.0, 7.0),
    Stage.SUBMITTED: (5.0, 7.0),
    **dict.fromkeys(
        (Stage.PULLING, Stage.UNCLAIMED, Stage.QUEUED, Stage.QUOTA, Stage.SHORTAGE, Stage.TAINTED), (15.0, 25.0)
    ),
}
"""For each stage a silence that does not end the wait, and one that does."""


@pytest.mark.parametrize("stage", SILENCES, ids=lambda stage: stage.label)
def test_silence_limit_depends_on_the_stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short silence while an image is pulled, for example, proves no start: the clients would give up."""
    monkeypatch.setattr(wait, "MAX_WAIT", 0.1)
    short, long = SILENCES[stage]
    launched, given_up = LaunchedJob("wf"), list[str]()
    launched.update(stage, is_released=True)
    wait_for_start(launched, silence=short, given_up=given_up)
    assert given_up
    launched = LaunchedJob("wf")
    launched.update(stage, is_released=True)
    wait_for_start(launched, silence=long)
    assert launched.verdict is None


def test_every_stage_has_a_silence_limit() -> None:
    assert {*wait.API_SILENCE_LIMITS} == {*Stage}
    assert max(wait.API_SILENCE_LIMITS.values()) < PROCESS_PATIENCE
