"""What is drawn on a terminal with rich: every text passes here, is redacted and made inert.

Other modules of the commands make no text for rich and print nothing by themselves; a test holds them to that.
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


def safe(text: str) -> str:
    """Foreign text on one line: without what looks like a key or a token, and inert."""
    return inert(REDACTION.redact(text))


def console() -> Console:
    """The terminal, or the file, that stdout is."""
    return Console()


def line(*cells: Cell, no_wrap: bool | None = None, overflow: Literal["ellipsis"] | None = None) -> Text:
    """One line of texts with their styles. Nothing in a text is read as rich's markup."""
    return Text.assemble(*map(_styled, cells), no_wrap=no_wrap, overflow=overflow)


def table(headers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table without borders."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        made.add_column(line(header))
    for row in rows:
        made.add_row(*map(line, row))
    return made


def write(to: Console, text: Text) -> None:
    """Write a line, unbroken: a terminal wraps it, and a file keeps it whole."""
    to.print(text, soft_wrap=True, highlight=False)


def draw(to: Console, of: RenderableType) -> None:
    """Write a table, as wide as the terminal."""
    to.print(of)


def _styled(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return safe(text), style
