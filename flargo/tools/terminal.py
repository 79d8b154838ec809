"""Draws on a terminal with rich. Every text is redacted and made inert here before rich gets it.

The commands' other modules create no text for rich and write nothing to a stream by themselves; a test holds this.
"""

from collections.abc import Sequence
from typing import Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.text import Text

from flargo.flare.redact import REDACTION
from flargo.text import inert
from flargo.tools.jobs.table import Column, Fit

Cell = str | tuple[str, str]
"""Plain text, or a text and its style."""
Line = Text
"""A line with styles, which this module has built."""
_GAP = 2
"""Blanks between two columns."""
_MIN_CUT_WIDTH = 8
"""A cell is not cut to less than this."""


def make_safe(text: str) -> str:
    """Make foreign text safe to write on one line: blank what looks like a key or a token, and make the rest inert."""
    return inert(REDACTION.redact(text))


def console() -> Console:
    """Return a console on stdout, which may be a terminal or a file."""
    return Console()


def line(*cells: Cell, no_wrap: bool | None = None, overflow: Literal["ellipsis"] | None = None) -> Line:
    """Build one line of texts with their styles. rich's markup in a text has no effect."""
    return Text.assemble(*map(_safe_cell, cells), no_wrap=no_wrap, overflow=overflow)


def table(headers: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None = None) -> list[Line]:
    """Build the lines of a table without borders, the headers first. No line is wrapped.

    Args:
        headers: the columns. Only their names, and what may happen to them if the lines are too long, are used.
        rows: the cells of each row, one for each column.
        width: how long a line may be. Cells are cut to fit; a line is longer only if the cells that must not be cut
            are. None: nothing is cut.
    """
    cells = [[(header.name, "bold") for header in headers], *([_safe_cell(cell) for cell in row] for row in rows)]
    texts = [[row[at][0] for row in cells] for at in range(len(headers))]
    fitted = _fit(texts, [header.fit for header in headers], width)
    shown = [at for at, column in enumerate(fitted) if column]
    gaps = {at: max(map(cell_len, fitted[at])) + _GAP for at in shown[:-1]}
    lines = []
    for number, row in enumerate(cells):
        line_text = Text(no_wrap=True, overflow="ellipsis")
        for at in shown:
            text = fitted[at][number]
            line_text.append(text, row[at][1]).append(" " * (gaps.get(at, 0) - cell_len(text)))
        lines.append(line_text)
    return lines


def _fit(texts: Sequence[Sequence[str]], fits: Sequence[Fit], width: int | None) -> list[Sequence[str]]:
    """Return the texts of each column, cut as far as they must be; those of a column that is left out are empty."""
    fitted = list(texts)
    for fit, shrink in ((Fit.END, _cut_end), (Fit.MIDDLE, _cut_middle)):
        for at in (at for at, each in enumerate(fits) if each is fit):
            widths = [max(map(cell_len, column)) for column in fitted if column]
            excess = sum(widths) + _GAP * (len(widths) - 1) - width if width is not None else 0
            if excess > 0:
                fitted[at] = shrink(fitted[at], max(map(cell_len, fitted[at])) - excess)
    return fitted


def _cut_end(texts: Sequence[str], width: int) -> Sequence[str]:
    """Cut the ends of long texts off. If less would remain than is of use, return nothing."""
    if width < _MIN_CUT_WIDTH:
        return []
    return [text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…" for text in texts]


def _cut_middle(texts: Sequence[str], width: int) -> Sequence[str]:
    """Leave the middle of long texts out, but no more than is possible without making two of them equal."""
    longest = max(map(cell_len, texts))
    for limit in range(max(width, _MIN_CUT_WIDTH), longest):
        shorter = [_leave_middle_out(text, limit) for text in texts]
        if len(set(shorter)) == len(set(texts)):
            return shorter
    return texts


def _leave_middle_out(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    head = set_cell_size(text, width // 2).rstrip()
    tail = set_cell_size(text[::-1], width - 1 - width // 2)[::-1].lstrip()
    return f"{head}…{tail}"


def write(to: Console, text: Line) -> None:
    """Write a line without breaking it: a terminal wraps it, and a file keeps it whole."""
    to.print(text, soft_wrap=True, highlight=False)


def draw(to: Console, picture: RenderableType) -> None:
    """Draw a table or the like, as wide as the terminal."""
    to.print(picture)


def _safe_cell(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return make_safe(text), style
