"""Types of options whose values are validated while the command line is parsed, before any request or change."""

import re
from datetime import timedelta
from typing import Any

import click

from flargo.job import validate
from flargo.job.validate import Check, InvalidInput


class CheckedText(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A text that must pass a check. An empty text is refused: it never means that the option is absent."""

    name = "text"

    def __init__(self, check: Check) -> None:
        """Validate values with ``check``."""
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the checked value, or raise click's error for a wrong option."""
        try:
            return self._check("", value)
        except InvalidInput as error:
            self.fail(f"{error.value} is not valid: expected {error.allowed}", param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A duration as kubectl takes it: 5s, 2m, 3h, 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the duration as a timedelta, or raise click's error for a wrong option."""
        match = _DURATION.fullmatch(value)
        if match is None or not value:
            self.fail(f"{value!r} is not valid: expected hours, minutes and seconds, as in 5s, 2m or 1h30m", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)


_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s)?")
DURATION = Duration()
NAMESPACE = CheckedText(validate.dns_label)
SINGLE_LINE = CheckedText(validate.line)
FILE = click.Path(exists=True, dir_okay=False)
"""The path of an existing file."""
