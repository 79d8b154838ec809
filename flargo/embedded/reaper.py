"""Ends what a server has left running: a process of its own, which outlives the server's crash by one kill.

Reads process groups from its standard input, ``+ID`` and ``-ID``, until that ends, which it does with the server,
however that ended. Then it kills the groups, and on Linux whatever else carries the server's mark in its environment.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def marked(mark: str) -> Iterator[int]:
    """The processes with a variable in their environment; none where there is no ``/proc``."""
    wanted = mark.encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def kill_group(group: int, how: int = signal.SIGKILL) -> None:
    """Signal a process group, if it is there."""
    with contextlib.suppress(OSError):
        os.killpg(group, how)


def kill_marked(mark: str) -> None:
    """Kill all that carry a mark, until nobody does: who is killed may have begun another."""
    for _ in range(10):
        found = [pid for pid in marked(mark) if pid != os.getpid()]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def main(mark: str) -> None:
    """Wait for the server's end."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        kill_group(group)
    kill_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
