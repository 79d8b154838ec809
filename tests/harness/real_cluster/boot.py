"""Process 1 of the sandbox, and of the second node inside it: runs their daemons, and reaps their orphans.

It is run by its path, with a folder as argument, as the first process of new mount, network and process namespaces; so
it imports nothing of this package. It knows nothing about Kubernetes: ``setup.json`` lists the commands that set up the
namespaces, ``daemons.json`` the programs, and requests on ``control.sock`` start and stop them, one JSON object and one
answer a line (control.py is the other end).
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MOUNTS = ("/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")
STOP_SECONDS = 3.0  # from SIGTERM to SIGKILL; an API server with open watches never ends by itself


def prepare(commands: list[str]) -> None:
    """Set up what the daemons need: a /proc of these processes, empty run-time folders, and the network."""
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    for folder in MOUNTS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
    for command in commands:
        subprocess.run(command.split(), check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Keeper:
    """Starts and stops the daemons, and records which run and how others ended."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.running: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start a daemon of ``daemons.json``; its output goes to its log, its pid to ``pids/NAME``."""
        if name in self.running:
            raise ValueError(f"{name} is already running")
        daemon = json.loads((self.state / "daemons.json").read_text())[name]
        log = self.state / "logs" / f"{name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            daemon["command"][0],
            daemon["command"],
            {**os.environ, **daemon.get("env", {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
        )
        self.running[name] = pid
        self.ended.pop(name, None)
        (self.state / "pids" / name).write_text(f"{pid}\n")

    def stop(self, name: str) -> None:
        """End a daemon, even a suspended one (SIGSTOP), by SIGKILL if SIGTERM does not end it in time."""
        deadline = time.monotonic() + STOP_SECONDS
        self.signal(name, signal.SIGTERM)
        self.signal(name, signal.SIGCONT)
        while name in self.running:
            if time.monotonic() > deadline:
                self.signal(name, signal.SIGKILL)
            time.sleep(0.02)
            self.reap()

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a daemon, if it is running."""
        if name in self.running:
            os.kill(self.running[name], number)

    def reap(self) -> None:
        """Reap every ended child, and record how daemons ended; others are orphans of containers."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for name in [name for name, running in self.running.items() if running == pid]:
                del self.running[name]
                self.ended[name] = os.waitstatus_to_exitcode(status)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request, and return its answer."""
        self.reap()
        action, name = request["do"], request.get("name", "")
        if action in ("stop", "restart"):
            self.stop(name)
        if action in ("start", "restart"):
            self.start(name)
        if action == "signal":
            if name not in self.running:
                raise ValueError(f"{name} is not running")
            self.signal(name, signal.Signals[f"SIG{request['signal']}"])
        if action == "listens":
            with contextlib.closing(socket.create_connection(("127.0.0.1", request["port"]), 0.5)):
                pass
        return {"running": self.running, "ended": self.ended}


def serve(keeper: Keeper, listener: socket.socket, wakeups: socket.socket) -> None:
    """Answer requests one after another, and reap whenever a child ends."""
    while True:
        ready, _, _ = select.select([listener, wakeups], [], [], 5)
        if wakeups in ready:
            wakeups.recv(4096)
        keeper.reap()
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            line = connection.makefile("rb").readline()
            try:
                answer = keeper.answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - no request may end process 1
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Set up the namespaces, write the pid to ``init.json``, and serve requests for ever."""
    state = Path(sys.argv[1])
    # Read before /proc is this namespace's own: the pid that this process has outside.
    pid = int(Path("/proc/self").readlink().name)
    start_time = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    prepare(json.loads((state / "setup.json").read_text()))
    wakeups, waker = socket.socketpair()
    wakeups.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(state / "control.sock"))
    listener.listen(16)
    new = state / "init.json.new"
    new.write_text(json.dumps({"pid": pid, "started": start_time}))
    new.rename(state / "init.json")
    serve(Keeper(state), listener, wakeups)


if __name__ == "__main__":
    main()
