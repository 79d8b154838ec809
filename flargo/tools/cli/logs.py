"""`flargo logs`: print or follow the log of a job's program."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import click

from flargo.flare.redact import REDACTION, StreamRedaction
from flargo.terms import Uid
from flargo.text import inert, valid_unicode
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.option_types import DURATION
from flargo.tools.cli.output import (
    EXIT_PROBLEM,
    report_errors,
    write_bytes,
    write_line,
    write_message,
    write_next_result,
)
from flargo.tools.jobs.log_lines import Line
from flargo.tools.jobs.log_tail import LogTail
from flargo.tools.jobs.reader import ClusterReader, find_attempts
from flargo.tools.jobs.site_job import SiteJob

_MAX_BUFFERED_LINES = 200
"""Lines of each site that are read before they are written."""
_CONTINUED = " [continued]"
"""On a terminal, the mark after a piece of a line that goes on in the next piece."""
_COLORS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
"""The colours of the sites' names, in the order of the sites."""
SiteLine = tuple[SiteJob, Line]
LineWriter = Callable[[SiteJob, Line], None]
"""Writes a line, or a piece of a line, of a job at a site."""


@click.command(epilog=epilog("logs"))
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Print new lines as they come, until the job ends.")
@click.option("--since", type=DURATION, help="Only lines of so long ago or newer: 5s, 2m, 3h. Default: all lines.")
@click.option(
    "--tail",
    type=click.IntRange(-1),
    metavar="LINES",
    default=-1,
    show_default=True,
    help="The number of lines of each site to begin with, from the end; -1: all.",
)
@click.option(
    "--raw", is_flag=True, help="Print the program's bytes unchanged, even on a terminal, which obeys control codes."
)
@site_option
@cluster_options
@output_options(*DOCUMENTS)
@report_errors
def logs(
    job: str,
    *,
    follow: bool,
    since: timedelta | None,
    tail: int,
    raw: bool,
    site: str | None,
    output_format: Format | None,
    **cluster: str | None,
) -> None:
    """Print the log of a job's program, without the lines of Argo's executor.

    If the job runs at several sites, each line begins with the name of its site.

    JOB is FLARE's job id, an unambiguous prefix of it, or the name of a Workflow. Of a job that was started again, the
    latest attempt's log is printed, or that of the attempt whose Workflow is named, if its pod still exists. On a
    terminal, control characters are escaped, and keys and tokens are blanked. A file or another program gets the
    program's bytes unchanged.
    """
    if raw and output_format is not None:
        raise click.UsageError(f"--raw and -o {output_format.value} cannot be combined.")
    api = api_for(**cluster)
    site_jobs = find_attempts(ClusterReader(api), job, site)
    # By the API server's clock, since this machine's may be wrong.
    since_time = (api.time() - since).isoformat() if since is not None else ""
    last_lines = tail if tail >= 0 else None

    def log_of(job: SiteJob) -> LogTail:
        workflow = job.workflow
        return LogTail(api, workflow.name, workflow.uid, time.sleep, write_message, since_time, last_lines)

    tails = [(each, log_of(each)) for each in site_jobs]
    lines = _follow_all(tails) if follow and len(tails) > 1 else _read_in_turn(tails, follow=follow)
    prefix_columns = max(len(inert(each.site)) for each in site_jobs) if len(site_jobs) > 1 else 0
    if output_format is not None:
        write: LineWriter = DocumentWriter(output_format)
    elif raw or not _is_terminal():
        write = RawWriter(prefix_columns)
    else:
        write = TerminalWriter(prefix_columns, [each.workflow.uid for each in site_jobs])
    for each, line in lines:
        write(each, line)
    if not any(log.has_begun for _, log in tails):
        raise SystemExit(EXIT_PROBLEM)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


@dataclass(slots=True)
class LineRedaction:
    """Blanks secrets in the lines of several sites. Each site's log is a text of its own."""

    _streams: dict[Uid, StreamRedaction] = field(default_factory=dict)

    def text(self, job: SiteJob, line: Line) -> str:
        """Return a line's redacted text in valid Unicode. The end of a piece is held back until the next piece."""
        stream = self._streams.setdefault(job.workflow.uid, StreamRedaction(REDACTION))
        return stream.redact(valid_unicode(line.text), is_partial=line.is_partial)


@dataclass(slots=True)
class DocumentWriter:
    """Writes a line of JSON, or a YAML document, for each line."""

    _output_format: Format
    _redaction: LineRedaction = field(default_factory=LineRedaction)

    def __call__(self, job: SiteJob, line: Line) -> None:
        """Write the line as a document. Only a piece that is not its line's last has the key ``continued``."""
        row = {"site": job.site, "time": line.time, "line": self._redaction.text(job, line)}
        write_next_result({**row, "continued": True} if line.is_partial else row, self._output_format)


@dataclass(slots=True)
class TerminalWriter:
    """Writes redacted, inert lines for a terminal."""

    _prefix_columns: int
    """The width of the sites' names before the lines; 0: no names."""
    _jobs: Sequence[Uid]
    """The uids of all jobs' Workflows. Each has a colour of its own while there are enough of them."""
    _redaction: LineRedaction = field(default_factory=LineRedaction)

    def __call__(self, job: SiteJob, line: Line) -> None:
        """Write the line so that the terminal shows every control character and obeys none."""
        text = f"{inert(self._redaction.text(job, line))}{_CONTINUED if line.is_partial else ''}"
        if self._prefix_columns:
            color = _COLORS[self._jobs.index(job.workflow.uid) % len(_COLORS)]
            write_line(text, prefix=f"{inert(job.site):{self._prefix_columns}} | ", color=color)
        else:
            write_line(text)


@dataclass(slots=True)
class RawWriter:
    """Writes a program's bytes unchanged."""

    _prefix_columns: int
    """The width of the sites' names before the lines; 0: no names."""
    _open_line: Uid | None = None
    """The job whose line was written last, if that line has no end yet."""

    def __call__(self, job: SiteJob, line: Line) -> None:
        """Write the line's bytes. A line of another site that has no end yet is ended first."""
        content = line.text.encode(errors="surrogateescape") + (b"\n" if line.has_newline else b"")
        uid = job.workflow.uid
        if self._prefix_columns and self._open_line != uid:
            prefix = f"{inert(job.site):{self._prefix_columns}} | ".encode()
            content = (b"\n" if self._open_line is not None else b"") + prefix + content
        self._open_line = None if line.has_newline else uid
        write_bytes(content)


def _read_in_turn(tails: Sequence[tuple[SiteJob, LogTail]], *, follow: bool) -> Iterator[SiteLine]:
    for job, tail in tails:
        yield from ((job, line) for line in tail.lines(follow=follow))


def _follow_all(tails: Sequence[tuple[SiteJob, LogTail]]) -> Iterator[SiteLine]:
    """Follow all logs at once, with a thread for each, and yield their lines as they come."""
    results: queue.Queue[SiteLine | Exception | None] = queue.Queue(_MAX_BUFFERED_LINES * len(tails))

    def run(job: SiteJob, tail: LogTail) -> None:
        try:
            for line in tail.lines(follow=True):
                results.put((job, line))
            results.put(None)
        except Exception as error:  # noqa: BLE001  (raised again in the thread that reads the queue)
            results.put(error)

    for job, tail in tails:
        threading.Thread(target=run, args=(job, tail), daemon=True).start()
    running = len(tails)
    while running:
        with suppress(queue.Empty):
            match results.get(timeout=1.0):
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case line:
                    yield line
