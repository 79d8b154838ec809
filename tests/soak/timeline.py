"""A line for everything that happens, with its time; what concerns a job that went wrong is printed once more."""

import logging
import time
from collections.abc import Sequence

from tests.soak.oracle import Done


class Timeline:
    """Prints; remembers the lines until ``forget``."""

    def __init__(self) -> None:
        self._begun = time.time()
        self._lines: list[tuple[float, str]] = []

    def say(self, text: str) -> None:
        """Print a line, with the seconds since the begin."""
        now = time.time()
        self._lines.append((now, text))
        print(f"{now - self._begun:7.1f}  {text}", flush=True)

    def forget(self) -> None:
        """All lines so far."""
        self._lines.clear()

    def handler(self) -> logging.Handler:
        """Writes what is logged into it."""
        return _Handler(self)

    def evidence(self, title: str, deeds: Sequence[Done], told: Sequence[str], name: str) -> None:
        """Print all that is known of one job, in the order of time."""
        lines = [(at, text) for at, text in self._lines if name in text]
        lines += [(it.begun, f"{it.deed.value}: begins") for it in deeds]
        lines += [(it.done, f"{it.deed.value}: {it.problem or 'done'}") for it in deeds]
        lines += [(float(at), f"witness: {text}") for at, _, text in (line.partition(" ") for line in told)]
        shown = "\n".join(f"    {at - self._begun:7.1f}  {text}" for at, text in sorted(lines))
        print(f"{title}\n{shown}", flush=True)


class _Handler(logging.Handler):
    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    def emit(self, record: logging.LogRecord) -> None:
        self._timeline.say(f"launcher: {self.format(record)}")
