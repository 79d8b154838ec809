"""What no living parent can own, and may go. Pure.

Nobody can see from outside whether a FLARE parent lives. But what each does with its Workflows is bounded in time: it
releases or discards one within minutes (control/loop.py, MAX_SUBMIT_SECONDS), drops a job's credentials once it has
ended, and kills what runs on. Where that is an hour overdue there is no parent, or one that has lost the cluster and
would do the same. A job that runs or waits is never touched: its parent may live.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flargo.cluster.api import Kind
from flargo.job.names import credentials_secret
from flargo.status.fields import parse_each
from flargo.status.views import PodView, pod_view
from flargo.terms import Object, Uid
from flargo.tools.jobs.site_job import SiteJob

OVERDUE = timedelta(hours=1)
"""Far more than a parent takes for anything: 120 s for a submit, a minute and a grace for a kill."""
KILL_GRACE = 3
"""Seconds between SIGTERM and SIGKILL for what runs on."""


@dataclass(frozen=True, slots=True)
class Sweepable:
    """Something that may go."""

    kind: Kind
    name: str
    uid: Uid | None
    """None: not known yet, nor whether it is there."""
    why: str
    part: SiteJob

    @property
    def grace(self) -> int | None:
        """Seconds that it is given to end."""
        return KILL_GRACE if self.kind is Kind.POD else None


def sweepable(
    parts: Iterable[SiteJob], pods: Iterable[Object], now: datetime, older_than: timedelta | None = None
) -> list[Sweepable]:
    """What may go.

    Args:
        parts: of jobs, as they are seen.
        pods: all of theirs, as they are on the wire.
        now: by the clock that wrote the objects' times: the API server's.
        older_than: also take finished Workflows that ended so long ago; at least ``OVERDUE``.
    """
    by_owner: dict[Uid, list[PodView]] = {}
    for pod in parse_each(pods, pod_view):
        by_owner.setdefault(pod.owner_uid, []).append(pod)
    found: list[Sweepable] = []
    for part in parts:
        found += _of(part, by_owner.get(part.workflow.uid, ()), now, older_than)
    return found


def _of(part: SiteJob, pods: Sequence[PodView], now: datetime, older_than: timedelta | None) -> list[Sweepable]:
    workflow = part.workflow
    if workflow.deleting:
        return []
    if workflow.suspended and not (part.released or workflow.is_completed or workflow.has_node or pods):
        age = now - part.created if part.created else timedelta(0)
        said = f"suspended since it was made {spell(age)} ago, and never released"
        return [Sweepable(Kind.WORKFLOW, workflow.name, workflow.uid, said, part)] if age > OVERDUE else []
    if not workflow.is_completed or part.finished is None:
        return []
    age = now - part.finished
    if age <= OVERDUE:
        return []
    ago = f"its Workflow ended {spell(age)} ago"
    alive = [pod for pod in pods if not pod.is_terminal]
    if alive:
        return [Sweepable(Kind.POD, pod.name, pod.uid, f"it still runs, though {ago}", part) for pod in alive]
    if older_than is not None and age > max(older_than, OVERDUE):
        return [Sweepable(Kind.WORKFLOW, workflow.name, workflow.uid, ago.removeprefix("its Workflow "), part)]
    secret = credentials_secret(workflow.name, workflow.attempt)
    return [Sweepable(Kind.SECRET, secret, None, f"credentials, though {ago}", part)] if workflow.attempt else []


def spell(age: timedelta) -> str:
    """A length of time, for people: its largest part, and no more than that is worth."""
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
