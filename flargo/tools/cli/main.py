"""The `flargo` command. It imports a command's module only when that command runs, so that `flargo --help` is fast."""

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

from flargo.tools.cli import streams
from flargo.tools.cli.missing_extra import describe_missing_extra

if TYPE_CHECKING:
    import click

COMMANDS = {
    "demo": "Run a FLARE job as Argo Workflows on this machine, and watch it.",
    "doctor": "Find problems that would keep jobs from running.",
    "prepare": "Configure a startup kit to use flargo.",
    "render": "Print the Workflow that a site would submit for a job.",
    "jobs": "List or watch the jobs on a cluster.",
    "why": "Explain the state of a job, or why it ended.",
    "logs": "Print or follow a job's log.",
    "terminate": "End a job.",
    "sweep": "Delete leftovers of FLARE parents that are gone.",
    "completion": "Print a shell's completion script.",
}
"""Every command, which is defined in the module of its name, and its line in `flargo --help`."""
_HELP = "NVIDIA FLARE jobs as Argo Workflows.\n\nShell completion: source <(flargo completion bash)"


def main() -> None:
    """Run the command that the process was started with, and exit. LazyGroup reports what goes wrong meanwhile."""
    streams.prepare()
    code: int | str | None = None
    try:
        # kubectl runs the program kubectl-flargo for `kubectl flargo`.
        name = "kubectl flargo" if PurePath(sys.argv[0]).stem == "kubectl-flargo" else "flargo"
        group()(prog_name=name, complete_var="_FLARGO_COMPLETE")
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = streams.EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        message = describe_missing_extra(error)  # of click, without which there is no LazyGroup
        if message is None:
            raise
        streams.write_error(f"Error: {message}\n")
        code = 2
    problem = streams.finish()
    if problem and not code:
        streams.write_error(f"Error: {problem}\n")
        code = 1
    if code is not None:
        sys.exit(code)


def group() -> "click.Group":
    """Return the group of all commands. None of them is loaded yet.

    Raises:
        ModuleNotFoundError: the extra `cli` is not installed.
    """
    import click  # noqa: PLC0415  (of an extra: `main` says how to install it)

    from flargo.tools.cli.lazy_group import LazyGroup  # noqa: PLC0415  (imports click)

    settings = {"help_option_names": ["-h", "--help"]}
    commands = LazyGroup("flargo", help=_HELP, context_settings=settings, summaries=COMMANDS)
    return click.version_option(package_name="flargo")(commands)
