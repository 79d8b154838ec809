"""Sends a container's log as the kubelet does for ``pods/log``."""

import asyncio
import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aiohttp import web

from flargo.embedded.api_calls import bad_request, query_number
from flargo.embedded.model import iso, seconds

_POLL_SECONDS = 0.1
_MAX_CHUNK_BYTES = 2**16


class LineTimes:
    """When each line of a log was written.

    A line's time is that of the first request that read it, so it is as exact as the log is followed, and the same for
    all readers.
    """

    def __init__(self) -> None:
        """Start without any times."""
        self._times: dict[tuple[Path, int], float] = {}

    def time_at(self, log: Path, offset: int) -> float:
        """Return the time of the line that begins at a byte offset (Unix seconds)."""
        return self._times.setdefault((log, offset), time.time())

    def forget(self, log: Path) -> None:
        """Drop the times of a log that has been removed."""
        self._times = {key: moment for key, moment in self._times.items() if key[0] != log}


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The part of Kubernetes' PodLogOptions that the engine serves."""

    tail_lines: int | None
    """Send only the last lines; None: all lines."""
    limit_bytes: int
    since: float
    """Unix seconds without a fraction, which is how the API server passes sinceTime to a kubelet."""
    follow: bool
    timestamps: bool

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Parse the query of a request.

        Raises:
            RefusedError: 400, a value is invalid.
        """
        try:
            since = seconds(query["sinceTime"]) // 1 if query.get("sinceTime") else 0.0
        except (ValueError, OverflowError):
            raise bad_request("sinceTime: Invalid value: must be a time as in RFC 3339") from None
        tail_lines = query_number(query, "tailLines", -1)
        limit_bytes = query_number(query, "limitBytes", 2**62)
        follow, timestamps = (query.get(name) in {"1", "true"} for name in ("follow", "timestamps"))
        return cls(tail_lines if tail_lines >= 0 else None, limit_bytes, since, follow, timestamps)


async def send_log(
    response: web.StreamResponse, log: Path, options: LogOptions, has_ended: Callable[[], bool], times: LineTimes
) -> None:
    """Send a log; if it is to be followed, until its container has ended."""
    remaining = options.limit_bytes
    # There is no file if the program could not be started.
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        line_start = file.seek(0 if options.tail_lines is None else _tail_offset(log, options.tail_lines))
        while remaining > 0:
            is_complete = has_ended()
            offset = file.tell()
            chunk = file.read(_MAX_CHUNK_BYTES)
            lines = chunk if is_complete else chunk[: chunk.rfind(b"\n") + 1]
            # A line that is longer than a chunk is sent in parts, with its time before the first part only.
            lines = lines or (chunk if len(chunk) == _MAX_CHUNK_BYTES else b"")
            file.seek(offset + len(lines))
            output = b"".join(_format_lines(lines, offset, line_start, lambda at: times.time_at(log, at), options))
            line_start = offset + lines.rfind(b"\n") + 1 if b"\n" in lines else line_start
            await response.write(output[:remaining])
            remaining -= len(output)
            if not lines:
                if is_complete or not options.follow:
                    return
                await asyncio.sleep(_POLL_SECONDS)


def _format_lines(
    lines: bytes, offset: int, line_start: int, time_at: Callable[[int], float], options: LogOptions
) -> Iterator[bytes]:
    """Filter lines by their time, and put timestamps before them.

    Args:
        lines: read from ``offset``; the first may be the rest of a line that began before it.
        offset: the byte offset of ``lines``.
        line_start: the byte offset at which the first line begins.
        time_at: returns the time of the line that begins at a byte offset.
        options: since when, and whether with timestamps.
    """
    for line in io.BytesIO(lines):  # unlike bytes.splitlines, it splits at b"\n" only
        moment = time_at(line_start)
        if moment >= options.since:
            yield _timestamp(moment) + line if options.timestamps and line_start == offset else line
        line_start = offset = offset + len(line)


def _timestamp(moment: float) -> bytes:
    return f"{iso(moment)[:-1]}.{int(moment % 1 * 1e9):09d}Z ".encode()


def _tail_offset(log: Path, lines: int) -> int:
    """Return the byte offset at which the last lines of a log begin."""
    content = log.read_bytes()
    offset = len(content)
    if content.endswith(b"\n"):
        offset -= 1
    for _ in range(lines):
        offset = content.rfind(b"\n", 0, offset)
        if offset < 0:
            return 0
    return offset + 1 if lines else len(content)
