"""A printed line for everything that happens in a run; the lines about one job can be printed again."""

import logging
import time
from collections.abc import Sequence

from tests.soak.oracle import DoneIntervention


class Timeline:
    """Prints lines with their time, and remembers them until ``forget``."""

    def __init__(self) -> None:
        self._started_at = time.time()
        self._lines: list[tuple[float, str]] = []

    def say(self, text: str) -> None:
        """Print a line, with the seconds since the run's start."""
        now = time.time()
        self._lines.append((now, text))
        # In one piece: several threads print.
        print(f"{now - self._started_at:7.1f}  {text}\n", end="", flush=True)

    def forget(self) -> None:
        """Forget all lines so far."""
        self._lines.clear()

    def handler(self) -> logging.Handler:
        """Return a handler that writes log records into the timeline."""
        return _Handler(self)

    def print_job(
        self, title: str, interventions: Sequence[DoneIntervention], events: Sequence[str], name: str
    ) -> None:
        """Print all lines about one job in the order of time.

        Args:
            title: the first line.
            interventions: what the run did to the job.
            events: lines of the observer, each of which begins with its time.
            name: the Workflow's name, by which the timeline's own lines are found.
        """
        lines = [(at, text) for at, text in self._lines if name in text]
        lines += [(each.started_at, f"{each.intervention.value}: begins") for each in interventions]
        lines += [(each.finished_at, f"{each.intervention.value}: {each.error or 'done'}") for each in interventions]
        lines += [(float(at), f"observer: {text}") for at, _, text in (line.partition(" ") for line in events)]
        rows = "\n".join(f"    {at - self._started_at:7.1f}  {text}" for at, text in sorted(lines))
        print(f"{title}\n{rows}", flush=True)


class _Handler(logging.Handler):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        self._timeline.say(f"launcher: {self.format(record)}")
