"""The errors in the log of a FLARE job's process: records of level ERROR and above, and tracebacks. Pure.

FLARE's processes exit with 0 although the training script has raised, so only the log says what went wrong. When one
site fails, FLARE aborts the job at the others, and their logs then have errors, too. Those are left out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

RECORD_START = r"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8},[0-9]{3}) - [^ \n]{1,200} - (?P<level>[A-Z]{1,10}) - "
"""A regular expression for the beginning of a record in FLARE's logs (nvflare 2.9, fuel/utils/log_utils.py)."""
# A message of a component has FLARE's context in front.
_RECORD = re.compile(
    RECORD_START + r"(?:\[identity=[^\]]{0,2000}\] - )?"
    r"(?:Aborting current RUN due to FATAL_SYSTEM_ERROR received: )?(?P<message>.*)"
)
_ERROR_LEVELS = frozenset({"ERROR", "CRITICAL"})
_TRACEBACK = "Traceback (most recent call last):"
_PATH = re.compile(r'(?<=^  )File "/(?:[^"/]*+/)*?([^"/]*+/[^"/]*+)"')
"""A file in a traceback: the name of the file and of its folder tell which one it is."""
_ABORT = re.compile(
    # Each of these is what nvflare 2.9 writes in a process that is aborted because of something else.
    r"fire abort event|ask to abort job|abort_signal_triggered|request to abort the job|session aborted"
    r"|learner abort exception|since it is aborted"
)


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error in a log."""

    time: str
    """The time of its record, or of the last one before a traceback without a record: it sorts by time. May be ""."""
    message: str
    """The record's message, or the last line of the traceback: the exception with its text."""
    lines: tuple[str, ...]
    """The message, or the whole traceback."""
    is_exception: bool = False
    """True if it is a traceback."""

    def excerpt(self, max_lines: int) -> tuple[str, ...]:
        """Return the last lines, which are the innermost calls and the exception, with the ends of long paths."""
        return tuple(_PATH.sub(r'File "…/\1"', line) for line in self.lines[-max_lines:])


def find_errors(log: str) -> list[LoggedError]:
    """Return the errors in a log, in its order, without those that follow from an abort of the job.

    The time is linear in the log's length.
    """
    return [error for error in _parse(log) if not _ABORT.search(error.message)]


def _parse(log: str) -> Iterator[LoggedError]:
    time, frames = "", list[str]()
    for line in log.split("\n"):
        record = _RECORD.match(line)
        if record is not None:
            time, frames = record["time"], []
        if frames:
            frames.append(line)
            # The calls of a traceback are indented; the exception is not.
            if line.strip() and not line[0].isspace():
                yield LoggedError(time, line.strip(), tuple(frames), is_exception=True)
                frames = []
        elif record is not None and record["level"] not in _ERROR_LEVELS:
            continue
        elif line.rstrip().endswith(_TRACEBACK):
            frames = [_TRACEBACK]
        elif record is not None:
            message = record["message"].strip()
            yield LoggedError(time, message, (message,))
