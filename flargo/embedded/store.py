"""Kubernetes' objects in memory: versions, selectors, patches, preconditions, and the history that watches read.

Not safe for threads: every call is made on the event loop.
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
from flargo.embedded.model import DEFAULT_GRACE_SECONDS, TERMINAL_PHASES, Object, StoredObject, iso

_DELETION_FIELDS = ("deletionTimestamp", "deletionGracePeriodSeconds")
_MAX_GRACE_SECONDS = 10**9
"""Thirty years: the end of the grace period stays within the range of ``datetime``."""
WATCH_CACHE_SIZE = 10_000
"""Number of changes that are kept for watches; a watch from an older version gets 410."""


class RefusedError(Exception):
    """A request that the API server refuses, with the fields of Kubernetes' Status object."""

    def __init__(self, code: HTTPStatus, reason: str, message: str) -> None:
        """Refuse with an HTTP status, Kubernetes' reason for machines, and a message for people."""
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    @property
    def status(self) -> Object:
        """The Status object that is the body of the response."""
        details = {"status": "Failure", "message": self.message, "reason": self.reason, "code": int(self.code)}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **details}


def validate(resource: str, item: Any) -> None:
    """Check an object's shape.

    Raises:
        RefusedError: 400 if Kubernetes could not decode the object, which is its answer to a field of a wrong type in
            a built-in kind; else 422.
    """
    problem = schema.find_problem(resource, item)
    if problem is None:
        return
    kind = schema.kind_name(resource)
    if problem.is_type_error and (resource != "workflows" or problem.path.startswith("metadata")):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", messages.CANNOT_DECODE.format(kind, problem))
    name = (item.get("metadata") or {}).get("name", "")
    raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", messages.INVALID_OBJECT.format(kind, name, problem))


