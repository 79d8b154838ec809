"""The results of checks, and functions that make them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from flargo.cluster.answer import Answer
from flargo.text import shell_command
from flargo.tools.doctor.facts import Facts


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Jobs run, but a problem is likely later."""
    FAILURE = "failure"
    """A job would fail."""
    UNKNOWN = "unknown"
    """The state could not be read."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result of a check: a sentence that says what the state is, and one that says what to do."""

    level: Level
    what: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table of checks. ``condition``, ``consequence`` and ``remedy`` are read by the docs only."""

    name: str
    condition: str
    """The state in which the check finds no problem, as the docs' table shows it."""
    consequence: str
    """The consequence for a job in any other state."""
    remedy: str
    """The general remedy; a finding's ``todo`` is more specific."""
    run: Callable[[Facts], Iterable[CheckResult]]
    depends_on: tuple[str, ...] = ()
    """The checks whose failure this check would only repeat."""
    needs_cluster: bool = False
    """True if the check looks at parts of Kubernetes that the embedded engine does not have."""
    needs_samples: bool = False
    """True if the check looks at sample jobs, so that it finds nothing out without any."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's name with one of its results. The fields are keys of `flargo doctor --json`."""

    check: str
    level: Level
    what: str
    todo: str = ""


_ORDER = (Level.FAILURE, Level.WARNING, Level.UNKNOWN, Level.OK)
"""The order in which people read findings."""


def arrange(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings for people: the worst first, and those that say the same as one.

    A cause, such as an API server that does not answer, keeps many checks from running.
    """
    same: dict[tuple[Level, str, str], list[str]] = {}
    for each in findings:
        same.setdefault((each.level, each.what, each.todo), []).append(each.check)
    arranged = [
        Finding(names[0], level, what, todo)
        if len(names) == 1
        else Finding(f"{len(names)} checks", level, f"{what.removesuffix('.')} ({', '.join(names)}).", todo)
        for (level, what, todo), names in same.items()
    ]
    return sorted(arranged, key=lambda finding: _ORDER.index(finding.level))


def kubectl(namespace: str, command: Sequence[str], options: Sequence[str] = (), *, names: Iterable[str]) -> str:
    """Return a kubectl command for a namespace; empty if one of its names is not valid (see shell_command)."""
    return shell_command("kubectl", *command, "--namespace", namespace, *options, names=(*names, namespace))


def ok(what: str) -> CheckResult:
    """Return the result of a check that found no problem."""
    return CheckResult(Level.OK, what)


def warning(what: str, todo: str) -> CheckResult:
    """Return a result for a problem with which jobs run nevertheless."""
    return CheckResult(Level.WARNING, what, todo)


def failure(what: str, todo: str) -> CheckResult:
    """Return a result for a problem with which jobs fail."""
    return CheckResult(Level.FAILURE, what, todo)


def unknown(what: str, todo: str) -> CheckResult:
    """Return a result for a state that could not be read."""
    return CheckResult(Level.UNKNOWN, what, todo)


def unreadable(what: str, answer: Answer) -> CheckResult:
    """Return the result for an object that an answer does not contain.

    The level is UNKNOWN, unless the object's name is not valid: such an object cannot exist, which is a FAILURE.
    """
    if answer.invalid_target:
        return failure(f"{what}: {answer}.", "Correct the name in the kit or in the job.")
    todo = "Run flargo doctor again."
    if answer.lacks_permission:
        todo = "Run flargo doctor as a user with more rights, such as an administrator."
    return unknown(f"{what} could not be read: {answer}.", todo)
