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
from ipaddress import IPv6Address, ip_address
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


_MAX_VALUE_LENGTH = 100
"""Characters of a value that a message shows."""
_MAX_TEXT_LENGTH = 600
"""Characters of a field's name or of an allowed text that a message shows."""
MAX_LINE_LENGTH = 4096
"""Characters of any single line: PATH_MAX of Linux."""
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, marks that reverse the reading direction, and lone surrogates."""
_MAX_IMAGE_LENGTH = 512
_MAX_SECONDS = 10**9
"""About thirty years, which every clock can count."""
_MAX_COUNT = 2**31 - 1
_MAX_QUANTITY = 2**63 - 1
"""Largest quantity that Kubernetes can count (resource.Quantity)."""

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
"""Host names that nvflare's provisioning accepts (nvflare.lighter.entity)."""
# The characters of RFC 3986, so that every HTTP library finds the same host in it. A host has no @ before it.
_RECEIVER_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<name>[A-Za-z0-9.-]{1,253})|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?](?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
_MAX_PORT = 65535
# github.com/distribution/reference, which the kubelet reads image names with.
_HOST = r"(?:[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@{_DIGEST})?"
)


class Endpoint(NamedTuple):
    """An address and port to listen at."""

    host: str
    """An IPv4 or IPv6 address, without brackets."""
    port: int

    def __str__(self) -> str:
        """Return the endpoint as a URL has it: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InvalidInput(ValueError):  # noqa: N818  (the name says what is wrong better than an Error)
    """A value from outside flargo that is not allowed.

    ``str(error)`` is the field's name in backticks and ``problem``. Commands print ``field``, ``value`` and ``allowed``
    under these names in JSON. Whatever the field, the value and the allowed text hold, the message stays on one line
    and is limited in length.
    """

    field: str
    """The field's name as its author would write it: an option, a file, or a path such as ``argo['queued']``."""
    value: str
    """The value as text, shortened; "missing" for MISSING, "not shown here" for HIDDEN."""
    allowed: str
    """The allowed values: a noun phrase, or a Sentence."""
    problem: str
    """The message without the field's name: a predicate such as "is -3; expected a number of seconds > 0"."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        """Say which field has a value that is not allowed.

        Args:
            field: the field's name, as its author would write it.
            value: the value itself, MISSING, HIDDEN, or a Verbatim text that describes it.
            allowed: a noun phrase that completes "expected ...", or a Sentence.
        """
        self.field = field if len(field) <= _MAX_TEXT_LENGTH else f"{field[:_MAX_TEXT_LENGTH]}..."
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
    start = text[: _MAX_TEXT_LENGTH + 1]
    printable = start if start.isprintable() else repr(start)[1:-1]
    return printable if len(printable) <= _MAX_TEXT_LENGTH else f"{printable[:_MAX_TEXT_LENGTH]}..."


def _shorten_value(value: object) -> str:
    """Return a value of any type and size as one line of limited length and depth."""
    if isinstance(value, Verbatim):
        return str(value)
    if isinstance(value, str):
        rest = f"... ({len(value)} characters)" if len(value) > _MAX_VALUE_LENGTH else ""
        return f"{value[:_MAX_VALUE_LENGTH]!r}{rest}"
    try:
        preview = _SHORT.repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return f"a {type(value).__name__}"
    return preview if len(preview) <= _MAX_VALUE_LENGTH else f"{preview[:_MAX_VALUE_LENGTH]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist = 3, 5, 5
_SHORT.maxother = _SHORT.maxlong = _MAX_VALUE_LENGTH


def text(field: str, value: Any) -> str:
    """Check for a string that is not blank."""
    if not isinstance(value, str) or not value or value.isspace():
        raise InvalidInput(field, value, "a non-empty string")
    return value


def line(field: str, value: Any) -> str:
    """Check for one line of text, without characters that move a cursor or reverse the reading direction."""
    if not isinstance(value, str) or len(value) > MAX_LINE_LENGTH or not value.strip() or _UNSAFE.search(value):
        raise InvalidInput(
            field, value, f"a non-empty string of at most {MAX_LINE_LENGTH} characters, without control characters"
        )
    return value


def plain_path(field: str, value: Any) -> str:
    """Check for a path, or a program's name, that nothing expands.

    Argo evaluates {{X}}, and Kubernetes replaces $(X) by the value of the variable X, which may be a secret.
    """
    if any(marker in line(field, value) for marker in ("{{", "$(")):
        raise InvalidInput(field, value, "a path without {{ and $(, which Argo and Kubernetes would evaluate")
    return str(value)


def image(field: str, value: Any) -> str:
    """Check for a container image as container runtimes read it: registry/name:tag@digest, tag and digest optional."""
    if not isinstance(value, str) or len(value) > _MAX_IMAGE_LENGTH or not _IMAGE.fullmatch(value):
        example = "registry.example/name:tag or name@sha256:..."
        raise InvalidInput(field, value, f"an image of at most {_MAX_IMAGE_LENGTH} characters, as in {example}")
    return value


def absolute_path(field: str, value: Any) -> str:
    """Check for an absolute path in a container's file system, which nothing expands."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidInput(field, value, "an absolute path")
    return plain_path(field, value)


