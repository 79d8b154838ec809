"""Runs the programs of pods, and is the only module that does.

Each program runs in a session and a folder of its own. It is held to limits, and killed with everything that it has
started. Memory is limited by what all processes of a session have resident. That is closer to what a kernel does than
an address space limit, under which numpy and grpc do not even start. Memory limits work on Linux only.
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
from flargo.embedded.kubelet import ProcessState
from flargo.embedded.mounts import Program

SERVER_MARK, POD_MARK = "FLARGO_EMBEDDED", "FLARGO_EMBEDDED_POD"
"""Environment variables that mark all processes of one server, and of one pod."""
PROGRAM_NOT_FOUND_CODE = 64
"""The exit code of Argo's executor if the program does not exist."""
DISK_CHECK_SECONDS = 1.0
"""Time between two checks of the disk limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A pod's limits; None means no limit."""

    memory: float | None = None
    """Bytes that all processes together may have resident."""
    disk: Mapping[Path, tuple[float, str]] | None = None
    """For each folder, the bytes that it may hold, and the message of an eviction."""


@dataclass(slots=True)
class _Run:
    popen: "subprocess.Popen[bytes] | None"
    limits: Limits
    state: ProcessState
    kill_at: float | None = None
    reason: str = ""
    eviction: str = ""


class Processes:
    """All processes of one server. Not safe for threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start the reaper, which kills all processes if this one dies."""
        self._clock = clock
        self._runs: dict[str, _Run] = {}
        self._running: set[str] = set()
        self._disk_checked_at = 0.0
        self._mark = uuid.uuid4().hex
        self._reaper = subprocess.Popen(
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
        """Return the number of pods whose process runs."""
        return len(self._running)

    def start(self, uid: str, program: Program, log: Path, limits: Limits) -> None:
        """Run a pod's program; if it does not exist, the pod ends at once as with Argo's executor."""
        executable = program.argv[0]
        if shutil.which(executable, path=program.environment["PATH"]) is None:
            template = messages.PROGRAM_NOT_FOUND if "/" in executable else messages.PROGRAM_NOT_IN_PATH
            message = template.format(executable)
            log.write_text(f"{message}\n")
            self.fail(uid, message)
            return
        marks = {SERVER_MARK: self._mark, POD_MARK: uid}
        try:
            with log.open("wb") as output:
                popen = subprocess.Popen(
                    program.argv,
                    cwd=program.workdir,
                    env={**program.environment, **marks},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # no program, no working directory, a NUL in an argument
            self.fail(uid, messages.MAIN_NOT_STARTED.format(error_reason(error)))
            return
        self._runs[uid] = _Run(popen, limits, ProcessState(running=True))
        self._running.add(uid)
        self._notify_reaper(f"+{popen.pid}")

    def fail(self, uid: str, message: str) -> None:
        """Record that a pod's program could not be started, and why."""
        state = ProcessState(running=False, exit_code=PROGRAM_NOT_FOUND_CODE, message=message)
        self._runs[uid] = _Run(None, Limits(), state)

    def state(self, uid: str) -> ProcessState | None:
        """Return the state of a pod's process; None if it was never started."""
        run = self._runs.get(uid)
        return run.state if run else None

    def terminate(self, uid: str) -> None:
        """Send SIGTERM to a pod's process group, without a SIGKILL to follow."""
        run = self._runs.get(uid)
        if run and run.popen and run.state.running:
            reaper.kill_group(run.popen.pid, signal.SIGTERM)

    def stop(self, uid: str, grace: float) -> None:
        """Send SIGTERM to a pod's process group, and SIGKILL after a grace period; later calls change nothing."""
        run = self._runs.get(uid)
        if run and run.state.running and run.kill_at is None:
            run.kill_at = self._clock() + grace
            self.terminate(uid)

    def kill(self, uid: str) -> None:
        """Send SIGKILL to a pod's process group."""
        run = self._runs.get(uid)
        if run and run.popen and run.state.running:
            reaper.kill_group(run.popen.pid)

    def forget(self, uid: str) -> None:
        """Kill the process of a pod that has been removed, and drop its state."""
        self.kill(uid)
        run = self._runs.pop(uid, None)
        self._running.discard(uid)
        if run and run.popen:
            run.popen.wait()
            self._kill_leftovers(uid, run.popen.pid)

    def poll(self) -> list[str]:
        """Enforce limits and grace periods; return the pods whose process has ended since the last call."""
        self._limit_memory()
        self._limit_disk()
        for uid in self._running:
            run = self._runs[uid]
            if run.kill_at is not None and self._clock() >= run.kill_at:
                self.kill(uid)
        return [uid for uid in tuple(self._running) if self._has_ended(uid)]

    def close(self) -> None:
        """Kill all processes, and end the reaper."""
        for uid in tuple(self._runs):
            self.forget(uid)
        if self._reaper.stdin:
            with contextlib.suppress(OSError):
                self._reaper.stdin.close()
        self._reaper.wait()

    def _has_ended(self, uid: str) -> bool:
        run = self._runs[uid]
        assert run.popen is not None
        pid = run.popen.pid
        # WNOWAIT keeps the pid reserved, so that no other process can have it while the rest of its group is killed.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        reaper.kill_group(pid)
        returncode = run.popen.wait()
        self._kill_leftovers(uid, pid)
        exit_code = returncode if returncode >= 0 else 128 - returncode
        run.state = ProcessState(running=False, exit_code=exit_code, reason=run.reason, eviction=run.eviction)
        self._running.discard(uid)
        return True

    def _kill_leftovers(self, uid: str, pid: int) -> None:
        reaper.kill_marked(f"{POD_MARK}={uid}")
        self._notify_reaper(f"-{pid}")

    def _notify_reaper(self, line: str) -> None:
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(f"{line}\n".encode())
        self._reaper.stdin.flush()

    def _limit_memory(self) -> None:
        limited_runs = {
            run.popen.pid: run
            for uid in self._running
            if (run := self._runs[uid]).popen is not None and run.limits.memory is not None
        }
        usage = resident_bytes(limited_runs)
        for pid, run in limited_runs.items():
            if run.limits.memory is not None and usage.get(pid, 0) > run.limits.memory:
                run.reason = "OOMKilled"
                reaper.kill_group(pid)

    def _limit_disk(self) -> None:
        now = self._clock()
        if now < self._disk_checked_at + DISK_CHECK_SECONDS:
            return
        self._disk_checked_at = now
        for uid in self._running:
            run = self._runs[uid]
            limits = (run.limits.disk or {}).items()
            message = next((message for folder, (limit, message) in limits if disk_usage(folder) > limit), "")
            if message:
                run.eviction = message
                self.kill(uid)


def error_reason(error: Exception) -> str:
    """Describe an error without its text: by the system's name for it, or by its type."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def resident_bytes(sessions: Iterable[int]) -> dict[int, int]:
    """Return the resident memory of each session, in bytes, summed over its processes (proc(5), stat: session, rss)."""
    session_ids = set(sessions)
    usage: dict[int, int] = {}
    if not session_ids:
        return usage
    page = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        session = int(fields[3])
        if session in session_ids:
            usage[session] = usage.get(session, 0) + int(fields[21]) * page
    return usage


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files below a folder occupy; links are not followed."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{parent}/{name}").st_blocks * 512
    return total
