"""Tests of the FollowedJob: what it holds, and what it measures."""

import pytest

from flargo.control.followed_job import FollowedJob
from flargo.control.meter import NullMeter
from flargo.status.diagnosis import Stage
from tests.harness.plans import submit_plan


class StartMeter(NullMeter):
    """Keeps the measured starts."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def observe_start(self, seconds: float) -> None:
        self.starts.append(seconds)


def followed_job() -> FollowedJob:
    plan = submit_plan()
    return FollowedJob(plan.name, plan.attempt, lambda: False, lambda *_: None, collect_log=False, plan=plan)


def test_plan_is_held_until_it_is_taken() -> None:
    job = followed_job()
    assert job.take_plan().attempt == job.attempt == "a1"
    with pytest.raises(AssertionError, match="taken before"):
        job.take_plan()


def test_cancelled_launch_creates_nothing() -> None:
    job = followed_job()
    assert job.cancel(), "nothing was created"
    assert not job.begin_create()
    assert job.cancel()


def test_begun_create_proves_nothing() -> None:
    """The request may reach the API server after its launch was cancelled."""
    job = followed_job()
    assert job.begin_create()
    assert not job.expire()
    assert not job.cancelled.is_set()
    assert not job.cancel()
    assert not job.begin_create(), "it is not sent again"


def test_expired_launch_creates_nothing() -> None:
    job = followed_job()
    assert job.expire()
    assert not job.begin_create()


def test_start_is_measured_once_from_the_release() -> None:
    job, meter = followed_job(), StartMeter()
    job.measure_start(meter, 1.0)
    job.launched.update(Stage.WAITING, is_released=True)
    job.measure_start(meter, 2.0)
    job.launched.update(Stage.RUNNING, is_released=True)
    job.measure_start(meter, 9.0)
    job.measure_start(meter, 20.0)
    assert meter.starts == [7.0]
