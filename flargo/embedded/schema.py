"""Checks that objects have the shape on which the engine relies: types of the fields that it reads, and valid names.

Every object is checked before it is stored, so the code that reads it needs no checks of its own. Fields that the
engine does not read are not checked. The rules and messages are those of Kubernetes (apimachinery's
pkg/api/validation, k8s.io/kubernetes' pkg/apis/core/validation), but only the first problem is reported. Everything
here is pure.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flargo.embedded.model import quantity, seconds

MAX_DEPTH = 100
"""Levels of a JSON value. A Workflow has fewer than thirty."""
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_SUBDOMAIN_LENGTH = 253
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(rf"({_QUALIFIED})?")
_QUALIFIED_NAME = re.compile(rf"([a-z0-9A-Z]([-a-zA-Z0-9.]{{0,251}}[a-zA-Z0-9])?/)?{_QUALIFIED}")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MICRO_TIME = re.compile(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{6}(Z|[+-][0-9]{2}:[0-9]{2})")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and"
    " end with an alphanumeric character"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_QUOTED_CHARACTERS = 80
"""The longest quotation of a client's value in a message."""


class Problem(NamedTuple):
    """The reason why an object is refused."""

    path: str
    """Path of the field, as in ``spec.templates[0].name``."""
    message: str
    is_type_error: bool = False
    """True if the value's JSON type is not that of the field, so that Kubernetes could not decode the object."""

    def __str__(self) -> str:
        """Return path and message as Kubernetes writes them."""
        return f"{self.path}: {self.message}"


Check = Callable[[Any, str], Iterator[Problem]]
"""Takes a value and its path, and yields problems. Only the first one is ever taken from it, so a check may yield a
problem of the type and then rely on that type."""


