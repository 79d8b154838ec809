"""Writes what commands print: data to stdout, messages to stderr, and every error in one form.

Everything that a command writes passes the writers of this module or flargo.tools.terminal, which redact it and make
each line inert. Only the bytes of a program's log are written unchanged, where that is asked for.
"""

import functools
import json
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click
import yaml

from flargo.cluster.api import Kind
from flargo.cluster.client_config import ConfigError, NoConfigError
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.errors import ApiError
from flargo.flare.redact import REDACTION
from flargo.job.validate import InvalidInput
from flargo.terms import WORKFLOW_TYPE
from flargo.text import inert_lines, valid_unicode
from flargo.tools.cli import streams
from flargo.tools.cli.formats import Format
from flargo.tools.cli.missing_extra import describe_missing_extra
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.terminal import make_safe

Command = TypeVar("Command", bound=Callable[..., Any])
EXIT_PROBLEM, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, streams.EXIT_INTERRUPTED
_TYPES = {Kind.WORKFLOW: WORKFLOW_TYPE, Kind.POD: "pod", Kind.SECRET: "secret"}
_NO_TEMPORARY_FOLDER = "No usable temporary directory"
"""The beginning of the text with which Python's tempfile gives up."""
_DIFF_COLORS = {"+": "green", "-": "red", "@": "cyan"}
"""The colours of a diff's lines by their first character, as git has them."""
_UNBREAKABLE = re.compile(r"\S*`[^`]*`\S*|\S+")
"""A word, or a command in backticks."""
_MIN_WRAP_COLUMNS = 30
"""A terminal with less room than this for a text breaks the line itself."""

_debug_option = click.option("--debug", is_flag=True, help="Print the traceback of an unexpected error.")


def write_line(text: str, *, prefix: str = "", color: str | None = None) -> None:
    """Write a line of data to stdout, on a terminal with its prefix in a colour (click's name of it)."""
    click.echo((click.style(make_safe(prefix), fg=color) if prefix else "") + make_safe(text))


def write_document(text: str) -> None:
    """Write a document of flargo's own with several lines, such as YAML or a diff, to stdout. It is not redacted."""
    click.echo(inert_lines(text), nl=not text.endswith("\n"))


def write_diff(text: str) -> None:
    """Write a unified diff to stdout, in colours on a terminal. It is not redacted."""
    for line in inert_lines(text).splitlines(keepends=True):
        is_header = line.startswith(("--- ", "+++ "))
        color = None if is_header else _DIFF_COLORS.get(line[:1])
        click.echo(click.style(line, fg=color, bold=is_header or None), nl=False)


def write_hanging(head: str, text: str, *, mark: str = "", color: str | None = None, bold: bool = False) -> None:
    """Write a head and a text to stdout. On a terminal, a long text continues on lines indented to the head's width.

    Args:
        head: the beginning of the first line.
        text: the text that is wrapped.
        mark: a word before the head, which is coloured.
        color: click's name of the colour.
        bold: whether the mark is bold.
    """
    mark, head, text = make_safe(mark), make_safe(head), make_safe(text)
    indent = len(mark) + len(head)
    columns = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    first, *rest = wrap(text, columns) if columns >= _MIN_WRAP_COLUMNS else [text]
    click.echo(f"{click.style(mark, fg=color, bold=bold or None) if mark else ''}{head}{first}")
    for line in rest:
        click.echo(f"{'':{indent}}{line}")


