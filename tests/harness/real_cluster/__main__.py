"""``python -m tests.harness.real_cluster``: the test cluster's command line."""

import argparse
import os
import sys
from collections.abc import Callable  # noqa: TC003

from tests.harness.real_cluster import control, packages, sandbox, shards, up


def main() -> None:
    """Run the subcommand that the arguments name."""
    os.umask(0o022)  # any user must be able to read the files of images
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.real_cluster", description="a real cluster for the tests"
    )
    subcommands = parser.add_subparsers(dest="subcommand", required=True)
    subcommands.add_parser("packages", help="print the Debian packages that the cluster needs")
    subcommands.add_parser("build", help="build what the cache does not have, and start nothing")
    subcommands.add_parser("up", help="build what the cache does not have, and start the cluster")
    subcommands.add_parser("down", help="end the cluster")
    subcommands.add_parser("status", help="print which daemons run; exits with 1 if the cluster is not up")
    subcommands.add_parser("shard", help="print the test files of one of several clusters").add_argument(
        "shard", help="2/4"
    )
    run = subcommands.add_parser("exec", help="run a command inside the cluster's sandbox")
    run.add_argument("command", nargs=argparse.REMAINDER)
    subcommands.add_parser("restart", help="restart one daemon").add_argument("name")
    subcommands.add_parser("stop", help="end one daemon").add_argument("name")
    subcommands.add_parser("start", help="start one daemon that has ended").add_argument("name")
    signal = subcommands.add_parser("signal", help="send a signal (STOP, CONT, KILL) to one daemon")
    signal.add_argument("name")
    signal.add_argument("signal")
    options = parser.parse_args()
    actions: dict[str, Callable[[], object]] = {
        "packages": lambda: print(" ".join(packages.PACKAGES)),
        "build": up.build,
        "up": up.up,
        "down": up.down,
        "status": status,
        "shard": lambda: print(" ".join(shards.paths(options.shard))),
        "exec": lambda: execute(options.command),
        "restart": lambda: up.restart(options.name),
        "stop": lambda: control.stop(options.name),
        "start": lambda: control.start(options.name),
        "signal": lambda: control.signal(options.name, options.signal),
    }
    try:
        actions[options.subcommand]()
    except (sandbox.ClusterError, control.ControlError) as error:
        sys.exit(f"cluster: {error}")


def status() -> None:
    """Print each daemon with its process id inside the sandbox, or how it ended."""
    if not sandbox.is_up():
        sys.exit("cluster: not up")
    answer = control.ask("status")
    for name, pid in answer["running"].items():
        print(f"{name} is running, pid {pid}")
    for name, code in answer["ended"].items():
        print(f"{name} ended with {code}")


def execute(command: list[str]) -> None:
    """Replace this process by a command inside the sandbox."""
    argv = sandbox.command_inside(*(command[1:] if command[:1] == ["--"] else command))
    sys.stdout.flush()
    os.execvpe(argv[0], argv, sandbox.environment())  # noqa: S606


if __name__ == "__main__":
    main()
