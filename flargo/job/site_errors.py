"""Errors about what a site's files say. They name a place in a file and never carry a value from it.

A job's researcher, at another institution, reads why a site did not launch the job. The site's study files, its pod
template and its launcher's arguments may hold passwords, and a misspelt field is where flargo knows least about what
a value is. So these errors have no parameter for a value, and their place is built from field names and indices only.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from flargo.job.validate import HIDDEN, Check, InvalidInput

_FIELD_NAME = re.compile(r"[A-Za-z]{1,40}(?:_[A-Za-z]{1,40}){0,3}")
"""What a misspelt field looks like, and a password that stands where a key should be hardly does."""
_CHOSEN_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
HIDDEN_KEY: Final = "(key not shown)"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: ``pod_template.spec.containers[0].env[1].value``."""

    path: str
    """Begin with a field or a file of flargo's own naming; everything from a site's file is added by the methods."""

    def key(self, key: object, known: Collection[str] = ()) -> "Place":
        """A key of a mapping: shown if it is known, or looks like the name of a field."""
        is_shown = isinstance(key, str) and (key in known or _FIELD_NAME.fullmatch(key) is not None)
        return self._add(str(key) if is_shown else HIDDEN_KEY)

    def name(self, *names: str) -> "Place":
        """Names of the site's choosing, as of a dataset.

        Use it only where a checked mapping stands below the name: of ``env: {hunter2}`` the key is the value.
        """
        return self._add("/".join(each if _CHOSEN_NAME.fullmatch(each) else HIDDEN_KEY for each in names))

    def index(self, number: int) -> "Place":
        """An entry of a list."""
        return Place(f"{self.path}[{number}]")

    def _add(self, part: str) -> "Place":
        if not self.path:
            return Place(part)
        return Place(f"{self.path} {part}" if self.path.endswith(":") else f"{self.path}.{part}")

    def __str__(self) -> str:
        """As people write it."""
        return self.path.removesuffix(":")


class SiteFileError(InvalidInput):
    """Something in a site's files or arguments that is not allowed. What stands there is not shown."""

    def __init__(self, place: Place, allowed: str) -> None:
        """Name the place, and in words of flargo's own what is allowed there."""
        super().__init__(str(place), HIDDEN, allowed)


def check_hidden(place: Place, check: Check, value: Any) -> Any:
    """A value of a site's file, held to a check that would show it.

    Raises:
        SiteFileError: the check refuses the value.
    """
    try:
        return check("", value)
    except InvalidInput as refused:
        raise SiteFileError(place, refused.allowed) from None
