"""``python -m tests.harness.real_cluster``: the test cluster from the command line."""

import argparse
import os
import sys
from collections.abc import Callable  # noqa: TC003

from tests.harness.real_cluster import control, packages, sandbox, shards, up


def main() -> None:
    """Do what one word asks."""
    os.umask(0o022)  # images are made of files that any user must be able to read
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.real_cluster", description="a real cluster for the tests"
    )
    words = parser.add_subparsers(dest="word", required=True)
    words.add_parser("packages", help="print the Debian packages it needs")
    words.add_parser("build", help="only build what is not in the cache yet")
    words.add_parser("up", help="bring it up")
    words.add_parser("down", help="end it")
    words.add_parser("status", help="say which daemons run; 1 if it is not up")
    words.add_parser("shard", help="print the test files of one of several clusters").add_argument("shard", help="2/4")
    run = words.add_parser("exec", help="run a command inside")
    run.add_argument("command", nargs=argparse.REMAINDER)
    words.add_parser("restart", help="restart one daemon").add_argument("name")
    words.add_parser("stop", help="end one daemon").add_argument("name")
    words.add_parser("start", help="start one daemon that was ended").add_argument("name")
    signal = words.add_parser("signal", help="send a signal (STOP, CONT, KILL) to one daemon")
    signal.add_argument("name")
    signal.add_argument("signal")
    asked = parser.parse_args()
    actions: dict[str, Callable[[], object]] = {
        "packages": lambda: print(" ".join(packages.NEEDED)),
        "build": up.build,
        "up": up.up,
        "down": up.down,
        "status": status,
        "shard": lambda: print(" ".join(shards.paths(asked.shard))),
        "exec": lambda: execute(asked.command),
        "restart": lambda: up.restart(asked.name),
        "stop": lambda: control.stop(asked.name),
        "start": lambda: control.start(asked.name),
        "signal": lambda: control.signal(asked.name, asked.signal),
    }
    try:
        actions[asked.word]()
    except (sandbox.BrokenError, control.RefusedError) as problem:
        sys.exit(f"cluster: {problem}")


def status() -> None:
    """Print each daemon and its pid inside, or how it ended."""
    if not sandbox.is_up():
        sys.exit("cluster: not up")
    answer = control.ask("status")
    for name, pid in answer["running"].items():
        print(f"{name} runs, pid {pid}")
    for name, code in answer["ended"].items():
        print(f"{name} ended with {code}")


def execute(command: list[str]) -> None:
    """Become a command inside."""
    words = sandbox.inside(*(command[1:] if command[:1] == ["--"] else command))
    sys.stdout.flush()
    os.execvpe(words[0], words, sandbox.environment())  # noqa: S606


if __name__ == "__main__":
    main()
