"""`flargo jobs`: list the jobs on a cluster, or watch them."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live

from flargo.cluster.api import ALL_NAMESPACES, Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.watch import Watch
from flargo.status.diagnosis import STARTING_STAGES, Stage
from flargo.status.reasons import Reason
from flargo.terms import Role
from flargo.tools import terminal
from flargo.tools.cli.archive_options import ArchiveOptions, archive_options, build_reader, fail_if_incomplete
from flargo.tools.cli.cluster_options import (
    all_namespaces_option,
    api_for,
    cluster_options,
    federation_option,
    selector_option,
    site_option,
)
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.output import (
    report_errors,
    write_line,
    write_message,
    write_name,
    write_next_result,
    write_result,
)
from flargo.tools.jobs.job_filter import JobFilter
from flargo.tools.jobs.live_jobs import LiveJobs
from flargo.tools.jobs.reader import Reader
from flargo.tools.jobs.refusals import describe_refusal, is_argo_missing
from flargo.tools.jobs.site_job import SiteJob, join_selectors, selector, trim
from flargo.tools.jobs.table import Column, Row, build_rows, columns, format_attempt

_MIN_REDRAW_SECONDS = 0.5
_FRAME_LINES = 4
"""Lines of a terminal that hold no row of the watched table."""
_EVENT_REFRESH_SECONDS = 10.0
"""The interval at which the events of a starting pod are read again, as the launcher does."""

_MAX_MISSING_SECONDS = 10.0
"""Seconds for which ``--watch`` waits if Argo's API seems to be missing, or something else than the API server answers:
a gateway may do so for a moment."""
_UNKNOWN_STATUS = (
    "SUCCEEDED is a program's end; where no status of FLARE is shown, FLARE's own status may differ: "
    "`nvflare job meta JOB`"
)


@click.command(epilog=epilog("jobs"))
@site_option
@federation_option
@selector_option
@click.option("--watch", "-w", is_flag=True, help="Show changes as they happen, until interrupted.")
@cluster_options
@all_namespaces_option
@archive_options
@output_options(*DOCUMENTS, Format.NAME, Format.WIDE)
@report_errors
def jobs(
    *,
    site: str | None,
    federation: str | None,
    workflow_labels: str | None,
    all_namespaces: bool,
    watch: bool,
    output_format: Format | None,
    archive: ArchiveOptions,
    **cluster: str | None,
) -> None:
    """List the jobs on a cluster: the state of each job at each site, since when, and the reason.

    ROUND is the round of training that has started last, if the Workflow of the job's server is listed.

    Jobs are deleted from the cluster some time after their end. With --argo-server, those that Argo's archive keeps are
    listed too.

    STATE and REASON are the launcher's own terms. docs/operations.md lists the reasons, and `flargo why JOB` explains
    one job. FLARE is FLARE's own final status of the whole job, once it is known: its processes exit with 0 although a
    training script has raised. A job that may be started again after the loss of its pod is shown as its latest attempt
    (ATTEMPT); LOST means that this attempt was lost and that another one may follow.
    """
    api = api_for(**cluster)
    if all_namespaces:
        api = api.in_namespace(ALL_NAMESPACES)
    job_filter = JobFilter(site, federation, workflow_labels or "")
    reader = build_reader(api, archive)
    _reject_archive(archive, watch=watch, all_namespaces=all_namespaces)
    if watch:
        _watch(api, reader, job_filter, output_format)
        return
    site_jobs = [reader.confirmed(job) for job in reader.site_jobs(job_filter.labels, job_filter.workflow_labels)]
    if output_format is Format.NAME:
        for job in site_jobs:
            write_name(Kind.WORKFLOW, job.workflow.name)
    elif output_format is not None and output_format.is_document:
        write_result([job.as_dict() for job in site_jobs], output_format)
    elif site_jobs:
        console = terminal.console()
        view = _View(console, is_wide=output_format is Format.WIDE, has_namespaces=all_namespaces)
        _write_table(view, site_jobs, api.time())
    else:
        others = len(reader.site_jobs(selector())) if job_filter != JobFilter() else 0
        write_message(job_filter.describe_none(api.namespace, others))
    fail_if_incomplete(reader)


def _reject_archive(archive: ArchiveOptions, *, watch: bool, all_namespaces: bool) -> None:
    if archive.server is None:
        return
    if watch:
        raise click.UsageError("--argo-server and --watch cannot be combined: archived jobs do not change.")
    if all_namespaces:
        problem = "--argo-server and --all-namespaces cannot be combined: the archive is read for one namespace."
        raise click.UsageError(problem)


@dataclass(frozen=True, slots=True)
class _View:
    """How the table of jobs is drawn."""

    console: Console
    is_wide: bool
    has_namespaces: bool

    def table(self, site_jobs: Sequence[SiteJob], now: datetime) -> list[terminal.Line]:
        """Return the lines of the table. Each fits the terminal; with ``is_wide``, and in a file, no text is cut."""
        shown = columns(site_jobs, is_wide=self.is_wide, has_namespaces=self.has_namespaces)
        rows = build_rows(site_jobs, now, shown)
        cells = [_cells(job, shown, row) for job, row in zip(site_jobs, rows, strict=True)]
        is_limited = self.console.is_terminal and not self.is_wide
        return terminal.table(shown, cells, self.console.width if is_limited else None)


def _write_table(view: _View, site_jobs: Sequence[SiteJob], now: datetime) -> None:
    for line in view.table(site_jobs, now):
        terminal.write(view.console, line)
    if any(job.reason is Reason.SUCCEEDED and job.flare is None for job in site_jobs):
        write_message(_UNKNOWN_STATUS)


def _cells(job: SiteJob, shown: Sequence[Column], row: Row) -> list[terminal.Cell]:
    styles = {"STATE": _style(job), "REASON": _style(job), "FLARE": _flare_style(job)}
    return [(cell, styles.get(column.name, "")) for column, cell in zip(shown, row, strict=True)]


def _style(job: SiteJob) -> str:
    if job.may_start_again:
        return "yellow"
    if job.reason is Reason.SUCCEEDED:
        # The program's end is no success if FLARE says that the job has failed.
        return "yellow" if job.flare is not None and not job.flare.is_success else "green"
    if job.reason is not None:
        return "red"
    return "bold green" if job.stage is Stage.RUNNING else "yellow"


def _flare_style(job: SiteJob) -> str:
    if job.flare is None:
        return ""
    return "green" if job.flare.is_success else "red"


# --- with --watch


class _Confirmations:
    """Confirms jobs whose state the two watches cannot tell, with no more reads than there are changes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._confirmed: dict[tuple[object, ...], SiteJob] = {}
        """Confirmed jobs by the versions of their objects."""

    def confirm_all(self, site_jobs: Sequence[SiteJob]) -> list[SiteJob]:
        """Return the jobs as the launcher sees them."""
        previous, self._confirmed = self._confirmed, {}
        return [self._confirm(job, previous) for job in site_jobs]

    def _confirm(self, job: SiteJob, previous: dict[tuple[object, ...], SiteJob]) -> SiteJob:
        is_starting = job.stage in STARTING_STAGES and job.reason is None
        if not (job.needs_confirmation or is_starting):
            return job
        refresh = int(time.monotonic() / _EVENT_REFRESH_SECONDS) if is_starting else 0
        key = (job.workflow.uid, job.workflow.version, job.pod.version if job.pod else 0, refresh)
        try:
            self._confirmed[key] = previous[key] if key in previous else self._reader.confirmed(job)
        except ApiError as error:
            if not error.is_transient:
                raise
            return job  # it is confirmed once the API server answers again
        return self._confirmed[key]


