"""Paths of the Kubernetes API, built from parts that are checked and escaped.

HTTP clients resolve ``..`` and decode escapes before they send a path, so a name that contains a slash or dots would
lead to another object. flargo sends requests only to a Target.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from flargo.parsing import is_dns_label, is_object_name

_GROUP_VERSION = re.compile(r"api/v1|apis/[a-z0-9.-]{1,253}/v[a-z0-9]{1,15}")
_PLURAL = re.compile(r"[a-z]{1,63}")
_SUBRESOURCES = frozenset({"eviction", "log", "status"})
_SHOWN_CHARACTERS = 80


class InvalidTargetError(ValueError):
    """A part of a path is no name that Kubernetes allows. No request is sent to such a path."""

    def __init__(self, part: str, value: str) -> None:
        """Name the part of the path; its value is shown shortened, in ASCII."""
        shortened = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."
        super().__init__(f"{shortened!a} is not a valid {part} in Kubernetes, so nothing was sent")


@dataclass(frozen=True, slots=True)
class Target:
    """A path and its query. Only ``resource``, ``group`` and ``version`` create it."""

    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...] = ()
    api_version: str = ""
    """The ``apiVersion`` of the objects that are served here; empty for the server's version."""
    plural: str = ""
    """The plural of their kind; empty if the path is no resource's."""
    is_collection: bool = False
    """Whether the path is that of a collection, and not of one object in it."""
    subresource: str = ""

    @property
    def url(self) -> str:
        """The path, with each segment escaped by itself, and the query."""
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
    """Return the path of a collection, or of one object in it.

    Args:
        group_version: ``api/v1`` or ``apis/GROUP/VERSION``.
        plural: the resource's plural, in lower case.
        namespace: the namespace; None for a cluster-scoped resource.
        name: the object's name; None for the collection. An empty name is refused: it would turn an object's path into
            a collection's.
        subresource: a subresource of the object.
        query: parameters; empty ones are left out.

    Raises:
        InvalidTargetError: a part is not valid at its position.
    """
    segments = [*_check("API group and version", group_version, _GROUP_VERSION).split("/")]
    if namespace is not None:
        if not is_dns_label(namespace):
            raise InvalidTargetError("namespace", namespace)
        segments += ["namespaces", namespace]
    segments.append(_check("resource", plural, _PLURAL))
    if name is not None:
        if not is_object_name(name):
            raise InvalidTargetError(f"name in {plural}", name)
        segments.append(name)
    if subresource:
        if name is None or subresource not in _SUBRESOURCES:
            raise InvalidTargetError("subresource", subresource)
        segments.append(subresource)
    return Target(
        tuple(segments),
        tuple((key, value) for key, value in (query or {}).items() if value),
        _api_version(group_version),
        plural,
        is_collection=name is None,
        subresource=subresource,
    )


def group(group_version: str) -> Target:
    """Return the path at which a version of an API group lists its resources (API discovery)."""
    segments = _check("API group and version", group_version, _GROUP_VERSION).split("/")
    return Target(tuple(segments), api_version=_api_version(group_version))


def version() -> Target:
    """Return the path of an API server's version."""
    return Target(("version",))


def _api_version(group_version: str) -> str:
    return group_version.partition("/")[2]


def _check(part: str, value: str, pattern: re.Pattern[str]) -> str:
    if pattern.fullmatch(value) is None:
        raise InvalidTargetError(part, value)
    return value
