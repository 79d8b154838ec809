"""`flargo sweep`: delete objects that no living FLARE parent can still need."""

from datetime import timedelta

import click

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, Meaning
from flargo.control.parse_error_log import ParseErrorLog
from flargo.status.views import is_credentials_secret, uid_of
from flargo.terms import Uid
from flargo.tools.cli.cluster_options import (
    api_for,
    cluster_options,
    describe_place,
    federation_option,
    selector_option,
    site_option,
    write_place,
)
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.option_types import Age
from flargo.tools.cli.output import EXIT_PROBLEM, report_errors, write_hanging, write_message, write_name, write_result
from flargo.tools.jobs.job_filter import JobFilter
from flargo.tools.jobs.refusals import describe_refusal
from flargo.tools.jobs.site_job import join_selectors, site_jobs, trim
from flargo.tools.jobs.sweepable import MIN_AGE, Sweepable, find_sweepable

_KIND_NAMES = {Kind.WORKFLOW: "Workflow", Kind.POD: "pod", Kind.SECRET: "Secret"}


@click.command(epilog=epilog("sweep"))
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
@click.option(
    "--older-than",
    type=Age(MIN_AGE),
    metavar="AGE",
    help="Also delete Workflows, with their pods and logs, that ended at least so long ago: 12h, 30d, 8w.",
)
@site_option
@federation_option
@selector_option
@cluster_options
@output_options(*DOCUMENTS, Format.NAME)
@report_errors
def sweep(
    *,
    dry_run: bool,
    older_than: timedelta | None,
    site: str | None,
    federation: str | None,
    workflow_labels: str | None,
    output_format: Format | None,
    **cluster: str | None,
) -> None:
    """Delete leftovers of FLARE parents that are gone, an hour after a living parent would have deleted them.

    Leftovers are suspended Workflows of launches that were never completed, credentials of jobs that have ended, and
    pods that still run although their Workflow has ended. A job that runs or waits is never touched, since its parent
    may be alive.
    """
    api = api_for(**cluster)
    existing = _existing(api, _find(api, JobFilter(site, federation, workflow_labels or ""), older_than))
    if existing and (output_format is None or not output_format.is_document):
        write_place(api)
    results = [(each, problem if dry_run else _delete(api, each, uid, problem)) for each, uid, problem in existing]
    if output_format is Format.NAME:
        for each, problem in results:
            if problem:
                write_message(f"Error: {each.name}: {problem}")
            else:
                write_name(each.kind, each.name)
    elif output_format is not None:
        place = {"server": api.server, "namespace": api.namespace}
        write_result([{**place, **_row(each, problem, dry_run=dry_run)} for each, problem in results], output_format)
    else:
        for each, problem in results:
            verb = "would delete" if dry_run else "could not delete" if problem else "deleted"
            job = f"job {each.job.job_id} at {each.job.site}"
            write_hanging(f"{verb} ", f"{_KIND_NAMES[each.kind]} {each.name} ({job}): {problem or each.why}")
        if not results:
            write_message(f"Nothing to sweep: {describe_place(api)}.")
    if any(problem for _, problem in results):
        raise SystemExit(EXIT_PROBLEM)


def _find(api: Api, job_filter: JobFilter, age: timedelta | None) -> list[Sweepable]:
    workflow_labels = join_selectors(job_filter.labels, job_filter.workflow_labels)
    workflows, _ = api.list(Kind.WORKFLOW, workflow_labels, trim=trim)
    pods, _ = api.list(Kind.POD, job_filter.labels, trim=trim)
    return find_sweepable(site_jobs(workflows, pods, ParseErrorLog()), pods, api.time(), age)


def _existing(api: Api, sweepable: list[Sweepable]) -> list[tuple[Sweepable, Uid | None, str]]:
    """Return the objects that exist, each with its uid, or with the reason why it could not be read.

    A failed read affects no other object. A Secret counts only if flargo made it for that very Workflow.
    """
    existing: list[tuple[Sweepable, Uid | None, str]] = []
    for each in sweepable:
        if each.uid is not None:
            existing.append((each, each.uid, ""))
            continue
        try:
            meta = api.metadata(each.kind, each.name)
        except ApiError as error:
            if error.meaning not in {Meaning.NOT_FOUND, Meaning.INVALID_TARGET}:
                existing.append((each, None, describe_refusal(error)))
            continue
        if is_credentials_secret(meta, each.job.workflow.name, each.job.workflow.uid):
            existing.append((each, uid_of({"metadata": meta}), ""))
    return existing


def _delete(api: Api, each: Sweepable, uid: Uid | None, problem: str) -> str:
    """Delete the object with that uid, and return why it could not be deleted; empty if it is gone."""
    if uid is None:
        return problem
    try:
        api.delete(each.kind, each.name, uid, each.grace)
    except ApiError as error:
        if error.meaning not in GONE:
            return describe_refusal(error)
    return ""


def _row(each: Sweepable, problem: str, *, dry_run: bool) -> dict[str, object]:
    return {
        "kind": _KIND_NAMES[each.kind],
        "name": each.name,
        "job": each.job.job_id,
        "site": each.job.site,
        "why": each.why,
        "deleted": not dry_run and not problem,
        "problem": problem or None,
    }
