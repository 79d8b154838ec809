"""`flargo jobs`: the jobs on a cluster, in a table that can be watched."""

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.watch import Watch
from flargo.job.validate import InvalidInput
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.tools import terminal
from flargo.tools.cli.archive_options import Place, archive_options, reader, troubled
from flargo.tools.cli.cluster_options import api_for, cluster_options, federation_option, site_option
from flargo.tools.cli.output import data, data_json, data_line, json_option, reporting, say
from flargo.tools.jobs.live_jobs import LiveJobs
from flargo.tools.jobs.reader import SLOW, Reader
from flargo.tools.jobs.refusals import refusal
from flargo.tools.jobs.site_job import SiteJob, selector, trim
from flargo.tools.jobs.table import COLUMNS, Row, lines, rows

_REDRAW = 0.5
"""Seconds between two pictures, at least."""
_FRAME = 4
"""Lines of a terminal that are not the watched table's rows."""
_EVENTS_AGAIN = 10.0
"""Seconds after which a pod's events are asked for again, as the launcher does while it starts."""


@click.command()
@site_option
@federation_option
@click.option("--watch", "-w", is_flag=True, help="Show them as they change, until interrupted.")
@cluster_options
@archive_options
@json_option
@reporting
def jobs(
    *,
    site: str | None,
    federation: str | None,
    watch: bool,
    as_json: bool,
    archive: Place,
    **where: str | None,
) -> None:
    """List the jobs on a cluster: how each is at each site, since when, and why.

    What is over long ago is gone from there; with --argo-server, what Argo's archive keeps of it is listed as well.

    STATE and REASON are the launcher's own words; each REASON is in docs/operations.md, and `flargo why JOB` says more.
    """
    api = api_for(**where)
    labels = selector(site, federation)
    source = reader(api, archive)
    if watch:
        if archive.server is not None:
            raise InvalidInput(
                "--argo-server", archive.server, "nothing with --watch: what is archived does not change"
            )
        _watch(api, source, labels, as_json=as_json)
        return
    found = [source.settled(part) for part in source.parts(labels)]
    if as_json:
        data_json([part.plain() for part in found])
    else:
        _print(found, api)
    troubled(source)


def _print(found: Sequence[SiteJob], api: Api) -> None:
    console = terminal.console()
    if not found:
        say(f"No jobs in namespace {api.namespace}.")
    elif console.is_terminal:
        terminal.draw(console, _table(found, api.time()))
    else:
        for line in lines(rows(found, api.time())):
            data(line)


def _table(parts: Sequence[SiteJob], now: datetime) -> RenderableType:
    return terminal.table(COLUMNS, (_cells(part, row) for part, row in zip(parts, rows(parts, now), strict=True)))


def _cells(part: SiteJob, row: Row) -> list[terminal.Cell]:
    styled = {"STATE", "REASON"}
    return [(cell, _style(part) if name in styled else "") for name, cell in zip(COLUMNS, row, strict=True)]


def _style(part: SiteJob) -> str:
    if part.reason is not None:
        return "green" if part.reason is Reason.SUCCEEDED else "red"
    return "bold green" if part.stage is Stage.RUNNING else "yellow"


# --- watched


class _Settled:
    """Asks what two streams can't tell, and no more often than something has changed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[tuple[object, ...], SiteJob] = {}

    def parts(self, found: Sequence[SiteJob]) -> list[SiteJob]:
        """The parts, as the launcher sees them."""
        known, self._known = self._known, {}
        return [self._settle(part, known) for part in found]

    def _settle(self, part: SiteJob, known: dict[tuple[object, ...], SiteJob]) -> SiteJob:
        starts = part.stage in SLOW and part.reason is None
        if not (part.is_unsure or starts):
            return part
        again = int(time.monotonic() / _EVENTS_AGAIN) if starts else 0
        key = (part.workflow.uid, part.workflow.version, part.pod.version if part.pod else 0, again)
        try:
            self._known[key] = known[key] if key in known else self._reader.settled(part)
        except ApiError as error:
            if not error.transient:
                raise
            return part  # until it answers again
        return self._known[key]


def _watch(api: Api, reader: Reader, labels: str, *, as_json: bool) -> None:
    ahead = api.time() - datetime.now(UTC)  # and to see that there is somebody to be watched
    news, over = threading.Event(), threading.Event()
    board = LiveJobs(news.set)
    for kind in (Kind.WORKFLOW, Kind.POD):
        run = Watch(api, kind, labels, trim, board, over.wait, time.monotonic).run
        threading.Thread(target=run, name=f"flargo-{kind.value[1]}", daemon=True).start()
    console = terminal.console()
    try:
        if as_json or not console.is_terminal:
            _tell(board, reader, news, as_json=as_json)
        else:
            _show(board, reader, news, console, ahead)
    finally:
        over.set()


def _seen(board: LiveJobs, reader: Reader, news: threading.Event) -> Iterator[list[SiteJob]]:
    """The jobs, each time that something may have changed. Raises what keeps the watches from beginning."""
    settled, found = _Settled(reader), list[SiteJob]()
    while True:
        changed = news.wait(1.0)
        news.clear()
        trouble = board.trouble
        if trouble is not None and not board.in_sync and not trouble.transient:
            raise trouble
        if board.in_sync:
            found = board.parts() if changed else found
            yield settled.parts(found)
        time.sleep(_REDRAW)


def _show(board: LiveJobs, reader: Reader, news: threading.Event, console: Console, ahead: timedelta) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for found in _seen(board, reader, news):
            shown = found[::-1][: max(1, console.height - _FRAME)]
            live.update(Group(_table(shown, datetime.now(UTC) + ahead), *_notes(board, found, shown)), refresh=True)


def _notes(board: LiveJobs, found: Sequence[SiteJob], shown: Sequence[SiteJob]) -> Iterator[RenderableType]:
    """What is to be known beside the table."""
    if not found:
        yield terminal.line(("No jobs.", "dim"))
    if len(found) > len(shown):
        yield terminal.line((f"and {len(found) - len(shown)} older ones", "dim"))
    trouble = board.trouble
    if trouble is not None:
        told = f"not heard just now: {refusal(trouble)}"
        yield terminal.line((told, "red"), no_wrap=True, overflow="ellipsis")


def _tell(board: LiveJobs, reader: Reader, news: threading.Event, *, as_json: bool) -> None:
    """One line for each change."""
    before: dict[str, SiteJob] = {}
    for found in _seen(board, reader, news):
        now = {str(part.workflow.uid): part for part in found}
        for uid, part in now.items():
            old = before.get(uid)
            if old is None or (old.stage, old.reason, old.pod) != (part.stage, part.reason, part.pod):
                if as_json:
                    data_line(part.plain())
                elif old is None or (old.stage, old.reason) != (part.stage, part.reason):
                    data(_line(part))
        for uid in before.keys() - now.keys():
            data_line({**before[uid].plain(), "state": "GONE"}) if as_json else data(_line(before[uid], "GONE"))
        before = {**now}


def _line(part: SiteJob, state: str = "") -> str:
    when = f"{part.since:%H:%M:%S}" if part.since else "-"
    return "  ".join(
        (when, part.job_id, part.site, state or part.stage.label, part.reason.name if part.reason else "")
    ).rstrip()
