"""Names, label values and display texts, made from names that other people chose.

Names and label values are valid in Kubernetes and never the same for two different inputs. Display texts can be shown
in a terminal and in the Argo UI, and Argo evaluates nothing in them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping

from flargo.job.validate import MAX_LINE_LENGTH, is_label_value
from flargo.terms import MANAGER, Label, Parent

_MAX_LABEL_LENGTH = 63
_HASH_DIGITS = 20
_LEASE_PREFIX = "flargo-parent-"
_HASHED_LABEL = re.compile(rf".*--[0-9a-f]{{{_HASH_DIGITS}}}", re.DOTALL)
_MAX_DISPLAY_LENGTH = 120
_READ_FACTOR = 16
"""Number of characters that are read for each one that may be displayed, however long the text is."""


def label_value(text: str) -> str:
    """Return a valid label value for any text; two texts never have the same one.

    A text that is a valid value stays as it is. Any other becomes its readable part, ``--`` and twenty hex digits of
    its SHA-256 (80 bits, so that nobody finds a second text with the same value). A valid value that has this form is
    hashed too, since it could be mistaken for the hash of another text.
    """
    if is_label_value(text) and not _HASHED_LABEL.fullmatch(text):
        return text
    readable = readable_part(text, _MAX_LABEL_LENGTH - _HASH_DIGITS - 2)
    return f"{readable or 'x'}--{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]


def readable_part(text: str, max_length: int) -> str:
    """Return the ASCII letters and digits of a text, with one ``-`` for whatever is between them; perhaps nothing."""
    # Only as much is made readable as the name of a site or study may be long.
    plain = unicodedata.normalize("NFKD", text[:MAX_LINE_LENGTH]).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain)[:max_length].strip("-")


def display_text(text: str, max_length: int = _MAX_DISPLAY_LENGTH) -> str:
    """Return foreign text as one line: no control characters, limited length, and no ``{{``, which Argo evaluates."""
    start = text[: max_length * _READ_FACTOR]
    printable = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in start)
    line = re.sub(r"\{(?=\{)", "{ ", " ".join(printable.split()))
    return line if len(line) <= max_length and len(start) == len(text) else f"{line[: max_length - 1]}…"


def markdown_code(text: str, max_length: int = _MAX_DISPLAY_LENGTH) -> str:
    """Return foreign text as a Markdown code span, in which links and emphasis have no effect."""
    return f"`{display_text(text, max_length).replace('`', chr(0x27)) or '-'}`"


def site_labels(parent: Parent) -> dict[str, str]:
    """Return the labels that every object of a site of a federation has, whichever run of its parent created it."""
    return {
        Label.MANAGED_BY.value: MANAGER,
        Label.FEDERATION.value: label_value(parent.federation),
        Label.SITE.value: label_value(parent.site),
    }


def site_lease(parent: Parent) -> str:
    """Return the name of a site's Lease: the site's readable name, and a hash of the federation and the site.

    The name is a DNS label, and no two sites or federations share one.
    """
    digest = _digest(f"{parent.federation}\0{parent.site}")
    readable = readable_part(parent.site, _MAX_LABEL_LENGTH - len(_LEASE_PREFIX) - _HASH_DIGITS - 1).lower()
    return f"{_LEASE_PREFIX}{readable or 'x'}-{digest}"


FEDERATION_DIGITS = 32
"""Hex digits of a federation's id: 128 bits, so that nobody can make a certificate with another federation's id."""
OLD_FEDERATION_DIGITS = 12
"""Hex digits of the id in flargo 0.1, whose Workflows flargo 0.2 recognises, and no later release."""


def federation_selector(federation: str) -> str:
    """Return the label selector of all objects of a federation, those of flargo 0.1 included.

    The federation's id in flargo 0.1 was a prefix of today's id. A text that is no federation's id selects only the
    label value that it gives.
    """
    label = label_value(federation)
    if not _is_federation_id(federation):
        return f"{Label.FEDERATION}={label}"
    return f"{Label.FEDERATION} in ({label},{label[:OLD_FEDERATION_DIGITS]})"


def _is_federation_id(text: str) -> bool:
    return len(text) == FEDERATION_DIGITS and not text.strip("0123456789abcdef")


def is_same_site(labels: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Return whether an object belongs to the same site and federation as ``ours``, whichever run or release made it.

    Args:
        labels: the object's labels.
        ours: the labels of this parent's site, from :func:`site_labels`.
    """
    federation = ours.get(Label.FEDERATION, "")
    ids = {federation, *([federation[:OLD_FEDERATION_DIGITS]] if _is_federation_id(federation) else [])}
    is_same = all(labels.get(key) == ours.get(key) for key in (Label.MANAGED_BY, Label.SITE))
    return is_same and labels.get(Label.FEDERATION, "") in ids


def attempt_name(pod: str, number: int) -> str:
    """Return the name of the pod and Workflow of an attempt: the first one's name, and ``-r1`` for the second attempt.

    Args:
        pod: the first attempt's name, a DNS label.
        number: which attempt it is, from 1.
    """
    if number == 1:
        return pod
    suffix = f"-r{number - 1}"
    if len(pod) + len(suffix) <= _MAX_LABEL_LENGTH:
        return f"{pod}{suffix}"
    digest = hashlib.sha256(pod.encode()).hexdigest()[:_HASH_DIGITS]
    readable = pod[: _MAX_LABEL_LENGTH - len(suffix) - _HASH_DIGITS - 1].rstrip("-")
    return f"{readable}-{digest}{suffix}"


def startup_secret(stock_site: str, federation: str) -> str:
    """Return the name of the Secret with a site's startup kit: nvflare's name for it, and the federation's id."""
    return f"nvflare-startup-{stock_site}-{federation}"


def credentials_secret(pod: str, attempt: str) -> str:
    """Return the name of the Secret with a launch's credentials: nvflare's name for it, and the launch's id."""
    return f"nvflare-cred-{pod}-{attempt}"
