"""The option `-o/--output`, and the formats that a command may print its results in."""

import functools
import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Format(Enum):
    """How a command prints its results: a document for programs, or a variant of its text for people."""

    JSON = "json"
    YAML = "yaml"
    """The same document as JSON has."""
    NAME = "name"
    """A line TYPE/NAME for each object, as kubectl prints it."""
    WIDE = "wide"
    """More columns."""

    @property
    def is_document(self) -> bool:
        """True if results, and errors too, are printed as one document for programs."""
        return self in {Format.JSON, Format.YAML}


DOCUMENTS = (Format.JSON, Format.YAML)
_FORMAT_HELP = {
    Format.JSON: "json, yaml: for programs, also errors",
    Format.NAME: "name: only names",
    Format.WIDE: "wide: more columns",
}
_FORMAT_ARGUMENT = re.compile(r"--json|(?:-o|--output=)(?P<value>.+)|-o|--output")


def output_options(*formats: Format) -> Callable[[Command], Command]:
    """Add ``-o/--output`` with these formats, and its alias ``--json``. The command takes ``output_format``."""
    text = "; ".join(help_text for each, help_text in _FORMAT_HELP.items() if each in formats)
    choice = click.Choice([each.value for each in formats])

    def add(command: Command) -> Command:
        @functools.wraps(command)
        def with_format(*args: Any, output: str | None, as_json: bool, **options: Any) -> None:
            if as_json and output not in {None, Format.JSON.value}:
                raise click.UsageError(f"--json and -o {output} cannot be combined.")
            selected = Format.JSON if as_json else Format(output) if output else None
            command(*args, output_format=selected, **options)

        with_json = click.option("--json", "as_json", is_flag=True, help="The same as -o json.")(with_format)
        return click.option("--output", "-o", type=choice, help=f"{text}.")(with_json)  # type: ignore[return-value]

    return add


def requested_document(arguments: Sequence[str]) -> Format | None:
    """Return the kind of document that a command line asks for, whether or not the rest of it can be parsed."""
    for at, argument in enumerate(arguments):
        match = _FORMAT_ARGUMENT.fullmatch(argument)
        if match is None:
            continue
        value = "json" if argument == "--json" else match["value"] or "".join(arguments[at + 1 : at + 2])
        requested = next((each for each in DOCUMENTS if each.value == value), None)
        if requested is not None:
            return requested
    return None
