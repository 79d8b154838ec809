"""The lines of a program's log: each line once although connections break, and none of Argo's executor. Pure."""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from flargo.parsing import log_time

# Argo's executor starts the program and logs to the program's stderr (argo 3.7, cmd/argoexec/commands/emissary.go):
# logrus lines with the field argo=true, or JSON with --log-format json. Its command line prints the last line.
_ARGO = "argo"
"""In every record of the executor. Most lines of a program lack it and need no further examination."""
_RECORD_START = re.compile(r'time=("[^"]*+"|[^\s"]++) level=\w+ msg=("(?:[^"\\]|\\.)*+"|[^\s"]*+)(?= )')
_RECORD_MARK = re.compile(r"\bargo=true(?= \S|$)")
_JSON_MARKS = ('"argo":true', '"level":')
_EXIT_MESSAGE = '"sub-process exited"'
_LAST_LINE = re.compile(r"Error: (exit status \d+|signal: [a-z ]+(\(core dumped\))?)$")
_MAX_RECORD_CHARACTERS = 8 * 1024
"""The characters at the end of a line in which a record of the executor is sought. Its records are far shorter."""
_MAX_ATTEMPTS = 16
"""The most positions at which a record is tried to begin."""
_MAX_VERBATIM_CHARACTERS = 256
"""The length up to which a line is remembered as it is. A longer line is remembered by its hash."""
OVERLAP = timedelta(seconds=1)
"""How long before the last line a log is read again. Times are truncated to whole seconds in a request, and the kubelet
writes the lines of stdout and stderr from two threads, so they may be slightly out of order."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log, or a piece of a long line."""

    time: str
    """The time at which the node read the line, RFC 3339; empty if the line has none. A piece has its line's time."""
    text: str
    """The line's text. A byte that is not UTF-8 is a surrogate, as Python's ``surrogateescape`` has it."""
    is_partial: bool = False
    """True if the line continues in the next piece."""
    has_newline: bool = True
    """True if the program wrote a line end after the text."""

    @property
    def parsed_time(self) -> datetime | None:
        """The line's time; None if the text is no time that a node writes."""
        return log_time(self.time)


def parse_line(raw: str) -> Line:
    """Split a line into its time and its text. A line without a valid time is all text."""
    time, space, text = raw.partition(" ")
    return Line(time, text) if space and log_time(time) is not None else Line("", raw)


def last_whole_lines(pieces: Iterable[Line], number: int) -> Iterable[Line]:
    """Return the pieces of the last lines. No more than these are held in memory."""
    kept: deque[Line] = deque()
    whole_lines = 0
    for piece in pieces:
        kept.append(piece)
        whole_lines += not piece.is_partial
        while whole_lines > number:
            whole_lines -= not kept.popleft().is_partial
    return kept


@dataclass(slots=True)
class LogDeduplicator:
    """Passes each line of a log once, over connections that each repeat some lines of the connection before."""

    _recent: deque[Line] = field(default_factory=deque)
    """The lines that were passed and that the next connection repeats. Long texts are replaced by their hashes: a line
    that has no end yet is repeated from its beginning."""
    _repeats: Counter[Line] = field(default_factory=Counter)
    """The lines that the present connection has yet to repeat."""
    _resume_time: datetime | None = None
    """The time from which the next connection reads."""
    _untrusted_time: str | None = None
    """The time of the first line of a connection that resumes a log. The connection may begin in the middle of a line,
    where the program itself may have written a time; all pieces of that line have the same time. Every later line
    has the kubelet's own. Not trusting it loses nothing: lines that were passed are only requested once more.
    None: the first line has not come yet. Empty: every time is trusted."""

    def connect(self) -> str:
        """Begin a new connection, and return the time from which it must read (RFC 3339; empty: from the start)."""
        self._repeats = Counter(self._recent)
        self._untrusted_time = None if self._resume_time is not None else ""
        return self._resume_time.isoformat() if self._resume_time is not None else ""

    def is_new(self, line: Line) -> bool:
        """Return whether the connection's next line was not passed before, and remember the line."""
        if self._untrusted_time is None:
            self._untrusted_time = line.time
        line = _with_short_text(line)
        if self._repeats[line] > 0:
            self._repeats[line] -= 1
            return False
        self._recent.append(line)
        time = line.parsed_time
        if time is not None and line.time != self._untrusted_time:
            resume_time = time.astimezone(UTC).replace(microsecond=0) - OVERLAP
            if self._resume_time is None or resume_time > self._resume_time:
                self._resume_time = resume_time
                self._recent = deque(
                    each for each in self._recent if each.parsed_time is None or each.parsed_time >= resume_time
                )
        return True


@dataclass(slots=True)
class ExecutorLineFilter:
    """Removes the lines of Argo's executor from a program's log."""

    _has_exited: bool = False
    """True once the executor has logged the program's exit. Its closing "Error: ..." line is then not the program's."""
    _tail: str = ""
    """The end of the last piece, kept back because a record of the executor may begin in it."""
    is_inside_line: bool = False
    """True if the last line goes on in a piece that has not come yet."""

    def filter(self, line: Line) -> Line | None:
        """Return the program's part of a line; None if there is none.

        Of a piece, what may be the executor's is kept back and returned with the next piece. The last piece of a line
        is always returned, even if it is empty, to show that the line has ended.
        """
        was_inside_line, self.is_inside_line = self.is_inside_line, line.is_partial
        text, self._tail = self._tail + line.text, ""
        if line.is_partial:
            text, self._tail = text[:-_MAX_RECORD_CHARACTERS], text[-_MAX_RECORD_CHARACTERS:]
            return replace(line, text=text)
        begin = find_executor_text(text)
        if begin is not None:
            self._has_exited = self._has_exited or _EXIT_MESSAGE in text[begin:]
            # A record follows the program's text on one line if the program wrote no line end.
            return replace(line, text=text[:begin], has_newline=False) if begin or was_inside_line else None
        if self._has_exited and not was_inside_line and _LAST_LINE.match(text):
            return None
        return replace(line, text=text)


def find_executor_text(line: str) -> int | None:
    """Return the index at which a record of Argo's executor begins at the end of a line; None if there is none."""
    tail = line[-_MAX_RECORD_CHARACTERS:]
    if _ARGO not in tail:
        return None
    begin = _find_text_record(tail)
    begin = begin if begin is not None else _find_json_record(tail)
    return None if begin is None else len(line) - len(tail) + begin


def _find_text_record(tail: str) -> int | None:
    mark = max((match.start() for match in _RECORD_MARK.finditer(tail)), default=-1)
    index = mark
    for _ in range(_MAX_ATTEMPTS):
        index = tail.rfind("time=", 0, max(0, index))
        if index < 0:
            return None
        match = _RECORD_START.match(tail, index)
        if match is not None and match.end() < mark:
            return index
    return None


def _find_json_record(tail: str) -> int | None:
    if not tail.endswith("}"):
        return None
    # An object that contains both marks begins before both.
    index = min(tail.rfind(mark) for mark in _JSON_MARKS)
    for _ in range(_MAX_ATTEMPTS):
        index = tail.rfind("{", 0, max(0, index))
        if index < 0:
            return None
        if _is_json_record(tail[index:]):
            return index
    return None


def _is_json_record(text: str) -> bool:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and record.get("argo") is True and "level" in record


def _with_short_text(line: Line) -> Line:
    """Return the line with a hash in the place of a long text."""
    if len(line.text) <= _MAX_VERBATIM_CHARACTERS:
        return line
    digest = hashlib.sha256(line.text.encode(errors="surrogateescape")).hexdigest()
    return replace(line, text=digest)