def wrap(text: str, columns: int) -> list[str]:
    """Break a text into lines of at most ``columns`` characters, but never a word or a command in backticks.

    People copy such commands. A longer word or command has a line of its own.
    """
    lines: list[str] = []
    for word in _UNBREAKABLE.findall(text):
        if lines and len(lines[-1]) + 1 + len(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def write_result(value: Any, output_format: Format) -> None:
    """Write a document with all results to stdout: indented JSON, or YAML."""
    if output_format is Format.YAML:
        click.echo(_yaml(value), nl=False)
    else:
        click.echo(json.dumps(_redact(value), indent=2))


def write_next_result(value: Any, output_format: Format) -> None:
    """Write one of several documents that come one after another to stdout: a line of JSON, or a YAML document."""
    if output_format is Format.YAML:
        click.echo(f"---\n{_yaml(value)}", nl=False)
    else:
        click.echo(json.dumps(_redact(value)))


def write_name(kind: Kind, name: str) -> None:
    """Write the name of an object to stdout as ``kubectl get -o name`` prints it: TYPE.GROUP/NAME."""
    write_line(f"{_TYPES[kind]}/{name}")


def _yaml(value: Any) -> str:
    # Without aliases, which few readers of a command's output expect.
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            del data
            return True

    return yaml.dump(_redact(value), Dumper=Dumper, sort_keys=False)


def write_bytes(content: bytes) -> None:
    """Write foreign bytes to stdout unchanged: for files, other programs, and people who ask for them."""
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _redact(value: Any) -> Any:
    if isinstance(value, str):
        return valid_unicode(REDACTION.redact(str(value)))
    if isinstance(value, dict):
        return {_redact(key): _redact(each) for key, each in value.items()}
    return [_redact(each) for each in value] if isinstance(value, list | tuple) else value


def write_message(text: str) -> None:
    """Write a one-line message for people to stderr."""
    click.echo(make_safe(text), err=True)


def report_errors(command: Command) -> Command:
    """Turn a command's errors into a message and an exit code, in the format of its results, and add --debug."""

    @functools.wraps(command)
    def reporting(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            _run(command, *args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # click handles its own exceptions
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (a library may raise anything)
            report(error, kwargs.get("output_format"), debug=debug)

    return _debug_option(reporting)  # type: ignore[return-value]


def report(error: BaseException, output_format: Format | None, *, debug: bool) -> NoReturn:
    """Write an error as one message, and exit.

    Every error of flargo's commands comes here. A foreign exception's own text is not shown, since it may quote a
    credential; ``debug`` shows it, redacted.
    """
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(EXIT_INTERRUPTED) from None
    if isinstance(error, BrokenPipeError):
        raise error  # the reader has closed the pipe, as a pager does: click ends without a message
    if debug:
        _write_traceback(error)
    if isinstance(error, InvalidInput):
        details = {"field": error.field, "value": error.value, "allowed": error.allowed}
        code = EXIT_USAGE if error.field.startswith("--") else EXIT_PROBLEM
        fail(str(error), details, code, output_format)
    if isinstance(error, ConfigError | NoConfigError | ApiError):
        _fail_request(error, output_format)
    if isinstance(error, OwnError):
        fail(str(error), {}, EXIT_PROBLEM, output_format)
    _fail_unexpected(error, output_format, debug=debug)


def fail_output(error: OSError) -> NoReturn:
    """Write to stderr, as the only stream that is left, that stdout cannot be written to, and exit."""
    streams.write_error(f"Error: {streams.describe_full(error)}\n")
    raise SystemExit(EXIT_PROBLEM)


def _fail_request(error: ConfigError | NoConfigError | ApiError, output_format: Format | None) -> NoReturn:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigError | NoConfigError):
        cause = cause.__cause__
    if cause is not None:
        fail_config(cause, output_format)
    assert isinstance(error, ApiError)
    fail(describe_refusal(error), {"verb": error.verb, "status": error.status}, EXIT_PROBLEM, output_format)


def fail_config(error: ConfigError | NoConfigError, output_format: Format | None = None) -> NoReturn:
    """Write that there is no usable configuration of a cluster, and exit."""
    fail(str(error), {"field": "--kubeconfig"}, EXIT_PROBLEM, output_format)


def _fail_unexpected(error: BaseException, output_format: Format | None, *, debug: bool) -> NoReturn:
    missing_extra = describe_missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
    if missing_extra is not None:
        fail(missing_extra, {}, EXIT_USAGE, output_format)
    if isinstance(error, FileNotFoundError) and not _has_working_directory():
        fail("the working directory does not exist any more: change to another one", {}, EXIT_PROBLEM, output_format)
    if isinstance(error, FileNotFoundError) and str(error.strerror).startswith(_NO_TEMPORARY_FOLDER):
        fail("no temporary folder can be written to: free some space, or set TMPDIR", {}, EXIT_PROBLEM, output_format)
    if isinstance(error, OSError) and error.filename is None and error.errno in streams.FULL:
        fail(streams.describe_full(error), {}, EXIT_PROBLEM, output_format)
    file = error.filename if isinstance(error, OSError) else None
    subject = file if isinstance(file, str) else "unexpected error"
    hint = "" if debug else " (--debug prints the traceback)"
    fail(f"{subject}: {describe(error)}{hint}", {}, EXIT_PROBLEM, output_format)


def _has_working_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  (the same, and shorter to read)
    except OSError:
        return False
    return True


def _write_traceback(error: BaseException) -> None:
    # Redacted as a whole before it is split, since a key has several lines.
    for line in REDACTION.redact("".join(traceback.format_exception(error))).splitlines():
        write_message(line)


def fail(message: str, details: dict[str, Any], code: int, output_format: Format | None) -> NoReturn:
    """Write an error for people, or as a document with its details for programs, and exit."""
    if output_format is not None and output_format.is_document:
        write_result({"error": {"message": message, **details}}, output_format)
    else:
        write_message(f"Error: {message}")
    raise SystemExit(code)


class _StderrHandler(logging.Handler):
    """Writes log records as messages where no handler is configured."""

    def emit(self, record: logging.LogRecord) -> None:
        # A traceback has several lines, and so has a key in it: it is redacted before it is split.
        for line in REDACTION.redact(self.format(record)).splitlines():
            write_message(line)


def _run(command: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a command, with libraries' warnings and log records written as messages: Python would write them raw."""
    last_resort, logging.lastResort = logging.lastResort, _StderrHandler(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _write_warning
            command(*args, **kwargs)
    finally:
        logging.lastResort = last_resort


def _write_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    write_message(f"Warning: {category.__name__}: {message}")
