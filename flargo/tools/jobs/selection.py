"""Which job is meant. Pure."""

from collections.abc import Iterable, Sequence

from flargo.cluster.error_text import OwnError
from flargo.job.names import label_value
from flargo.tools.jobs.site_job import SiteJob

_NAMED = 5
"""So many of the jobs that a word may mean are named."""


class NotFoundError(OwnError):
    """No job is meant, or more than one. The message is for people."""


def chosen(
    word: str, parts: Iterable[SiteJob], site: str | None = None, where: str = "on the cluster"
) -> list[SiteJob]:
    """The parts of the job that a word names: its id, the beginning of its id, or the name of one of its Workflows.

    Args:
        word: what was said.
        parts: all that there are.
        site: of the parts only that site's.
        where: those are, for people.

    Raises:
        NotFoundError: there is none, or there are several jobs whose ids begin so.
    """
    known = list(parts)
    label = label_value(word)
    found = (
        [part for part in known if label in {part.job_id, part.workflow.name}]
        or [part for part in known if word and part.job_id.startswith(word)]
    )  # fmt: skip
    ids = sorted({part.job_id for part in found})
    if not found:
        raise NotFoundError(f"no job {word!r} is {where}: {_there(known)}")
    if len(ids) > 1:
        raise NotFoundError(f"{word!r} may be any of {len(ids)} jobs: {_some(ids)}")
    if site is None:
        return found
    here = [part for part in found if site in {part.site, part.workflow.name}]
    if not here:
        raise NotFoundError(f"job {ids[0]} is not at {site}, but at {_some([part.site for part in found])}")
    return here


def _there(parts: Sequence[SiteJob]) -> str:
    if not parts:
        return "there are none of flargo's in this namespace"
    ago = "those that ended a while ago are gone (argo.keep_success, argo.keep_failure), or in Argo's archive at most"
    return f"see flargo jobs; {ago}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
