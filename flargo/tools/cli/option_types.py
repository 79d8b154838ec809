"""Options whose values are checked when they are read, before anything is asked or done."""

from typing import Any

import click

from flargo.job import validate
from flargo.job.validate import Check, InvalidInput


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A text that passes a check. An empty one never means what an option means that is not there."""

    name = "text"

    def __init__(self, check: Check) -> None:
        """By that check."""
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse in click's own form."""
        try:
            return self._check("", value)
        except InvalidInput as refused:
            self.fail(f"{refused.value} is not allowed; expected {refused.allowed}", param, ctx)


NAMESPACE = Checked(validate.dns_label)
WORD = Checked(validate.line)
