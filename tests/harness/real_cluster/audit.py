"""Reads the API server's audit log: which requests each user made since a mark."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Request(NamedTuple):
    """The fields by which requests are counted."""

    user: str
    verb: str
    resource: str
    """For example ``pods`` or ``pods/log``; the path of a request for no resource."""


def mark(log: Path) -> int:
    """Return the log's current end, for use as a mark."""
    return log.stat().st_size


def count(log: Path, since: int = 0) -> collections.Counter[Request]:
    """Count the requests since a mark.

    A request is logged when it ends; a long one (a watch, a followed log) also when it starts, and is counted then,
    once.
    """
    open_requests: set[str] = set()
    counts: collections.Counter[Request] = collections.Counter()
    for offset, event in events(log):
        if event["auditID"] in open_requests or event["stage"] == "RequestReceived":
            continue
        if event["stage"] == "ResponseStarted":
            open_requests.add(event["auditID"])
        if offset >= since:
            counts[_request(event)] += 1
    return counts


def count_by_user(user: str, log: Path, since: int = 0) -> collections.Counter[tuple[str, str]]:
    """Count one user's requests by verb and resource; ``user`` is the end of the user's name."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for request, times in count(log, since).items():
        if request.user.endswith(user):
            counts[request.verb, request.resource] += times
    return counts


def events(log: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each event with its offset in the log; an incomplete last line is skipped."""
    offset = 0
    with log.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield offset, json.loads(line)
            offset += len(line)


def _request(event: dict[str, Any]) -> Request:
    reference = event.get("objectRef")
    if reference is None or "resource" not in reference:
        resource = event["requestURI"].partition("?")[0]
    else:
        resource = "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
    return Request(event["user"]["username"], event["verb"], resource)
