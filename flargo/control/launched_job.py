"""What a launched job's handle holds: the latest of its life, and a way to wait for more."""

import threading
from collections.abc import Callable

from flargo.status.diagnosis import Stage
from flargo.status.verdict import Verdict


class LaunchedJob:
    """Where the loop writes and FLARE's threads read. Reading never does I/O and never waits for the loop."""

    def __init__(self, name: str) -> None:
        """Of a Workflow of that name, of which nothing is known yet."""
        self.name = name
        """The Workflow's name."""
        self.stage = Stage.ABSENT
        self.verdict: Verdict | None = None
        self.is_released = False
        """The Workflow has been released: its program may run at any moment."""
        self.is_stopping = False
        """The job is being brought to an end, whatever is still seen of it."""
        self._changed = threading.Condition()

    def update(self, stage: Stage, *, released: bool, stopping: bool = False) -> None:
        """Write down how far the job is, and wake whoever waits, if it is news."""
        if (stage, released, stopping) == (self.stage, self.is_released, self.is_stopping):
            return
        with self._changed:
            self.stage, self.is_released, self.is_stopping = stage, released, stopping
            self._changed.notify_all()

    def conclude(self, verdict: Verdict) -> None:
        """Write down what became of the job, and wake whoever waits. The first verdict stands."""
        with self._changed:
            self.verdict = self.verdict or verdict
            self._changed.notify_all()

    def wait(self, until: Callable[["LaunchedJob"], bool], seconds: float | None = None) -> bool:
        """Wait until something is true of the ticket, at the most so many seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self), seconds)
