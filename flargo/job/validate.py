"""Checks for values from outside flargo, and InvalidInput, the error that every one of them raises.

A check takes the name of a field, as its author wrote it, and the field's value. It returns the value in the form that
flargo uses. The error's message has one of two forms::

    raise InvalidInput("timeout", -3, "a number of seconds > 0")
        `timeout` is -3; expected a number of seconds > 0
    raise InvalidInput("--max-jobs", 3, Sentence("applies only to a server's kit"))
        `--max-jobs` applies only to a server's kit
"""

import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import field as dataclass_field
from dataclasses import fields
from fractions import Fraction
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from flargo.parsing import DNS_SUBDOMAIN, MAX_SUBDOMAIN_LENGTH, is_dns_label, is_object_name

T = TypeVar("T")
Check = Callable[[str, Any], Any]
"""Takes a field's name and its value, and returns the value in the form that flargo uses. Raises InvalidInput."""


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()
"""The value of a field that is not there. An InvalidInput says that the field "is missing"."""


class Verbatim(str):
    """A value that an InvalidInput shows without quotes: text of flargo's own, or a value that is shortened already."""

    __slots__ = ()


class Sentence(str):
    """A predicate for InvalidInput: together with the field's name before it, it is a complete sentence.

    It replaces "is <value>; expected <allowed>" where the problem is a condition and not the form of a value. The
    message then does not show the value. Begin with a verb, and say what to do where that is not obvious.
    """

    __slots__ = ()


HIDDEN: Final = Verbatim("not shown here")
"""The value of a field of a site's file: researchers at other institutions read the message, and it may be a secret."""


_MAX_VALUE = 100
"""Characters of a value that a message shows."""
_MAX_TEXT = 600
"""Characters of a field's name or of an allowed text that a message shows."""
MAX_LINE_LENGTH = 4096
"""Characters of any text: Linux' PATH_MAX."""
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, what turns writing around, and halves of characters."""
_MAX_IMAGE_LENGTH = 512
_MAX_SECONDS = 10**9
"""Thirty years, which every clock can count."""
_MAX_COUNT = 2**31 - 1
_MAX_QUANTITY = 2**63 - 1
"""Of a quantity: Kubernetes counts no further (resource.Quantity)."""

# Kubernetes: pkg/util/validation of k8s.io/apimachinery.
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_CONFIG_KEY = re.compile(r"(?!\.\.|\.$)[-._a-zA-Z0-9]{1,253}")
_QUANTITY = re.compile(r"\+?(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)(?P<unit>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?")
_UNITS: Final[Mapping[str, Fraction]] = {
    "": Fraction(1),
    **{unit: Fraction(1000) ** -power for power, unit in enumerate("mun", 1)},
    **{unit: Fraction(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Fraction(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_MAX_QUANTITY_LENGTH = 64
_MAX_NAME_LENGTH = 63
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[-A-Za-z0-9]*[A-Za-z0-9])?")
"""What nvflare's provisioning takes for one (nvflare.lighter.entity)."""
# github.com/distribution/reference, which the kubelet reads image names with.
_HOST = r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@{_DIGEST})?"
)


class Endpoint(NamedTuple):
    """Where to listen."""

    host: str
    """An IP address."""
    port: int

    def __str__(self) -> str:
        """As it is written in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InvalidInput(ValueError):  # noqa: N818  (the name says what is wrong better than an Error)
    """A value from outside flargo that is not allowed.

    ``str(error)`` is the field's name in backticks and ``problem``. Commands print ``field``, ``value`` and ``allowed``
    under these names in JSON. Whatever the field, the value and the allowed text hold, the message stays on one line
    and is limited in length.
    """

    field: str
    """Where the value stands, as its author would write it: an option, a file, or a path such as ``argo['queued']``."""
    value: str
    """The value as text, shortened; "missing" for MISSING, "not shown here" for HIDDEN."""
    allowed: str
    """What the field may be: a noun phrase, or a Sentence."""
    problem: str
    """The message without the field's name: a predicate such as "is -3; expected a number of seconds > 0"."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        """Say which field has a value that is not allowed.

        Args:
            field: where the value stands, as its author would write it.
            value: the value itself, MISSING, HIDDEN, or a Verbatim text that describes it.
            allowed: a noun phrase that completes "expected ...", or a Sentence.
        """
        self.field = field if len(field) <= _MAX_TEXT else f"{field[:_MAX_TEXT]}..."
        self.value = _shorten_value(value)
        self.allowed = allowed
        self.problem = _one_line(allowed)
        if not isinstance(allowed, Sentence):
            is_hidden = isinstance(value, Verbatim) and value == HIDDEN
            state = "not allowed (value not shown)" if is_hidden else self.value
            self.problem = f"is {state}; expected {self.problem}"
        super().__init__(f"`{_one_line(field)}` {self.problem}")


def _one_line(text: str) -> str:
    """Return a text, which may quote somebody else's, as one printable line of limited length."""
    start = text[: _MAX_TEXT + 1]
    printable = start if start.isprintable() else repr(start)[1:-1]
    return printable if len(printable) <= _MAX_TEXT else f"{printable[:_MAX_TEXT]}..."


