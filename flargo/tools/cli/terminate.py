"""`flargo terminate`: end a job, as `argo terminate` does."""

import click

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.tools.cli.cluster_options import api_for, cluster_options, site_option
from flargo.tools.cli.output import PROBLEM, data, data_json, json_option, reporting
from flargo.tools.jobs.reader import ClusterReader, find
from flargo.tools.jobs.refusals import refusal
from flargo.tools.jobs.site_job import SiteJob
from flargo.tools.jobs.termination import TerminateResult, patch, standing


@click.command()
@click.argument("job")
@site_option
@cluster_options
@json_option
@reporting
def terminate(
    job: str,
    *,
    site: str | None,
    as_json: bool,
    **where: str | None,
) -> None:
    """End a job: Argo is told to, and the FLARE parent hears of it and kills what does not heed.

    JOB is FLARE's job id, a beginning of it that no other job has, or the name of a Workflow. FLARE hears that the job
    was aborted. With --site it is ended there only, and whether the others go on is FLARE's to decide.
    """
    api = api_for(**where)
    done = [(part, *_end(api, part)) for part in find(ClusterReader(api), job, site)]
    if as_json:
        rows = [{**part.plain(), "did": did.name, "problem": why or None} for part, did, why in done]
        data_json(rows)
    else:
        for part, did, why in done:
            data(f"{part.site}: Workflow {part.workflow.name} {did.value}{f': {why}' if why else ''}")
    if any(did is TerminateResult.FAILED for _, did, _ in done):
        raise SystemExit(PROBLEM)


def _end(api: Api, part: SiteJob) -> tuple[TerminateResult, str]:
    did = standing(part)
    if did is not TerminateResult.TOLD:
        return did, (part.reason.name if part.reason and did is TerminateResult.OVER else "")
    try:
        api.merge(Kind.WORKFLOW, part.workflow.name, patch(part))
    except ApiError as error:
        if error.not_found or error.conflict:  # its name may be another's by now
            return TerminateResult.GONE, ""
        return TerminateResult.FAILED, refusal(error)
    return did, ""
