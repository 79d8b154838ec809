"""What a check says."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flargo.cluster.answer import Answer
from flargo.text import shell_command
from flargo.tools.doctor.facts import Facts


class Level(StrEnum):
    """How things are."""

    OK = "ok"
    WARNING = "warning"
    """Jobs run, but something will bite."""
    FAILURE = "failure"
    """A job would fail."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding: a sentence of what is, and one of what to do."""

    level: Level
    what: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at."""

    name: str
    condition: str
    """What it finds out, for the docs."""
    consequence: str
    """What becomes of a job otherwise."""
    remedy: str
    """What to do, where the finding itself knows no better."""
    run: Callable[[Facts], Iterable[CheckResult]]
    depends_on: tuple[str, ...] = ()
    """The checks without which this one would only repeat their failure."""
    needs_samples: bool = False
    """Whether it looks at what jobs would be, so that without any it can say nothing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, by which check."""

    check: str
    level: Level
    what: str
    todo: str = ""


def kubectl(namespace: str, words: Sequence[str], options: Sequence[str] = (), *, names: Iterable[str]) -> str:
    """A command of kubectl's in a namespace, to be copied; empty if a name of it is not valid: see shell_command."""
    return shell_command("kubectl", *words, "--namespace", namespace, *options, names=(*names, namespace))


def ok(what: str) -> CheckResult:
    """All is well."""
    return CheckResult(Level.OK, what)


def warning(what: str, todo: str) -> CheckResult:
    """It will bite."""
    return CheckResult(Level.WARNING, what, todo)


def failure(what: str, todo: str) -> CheckResult:
    """It fails jobs."""
    return CheckResult(Level.FAILURE, what, todo)


def unknown(what: str, todo: str) -> CheckResult:
    """It could not be looked at."""
    return CheckResult(Level.UNKNOWN, what, todo)


def unreadable(what: str, answer: Answer) -> CheckResult:
    """The same, for this answer's sake; an object of an impossible name is a failure: it can't be there."""
    if answer.invalid_target:
        return failure(f"{what}: {answer}.", "Correct the name in the kit or the job that says it.")
    todo = (
        "Run flargo doctor as somebody who may look, such as an administrator."
        if answer.lacks_permission
        else "Look again."
    )
    return unknown(f"{what} could not be looked at: {answer}.", todo)