def boolean(field: str, value: Any) -> bool:
    """Check for True or False; 0 and 1 are refused."""
    if not isinstance(value, bool):
        raise InvalidInput(field, value, "true or false")
    return value


def seconds(field: str, value: Any) -> float:
    """Check for a duration in seconds: zero or more, whole or not, and no longer than any clock can count."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise InvalidInput(field, value, f"a number of seconds >= 0 and <= {_MAX_SECONDS}")
    return value


def positive_seconds(field: str, value: Any) -> float:
    """Check for a duration in seconds that is greater than zero."""
    try:
        duration = seconds(field, value)
    except InvalidInput:
        duration = 0
    if not duration:
        raise InvalidInput(field, value, f"a number of seconds > 0 and <= {_MAX_SECONDS}")
    return duration


def endpoint(field: str, value: Any) -> Endpoint:
    """Check for an IP address and a port to listen at; 0.0.0.0 and [::] stand for all addresses of this machine."""
    try:
        url = urlsplit(f"//{text(field, value)}")
        result = Endpoint(str(ip_address(url.hostname or "")), url.port or 0)
    except ValueError:
        result = Endpoint("", 0)
    if not result.port or str(result) != value:
        raise InvalidInput(field, value, "an IP address and a port from 1 to 65535, as in 0.0.0.0:9464 or [::1]:9464")
    return result


def receiver_url(field: str, value: Any) -> str:
    """Check for a URL to which flargo may send something: https, or http to this machine.

    The error does not show it: many receivers, Slack's among them, are protected by their URL alone.
    """
    match = _RECEIVER_URL.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_LINE_LENGTH else None
    if match is None or not _may_send_to(match["scheme"], match["name"], match["v6"], match["port"]):
        shown = MISSING if value is MISSING else HIDDEN
        raise InvalidInput(
            field,
            shown,
            "an https URL without user, password and fragment, as in https://alerts.example/flargo; http only to "
            "localhost, 127.0.0.1 or [::1]",
        )
    return str(value)


def _may_send_to(scheme: str, name: str | None, v6: str | None, port: str | None) -> bool:
    """Return whether the parts of a URL are a host and a port, and nobody else can read what is sent there."""
    try:
        address = ip_address(v6 or name or "")
    except ValueError:
        address = None
    is_host = isinstance(address, IPv6Address) if v6 else address or _HOST_NAME.fullmatch(name or "")
    is_port = port is None or 0 < int(port) <= _MAX_PORT
    is_this_machine = address.is_loopback if address is not None else name == "localhost"
    return bool(is_host and is_port and (scheme == "https" or is_this_machine))


def at_least(minimum: int, noun: str) -> Check:
    """Return a check for a whole number that is not below a minimum; ``noun`` names the number in the message."""

    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InvalidInput(field, value, f"{noun} >= {minimum}")
        return value

    return check


def between(minimum: int, maximum: int) -> Check:
    """Return a check for a whole number from a minimum to a maximum, both allowed."""

    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise InvalidInput(field, value, f"a whole number from {minimum} to {maximum}")
        return value

    return check


def count(field: str, value: Any) -> int | str:
    """Check for a whole number from 0 on, which may be written in a string; it is returned as written."""
    is_short = isinstance(value, str) and len(value) <= _MAX_QUANTITY_LENGTH
    is_digits = is_short and value.isascii() and value.isdecimal()
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not (is_digits or is_number) or not 0 <= int(value) <= _MAX_COUNT:
        raise InvalidInput(field, value, f"a whole number >= 0 and <= {_MAX_COUNT}")
    return value  # type: ignore[no-any-return]


def optional(check: Check, none: str = "null") -> Check:
    """Return a check that also accepts None; ``none`` is how the message names it."""

    def optional_check(field: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(field, value)
        except InvalidInput as error:
            raise InvalidInput(error.field, value, f"{error.allowed}, or {none}") from None

    return optional_check


def one_of(*choices: str) -> Check:
    """Return a check for one of a few strings."""

    def check(field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise InvalidInput(field, value, f"one of {', '.join(choices)}")
        return value

    return check


def mapping(field: str, value: Any) -> dict[str, Any]:
    """Check for a dictionary whose keys are strings, and return a deep copy."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInput(field, value, "a dictionary")
    return deepcopy(value)


def refuse_unknown_keys(field: str, value: Mapping[str, Any], keys: Collection[str]) -> None:
    """Refuse a dictionary that has any other key than these; the error names the first one in alphabetical order."""
    for unknown in sorted(set(value) - set(keys)):
        allowed = f"one of the keys {', '.join(sorted(keys))}" if keys else "no key at all"
        raise InvalidInput(f"{field}[{unknown!r}]", value[unknown], allowed)


def key(check: Check, default: Any) -> Any:
    """Return a dataclass field for :func:`record`: the check of a key's value, and its default."""
    return dataclass_field(default_factory=lambda: deepcopy(default), metadata={"check": check})


