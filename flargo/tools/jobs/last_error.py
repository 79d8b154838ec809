"""The last error in a program's log, short enough for people to read among other evidence. Pure."""

from collections.abc import Iterator

from flargo.job.names import display_text
from flargo.log_errors import find_errors
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line

MAX_LOG_LINES, MAX_LOG_BYTES = 2000, 256 * 1024
"""The end of a log in which the error is sought."""
_MAX_LINES = 6
"""The most lines of an error: its innermost calls and the exception."""
_MAX_LINE_LENGTH = 200


def last_error(log: str) -> str:
    """Return the last traceback or record of an error in the end of a log, in a few lines; empty if there is none.

    What follows from an abort of the job is not an error of the program (flargo.log_errors).

    Args:
        log: the end of the log, redacted as a whole: a key has several lines.
    """
    errors = find_errors("\n".join(_program_lines(log)))
    if not errors:
        return ""
    count = len(errors[-1].lines) - _MAX_LINES
    left_out = [f"[{count} lines are left out]"] if count > 0 else []
    return "\n".join([*left_out, *map(_shorten, errors[-1].excerpt(_MAX_LINES))])


def _program_lines(log: str) -> Iterator[str]:
    """Yield the lines of the program, without those of Argo's executor."""
    executor_filter = ExecutorLineFilter()
    for text in log.split("\n"):
        line = executor_filter.filter(Line("", text))
        if line is not None:
            yield line.text


def _shorten(line: str) -> str:
    """Return a line with its indentation, without control characters."""
    text = line.lstrip(" ")
    return " " * min(len(line) - len(text), 8) + display_text(text, _MAX_LINE_LENGTH)
