"""Parse YAML and JSON from outside flargo within limits.

An alias in YAML costs two bytes and stands for a whole part of the document, so a text of a few hundred bytes can
expand to gigabytes (an "alias bomb"). PyYAML itself has no limit. So load_yaml computes the size of the expanded
document first, from the parser's events and without building anything. The merge key ``<<`` is covered, since it too
takes an alias.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import yaml

from flargo.job.validate import InvalidInput, Verbatim

MAX_TEXT_BYTES: Final = 1024 * 1024
"""Bytes of a YAML text: as much as a ConfigMap can hold. The size of JSON is limited where the file is read."""
MAX_NODES: Final = 20_000
"""Scalars, lists and mappings of a YAML document, with all aliases expanded."""
MAX_CHARACTERS: Final = 4 * 1024 * 1024
"""Characters of all scalars of a YAML document together, with all aliases expanded."""
MAX_DEPTH: Final = 100
"""Nesting levels of lists and mappings. Code that walks the document recursively has Python's limit, about ten times
as many."""
_MAX_NUMBER_CHARACTERS: Final = 1000
"""Characters of a YAML number. PyYAML reads 1:1:1... as a number to base 60, in quadratic time."""
_SPACE = re.compile(r"\s")
_NUMBER_STARTS: Final = tuple("+-.0123456789")
_NUMBER_TAGS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class DocumentError(InvalidInput):
    """A text that cannot be parsed, or exceeds a limit. The message quotes nothing of it, except a line number."""

    def __init__(self, source: str, state: str, allowed: str) -> None:
        """Name the file or option, its state in flargo's own words (such as "too large"), and what is allowed."""
        super().__init__(source, Verbatim(state), allowed)


def load_yaml(source: str, text: str | bytes, allowed: str = "YAML") -> Any:
    """Parse one YAML document, in time linear in its length.

    Args:
        source: the file or option that the text comes from, for messages.
        text: the document.
        allowed: a noun for the document, for messages: "YAML", "a YAML mapping".

    Raises:
        DocumentError: the text is not YAML, or exceeds a limit. The message quotes nothing of the text, except a line
            number.
    """
    check_yaml_size(source, text, allowed)
    try:
        return yaml.safe_load(text)
    except Exception as error:  # noqa: BLE001  (PyYAML raises KeyError, IndexError and more for tags with wrong values)
        raise unreadable(source, allowed, line_of_yaml(error)) from None


def check_yaml_size(source: str, text: str | bytes, allowed: str = "YAML") -> None:
    """Check that another parser than ``load_yaml`` can build a YAML document within the limits.

    Raises:
        DocumentError: as for ``load_yaml``.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise DocumentError(source, "too large", f"{allowed} of at most {MAX_TEXT_BYTES} bytes")
    expanded_size = _ExpandedSize(source, allowed)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            expanded_size.add(event)
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001  (as above)
        raise unreadable(source, allowed, line_of_yaml(error)) from None


def load_json(source: str, text: str | bytes, allowed: str = "JSON") -> Any:
    """Parse one JSON document.

    Raises:
        DocumentError: the text is not JSON, or is nested too deeply. The message quotes nothing of the text, except a
            line number.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise too_deep(source, allowed) from None
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise unreadable(source, allowed, line) from None
    if _is_deeper(document, MAX_DEPTH):
        raise too_deep(source, allowed)
    return document


class _Size(NamedTuple):
    """The size of a part of a document, with all aliases in it expanded."""

    nodes: int
    characters: int
    depth: int
    """Nesting levels of lists and mappings."""


class _OpenCollection:
    """A list or mapping whose end has not been read yet."""

    def __init__(self, anchor: str | None, nodes: int, characters: int) -> None:
        """Record how many nodes and characters of the document come before the collection."""
        self.anchor, self.nodes, self.characters, self.depth = anchor, nodes, characters, 1


class _ExpandedSize:
    """The size of the part of a document that has been read, with all aliases expanded."""

    def __init__(self, source: str, allowed: str) -> None:
        """Start with an empty document; the arguments are for messages."""
        self._source, self._allowed = source, allowed
        self._nodes = self._characters = 0
        self._open: list[_OpenCollection] = []
        self._anchors: dict[str | None, _Size | None] = {}
        """Sizes by anchor; None while the anchored list or mapping is still open."""

    def add(self, event: yaml.Event) -> None:
        """Add the node that one event of the parser stands for.

        Raises:
            DocumentError: the document exceeds a limit, or contains itself.
        """
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_OpenCollection(event.anchor, self._nodes, self._characters))
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
                allowed = f"{self._allowed} without an alias that refers to the part around it"
                raise DocumentError(self._source, "endless", allowed)
            self._count(None, size)

    def _count(self, anchor: str | None, size: _Size, *, closed: bool = True) -> None:
        self._nodes += size.nodes
        self._characters += size.characters
        if self._nodes > MAX_NODES or self._characters > MAX_CHARACTERS:
            allowed = f"{self._allowed} of at most {MAX_NODES} values and {MAX_CHARACTERS} characters"
            raise DocumentError(self._source, "too large", f"{allowed}, aliases expanded")
        if len(self._open) + size.depth > MAX_DEPTH:
            raise too_deep(self._source, self._allowed)
        if self._open:
            self._open[-1].depth = max(self._open[-1].depth, size.depth + 1)
        if anchor is not None:
            self._anchors[anchor] = size if closed else None

    def _close(self, collection: _OpenCollection) -> None:
        if collection.anchor is not None:
            nodes, characters = self._nodes - collection.nodes, self._characters - collection.characters
            self._anchors[collection.anchor] = _Size(nodes, characters, collection.depth)
        if self._open:
            self._open[-1].depth = max(self._open[-1].depth, collection.depth + 1)

    def _check_number(self, event: yaml.ScalarEvent) -> None:
        plain = event.implicit[0] and event.value.startswith(_NUMBER_STARTS) and not _SPACE.search(event.value)
        if len(event.value) > _MAX_NUMBER_CHARACTERS and (plain or event.tag in _NUMBER_TAGS):
            allowed = f"{self._allowed} with numbers of at most {_MAX_NUMBER_CHARACTERS} characters"
            raise DocumentError(self._source, "too large", allowed)


def _is_deeper(value: Any, limit: int) -> bool:
    """Return whether lists and mappings are nested in more levels than the limit."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for each in level for child in _children(each)]
    return bool(level)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def line_of_yaml(error: Exception) -> int | None:
    """Return the line at which PyYAML's parser stopped; None if the error does not tell."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return None if mark is None else mark.line + 1


def unreadable(source: str, allowed: str, line: int | None) -> DocumentError:
    """Return the error that a text is not of its format; ``line`` is where its parser stops, if that is known."""
    place = "" if line is None else f" (the parser stops at line {line})"
    return DocumentError(source, "unreadable", f"{allowed}{place}")


def too_deep(source: str, allowed: str) -> DocumentError:
    """Return the error that a document has more levels than ``MAX_DEPTH``."""
    return DocumentError(source, "nested too deeply", f"{allowed} of at most {MAX_DEPTH} levels")