def record(kind: type[T]) -> Check:
    """Return a check that turns a dictionary into a dataclass, whose fields are the keys that are allowed.

    None and absent keys give the defaults.
    """

    def check(field: str, value: Any) -> T:
        items = {} if value is None else mapping(field, value)
        checks = {each.name: each.metadata["check"] for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
        refuse_unknown_keys(field, items, checks)
        return kind(**{name: checks[name](f"{field}[{name!r}]", item) for name, item in items.items()})

    return check


def dns_label(field: str, value: Any) -> str:
    """Check for an RFC 1123 label: the name of a namespace, and of most objects in one."""
    if not isinstance(value, str) or not is_dns_label(value):
        raise InvalidInput(
            field, value, "a Kubernetes name: at most 63 of a-z, 0-9 and -, a letter or digit first and last"
        )
    return value


def host(field: str, value: Any) -> str:
    """Check for a machine's DNS name or IPv4 address."""
    if not isinstance(value, str) or len(value) > MAX_SUBDOMAIN_LENGTH or not _HOST_NAME.fullmatch(value):
        raise InvalidInput(field, value, "a host's name or its IPv4 address")
    return value


def object_name(field: str, value: Any) -> str:
    """Check for a DNS subdomain, such as the name of a Secret or service account: labels with dots between them."""
    if not isinstance(value, str) or not is_object_name(value):
        raise InvalidInput(
            field, value, "a Kubernetes name: at most 253 of a-z, 0-9, - and ., a letter or digit at each end"
        )
    return str(value)


def config_key(field: str, value: Any) -> str:
    """Check for a key in the data of a ConfigMap or Secret."""
    if not isinstance(value, str) or not _CONFIG_KEY.fullmatch(value):
        raise InvalidInput(
            field, value, "a ConfigMap's key: at most 253 of a-z, A-Z, 0-9, -, _ and ., not beginning with .."
        )
    return value


def is_label_value(value: str) -> bool:
    """Return whether a label may have this value. The empty value, which Kubernetes accepts, is refused."""
    return _QUALIFIED.fullmatch(value) is not None


def label_value(field: str, value: Any) -> str:
    """Check for a label's value, which must not be empty."""
    if not isinstance(value, str) or not is_label_value(value):
        raise InvalidInput(
            field, value, "a label value: at most 63 of a-z, A-Z, 0-9, -, _ and ., a letter or digit at each end"
        )
    return value


def qualified_key(field: str, value: Any) -> str:
    """Check for the key of a label, an annotation or an extended resource: ``name`` or ``domain/name``."""
    is_short = isinstance(value, str) and len(value) <= MAX_SUBDOMAIN_LENGTH + 1 + _MAX_NAME_LENGTH
    prefix, slash, name = value.rpartition("/") if is_short else ("", "", "")
    if not _QUALIFIED.fullmatch(name) or (slash and not DNS_SUBDOMAIN.fullmatch(prefix)):
        raise InvalidInput(field, value, "a name, or a domain, a slash and a name, as in example.com/name")
    return f"{prefix}{slash}{name}"


def extended_resource(field: str, value: Any) -> str:
    """Check for the name of an extended resource: one with a domain, unlike Kubernetes' own cpu and memory."""
    name = qualified_key(field, value)
    if "/" not in name:
        raise InvalidInput(field, value, "a domain, a slash and a name, as in nvidia.com/gpu")
    return name


def quantity(field: str, value: Any) -> str:
    """Check for a Kubernetes quantity; a number is returned as a string, since the API accepts strings only."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or _parse_quantity(value) is None:
        allowed = f"a Kubernetes quantity, as in 2, 500m, 1.5Gi or 100M, from 0 to {_MAX_QUANTITY}"
        raise InvalidInput(field, value, allowed)
    return str(value)


def amount(value: str | float) -> Fraction:
    """Return a quantity as a number.

    Raises:
        InvalidInput: the value is not a Kubernetes quantity.
    """
    number = _parse_quantity(quantity("amount", value))
    assert number is not None
    return number


def _parse_quantity(value: str | float) -> Fraction | None:
    if isinstance(value, int | float) and not 0 <= value <= _MAX_QUANTITY:
        return None
    literal = str(value)
    match = _QUANTITY.fullmatch(literal) if len(literal) <= _MAX_QUANTITY_LENGTH else None
    if match is None:
        return None
    unit = match["unit"] or ""
    factor = _UNITS[unit] if unit in _UNITS else Fraction(f"1{unit}")
    number = Fraction(match["number"]) * factor
    return number if number <= _MAX_QUANTITY else None


def written_quantity(field: str, value: Any) -> str:
    """Check for a Kubernetes quantity in a string; a number is refused."""
    return quantity(field, text(field, value))


def resources(field: str, value: Any) -> dict[str, dict[str, str]]:
    """Check for the ``resources`` of a container: quantities under ``requests`` and ``limits``."""
    parts = mapping(field, value)
    refuse_unknown_keys(field, parts, ("requests", "limits"))
    return {
        part: {
            qualified_key(f"{field}[{part!r}]", name): quantity(f"{field}[{part!r}][{name!r}]", amount)
            for name, amount in mapping(f"{field}[{part!r}]", amounts).items()
        }
        for part, amounts in parts.items()
    }
