"""Jobs whose Workflows are gone from the cluster: what Argo's archive keeps of them, beside what the cluster has."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flargo.cluster.errors import ArchiveError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.status.diagnosis import Diagnosis, Stage
from flargo.terms import Object
from flargo.tools.jobs.reader import Reader
from flargo.tools.jobs.refusals import archive_refusal
from flargo.tools.jobs.site_job import SiteJob, in_order, site_jobs, trim

if TYPE_CHECKING:  # imports Hera, which takes a second
    from flargo.cluster.argo_archive import Archive


class ArchiveReader:
    """Reads an archive. Its methods raise ArchiveError."""

    where = "in Argo's archive"
    trouble = ""

    def __init__(self, archive: "Archive") -> None:
        """Read an archive."""
        self._archive = archive
        self._on_parse_error = ParseErrorLog()

    def parts(self, labels: str) -> list[SiteJob]:
        """See Reader; an outline does not say why a job ended."""
        outlines = site_jobs(map(trim, self._archive.list(labels)), (), self._on_parse_error)
        return [replace(part, archived=True, seen=Diagnosis(Stage.ENDED), verdict=None) for part in outlines]

    def settled(self, part: SiteJob) -> SiteJob:
        """See Reader: by the whole Workflow. One that has gone from the archive meanwhile stays as it is."""
        whole = self._archive.get(part.workflow.uid)
        if whole is None:
            return part
        read = site_jobs([trim(whole)], (), self._on_parse_error)
        return replace(read[0], archived=True) if read else part

    def events(self, part: SiteJob) -> Sequence[Object]:
        """See Reader; events are not archived."""
        del part
        return ()


class WithArchive:
    """Reads a cluster, and of an archive what the cluster does not have.

    What the archive refuses is kept in ``trouble``, and it is asked no more; ApiError is raised as ever.
    """

    def __init__(self, cluster: Reader, archive: Reader) -> None:
        """Read both."""
        self._cluster, self._archive = cluster, archive
        self.trouble = ""

    @property
    def where(self) -> str:
        """See Reader."""
        return self._cluster.where if self.trouble else f"{self._cluster.where} or {self._archive.where}"

    def parts(self, labels: str) -> list[SiteJob]:
        """See Reader."""
        here = self._cluster.parts(labels)
        if self.trouble:
            return here
        try:
            # Read after the cluster: what is deleted in between is told by one of the two.
            archived = self._archive.parts(labels)
        except ArchiveError as error:
            self.trouble = archive_refusal(error)
            return here
        return in_order([*here, *_gone(here, archived)])

    def settled(self, part: SiteJob) -> SiteJob:
        """See Reader; what the archive does not tell is left open."""
        if not part.archived:
            return self._cluster.settled(part)
        if self.trouble:
            return part
        try:
            return self._archive.settled(part)
        except ArchiveError as error:
            self.trouble = archive_refusal(error)
            return part

    def events(self, part: SiteJob) -> Sequence[Object]:
        """See Reader."""
        return self._archive.events(part) if part.archived else self._cluster.events(part)


def _gone(here: Sequence[SiteJob], archived: Sequence[SiteJob]) -> Iterator[SiteJob]:
    """The last of the archived launches of each job at each site that the cluster does not have."""
    known = {_whose(part) for part in here}
    for part in reversed(in_order(archived)):
        if _whose(part) not in known:
            known.add(_whose(part))
            yield part


def _whose(part: SiteJob) -> tuple[str, str, str]:
    return part.federation, part.job_id, part.site
