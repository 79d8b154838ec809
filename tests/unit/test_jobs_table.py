"""The table of `flargo jobs` fits a terminal, one line for a row, and still tells the rows apart."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from flargo.log_rounds import parse_note
from flargo.status.reasons import Reason
from flargo.tools import terminal
from flargo.tools.jobs.durations import format_age
from flargo.tools.jobs.flare_status import FlareStatus
from flargo.tools.jobs.site_job import SiteJob, site_jobs
from flargo.tools.jobs.table import build_rows, columns
from tests.harness.objects import Object, job_workflow

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
LONGEST_REASON = max((each.name for each in Reason if each.code is not None), key=len)


def jobs(*sites: str, name: str = "hearts", notes: Object | None = None) -> list[SiteJob]:
    """Return a job that has ended for the reason with the longest name, at each of the sites."""
    notes = {"flargo.dev/ending": LONGEST_REASON, "flargo.dev/job-name": name, **(notes or {})}
    status = {"phase": "Failed", "finishedAt": "2026-01-01T00:00:30Z"}
    workflows = [
        job_workflow(f"job-{number}", site=site, uid=f"w{number}", notes=notes, **status)
        for number, site in enumerate(sites)
    ]
    return site_jobs(workflows, [])


def lines(rows: Sequence[SiteJob], width: int | None = 80, *, is_wide: bool = False) -> list[str]:
    shown = columns(rows, is_wide=is_wide)
    return [line.plain for line in terminal.table(shown, build_rows(rows, NOW, shown), width)]


def test_columns_are_aligned() -> None:
    head, line = lines(site_jobs([job_workflow()], []))
    assert head.split() == ["JOB", "NAME", "SITE", "STATE", "REASON", "AGE"]
    assert head.index("STATE") == line.index("WAITING")


def test_wide_table_adds_columns_at_the_end() -> None:
    head, _ = lines(site_jobs([job_workflow()], []), is_wide=True)
    assert head.split() == ["JOB", "NAME", "SITE", "STATE", "REASON", "AGE", "ROLE", "STUDY", "SINCE", "NODE", "GPUS"]


@pytest.mark.parametrize("name", ["hearts", "brain tumours of all hospitals together", "脑肿瘤" * 20, "x\x1b[31m" * 9])
@pytest.mark.parametrize("site", ["s", "site-1", "charite-radiology-campus-mitte", "university-hospital-of-x-" * 2])
@pytest.mark.parametrize("width", [80, 120])
def test_each_row_fits_one_line(name: str, site: str, width: int) -> None:
    """The longest reason is shown beside them; it is never cut."""
    head, *shown = lines(jobs(f"{site}-1", f"{site}-2", name=name), width)
    assert all(cell_len(line) <= width for line in (head, *shown))
    assert all(LONGEST_REASON in line for line in shown)
    assert {line.split()[0] for line in shown} == {"11111111"}
    assert all(line.endswith("60s") for line in shown)
    assert len({*shown}) == 2, "the rows can be told apart"


@pytest.mark.parametrize("status", ["EXECUTION_EXCEPTION", "FAILED_TO_RUN", "X" * 40])
@pytest.mark.parametrize("progress", ["2/5", "1000000/1000000"])
def test_row_with_all_columns_fits_one_line(status: str, progress: str) -> None:
    """The round is left out before anything else is lost."""
    flare, rounds = FlareStatus(f"FINISHED:{status}"), parse_note(progress)
    sites = ("university-hospital-1", "university-hospital-2")
    rows = [replace(job, flare=flare, rounds=rounds, max_attempts=9) for job in jobs(*sites)]
    head, *shown = lines(rows)
    assert all(cell_len(line) <= 80 for line in (head, *shown)), (head, *shown)
    assert all(LONGEST_REASON in line and "1 of 9" in line for line in shown)
    assert "FLARE" in head
    assert len({*shown}) == 2, "the rows can be told apart"


def test_a_long_name_is_cut_or_left_out() -> None:
    assert "brain-tumours-…" in lines(jobs("charite-radiology-mitte", name="brain-tumours-of-all"))[1]
    assert "NAME" not in lines(jobs("charite-radiology-campus-mitte-1", name="brain-tumours-of-all"))[0]
    assert "hearts" in lines(jobs("site-1"))[1]


def test_sites_stay_distinct_when_cut() -> None:
    """Names that differ only in the middle cannot be shortened there."""
    ends = [line.split()[1] for line in lines(jobs("h" * 50 + "-1", "h" * 50 + "-2"))[1:]]
    assert [each[-4:] for each in ends] == ["hh-1", "hh-2"]
    middles = [f"{'h' * 25}-{number}-{'h' * 25}" for number in "12"]
    assert [line.split()[1] for line in lines(jobs(*middles))[1:]] == middles


def test_a_file_gets_every_text_in_full() -> None:
    name, site = "n" * 60, "s" * 60
    (_, line) = lines(jobs(site, name=name), None)
    assert name in line
    assert site in line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (12000, "3h20m"),
        (28800, "8h"),
        (172799, "47h"),
        (172800, "2d"),
        (270000, "3d3h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages_are_kubectls(seconds: int, text: str) -> None:
    """The values are those of kubectl's own test (k8s.io/apimachinery/pkg/util/duration) and between them."""
    assert format_age(timedelta(seconds=seconds)) == text
