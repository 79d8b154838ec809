"""``python -m tests.docs.demo_picture``: run the demo, for real, in a terminal and save its screen as docs/demo.svg."""

import sys
from pathlib import Path

from rich.text import Text

from tests.harness import terminal

COLUMNS = 112


def main() -> None:
    """Run the demo and save the picture; exit with an error if the demo fails."""
    code, output = terminal.run_in_terminal([Path(sys.executable).with_name("flargo"), "demo"], COLUMNS)
    if code:
        sys.exit(f"the demo failed:\n{output}")
    terminal.save_picture(
        "demo", "flargo demo", COLUMNS, [Text("$ make demo", "bold"), *terminal.render_screen(output.rstrip())]
    )


if __name__ == "__main__":
    main()
