"""The `flargo` command. Nothing is imported before it is needed: `flargo --help` answers at once."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

COMMANDS = {
    "demo": "Watch a federation's job run on this machine.",
    "doctor": "Find what would keep a job from running here.",
    "prepare": "Make a startup kit use flargo.",
    "render": "Print the Workflow that a site would submit for a job.",
    "jobs": "List jobs on a cluster, or watch them.",
    "why": "Explain how a job is, or why it ended.",
    "logs": "Print or follow a job's log.",
    "terminate": "End a job.",
    "sweep": "Delete what no living parent can own.",
}
"""Every command, which lives in the module of its name, with what --help says of it in one line."""
_NEEDS = "flargo's commands need more than its launcher does: pip install 'flargo[cli]'"


def main() -> None:
    """Run the command that the process was started with."""
    try:
        command = group()
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(f"{_NEEDS} ({error.name} is not there)\n")
        sys.exit(2)
    command()


def _made_inert(error: "click.ClickException") -> "click.ClickException":
    """The same error: its message, which click writes by itself, may quote names of files."""
    from flargo.text import inert  # noqa: PLC0415

    error.message = inert(error.message)  # type: ignore[misc]  # final in newer versions of click only
    return error


def group() -> "click.Group":
    """All commands, none of them loaded yet.

    Raises:
        ModuleNotFoundError: the extra `cli` is not installed.
    """
    import click  # noqa: PLC0415  (of an extra, and whoever lacks it is told so)

    class LazyGroup(click.Group):
        """Loads a command when it is run or asked for help (click's own pattern for large programs)."""

        def invoke(self, ctx: click.Context) -> object:
            as_json = "--json" in ctx.args  # click takes them away
            try:
                return super().invoke(ctx)
            except click.UsageError as error:
                if not as_json:
                    raise _made_inert(error) from None
                from flargo.tools.cli.output import USAGE, fail  # noqa: PLC0415

                fail(error.format_message(), {}, USAGE, as_json=True)

        def make_context(self, *args: Any, **more: Any) -> click.Context:
            try:
                return super().make_context(*args, **more)
            except click.ClickException as error:
                raise _made_inert(error) from None

        def list_commands(self, ctx: click.Context) -> list[str]:
            del ctx
            return [*COMMANDS]

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            del ctx
            if cmd_name not in COMMANDS:
                return None
            command: click.Command = getattr(import_module(f"flargo.tools.cli.{cmd_name}"), cmd_name)
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            del ctx
            with formatter.section("Commands"):
                formatter.write_dl([*COMMANDS.items()])

    said = (
        "NVIDIA FLARE jobs as Argo Workflows.\n\n"
        'Completion: eval "$(_FLARGO_COMPLETE=bash_source flargo)"; zsh and fish likewise.'
    )
    names = {"help_option_names": ["-h", "--help"]}
    return click.version_option(package_name="flargo")(LazyGroup("flargo", help=said, context_settings=names))
