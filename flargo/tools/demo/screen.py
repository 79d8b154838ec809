"""What people see: a picture that changes on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools import terminal
from flargo.tools.demo.progress import COMPLETED, Party, Seen, news

_LABEL = 12
_INDENT = " " * (_LABEL + 10)
_ROUNDS = 6
"""So many are shown at a time."""
_WORDS = 22


class Screen:
    """Says what happens, with the seconds since its beginning."""

    def __init__(self, console: Console) -> None:
        """Speak on a console."""
        self.console = console
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def say(self, label: str, words: str, style: str = "") -> None:
        """One line: what, and how it is."""
        head = ((f"{self.seconds:6.1f} s  ", "dim"), (f"{label:{_LABEL}}", "bold cyan"))
        terminal.write(self.console, terminal.line(*head, (words, style)))

    def more(self, words: str, style: str = "") -> None:
        """A further line of the same matter."""
        terminal.write(self.console, terminal.line(_INDENT, (words, style)))


class Progress:
    """Shows a job's progress until it is left."""

    def __init__(self, screen: Screen, total: int) -> None:
        """Show it on a screen; ``total`` is the number of rounds, 0 where it is not known."""
        self._screen, self._total = screen, total
        self._seen = Seen()
        self._live = Live(console=screen.console, refresh_per_second=8, get_renderable=self._picture)

    def __enter__(self) -> Self:
        if self._screen.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, seen: Seen) -> None:
        """This is how it is now."""
        if not self._screen.console.is_terminal:
            for line in news(self._seen, seen, self._total):
                self._screen.more(line)
        self._seen = seen

    def _picture(self) -> RenderableType:
        seen = self._seen
        width = max((len(party.name) for party in seen.parties), default=0)
        lines = [_line(party, width) for party in seen.parties]
        lines += [terminal.line(_INDENT, (each.words(self._total), "magenta")) for each in seen.rounds[-_ROUNDS:]]
        style = "green" if seen.status == COMPLETED else "red" if seen.finished else "yellow"
        status = terminal.line(
            (f"{self._screen.seconds:6.1f} s  ", "dim"), (f"{'FLARE says':{_LABEL}}", "bold cyan"), (seen.status, style)
        )
        return Group(*lines, status)


def _line(party: Party, width: int) -> RenderableType:
    mark, style = _mark(party)
    name, state = (f"{mark} {party.name:{width}}  ", style), f"{party.words:{_WORDS}}  "
    return terminal.line(_INDENT, name, state, (party.workflow, "dim"), no_wrap=True, overflow="ellipsis")


def _mark(party: Party) -> tuple[str, str]:
    if party.reason is Reason.SUCCEEDED:
        return "✔", "green"
    if party.reason is not None:
        return "✘", "red"
    return {Stage.RUNNING: ("●", "bold green"), Stage.ABSENT: ("·", "dim")}.get(party.stage, ("○", "yellow"))
