"""A log's lines: told once each, though the connection breaks, and without those of Argo's executor. Pure."""

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

# What Argo's executor, which starts the program, writes to the program's stderr (argo 3.7, cmd/argoexec/commands/
# emissary.go: logrus, with the field argo=true; with --log-format json as JSON), and what its command line says last.
_EXECUTOR = re.compile(
    r'time=("[^"]*"|\S+) level=\w+ msg=.*\bargo=true( \S.*)?$|\{(?=.*"argo":true)(?=.*"level":).*\}$'
)
_EXITED = re.compile(r'"sub-process exited"')
_LAST_WORDS = re.compile(r"Error: (exit status \d+|signal: [a-z ]+(\(core dumped\))?)$")
MARGIN = timedelta(seconds=1)
"""How long before the last line a log is read again. Times are cut to whole seconds on the way, and the lines
of stdout and stderr are written by two threads: they may be out of order by a little."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log."""

    time: str
    """As the node wrote it down, RFC 3339; empty where it did not."""
    text: str

    @property
    def moment(self) -> datetime | None:
        """The same."""
        return datetime.fromisoformat(self.time) if self.time else None


def parsed(raw: str) -> Line:
    """A line that has its time before it."""
    time, space, text = raw.partition(" ")
    try:
        moment = datetime.fromisoformat(time) if space else None
    except ValueError:
        moment = None
    return Line(time, text) if moment is not None and moment.tzinfo is not None else Line("", raw)


@dataclass(slots=True)
class Seam:
    """Where one connection's lines go on after another's: each line is let through once."""

    _told: deque[Line] = field(default_factory=deque)
    """What was let through of late: all that a connection tells again."""
    _again: Counter[Line] = field(default_factory=Counter)
    """What this connection has yet to tell again."""
    _begin: datetime | None = None
    """Of a connection that is made now."""

    def connect(self) -> str:
        """A new connection is made: from when it is to tell, RFC 3339; empty for all."""
        self._again = Counter(self._told)
        return self._begin.isoformat() if self._begin is not None else ""

    def is_new(self, line: Line) -> bool:
        """Whether this connection's next line was not told before."""
        if self._again[line] > 0:
            self._again[line] -= 1
            return False
        self._told.append(line)
        moment = line.moment
        if moment is not None:
            begin = moment.astimezone(UTC).replace(microsecond=0) - MARGIN
            if self._begin is None or begin > self._begin:
                self._begin = begin
                self._forget(begin)
        return True

    def _forget(self, begin: datetime) -> None:
        """What no connection will tell again."""
        self._told = deque(line for line in self._told if line.moment is None or line.moment >= begin)


@dataclass(slots=True)
class Sieve:
    """Takes the executor's lines out of a program's log."""

    _exited: bool = False
    """The executor has said that the program has ended: what it says after that is no longer the program's."""

    def text(self, line: str) -> str | None:
        """What the program said of a line; None: nothing."""
        found = _EXECUTOR.search(line)
        if found is not None:
            self._exited = self._exited or bool(_EXITED.search(found[0]))
            # What the program said last may lack an end.
            return line[: found.start()] or None
        return None if self._exited and _LAST_WORDS.match(line) else line
