"""Finds the one job that a person means. Pure."""

from collections.abc import Iterable, Sequence

from flargo.cluster.error_text import OwnError
from flargo.job.names import label_value
from flargo.tools.jobs.site_job import SiteJob

_MAX_NAMES = 5
"""The most names that an error message lists."""


class NotFoundError(OwnError):
    """The query matches no job, or more than one. The message is for people."""


def select_job(
    query: str, site_jobs: Iterable[SiteJob], site: str | None = None, where: str = "on the cluster"
) -> list[SiteJob]:
    """Return the job that a query names, at each of its sites.

    Args:
        query: the job's id, a prefix of its id, or the name of one of its Workflows, also of an earlier attempt's.
        site_jobs: the jobs to search.
        site: return the job at this site only. A Workflow's name also matches, since it belongs to one site.
        where: where the jobs were read, for messages.

    Raises:
        NotFoundError: no job matches, several jobs' ids begin with the query, or the job is not at the site.
    """
    candidates = list(site_jobs)
    label = label_value(query)
    matches = (
        [job for job in candidates if label in {job.job_id, *_workflow_names(job)}]
        or [job for job in candidates if query and job.job_id.startswith(query)]
    )  # fmt: skip
    ids = sorted({job.job_id for job in matches})
    if not matches:
        raise NotFoundError(f"no job {query!r} is {where}: {_hint(candidates)}")
    if len(ids) > 1:
        raise NotFoundError(f"{query!r} matches {len(ids)} jobs: {_join_names(ids)}")
    if site is None:
        return matches
    at_site = [job for job in matches if site in {job.site, *_workflow_names(job)}]
    if not at_site:
        raise NotFoundError(f"job {ids[0]} is not at {site}, but at {_join_names([job.site for job in matches])}")
    return at_site


def _workflow_names(job: SiteJob) -> set[str]:
    return {attempt.workflow.name for attempt in job.attempts}


def _hint(candidates: Sequence[SiteJob]) -> str:
    if not candidates:
        return "this namespace has no jobs of flargo"
    deleted = "jobs are deleted some time after their end (argo.keep_success, argo.keep_failure)"
    return f"`flargo jobs` lists those that are there; {deleted}, and only Argo's archive may still have them"


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
