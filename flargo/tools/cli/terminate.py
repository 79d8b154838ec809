"""`flargo terminate`: end a job, as `argo terminate` does."""

import click

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option, write_place
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.output import EXIT_PROBLEM, report_errors, write_line, write_message, write_name, write_result
from flargo.tools.jobs.reader import ClusterReader, find_job
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import SiteJob
from flargo.tools.jobs.termination import TerminateResult, describe_end, expected_result, terminate_patch


@click.command(epilog=epilog("terminate"))
@click.argument("job")
@site_option
@cluster_options
@output_options(*DOCUMENTS, Format.NAME)
@report_errors
def terminate(
    job: str,
    *,
    site: str | None,
    output_format: Format | None,
    **cluster: str | None,
) -> None:
    """End a job by terminating its Workflows. The FLARE parent kills what does not stop by itself.

    JOB is FLARE's job id, an unambiguous prefix of it, or the name of a Workflow. FLARE treats the job as aborted. With
    --site it ends at that site only; whether the other sites go on is FLARE's decision.

    Of a job that was started again, the running attempt is ended, and no other one follows. Between two attempts there
    is nothing to terminate: abort the job in FLARE, or repeat the command once the next attempt shows.
    """
    api = api_for(**cluster)
    site_jobs = find_job(ClusterReader(api), job, site)
    if output_format is None or not output_format.is_document:
        write_place(api)
    results = [(each, *_terminate(api, each)) for each in site_jobs]
    if output_format is None or output_format is Format.NAME:
        _write_lines(results, output_format)
    else:
        place = {"server": api.server, "namespace": api.namespace}
        rows = [
            {**each.as_dict(), **place, "did": result.value, "problem": detail or None}
            for each, result, detail in results
        ]
        write_result(rows, output_format)
    if any(result is TerminateResult.FAILED or each.may_start_again for each, result, _ in results):
        raise SystemExit(EXIT_PROBLEM)


def _write_lines(results: list[tuple[SiteJob, TerminateResult, str]], output_format: Format | None) -> None:
    """Write a line for each Workflow. With ``-o name`` these are the names of those that end or have ended."""
    for each, result, detail in results:
        line = f"{each.site}: Workflow {each.workflow.name} {result.text}{f': {detail}' if detail else ''}"
        if output_format is None:
            write_line(line)
        elif result is TerminateResult.FAILED:
            write_message(f"Error: {line}")
        else:
            write_name(Kind.WORKFLOW, each.workflow.name)


def _terminate(api: Api, job: SiteJob) -> tuple[TerminateResult, str]:
    """Terminate a job's Workflow if it has to be; return the result and its detail."""
    result = expected_result(job)
    if result is not TerminateResult.REQUESTED:
        # The parent itself may have shut a lost attempt's Workflow down, which keeps no other attempt from beginning.
        is_lost = result is TerminateResult.ALREADY_ENDING and job.may_start_again
        return result, describe_end(job) if is_lost or result is TerminateResult.ALREADY_ENDED else ""
    try:
        api.merge(Kind.WORKFLOW, job.workflow.name, terminate_patch(job))
    except ApiError as error:
        if error.meaning in GONE:
            return TerminateResult.GONE, ""
        return TerminateResult.FAILED, describe_refusal(error)
    return result, ""
