"""The sandbox's process 1: makes its network, keeps its daemons, reaps its orphans.

Run by its path, with the state folder as argument, as the first process of new mount, network and
process namespaces; so it imports nothing of this package. It knows nothing of Kubernetes: programs
are named to it in ``daemons.json``, and it starts and stops them as told over ``control.sock``, one
JSON object a line, one answer a line (see control.py for the other end).
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
NETWORK = (
    "ip link set lo up",
    "ip address add 10.96.0.1/32 dev lo",  # the Service "kubernetes", reached without kube-proxy
    "ip address add 10.96.0.10/32 dev lo",  # where CoreDNS listens
    # An address of its own: a bridge without one takes the lowest of its ports', so it changed as pods came and went,
    # and what had just looked for its gateway heard nothing of it for up to a minute.
    "ip link add cni0 address 0a:58:0a:58:00:01 type bridge",
    "ip address add 10.88.0.1/16 dev cni0",
    "ip link set cni0 up",
)
PATIENCE = 3.0  # seconds from SIGTERM to SIGKILL; an API server with watchers never ends by itself


def prepare() -> None:
    """What the daemons find: a /proc of these processes, empty run-time folders, the bridge."""
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    for folder in MOUNTS:
        Path(folder).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
    for command in NETWORK:
        subprocess.run(command.split(), check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Keeper:
    """The daemons: which run, how those ended that do not."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.running: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Start one of ``daemons.json``; its output goes to its log, its pid to ``pids/NAME``."""
        if name in self.running:
            raise ValueError(f"{name} runs already")
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
        """End one, also one that was stopped (SIGSTOP), by force where it does not listen."""
        end = time.monotonic() + PATIENCE
        self.signal(name, signal.SIGTERM)
        self.signal(name, signal.SIGCONT)
        while name in self.running:
            if time.monotonic() > end:
                self.signal(name, signal.SIGKILL)
            time.sleep(0.02)
            self.reap()

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one that runs; one that does not is not an error."""
        if name in self.running:
            os.kill(self.running[name], number)

    def reap(self) -> None:
        """Take note of every ended child: daemons by name, orphans (of containers) not at all."""
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
        """Do what one request asks."""
        self.reap()
        action, name = request["do"], request.get("name", "")
        if action in ("stop", "restart"):
            self.stop(name)
        if action in ("start", "restart"):
            self.start(name)
        if action == "signal":
            if name not in self.running:
                raise ValueError(f"{name} does not run")
            self.signal(name, signal.Signals[f"SIG{request['signal']}"])
        if action == "listens":
            with contextlib.closing(socket.create_connection(("127.0.0.1", request["port"]), 0.5)):
                pass
        return {"running": self.running, "ended": self.ended}


def serve(keeper: Keeper, listener: socket.socket, awake: socket.socket) -> None:
    """Answer requests one after another, and reap whenever a child ends."""
    while True:
        ready, _, _ = select.select([listener, awake], [], [], 5)
        if awake in ready:
            awake.recv(4096)
        keeper.reap()
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            line = connection.makefile("rb").readline()
            try:
                answer = keeper.answer(json.loads(line))
            except Exception as problem:  # noqa: BLE001 - whatever a request brings, process 1 must not end
                answer = {"error": f"{type(problem).__name__}: {problem}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Set up, tell who we are, serve for ever."""
    state = Path(sys.argv[1])
    # Read before /proc is this namespace's own: the pid by which the outside knows this process.
    pid = int(Path("/proc/self").readlink().name)
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    prepare()
    awake, waker = socket.socketpair()
    awake.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(state / "control.sock"))
    listener.listen(16)
    beside = state / "init.json.new"
    beside.write_text(json.dumps({"pid": pid, "started": started}))
    beside.rename(state / "init.json")
    serve(Keeper(state), listener, awake)


if __name__ == "__main__":
    main()
