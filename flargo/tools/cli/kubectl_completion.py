"""The program `kubectl_complete-flargo`, which kubectl runs to complete `kubectl flargo`.

It gets the words after `kubectl flargo`, and answers as kubectl's own completion does: a line for each value, with a
tab before a text about it, and at last a directive (4: do not complete names of files instead).
"""

import sys
from contextlib import suppress


def main() -> None:
    """Write the completions of the command line in this process's arguments; nothing if that fails."""
    with suppress(Exception):  # a message would stand in the line that somebody is typing
        _write_completions()


def _write_completions() -> None:
    from click.shell_completion import ShellComplete  # noqa: PLC0415  (of an extra)

    from flargo.tools.cli.completion import COMPLETE_VARIABLE  # noqa: PLC0415
    from flargo.tools.cli.main import group  # noqa: PLC0415
    from flargo.tools.cli.output import write_bytes  # noqa: PLC0415

    *words, incomplete = sys.argv[1:] or [""]
    complete = ShellComplete(group(), {}, "flargo", COMPLETE_VARIABLE)
    items = complete.get_completions(words, incomplete)
    for item in items:
        if item.type == "plain":
            # flargo's own words, and values that a shell takes literally: the tab has to stay.
            write_bytes((f"{item.value}\t{item.help}\n" if item.help else f"{item.value}\n").encode())
    write_bytes(b":0\n" if any(item.type != "plain" for item in items) else b":4\n")
