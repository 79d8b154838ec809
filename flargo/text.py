"""Make foreign text safe to show and to copy. Pure.

Text from a job, a startup kit, a program or a cluster is foreign. It may contain escape sequences that write to the
clipboard, clear the screen or overwrite a line, and characters that reverse the reading direction or have no width.
"""

import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Final

TAB_STOP: Final = 8
"""Distance between two tab stops, in columns."""
_UNUSUAL = re.compile(r"[^ -~]+")
"""Characters outside printable ASCII: either printable in another script, or to be escaped."""
_OPTION = re.compile(r"--[a-z]+(-[a-z]+)*=")
"""The part of an option with a value that a shell command does not need to quote."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,251}[A-Za-z0-9])?")
"""The form that names of Kubernetes objects, label values and ConfigMap keys have."""


def inert(text: str) -> str:
    r"""Return text as one line that a terminal displays and does not interpret.

    Printable text of every script stays as it is. A character of the Unicode categories Cc, Cf, Cs, Co, Cn, Zl and Zp
    (control, format, surrogate, private use, unassigned, line and paragraph separator) becomes a visible escape such as
    ``\x1b`` or ``\u202e``, line ends included; a tab becomes spaces up to the next tab stop. Runs in linear time.
    """
    if text.isprintable():
        return text
    return _UNUSUAL.sub(_escape_run, text).expandtabs(TAB_STOP)


def inert_lines(text: str) -> str:
    """Return a text of several lines with each line inert; only a line feed ends a line."""
    return "\n".join(map(inert, text.split("\n")))


def valid_unicode(text: str) -> str:
    """Return text with U+FFFD in place of lone surrogates.

    They come from bytes that are not UTF-8 and from broken escapes in JSON.
    """
    return _SURROGATE.sub("\ufffd", text)


def shell_command(*argv: str, names: Iterable[str] = ()) -> str:
    """Return a command that people can copy: a shell passes exactly these arguments to the program.

    Args:
        argv: the program and its arguments, unquoted.
        names: the arguments, or parts of them, that somebody else chose.

    Returns:
        The quoted command; empty if Kubernetes does not allow one of the names, or if an argument is not printable.
        Callers then show no command.
    """
    is_safe = all(_NAME.fullmatch(name) for name in names) and all(argument.isprintable() for argument in argv)
    return " ".join(map(_quote, argv)) if is_safe else ""


def _quote(argument: str) -> str:
    option = _OPTION.match(argument)
    if option is None:
        return shlex.quote(argument)
    return f"{option[0]}{shlex.quote(argument[option.end() :])}"


def _escape_run(match: re.Match[str]) -> str:
    run = match[0]
    return run if run.isprintable() else "".join(map(_escape, run))


def _escape(character: str) -> str:
    # str.isprintable() is also false for the spaces of other scripts, which are harmless.
    if character.isprintable() or character == "\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
