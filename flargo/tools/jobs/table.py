"""The table of jobs that `flargo jobs` shows. Pure.

On a terminal each row must fit one line of 80 columns, whatever the jobs are called. So only what tells rows apart and
what people look for first is always shown; the rest comes with ``-o wide``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from flargo.tools.jobs.durations import format_age
from flargo.tools.jobs.site_job import SiteJob, short_ids


class Fit(Enum):
    """What may happen to a column if the terminal is too narrow."""

    FULL = 1
    """Nothing: the cells are always shown, in full."""
    MIDDLE = 2
    """The middle of a long text may be left out, but no two texts may become equal."""
    END = 3
    """The end of a long text may be cut off, or the whole column be left out."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a cell depends on besides its job."""

    now: datetime
    """The time by the API server's clock, to which ages are relative."""
    short_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table."""

    name: str
    cell: Callable[[SiteJob, Moment], str]
    """Returns the text of a cell; empty if there is nothing to say."""
    fit: Fit = Fit.FULL
    is_wide: bool = False
    """True: shown only with ``-o wide``."""
    applies: Callable[[SiteJob], bool] = lambda _: True
    """The column is left out if it applies to none of the jobs."""


Row = tuple[str, ...]
"""One cell for each of the columns."""


def format_attempt(job: SiteJob) -> str:
    """Return which attempt a job is, as "2 of 3"; empty if it may have only one."""
    return f"{job.number} of {job.max_attempts}" if job.max_attempts > 1 else ""


def _format_gpus(job: SiteJob) -> str:
    return ", ".join(count if name == "nvidia.com/gpu" else f"{count} {name}" for name, count in job.gpus.items())


def _format_age(since: datetime | None, now: datetime) -> str:
    return format_age(now - since) if since else ""


_NAMESPACE = Column("NAMESPACE", lambda job, _: job.namespace)
_COLUMNS = (
    Column("JOB", lambda job, moment: moment.short_ids[job.job_id]),
    Column("NAME", lambda job, _: job.name, Fit.END),
    Column("SITE", lambda job, _: job.site, Fit.MIDDLE),
    Column("STATE", lambda job, _: job.state),
    Column("REASON", lambda job, _: job.reason.name if job.reason else ""),
    Column(
        "FLARE",
        lambda job, _: job.flare.short_text if job.flare else "",
        applies=lambda job: job.flare is not None,
    ),
    Column(
        "ROUND", lambda job, _: job.rounds.note if job.rounds else "", Fit.END, applies=lambda job: bool(job.rounds)
    ),
    Column("ATTEMPT", lambda job, _: format_attempt(job), applies=lambda job: job.max_attempts > 1),
    Column("AGE", lambda job, moment: _format_age(job.created_at, moment.now)),
    Column("ROLE", lambda job, _: job.role, is_wide=True),
    Column("STUDY", lambda job, _: job.study, is_wide=True),
    Column("SINCE", lambda job, moment: _format_age(job.since, moment.now), is_wide=True),
    Column("NODE", lambda job, _: job.node, is_wide=True),
    Column("GPUS", lambda job, _: _format_gpus(job), is_wide=True),
)


def columns(jobs: Sequence[SiteJob], *, is_wide: bool = False, has_namespaces: bool = False) -> tuple[Column, ...]:
    """Return the columns of a table of these jobs.

    Args:
        jobs: the jobs.
        is_wide: include the columns of ``-o wide``.
        has_namespaces: begin with the namespace, as the jobs may be of several.
    """
    shown = [each for each in _COLUMNS if (is_wide or not each.is_wide) and any(map(each.applies, jobs))]
    return (_NAMESPACE, *shown) if has_namespaces else (*shown,)


def build_rows(jobs: Sequence[SiteJob], now: datetime, shown: Sequence[Column]) -> list[Row]:
    """Build a row for each job, in the jobs' order."""
    moment = Moment(now, short_ids(job.job_id for job in jobs))
    return [tuple(column.cell(job, moment) or "-" for column in shown) for job in jobs]