def _shorten_value(value: object) -> str:
    """Return a value of any type and size as one line of limited length and depth."""
    if isinstance(value, Verbatim):
        return str(value)
    if isinstance(value, str):
        rest = f"... ({len(value)} characters)" if len(value) > _MAX_VALUE else ""
        return f"{value[:_MAX_VALUE]!r}{rest}"
    try:
        shown = _SHORT.repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return f"a {type(value).__name__}"
    return shown if len(shown) <= _MAX_VALUE else f"{shown[:_MAX_VALUE]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxother, _SHORT.maxlong = 3, 5, 5, _MAX_VALUE, _MAX_VALUE


def text(field: str, value: Any) -> str:
    """A string that is not blank."""
    if not isinstance(value, str) or not value or value.isspace():
        raise InvalidInput(field, value, "a non-empty string")
    return value


def line(field: str, value: Any) -> str:
    """A text on one line: nothing in it that moves a cursor or turns writing around."""
    if not isinstance(value, str) or len(value) > MAX_LINE_LENGTH or not value.strip() or _UNSAFE.search(value):
        raise InvalidInput(
            field, value, f"a non-empty string of at most {MAX_LINE_LENGTH} characters, without control characters"
        )
    return value


def plain_path(field: str, value: Any) -> str:
    """A path, or a program's name. Kubernetes puts the value of X, a secret too, where $(X) stands."""
    if any(mark in line(field, value) for mark in ("{{", "$(")):
        raise InvalidInput(field, value, "a path without {{ and $(, which Argo and Kubernetes would evaluate")
    return str(value)


def image(field: str, value: Any) -> str:
    """A container image, as container runtimes read it: registry/name:tag@digest, the last two where wanted."""
    if not isinstance(value, str) or len(value) > _MAX_IMAGE_LENGTH or not _IMAGE.fullmatch(value):
        example = "registry.example/name:tag or name@sha256:..."
        raise InvalidInput(field, value, f"an image of at most {_MAX_IMAGE_LENGTH} characters, as in {example}")
    return value


def absolute_path(field: str, value: Any) -> str:
    """A path from the root of a container's file system."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidInput(field, value, "a non-empty string with an absolute path")
    return plain_path(field, value)


def boolean(field: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "true or false")
    return value


def seconds(field: str, value: Any) -> float:
    """A duration: zero or more, whole or not, and not so long that a clock overflows."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise InvalidInput(field, value, f"a number of seconds >= 0 and <= {_MAX_SECONDS}")
    return value


def positive_seconds(field: str, value: Any) -> float:
    """A duration that is more than none."""
    try:
        given = seconds(field, value)
    except InvalidInput:
        given = 0
    if not given:
        raise InvalidInput(field, value, f"a number of seconds > 0 and <= {_MAX_SECONDS}")
    return given


def endpoint(field: str, value: Any) -> Endpoint:
    """An IP address to listen at, of this machine or 0.0.0.0 or [::] for all of its own, and a port."""
    try:
        said = urlsplit(f"//{text(field, value)}")
        made = Endpoint(str(ip_address(said.hostname or "")), said.port or 0)
    except ValueError:
        made = Endpoint("", 0)
    if not made.port or str(made) != value:
        raise InvalidInput(field, value, "an IP address and a port from 1 to 65535, as in 0.0.0.0:9464 or [::1]:9464")
    return made


def at_least(least: int, what: str) -> Check:
    """A check for a whole number that is not too small."""

    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(field, value, f"{what} >= {least}")
        return value

    return check


def count(field: str, value: Any) -> int | str:
    """How many, as a number or in a string."""
    digits = isinstance(value, str) and len(value) <= _MAX_QUANTITY_LENGTH and value.isascii() and value.isdecimal()
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (digits or whole) or not 0 <= int(value) <= _MAX_COUNT:
        raise InvalidInput(field, value, f"a whole number >= 0 and <= {_MAX_COUNT}")
    return value  # type: ignore[no-any-return]


