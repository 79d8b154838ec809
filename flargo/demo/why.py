"""Why a job failed, in one sentence: from what the parents, and the job's own processes, have written. Pure."""

import re
from collections.abc import Mapping

from flargo.status.reasons import Reason

_TOLD = re.compile(r"job \S+ at (?P<site>\S+): (?P<reason>[A-Z_]+) \((?P<code>\d+)\): (?P<said>.*)")
"""What flargo.flare.outcome logs of a job's end."""
_ERROR = re.compile(r"\b(\w+\.)*[A-Z]\w*(Error|Exception)\b: \S.*")
_CONSEQUENCES = frozenset({Reason.ABORTED.name, Reason.CLEANED_UP.name, Reason.SUCCEEDED.name})
"""Ends that follow from somebody else's."""
_PROGRAMS = frozenset({Reason.PROGRAM_FAILED.name, Reason.PROGRAM_REPORTED.name})


def why(status: str, parents: Mapping[str, str], jobs: Mapping[str, str]) -> str:
    """One sentence.

    Args:
        status: FLARE's of the job.
        parents: the parents' logs, by name.
        jobs: the logs of the job's processes, by their party's name.
    """
    told = [found for log in parents.values() for found in _TOLD.finditer(log)]
    causes = [found for found in told if found["reason"] not in _CONSEQUENCES]
    for found in causes:
        if found["reason"] not in _PROGRAMS:
            return f"{found['site']}: {found['said'].strip()}"
    failed = {found["site"] for found in causes}
    # A site that fails takes the server's process with it, so sites are asked first.
    for name in sorted(jobs, key=lambda name: (name == "server", name not in failed)):
        if raised := first_error(jobs[name]):
            return f"{name}: {raised}"
    if causes:
        return f"{causes[0]['site']}: {causes[0]['said'].strip()}"
    return f"FLARE says {status}, and the logs hold no reason."


def first_error(log: str) -> str:
    """The first exception that a log tells of by name and message; nothing if there is none."""
    found = _ERROR.search(log)
    return found[0].strip() if found else ""
