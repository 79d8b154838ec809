"""The demo's child processes: each in a session of its own, with a log file, and sure to end with the demo.

A guardian (flargo.embedded.reaper) waits for the demo's end, however it ends: it kills the children's process
groups, and on Linux whatever else carries the demo's mark in its environment.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from flargo.embedded import reaper

MARK = "FLARGO_DEMO"
"""Environment variable of every process that the demo has begun."""
_GRACE_SECONDS = 3.0


class ChildProcesses:
    """All child processes of one demo. Not safe for threads."""

    def __init__(self) -> None:
        """Begin with none."""
        self._mark = uuid.uuid4().hex
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, f"{MARK}={self._mark}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        # Its input ends, and it kills what may be left.
        self._guardian.communicate()

    def start(self, name: str, words: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Start a program in a folder; what it says goes to the log."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                words,
                cwd=folder,
                env={**os.environ, **environment, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = child
        assert self._guardian.stdin is not None
        self._guardian.stdin.write(f"+{child.pid}\n".encode())
        self._guardian.stdin.flush()

    def ended(self) -> list[str]:
        """The names of those that run no more."""
        return [name for name, child in self._running.items() if child.poll() is not None]

    def end(self) -> None:
        """SIGTERM to all, SIGKILL to those who do not heed it in time, and to what they leave."""
        for child in self._running.values():
            reaper.kill_group(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for child in self._running.values():
            try:
                child.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                reaper.kill_group(child.pid)
                child.wait()
        self._running.clear()
