"""``python -m tests.docs.demo_picture``: run the demo on a terminal, and write what it leaves there as docs/demo.svg.

The run is a real one.
"""

import sys
from pathlib import Path

from rich.text import Text

from tests.harness import terminal

COLUMNS = 112


def main() -> None:
    """Record it and write the picture."""
    code, said = terminal.run_in_terminal([Path(sys.executable).with_name("flargo"), "demo"], COLUMNS)
    if code:
        sys.exit(f"the demo failed:\n{said}")
    terminal.save_picture(
        "demo", "flargo demo", COLUMNS, [Text("$ make demo", "bold"), *terminal.render_screen(said.rstrip())]
    )


if __name__ == "__main__":
    main()
