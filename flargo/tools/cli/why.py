"""`flargo why`: explain what happened to a job, with the evidence and what to do."""

from collections.abc import Sequence

import click

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.terms import Object
from flargo.tools.cli.archive_options import ArchiveOptions, archive_options, build_reader, fail_if_incomplete
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.output import report_errors, write_hanging, write_line, write_name, write_result
from flargo.tools.jobs.explanation import Explanation, explain
from flargo.tools.jobs.reader import Reader, find_job
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import SiteJob
from flargo.tools.jobs.table import format_attempt

_LABEL_COLUMNS = 13


@click.command()
@click.argument("job")
@site_option
@cluster_options
@archive_options
@output_options(*DOCUMENTS, Format.NAME)
@report_errors
def why(
    job: str,
    *,
    site: str | None,
    output_format: Format | None,
    archive: ArchiveOptions,
    **cluster: str | None,
) -> None:
    """Explain the state of a job at each site, or why it ended: what happened, the evidence, and what to do.

    JOB is FLARE's job id, an unambiguous prefix of it, or the name of a Workflow. With --argo-server, jobs that were
    deleted from the cluster are found too.
    """
    reader = build_reader(api_for(**cluster), archive)
    reports = []
    for site_job in find_job(reader, job, site):
        events, event_problem = _read_events(reader, site_job)
        reports.append((explain(site_job, events), event_problem))
    if output_format is Format.NAME:
        for explanation, _ in reports:
            write_name(Kind.WORKFLOW, explanation.job.workflow.name)
    elif output_format is not None:
        rows = [{**each.as_dict(), "events_unread": event_problem or None} for each, event_problem in reports]
        write_result(rows, output_format)
    else:
        first = reports[0][0].job
        study = f"(study {first.study})" if first.study else ""
        write_line(" ".join(filter(None, (f"job {first.job_id}", first.name, study))))
        for explanation, event_problem in reports:
            _write_report(explanation, event_problem)
    fail_if_incomplete(reader)


def _read_events(reader: Reader, job: SiteJob) -> tuple[Sequence[Object], str]:
    """Return the events of the job's pod, or why they cannot be read. The rest of the report does not need them."""
    try:
        return reader.events(job), ""
    except ApiError as error:
        return (), describe_refusal(error)


def _write_report(explanation: Explanation, event_problem: str) -> None:
    job, verdict = explanation.job, explanation.job.final_verdict
    state = job.reason.name if job.reason else job.state
    state = f"{job.state} ({state})" if job.may_start_again else state
    attempt = f", attempt {format_attempt(job)}" if job.max_attempts > 1 else ""
    code = f", FLARE hears {verdict.code}" if verdict else ""
    write_line("")
    write_line(f"{job.site} ({job.role}){attempt}: {state}{code}")
    rows = [
        ("what happened", explanation.summary),
        *explanation.evidence,
        ("events", event_problem),
        ("what to do", explanation.remedy),
    ]
    for label, text in rows:
        if text:
            write_hanging(f"  {label:{_LABEL_COLUMNS}}  ", text)
