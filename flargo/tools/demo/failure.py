"""Explains why a job failed, from the logs of the parents and of the job's processes. Pure.

When one party fails, FLARE aborts the job at the others, whose processes then log errors and exceptions, too. So what
counts is which error came first, and none that an abort brings about.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flargo.log_errors import RECORD_START, LoggedError, find_errors
from flargo.status.reasons import Reason

_REPORT_LINE = re.compile(
    rf"(?:{RECORD_START})?"
    r"job \S+ at (?P<site>\S+): (?P<reason>[A-Z_]+) \((?P<code>\d+)\): (?P<message>.*)"
)
"""The line that flargo.flare.report logs when a job ends."""
_CONSEQUENCES = frozenset({Reason.ABORTED.name, Reason.CLEANED_UP.name, Reason.SUCCEEDED.name})
"""Reasons that follow from the end of another party's process, and so explain nothing."""
_PROGRAM_FAILURES = frozenset({Reason.PROGRAM_FAILED.name, Reason.PROGRAM_REPORTED.name})
_MAX_LINES = 6
"""The most lines of a traceback that are shown: the innermost calls, and the exception."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, for users."""

    sentence: str
    lines: tuple[str, ...] = ()
    """The end of the traceback that shows it; empty if the sentence says everything."""


def explain_failure(status: str, parents: Mapping[str, str], jobs: Mapping[str, str]) -> Failure:
    """Return why a job failed: what the cluster did to it, else the earliest exception, else the earliest error.

    Args:
        status: FLARE's status of the job.
        parents: the logs of the parents, by the names of their parties.
        jobs: the logs of the job's processes, likewise.
    """
    reports = [report for log in parents.values() for report in _REPORT_LINE.finditer(log)]
    causes = sorted(
        (report for report in reports if report["reason"] not in _CONSEQUENCES), key=lambda each: each["time"] or ""
    )
    for report in causes:
        if report["reason"] not in _PROGRAM_FAILURES:
            return Failure(f"{report['site']}: {report['message'].strip()}")
    failure = (
        _earliest(jobs, lambda error: error.is_exception)
        or _earliest(jobs)
        or next((Failure(f"{report['site']}: {report['message'].strip()}") for report in causes), None)
        or _earliest(parents)
    )
    return failure or Failure(f"FLARE reports {status}, and no log gives a reason.")


def _earliest(logs: Mapping[str, str], is_wanted: Callable[[LoggedError], bool] = lambda _: True) -> Failure | None:
    """Return the error that was logged first, by the name of the party whose log has it; None if there is none."""
    errors = [(error.time, name, error) for name, log in logs.items() for error in find_errors(log) if is_wanted(error)]
    if not errors:
        return None
    _, name, error = min(errors, key=lambda each: each[:2])
    return Failure(f"{name}: {error.message}", error.excerpt(_MAX_LINES) if error.is_exception else ())