def _watch(api: Api, reader: Reader, job_filter: JobFilter, output_format: Format | None) -> None:
    # The request also shows at once whether the API server answers.
    clock_offset = api.time() - datetime.now(UTC)
    change_event, stop_event = threading.Event(), threading.Event()
    live_jobs = LiveJobs(change_event.set)
    workflow_labels = join_selectors(job_filter.labels, job_filter.workflow_labels)
    for kind, labels in ((Kind.WORKFLOW, workflow_labels), (Kind.POD, job_filter.labels)):
        run = Watch(api, kind, labels, trim, live_jobs, stop_event.wait, time.monotonic).run
        threading.Thread(target=run, name=f"flargo-{kind.value[1]}", daemon=True).start()
    console = terminal.console()
    snapshots = _snapshots(live_jobs, reader, change_event)
    try:
        is_wide = output_format is Format.WIDE
        if console.is_interactive and (output_format is None or is_wide):
            view = _View(console, is_wide=is_wide, has_namespaces=api.namespace == ALL_NAMESPACES)
            _draw_snapshots(snapshots, live_jobs, view, clock_offset)
        else:
            _write_changes(snapshots, output_format)
    finally:
        stop_event.set()


def _snapshots(live_jobs: LiveJobs, reader: Reader, change_event: threading.Event) -> Iterator[list[SiteJob]]:
    """Yield the jobs whenever something may have changed. Raises an error that keeps the watches from starting."""
    confirmations = _Confirmations(reader)
    site_jobs: list[SiteJob] = []
    deadline = time.monotonic() + _MAX_MISSING_SECONDS
    while True:
        has_changed = change_event.wait(1.0)
        change_event.clear()
        error = live_jobs.watch_error
        if error is not None and not live_jobs.is_synced:
            is_other_server = (error.is_foreign or is_argo_missing(error)) and time.monotonic() > deadline
            if is_other_server or not error.is_transient:
                raise error
        if live_jobs.is_synced:
            site_jobs = live_jobs.site_jobs() if has_changed else site_jobs
            yield confirmations.confirm_all(site_jobs)
        time.sleep(_MIN_REDRAW_SECONDS)


