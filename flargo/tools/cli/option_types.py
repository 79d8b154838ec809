"""Types of options whose values are validated while the command line is parsed, before any request or change."""

import re
from datetime import timedelta
from typing import Any

import click

from flargo.job import validate
from flargo.job.validate import Check, InvalidInput


class WrongValue(click.BadParameter):
    """A wrong value of an option, with the same details for programs as an InvalidInput has."""

    def __init__(self, error: InvalidInput, param: click.Parameter | None, ctx: click.Context | None) -> None:
        """Take the value and what is allowed from the error, and the option's name from the parameter."""
        super().__init__(f"{error.value} is not valid: expected {error.allowed}", ctx=ctx, param=param)
        field = max(param.opts, key=len) if param is not None else error.field
        self.details = {"field": field, "value": error.value, "allowed": error.allowed}


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
            raise WrongValue(error, param, ctx) from None


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A duration as kubectl takes it: 5s, 2m, 3h, 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the duration as a timedelta, or raise click's error for a wrong option."""
        match = _DURATION.fullmatch(value)
        if match is None or not value:
            allowed = "hours, minutes and seconds, as in 5s, 2m or 1h30m"
            raise WrongValue(InvalidInput("", value, allowed), param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)


class Age(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """An age in hours, days or weeks that is not below a minimum."""

    name = "age"

    def __init__(self, minimum: timedelta) -> None:
        """Refuse ages below ``minimum``, a whole number of hours."""
        self._minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the age as a timedelta, or raise click's error for a wrong option."""
        match = _AGE.fullmatch(value)
        if match is None or int(match[1]) * _AGE_UNITS[match[2]] < self._minimum:
            hours = self._minimum // timedelta(hours=1)
            allowed = f"hours, days or weeks, at least {hours}h, as in 12h, 30d or 8w"
            raise WrongValue(InvalidInput("", value, allowed), param, ctx)
        return int(match[1]) * _AGE_UNITS[match[2]]


_AGE = re.compile(r"(\d{1,6})([hdw])")
_AGE_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s)?")
DURATION = Duration()
NAMESPACE = CheckedText(validate.dns_label)
SINGLE_LINE = CheckedText(validate.line)
FILE = click.Path(exists=True, dir_okay=False)
"""The path of an existing file."""
