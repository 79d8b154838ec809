"""Fields of Kubernetes objects, where any may be left out: one of an unexpected type counts as left out."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from flargo.terms import Object


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


def seconds(value: Any, *path: str) -> float:
    """The whole number that stands there, or 0."""
    found = at(value, *path)
    return float(found) if isinstance(found, int) and not isinstance(found, bool) else 0.0


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
