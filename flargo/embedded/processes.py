"""The one place that runs programs: each in a session and a folder of its own, watched, and killed as a whole.

Memory: what all processes of a session have resident is held against the limit, which is closer to what a kernel
does than an address space limit, under which numpy and grpc don't even start. Linux only; elsewhere limits are ignored.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from flargo.embedded import messages, reaper
from flargo.embedded.kubelet import Process
from flargo.embedded.mounts import Program

SERVER_MARK, POD_MARK = "FLARGO_EMBEDDED", "FLARGO_EMBEDDED_POD"
NOT_FOUND = 64
"""Argo's executor ends so when there is no such program."""
DISK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pod may use; None: as much as there is."""

    memory: float | None = None
    disk: Mapping[Path, tuple[float, str]] | None = None
    """Bytes in a folder, and what is said when they are more."""


@dataclass(slots=True)
class _Run:
    popen: "subprocess.Popen[bytes] | None"
    limits: Limits
    state: Process
    kill_at: float | None = None
    reason: str = ""
    evicted: str = ""


class Processes:
    """All processes of one server. Not safe for threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with none, and a guardian that ends them all if this process dies."""
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._living: set[str] = set()
        self._disk_at = 0.0
        self._mark = uuid.uuid4().hex
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, f"{SERVER_MARK}={self._mark}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many run."""
        return len(self._living)

    def start(self, uid: str, program: Program, log: Path, limits: Limits) -> None:
        """Run a pod's program; one that is not there ends at once, as Argo's executor does."""
        first = program.words[0]
        if shutil.which(first, path=program.environment["PATH"]) is None:
            said = (messages.NO_PROGRAM if "/" in first else messages.NO_PROGRAM_IN_PATH).format(first)
            log.write_text(f"{said}\n")
            self.fail(uid, said)
            return
        marks = {SERVER_MARK: self._mark, POD_MARK: uid}
        try:
            with log.open("wb") as output:
                popen = subprocess.Popen(
                    program.words,
                    cwd=program.folder,
                    env={**program.environment, **marks},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # no program, no such folder, a NUL in a word
            self.fail(uid, messages.NOT_STARTED.format(error_reason(error)))
            return
        self._runs[uid] = _Run(popen, limits, Process(running=True))
        self._living.add(uid)
        self._tell(f"+{popen.pid}")

    def fail(self, uid: str, message: str) -> None:
        """Note that a pod's program could not be started, and why."""
        self._runs[uid] = _Run(None, Limits(), Process(running=False, code=NOT_FOUND, message=message))

    def state(self, uid: str) -> Process | None:
        """How a pod's process is; None: it was never started."""
        run = self._runs.get(uid)
        return run.state if run else None

    def terminate(self, uid: str) -> None:
        """Send SIGTERM, and leave it at that."""
        run = self._runs.get(uid)
        if run and run.popen and run.state.running:
            reaper.kill_group(run.popen.pid, signal.SIGTERM)

    def end(self, uid: str, grace: float) -> None:
        """SIGTERM, and SIGKILL after the grace. The first call counts."""
        run = self._runs.get(uid)
        if run and run.state.running and run.kill_at is None:
            run.kill_at = self._clock() + grace
            self.terminate(uid)

    def kill(self, uid: str) -> None:
        """SIGKILL."""
        run = self._runs.get(uid)
        if run and run.popen and run.state.running:
            reaper.kill_group(run.popen.pid)

    def forget(self, uid: str) -> None:
        """Of a pod that is gone; its process is killed if it runs."""
        self.kill(uid)
        run = self._runs.pop(uid, None)
        self._living.discard(uid)
        if run and run.popen:
            run.popen.wait()
            self._bury(uid, run.popen.pid)

    def look(self) -> list[str]:
        """Hold all to their limits; the pods whose process has ended since the last look."""
        self._limit_memory()
        self._limit_disk()
        for uid in self._living:
            run = self._runs[uid]
            if run.kill_at is not None and self._clock() >= run.kill_at:
                self.kill(uid)
        return [uid for uid in tuple(self._living) if self._has_ended(uid)]

    def close(self) -> None:
        """Kill everything."""
        for uid in tuple(self._runs):
            self.forget(uid)
        if self._guardian.stdin:
            with contextlib.suppress(OSError):
                self._guardian.stdin.close()
        self._guardian.wait()

    def _has_ended(self, uid: str) -> bool:
        run = self._runs[uid]
        assert run.popen is not None
        pid = run.popen.pid
        # Not reaped yet, so that nobody else can have its number when the rest of its group is killed.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        reaper.kill_group(pid)
        code = run.popen.wait()
        self._bury(uid, pid)
        shown = code if code >= 0 else 128 - code
        run.state = Process(running=False, code=shown, reason=run.reason, evicted=run.evicted)
        self._living.discard(uid)
        return True

    def _bury(self, uid: str, pid: int) -> None:
        reaper.kill_marked(f"{POD_MARK}={uid}")
        self._tell(f"-{pid}")

    def _tell(self, word: str) -> None:
        assert self._guardian.stdin is not None
        self._guardian.stdin.write(f"{word}\n".encode())
        self._guardian.stdin.flush()

    def _limit_memory(self) -> None:
        limited = {
            run.popen.pid: run
            for uid in self._living
            if (run := self._runs[uid]).popen is not None and run.limits.memory is not None
        }
        used = resident(limited)
        for pid, run in limited.items():
            if run.limits.memory is not None and used.get(pid, 0) > run.limits.memory:
                run.reason = "OOMKilled"
                reaper.kill_group(pid)

    def _limit_disk(self) -> None:
        now = self._clock()
        if now < self._disk_at + DISK_SECONDS:
            return
        self._disk_at = now
        for uid in self._living:
            run = self._runs[uid]
            over = (said for folder, (most, said) in (run.limits.disk or {}).items() if size(folder) > most)
            said = next(over, "")
            if said:
                run.evicted = said
                self.kill(uid)


def error_reason(error: Exception) -> str:
    """What an error was, without its text: what the system calls it, or its type."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def resident(sessions: Iterable[int]) -> dict[int, int]:
    """Bytes in memory of all processes of sessions, by the sessions' ids (proc(5), stat: session, rss)."""
    wanted = set(sessions)
    used: dict[int, int] = {}
    if not wanted:
        return used
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        session = int(fields[3])
        if session in wanted:
            used[session] = used.get(session, 0) + int(fields[21]) * page
    return used


def size(folder: Path) -> int:
    """Bytes in a folder's files, links not followed."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{where}/{name}").st_blocks * 512
    return total
