"""`flargo why`: what happened to a job, what shows it, and what to do."""

from collections.abc import Sequence

import click

from flargo.cluster.errors import ApiError
from flargo.terms import Object
from flargo.tools.cli.archive_options import Place, archive_options, reader, troubled
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.output import beside, data, data_json, json_option, reporting
from flargo.tools.jobs.explanation import Explanation, explain
from flargo.tools.jobs.reader import Reader, find
from flargo.tools.jobs.refusals import refusal
from flargo.tools.jobs.site_job import SiteJob

_WIDTH = 13


@click.command()
@click.argument("job")
@site_option
@cluster_options
@archive_options
@json_option
@reporting
def why(
    job: str,
    *,
    site: str | None,
    as_json: bool,
    archive: Place,
    **where: str | None,
) -> None:
    """Explain how a job is, or why it ended: what happened, what shows it, and what to do.

    JOB is FLARE's job id, a beginning of it that no other job has, or the name of a Workflow. With --argo-server it may
    be gone from the cluster.
    """
    source = reader(api_for(**where), archive)
    told = []
    for part in find(source, job, site):
        events, unread = _events(source, part)
        told.append((explain(part, events), unread))
    if as_json:
        data_json([{**each.plain(), "events_unread": unread or None} for each, unread in told])
    else:
        _print(told)
    troubled(source)


def _print(told: Sequence[tuple[Explanation, str]]) -> None:
    first = told[0][0].part
    data(" ".join(filter(None, (f"job {first.job_id}", first.name, f"(study {first.study})" if first.study else ""))))
    for each, unread in told:
        _report(each, unread)


def _events(source: Reader, part: SiteJob) -> tuple[Sequence[Object], str]:
    """A pod's events, or why they can't be read: all else is told without them."""
    try:
        return source.events(part), ""
    except ApiError as error:
        return (), refusal(error)


def _report(told: Explanation, unread: str) -> None:
    part, verdict = told.part, told.part.verdict
    hears = f", FLARE hears {verdict.code}" if verdict else ""
    data("")
    data(f"{part.site} ({part.role}): {(part.reason or part.stage).name}{hears}")
    rows = [("what happened", told.happened), *told.evidence, ("events", unread), ("what to do", told.remedy)]
    for name, said in rows:
        if said:
            beside(f"  {name:{_WIDTH}}  ", said)
