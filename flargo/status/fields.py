"""Fields of Kubernetes objects, where any may be left out: one of an unexpected type counts as left out."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from flargo.parsing import MAX_WHOLE_NUMBER, is_object_name
from flargo.terms import Object

T = TypeVar("T")
OnUnreadable = Callable[[Object, Exception], None]
"""Called with an object that could not be parsed, and why."""


def at(value: Any, *path: str) -> Any:
    """What stands there, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text(value: Any, *path: str) -> str:
    """The text that stands there, or an empty one."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def items(value: Any, *path: str) -> Iterator[Object]:
    """The objects of the list that stands there."""
    found = at(value, *path)
    for item in found if isinstance(found, list) else ():
        if isinstance(item, dict):
            yield item


def number(value: Any, *path: str, most: int = MAX_WHOLE_NUMBER) -> int | None:
    """The JSON number that stands there, if it is a whole one and no further from 0 than ``most``."""
    found = at(value, *path)
    is_whole = isinstance(found, int) and not isinstance(found, bool)
    return found if is_whole and abs(found) <= most else None


def time(item: Object, *path: str) -> datetime | None:
    """The moment that stands there, if one does; Kubernetes' are UTC."""
    try:
        found = datetime.fromisoformat(text(item, *path))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def condition(item: Object, kind: str) -> Object:
    """The condition of that type of an object's status, or an empty one."""
    return next((row for row in items(item, "status", "conditions") if row.get("type") == kind), {})


def parse_each(
    items: Iterable[Object], parse: Callable[[Object], T], on_unreadable: OnUnreadable = lambda *_: None
) -> Iterator[T]:
    """What is parsed of each object; one that cannot be parsed is reported, and takes no other with it."""
    for item in items:
        try:
            parsed = parse(item)
        except Exception as error:  # noqa: BLE001  (whatever somebody wrote into one object is that object's trouble)
            on_unreadable(item, error)
        else:
            yield parsed


def name_for_log(item: Any) -> str:
    """How a log names an object whose content nobody vouches for."""
    name = text(item, "metadata", "name")
    return name if is_object_name(name) else "(without a valid name)"
