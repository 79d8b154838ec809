"""Speaks with the sandbox's process 1 (boot.py); works from outside the sandbox and from inside."""

import json
import socket
from pathlib import Path
from typing import Any

from tests.harness.real_cluster import state


class RefusedError(RuntimeError):
    """Process 1 could not do what it was asked."""


def ask(action: str, folder: Path | None = None, **request: Any) -> dict[str, Any]:
    """One request, one answer: which daemons run (by their pid inside) and how others ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str((folder or state.RUN) / "control.sock"))
        connection.sendall(json.dumps({"do": action, **request}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    if "error" in answer:
        raise RefusedError(answer["error"])
    return answer


def daemons() -> dict[str, int]:
    """The pid, inside the sandbox, of each daemon that runs."""
    running: dict[str, int] = ask("status")["running"]
    return running


def stop(name: str) -> None:
    """End one daemon, and leave it so until :func:`start` (or ``up.restart``, which waits for it)."""
    ask("stop", name=name)


def start(name: str) -> None:
    """Start one daemon that does not run."""
    ask("start", name=name)


def signal(name: str, number: str) -> None:
    """Send a signal, such as ``STOP`` or ``CONT``, to one daemon."""
    ask("signal", name=name, signal=number)


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of the sandbox."""
    try:
        ask("listens", port=port)
    except RefusedError:
        return False
    return True