def decode_json(raw: bytes | str) -> Any:
    """Decode JSON within the limits of Kubernetes' decoder: finite numbers, integers of 64 bits, MAX_DEPTH levels.

    Raises:
        ValueError: the text is not such JSON. The message is for the client, and quotes nothing of the text.
    """
    try:
        value = json.loads(raw, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError("invalid JSON: not UTF-8") from None
    except RecursionError:
        raise ValueError("invalid JSON: exceeded max depth") from None
    return _replace_surrogates(value, 0)


def without_nulls(value: Any) -> Any:
    """Return a deep copy without null entries of objects, which Kubernetes treats as absent."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [without_nulls(entry) for entry in value]
    return value


def path_segment_problem(segment: str) -> str:
    """Return why a decoded segment of a URL's path cannot be a name; empty if it can."""
    if segment in {".", ".."}:
        return f"may not be '{segment}'"
    return next((f"may not contain '{character}'" for character in "/%" if character in segment), "")


def local_path_problem(path: str) -> str:
    """Return why a relative path might lead out of its folder; empty if it cannot."""
    if path.startswith("/"):
        return "must be a relative path"
    if ".." in path.split("/"):
        return "must not contain '..'"
    return "must not contain a null character" if "\0" in path else ""


def find_problem(resource: str, item: Any) -> Problem | None:
    """Return the first problem of an object of a resource, such as ``pods``; None if it is valid."""
    return next(_OBJECTS.get(resource, _OBJECT)(item, ""), None)


def kind_name(resource: str) -> str:
    """Return the name of a resource's kind as messages have it."""
    return _KINDS.get(resource, resource)


def delete_options_problem(options: Any) -> Problem | None:
    """Return the first problem of a DeleteOptions object; None if it is valid."""
    return next(_OPTIONS(options, ""), None)


# --- JSON


def _parse_integer(digits: str) -> int:
    # The length is checked first: int() refuses very long numbers with a message of its own.
    if len(digits) > len(str(_INT64)) + 1 or not -_INT64 - 1 <= int(digits) <= _INT64:
        raise ValueError("invalid JSON: an integer of more than 64 bits")
    return int(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("invalid JSON: a number out of range")
    return number


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"invalid JSON: {name} is not a number")


def _replace_surrogates(value: Any, depth: int) -> Any:
    """Replace each unpaired surrogate by U+FFFD, as Go's decoder does."""
    if depth > MAX_DEPTH:
        raise ValueError("invalid JSON: exceeded max depth")
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_surrogates(entry, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {_replace_surrogates(key, depth): _replace_surrogates(entry, depth + 1) for key, entry in value.items()}
    return value


# --- checks: types


def _invalid(path: str, value: Any, rule: str) -> Problem:
    return Problem(path, f"Invalid value: {json.dumps(value)[:_MAX_QUOTED_CHARACTERS]}: {rule}")


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _has_type(type_name: str, *types: type) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        if type(value) not in types:
            actual = _type_name(value)
            field = path or "the object"
            message = f'Invalid value: "{actual}": {field} in body must be of type {type_name}: "{actual}"'
            yield Problem(path or "<nil>", message, is_type_error=True)

    return check


_text = _has_type("string", str)
_boolean = _has_type("boolean", bool)
_quantity = _has_type("string", str, int, float)


def _valid_quantity(value: Any, path: str) -> Iterator[Problem]:
    problems = [*_quantity(value, path)]
    yield from problems
    if not problems:
        try:
            quantity(value)
        except ValueError:
            yield _invalid(path, value, "must be a quantity, as 500m or 2Gi")


_dictionary = _has_type("object", dict)
_array = _has_type("array", list)
_number = _has_type("integer", int)


def _anything(_: Any, __: str) -> Iterator[Problem]:
    return iter(())


def _in_range(least: int, most: int, rule: str) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _number(value, path)
        if isinstance(value, int) and not least <= value <= most:
            yield _invalid(path, value, rule)

    return check


def _matches(pattern: re.Pattern[str], length: int, rule: str) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _text(value, path)
        if isinstance(value, str) and len(value) > length:
            yield _invalid(path, value, f"must be no more than {length} characters")
        if isinstance(value, str) and not pattern.fullmatch(value):
            yield _invalid(path, value, rule)

    return check


def _map_of(check_value: Check, check_key: Check = _anything) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _dictionary(value, path)
        for key, entry in value.items() if isinstance(value, dict) else ():
            yield from check_key(key, path)
            yield from check_value(entry, f"{path}[{key[:_MAX_QUOTED_CHARACTERS]}]")

    return check


def _list_of(check_entry: Check, unique: str = "") -> Check:
    """Return a check of a list whose entries have one shape, and differ in the field ``unique`` if it is given."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _array(value, path)
        names: set[str] = set()
        for index, entry in enumerate(value if isinstance(value, list) else ()):
            yield from check_entry(entry, f"{path}[{index}]")
            if unique:
                name = str(entry.get(unique, "")).rstrip("/")
                if name in names:
                    yield Problem(f"{path}[{index}].{unique}", f"Duplicate value: {json.dumps(name)}")
                names.add(name)

    return check


def _fields(checks: Mapping[str, Check], *required: str) -> Check:
    """Return a check of an object's fields; other fields may have any value."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _dictionary(value, path)
        for name in dict.fromkeys((*required, *checks)) if isinstance(value, dict) else ():
            field_path = f"{path}.{name}".lstrip(".")
            if value.get(name) is not None and name in checks:
                yield from checks[name](value[name], field_path)
            elif name in required:
                yield Problem(field_path, "Required value")

    return check


# --- checks: values


def _time(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    if not _TIME.fullmatch(value) or not _is_in_calendar(value):
        yield _invalid(path, value, "must be a time as in RFC 3339")


def _micro_time(value: Any, path: str) -> Iterator[Problem]:
    """Check a MicroTime, which Go decodes only with six digits after the second."""
    yield from _text(value, path)
    if not _MICRO_TIME.fullmatch(value) or not _TIME.fullmatch(value) or not _is_in_calendar(value):
        yield Problem(path, f"{json.dumps(value)[:_MAX_QUOTED_CHARACTERS]} is no MicroTime", is_type_error=True)


def _is_in_calendar(value: str) -> bool:
    try:
        return math.isfinite(seconds(value))
    except (ValueError, OverflowError):
        return False


def _local_path(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    if rule := local_path_problem(value):
        yield _invalid(path, value, rule)


def _item_path(value: Any, path: str) -> Iterator[Problem]:
    """Check the path of a Secret's key in a volume; the kubelet reserves names that begin with two dots."""
    yield from _local_path(value, path)
    if not value:
        yield Problem(path, "Required value")
    if value.startswith(".."):
        yield _invalid(path, value, "must not start with '..'")


def _mount_path(value: Any, path: str) -> Iterator[Problem]:
    """Check a mount path, more strictly than Kubernetes, because it becomes a path of this machine."""
    yield from _text(value, path)
    parts = value.rstrip("/").split("/")[1:]
    if not value.startswith("/") or not parts or {"", ".", ".."} & set(parts) or "\0" in value:
        yield _invalid(
            path, value, "must be an absolute path other than / without '.', '..' and empty parts (flargo.embedded)"
        )


def _data_key(value: Any, path: str) -> Iterator[Problem]:
    if not _DATA_KEY.fullmatch(value) or value == "." or value.startswith(".."):
        rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        yield _invalid(f"{path}[{value[:_MAX_QUOTED_CHARACTERS]}]", value, rule)


def _base64(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        yield Problem(path, "illegal base64 data", is_type_error=True)


def _name_prefix(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    yield from _name(f"{value}x"[-_MAX_SUBDOMAIN_LENGTH:], path)


_name = _matches(_SUBDOMAIN, _MAX_SUBDOMAIN_LENGTH, _SUBDOMAIN_RULE)
_label_name = _matches(_DNS_LABEL, 63, _LABEL_RULE)
_key = _matches(
    _QUALIFIED_NAME, _MAX_SUBDOMAIN_LENGTH + 64, "must be a qualified name: a prefix and '/', or not, and a name"
)
_label_value = _matches(
    _LABEL_VALUE, 63, "must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
)
_int32 = _in_range(0, _INT32, "must be between 0 and 2147483647, inclusive")
_mode = _in_range(0, 0o777, "must be a number between 0 and 0777 (octal), both inclusive")
_grace = _in_range(-_INT64 - 1, _INT64, "")

# --- objects

_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid")
_OWNER = _fields(dict.fromkeys(_OWNER_FIELDS, _text), *_OWNER_FIELDS)
_META = _fields(
    {
        "name": _name,
        "generateName": _name_prefix,
        "namespace": _label_name,
        "labels": _map_of(_label_value, _key),
        "annotations": _map_of(_text, _key),
        "ownerReferences": _list_of(_OWNER),
        "finalizers": _list_of(_text),
        "uid": _text,
        "resourceVersion": _text,
        "generation": _number,
        "creationTimestamp": _time,
        "deletionTimestamp": _time,
        "deletionGracePeriodSeconds": _grace,
    }
)
_ITEMS = _list_of(_fields({"key": _text, "path": _item_path, "mode": _mode}, "key", "path"))
_KEYS = {"items": _ITEMS, "defaultMode": _mode, "optional": _boolean}
_PROJECTED = _list_of(_fields({name: _fields({"items": _ITEMS}) for name in ("secret", "configMap")}))
_VOLUME = _fields(
    {
        "name": _label_name,
        "secret": _fields({"secretName": _text, **_KEYS}, "secretName"),
        "configMap": _fields({"name": _text, **_KEYS}),
        "downwardAPI": _fields({"items": _list_of(_fields({"path": _item_path}, "path"))}),
        "projected": _fields({"sources": _PROJECTED}),
        "emptyDir": _fields({"sizeLimit": _quantity}),
        "persistentVolumeClaim": _fields({"claimName": _text}, "claimName"),
    },
    "name",
)
_SOURCE = _fields(
    {
        "secretKeyRef": _fields({"name": _text, "key": _text, "optional": _boolean}, "name", "key"),
        "fieldRef": _fields({"fieldPath": _text}),
    }
)
_AMOUNTS = _map_of(_quantity)
_CONTAINER = _fields(
    {
        "name": _label_name,
        "image": _text,
        "command": _list_of(_text),
        "args": _list_of(_text),
        "workingDir": _text,
        "env": _list_of(_fields({"name": _text, "value": _text, "valueFrom": _SOURCE}, "name")),
        "resources": _fields({"limits": _AMOUNTS, "requests": _AMOUNTS}),
        "volumeMounts": _list_of(
            _fields(
                {"name": _text, "mountPath": _mount_path, "subPath": _local_path, "subPathExpr": _local_path},
                *("name", "mountPath"),
            ),
            unique="mountPath",
        ),
    },
    "name",
)
_CONTAINERS = _list_of(_CONTAINER, unique="name")
_POD = _fields(
    {
        "serviceAccountName": _text,
        "nodeName": _text,
        "nodeSelector": _map_of(_text),
        "terminationGracePeriodSeconds": _grace,
        "activeDeadlineSeconds": _in_range(1, _INT32, "must be between 1 and 2147483647, inclusive"),
        "volumes": _list_of(_VOLUME, unique="name"),
        "containers": _CONTAINERS,
        "initContainers": _CONTAINERS,
    },
    "containers",
    "initContainers",
)
_SYNCHRONIZATION = _fields(
    {
        "mutexes": _list_of(_fields({"name": _text})),
        "semaphores": _list_of(_fields({"configMapKeyRef": _fields({"name": _text, "key": _text}, "name", "key")})),
    }
)
_TEMPLATE = _fields(
    {
        "name": _text,
        "metadata": _fields({"labels": _map_of(_text), "annotations": _map_of(_text)}),
        "annotations": _map_of(_text),
        "container": _dictionary,
        "volumes": _list_of(_dictionary),
        "podSpecPatch": _text,
        "synchronization": _SYNCHRONIZATION,
    }
)
_TTL_SECONDS = {f"secondsAfter{end}": _int32 for end in ("Completion", "Success", "Failure")}
_WORKFLOW = _fields(
    {
        "entrypoint": _text,
        "suspend": _boolean,
        "shutdown": _text,
        "serviceAccountName": _text,
        "executor": _fields({"serviceAccountName": _text}),
        "templates": _list_of(_TEMPLATE),
        "volumes": _list_of(_dictionary),
        "ttlStrategy": _fields(_TTL_SECONDS),
        "podGC": _fields({"strategy": _text, "deleteDelayDuration": _text}),
        "onExit": _text,
        "hooks": _map_of(_fields({"template": _text, "expression": _text}, "template")),
    }
)
_LEASE = _fields(
    {
        "holderIdentity": _text,
        "leaseDurationSeconds": _in_range(1, _INT32, "must be greater than 0"),
        "leaseTransitions": _in_range(0, _INT32, "must be greater than or equal to 0"),
        "acquireTime": _micro_time,
        "renewTime": _micro_time,
    }
)
_NODE = _fields({"phase": _text, "message": _text}, "phase")
_HOLDING = {kind: _fields({"holding": _list_of(_fields({kind: _text}, kind))}) for kind in ("mutex", "semaphore")}
_WORKFLOW_STATUS = _fields(
    {
        "phase": _text,
        "message": _text,
        "startedAt": _time,
        "finishedAt": _time,
        "nodes": _map_of(_NODE),
        "synchronization": _fields(_HOLDING),
    }
)


def _object(**checks: Check) -> Check:
    return _fields({"metadata": _META, **checks})


_DATA = _map_of(_base64, _data_key)
_OBJECT = _object(spec=_dictionary, status=_dictionary)
_OBJECTS: dict[str, Check] = {
    "workflows": _object(spec=_WORKFLOW, status=_WORKFLOW_STATUS),
    "pods": _object(spec=_POD, status=_dictionary),
    "secrets": _object(type=_text, data=_DATA, stringData=_map_of(_text, _data_key)),
    "resourcequotas": _object(spec=_fields({"hard": _map_of(_valid_quantity)}), status=_dictionary),
    "configmaps": _object(data=_map_of(_text)),
    "leases": _object(spec=_LEASE),
}
_KINDS = {
    "workflows": "Workflow.argoproj.io",
    "pods": "Pod",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
    "resourcequotas": "ResourceQuota",
    "events": "Event",
    "configmaps": "ConfigMap",
    "leases": "Lease.coordination.k8s.io",
}
_OPTIONS = _fields(
    {
        "gracePeriodSeconds": _grace,
        "preconditions": _fields({"uid": _text, "resourceVersion": _text}),
        "propagationPolicy": _text,
        "dryRun": _list_of(_text),
    }
)
