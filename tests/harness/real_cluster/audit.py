"""Reads the API server's audit log: who asked what, since a mark."""

import collections
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What requests are counted by."""

    user: str
    verb: str
    resource: str
    """such as ``pods`` or ``pods/log``; the path for what is no resource"""


def mark(log: Path) -> int:
    """Now, as a place in the log."""
    return log.stat().st_size


def count(log: Path, since: int = 0) -> collections.Counter[Request]:
    """How often each request was made since a mark.

    A request is written when it ends; a long one (a watch, a log that is followed) also when it
    begins, and counts then, once.
    """
    begun: set[str] = set()
    counted: collections.Counter[Request] = collections.Counter()
    for target, event in events(log):
        if event["auditID"] in begun or event["stage"] == "RequestReceived":
            continue
        if event["stage"] == "ResponseStarted":
            begun.add(event["auditID"])
        if target >= since:
            counted[_request(event)] += 1
    return counted


def by(user: str, log: Path, since: int = 0) -> collections.Counter[tuple[str, str]]:
    """How often one user made each request: verb and resource. ``user`` is the end of its name."""
    counted: collections.Counter[tuple[str, str]] = collections.Counter()
    for request, times in count(log, since).items():
        if request.user.endswith(user):
            counted[request.verb, request.resource] += times
    return counted


def events(log: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each event with its place; a line that is still being written is left out."""
    target = 0
    with log.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield target, json.loads(line)
            target += len(line)


def _request(event: dict[str, Any]) -> Request:
    what = event.get("objectRef")
    if what is None or "resource" not in what:
        resource = event["requestURI"].partition("?")[0]
    else:
        resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
    return Request(event["user"]["username"], event["verb"], resource)
