"""Calls the sandbox's process 1 (boot.py), from outside or inside the sandbox."""

import json
import socket
from pathlib import Path
from typing import Any

from tests.harness.real_cluster import state


class ControlError(RuntimeError):
    """Process 1 could not do what a request said."""


def ask(action: str, folder: Path | None = None, **request: Any) -> dict[str, Any]:
    """Send one request, and return the answer: the running daemons (by their pid inside), and how others ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str((folder or state.RUN) / "control.sock"))
        connection.sendall(json.dumps({"do": action, **request}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile("rb").readline())
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer


def daemons() -> dict[str, int]:
    """Return the process id, inside the sandbox, of each running daemon."""
    running: dict[str, int] = ask("status")["running"]
    return running


def stop(name: str) -> None:
    """End one daemon, until :func:`start` (or ``up.restart``, which also waits until it is ready)."""
    ask("stop", name=name)


def start(name: str) -> None:
    """Start one daemon that is not running."""
    ask("start", name=name)


def signal(name: str, number: str) -> None:
    """Send a signal, such as ``STOP`` or ``CONT``, to one daemon."""
    ask("signal", name=name, signal=number)


def is_listening(port: int) -> bool:
    """Return whether a port of the sandbox accepts connections."""
    try:
        ask("listens", port=port)
    except ControlError:
        return False
    return True
