"""``flargo demo`` as a child process, with all that it starts and writes in sight."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FLARGO = Path(sys.executable).with_name("flargo")
DEMO_SECONDS = 90.0
"""The time that a demo on the embedded engine may take."""


class DemoCommand:
    """One run of the command, with a temporary folder of its own for everything that it writes."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fd-", dir="/tmp"))
        self._log = self.folder / "output"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [FLARGO, "demo", *options],
                env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything that the command has printed so far, to stdout and stderr."""
        return self._log.read_text()

    def wait(self, within: float = DEMO_SECONDS) -> int:
        """Wait for the command's end and return its exit code."""
        return self.process.wait(within)

    def wait_for_output(self, text: str, within: float = DEMO_SECONDS) -> None:
        """Wait until the command has printed a text; fail if it ends without it."""
        poll_until(lambda: text in self.output or self.process.poll() is not None, within)
        assert text in self.output, self.output

    def processes(self) -> list[int]:
        """Return the ids of all living processes that the command started, directly or not.

        Each of them has the command's folder in its environment or its command line.
        """
        mark = str(self.folder).encode()
        pids = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
            except OSError:
                continue
        return pids

    def folders(self) -> list[str]:
        """Return the names of what is left in the command's ``TMPDIR``."""
        return [path.name for path in self.temporary.iterdir()]

    def close(self) -> None:
        """End the command if it still runs, and delete its folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def poll_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for at most so many seconds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_true
