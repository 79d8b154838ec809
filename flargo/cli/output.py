"""How commands speak: data to stdout, messages to stderr, and every refusal in one form."""

import functools
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from flargo.job.checks import Refused

Command = TypeVar("Command", bound=Callable[..., Any])
PROBLEM, USAGE = 1, 2
"""Exit codes."""

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, errors too.")


def data(text: str) -> None:
    """What was asked for."""
    click.echo(text, nl=not text.endswith("\n"))


def data_json(value: Any) -> None:
    """The same, for programs."""
    click.echo(json.dumps(value, indent=2))


def say(text: str) -> None:
    """What a person should know beside it."""
    click.echo(text, err=True)


def reporting(command: Command) -> Command:
    """A command whose refusals and failing files become a message and an exit code. It takes ``as_json``."""

    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> None:
        try:
            command(*args, as_json=as_json, **kwargs)
        except Refused as refused:
            said = {"field": refused.field, "value": refused.value, "allowed": refused.allowed}
            _fail(str(refused), said, USAGE if refused.field.startswith("--") else PROBLEM, as_json=as_json)
        except BrokenPipeError:
            raise  # a reader that has had enough, as of a pager: click ends quietly
        except (OSError, ValueError) as error:
            _fail(str(error), {}, PROBLEM, as_json=as_json)

    return wrapped  # type: ignore[return-value]


def _fail(message: str, said: dict[str, str], code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        data_json({"error": {"message": message, **said}})
    else:
        say(f"Error: {message}")
    raise SystemExit(code)
