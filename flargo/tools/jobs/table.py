"""Jobs as the rows of a table. Pure."""

from collections.abc import Sequence
from datetime import datetime

from flargo.tools.jobs.site_job import SiteJob, short_ids
from flargo.tools.jobs.sweepable import spell

COLUMNS = ("JOB", "NAME", "SITE", "ROLE", "STUDY", "STATE", "REASON", "SINCE", "NODE", "GPUS")
Row = tuple[str, ...]


def rows(parts: Sequence[SiteJob], now: datetime) -> list[Row]:
    """A row for each, in their order; times are told from ``now``."""
    short = short_ids(part.job_id for part in parts)
    return [_row(part, short[part.job_id], now) for part in parts]


def lines(table: Sequence[Row]) -> list[str]:
    """Plain text, one line a row, with its columns under one another."""
    everything = [COLUMNS, *table]
    widths = [max(len(row[at]) for row in everything) for at in range(len(COLUMNS))]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything
    ]


def _row(part: SiteJob, job: str, now: datetime) -> Row:
    gpus = ", ".join(count if name == "nvidia.com/gpu" else f"{count} {name}" for name, count in part.gpus.items())
    cells = (
        job,
        part.name,
        part.site,
        part.role,
        part.study,
        part.stage.label,
        part.reason.name if part.reason else "",
        f"{spell(now - part.since)} ago" if part.since else "",
        part.node,
        gpus,
    )
    return tuple(cell or "-" for cell in cells)
