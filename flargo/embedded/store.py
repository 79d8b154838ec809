"""Kubernetes' objects in memory: versions, selectors, patches, preconditions, and a history that watches read.

Not safe for threads: all of it happens on the event loop.
"""

import re
import secrets
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from flargo.embedded import messages, schema
from flargo.embedded.model import GRACE, OVER, Object, Seen, iso

_OF_DELETION = ("deletionTimestamp", "deletionGracePeriodSeconds")
_MAX_GRACE = 10**9
"""Seconds: thirty years, within what a time can be written for."""
WINDOW = 10_000
"""Changes that are kept for watches; who asks for older ones gets 410."""


class RefusedError(Exception):
    """A request that the API refuses, in Kubernetes' words."""

    def __init__(self, code: HTTPStatus, reason: str, message: str) -> None:
        """Refuse with an HTTP status, Kubernetes' reason for machines, and a message for people."""
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    @property
    def status(self) -> Object:
        """The answer's body."""
        said = {"status": "Failure", "message": self.message, "reason": self.reason, "code": int(self.code)}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **said}


def check(resource: str, item: Any) -> None:
    """Check an object's shape.

    Raises:
        RefusedError: 400 where Kubernetes could not decode it, which is what it says of a wrong type in a type of its
            own; else 422.
    """
    found = schema.problem(resource, item)
    if found is None:
        return
    kind = schema.kind_of(resource)
    if found.is_type and (resource != "workflows" or found.path.startswith("metadata")):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", messages.UNDECODED.format(kind, found))
    name = (item.get("metadata") or {}).get("name", "")
    raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", messages.INVALID_OBJECT.format(kind, name, found))


class Key(NamedTuple):
    """Where an object is."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history."""

    version: int
    key: Key
    before: Object | None
    after: Object
    """At its end, as it was last."""
    gone: bool

    def event(self, selects: "Selector") -> Object | None:
        """What a watch with a selector tells of it."""
        was = self.before is not None and selects(self.before)
        now = not self.gone and selects(self.after)
        kind = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}.get((was, now))
        return {"type": kind, "object": self.after} if kind else None


class Selector:
    """A label selector and a field selector."""

    _SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
    _EQUAL = re.compile(r"^\s*([^\s!=,()]+)\s*(==|=|!=)\s*([^,()]*?)\s*$")
    _EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")

    def __init__(self, labels: str = "", fields: str = "") -> None:
        """Parse both; RefusedError 400 where that can't be done."""
        self._labels = [self._requirement(term) for term in re.split(r",(?![^(]*\))", labels) if term.strip()]
        self._fields = [self._requirement(term) for term in fields.split(",") if term.strip()]

    def __call__(self, item: Object) -> bool:
        """Whether it matches."""
        labels = item["metadata"].get("labels") or {}
        return all(holds(labels.get(name)) for name, holds in self._labels) and all(
            holds(str(_at(item, path) or "")) for path, holds in self._fields
        )

    def _requirement(self, term: str) -> tuple[str, Callable[[str | None], bool]]:
        if found := self._SET.match(term):
            name, values = found[1], {value.strip() for value in found[3].split(",")}
            return name, (lambda it: it in values) if found[2] == "in" else (lambda it: it not in values)
        if found := self._EQUAL.match(term):
            wanted = found[3]
            return found[1], (lambda it: it != wanted) if found[2] == "!=" else (lambda it: it == wanted)
        if found := self._EXISTS.match(term):
            return found[2], (lambda it: it is None) if found[1] else (lambda it: it is not None)
        raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", f"unable to parse requirement: {term!r}")


