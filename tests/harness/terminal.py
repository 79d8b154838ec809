"""Runs commands in a terminal, and renders and saves what they leave on its screen.

It understands only the control sequences of rich's live display: new lines, the way back to the start of a line and up,
and erasing lines. A line that is too long continues in the next line, in the middle of a word.
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
    argv: Sequence[str | Path], columns: int, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> tuple[int, str]:
    """Run a command in a terminal of this width; return its exit code and all that it wrote."""
    own_end, command_end = pty.openpty()
    variables = {**os.environ, "COLUMNS": str(columns), "LINES": "60", "TERM": "xterm-256color", **(environment or {})}
    command = subprocess.Popen(
        argv, stdin=command_end, stdout=command_end, stderr=command_end, env=variables, cwd=folder
    )
    os.close(command_end)
    output = bytearray()
    try:
        while chunk := os.read(own_end, 65536):
            output += chunk
    except OSError:  # Linux raises this when the last writer has closed the terminal
        pass
    os.close(own_end)
    return command.wait(), output.decode()


def render_screen(output: str) -> list[Text]:
    """Return the lines that a command's output leaves on the screen, with their colours."""
    lines, row = [""], 0
    at = 0
    for control in CONTROL.finditer(output):
        lines[row] += output[at : control.start()]
        at = control.end()
        if control[0] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif control["up"] is not None:
            row -= int(control["up"] or 1)
        elif control[0].endswith("2K"):
            lines[row] = ""
    lines[row] += output[at:]
    return [Text.from_ansi(line) for line in lines]


def save_picture(name: str, title: str, columns: int, lines: Iterable[Text]) -> None:
    """Write ``docs/NAME.svg``, a picture of lines in a terminal."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for line in lines:
        for part in line.divide(range(columns, len(line), columns)):
            console.print(part)
    console.save_svg(str(DOCS / f"{name}.svg"), title=title, unique_id=Path(name).name)
