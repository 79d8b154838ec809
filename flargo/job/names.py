"""Names, labels and the texts that people read: valid for Kubernetes, told apart for certain, harmless to show."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping

from flargo.job.validate import MAX_LINE_LENGTH, is_label_value
from flargo.terms import MANAGER, Label, Parent

_MAX_LABEL_LENGTH = 63
_HASH_DIGITS = 20
_HASHED_LABEL = re.compile(rf".*--[0-9a-f]{{{_HASH_DIGITS}}}", re.DOTALL)
_MAX_DISPLAY_LENGTH = 120
_READ_FACTOR = 16
"""Times the characters that may be shown: so much of a text is looked at, however long it is."""


def label_value(said: str) -> str:
    """Any text as the value of a label; two texts never share one.

    A text that is a valid value stays as it is. Any other becomes what is readable of it, ``--`` and twenty hex
    digits of its SHA-256 (80 bits: nobody finds a text with another's label); and so does a valid one that looks like
    such a result, or it could be mistaken for it.
    """
    if is_label_value(said) and not _HASHED_LABEL.fullmatch(said):
        return said
    digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    # The hash is of the whole text; no more of it is made readable than any site or study may be called.
    plain = unicodedata.normalize("NFKD", said[:MAX_LINE_LENGTH]).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", plain)[: _MAX_LABEL_LENGTH - _HASH_DIGITS - 2].strip("-")
    return f"{readable or 'x'}--{digest}"


def display_text(said: str, most: int = _MAX_DISPLAY_LENGTH) -> str:
    """A text of somebody else's on one line: no control characters, not too long, and no ``{{`` for Argo to see."""
    examined = said[: most * _READ_FACTOR]
    kept = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in examined)
    line = re.sub(r"\{(?=\{)", "{ ", " ".join(kept.split()))
    return line if len(line) <= most and len(examined) == len(said) else f"{line[: most - 1]}…"


def markdown_code(said: str) -> str:
    """A text as Markdown that shows it and does nothing else: in a code span, links and emphasis mean nothing."""
    return f"`{display_text(said).replace('`', chr(0x27)) or '-'}`"


def site_labels(parent: Parent) -> dict[str, str]:
    """What everything of one site of one federation carries, whichever run of its parent made it."""
    return {
        Label.MANAGED_BY.value: MANAGER,
        Label.FEDERATION.value: label_value(parent.federation),
        Label.SITE.value: label_value(parent.site),
    }


FEDERATION_DIGITS = 32
"""Hex digits of a federation's id: 128 bits, so that nobody makes a certificate with another federation's id."""
OLD_FEDERATION_DIGITS = 12
"""Of flargo 0.1, whose Workflows are recognised by 0.2, and by no later release."""


def federation_selector(federation: str) -> str:
    """The label selector of everything of a federation, what flargo 0.1 made included.

    The id of flargo 0.1 was the beginning of the present one. Any other word selects itself only.
    """
    label = label_value(federation)
    if not _is_federation(federation):
        return f"{Label.FEDERATION}={label}"
    return f"{Label.FEDERATION} in ({label},{label[:OLD_FEDERATION_DIGITS]})"


def _is_federation(text: str) -> bool:
    return len(text) == FEDERATION_DIGITS and not text.strip("0123456789abcdef")


def is_same_site(labels: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether an object is of the same site of the same federation as ours, whichever run or release made it."""
    federation = ours.get(Label.FEDERATION, "")
    known = {federation, *([federation[:OLD_FEDERATION_DIGITS]] if _is_federation(federation) else [])}
    same = all(labels.get(key) == ours.get(key) for key in (Label.MANAGED_BY, Label.SITE))
    return same and labels.get(Label.FEDERATION, "") in known


def startup_secret(stock_site: str, federation: str) -> str:
    """The Secret with a site's startup kit: nvflare's name for it, told apart by federation."""
    return f"nvflare-startup-{stock_site}-{federation}"


def credentials_secret(pod: str, attempt: str) -> str:
    """The Secret with one launch's credentials: nvflare's name for it, told apart by launch."""
    return f"nvflare-cred-{pod}-{attempt}"
