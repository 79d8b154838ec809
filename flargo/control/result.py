"""The result of an input of the Reconciler: data for the loop, which performs, publishes and logs it."""

from collections.abc import Iterable
from dataclasses import dataclass

from flargo.control.command import Command
from flargo.status.job_state import JobState


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the log."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one input: the commands to perform, the states that have changed, and lines for the log."""

    commands: tuple[Command, ...] = ()
    states: tuple[JobState, ...] = ()
    notices: tuple[Notice, ...] = ()


def merge_results(results: Iterable[Result]) -> Result:
    """Return the results one after the other as one result."""
    results = [result for result in results if result.commands or result.states or result.notices]
    if len(results) == 1:
        return results[0]
    return Result(
        tuple(command for result in results for command in result.commands),
        tuple(state for result in results for state in result.states),
        tuple(notice for result in results for notice in result.notices),
    )
