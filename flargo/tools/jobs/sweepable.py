"""Finds objects that no living FLARE parent can still need, so that they may be deleted. Pure.

Nobody can see from outside whether a FLARE parent is alive. But the time in which a parent finishes with its own
objects is bounded: it releases or discards a suspended Workflow within minutes (control/loop.py, MAX_SUBMIT_SECONDS),
deletes a job's credentials once the job has ended, and kills a program that outlives its Workflow. An object that is
an hour overdue has no parent, or one that has lost the cluster and would do the same. A job that runs or waits is never
touched, since its parent may be alive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flargo.cluster.api import Kind
from flargo.job.names import credentials_secret
from flargo.status.fields import parse_each
from flargo.status.views import PodView, pod_view
from flargo.terms import Object, Uid
from flargo.tools.jobs.durations import format_duration
from flargo.tools.jobs.site_job import SiteJob

MIN_AGE = timedelta(hours=1)
"""Far longer than a parent takes for anything: 120 s for a submit, a minute and a grace period for a kill."""
KILL_GRACE = 3
"""Seconds between SIGTERM and SIGKILL for a program that still runs."""


@dataclass(frozen=True, slots=True)
class Sweepable:
    """An object that may be deleted."""

    kind: Kind
    name: str
    uid: Uid | None
    """None: the object has not been read, so it may not exist."""
    why: str
    job: SiteJob

    @property
    def grace(self) -> int | None:
        """The grace period of the deletion in seconds; None: the kind's default."""
        return KILL_GRACE if self.kind is Kind.POD else None


def find_sweepable(
    jobs: Iterable[SiteJob], pods: Iterable[Object], now: datetime, older_than: timedelta | None = None
) -> list[Sweepable]:
    """Find the objects of jobs that may be deleted.

    Args:
        jobs: the jobs.
        pods: all their pods, as they are on the wire.
        now: the time by the API server's clock, which also wrote the objects' times.
        older_than: include finished Workflows that ended at least so long ago. Less than ``MIN_AGE`` counts as that.
    """
    by_owner: dict[Uid, list[PodView]] = {}
    for pod in parse_each(pods, pod_view):
        by_owner.setdefault(pod.owner_uid, []).append(pod)
    sweepable: list[Sweepable] = []
    for job in jobs:
        sweepable += _find_in_job(job, by_owner.get(job.workflow.uid, ()), now, older_than)
    return sweepable


def _find_in_job(job: SiteJob, pods: Sequence[PodView], now: datetime, older_than: timedelta | None) -> list[Sweepable]:
    workflow = job.workflow
    if workflow.deleting:
        return []
    if workflow.suspended and not (job.is_released or workflow.is_completed or workflow.has_node or pods):
        age = now - job.created_at if job.created_at else timedelta(0)
        why = f"created suspended {format_duration(age)} ago and never released"
        return [Sweepable(Kind.WORKFLOW, workflow.name, workflow.uid, why, job)] if age > MIN_AGE else []
    if not workflow.is_completed or job.workflow_ended_at is None:
        return []
    age = now - job.workflow_ended_at
    if age <= MIN_AGE:
        return []
    ago = f"{format_duration(age)} ago"
    running = [pod for pod in pods if not pod.is_terminal]
    if running:
        why = f"still running, but its Workflow ended {ago}"
        return [Sweepable(Kind.POD, pod.name, pod.uid, why, job) for pod in running]
    if older_than is not None and age > max(older_than, MIN_AGE):
        return [Sweepable(Kind.WORKFLOW, workflow.name, workflow.uid, f"ended {ago}", job)]
    if not workflow.attempt:
        return []
    secret = credentials_secret(workflow.name, workflow.attempt)
    return [Sweepable(Kind.SECRET, secret, None, f"credentials of a Workflow that ended {ago}", job)]
