"""A terminal to run commands on, and a picture of what they leave there.

Of a terminal only what rich's live display uses is understood: new lines, the way back to the beginning of a line and
up, and the erasing of lines; and that what is too long goes on in the next line, in the middle of a word.
"""

import io
import os
import pty
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.harness.paths import DOCS

CONTROL = re.compile(r"\r|\n|\x1b\[\?\d+[hl]|\x1b\[(?P<up>\d*)A|\x1b\[2K")


def run_in_terminal(
    words: Sequence[str | Path], columns: int, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[int, str]:
    """Run a command on a terminal of this width; its exit code, and what it writes there."""
    ours, theirs = pty.openpty()
    told = {**os.environ, "COLUMNS": str(columns), "LINES": "60", "TERM": "xterm-256color", **(environment or {})}
    command = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=told, cwd=folder)
    os.close(theirs)
    said = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # Linux says so when the last writer has gone
        pass
    os.close(ours)
    return command.wait(), said.decode()


def render_screen(said: str) -> list[Text]:
    """The lines that are on the terminal in the end, with their colours."""
    lines, row = [""], 0
    at = 0
    for control in CONTROL.finditer(said):
        lines[row] += said[at : control.start()]
        at = control.end()
        if control[0] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif control["up"] is not None:
            row -= int(control["up"] or 1)
        elif control[0].endswith("2K"):
            lines[row] = ""
    lines[row] += said[at:]
    return [Text.from_ansi(line) for line in lines]


def save_picture(name: str, title: str, columns: int, lines: Iterable[Text]) -> None:
    """Write ``docs/NAME.svg``: lines on a terminal."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for line in lines:
        for part in line.divide(range(columns, len(line), columns)):
            console.print(part)
    console.save_svg(str(DOCS / f"{name}.svg"), title=title, unique_id=Path(name).name)