class Key(NamedTuple):
    """The identity of an object in the store: resource, namespace and name."""

    resource: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history."""

    version: int
    key: Key
    before: Object | None
    """The object before the change; None if it was created."""
    after: Object
    """The object after the change; the last state of a deleted object."""
    is_deletion: bool

    def event(self, selector: "Selector") -> Object | None:
        """Return the event that a watch with a selector gets for the change; None if it gets none."""
        matched = self.before is not None and selector.matches(self.before)
        matches = not self.is_deletion and selector.matches(self.after)
        types = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}
        event_type = types.get((matched, matches))
        return {"type": event_type, "object": self.after} if event_type else None


class Selector:
    """A label selector together with a field selector."""

    _SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
    _EQUAL = re.compile(r"^\s*([^\s!=,()]+)\s*(==|=|!=)\s*([^,()]*?)\s*$")
    _EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")

    def __init__(self, labels: str = "", fields: str = "") -> None:
        """Parse a label selector and a field selector.

        Raises:
            RefusedError: 400, one of them cannot be parsed.
        """
        self._labels = [self._requirement(term) for term in re.split(r",(?![^(]*\))", labels) if term.strip()]
        self._fields = [self._requirement(term) for term in fields.split(",") if term.strip()]

    def matches(self, item: Object) -> bool:
        """Return whether an object meets all requirements."""
        labels = item["metadata"].get("labels") or {}
        return all(test(labels.get(name)) for name, test in self._labels) and all(
            test(str(_field_value(item, path) or "")) for path, test in self._fields
        )

    def _requirement(self, term: str) -> tuple[str, Callable[[str | None], bool]]:
        if match := self._SET.match(term):
            name, values = match[1], {value.strip() for value in match[3].split(",")}
            return name, (lambda it: it in values) if match[2] == "in" else (lambda it: it not in values)
        if match := self._EQUAL.match(term):
            expected_value = match[3]
            is_negated = match[2] == "!="
            return match[1], (lambda it: it != expected_value) if is_negated else (lambda it: it == expected_value)
        if match := self._EXISTS.match(term):
            return match[2], (lambda it: it is None) if match[1] else (lambda it: it is not None)
        raise RefusedError(HTTPStatus.BAD_REQUEST, "BadRequest", f"unable to parse requirement: {term!r}")


class Store:
    """All objects, and their latest changes."""

    def __init__(self, clock: Callable[[], float], watch_cache_size: int = WATCH_CACHE_SIZE) -> None:
        """Start without objects.

        Args:
            clock: returns Unix seconds.
            watch_cache_size: number of changes that are kept for watches.
        """
        self._clock = clock
        self._objects: dict[Key, StoredObject] = {}
        self._history: deque[Change] = deque(maxlen=watch_cache_size)
        self.version = 1000
        """The newest resourceVersion."""
        self.listeners: list[Callable[[Change], None]] = []
        """Functions that are called with each change after it is stored."""

    # --- reading

    def find(self, key: Key) -> StoredObject | None:
        """Return an object with the time of its last change; None if there is none."""
        return self._objects.get(key)

    def get(self, key: Key) -> Object:
        """Return an object, which the caller must not modify.

        Raises:
            RefusedError: 404, there is no such object.
        """
        entry = self._objects.get(key)
        if entry is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "NotFound", f'{key.resource} "{key.name}" not found')
        return entry.item

    def select(self, resource: str, namespace: str = "", selector: Selector | None = None) -> list[StoredObject]:
        """Return the objects that match, sorted by namespace and name; those of all namespaces if it is empty."""
        matches = [
            (key, entry)
            for key, entry in self._objects.items()
            if key.resource == resource
            and namespace in {"", key.namespace}
            and (not selector or selector.matches(entry.item))
        ]
        return [entry for _, entry in sorted(matches, key=lambda row: row[0])]

    def changes_since(self, version: int, resource: str, namespace: str = "") -> list[Change]:
        """Return the changes of a resource after a version, oldest first.

        Raises:
            RefusedError: 410, the history does not reach back to the version.
        """
        oldest = self._history[0].version if self._history else self.version + 1
        if version < oldest - 1:
            message = f"too old resource version: {version} ({oldest - 1})"
            raise RefusedError(HTTPStatus.GONE, "Expired", message)
        return list(reversed(list(self._newest_first(version, resource, namespace))))

    def _newest_first(self, version: int, resource: str, namespace: str) -> Iterator[Change]:
        for change in reversed(self._history):
            if change.version <= version:
                return
            if change.key.resource == resource and namespace in {"", change.key.namespace}:
                yield change

    # --- writing

    def create(self, resource: str, namespace: str, item: Object, *, dry_run: bool = False) -> Object:
        """Store a new object.

        Raises:
            RefusedError: the object is invalid, or its name is taken.
        """
        item = schema.without_nulls(item)
        validate(resource, item)
        validate(resource, {"metadata": {"namespace": namespace}})
        meta = item.setdefault("metadata", {})
        for field in _DELETION_FIELDS:
            meta.pop(field, None)
        if not meta.get("name"):
            if not meta.get("generateName"):
                message = "name or generateName is required"
                raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message)
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
        return self._put(key, item, dry_run=dry_run)

    def replace(self, key: Key, item: Object, *, dry_run: bool = False) -> Object:
        """Replace an object; if the new one has a uid or a resourceVersion, it must be that of the old one.

        Leases are different (k8s.io/kubernetes, pkg/registry/coordination/lease/strategy.go): one that does not exist
        is created, and one that exists is replaced only over a named resourceVersion.
        """
        item = schema.without_nulls(item)
        validate(key.resource, item)
        metadata = item.get("metadata") or {}
        if key.resource == "leases":
            if key not in self._objects and metadata.get("uid"):
                raise _other_uid(key, metadata["uid"], "")
            if key not in self._objects:
                return self.create(key.resource, key.namespace, item, dry_run=dry_run)
            if not metadata.get("resourceVersion"):
                problem = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
                message = messages.INVALID_OBJECT.format(schema.kind_name(key.resource), key.name, problem)
                raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message)
        return self._update(key, item, metadata, dry_run=dry_run)

    def merge(self, key: Key, patch: Object, *, dry_run: bool = False) -> Object:
        """Apply a JSON merge patch (RFC 7386); a uid in it must be the object's, which is not valid otherwise."""
        item = schema.without_nulls(merge_patch(self.get(key), patch))
        # The result is validated, not the patch: a patch may hold a null where the object must hold something else.
        validate(key.resource, item)
        metadata = patch.get("metadata") or {}
        uid = metadata.get("uid")
        if uid not in {None, "", self.get(key)["metadata"]["uid"]}:
            problem = f'metadata.uid: Invalid value: "{uid}": field is immutable'
            message = messages.INVALID_OBJECT.format(schema.kind_name(key.resource), key.name, problem)
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message)
        return self._update(key, item, metadata, dry_run=dry_run)

    def delete(self, key: Key, options: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Delete an object.

        A pod on a node gets its grace period, and the kubelet removes it; other objects are removed at once.

        Raises:
            RefusedError: there is no such object, or a precondition failed.
        """
        item = self.get(key)
        preconditions = options.get("preconditions") or {}
        for field, name in (("uid", "UID"), ("resourceVersion", "resource version")):
            current = item["metadata"][field]
            required = preconditions.get(field)
            if required not in {None, current}:
                problem = f"Precondition failed: {name} in precondition: {required}, {name} in object meta: {current}"
                raise _conflict(key, problem)
        if dry_run:
            return item
        grace = _grace_seconds(key, item, options)
        if grace == 0:
            return self.remove(key)
        earlier_grace = item["metadata"].get("deletionGracePeriodSeconds")
        if earlier_grace is not None and earlier_grace <= grace:
            return item
        deletion = {"deletionTimestamp": iso(self._clock() + grace), "deletionGracePeriodSeconds": grace}
        return self._put(key, merge_patch(item, {"metadata": deletion}))

    def remove(self, key: Key) -> Object:
        """Remove an object without a grace period, and return its last state."""
        entry = self._objects.pop(key)
        self.version += 1
        last: Object = merge_patch(entry.item, {"metadata": {"resourceVersion": str(self.version)}})
        self._notify(Change(self.version, key, entry.item, last, is_deletion=True))
        return last

    def _update(self, key: Key, item: Object, preconditions: Mapping[str, Any], *, dry_run: bool) -> Object:
        current = self.get(key)["metadata"]
        uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
        if uid not in {None, "", current["uid"]}:
            raise _other_uid(key, uid, current["uid"])
        if version not in {None, "", current["resourceVersion"]}:
            problem = "the object has been modified; please apply your changes to the latest version and try again"
            raise _conflict(key, problem)
        immutable = (
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            *_DELETION_FIELDS,
            "resourceVersion",
            "generation",
        )
        mutable = {field: value for field, value in (item.get("metadata") or {}).items() if field not in immutable}
        item["metadata"] = {**mutable, **{field: current[field] for field in immutable if field in current}}
        return self._put(key, item, dry_run=dry_run)

    def _put(self, key: Key, item: Object, *, dry_run: bool = False) -> Object:
        entry = self._objects.get(key)
        before = entry.item if entry else None
        if dry_run or item == before:
            return item
        if before is not None and item.get("spec") != before.get("spec"):
            item["metadata"]["generation"] = before["metadata"]["generation"] + 1
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self._objects[key] = StoredObject(item, self._clock())
        self._notify(Change(self.version, key, before, item, is_deletion=False))
        return item

    def _notify(self, change: Change) -> None:
        self._history.append(change)
        for listener in self.listeners:
            listener(change)


def merge_patch(item: Any, patch: Any) -> Any:
    """Return the result of a JSON merge patch (RFC 7386); neither argument is modified."""
    if not isinstance(patch, Mapping):
        return schema.without_nulls(patch)
    result = dict(item) if isinstance(item, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _conflict(key: Key, problem: str) -> RefusedError:
    message = f'Operation cannot be fulfilled on {key.resource} "{key.name}": {problem}'
    return RefusedError(HTTPStatus.CONFLICT, "Conflict", message)


def _other_uid(key: Key, required: str, current: str) -> RefusedError:
    return _conflict(key, f"Precondition failed: UID in precondition: {required}, UID in object meta: {current}")


def _grace_seconds(key: Key, item: Object, options: Mapping[str, Any]) -> int:
    """Return a deletion's grace period (k8s.io/kubernetes, pkg/registry/core/pod/strategy.go, CheckGracefulDelete)."""
    spec, phase = item.get("spec") or {}, (item.get("status") or {}).get("phase")
    if key.resource != "pods" or not spec.get("nodeName") or phase in TERMINAL_PHASES:
        return 0
    requested = options.get("gracePeriodSeconds")
    grace = int(
        requested if requested is not None else spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    )
    return 1 if grace < 0 else min(grace, _MAX_GRACE_SECONDS)


def _field_value(item: Object, path: str) -> Any:
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
