"""``python -m tests.docs.demo_picture [NAME]``: run the demo, for real, in a terminal and save its screen in docs/."""

import sys
from pathlib import Path

from rich.text import Text

from tests.harness import terminal

COLUMNS = 112
PICTURES = {"demo": ("demo",), "demo-drain": ("demo", "--drain")}
"""The arguments of flargo, by the picture's name, which is also the name of make's target."""


def main(*names: str) -> None:
    """Run the demo for each picture and save it; exit with an error if the demo fails."""
    for name in names or PICTURES:
        argv: list[str | Path] = [Path(sys.executable).with_name("flargo"), *PICTURES[name]]
        code, output = terminal.run_in_terminal(argv, COLUMNS)
        if code:
            sys.exit(f"the demo failed:\n{output}")
        lines = [Text(f"$ make {name}", "bold"), *terminal.render_screen(output.rstrip())]
        terminal.save_picture(name, " ".join(("flargo", *PICTURES[name])), COLUMNS, lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
