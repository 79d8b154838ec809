"""How commands speak: data to stdout, messages to stderr, and every refusal in one form."""

import functools
import json
import re
import shutil
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from flargo.cluster.errors import ApiError
from flargo.cluster.failures import OwnError
from flargo.flare.redact import REDACTION
from flargo.inspect.refusals import refusal
from flargo.job.checks import Refused

Command = TypeVar("Command", bound=Callable[..., Any])
PROBLEM, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""
_WORD = re.compile(r"\S*`[^`]*`\S*|\S+")
_LEAST_ROOM = 30
"""Characters; in less it is better to let the terminal break lines."""

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, errors too.")


def blank(text: str) -> str:
    """Somebody else's words, without what looks like a key or a token."""
    return REDACTION.blank(text)


def data(text: str) -> None:
    """What was asked for."""
    click.echo(text, nl=not text.endswith("\n"))


def beside(head: str, text: str) -> None:
    """A line that begins with a head; what a terminal has no room for goes on below, beside the head."""
    indent = len(click.unstyle(head))
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    first, *more = filled(text, room) if room >= _LEAST_ROOM else [text]
    data(head + first)
    for line in more:
        data(f"{'':{indent}}{line}")


def filled(text: str, room: int) -> list[str]:
    """Lines of at most so many characters. No word is broken, nor a command in backticks, which people copy."""
    lines: list[str] = []
    for word in _WORD.findall(text):
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def data_json(value: Any) -> None:
    """The same, for programs."""
    click.echo(json.dumps(_clean(value), indent=2))


def data_line(value: Any) -> None:
    """One of many answers that come one after another, for programs: a line each."""
    click.echo(json.dumps(_clean(value)))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return blank(value)
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


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
            fail(str(refused), said, USAGE if refused.field.startswith("--") else PROBLEM, as_json=as_json)
        except BrokenPipeError:
            raise  # a reader that has had enough, as of a pager: click ends quietly
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except ApiError as error:
            fail(blank(refusal(error)), {"verb": error.verb, "status": error.status}, PROBLEM, as_json=as_json)
        except OwnError as error:
            fail(blank(str(error)), {}, PROBLEM, as_json=as_json)
        except (OSError, ValueError) as error:
            fail(str(error), {}, PROBLEM, as_json=as_json)

    return wrapped  # type: ignore[return-value]


def fail(message: str, said: dict[str, Any], code: int, *, as_json: bool) -> NoReturn:
    """Tell what is wrong, to a person or a program, and exit."""
    if as_json:
        data_json({"error": {"message": message, **said}})
    else:
        say(f"Error: {message}")
    raise SystemExit(code)
