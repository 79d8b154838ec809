"""`flargo logs`: what a job's program has said, and says."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import click

from flargo.cluster.api import Api
from flargo.flare.redact import REDACTION, StreamRedaction
from flargo.terms import Uid
from flargo.text import inert, valid_unicode
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.output import PROBLEM, data, data_bytes, data_line, json_option, reporting, say
from flargo.tools.jobs.log_lines import Line
from flargo.tools.jobs.log_tail import Tail
from flargo.tools.jobs.reader import ClusterReader, find
from flargo.tools.jobs.site_job import SiteJob

_AHEAD = 200
"""Lines of each site that are read before they are shown."""
_CONTINUED = " [continued]"
"""On a terminal, after a piece of a line that goes on."""
Told = tuple[SiteJob, Line]
Writer = Callable[[SiteJob, Line], None]
"""Writes a line, or a piece of one, of a job at a site."""


@click.command()
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--raw", is_flag=True, help="The program's bytes as they are, also on a terminal, which obeys them.")
@site_option
@cluster_options
@json_option
@reporting
def logs(
    job: str,
    *,
    follow: bool,
    raw: bool,
    site: str | None,
    as_json: bool,
    **where: str | None,
) -> None:
    """Print what a job's program has said, without the lines of Argo's executor; of several sites, with their names.

    JOB is FLARE's job id, a beginning of it that no other job has, or the name of a Workflow. On a terminal, control
    characters are shown as escapes, and keys and tokens are blanked. A file or another program gets the program's bytes
    unchanged.
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json cannot be combined.")
    api = api_for(**where)
    parts = find(ClusterReader(api), job, site)
    tails = [(part, _tail(api, part)) for part in parts]
    told = _together(tails) if follow and len(tails) > 1 else _in_turn(tails, follow=follow)
    width = max(len(inert(part.site)) for part in parts) if len(parts) > 1 else 0
    if as_json:
        write: Writer = Json()
    elif raw or not _is_terminal():
        write = Raw(width)
    else:
        write = People(width)
    for part, line in told:
        write(part, line)
    if not any(tail.begun for _, tail in tails):
        raise SystemExit(PROBLEM)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


@dataclass(slots=True)
class Redacted:
    """The lines of sites without secrets: each site's log is a stream of its own."""

    _streams: dict[Uid, StreamRedaction] = field(default_factory=dict)

    def text(self, part: SiteJob, line: Line) -> str:
        """A line's text in valid Unicode. Of a piece, the end is told with the next one."""
        stream = self._streams.setdefault(part.workflow.uid, StreamRedaction(REDACTION))
        return stream.redact(valid_unicode(line.text), continued=line.continued)


@dataclass(slots=True)
class Json:
    """Writes a line of JSON for each line."""

    _redacted: Redacted = field(default_factory=Redacted)

    def __call__(self, part: SiteJob, line: Line) -> None:
        """Say whether a line goes on only where it does."""
        row = {"site": part.site, "time": line.time, "line": self._redacted.text(part, line)}
        data_line({**row, "continued": True} if line.continued else row)


@dataclass(slots=True)
class People:
    """Writes lines for a terminal, with the sites' names if a width is given for them."""

    _width: int
    _redacted: Redacted = field(default_factory=Redacted)

    def __call__(self, part: SiteJob, line: Line) -> None:
        """Write a line that a terminal does not obey."""
        head = f"{inert(part.site):{self._width}} | " if self._width else ""
        data(f"{head}{inert(self._redacted.text(part, line))}{_CONTINUED if line.continued else ''}")


@dataclass(slots=True)
class Raw:
    """Writes a program's bytes, with the sites' names before lines if a width is given for them."""

    _width: int
    _open: Uid | None = None
    """Whose line was written last, if it has no end."""

    def __call__(self, part: SiteJob, line: Line) -> None:
        """Where another site's line comes between, a line is ended that has no end of its own."""
        content = line.text.encode(errors="surrogateescape") + (b"\n" if line.ended else b"")
        uid = part.workflow.uid
        if self._width and self._open != uid:
            head = f"{inert(part.site):{self._width}} | ".encode()
            content = (b"\n" if self._open is not None else b"") + head + content
        self._open = None if line.ended else uid
        data_bytes(content)


def _tail(api: Api, part: SiteJob) -> Tail:
    return Tail(api, part.workflow.name, part.workflow.uid, time.sleep, say)


def _in_turn(tails: Sequence[tuple[SiteJob, Tail]], *, follow: bool) -> Iterator[Told]:
    for part, tail in tails:
        yield from ((part, line) for line in tail.lines(follow=follow))


def _together(tails: Sequence[tuple[SiteJob, Tail]]) -> Iterator[Told]:
    """All that are followed, as their lines come."""
    told: queue.Queue[Told | Exception | None] = queue.Queue(_AHEAD * len(tails))

    def run(part: SiteJob, tail: Tail) -> None:
        try:
            for line in tail.lines(follow=True):
                told.put((part, line))
            told.put(None)
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            told.put(error)

    for part, tail in tails:
        threading.Thread(target=run, args=(part, tail), daemon=True).start()
    going = len(tails)
    while going:
        with suppress(queue.Empty):
            match told.get(timeout=1.0):
                case None:
                    going -= 1
                case Exception() as error:
                    raise error
                case line:
                    yield line
