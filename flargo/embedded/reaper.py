"""Kills the processes that a parent has left running. It runs as a process of its own, which outlives the parent.

It reads process groups from its standard input, ``+ID`` and ``-ID`` a line, until the input ends, which happens when
the parent has ended in any way. Then it kills the groups, and on Linux every other process that has the parent's mark,
a variable ``NAME=VALUE``, in its environment.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


def marked_processes(mark: str) -> Iterator[int]:
    """Return the processes with a mark in their environment; none on a system without ``/proc``."""
    variable = mark.encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def kill_group(group: int, signal_number: int = signal.SIGKILL) -> None:
    """Send a signal to a process group, if it exists."""
    with contextlib.suppress(OSError):
        os.killpg(group, signal_number)


def kill_marked(mark: str) -> None:
    """Kill all processes with a mark, and then those that they have started meanwhile."""
    for _ in range(10):
        pids = [pid for pid in marked_processes(mark) if pid != os.getpid()]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def main(mark: str) -> None:
    """Wait until the parent has ended, then kill its processes."""
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
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
