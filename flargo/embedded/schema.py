"""Whether an object has the shape that the engine relies on: the types of the fields that it reads, and valid names.

Everything that is stored is checked here first, so the code that reads an object needs no checks of its own. What the
engine does not read is not looked at. The rules and the messages are Kubernetes' (apimachinery's pkg/api/validation,
k8s.io/kubernetes' pkg/apis/core/validation), but only the first problem is told. Pure.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from flargo.embedded.model import seconds

MAX_DEPTH = 100
"""Levels of a JSON value; a Workflow has fewer than thirty."""
_INT32, _INT64 = 2**31 - 1, 2**63 - 1
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUBDOMAIN_LENGTH = 253
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(rf"({_QUALIFIED})?")
_QUALIFIED_NAME = re.compile(rf"([a-z0-9A-Z]([-a-zA-Z0-9.]{{0,251}}[a-zA-Z0-9])?/)?{_QUALIFIED}")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
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
_SHOWN = 80
"""Characters of a client's value in a message."""


class Problem(NamedTuple):
    """Why an object is refused."""

    path: str
    """Of the field, as in ``spec.templates[0].name``."""
    message: str
    is_type: bool = False
    """Whether the value has another JSON type than the field, so that Kubernetes could not even decode it."""

    def __str__(self) -> str:
        """As Kubernetes writes it."""
        return f"{self.path}: {self.message}"


Check = Callable[[Any, str], Iterator[Problem]]
"""Takes a value and its path. It is asked for the first problem only: a type is checked first, and then relied on."""