def _draw_snapshots(
    snapshots: Iterator[list[SiteJob]], live_jobs: LiveJobs, view: _View, clock_offset: timedelta
) -> None:
    with Live(console=view.console, auto_refresh=False) as live:
        for site_jobs in snapshots:
            newest = site_jobs[-max(1, view.console.height - _FRAME_LINES) :]
            table = view.table(newest, datetime.now(UTC) + clock_offset)
            live.update(Group(*table, *_notes(site_jobs, newest, live_jobs.watch_error)), refresh=True)


def _notes(
    site_jobs: Sequence[SiteJob], newest: Sequence[SiteJob], watch_error: ApiError | None
) -> Iterator[RenderableType]:
    """Yield the lines under the table: that rows are missing, or that a watch is lost."""
    if not site_jobs:
        yield terminal.line(("No jobs.", "dim"))
    if len(site_jobs) > len(newest):
        yield terminal.line((f"{len(site_jobs) - len(newest)} older jobs are not shown", "dim"))
    if watch_error is not None:
        note = f"watch lost, reconnecting: {describe_refusal(watch_error)}"
        yield terminal.line((note, "red"), no_wrap=True, overflow="ellipsis")


def _write_changes(snapshots: Iterator[list[SiteJob]], output_format: Format | None) -> None:
    """Write a line or a document for each change of a job. A new attempt is a change of its job."""
    previous: dict[str, SiteJob] = {}
    is_document = output_format is not None and output_format.is_document
    for site_jobs in snapshots:
        for job in site_jobs:
            old = previous.get(job.workflow.uid)
            is_changed = old is None or _shown(old) != _shown(job)
            if is_changed or (is_document and old is not None and old.pod != job.pod):
                _write_change(job, job.state, output_format)
        shown = {attempt.workflow.uid for job in site_jobs for attempt in job.attempts}
        for uid in previous.keys() - shown:
            _write_change(previous[uid], "GONE", output_format)
        previous = {job.workflow.uid: job for job in site_jobs}


def _shown(job: SiteJob) -> tuple[object, ...]:
    """Return what a line about a change shows."""
    # Each of the job's sites has the same round, and one line about it is enough.
    return job.state, job.reason, job.flare, job.rounds if job.role == Role.SERVER else None


def _write_change(job: SiteJob, state: str, output_format: Format | None) -> None:
    if output_format is Format.NAME:
        write_name(Kind.WORKFLOW, job.workflow.name)
    elif output_format is None or output_format is Format.WIDE:
        write_line(_format_change(job, state, is_wide=output_format is Format.WIDE))
    else:
        write_next_result({**job.as_dict(), "state": state}, output_format)


def _format_change(job: SiteJob, state: str, *, is_wide: bool) -> str:
    since = f"{job.since:%H:%M:%S}" if job.since else "-"
    cells = [since, job.job_id, job.site, state, job.reason.name if job.reason else ""]
    cells += [f"FLARE {job.flare.short_text}"] if job.flare else []
    cells += [job.rounds.text] if job.rounds else []
    cells += [f"attempt {format_attempt(job)}"] if job.max_attempts > 1 else []
    cells += [f"on {job.node}"] if is_wide and job.node else []
    return "  ".join(cells).rstrip()
