"""Reads the bodies of responses: whole, event by event, or as a log in lines and pieces. Each within limits."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import urllib3

from flargo.cluster.error_text import OwnError

MAX_PIECE_BYTES = 64 * 1024
"""Bytes of a log line, its timestamp included, that one LogPiece holds; a longer line is split into pieces."""
MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Bytes of one watch event. etcd holds objects of at most 1.5 MiB."""
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Bytes of a successful response: a page of the largest objects."""
MAX_ERROR_RESPONSE_BYTES = 1024 * 1024
"""Bytes of a response with an error status."""
CHUNK_BYTES = 64 * 1024
"""Bytes of one read from a connection."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A line of a log, or a piece of a long line. A piece never ends inside a UTF-8 character."""

    text: str
    """Decoded as UTF-8; an invalid byte is kept as a surrogate, as Python's ``surrogateescape`` does."""
    is_partial: bool = False
    """True if the line continues in the next piece."""
    has_newline: bool = True
    """True if a line end follows. If a log does not end with a line end, its last line has neither a line end nor a
    continuation."""


class TooLongError(OwnError, ValueError):
    """A response, or an event of a watch, is longer than any that an API server sends."""


class TooSlowError(OwnError):
    """A response has not arrived in time, although bytes keep coming."""


def read_bounded(response: urllib3.BaseHTTPResponse, max_bytes: int, deadline: float) -> bytes:
    """Read a response's body.

    Raises:
        TooLongError: the body is longer than ``max_bytes``; the connection is closed.
        TooSlowError: the body has not arrived by the deadline; the connection is closed.
        HTTPError, OSError: the body cannot be read.
    """
    body = bytearray()
    for chunk in chunks_until(response, deadline):
        body += chunk
        if len(body) > max_bytes:
            # Back in the pool, the unread rest would be taken for the next response.
            response.close()
            raise TooLongError(f"more than {max_bytes} bytes")
    return bytes(body)


def chunks_until(response: urllib3.BaseHTTPResponse, deadline: float) -> Iterator[bytes]:
    """Yield a response's body as it arrives.

    Args:
        response: the response, with its body unread.
        deadline: the time, on the monotonic clock, by which the body must have ended.

    Raises:
        TooSlowError: the deadline has passed; the connection is closed.
        HTTPError, OSError: the body cannot be read.
    """
    # read1 returns the bytes that have arrived. stream() would wait for a whole chunk, and miss the deadline.
    while chunk := response.read1(CHUNK_BYTES, decode_content=True):
        yield chunk
        if time.monotonic() > deadline:
            response.close()
            raise TooSlowError("the response did not arrive in time")


def event_lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the non-empty lines of a stream, the last one also without a line end."""
    buffer = bytearray()
    for chunk in response.stream(CHUNK_BYTES, decode_content=True):
        begin, search_from = 0, len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", max(begin, search_from))) >= 0:
            if end > begin:
                yield bytes(buffer[begin:end])
            begin = end + 1
        del buffer[:begin]
        if len(buffer) > MAX_EVENT_BYTES:
            raise TooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
    if buffer.strip():
        yield bytes(buffer)


def log_pieces(chunks: Iterable[bytes]) -> Iterator[LogPiece]:
    """Split a log into lines and pieces. Each byte is searched for a line end once, however small the chunks are."""
    buffer = bytearray()
    for chunk in chunks:
        begin, search_from = 0, len(buffer)
        buffer += chunk
        while True:
            end = buffer.find(b"\n", max(begin, search_from), begin + MAX_PIECE_BYTES + 1)
            if end >= 0:
                yield LogPiece(_text(buffer[begin:end]))
                begin = end + 1
            elif len(buffer) - begin > MAX_PIECE_BYTES:
                end = _character_end(buffer, begin, begin + MAX_PIECE_BYTES)
                yield LogPiece(_text(buffer[begin:end]), is_partial=True, has_newline=False)
                begin = end
            else:
                break
        del buffer[:begin]
    if buffer:
        yield LogPiece(_text(buffer), has_newline=False)


def last_bytes(chunks: Iterable[bytes], max_bytes: int) -> bytearray:
    """Return the end of a log; if bytes are left out, it begins with a whole line, if it has a line end at all."""
    end, size = bytearray(), 0
    for chunk in chunks:
        size += len(chunk)
        end += chunk
        if len(end) > 2 * max_bytes:  # trimmed seldom, so that each byte is moved at most twice
            del end[:-max_bytes]
    if size <= max_bytes:
        return end
    del end[:-max_bytes]
    return end[end.find(b"\n", 0, -1) + 1 :]


def _character_end(buffer: bytearray, begin: int, end: int) -> int:
    """Return the last position up to ``end`` that is not inside a UTF-8 character."""
    for position in range(end, max(begin, end - 4), -1):
        if buffer[position] & 0xC0 != 0x80:  # noqa: PLR2004  (10xxxxxx is a continuation byte)
            return position
    return end


def _text(content: bytearray) -> str:
    return content.decode(errors="surrogateescape")
