"""Short texts that come from outside, parsed once: names, ids, numbers and times. Pure.

Every function is bounded in time, takes any text, and answers None or False where the text does not have the form.
Python's own ``str.isdigit``, ``int`` and ``float`` take more than ASCII ("²", "٣", 5,000 digits) and are not used
on foreign text.
"""

import re
from datetime import datetime
from email.utils import parsedate_to_datetime

# Kubernetes: pkg/util/validation of k8s.io/apimachinery.
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MAX_SUBDOMAIN_LENGTH = 253
MAX_WHOLE_NUMBER = 2**63 - 1
"""Go's largest int64: the largest number that a Kubernetes object can hold."""
_MAX_DIGITS = 19
_MAX_DATE_LENGTH = 64
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
