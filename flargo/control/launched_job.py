"""The state of a launched job that FLARE's threads read: its stage and its verdict."""

import threading
from collections.abc import Callable

from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.verdict import Verdict


class LaunchedJob:
    """A launched job, written by the loop and read by FLARE's threads. Reading does no I/O and never blocks."""

    def __init__(self, name: str) -> None:
        """Start without any observation of the job.

        Args:
            name: the name of the job's Workflow.
        """
        self.name = name
        """The name of the job's Workflow."""
        self.stage = Stage.ABSENT
        self.verdict: Verdict | None = None
        self.is_released = False
        """The Workflow has been released, so the program may start at any moment."""
        self.is_stopping = False
        """The job is being ended, whatever stage it is in."""
        self._changed = threading.Condition()

    def follow(self, state: JobState) -> None:
        """Record the progress of a job's state, and wake waiting threads if it has changed."""
        self.update(state.stage, is_released=state.is_released, is_stopping=state.is_ending)

    def update(self, stage: Stage, *, is_released: bool, is_stopping: bool = False) -> None:
        """Record the job's progress, and wake waiting threads if it has changed."""
        if (stage, is_released, is_stopping) == (self.stage, self.is_released, self.is_stopping):
            return
        with self._changed:
            self.stage, self.is_released, self.is_stopping = stage, is_released, is_stopping
            self._changed.notify_all()

    def conclude(self, verdict: Verdict) -> None:
        """Record the verdict, and wake waiting threads. A second verdict is ignored."""
        with self._changed:
            self.verdict = self.verdict or verdict
            self._changed.notify_all()

    def wait(self, until: Callable[["LaunchedJob"], bool], seconds: float | None = None) -> bool:
        """Wait until a condition on this job holds, or the seconds have passed; return whether the condition holds."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self), seconds)
