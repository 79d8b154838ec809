"""The jobs of a client's parent that are ended together."""

from typing import Any, cast

from flargo.control.meter import NullMeter
from flargo.flare.client_jobs import ClientJobs
from flargo.status.verdict import Cause


class BrokenJob:
    """A job whose report fails when the job is stopped."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def stop(self, cause: Cause) -> None:
        self.causes.append(cause)
        raise ValueError("a defect")


def test_a_job_that_cannot_be_stopped_keeps_no_other_from_its_end() -> None:
    """The parent's shutdown then goes on, too: without it FLARE would wait for every job's verdict for ever."""
    jobs = ClientJobs(cast("Any", None), cast("Any", None), NullMeter())
    broken = [BrokenJob(), BrokenJob()]
    jobs._running = cast("Any", set(broken))
    jobs.stop_all(Cause.PARENT_END)
    assert [each.causes for each in broken] == [[Cause.PARENT_END]] * 2
