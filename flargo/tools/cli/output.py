"""How commands speak: data to stdout, messages to stderr, and every refusal in one form.

All that commands write goes through the writers of this module or through flargo.tools.terminal: redacted, and inert on
each of its lines. Only the bytes of a program's log are written as they are, where they are asked for.
"""

import functools
import json
import logging
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.errors import ApiError
from flargo.flare.redact import REDACTION
from flargo.job.validate import InvalidInput
from flargo.text import inert_lines, valid_unicode
from flargo.tools.jobs.refusals import refusal
from flargo.tools.terminal import safe

Command = TypeVar("Command", bound=Callable[..., Any])
PROBLEM, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""
_WORD = re.compile(r"\S*`[^`]*`\S*|\S+")
_LEAST_ROOM = 30
"""Characters; in less it is better to let the terminal break lines."""

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, errors too.")
_debug_option = click.option("--debug", is_flag=True, help="Show where an unforeseen error was raised, and its words.")


def data(text: str) -> None:
    """What was asked for, on one line."""
    click.echo(safe(text))


def document(text: str) -> None:
    """A document of flargo's own that has several lines, such as YAML or a diff. It is not redacted."""
    click.echo(inert_lines(text), nl=not text.endswith("\n"))


def beside(head: str, text: str, *, mark: str = "", color: str | None = None, bold: bool = False) -> None:
    """A line that begins with a head; what a terminal has no room for goes on below, beside the head.

    Args:
        head: what the line begins with.
        text: what may go on below.
        mark: a word before the head, shown in a colour.
        color: click's name of that colour.
        bold: whether the mark is bold.
    """
    mark, head, text = safe(mark), safe(head), safe(text)
    indent = len(mark) + len(head)
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    first, *more = filled(text, room) if room >= _LEAST_ROOM else [text]
    click.echo(f"{click.style(mark, fg=color, bold=bold or None) if mark else ''}{head}{first}")
    for line in more:
        click.echo(f"{'':{indent}}{line}")


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


def data_bytes(content: bytes) -> None:
    """Bytes of somebody else's, as they are: for files and other programs, and for people who ask for them."""
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return valid_unicode(REDACTION.redact(value))
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list | tuple) else value


def say(text: str) -> None:
    """What a person should know beside it, on one line."""
    click.echo(safe(text), err=True)


def reporting(command: Command) -> Command:
    """A command whose errors become a message and an exit code. It takes ``as_json``.

    No message has the words of a foreign exception, which may quote a credential. Who wants them says --debug.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        try:
            _run(command, *args, as_json=as_json, **kwargs)
        except InvalidInput as refused:
            said = {"field": refused.field, "value": refused.value, "allowed": refused.allowed}
            fail(str(refused), said, USAGE if refused.field.startswith("--") else PROBLEM, as_json=as_json)
        except BrokenPipeError:
            raise  # a reader that has had enough, as of a pager: click ends quietly
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except ApiError as error:
            fail(refusal(error), {"verb": error.verb, "status": error.status}, PROBLEM, as_json=as_json)
        except OwnError as error:
            fail(str(error), {}, PROBLEM, as_json=as_json)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click's own, for click
        except Exception as error:  # noqa: BLE001  (whatever a library raises, its words are not told)
            if debug:
                _trace(error)
            what = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else "unforeseen"
            hint = "" if debug else "; --debug shows where it was raised"
            fail(f"{what}: {describe(error)}{hint}", {}, PROBLEM, as_json=as_json)

    return _debug_option(wrapped)  # type: ignore[return-value]


def _trace(error: Exception) -> None:
    """Show an exception with its words, redacted as a whole, since a key has several lines."""
    for line in REDACTION.redact("".join(traceback.format_exception(error))).splitlines():
        say(line)


def fail(message: str, said: dict[str, Any], code: int, *, as_json: bool) -> NoReturn:
    """Tell what is wrong, to a person or a program, and exit."""
    if as_json:
        data_json({"error": {"message": message, **said}})
    else:
        say(f"Error: {message}")
    raise SystemExit(code)


class _LastResort(logging.Handler):
    """Says what is logged where nobody has set logging up."""

    def emit(self, record: logging.LogRecord) -> None:
        # A traceback has several lines, and a key in it too: it is redacted before it is taken apart.
        for line in REDACTION.redact(self.format(record)).splitlines():
            say(line)


def _run(command: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a command. What libraries warn of and log meanwhile is said as flargo's own: Python would write it raw."""
    before, logging.lastResort = logging.lastResort, _LastResort(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            command(*args, **kwargs)
    finally:
        logging.lastResort = before


def _say_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    say(f"Warning: {category.__name__}: {message}")
