"""Draws on a terminal with rich. Every text is redacted and made inert here before rich gets it.

The commands' other modules create no text for rich and write nothing to a stream by themselves; a test holds this.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from flargo.flare.redact import REDACTION
from flargo.text import inert

Cell = str | tuple[str, str]
"""Plain text, or a text and its style."""


def make_safe(text: str) -> str:
    """Make foreign text safe to write on one line: blank what looks like a key or a token, and make the rest inert."""
    return inert(REDACTION.redact(text))


def console() -> Console:
    """Return a console on stdout, which may be a terminal or a file."""
    return Console()


def line(*cells: Cell, no_wrap: bool | None = None, overflow: Literal["ellipsis"] | None = None) -> Text:
    """Build one line of texts with their styles. rich's markup in a text has no effect."""
    return Text.assemble(*map(_safe_cell, cells), no_wrap=no_wrap, overflow=overflow)


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Build a table without borders."""
    grid = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        grid.add_column(line(header))
    for row in rows:
        grid.add_row(*map(line, row))
    return grid


def write(to: Console, text: Text) -> None:
    """Write a line without breaking it: a terminal wraps it, and a file keeps it whole."""
    to.print(text, soft_wrap=True, highlight=False)


def draw(to: Console, picture: RenderableType) -> None:
    """Draw a table or the like, as wide as the terminal."""
    to.print(picture)


def _safe_cell(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return make_safe(text), style
