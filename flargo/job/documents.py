"""YAML and JSON written by others, parsed within limits.

An alias in YAML costs two bytes and stands for a whole part of the document, so a text of a few hundred bytes can mean
gigabytes (an "alias bomb"). PyYAML itself has no limit. So the size of the expanded document is computed first, from
the parser's events and without building anything; the merge key ``<<`` is covered, since it too takes an alias.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import yaml

from flargo.job.validate import InvalidInput, Verbatim

MAX_TEXT_BYTES: Final = 1024 * 1024
"""Of a YAML text: what a ConfigMap can hold. JSON is bounded by whoever reads the file."""
MAX_NODES: Final = 20_000
"""Of an expanded YAML document: scalars, lists and mappings."""
MAX_CHARACTERS: Final = 4 * 1024 * 1024
"""Of all scalars of an expanded YAML document together."""
MAX_DEPTH: Final = 100
"""Lists and mappings inside each other. Python's own limit is about ten times that, in whoever reads on."""
_MAX_NUMBER_CHARACTERS: Final = 1000
"""PyYAML reads 1:1:1... as a number to the base of 60, in quadratic time."""
_SPACE = re.compile(r"\s")
_NUMBER_STARTS: Final = tuple("+-.0123456789")
_NUMBER_TAGS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class DocumentError(InvalidInput):
    """A text that can't be parsed, or exceeds a limit. The message holds nothing of the text but a line number."""

    def __init__(self, where: str, problem: str, allowed: str) -> None:
        """Name the file or option, what is wrong with it in a word of flargo's own, and what is allowed."""
        super().__init__(where, Verbatim(problem), allowed)


def load_yaml(where: str, text: str | bytes, allowed: str = "YAML") -> Any:
    """Parse one YAML document, in time linear in its length.

    Args:
        where: the file or option that the text comes from, for messages.
        text: the document.
        allowed: what the text has to be, for messages.

    Raises:
        Refused: the text is no YAML, or exceeds a limit. The message holds nothing of the text but a line number.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise DocumentError(where, "too large", f"{allowed} of at most {MAX_TEXT_BYTES} bytes")
    try:
        expansion = _Expansion(where, allowed)
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            expansion.add(event)
        return yaml.safe_load(text)
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001  (PyYAML raises KeyError, IndexError and more for tags with wrong values)
        raise DocumentError(where, "unreadable", _with_line(allowed, _line_of_yaml(error))) from None


def load_json(where: str, text: str | bytes, allowed: str = "JSON") -> Any:
    """Parse one JSON document.

    Raises:
        Refused: the text is no JSON, or is nested too deeply. The message holds nothing of the text but a line number.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep(where, allowed) from None
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise DocumentError(where, "unreadable", _with_line(allowed, line)) from None
    if _is_deeper(found, MAX_DEPTH):
        raise _too_deep(where, allowed)
    return found


class _Size(NamedTuple):
    """How large a part of a document is, with all aliases in it expanded."""

    nodes: int
    characters: int
    depth: int
    """Lists and mappings inside each other."""


class _Open:
    """A list or mapping whose end has not been read yet."""

    def __init__(self, anchor: str | None, nodes: int, characters: int) -> None:
        """Begin after so many nodes and characters of the document."""
        self.anchor, self.nodes, self.characters, self.depth = anchor, nodes, characters, 1


class _Expansion:
    """The size of a document as far as it has been read, with all aliases expanded."""

    def __init__(self, where: str, allowed: str) -> None:
        """Nothing has been read yet."""
        self._where, self._allowed = where, allowed
        self._nodes = self._characters = 0
        self._open: list[_Open] = []
        self._anchors: dict[str | None, _Size | None] = {}
        """None: the anchored list or mapping is still open."""

    def add(self, event: yaml.Event) -> None:
        """Count one event.

        Raises:
            Refused: the document exceeds a limit, or contains itself.
        """
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Open(event.anchor, self._nodes, self._characters))
            self._count(event.anchor, _Size(1, 0, 0), closed=False)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(self._open.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._check_number(event)
            self._count(event.anchor, _Size(1, len(event.value), 0))
        elif isinstance(event, yaml.AliasEvent):
            # An alias without an anchor is refused when the document is composed.
            size = self._anchors.get(event.anchor, _Size(1, 0, 0))
            if size is None:
                allowed = f"{self._allowed} without an alias to the part that it stands in"
                raise DocumentError(self._where, "endless", allowed)
            self._count(None, size)

    def _count(self, anchor: str | None, size: _Size, *, closed: bool = True) -> None:
        self._nodes += size.nodes
        self._characters += size.characters
        if self._nodes > MAX_NODES or self._characters > MAX_CHARACTERS:
            allowed = f"{self._allowed} of at most {MAX_NODES} values and {MAX_CHARACTERS} characters"
            raise DocumentError(self._where, "too large", f"{allowed}, aliases expanded")
        if len(self._open) + size.depth > MAX_DEPTH:
            raise _too_deep(self._where, self._allowed)
        if self._open:
            self._open[-1].depth = max(self._open[-1].depth, size.depth + 1)
        if anchor is not None:
            self._anchors[anchor] = size if closed else None

    def _close(self, closed: _Open) -> None:
        if closed.anchor is not None:
            nodes, characters = self._nodes - closed.nodes, self._characters - closed.characters
            self._anchors[closed.anchor] = _Size(nodes, characters, closed.depth)
        if self._open:
            self._open[-1].depth = max(self._open[-1].depth, closed.depth + 1)

    def _check_number(self, event: yaml.ScalarEvent) -> None:
        plain = event.implicit[0] and event.value.startswith(_NUMBER_STARTS) and not _SPACE.search(event.value)
        if len(event.value) > _MAX_NUMBER_CHARACTERS and (plain or event.tag in _NUMBER_TAGS):
            allowed = f"{self._allowed} with numbers of at most {_MAX_NUMBER_CHARACTERS} characters"
            raise DocumentError(self._where, "too large", allowed)


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether lists and mappings are nested more deeply."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for each in level for child in _children(each)]
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _line_of_yaml(error: Exception) -> int | None:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return None if mark is None else mark.line + 1


def _with_line(allowed: str, line: int | None) -> str:
    return allowed if line is None else f"{allowed} (the parser stops at line {line})"


def _too_deep(where: str, allowed: str) -> InvalidInput:
    return DocumentError(where, ("nested too deeply"), f"{allowed} of at most {MAX_DEPTH} levels")
