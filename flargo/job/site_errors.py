"""Errors about the contents of a site's files. They name a place in a file and never carry a value from it.

The error that explains why a site did not launch a job is read by the job's author, who is at another institution. The
site's study files, its pod template and its launcher's arguments may hold passwords, and in a misspelt field flargo
cannot tell what a value is. So these errors have no parameter for a value, and a place consists of field names and
list indices only.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from flargo.job.validate import HIDDEN, Check, InvalidInput

_FIELD_NAME = re.compile(r"[A-Za-z]{1,40}(?:_[A-Za-z]{1,40}){0,3}")
"""The form of a field name, misspelt or not. A password in the place of a key hardly ever has this form."""
_CHOSEN_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
HIDDEN_KEY: Final = "(key not shown)"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value, such as ``pod_template.spec.containers[0].env[1].value``."""

    path: str
    """The place as text. The caller begins it with a field or file that flargo names; parts that come from a site's
    file are added by the methods only, which hide what may be a value."""

    def key(self, key: object, known_keys: Collection[str] = ()) -> "Place":
        """Return the place of a mapping's key. The key is shown if it is known or has the form of a field name."""
        is_shown = isinstance(key, str) and (key in known_keys or _FIELD_NAME.fullmatch(key) is not None)
        return self._add(str(key) if is_shown else HIDDEN_KEY)

    def name(self, *names: str) -> "Place":
        """Return the place below names that the site has chosen, such as that of a dataset.

        Use it only where the value below the name is known to be a mapping: in ``env: {hunter2}`` the password is the
        key.
        """
        return self._add("/".join(each if _CHOSEN_NAME.fullmatch(each) else HIDDEN_KEY for each in names))

    def index(self, number: int) -> "Place":
        """Return the place of a list's entry."""
        return Place(f"{self.path}[{number}]")

    def _add(self, part: str) -> "Place":
        if not self.path:
            return Place(part)
        return Place(f"{self.path} {part}" if self.path.endswith(":") else f"{self.path}.{part}")

    def __str__(self) -> str:
        """Return the place as error messages show it."""
        return self.path.removesuffix(":")


class SiteFileError(InvalidInput):
    """A value in a site's files or arguments that is not allowed. The message does not show it."""

    def __init__(self, place: Place, allowed: str) -> None:
        """Name the place; ``allowed`` is flargo's own text, either form that InvalidInput accepts."""
        super().__init__(str(place), HIDDEN, allowed)


def check_hidden(place: Place, check: Check, value: Any) -> Any:
    """Apply a check to a value of a site's file, without showing the value if the check refuses it.

    Raises:
        SiteFileError: the check refuses the value.
    """
    try:
        return check("", value)
    except InvalidInput as error:
        raise SiteFileError(place, error.allowed) from None