def optional(check: Check, none: str = "null") -> Check:
    """A check that lets None pass too; ``none`` says so in the message, as people write it."""

    def wrapped(field: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(field, value)
        except InvalidInput as refused:
            raise InvalidInput(refused.field, value, f"{refused.allowed}, or {none}") from None

    return wrapped


def one_of(*choices: str) -> Check:
    """A check for one word of a few."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise InvalidInput(field, value, f"one of {', '.join(choices)}")
        return value

    return check


def mapping(field: str, value: Any) -> dict[str, Any]:
    """A dictionary with strings for keys; a copy of it, all the way down."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(field, value, "a dictionary")
    return deepcopy(value)


def refuse_unknown_keys(field: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a dictionary's first key that has no meaning."""
    for key in sorted(set(value) - set(known)):
        allowed = f"one of the keys {', '.join(sorted(known))}" if known else "no key at all"
        raise InvalidInput(f"{field}[{key!r}]", value[key], allowed)


def key(check: Check, default: Any) -> Any:
    """A field of a dataclass that :func:`record` reads: its check, and its value where it is not said."""
    return dataclass_field(default_factory=lambda: deepcopy(default), metadata={"check": check})


def record(kind: type[T]) -> Check:
    """A check for a dictionary with some of a dataclass's keys; None and what is not said are the defaults."""

    def check(field: str, value: Any) -> T:
        said = {} if value is None else mapping(field, value)
        checked = {row.name: row.metadata["check"] for row in fields(kind)}  # type: ignore[arg-type]  # a dataclass
        refuse_unknown_keys(field, said, checked)
        return kind(**{name: checked[name](f"{field}[{name!r}]", given) for name, given in said.items()})

    return check


def dns_label(field: str, value: Any) -> str:
    """The name of a namespace and of most that lives in one (RFC 1123)."""
    if not isinstance(value, str) or not is_dns_label(value):
        raise InvalidInput(
            field, value, "a Kubernetes name: at most 63 of a-z, 0-9 and -, a letter or digit first and last"
        )
    return value


def host(field: str, value: Any) -> str:
    """The address of a machine: its name, or its IPv4 address."""
    if not isinstance(value, str) or len(value) > MAX_SUBDOMAIN_LENGTH or not _HOST_NAME.fullmatch(value):
        raise InvalidInput(field, value, "a host's name or its IPv4 address")
    return value


def object_name(field: str, value: Any) -> str:
    """The name of a Secret or service account: labels with dots between."""
    if not isinstance(value, str) or not is_object_name(value):
        raise InvalidInput(
            field, value, "a Kubernetes name: at most 253 of a-z, 0-9, - and ., a letter or digit at each end"
        )
    return str(value)


def config_key(field: str, value: Any) -> str:
    """The key of a ConfigMap's or Secret's data."""
    if not isinstance(value, str) or not _CONFIG_KEY.fullmatch(value):
        raise InvalidInput(
            field, value, "a ConfigMap's key: at most 253 of a-z, A-Z, 0-9, -, _ and ., not beginning with .."
        )
    return value


def is_label_value(value: str) -> bool:
    """Whether a label may have this value (an empty one may be meant, but says nothing)."""
    return _QUALIFIED.fullmatch(value) is not None


def label_value(field: str, value: Any) -> str:
    """The value of a label."""
    if not isinstance(value, str) or not is_label_value(value):
        raise InvalidInput(
            field, value, "a label value: at most 63 of a-z, A-Z, 0-9, -, _ and ., a letter or digit at each end"
        )
    return value


def qualified_key(field: str, value: Any) -> str:
    """The key of a label, an annotation or an extended resource: ``name`` or ``domain/name``."""
    fits = isinstance(value, str) and len(value) <= MAX_SUBDOMAIN_LENGTH + 1 + _MAX_NAME_LENGTH
    prefix, slash, name = value.rpartition("/") if fits else ("", "", "")
    if not _QUALIFIED.fullmatch(name) or (slash and not DNS_SUBDOMAIN.fullmatch(prefix)):
        raise InvalidInput(field, value, "a name, or a domain, a slash and a name, as in example.com/name")
    return f"{prefix}{slash}{name}"


def extended_resource(field: str, value: Any) -> str:
    """The name of a resource that is not Kubernetes' own."""
    name = qualified_key(field, value)
    if "/" not in name:
        raise InvalidInput(field, value, "a domain, a slash and a name, as in nvidia.com/gpu")
    return name


def quantity(field: str, value: Any) -> str:
    """An amount of a resource as Kubernetes writes it; a number becomes its text, which is what the API takes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or _amount(value) is None:
        allowed = f"a Kubernetes quantity, as in 2, 500m, 1.5Gi or 100M, from 0 to {_MAX_QUANTITY}"
        raise InvalidInput(field, value, allowed)
    return str(value)


def amount(written: str | float) -> Fraction:
    """How much a quantity is.

    Raises:
        Refused: it is none.
    """
    found = _amount(quantity("amount", written))
    assert found is not None
    return found


def _amount(written: str | float) -> Fraction | None:
    if isinstance(written, int | float) and not 0 <= written <= _MAX_QUANTITY:
        return None
    said = str(written)
    found = _QUANTITY.fullmatch(said) if len(said) <= _MAX_QUANTITY_LENGTH else None
    if found is None:
        return None
    unit = found["unit"] or ""
    factor = _UNITS[unit] if unit in _UNITS else Fraction(f"1{unit}")
    made = Fraction(found["number"]) * factor
    return made if made <= _MAX_QUANTITY else None


def written_quantity(field: str, value: Any) -> str:
    """The same, written as a string only."""
    return quantity(field, text(field, value))


def resources(field: str, value: Any) -> dict[str, dict[str, str]]:
    """A container's ``resources``: quantities under ``requests`` and ``limits``."""
    given = mapping(field, value)
    refuse_unknown_keys(field, given, ("requests", "limits"))
    return {
        part: {
            qualified_key(f"{field}[{part!r}]", name): quantity(f"{field}[{part!r}][{name!r}]", amount)
            for name, amount in mapping(f"{field}[{part!r}]", amounts).items()
        }
        for part, amounts in given.items()
    }
