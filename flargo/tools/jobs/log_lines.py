"""A log's lines: told once each, though the connection breaks, and without those of Argo's executor. Pure."""

import hashlib
import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from flargo.parsing import log_time

# What Argo's executor, which starts the program, writes to the program's stderr (argo 3.7, cmd/argoexec/commands/
# emissary.go: logrus, with the field argo=true; with --log-format json as JSON), and what its command line says last.
_ARGO = "argo"
"""In everything that the executor logs. Most lines of a program do not have it, and are not looked at further."""
_TEXT_BEGIN = re.compile(r'time=("[^"]*+"|[^\s"]++) level=\w+ msg=("(?:[^"\\]|\\.)*+"|[^\s"]*+)(?= )')
_TEXT_MARK = re.compile(r"\bargo=true(?= \S|$)")
_JSON_MARKS = ('"argo":true', '"level":')
_EXITED = '"sub-process exited"'
_LAST_WORDS = re.compile(r"Error: (exit status \d+|signal: [a-z ]+(\(core dumped\))?)$")
_EXECUTOR_LENGTH = 8 * 1024
"""Characters at the end of a line that may be the executor's: what it says itself is shorter by far."""
_TRIED = 16
"""Places in them at which its words may begin, and which are tried."""
_REMEMBERED = 256
"""Characters of a line up to which it is remembered as it is, and beyond which by its hash."""
MARGIN = timedelta(seconds=1)
"""How long before the last line a log is read again. Times are cut to whole seconds on the way, and the lines
of stdout and stderr are written by two threads: they may be out of order by a little."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log, or a piece of a long one."""

    time: str
    """As the node wrote it down, RFC 3339; empty where it did not. Of a piece: its line's."""
    text: str
    """A byte that is no UTF-8 is a surrogate in it, as Python's ``surrogateescape`` has it."""
    continued: bool = False
    """Whether the line goes on in the next piece."""
    ended: bool = True
    """Whether the program wrote a line end after it."""

    @property
    def moment(self) -> datetime | None:
        """The same; None where it is no time that a node writes."""
        return log_time(self.time)


def parsed(raw: str) -> Line:
    """A line that has its time before it."""
    time, space, text = raw.partition(" ")
    return Line(time, text) if space and log_time(time) is not None else Line("", raw)


@dataclass(slots=True)
class LogDeduplicator:
    """Where one connection's lines go on after another's: each line is let through once."""

    _told: deque[Line] = field(default_factory=deque)
    """What was let through of late: all that a connection tells again. Long texts by their hashes, for a line without
    an end is told again from its beginning."""
    _again: Counter[Line] = field(default_factory=Counter)
    """What this connection has yet to tell again."""
    _begin: datetime | None = None
    """Of a connection that is made now."""
    _doubtful: str | None = None
    """The time of the first line of a connection that goes on after another's, which is not believed: the connection
    may begin in the middle of a line, where the program itself may have written a time. That line's pieces have the
    same time. Each line after it has the kubelet's. Nothing is lost, for what has been told is only asked for again.
    None: not known yet; empty: no time is doubted."""

    def connect(self) -> str:
        """A new connection is made: from when it is to tell, RFC 3339; empty for all."""
        self._again = Counter(self._told)
        self._doubtful = None if self._begin is not None else ""
        return self._begin.isoformat() if self._begin is not None else ""

    def is_new(self, line: Line) -> bool:
        """Whether this connection's next line was not told before."""
        if self._doubtful is None:
            self._doubtful = line.time
        line = _remembered(line)
        if self._again[line] > 0:
            self._again[line] -= 1
            return False
        self._told.append(line)
        moment = line.moment
        if moment is not None and line.time != self._doubtful:
            begin = moment.astimezone(UTC).replace(microsecond=0) - MARGIN
            if self._begin is None or begin > self._begin:
                self._begin = begin
                self._forget(begin)
        return True

    def _forget(self, begin: datetime) -> None:
        """What no connection will tell again."""
        self._told = deque(line for line in self._told if line.moment is None or line.moment >= begin)


@dataclass(slots=True)
class ExecutorLineFilter:
    """Takes the executor's lines out of a program's log."""

    _exited: bool = False
    """The executor has said that the program has ended: what it says after that is no longer the program's."""
    _held: str = ""
    """The end of a piece, which waits for the next one: the executor's words may begin there."""
    _inside: bool = False
    """Whether the last line goes on."""

    @property
    def waits(self) -> bool:
        """Whether the last line goes on."""
        return self._inside

    def line(self, line: Line) -> Line | None:
        """What the program said of a line, or of a piece and the end of the piece before it; None: nothing.

        The last piece of a line is always told, if only to say that the line is over.
        """
        inside, self._inside = self._inside, line.continued
        text, self._held = self._held + line.text, ""
        if line.continued:
            text, self._held = text[:-_EXECUTOR_LENGTH], text[-_EXECUTOR_LENGTH:]
            return replace(line, text=text)
        begin = executor_begin(text)
        if begin is not None:
            self._exited = self._exited or _EXITED in text[begin:]
            # What the program said last may lack an end.
            return replace(line, text=text[:begin], ended=False) if begin or inside else None
        if self._exited and not inside and _LAST_WORDS.match(text):
            return None
        return replace(line, text=text)


def executor_begin(line: str) -> int | None:
    """Where the words of Argo's executor begin at the end of a line; None: it has none."""
    tail = line[-_EXECUTOR_LENGTH:]
    if _ARGO not in tail:
        return None
    begin = _text_begin(tail)
    begin = begin if begin is not None else _json_begin(tail)
    return None if begin is None else len(line) - len(tail) + begin


def _text_begin(tail: str) -> int | None:
    mark = max((found.start() for found in _TEXT_MARK.finditer(tail)), default=-1)
    place = mark
    for _ in range(_TRIED):
        place = tail.rfind("time=", 0, max(0, place))
        if place < 0:
            return None
        begin = _TEXT_BEGIN.match(tail, place)
        if begin is not None and begin.end() < mark:
            return place
    return None


def _json_begin(tail: str) -> int | None:
    if not tail.endswith("}"):
        return None
    # An object that has both begins before both.
    place = min(tail.rfind(mark) for mark in _JSON_MARKS)
    for _ in range(_TRIED):
        place = tail.rfind("{", 0, max(0, place))
        if place < 0:
            return None
        if _is_executors(tail[place:]):
            return place
    return None


def _is_executors(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("argo") is True and "level" in found


def _remembered(line: Line) -> Line:
    if len(line.text) <= _REMEMBERED:
        return line
    digest = hashlib.sha256(line.text.encode(errors="surrogateescape")).hexdigest()
    return replace(line, text=digest)
