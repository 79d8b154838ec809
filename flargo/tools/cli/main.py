"""The `flargo` command. It imports a command's module only when that command runs, so that `flargo --help` is fast."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
}
"""Every command, which is defined in the module of its name, and its line in `flargo --help`."""
_CLICK_MISSING = "the flargo command needs more packages than the launcher: pip install 'flargo[cli]'"
_HELP = (
    "NVIDIA FLARE jobs as Argo Workflows.\n\n"
    'Shell completion: eval "$(_FLARGO_COMPLETE=bash_source flargo)", or zsh_source or fish_source.'
)


def main() -> None:
    """Run the command that the process was started with."""
    try:
        command = group()
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(f"{_CLICK_MISSING} ({error.name} is not installed)\n")
        sys.exit(2)
    command()


def _make_inert(error: "click.ClickException") -> "click.ClickException":
    """Make an error's message inert. click writes it by itself, and it may quote names of files."""
    from flargo.text import inert  # noqa: PLC0415

    error.message = inert(error.message)  # type: ignore[misc]  # final in newer versions of click only
    return error


def group() -> "click.Group":
    """Return the group of all commands. None of them is loaded yet.

    Raises:
        ModuleNotFoundError: the extra `cli` is not installed.
    """
    import click  # noqa: PLC0415  (of an extra: `main` says how to install it)

    class LazyGroup(click.Group):
        """Loads a command when it is run or asked for help (click's own pattern for large programs)."""

        def invoke(self, ctx: click.Context) -> object:
            arguments = [*ctx.args]  # click removes them while it parses them
            try:
                return super().invoke(ctx)
            except click.UsageError as error:
                from flargo.tools.cli.formats import requested_document  # noqa: PLC0415

                output_format = requested_document(arguments)
                if output_format is None:
                    raise _make_inert(error) from None
                from flargo.tools.cli.output import EXIT_USAGE, fail  # noqa: PLC0415

                fail(error.format_message(), {}, EXIT_USAGE, output_format)

        def make_context(self, *args: Any, **more: Any) -> click.Context:
            try:
                return super().make_context(*args, **more)
            except click.ClickException as error:
                raise _make_inert(error) from None

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

    settings = {"help_option_names": ["-h", "--help"]}
    return click.version_option(package_name="flargo")(LazyGroup("flargo", help=_HELP, context_settings=settings))
