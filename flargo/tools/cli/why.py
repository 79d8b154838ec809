"""`flargo why`: explain what happened to a job, with the evidence and what to do."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.flare.redact import REDACTION
from flargo.text import valid_unicode
from flargo.tools.cli.archive_options import ArchiveOptions, archive_options, build_reader, fail_if_incomplete
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.output import report_errors, write_hanging, write_line, write_name, write_result
from flargo.tools.jobs.explanation import Explanation, explain, needs_log
from flargo.tools.jobs.reader import Reader, find_job
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import SiteJob
from flargo.tools.jobs.table import format_attempt

_LABEL_COLUMNS = 13
Answer = TypeVar("Answer")


@click.command(epilog=epilog("why"))
@click.argument("job")
@click.option("--no-log", is_flag=True, help="Do not read the programs' logs for their last errors.")
@site_option
@cluster_options
@archive_options
@output_options(*DOCUMENTS, Format.NAME)
@report_errors
def why(
    job: str,
    *,
    no_log: bool,
    site: str | None,
    output_format: Format | None,
    archive: ArchiveOptions,
    **cluster: str | None,
) -> None:
    """Explain the state of a job at each site, or why it ended: what happened, the evidence, and what to do.

    The last error in the program's log is shown, unless FLARE counts the job as a success; keys and tokens are blanked.

    JOB is FLARE's job id, an unambiguous prefix of it, or the name of a Workflow. With --argo-server, jobs that were
    deleted from the cluster are found too.
    """
    reader = build_reader(api_for(**cluster), archive)
    site_jobs = find_job(reader, job, site)
    if output_format is Format.NAME:
        for each in site_jobs:
            write_name(Kind.WORKFLOW, each.workflow.name)
        fail_if_incomplete(reader)
        return
    reports = [_report(reader, each, with_log=not no_log) for each in site_jobs]
    if output_format is not None:
        write_result([each.as_dict() for each in reports], output_format)
    else:
        first = reports[0].explanation.job
        study = f"(study {first.study})" if first.study else ""
        write_line(" ".join(filter(None, (f"job {first.job_id}", first.name, study))))
        for report in reports:
            _write_report(report)
    fail_if_incomplete(reader)


class _Report(NamedTuple):
    """The explanation of a job at a site, and what could not be read for it: it does not need everything."""

    explanation: Explanation
    event_problem: str
    log_problem: str

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON for programs has it."""
        problems = {"events_unread": self.event_problem or None, "log_unread": self.log_problem or None}
        return {**self.explanation.as_dict(), **problems}


def _report(reader: Reader, job: SiteJob, *, with_log: bool) -> _Report:
    events, event_problem = _read(lambda: reader.events(job))
    log, log_problem = _read(lambda: reader.log(job)) if with_log and needs_log(job) else (None, "")
    # As a whole, before it is split: a key has several lines.
    return _Report(explain(job, events or (), REDACTION.redact(valid_unicode(log or ""))), event_problem, log_problem)


def _read(read: Callable[[], Answer]) -> tuple[Answer | None, str]:
    """Return what was read; or None, and why it cannot be read."""
    try:
        return read(), ""
    except ApiError as error:
        return None, describe_refusal(error)


def _write_report(report: _Report) -> None:
    explanation = report.explanation
    job, verdict = explanation.job, explanation.job.final_verdict
    state = job.reason.name if job.reason else job.state
    state = f"{job.state} ({state})" if job.may_start_again else state
    attempt = f", attempt {format_attempt(job)}" if job.max_attempts > 1 else ""
    code = f", FLARE hears {verdict.code}" if verdict else ""
    status = f", FLARE says {job.flare.text}" if job.flare else ""
    write_line("")
    write_hanging(f"{job.site} ({job.role}){attempt}: ", f"{state}{code}{status}")
    rows = [
        ("what happened", explanation.summary),
        *explanation.evidence,
        ("events", report.event_problem),
        ("log", report.log_problem),
    ]
    for label, text in rows:
        _write_row(label, text)
    _write_error(explanation.last_error)
    _write_row("what to do", explanation.remedy)


def _write_error(error: str) -> None:
    first, *rest = error.split("\n")
    _write_row("last error", first)
    for line in rest:
        # Not wrapped: it is code, and its indentation means something.
        write_line(f"  {'':{_LABEL_COLUMNS}}  {line}")


def _write_row(label: str, text: str) -> None:
    if text:
        write_hanging(f"  {label:{_LABEL_COLUMNS}}  ", text)
