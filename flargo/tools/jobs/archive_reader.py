"""Reads jobs whose Workflows were deleted from the cluster but are kept in Argo's archive."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flargo.cluster.errors import ArchiveError
from flargo.control.parse_error_log import ParseErrorLog
from flargo.status.diagnosis import Diagnosis, Stage
from flargo.terms import Object
from flargo.tools.jobs.attempts import fold_attempts
from flargo.tools.jobs.reader import Reader
from flargo.tools.jobs.refusals import describe_archive_refusal
from flargo.tools.jobs.site_job import (
    SiteJob,
    join_selectors,
    keep_server_notes,
    oldest_first,
    share_server_notes,
    site_jobs,
    trim,
)

if TYPE_CHECKING:  # imports Hera, which takes a second
    from flargo.cluster.argo_archive import Archive


class ArchiveReader:
    """Reads jobs from an archive. Its methods raise ArchiveError."""

    where = "in Argo's archive"
    read_problem = ""

    def __init__(self, archive: "Archive") -> None:
        """Create a reader of an archive. Nothing is requested yet."""
        self._archive = archive
        self._on_parse_error = ParseErrorLog()

    def site_jobs(self, labels: str, workflow_labels: str = "") -> list[SiteJob]:
        """Return outlines of the archived jobs that match both selectors, without the reason of their end."""
        workflows = self._archive.list(join_selectors(labels, workflow_labels))
        outlines = site_jobs(map(trim, workflows), (), self._on_parse_error)
        return fold_attempts(
            replace(job, is_archived=True, diagnosis=Diagnosis(Stage.ENDED), verdict=None) for job in outlines
        )

    def confirmed(self, job: SiteJob) -> SiteJob:
        """Return the job by its whole Workflow, or as it is if the archive no longer has the Workflow."""
        confirmed = self._confirm(job)
        earlier = tuple(map(self.confirmed, job.earlier))
        return keep_server_notes(job, replace(confirmed, earlier=earlier))

    def _confirm(self, job: SiteJob) -> SiteJob:
        workflow = self._archive.get(job.workflow.uid)
        if workflow is None:
            return job
        jobs = site_jobs([trim(workflow)], (), self._on_parse_error)
        return replace(jobs[0], is_archived=True) if jobs else job

    def events(self, job: SiteJob) -> Sequence[Object]:
        """Return nothing: Argo does not archive events."""
        del job
        return ()

    def log(self, job: SiteJob) -> str:
        """Return nothing: the log was deleted with the pod."""
        del job
        return ""


class ClusterAndArchiveReader:
    """Reads jobs from a cluster, and from an archive those that the cluster no longer has.

    An ArchiveError is not raised: it becomes ``read_problem``, and the archive is not asked again. An ApiError is
    raised.
    """

    def __init__(self, cluster: Reader, archive: Reader) -> None:
        """Create a reader of a cluster and an archive."""
        self._cluster, self._archive = cluster, archive
        self.read_problem = ""

    @property
    def where(self) -> str:
        """Both places; only the cluster if the archive could not be read."""
        return self._cluster.where if self.read_problem else f"{self._cluster.where} or {self._archive.where}"

    def site_jobs(self, labels: str, workflow_labels: str = "") -> list[SiteJob]:
        """Return the jobs that match both label selectors. A job of the cluster hides its archived launches.

        But the archive adds the earlier attempts of a job that the cluster no longer has.
        """
        on_cluster = self._cluster.site_jobs(labels, workflow_labels)
        if self.read_problem:
            return on_cluster
        try:
            # Read after the cluster, so that a Workflow that is deleted in between is in one of the two lists.
            archived = self._archive.site_jobs(labels, workflow_labels)
        except ArchiveError as error:
            self.read_problem = describe_archive_refusal(error)
            return on_cluster
        return _merge(on_cluster, archived)

    def confirmed(self, job: SiteJob) -> SiteJob:
        """Return the job as its source confirms it. An archived job stays an outline if the archive fails."""
        earlier = tuple(map(self.confirmed, job.earlier))
        confirmed = self._confirm(replace(job, earlier=()))
        return keep_server_notes(job, replace(confirmed, earlier=earlier))

    def _confirm(self, job: SiteJob) -> SiteJob:
        if not job.is_archived:
            return self._cluster.confirmed(job)
        if self.read_problem:
            return job
        try:
            return self._archive.confirmed(job)
        except ArchiveError as error:
            self.read_problem = describe_archive_refusal(error)
            return job

    def events(self, job: SiteJob) -> Sequence[Object]:
        """Return the events of the job's pod from the job's source."""
        return self._archive.events(job) if job.is_archived else self._cluster.events(job)

    def log(self, job: SiteJob) -> str:
        """Return the log of the job's program from the job's source."""
        return self._archive.log(job) if job.is_archived else self._cluster.log(job)


def _merge(on_cluster: Sequence[SiteJob], archived: Sequence[SiteJob]) -> list[SiteJob]:
    """Return the cluster's jobs, and the last archived launch of each job at each site that the cluster does not have.

    A Workflow that is archived and still on the cluster is the cluster's.
    """
    attempts = _unfold(on_cluster)
    uids = {attempt.workflow.uid for attempt in attempts}
    identities = {job.identity for job in on_cluster}
    rows = []
    for job in reversed(
        fold_attempts([*attempts, *(each for each in _unfold(archived) if each.workflow.uid not in uids)])
    ):
        is_latest = any(not attempt.is_archived for attempt in job.attempts) or job.identity not in identities
        identities.add(job.identity)
        rows += [job] if is_latest else []
    return share_server_notes(oldest_first(rows))


def _unfold(jobs: Iterable[SiteJob]) -> list[SiteJob]:
    return [replace(attempt, earlier=()) for job in jobs for attempt in job.attempts]
