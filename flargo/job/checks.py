"""The one way in which values from outside are checked, and the one error that says what is wrong with them."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from typing import Any, Final

Check = Callable[[str, Any], Any]
"""Takes a field's name and its value, and returns the value as it is kept. Raises Refused."""


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()
"""The value of a field that is not there, in a Refused."""
_LONGEST = 100

# Kubernetes: pkg/util/validation of k8s.io/apimachinery.
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]*)?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?")
_LONGEST_SUBDOMAIN = 253


class Refused(ValueError):  # noqa: N818  (what it says reads better than an Error)
    """A value that is not allowed: where it stands, what it is, and what would be."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        """Name the field as its author wrote it; the value is shown shortened."""
        shown = repr(value)
        self.field = field
        self.value = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}... ({len(shown)} characters)"
        self.allowed = allowed
        super().__init__(f"`{field}` is {self.value}: allowed is {allowed}")


def text(field: str, value: Any) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise Refused(field, value, "a non-empty string")
    return value


def absolute_path(field: str, value: Any) -> str:
    """A path from the root of a container's file system."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise Refused(field, value, "a non-empty string with an absolute path")
    return value


def is_flag(field: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise Refused(field, value, "true or false")
    return value


def seconds(field: str, value: Any) -> float:
    """A duration: zero or more, whole or not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Refused(field, value, "a number of seconds >= 0")
    return value


def at_least(least: int, what: str) -> Check:
    """A check for a whole number that is not too small."""

    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Refused(field, value, f"{what} >= {least}")
        return value

    return check


def optional(check: Check, none: str = "None") -> Check:
    """A check that lets None pass too; ``none`` says so in the message."""

    def wrapped(field: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(field, value)
        except Refused as refused:
            raise Refused(refused.field, value, f"{refused.allowed}, or {none}") from None

    return wrapped


def one_of(*choices: str) -> Check:
    """A check for one word of a few."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Refused(field, value, f"one of {', '.join(choices)}")
        return value

    return check


def mapping(field: str, value: Any) -> dict[str, Any]:
    """A dictionary with strings for keys; a copy of it, all the way down."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Refused(field, value, "a dictionary")
    return deepcopy(value)


def known_keys(field: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a dictionary's first key that has no meaning."""
    for key in sorted(set(value) - set(known)):
        allowed = f"one of the keys {', '.join(sorted(known))}" if known else "no key at all"
        raise Refused(f"{field}[{key!r}]", value[key], allowed)


def dns_label(field: str, value: Any) -> str:
    """The name of a namespace and of most that lives in one (RFC 1123)."""
    if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
        raise Refused(field, value, "a Kubernetes name: at most 63 of a-z, 0-9 and -, a letter or digit first and last")
    return value


def object_name(field: str, value: Any) -> str:
    """The name of a Secret or service account: labels with dots between."""
    fits = isinstance(value, str) and len(value) <= _LONGEST_SUBDOMAIN and _DNS_SUBDOMAIN.fullmatch(value)
    if not fits:
        raise Refused(
            field, value, "a Kubernetes name: at most 253 of a-z, 0-9, - and ., a letter or digit at each end"
        )
    return str(value)


def is_label_value(value: str) -> bool:
    """Whether a label may have this value (an empty one may be meant, but says nothing)."""
    return _QUALIFIED.fullmatch(value) is not None


def label_value(field: str, value: Any) -> str:
    """The value of a label."""
    if not isinstance(value, str) or not is_label_value(value):
        raise Refused(
            field, value, "a label value: at most 63 of a-z, A-Z, 0-9, -, _ and ., a letter or digit at each end"
        )
    return value


def qualified_key(field: str, value: Any) -> str:
    """The key of a label, an annotation or an extended resource: ``name`` or ``domain/name``."""
    prefix, slash, name = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if not _QUALIFIED.fullmatch(name) or (slash and not _DNS_SUBDOMAIN.fullmatch(prefix)):
        raise Refused(field, value, "a name, or a domain, a slash and a name, as in example.com/name")
    return f"{prefix}{slash}{name}"


def quantity(field: str, value: Any) -> str:
    """An amount of a resource as Kubernetes writes it; a number becomes its text, which is what the API takes."""
    fits = not isinstance(value, bool) and isinstance(value, int | float | str) and _QUANTITY.fullmatch(str(value))
    if not fits:
        raise Refused(field, value, "a Kubernetes quantity, as in 2, 500m, 1.5Gi or 100M")
    return str(value)


def written_quantity(field: str, value: Any) -> str:
    """The same, written as a string only."""
    return quantity(field, text(field, value))


def resources(field: str, value: Any) -> dict[str, dict[str, str]]:
    """A container's ``resources``: quantities under ``requests`` and ``limits``."""
    given = mapping(field, value)
    known_keys(field, given, ("requests", "limits"))
    return {
        part: {
            qualified_key(f"{field}[{part!r}]", name): quantity(f"{field}[{part!r}][{name!r}]", amount)
            for name, amount in mapping(f"{field}[{part!r}]", amounts).items()
        }
        for part, amounts in given.items()
    }
