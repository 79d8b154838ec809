"""Explains in one sentence why a job failed, from the logs of the parents and of the job's processes. Pure."""

import itertools
import re
import string
from collections.abc import Mapping

from flargo.status.reasons import Reason

_REPORT_LINE = re.compile(r"job \S+ at (?P<site>\S+): (?P<reason>[A-Z_]+) \((?P<code>\d+)\): (?P<message>.*)")
"""The line that flargo.flare.report logs when a job ends."""
_ERROR_SUFFIX = re.compile(r"(Error|Exception): (?=\S)")
_MAX_NAME_LENGTH = 200
"""The limit for an exception's name with its modules, in characters."""
_NON_NAME = re.compile(r"[^\w.]")
_LINE_FEED = "\n"
_CONSEQUENCES = frozenset({Reason.ABORTED.name, Reason.CLEANED_UP.name, Reason.SUCCEEDED.name})
"""Reasons that follow from the end of another party's process, and so explain nothing."""
_PROGRAM_FAILURES = frozenset({Reason.PROGRAM_FAILED.name, Reason.PROGRAM_REPORTED.name})


def explain_failure(status: str, parents: Mapping[str, str], jobs: Mapping[str, str]) -> str:
    """Return one sentence that explains why a job failed.

    Args:
        status: FLARE's status of the job.
        parents: the logs of the parents, by the names of their parties.
        jobs: the logs of the job's processes, by the names of their parties.
    """
    reports = [report for log in parents.values() for report in _REPORT_LINE.finditer(log)]
    causes = [report for report in reports if report["reason"] not in _CONSEQUENCES]
    for report in causes:
        if report["reason"] not in _PROGRAM_FAILURES:
            return f"{report['site']}: {report['message'].strip()}"
    failed_sites = {report["site"] for report in causes}
    # The server's process fails after a site's, so the logs of sites come first.
    for name in sorted(jobs, key=lambda name: (name == "server", name not in failed_sites)):
        if error := first_error(jobs[name]):
            return f"{name}: {error}"
    if causes:
        return f"{causes[0]['site']}: {causes[0]['message'].strip()}"
    return f"FLARE reports {status}, and no log gives a reason."


def first_error(log: str) -> str:
    """Return the first exception in a log that has a name and a message; empty if there is none.

    This is linear in the log's length: a regular expression for the whole name would need hours for some logs.
    """
    search_start = 0
    for match in _ERROR_SUFFIX.finditer(log):
        text = log[max(search_start, match.start() - _MAX_NAME_LENGTH) : match.end(1)]
        search_start = match.end()
        *modules, class_name = _NON_NAME.split(text)[-1].split(".")
        if class_name[0] in string.ascii_uppercase and len(class_name) > len(match[1]):
            # An empty module name means two dots in a row: the name begins after them.
            parents = [*itertools.takewhile(bool, reversed(modules))]
            name = ".".join([*reversed(parents), class_name])
            return f"{name}{log[match.end(1) :].partition(_LINE_FEED)[0]}".strip()
    return ""
