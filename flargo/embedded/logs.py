"""A container's log, as ``pods/log`` tells it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import web

from flargo.embedded.model import iso

_PAUSE = 0.1
_CHUNK = 2**16


async def tail(response: web.StreamResponse, log: Path, query: Mapping[str, str], ended: Callable[[], bool]) -> None:
    """Send a log: its last lines, so many bytes, on and on if it is to be followed and has not ended.

    Lines carry no time of their own, so who wants timestamps gets the time at which they were read.
    """
    most = int(query.get("limitBytes") or 2**62)
    stamps, follow = _is(query, "timestamps"), _is(query, "follow")
    with log.open("rb") as file:
        file.seek(_beginning(log, int(query["tailLines"])) if query.get("tailLines") else 0)
        while most > 0:
            over = ended()
            chunk = file.read(_CHUNK)
            if stamps and chunk:
                chunk += file.readline()
                chunk = b"".join(_stamp() + line for line in chunk.splitlines(keepends=True))
            await response.write(chunk[:most])
            most -= len(chunk)
            if not chunk:
                if over or not follow:
                    return
                await asyncio.sleep(_PAUSE)


def _is(query: Mapping[str, str], name: str) -> bool:
    return query.get(name) in {"1", "true"}


def _stamp() -> bytes:
    now = time.time()
    return f"{iso(now)[:-1]}.{int(now % 1 * 1e9):09d}Z ".encode()


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
