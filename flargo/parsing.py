"""Parse short texts from outside flargo: names, ids, numbers and times. Pure.

Every function takes limited time, accepts any text, and returns None or False if the text does not have the form that
it parses. Python's own ``str.isdigit``, ``int`` and ``float`` accept more than ASCII ("²", "٣", 5,000 digits) and are
not used on foreign text.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

# Kubernetes: pkg/util/validation of k8s.io/apimachinery.
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_SUBDOMAIN_LENGTH = 253
MAX_WHOLE_NUMBER = 2**63 - 1
"""Go's largest int64: the largest number that a Kubernetes object can hold."""
MAX_DEPTH = 200
"""Nesting levels of lists and mappings that are read from a response. Python's own parser fails at about a thousand,
and nothing that flargo reads is nested as deeply."""
_JSON_MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
_MAX_DIGITS = 19
_MAX_DATE_LENGTH = 64
_CLOCK_YEARS = range(1970, 9000)
_LOG_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
_LOG_YEARS = range(2000, 2201)
"""Years of a log's times. No log of Kubernetes is older, and a time in these years is valid in any time zone."""
_ATTEMPT = re.compile(r"[a-z0-9]{1,20}")
_UID = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{0,127}")
_DIGITS = re.compile(r"[0-9]+")
_FLARE_STATUS = re.compile(r"FINISHED:[A-Z_]{1,40}")


def is_dns_label(text: str) -> bool:
    """Return whether a text can be a namespace's name (RFC 1123 label, at most 63 characters)."""
    return len(text) <= MAX_SUBDOMAIN_LENGTH and DNS_LABEL.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """Return whether a text can be the name of a Workflow, pod, Secret, ConfigMap, claim or account (DNS subdomain)."""
    return len(text) <= MAX_SUBDOMAIN_LENGTH and DNS_SUBDOMAIN.fullmatch(text) is not None


def is_attempt(text: str) -> bool:
    """Return whether a text can be the id of a launch, which is part of a Secret's name."""
    return _ATTEMPT.fullmatch(text) is not None


def is_uid(text: str) -> bool:
    """Return whether a text can be a ``metadata.uid``: in practice a UUID, which Kubernetes does not promise."""
    return _UID.fullmatch(text) is not None


def is_final_status(text: str) -> bool:
    """Return whether a text can be FLARE's status of a job that has ended (nvflare 2.9, RunStatus)."""
    return _FLARE_STATUS.fullmatch(text) is not None


def whole_number(text: str, maximum: int = MAX_WHOLE_NUMBER) -> int | None:
    """Return the whole number that a text of ASCII digits stands for, from 0 to ``maximum``."""
    if len(text) > _MAX_DIGITS or _DIGITS.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= maximum else None


def http_date(text: str) -> datetime | None:
    """Return the time in a ``Date`` or ``Retry-After`` header, in UTC.

    None for a date without a time zone (RFC 9110), and for one that no clock shows: computing with it would overflow.
    """
    if len(text) > _MAX_DATE_LENGTH:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # email.utils raises each of them for some text
        return None
    return moment.astimezone(UTC) if moment.tzinfo is not None and moment.year in _CLOCK_YEARS else None


def load_json(content: bytes) -> Any:
    """Parse JSON from the cluster.

    Parts that are nested too deeply become null, so that one such object does not hide the others.

    Raises:
        ValueError: the content is not JSON.
    """
    try:
        return json.loads(content)
    except RecursionError:
        return json.loads(b"".join(_truncate_depth(content)))


def _truncate_depth(content: bytes) -> Iterator[bytes]:
    """Yield JSON in pieces, with null for the parts that are nested too deeply, in linear time."""
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
    """Return the time that a kubelet writes before a log line (Go's RFC3339Nano), truncated to microseconds."""
    if _LOG_TIME.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.year in _LOG_YEARS else None
