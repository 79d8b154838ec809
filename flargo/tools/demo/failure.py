"""Why a job failed, in one sentence: from what the parents, and the job's own processes, have written. Pure."""

import itertools
import re
import string
from collections.abc import Mapping

from flargo.status.reasons import Reason

_TOLD = re.compile(r"job \S+ at (?P<site>\S+): (?P<reason>[A-Z_]+) \((?P<code>\d+)\): (?P<said>.*)")
"""What flargo.flare.report logs of a job's end."""
_ERROR = re.compile(r"(Error|Exception): (?=\S)")
_NAME_LENGTH = 200
"""Characters of an exception's name, with its modules, at most."""
_NO_NAME = re.compile(r"[^\w.]")
_LINE_FEED = "\n"
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
    after = 0
    for found in _ERROR.finditer(log):
        words = log[max(after, found.start() - _NAME_LENGTH) : found.end(1)]
        after = found.end()
        *modules, own = _NO_NAME.split(words)[-1].split(".")
        if own[0] in string.ascii_uppercase and len(own) > len(found[1]):
            known = itertools.takewhile(bool, reversed(modules))
            name = ".".join([*reversed([*known]), own])
            return f"{name}{log[found.end(1) :].partition(_LINE_FEED)[0]}".strip()
    return ""
