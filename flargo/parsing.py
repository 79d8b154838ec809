"""Short texts that come from outside, parsed once: names, ids, numbers and times. Pure.

Every function is bounded in time, takes any text, and answers None or False where the text does not have the form.
Python's own ``str.isdigit``, ``int`` and ``float`` take more than ASCII ("²", "٣", 5,000 digits) and are not used
on foreign text.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

# Kubernetes: pkg/util/validation of k8s.io/apimachinery.
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_SUBDOMAIN_LENGTH = 253
MAX_WHOLE_NUMBER = 2**63 - 1
"""Go's largest int64: the largest number that a Kubernetes object can hold."""
MAX_DEPTH = 200
"""Lists and mappings inside each other that are read of an answer: Python's own parser ends at about a thousand, and
nothing that flargo looks at lies as deep."""
_JSON_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
_MAX_DIGITS = 19
_MAX_DATE_LENGTH = 64
_LOG_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_LOG_YEARS = range(2000, 2201)
"""No log of Kubernetes' is older, and a moment of these years stays one in any time zone."""
_ATTEMPT = re.compile(r"[a-z0-9]{1,20}")
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{0,127}")
_DIGITS = re.compile(r"[0-9]+")


def is_dns_label(text: str) -> bool:
    """Whether a text can be a namespace's name (RFC 1123 label, at most 63 characters)."""
    return len(text) <= MAX_SUBDOMAIN_LENGTH and DNS_LABEL.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """Whether a text can be the name of a Workflow, pod, Secret, ConfigMap, claim or account (DNS subdomain)."""
    return len(text) <= MAX_SUBDOMAIN_LENGTH and DNS_SUBDOMAIN.fullmatch(text) is not None


def is_attempt(text: str) -> bool:
    """Whether a text can be the id of one launch: it becomes part of a Secret's name."""
    return _ATTEMPT.fullmatch(text) is not None


def is_uid(text: str) -> bool:
    """Whether a text can be a ``metadata.uid``: a UUID in practice, which Kubernetes does not promise."""
    return _UID.fullmatch(text) is not None


def whole_number(text: str, most: int = MAX_WHOLE_NUMBER) -> int | None:
    """The number that ASCII digits write, from 0 to ``most``."""
    if len(text) > _MAX_DIGITS or _DIGITS.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= most else None


def http_date(text: str) -> datetime | None:
    """The moment that a ``Date`` or ``Retry-After`` header names; a date without a zone names none (RFC 9110)."""
    if len(text) > _MAX_DATE_LENGTH:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # email.utils raises each of them for some text
        return None
    return moment if moment.tzinfo is not None else None


def load_json(content: bytes) -> Any:
    """Parse JSON of the cluster. What is nested too deeply counts as null: one such object must not hide the others.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(content)
    except RecursionError:
        return json.loads(b"".join(_without_depths(content)))


def _without_depths(content: bytes) -> Iterator[bytes]:
    """JSON without the parts that are nested too deeply, in linear time."""
    depth = begin = 0
    for mark in _JSON_MARKS.finditer(content):
        if mark[0] in b"[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                yield content[begin : mark.start()]
                yield b"null"
        elif mark[0] in b"]}":
            depth -= 1
            if depth == MAX_DEPTH:
                begin = mark.end()
    yield content[begin:] if depth <= MAX_DEPTH else b""


def log_time(text: str) -> datetime | None:
    """The moment that a kubelet writes before a line of a log (Go's RFC3339Nano), cut to microseconds."""
    if _LOG_TIME.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.year in _LOG_YEARS else None
