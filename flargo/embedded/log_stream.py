"""A container's log, as ``pods/log`` tells it."""

import asyncio
import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import web

from flargo.embedded.api_calls import bad_request, number
from flargo.embedded.model import iso, seconds

_PAUSE = 0.1
_CHUNK = 2**16


class Times:
    """When each line of a log was written: as exactly as somebody has looked, and the same for all who look."""

    def __init__(self) -> None:
        """Nobody has looked yet."""
        self._known: dict[tuple[Path, int], float] = {}

    def of(self, log: Path, place: int) -> float:
        """Of the line that begins there."""
        return self._known.setdefault((log, place), time.time())

    def forget(self, log: Path) -> None:
        """It is gone."""
        self._known = {key: moment for key, moment in self._known.items() if key[0] != log}


@dataclass(frozen=True, slots=True)
class Part:
    """What of a log is asked for."""

    lines: int | None
    """Its last lines; None: all."""
    limit: int
    """Bytes."""
    since: float
    """Unix seconds, whole ones, as a kubelet has it from the API server."""
    follow: bool
    stamps: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """What a query asks for.

        Raises:
            RefusedError: 400, it cannot be understood.
        """
        try:
            since = seconds(query["sinceTime"]) // 1 if query.get("sinceTime") else 0.0
        except (ValueError, OverflowError):
            raise bad_request("sinceTime: Invalid value: must be a time as RFC 3339 has it") from None
        lines = number(query, "tailLines", -1)
        limit = number(query, "limitBytes", 2**62)
        return cls(lines if lines >= 0 else None, limit, since, _is(query, "follow"), _is(query, "timestamps"))


async def tail(response: web.StreamResponse, log: Path, part: Part, ended: Callable[[], bool], times: Times) -> None:
    """Send a log: its last lines, so many bytes, on and on if it is to be followed and has not ended."""
    most = part.limit
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:  # there is none if nothing could be started
        begin = file.seek(0 if part.lines is None else _beginning(log, part.lines))
        while most > 0:
            over = ended()
            place = file.tell()
            chunk = file.read(_CHUNK)
            whole = chunk if over else chunk[: chunk.rfind(b"\n") + 1]
            # A line that is longer than all that is read at once is told in parts: its time only before the first.
            whole = whole or (chunk if len(chunk) == _CHUNK else b"")
            file.seek(place + len(whole))
            told = b"".join(_told(whole, place, begin, lambda at: times.of(log, at), part.since, stamps=part.stamps))
            begin = place + whole.rfind(b"\n") + 1 if b"\n" in whole else begin
            await response.write(told[:most])
            most -= len(told)
            if not whole:
                if over or not part.follow:
                    return
                await asyncio.sleep(_PAUSE)


def _told(
    whole: bytes, place: int, begin: int, time_at: Callable[[int], float], since: float, *, stamps: bool
) -> Iterator[bytes]:
    """Lines that are read from a place, the first of which begins there or before."""
    for line in io.BytesIO(whole):  # which knows no end of a line but its own
        moment = time_at(begin)
        if moment >= since:
            yield _stamp(moment) + line if stamps and begin == place else line
        begin = place = place + len(line)


def _is(query: Mapping[str, str], name: str) -> bool:
    return query.get(name) in {"1", "true"}


def _stamp(moment: float) -> bytes:
    return f"{iso(moment)[:-1]}.{int(moment % 1 * 1e9):09d}Z ".encode()


def _beginning(log: Path, lines: int) -> int:
    """Where the last lines begin."""
    content = log.read_bytes()
    place = len(content)
    if content.endswith(b"\n"):
        place -= 1
    for _ in range(lines):
        place = content.rfind(b"\n", 0, place)
        if place < 0:
            return 0
    return place + 1 if lines else len(content)
