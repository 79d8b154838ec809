"""Foreign text, made safe to show and to copy. Pure.

Whatever a job, a startup kit, a program or a cluster wrote is foreign: it may hold escape sequences that write to the
clipboard, clear the screen or overwrite a line, and characters that reverse the reading direction or take no room.
"""

import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Final

TAB_STOP: Final = 8
"""Columns between two tab stops."""
_UNUSUAL = re.compile(r"[^ -~]+")
"""All that is not printable ASCII: printable in its own script, or to be escaped."""
_OPTION = re.compile(r"--[a-z]+(-[a-z]+)*=")
"""What need not be quoted of an option with a value, and is easier to read if it is not."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,251}[A-Za-z0-9])?")
"""What names of Kubernetes objects, values of labels and keys of ConfigMaps are made of."""


def inert(text: str) -> str:
    r"""One line that a terminal displays and does not obey.

    Printable text of every script stays as it is. A character of the Unicode categories Cc, Cf, Cs, Co, Cn, Zl and Zp
    (control, format, surrogate, private use, unassigned, line and paragraph separator) becomes a visible escape such as
    ``\x1b`` or ``\u202e``, line ends included; a tab becomes spaces up to the next tab stop. Takes linear time.
    """
    if text.isprintable():
        return text
    return _UNUSUAL.sub(_escape_run, text).expandtabs(TAB_STOP)


def inert_lines(text: str) -> str:
    """A document of several lines, each of them inert; only a line feed ends a line."""
    return "\n".join(map(inert, text.split("\n")))


def valid_unicode(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates: of bytes that are no UTF-8, and of broken escapes in JSON."""
    return _SURROGATE.sub("\ufffd", text)


def shell_command(*words: str, names: Iterable[str] = ()) -> str:
    """A command that people may copy: a shell reads it as exactly these words.

    Args:
        words: the program and its arguments, unquoted.
        names: those words, or parts of words, that somebody else chose.

    Returns:
        The quoted command; empty if a name is none that Kubernetes allows, or if a word cannot be printed. Then no
        command is offered.
    """
    offered = all(_NAME.fullmatch(name) for name in names) and all(word.isprintable() for word in words)
    return " ".join(map(_quoted, words)) if offered else ""


def _quoted(word: str) -> str:
    option = _OPTION.match(word)
    return f"{option[0]}{shlex.quote(word[option.end() :])}" if option is not None else shlex.quote(word)


def _escape_run(found: re.Match[str]) -> str:
    run = found[0]
    return run if run.isprintable() else "".join(map(_escape, run))


def _escape(character: str) -> str:
    # str.isprintable() is false for the spaces of other scripts, too, which are harmless.
    if character.isprintable() or character == "\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
