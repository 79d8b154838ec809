"""Starts the demo's child processes, each in its own session and with a log file, and ends them with the demo.

A reaper process (flargo.embedded.reaper) waits for the demo's end, even by SIGKILL. It then kills the process groups of
the children, and on Linux every other process that carries the demo's mark in its environment.
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

MARK_VARIABLE = "FLARGO_DEMO"
"""The environment variable that marks every process that the demo started."""
_GRACE_SECONDS = 3.0


class ChildProcesses:
    """All child processes of one demo. Not thread-safe."""

    def __init__(self) -> None:
        """Start with no child processes; entering the context starts the reaper."""
        self._mark = uuid.uuid4().hex
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, f"{MARK_VARIABLE}={self._mark}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()
        # This closes the reaper's input, so it kills every process that is still there.
        self._reaper.communicate()

    def start(self, name: str, argv: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Start a program in a folder; its output is appended to the log."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, **environment, MARK_VARIABLE: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = child
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(f"+{child.pid}\n".encode())
        self._reaper.stdin.flush()

    def exited(self) -> list[str]:
        """Return the names of the processes that have ended."""
        return [name for name, child in self._running.items() if child.poll() is not None]

    def terminate(self) -> None:
        """Send SIGTERM to all process groups, and SIGKILL to those whose first process does not end in time."""
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
