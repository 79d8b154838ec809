"""Where a request goes: a path of the Kubernetes API, built from parts that are checked and escaped.

HTTP clients resolve ``..`` and decode what they can before they send a path, so a name with a slash or dots in it
would lead to another object. No request of flargo is sent to anything but a Target.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from flargo.parsing import is_dns_label, is_object_name

_GROUP_VERSION = re.compile(r"api/v1|apis/[a-z0-9.-]{1,253}/v[a-z0-9]{1,15}")
_PLURAL = re.compile(r"[a-z]{1,63}")
_SUBRESOURCES = frozenset({"log", "status"})
_SHOWN_CHARACTERS = 80


class InvalidTargetError(ValueError):
    """A part of a path that Kubernetes could not have given to anything. Nothing is sent to such a path."""

    def __init__(self, part: str, value: str) -> None:
        """Say which part of the path it is; the value is shown shortened, in ASCII."""
        shortened = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
        super().__init__(f"{shortened!a} is not a valid {part} in Kubernetes, so nothing was sent")


@dataclass(frozen=True, slots=True)
class Target:
    """A path and its query. Made by ``resource`` and ``version``, and by nothing else."""

    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """The path, each segment escaped by itself, and the query."""
        path = "".join(f"/{quote(segment, safe='')}" for segment in self.segments)
        return f"{path}?{urlencode(self.query)}" if self.query else path


def resource(
    group_version: str,
    plural: str,
    *,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str = "",
    query: dict[str, str] | None = None,
) -> Target:
    """The path of a collection, or of the object of that name in it.

    Args:
        group_version: ``api/v1`` or ``apis/GROUP/VERSION``.
        plural: the resource's plural, in lower case.
        namespace: None for what lives in no namespace.
        name: None for the collection. An empty name is refused: it would turn an object's path into a collection's.
        subresource: of that object.
        query: parameters; empty ones are left out.

    Raises:
        InvalidTargetError: a part is not valid for its place.
    """
    segments = [*_checked("API group and version", group_version, _GROUP_VERSION).split("/")]
    if namespace is not None:
        if not is_dns_label(namespace):
            raise InvalidTargetError("namespace", namespace)
        segments += ["namespaces", namespace]
    segments.append(_checked("resource", plural, _PLURAL))
    if name is not None:
        if not is_object_name(name):
            raise InvalidTargetError(f"name in {plural}", name)
        segments.append(name)
    if subresource:
        if name is None or subresource not in _SUBRESOURCES:
            raise InvalidTargetError("subresource", subresource)
        segments.append(subresource)
    return Target(tuple(segments), tuple((key, value) for key, value in (query or {}).items() if value))


def group(group_version: str) -> Target:
    """The path at which an API group's version lists its resources."""
    return Target(tuple(_checked("API group and version", group_version, _GROUP_VERSION).split("/")))


def version() -> Target:
    """The path at which an API server tells its version."""
    return Target(("version",))


def _checked(part: str, value: str, pattern: re.Pattern[str]) -> str:
    if pattern.fullmatch(value) is None:
        raise InvalidTargetError(part, value)
    return value
