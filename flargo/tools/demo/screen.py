"""Shows the demo's progress: a live display on a terminal, and plain lines anywhere else."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import FLARE_COMPLETED
from flargo.tools import terminal
from flargo.tools.demo.progress import Party, Snapshot, describe_changes

_LABEL_WIDTH = 12
_INDENT = " " * (_LABEL_WIDTH + 10)
_MAX_ROUNDS = 6
"""The limit for the rounds that the live display shows: the latest ones."""
_STATE_WIDTH = 22


class Screen:
    """Prints lines with the seconds since the demo started."""

    def __init__(self, console: Console) -> None:
        """Print to a console; time is counted from now on."""
        self.console = console
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the demo started."""
        return time.monotonic() - self._started

    def print_line(self, label: str, text: str, style: str = "") -> None:
        """Print a line that begins with the time and a label."""
        head = ((f"{self.seconds:6.1f} s  ", "dim"), (f"{label:{_LABEL_WIDTH}}", "bold cyan"))
        terminal.write(self.console, terminal.line(*head, (text, style)))

    def print_detail(self, text: str, style: str = "") -> None:
        """Print a line below the last labelled line, indented as its text."""
        terminal.write(self.console, terminal.line(_INDENT, (text, style)))


class Progress:
    """Shows a job's progress as long as the context is open."""

    def __init__(self, screen: Screen, total: int) -> None:
        """Show progress on a screen; ``total`` is the number of rounds, 0 if it is unknown."""
        self._screen, self._total = screen, total
        self._latest = Snapshot()
        self._live = Live(console=screen.console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> Self:
        if self._screen.console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show a new snapshot: update the live display, or print a line for each change."""
        if not self._screen.console.is_interactive:
            for line in describe_changes(self._latest, snapshot, self._total):
                self._screen.print_detail(line)
        self._latest = snapshot

    def _render(self) -> RenderableType:
        snapshot = self._latest
        width = max((len(party.name) for party in snapshot.parties), default=0)
        lines = [_line(party, width, is_success=snapshot.status == FLARE_COMPLETED) for party in snapshot.parties]
        lines += [
            terminal.line(_INDENT, (each.describe(self._total), "magenta")) for each in snapshot.rounds[-_MAX_ROUNDS:]
        ]
        style = "green" if snapshot.status == FLARE_COMPLETED else "red" if snapshot.is_finished else "yellow"
        status = terminal.line(
            (f"{self._screen.seconds:6.1f} s  ", "dim"),
            (f"{'FLARE says':{_LABEL_WIDTH}}", "bold cyan"),
            (snapshot.status, style),
        )
        return Group(*lines, status)


def _line(party: Party, width: int, *, is_success: bool) -> RenderableType:
    mark, style = _mark(party, is_success=is_success)
    name, state = (f"{mark} {party.name:{width}}  ", style), f"{party.state_text:{_STATE_WIDTH}}  "
    return terminal.line(_INDENT, name, state, (party.workflow, "dim"), no_wrap=True, overflow="ellipsis")


def _mark(party: Party, *, is_success: bool) -> tuple[str, str]:
    """Return a party's mark and its style; ``is_success``: FLARE says that the job has completed.

    An exit code 0 alone is no success: FLARE's processes end with it although the training script has raised.
    """
    if party.reason is Reason.SUCCEEDED:
        return ("✔", "green") if is_success else ("■", "yellow")
    if party.reason is not None:
        return "✘", "red"
    return {Stage.RUNNING: ("●", "bold green"), Stage.ABSENT: ("·", "dim")}.get(party.stage, ("○", "yellow"))
