"""Parses HOCON and YAML with FLARE's own parsers, but without what they would read of this machine.

A job may come from another institution. FLARE's parsers replace ``${NAME}`` by an environment variable and follow
``include`` to files and URLs: at FLARE's server to the server's, and here to those of the person who looks at the job.
Their values at the server are not known here, so such a text is refused.

Both formats can repeat a part of a text by ``${...}``, so that a small text expands to gigabytes. Size and number of
such references are limited.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import yaml

from flargo.flare.nvflare_internals import parse_config
from flargo.job.documents import DocumentError, check_yaml_size, line_of_yaml, too_deep, unreadable
from flargo.job.validate import InvalidInput, Sentence, Verbatim

MAX_EXPANDED_TEXT: Final = 64 * 1024
"""Bytes of a text in which references may repeat parts. pyhocon parses about ten thousand a second."""
MAX_REFERENCES: Final = 16
"""References ``${...}`` of a text: with more, 64 KiB could become gigabytes."""
_REFERENCE = "${"
_RESOLVER = re.compile(r"\$\{[^}]*(:|\$\{)")
"""A function of OmegaConf's in a reference, such as ``${oc.env:NAME}``, or a reference in which one can be hidden."""
_HOCON_LINE = re.compile(r"\(line: ?(\d+)")
"""The line in a text of pyhocon's own exceptions. Only the number is used of it."""


def load_hocon(source: str, text: str) -> Any:
    """Parse HOCON as FLARE does, with pyhocon. ``source`` names the file in messages.

    Raises:
        InvalidInput: the text is not HOCON, exceeds a limit, or refers to something outside of it.
    """
    if len(text) > MAX_EXPANDED_TEXT:
        raise DocumentError(source, "too large", f"HOCON of at most {MAX_EXPANDED_TEXT} bytes")
    _check_references(source, "HOCON", text.count(_REFERENCE))
    with _errors(source, "HOCON", package="pyhocon"), _isolated_pyhocon():
        return parse_config("PYHOCON", text)


def load_omegaconf(source: str, text: str) -> Any:
    """Parse YAML as FLARE does, with OmegaConf. ``source`` names the file in messages.

    Raises:
        InvalidInput: the text is not YAML, exceeds a limit, or refers to something outside of it; or omegaconf is not
            installed.
    """
    allowed = "a YAML mapping"
    check_yaml_size(source, text, allowed)
    events = [*yaml.parse(text, Loader=yaml.SafeLoader)]
    scalars = [event.value for event in events if isinstance(event, yaml.ScalarEvent)]
    references = sum(each.count(_REFERENCE) for each in scalars)
    if any(_RESOLVER.search(each) for each in scalars):
        raise _outside(source)
    if references and (len(text) > MAX_EXPANDED_TEXT or any(isinstance(each, yaml.AliasEvent) for each in events)):
        limit = f"{allowed} with references (${{...}}) of at most {MAX_EXPANDED_TEXT} bytes and without aliases"
        raise DocumentError(source, "too large", limit)
    _check_references(source, allowed, references)
    with _errors(source, allowed, package="omegaconf"):
        return parse_config("OMEGACONF", text)


class _Outside(Exception):  # noqa: N818  (no error of the parser's)
    """A text refers to something outside of it."""


def _outside(source: str) -> InvalidInput:
    problem = "refers to an environment variable or another file, which only FLARE's server has: write the value"
    return InvalidInput(source, Verbatim("not complete"), Sentence(problem))


def _check_references(source: str, allowed: str, number: int) -> None:
    if number > MAX_REFERENCES:
        raise DocumentError(source, "too large", f"{allowed} with at most {MAX_REFERENCES} references (${{...}})")


@contextmanager
def _errors(source: str, allowed: str, *, package: str) -> Iterator[None]:
    """Turn whatever a parser raises into an error in flargo's own words."""
    try:
        yield
    except RecursionError:
        raise too_deep(source, allowed) from None
    except _Outside:
        raise _outside(source) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        problem = f"needs the package {package}, with which FLARE reads it: pip install {package}, or write meta.json"
        raise InvalidInput(source, Verbatim("not readable here"), Sentence(problem)) from None
    except Exception as error:  # noqa: BLE001  (the parsers raise many types, and their texts quote the job)
        raise unreadable(source, allowed, _line(error)) from None


def _line(error: Exception) -> int | None:
    line = getattr(error, "lineno", None)  # of pyparsing
    if isinstance(line, int):
        return line
    match = _HOCON_LINE.search(str(error))
    return int(match[1]) if match else line_of_yaml(error)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise _Outside


@contextmanager
def _isolated_pyhocon() -> Iterator[None]:
    """Let pyhocon read no file, URL, package or environment variable."""
    from pyhocon import config_parser  # noqa: PLC0415  (slow, and only for HOCON)

    factory, parser = config_parser.ConfigFactory, config_parser.ConfigParser
    environment = SimpleNamespace(path=os.path, environ=SimpleNamespace(get=_refuse))
    replaced = [
        (factory, "parse_file", _refuse),
        (factory, "parse_URL", _refuse),
        (parser, "resolve_package_path", _refuse),
        (config_parser, "os", environment),
        (config_parser, "glob", _refuse),
    ]
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in originals:
            setattr(owner, name, value)
