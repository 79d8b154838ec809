"""``python -m tests.demo.picture``: run the demo on a terminal, and write what it leaves there as docs/demo.svg.

The run is a real one. Of a terminal only what rich's live display uses is understood: new lines, the way back to
the beginning of a line and up, and the erasing of lines.
"""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 112
PICTURE = Path(__file__).parents[2] / "docs" / "demo.svg"
_CONTROL = re.compile(r"\r|\n|\x1b\[\?\d+[hl]|\x1b\[(?P<up>\d*)A|\x1b\[2K")


def record() -> str:
    """What the demo writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    demo = subprocess.Popen(
        [Path(sys.executable).with_name("flargo"), "demo"], stdin=theirs, stdout=theirs, env=environment
    )
    os.close(theirs)
    said = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            said += chunk
    except OSError:  # Linux says so when the last writer has gone
        pass
    if demo.wait():
        sys.exit(f"the demo failed:\n{said.decode()}")
    return said.decode()


def screen(said: str) -> list[str]:
    """The lines that are on the terminal in the end, with their colours."""
    lines, row = [""], 0
    at = 0
    for control in _CONTROL.finditer(said):
        lines[row] += said[at : control.start()]
        at = control.end()
        if control[0] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif control["up"] is not None:
            row -= int(control["up"] or 1)
        elif control[0].endswith("2K"):
            lines[row] = ""
    return lines


def main() -> None:
    """Record it and write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", "bold"))
    for line in screen(record()):
        console.print(Text.from_ansi(line))
    console.save_svg(str(PICTURE), title="flargo demo", unique_id="demo")


if __name__ == "__main__":
    main()
