"""The table of jobs that `flargo jobs` shows. Pure."""

from collections.abc import Sequence
from datetime import datetime

from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.site_job import SiteJob, short_ids

_COLUMNS = ("JOB", "NAME", "SITE", "ROLE", "STUDY", "STATE", "REASON", "ATTEMPT", "SINCE", "NODE", "GPUS")
Row = tuple[str, ...]
"""One cell for each of the columns."""


def columns(jobs: Sequence[SiteJob]) -> Row:
    """Return the names of the columns. ATTEMPT is one only if a job may have several attempts."""
    return tuple(name for name in _COLUMNS if name != "ATTEMPT" or any(job.max_attempts > 1 for job in jobs))


def build_rows(jobs: Sequence[SiteJob], now: datetime) -> list[Row]:
    """Build a row for each job, in the jobs' order. The column SINCE is relative to ``now``."""
    short, names = short_ids(job.job_id for job in jobs), columns(jobs)
    cells = (dict(zip(_COLUMNS, _build_cells(job, short[job.job_id], now), strict=True)) for job in jobs)
    return [tuple(each[name] or "-" for name in names) for each in cells]


def format_lines(header: Row, rows: Sequence[Row]) -> list[str]:
    """Format the header and the rows as plain text, one line each, with aligned columns."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def format_attempt(job: SiteJob) -> str:
    """Return which attempt a job is, as "2 of 3"; empty if it may have only one."""
    return f"{job.number} of {job.max_attempts}" if job.max_attempts > 1 else ""


def _build_cells(job: SiteJob, short_id: str, now: datetime) -> Row:
    gpus = ", ".join(count if name == "nvidia.com/gpu" else f"{count} {name}" for name, count in job.gpus.items())
    return (
        short_id,
        job.name,
        job.site,
        job.role,
        job.study,
        job.state,
        job.reason.name if job.reason else "",
        format_attempt(job),
        f"{format_duration(now - job.since)} ago" if job.since else "",
        job.node,
        gpus,
    )
