"""The process's standard streams, whatever it was started with: closed, full, cut off, or in another encoding."""

import errno
import os
import sys
from contextlib import suppress
from typing import IO

_NAMES = ("stdin", "stdout", "stderr")
"""The streams in the order of their descriptors, which is the order in which free descriptors are given out."""

EXIT_INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of a disk, or another device, that takes no more."""


def prepare() -> None:
    """Make the streams usable.

    A closed stream becomes /dev/null. Otherwise the next file or socket would get its descriptor, and a library that
    writes to the descriptor would write there. A character that the terminal's encoding does not have is written as an
    escape, as Python does on stderr.
    """
    for name in _NAMES:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115, PTH123  (stays open)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not a stream of a test's
            stream.reconfigure(errors="backslashreplace")


def finish() -> str:
    """Write out what stdout and stderr still hold, and give up what cannot be written, before Python tries it again.

    Returns:
        Why stdout cannot be written to; empty if it can, or if its reader does not want more.
    """
    problem = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout and error.errno != errno.EPIPE:
                problem = describe_full(error)
    return problem


def describe_full(error: OSError) -> str:
    """Describe an error of writing. Python does not say which stream or file it is about."""
    return f"the output, or a file, cannot be written: {os.strerror(error.errno or 0)}"


def write_error(text: str) -> None:
    """Write a text to stderr, if it can be written to."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _discard(stream: IO[str]) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