def decoded(raw: bytes | str) -> Any:
    """Decode JSON, within the limits of Kubernetes' decoder: finite numbers, integers of 64 bits, some depth.

    Raises:
        ValueError: it is not that. The message is for the client, and quotes nothing.
    """
    try:
        value = json.loads(raw, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError("invalid JSON: not UTF-8") from None
    except RecursionError:
        raise ValueError("invalid JSON: exceeded max depth") from None
    return _normal(value, 0)


def cleaned(value: Any) -> Any:
    """A deep copy without the dictionary entries that are null, which to Kubernetes are not there."""
    if isinstance(value, dict):
        return {key: cleaned(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [cleaned(entry) for entry in value]
    return value


def problem_of_segment(segment: str) -> str:
    """Why a part of a URL's path, decoded, cannot be a name; nothing if it can."""
    if segment in {".", ".."}:
        return f"may not be '{segment}'"
    return next((f"may not contain '{character}'" for character in "/%" if character in segment), "")


def problem_of_local_path(path: str) -> str:
    """Why a path may lead out of the folder that it is relative to; nothing if it may not."""
    if path.startswith("/"):
        return "must be a relative path"
    if ".." in path.split("/"):
        return "must not contain '..'"
    return "must not contain a null character" if "\0" in path else ""


def problem(resource: str, item: Any) -> Problem | None:
    """The first thing that is wrong with an object of a resource (``pods``); None if nothing is."""
    return next(_OBJECTS.get(resource, _OBJECT)(item, ""), None)


def kind_of(resource: str) -> str:
    """What messages call an object of a resource."""
    return _KINDS.get(resource, resource)


def problem_of_options(options: Any) -> Problem | None:
    """The first thing that is wrong with DeleteOptions; None if nothing is."""
    return next(_OPTIONS(options, ""), None)


# --- JSON


def _integer(digits: str) -> int:
    # Short enough first: Python takes no longer ones, in words of its own.
    if len(digits) > len(str(_INT64)) + 1 or not -_INT64 - 1 <= int(digits) <= _INT64:
        raise ValueError("invalid JSON: an integer of more than 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("invalid JSON: a number out of range")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid JSON: {name} is no number")


def _normal(value: Any, depth: int) -> Any:
    """As Go decodes it: half of a surrogate pair becomes U+FFFD."""
    if depth > MAX_DEPTH:
        raise ValueError("invalid JSON: exceeded max depth")
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_normal(entry, depth + 1) for entry in value]
    if isinstance(value, dict):
        return {_normal(key, depth): _normal(entry, depth + 1) for key, entry in value.items()}
    return value


# --- checks: types


def _invalid(path: str, value: Any, why: str) -> Problem:
    return Problem(path, f"Invalid value: {json.dumps(value)[:_SHOWN]}: {why}")


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _of_type(wanted: str, *types: type) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        if type(value) not in types:
            got = _type_name(value)
            message = f'Invalid value: "{got}": {path or "the object"} in body must be of type {wanted}: "{got}"'
            yield Problem(path or "<nil>", message, is_type=True)

    return check


_text = _of_type("string", str)
_boolean = _of_type("boolean", bool)
_quantity = _of_type("string", str, int, float)
_dictionary = _of_type("object", dict)
_array = _of_type("array", list)
_number = _of_type("integer", int)


def _anything(_: Any, __: str) -> Iterator[Problem]:
    return iter(())


def _between(least: int, most: int, rule: str) -> Check:
    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _number(value, path)
        if isinstance(value, int) and not least <= value <= most:
            yield _invalid(path, value, rule)

    return check


def _matching(pattern: re.Pattern[str], length: int, rule: str) -> Check:
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
            yield from check_value(entry, f"{path}[{key[:_SHOWN]}]")

    return check


def _list_of(check_entry: Check, unique: str = "") -> Check:
    """Of entries of one shape, which ``unique`` tells apart."""

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
    """An object; fields that are not named may be anything."""

    def check(value: Any, path: str) -> Iterator[Problem]:
        yield from _dictionary(value, path)
        for name in dict.fromkeys((*required, *checks)) if isinstance(value, dict) else ():
            place = f"{path}.{name}".lstrip(".")
            if value.get(name) is not None and name in checks:
                yield from checks[name](value[name], place)
            elif name in required:
                yield Problem(place, "Required value")

    return check


# --- checks: values


def _time(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    if not _TIME.fullmatch(value) or not _is_in_calendar(value):
        yield _invalid(path, value, "must be a time as RFC 3339 has it")


def _is_in_calendar(value: str) -> bool:
    try:
        return math.isfinite(seconds(value))
    except (ValueError, OverflowError):
        return False


def _local_path(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    if why := problem_of_local_path(value):
        yield _invalid(path, value, why)


def _item_path(value: Any, path: str) -> Iterator[Problem]:
    """Of a Secret's key in a volume; the kubelet keeps names that begin with two dots for itself."""
    yield from _local_path(value, path)
    if not value:
        yield Problem(path, "Required value")
    if value.startswith(".."):
        yield _invalid(path, value, "must not start with '..'")


def _mount_path(value: Any, path: str) -> Iterator[Problem]:
    """Stricter than Kubernetes, to which a mount path is any text: here it is a place in a folder of this machine."""
    yield from _text(value, path)
    parts = value.rstrip("/").split("/")[1:]
    if not value.startswith("/") or not parts or {"", ".", ".."} & set(parts) or "\0" in value:
        yield _invalid(
            path, value, "flargo.embedded mounts at absolute paths without '.', '..' and empty parts, not at /"
        )


def _data_key(value: Any, path: str) -> Iterator[Problem]:
    if not _DATA_KEY.fullmatch(value) or value == "." or value.startswith(".."):
        rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        yield _invalid(f"{path}[{value[:_SHOWN]}]", value, rule)


def _encoded(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        yield Problem(path, "illegal base64 data", is_type=True)


def _prefix(value: Any, path: str) -> Iterator[Problem]:
    yield from _text(value, path)
    yield from _name(f"{value}x"[-_SUBDOMAIN_LENGTH:], path)


_name = _matching(_SUBDOMAIN, _SUBDOMAIN_LENGTH, _SUBDOMAIN_RULE)
_label_name = _matching(_DNS_LABEL, 63, _LABEL_RULE)
_key = _matching(
    _QUALIFIED_NAME, _SUBDOMAIN_LENGTH + 64, "must be a qualified name: a prefix and '/', or not, and a name"
)
_label_value = _matching(
    _LABEL_VALUE, 63, "must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
)
_int32 = _between(0, _INT32, "must be between 0 and 2147483647, inclusive")
_mode = _between(0, 0o777, "must be a number between 0 and 0777 (octal), both inclusive")
_grace = _between(-_INT64 - 1, _INT64, "")

# --- objects

_OF_OWNER = ("apiVersion", "kind", "name", "uid")
_OWNER = _fields(dict.fromkeys(_OF_OWNER, _text), *_OF_OWNER)
_META = _fields(
    {
        "name": _name,
        "generateName": _prefix,
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
        "activeDeadlineSeconds": _between(1, _INT32, "must be between 1 and 2147483647, inclusive"),
        "volumes": _list_of(_VOLUME, unique="name"),
        "containers": _CONTAINERS,
        "initContainers": _CONTAINERS,
    },
    "containers",
    "initContainers",
)
_TEMPLATE = _fields(
    {
        "name": _text,
        "metadata": _fields({"labels": _map_of(_text), "annotations": _map_of(_text)}),
        "container": _dictionary,
        "volumes": _list_of(_dictionary),
        "podSpecPatch": _text,
    }
)
_SECONDS_KEPT = {f"secondsAfter{end}": _int32 for end in ("Completion", "Success", "Failure")}
_WORKFLOW = _fields(
    {
        "entrypoint": _text,
        "suspend": _boolean,
        "shutdown": _text,
        "serviceAccountName": _text,
        "executor": _fields({"serviceAccountName": _text}),
        "templates": _list_of(_TEMPLATE),
        "volumes": _list_of(_dictionary),
        "ttlStrategy": _fields(_SECONDS_KEPT),
        "podGC": _fields({"strategy": _text, "deleteDelayDuration": _text}),
    }
)
_NODE = _fields({"phase": _text, "message": _text})
_WORKFLOW_STATUS = _fields(
    {"phase": _text, "message": _text, "startedAt": _time, "finishedAt": _time, "nodes": _map_of(_NODE)}
)


def _object(**checks: Check) -> Check:
    return _fields({"metadata": _META, **checks})


_DATA = _map_of(_encoded, _data_key)
_OBJECT = _object(spec=_dictionary, status=_dictionary)
_OBJECTS: dict[str, Check] = {
    "workflows": _object(spec=_WORKFLOW, status=_WORKFLOW_STATUS),
    "pods": _object(spec=_POD, status=_dictionary),
    "secrets": _object(type=_text, data=_DATA, stringData=_map_of(_text, _data_key)),
    "resourcequotas": _object(spec=_fields({"hard": _AMOUNTS}), status=_dictionary),
}
_KINDS = {
    "workflows": "Workflow.argoproj.io",
    "pods": "Pod",
    "secrets": "Secret",
    "serviceaccounts": "ServiceAccount",
    "resourcequotas": "ResourceQuota",
    "events": "Event",
}
_OPTIONS = _fields(
    {
        "gracePeriodSeconds": _grace,
        "preconditions": _fields({"uid": _text, "resourceVersion": _text}),
        "propagationPolicy": _text,
        "dryRun": _list_of(_text),
    }
)
