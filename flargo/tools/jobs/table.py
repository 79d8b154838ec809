"""The table of jobs that `flargo jobs` shows. Pure."""

from collections.abc import Sequence
from datetime import datetime

from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.site_job import SiteJob, short_ids

COLUMNS = ("JOB", "NAME", "SITE", "ROLE", "STUDY", "STATE", "REASON", "SINCE", "NODE", "GPUS")
Row = tuple[str, ...]
"""One cell for each of the COLUMNS."""


def build_rows(jobs: Sequence[SiteJob], now: datetime) -> list[Row]:
    """Build a row for each job, in the jobs' order. The column SINCE is relative to ``now``."""
    short = short_ids(job.job_id for job in jobs)
    return [_build_row(job, short[job.job_id], now) for job in jobs]


def format_lines(rows: Sequence[Row]) -> list[str]:
    """Format the header and the rows as plain text, one line each, with aligned columns."""
    table = [COLUMNS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _build_row(job: SiteJob, short_id: str, now: datetime) -> Row:
    gpus = ", ".join(count if name == "nvidia.com/gpu" else f"{count} {name}" for name, count in job.gpus.items())
    cells = (
        short_id,
        job.name,
        job.site,
        job.role,
        job.study,
        job.stage.label,
        job.reason.name if job.reason else "",
        f"{format_duration(now - job.since)} ago" if job.since else "",
        job.node,
        gpus,
    )
    return tuple(cell or "-" for cell in cells)