class Store:
    """All objects, and what happened to them of late."""

    def __init__(self, clock: Callable[[], float], window: int = WINDOW) -> None:
        """Begin empty; the history holds so many changes."""
        self._clock = clock
        self._objects: dict[Key, Seen] = {}
        self._history: deque[Change] = deque(maxlen=window)
        self.version = 1000
        """The newest resourceVersion."""
        self.listeners: list[Callable[[Change], None]] = []

    # --- reading

    def seen(self, key: Key) -> Seen | None:
        """An object and when it changed, or None."""
        return self._objects.get(key)

    def get(self, key: Key) -> Object:
        """An object; never to be changed in place."""
        found = self._objects.get(key)
        if found is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "NotFound", f'{key.resource} "{key.name}" not found')
        return found.item

    def select(self, resource: str, namespace: str = "", selects: Selector | None = None) -> list[Seen]:
        """All objects that match, by their names; of all namespaces without one."""
        found = [
            (key, seen)
            for key, seen in self._objects.items()
            if key.resource == resource and namespace in {"", key.namespace} and (not selects or selects(seen.item))
        ]
        return [seen for _, seen in sorted(found, key=lambda row: row[0])]

    def since(self, version: int, resource: str, namespace: str = "") -> list[Change]:
        """What has happened after a version; RefusedError 410 where that is too long ago to know."""
        oldest = self._history[0].version if self._history else self.version + 1
        if version < oldest - 1:
            words = f"too old resource version: {version} ({oldest - 1})"
            raise RefusedError(HTTPStatus.GONE, "Expired", words)
        return list(reversed(list(self._newer(version, resource, namespace))))

    def _newer(self, version: int, resource: str, namespace: str) -> Iterator[Change]:
        for change in reversed(self._history):
            if change.version <= version:
                return
            if change.key.resource == resource and namespace in {"", change.key.namespace}:
                yield change

    # --- writing

    def create(self, resource: str, namespace: str, item: Object, *, dry: bool = False) -> Object:
        """Store a new object.

        Raises:
            RefusedError: it has not the shape of its kind, or its name is taken.
        """
        made = schema.cleaned(item)
        check(resource, made)
        check(resource, {"metadata": {"namespace": namespace}})
        meta = made.setdefault("metadata", {})
        for field in _OF_DELETION:
            meta.pop(field, None)
        if not meta.get("name"):
            if not meta.get("generateName"):
                words = "name or generateName is required"
                raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", words)
            meta["name"] = meta["generateName"] + secrets.token_hex(3)
        key = Key(resource, namespace, meta["name"])
        if key in self._objects:
            raise RefusedError(HTTPStatus.CONFLICT, "AlreadyExists", f'{resource} "{key.name}" already exists')
        meta |= {
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": iso(self._clock()),
            "generation": 1,
        }
        return self._put(key, made, dry=dry)

    def replace(self, key: Key, item: Object, *, dry: bool = False) -> Object:
        """Store an object in the place of its older version: of the one it names, where it names one."""
        made = schema.cleaned(item)
        check(key.resource, made)
        return self._change(key, made, made.get("metadata") or {}, dry=dry)

    def merge(self, key: Key, patch: Object, *, dry: bool = False) -> Object:
        """Apply a JSON merge patch (RFC 7386)."""
        made = schema.cleaned(merged(self.get(key), patch))
        # Of the outcome: a patch may hold a null where the object must hold something else.
        check(key.resource, made)
        return self._change(key, made, patch.get("metadata") or {}, dry=dry)

    def delete(self, key: Key, options: Mapping[str, Any], *, dry: bool = False) -> Object:
        """Begin to delete an object. A pod on a node gets its grace, and the kubelet removes it; others go at once."""
        item = self.get(key)
        wanted = options.get("preconditions") or {}
        for field, name in (("uid", "UID"), ("resourceVersion", "resource version")):
            had = item["metadata"][field]
            if wanted.get(field) not in {None, had}:
                words = f"Precondition failed: {name} in precondition: {wanted[field]}, {name} in object meta: {had}"
                said = f'Operation cannot be fulfilled on {key.resource} "{key.name}": {words}'
                raise RefusedError(HTTPStatus.CONFLICT, "Conflict", said)
        if dry:
            return item
        grace = _grace(key, item, options)
        if grace == 0:
            return self.remove(key)
        before = item["metadata"].get("deletionGracePeriodSeconds")
        if before is not None and before <= grace:
            return item
        end = {"deletionTimestamp": iso(self._clock() + grace), "deletionGracePeriodSeconds": grace}
        return self._put(key, merged(item, {"metadata": end}))

    def remove(self, key: Key) -> Object:
        """Take an object away."""
        seen = self._objects.pop(key)
        self.version += 1
        last: Object = merged(seen.item, {"metadata": {"resourceVersion": str(self.version)}})
        self._tell(Change(self.version, key, seen.item, last, gone=True))
        return last

    def _change(self, key: Key, made: Object, named: Mapping[str, Any], *, dry: bool) -> Object:
        had = self.get(key)["metadata"]
        for field in ("uid", "resourceVersion"):
            if named.get(field) not in {None, "", had[field]}:
                words = "the object has been modified; please apply your changes to the latest version and try again"
                said = f'Operation cannot be fulfilled on {key.resource} "{key.name}": {words}'
                raise RefusedError(HTTPStatus.CONFLICT, "Conflict", said)
        fixed = ("name", "namespace", "uid", "creationTimestamp", *_OF_DELETION, "resourceVersion", "generation")
        free = {field: value for field, value in (made.get("metadata") or {}).items() if field not in fixed}
        made["metadata"] = {**free, **{field: had[field] for field in fixed if field in had}}
        return self._put(key, made, dry=dry)

    def _put(self, key: Key, made: Object, *, dry: bool = False) -> Object:
        seen = self._objects.get(key)
        before = seen.item if seen else None
        if dry or made == before:
            return made
        if before is not None and made.get("spec") != before.get("spec"):
            made["metadata"]["generation"] = before["metadata"]["generation"] + 1
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = Seen(made, self._clock())
        self._tell(Change(self.version, key, before, made, gone=False))
        return made

    def _tell(self, change: Change) -> None:
        self._history.append(change)
        for listener in self.listeners:
            listener(change)


def merged(item: Any, patch: Any) -> Any:
    """A JSON merge patch's outcome; neither of both is changed."""
    if not isinstance(patch, Mapping):
        return schema.cleaned(patch)
    made = dict(item) if isinstance(item, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


def _grace(key: Key, item: Object, options: Mapping[str, Any]) -> int:
    """Seconds (k8s.io/kubernetes, pkg/registry/core/pod/strategy.go, CheckGracefulDelete)."""
    spec, phase = item.get("spec") or {}, (item.get("status") or {}).get("phase")
    if key.resource != "pods" or not spec.get("nodeName") or phase in OVER:
        return 0
    wanted = options.get("gracePeriodSeconds")
    grace = int(wanted if wanted is not None else spec.get("terminationGracePeriodSeconds", GRACE))
    return 1 if grace < 0 else min(grace, _MAX_GRACE)


def _at(item: Object, path: str) -> Any:
    found: Any = item
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
