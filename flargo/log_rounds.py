"""The rounds of training in the log of a job's server. Pure."""

import re
from dataclasses import dataclass

from flargo.parsing import whole_number

# The line that the workflows of nvflare 2.9 log (app_common/workflows: FedAvg, ScatterAndGather, Cyclic, Scaffold).
# They count from 0.
_ROUND_STARTED = re.compile(r"Round ([0-9]+) started")
_PROGRESS = re.compile(r"([0-9]+)(?:/([0-9]+))?")
MAX_NUMBER = 10**6
"""The limit for the number of a round, and of its results. A line with a larger number is not FLARE's."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How far a job's training has come."""

    number: int
    """The round that has started last, counted from 1."""
    total: int | None = None
    """The number of rounds; None if the job's configuration does not say it."""

    @property
    def note(self) -> str:
        """The rounds as an annotation and a column show them: "2/5", or "2"."""
        return f"{self.number}/{self.total}" if self.total else str(self.number)

    @property
    def text(self) -> str:
        """The rounds as a text for people."""
        return f"round {self.number}{f' of {self.total}' if self.total else ''}"


def parse_started_round(line: str) -> int | None:
    """Return the round, counted from 1, that a line of a log says has started; None if it says no such thing."""
    match = _ROUND_STARTED.search(line)
    number = whole_number(match[1], MAX_NUMBER) if match is not None else None
    return number + 1 if number is not None else None


def parse_note(text: str) -> Rounds | None:
    """Return the rounds that an annotation notes; None if they do not make sense: anybody may have written them."""
    match = _PROGRESS.fullmatch(text)
    if match is None:
        return None
    number = whole_number(match[1], MAX_NUMBER + 1)
    total = whole_number(match[2], MAX_NUMBER + 1) if match[2] is not None else None
    is_sensible = bool(number) and (match[2] is None or (total is not None and total >= (number or 0)))
    return Rounds(number, total) if is_sensible and number else None
