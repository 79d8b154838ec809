"""`flargo sweep`: delete what no living parent can own."""

import re
from datetime import timedelta

import click

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.job.validate import InvalidInput
from flargo.status.views import is_credentials_secret, uid_of
from flargo.terms import Uid
from flargo.tools.cli.cluster_options import api_for, cluster_options, federation_option, site_option
from flargo.tools.cli.output import PROBLEM, beside, data_json, json_option, reporting, say
from flargo.tools.jobs.refusals import refusal
from flargo.tools.jobs.site_job import selector, site_jobs, trim
from flargo.tools.jobs.sweepable import OVERDUE, Sweepable, sweepable

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_WORDS = {Kind.WORKFLOW: "Workflow", Kind.POD: "pod", Kind.SECRET: "Secret"}


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--older-than", metavar="AGE", help="Also finished Workflows, with pods and logs, so old: 12h, 30d, 8w.")
@site_option
@federation_option
@cluster_options
@json_option
@reporting
def sweep(
    *,
    dry_run: bool,
    older_than: str | None,
    site: str | None,
    federation: str | None,
    as_json: bool,
    **where: str | None,
) -> None:
    """Delete what no living FLARE parent can own, an hour after each parent would have seen to it.

    That is: launches that were broken off (suspended Workflows that were never released), credentials of jobs that have
    ended, and pods that run on though their Workflow has ended. What runs or waits is left alone: its parent may live.
    """
    age = _age(older_than)
    api = api_for(**where)
    found = _present(api, _found(api, selector(site, federation), age))
    done = [(each, problem if dry_run else _delete(api, each, uid, problem)) for each, uid, problem in found]
    if as_json:
        data_json([_plain(each, problem, dry_run=dry_run) for each, problem in done])
    else:
        for each, problem in done:
            verb = "would delete" if dry_run else "could not delete" if problem else "deleted"
            job = f"job {each.part.job_id} at {each.part.site}"
            beside(f"{verb} ", f"{_WORDS[each.kind]} {each.name} ({job}): {problem or each.why}")
        if not done:
            say("Nothing to sweep.")
    if any(problem for _, problem in done):
        raise SystemExit(PROBLEM)


def _age(said: str | None) -> timedelta | None:
    if said is None:
        return None
    parsed = re.fullmatch(r"(\d{1,6})([hdw])", said)
    if parsed is None or int(parsed[1]) * _UNITS[parsed[2]] < OVERDUE:
        raise InvalidInput("--older-than", said, "hours, days or weeks, at least an hour, as in 12h, 30d or 8w")
    return int(parsed[1]) * _UNITS[parsed[2]]


def _found(api: Api, labels: str, age: timedelta | None) -> list[Sweepable]:
    workflows, _ = api.list(Kind.WORKFLOW, labels, trim=trim)
    pods, _ = api.list(Kind.POD, labels, trim=trim)
    return sweepable(site_jobs(workflows, pods, ParseErrorLog()), pods, api.time(), age)


def _present(api: Api, found: list[Sweepable]) -> list[tuple[Sweepable, Uid | None, str]]:
    """Those that are there, each with its uid, or with why it could not be looked at; that holds up no other one.

    A Secret counts if flargo made it for that very Workflow.
    """
    there: list[tuple[Sweepable, Uid | None, str]] = []
    for each in found:
        if each.uid is not None:
            there.append((each, each.uid, ""))
            continue
        try:
            meta = api.metadata(each.kind, each.name)
        except ApiError as error:
            if not (error.not_found or error.invalid_target):
                there.append((each, None, refusal(error)))
            continue
        if is_credentials_secret(meta, each.part.workflow.name, each.part.workflow.uid):
            there.append((each, uid_of({"metadata": meta}), ""))
    return there


def _delete(api: Api, each: Sweepable, uid: Uid | None, problem: str) -> str:
    """Delete that very object; what is in the way, if something is."""
    if uid is None:
        return problem
    try:
        api.delete(each.kind, each.name, uid, each.grace)
    except ApiError as error:
        if not (error.not_found or error.conflict):
            return refusal(error)
    return ""


def _plain(each: Sweepable, problem: str, *, dry_run: bool) -> dict[str, object]:
    return {
        "kind": _WORDS[each.kind],
        "name": each.name,
        "job": each.part.job_id,
        "site": each.part.site,
        "why": each.why,
        "deleted": not dry_run and not problem,
        "problem": problem or None,
    }
