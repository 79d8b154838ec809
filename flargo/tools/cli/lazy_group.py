"""The group of flargo's commands, which imports a command's module only when that command runs."""

import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

import click

from flargo.tools.cli import streams
from flargo.tools.cli.missing_extra import describe_missing_extra

_OTHER_TOOLS_COMMANDS = {
    "get": "jobs",
    "list": "jobs",
    "ls": "jobs",
    "ps": "jobs",
    "watch": "jobs --watch",
    "describe": "why",
    "explain": "why",
    "abort": "terminate",
    "cancel": "terminate",
    "delete": "terminate",
    "kill": "terminate",
    "stop": "terminate",
    "check": "doctor",
    "template": "render",
}
"""Commands of kubectl, argo, helm and others, and flargo's command for the same purpose."""


class LazyGroup(click.Group):
    """Loads a command when it is run or asked for help (click's own pattern for large programs)."""

    def __init__(self, *args: Any, summaries: Mapping[str, str], **options: Any) -> None:
        """Create a group.

        Args:
            *args: click's own.
            summaries: a line about each command, which is defined in the module of its name.
            **options: click's own.
        """
        super().__init__(*args, **options)
        self._summaries = summaries

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run a command. Whatever it does not foresee becomes one message, with --debug after a traceback."""
        arguments = sys.argv[1:] if args is None else [*args]
        try:
            return super().main(args, *more, **options)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # if the caller asks for them (standalone_mode)
        except Exception as error:  # noqa: BLE001  (a library may raise anything)
            _report(error, arguments)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. An error of its command line has the format of its results."""
        arguments = [*ctx.args]  # click removes them while it parses them
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            from flargo.tools.cli.formats import requested_document  # noqa: PLC0415

            output_format = requested_document(arguments)
            if output_format is None:
                raise _make_inert(error) from None
            from flargo.tools.cli.output import EXIT_USAGE, fail  # noqa: PLC0415

            fail(error.format_message(), getattr(error, "details", {}), EXIT_USAGE, output_format)
        except KeyboardInterrupt:
            raise SystemExit(streams.EXIT_INTERRUPTED) from None  # click would print "Aborted!"

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Parse the options of the group itself, and decide about colours."""
        try:
            context = super().make_context(*args, **more)
        except click.ClickException as error:
            raise _make_inert(error) from None
        except KeyboardInterrupt:
            raise SystemExit(streams.EXIT_INTERRUPTED) from None
        # click colours whatever is a terminal. rich, which draws tables, reads the variables by itself.
        context.color = False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands. None of them is loaded."""
        del ctx
        return [*self._summaries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; for a shell's completion only its outline, which is fast."""
        if cmd_name not in self._summaries:
            return None
        if ctx.resilient_parsing:
            from flargo.tools.cli import outline  # noqa: PLC0415  (only for completion)

            return outline.load(cmd_name, self._summaries[cmd_name])
        command: click.Command = getattr(import_module(f"flargo.tools.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Load the command that the arguments begin with, or ask whether a similar one was meant."""
        name = args[0]
        if name in self._summaries or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        meant = _OTHER_TOOLS_COMMANDS.get(name) or next(iter(get_close_matches(name, self._summaries, 1)), None)
        raise click.UsageError(f"No such command {name!r}.{f' Did you mean {meant!r}?' if meant else ''}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for `flargo --help`."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([*self._summaries.items()])


def _report(error: BaseException, arguments: Sequence[str]) -> NoReturn:
    missing_extra = describe_missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    if missing_extra is not None:  # before output, which needs the same packages, is imported
        streams.write_error(f"Error: {missing_extra}\n")
        sys.exit(2)
    from flargo.tools.cli import output  # noqa: PLC0415  (slow)
    from flargo.tools.cli.formats import requested_document  # noqa: PLC0415

    try:
        output.report(error, requested_document(arguments), debug="--debug" in arguments)
    except BrokenPipeError:
        sys.exit(output.EXIT_PROBLEM)
    except OSError as output_error:
        output.fail_output(output_error)


def _make_inert(error: click.ClickException) -> click.ClickException:
    """Make an error's message inert. click writes it by itself, and it may quote names of files."""
    from flargo.text import inert  # noqa: PLC0415

    error.message = inert(error.message)  # type: ignore[misc]  # final in newer versions of click only
    return error
