"""Readers for fields of Kubernetes objects. A field that is missing or has an unexpected type reads as its empty value.

Anybody who may write to the namespace may write such an object, so no reader raises.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from flargo.parsing import MAX_WHOLE_NUMBER, is_object_name
from flargo.terms import Object

T = TypeVar("T")
OnParseError = Callable[[Object, Exception], None]
"""A callback that gets an object that could not be parsed, and the error."""


def value(item: Any, *path: str) -> Any:
    """Return the value at a path of keys, or None where a key is missing or a parent is not an object."""
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item


def text(item: Any, *path: str) -> str:
    """Return the string at a path, else the empty string."""
    content = value(item, *path)
    return content if isinstance(content, str) else ""


def mapping(item: Any, *path: str) -> Object:
    """Return the object at a path, else an empty one."""
    content = value(item, *path)
    return content if isinstance(content, dict) else {}


def items(item: Any, *path: str) -> Iterator[Object]:
    """Yield the objects of the list at a path. Elements of another type are skipped."""
    content = value(item, *path)
    for element in content if isinstance(content, list) else ():
        if isinstance(element, dict):
            yield element


def number(item: Any, *path: str, maximum: int = MAX_WHOLE_NUMBER) -> int | None:
    """Return the integer at a path, or None where there is none or its absolute value exceeds ``maximum``."""
    content = value(item, *path)
    is_integer = isinstance(content, int) and not isinstance(content, bool)
    return content if is_integer and abs(content) <= maximum else None


def time(item: Object, *path: str) -> datetime | None:
    """Return the timestamp at a path, or None where there is none. A timestamp without an offset counts as UTC."""
    try:
        timestamp = datetime.fromisoformat(text(item, *path))
    except ValueError:
        return None
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)


def condition(item: Object, kind: str) -> Object:
    """Return the condition of the given type from an object's status, else an empty one."""
    return next((row for row in items(item, "status", "conditions") if row.get("type") == kind), {})


def parse_each(
    items: Iterable[Object], parse: Callable[[Object], T], on_parse_error: OnParseError = lambda *_: None
) -> Iterator[T]:
    """Parse each object. One that cannot be parsed is passed to ``on_parse_error``; the others are not affected."""
    for item in items:
        try:
            result = parse(item)
        except Exception as error:  # noqa: BLE001  (the content is written by others, so any error may occur)
            on_parse_error(item, error)
        else:
            yield result


def name_for_log(item: Any) -> str:
    """Return an object's name if it is a valid one, else a placeholder: nobody vouches for the object's content."""
    name = text(item, "metadata", "name")
    return name if is_object_name(name) else "(without a valid name)"
