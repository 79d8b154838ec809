"""Reads from logs how the drain of a site went: when it trains, what its parent reports, what the server got. Pure."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flargo.parsing import whole_number

_STEP = re.compile(r"training: round ([0-9]+), step ([0-9]+) of ([0-9]+)")
"""The line that the demo's training script logs (train.py)."""
_LOST = re.compile(r"attempt ([0-9]+) of ([0-9]+) lost \(([A-Z_]+)\)")
"""The line that flargo.flare.report logs when another attempt follows."""
_SUBMITTED = re.compile(r"submitted as Workflow (\S+), attempt ([0-9]+) of")
"""The line that flargo.flare.client_jobs logs when that attempt begins."""
_RESULT = re.compile(r"got result from client (\S+) for task: name=train, id=(\S+)")
"""The line that the server's job process of nvflare 2.9 logs (private/fed/server/server_runner.py)."""
_MAX_NUMBER = 10**6
"""The limit for numbers in a step's line. A line with a larger number is not the training script's."""
STORY_LENGTH = 3
"""The number of events of a complete story."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of training that a site's program has logged. Rounds and steps are counted from 1."""

    training_round: int
    number: int
    total: int

    @property
    def is_early(self) -> bool:
        """True in the first half of a round: its end is seconds away, when the site's result is uploaded.

        FLARE fails a job whose site is lost during the upload.
        """
        return 2 * self.number <= self.total


def parse_steps(log: str) -> list[Step]:
    """Return all steps in the log of a site's program."""
    numbers = ([whole_number(digits, _MAX_NUMBER) for digits in match.groups()] for match in _STEP.finditer(log))
    return [Step(*values) for values in numbers if None not in values]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened since a site was drained."""

    label: str
    text: str
    detail: str = ""


def tell(site: str, drained: Step, parent_log: str, steps: Sequence[Step]) -> Iterator[Event]:
    """Yield what has happened since a site was drained. Later calls yield the same, and more.

    Args:
        site: the site's name.
        drained: the step at which its pod was evicted.
        parent_log: the log of the site's parent.
        steps: the steps that the program has logged since it was started again.
    """
    lost = _LOST.search(parent_log)
    if lost is None:
        return
    yield Event("lost", f"attempt {lost[1]} of {lost[2]} at {site}: {lost[3]}; flargo asks the server about the job")
    submitted = _SUBMITTED.search(parent_log, lost.end())
    if submitted is None:
        return
    yield Event(f"attempt {submitted[2]}", "the server still runs the job: flargo submits a new Workflow", submitted[1])
    if not steps:
        return
    again = " again" if steps[0].training_round == drained.training_round else ""
    yield Event("rejoined", f"{site} trains round {steps[0].training_round}{again}")


def count_results(server_log: str) -> Counter[str]:
    """Return of how many tasks the server got each site's result. A task that is sent twice counts once."""
    return Counter(site for site, _ in {(match[1], match[2]) for match in _RESULT.finditer(server_log)})
