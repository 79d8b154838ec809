"""The Lease object of a site (``coordination.k8s.io/v1``): how it is read and how it is written. Pure.

Anybody who may write Leases in the namespace may have written this one, so no reader raises, and nothing of what was
read is written back except the uid, the version and two numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from flargo.job.names import is_same_site
from flargo.status import fields
from flargo.status.views import uid_of
from flargo.terms import LEASE_API_VERSION, Object, Uid

LEASE_SECONDS = 15
"""``leaseDurationSeconds``: seconds for which the Lease must be seen unchanged before another parent may take it."""
MAX_LEASE_SECONDS = 60
"""The longest ``leaseDurationSeconds`` that is believed: a later flargo may use more than this one, but nobody may
lock a site's parent out for hours with a single write."""
_MAX_TRANSITIONS = 2**31 - 1
"""The largest ``leaseTransitions``: Kubernetes' field has 32 bits."""
_YEARS = range(2000, 2201)
"""Years of times that are believed: such a time is valid in any time zone, and can be written back."""
_RENEW_TIME = ("f:spec", "f:renewTime")
"""The path of the renewal's time in ``managedFields``."""


@dataclass(frozen=True, slots=True)
class LeaseView:
    """What a Lease says, in one version of the object."""

    uid: Uid
    version: str
    """The resourceVersion. A write that names it replaces this version or fails."""
    holder: str
    """``holderIdentity``; empty if nobody holds the Lease. Text of others: show it only by a display function."""
    is_of_site: bool
    """True if the object has the labels of the site; else it is somebody else's and must not be changed."""
    lease_seconds: float = LEASE_SECONDS
    """Seconds without a change after which the holder counts as gone."""
    renewed_at: datetime | None = None
    """The time of the last renewal, by the holder's clock."""
    written_at: datetime | None = None
    """The time of the last renewal, by the API server's clock, in whole seconds."""
    acquired_at: datetime | None = None
    transitions: int = 0

    @property
    def is_usable(self) -> bool:
        """True if a write can name this version, and the object is the site's."""
        return bool(self.uid and self.version) and self.is_of_site


def view_lease(item: Object, labels: Mapping[str, str]) -> LeaseView:
    """Return the view of a Lease as the API server returned it.

    Args:
        item: the object.
        labels: the labels of the site's own objects.
    """
    own_labels = {
        key: text for key, text in fields.mapping(item, "metadata", "labels").items() if isinstance(text, str)
    }
    seconds = fields.number(item, "spec", "leaseDurationSeconds", maximum=_MAX_TRANSITIONS) or 0
    transitions = fields.number(item, "spec", "leaseTransitions", maximum=_MAX_TRANSITIONS) or 0
    return LeaseView(
        uid=uid_of(item),
        version=fields.text(item, "metadata", "resourceVersion"),
        holder=fields.text(item, "spec", "holderIdentity"),
        is_of_site=is_same_site(own_labels, labels),
        lease_seconds=min(max(seconds, LEASE_SECONDS), MAX_LEASE_SECONDS),
        renewed_at=_time(item, "spec", "renewTime"),
        written_at=_written_at(item),
        acquired_at=_time(item, "spec", "acquireTime"),
        transitions=max(transitions, 0),
    )


def idle_seconds(view: LeaseView, server_time: datetime | None, own_time: datetime) -> float:
    """Return how long ago the Lease was renewed, at least; 0 or less if the clocks do not prove it.

    Two pairs of clocks must agree: the API server's with itself, and this parent's with the holder's. If one of the
    four is wrong, the smaller age counts. A renewal in the future proves nothing.

    Args:
        view: the Lease.
        server_time: the API server's clock when it returned the Lease.
        own_time: this parent's clock at that moment.
    """
    if server_time is None or view.written_at is None or view.renewed_at is None:
        return 0.0
    return min((server_time - view.written_at).total_seconds(), (own_time - view.renewed_at).total_seconds())


def away_seconds(before: LeaseView, after: LeaseView) -> float | None:
    """Return the seconds between two writes of the Lease: by the API server's clock, else by the writers' own clocks.

    Returns:
        The seconds, at least 0; None if the versions do not say when they were written.
    """
    for start, end in ((before.written_at, after.written_at), (before.renewed_at, after.renewed_at)):
        if start is not None and end is not None:
            return max(0.0, (end - start).total_seconds())
    return None


def held_lease(name: str, labels: Mapping[str, str], identity: str, now: datetime, over: LeaseView | None) -> Object:
    """Return the Lease as its holder writes it.

    Args:
        name: the Lease's name.
        labels: the labels of the site's own objects.
        identity: the holder.
        now: the holder's clock.
        over: the version that is replaced; None: there is no Lease yet.
    """
    is_renewal = over is not None and over.holder == identity
    transitions = 0 if over is None else over.transitions + (0 if is_renewal else 1)
    acquired_at = over.acquired_at if over is not None and is_renewal else None
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": _micro_time(acquired_at or now),
        "renewTime": _micro_time(now),
        "leaseTransitions": min(transitions, _MAX_TRANSITIONS),
    }
    return {**_head(name, labels, over), "spec": spec}


def released_lease(name: str, labels: Mapping[str, str], now: datetime, over: LeaseView) -> Object:
    """Return the Lease as its holder leaves it: held by nobody, with the time of the release.

    The arguments are those of :func:`held_lease`.
    """
    spec = {
        "holderIdentity": "",
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": _micro_time(over.acquired_at or now),
        "renewTime": _micro_time(now),
        "leaseTransitions": over.transitions,
    }
    return {**_head(name, labels, over), "spec": spec}


def _head(name: str, labels: Mapping[str, str], over: LeaseView | None) -> Object:
    meta: Object = {"name": name, "labels": {**labels}}
    if over is not None:
        # Without the uid, the update of a Lease that was deleted meanwhile would create it again
        # (AllowCreateOnUpdate in pkg/registry/coordination/lease/strategy.go of k8s.io/kubernetes).
        meta |= {"uid": over.uid, "resourceVersion": over.version}
    return {"apiVersion": LEASE_API_VERSION, "kind": "Lease", "metadata": meta}


def _written_at(item: Object) -> datetime | None:
    """Return when an owner of the field ``renewTime`` wrote the Lease last, by the API server's clock."""
    times = (
        _time(entry, "time")
        for entry in fields.items(item, "metadata", "managedFields")
        if fields.value(entry, "fieldsV1", *_RENEW_TIME) is not None
    )
    return max((time for time in times if time is not None), default=None)


def _time(item: Object, *path: str) -> datetime | None:
    moment = fields.time(item, *path)
    return moment if moment is not None and moment.year in _YEARS else None


def _micro_time(moment: datetime) -> str:
    """Return a time as Kubernetes' MicroTime: UTC, with six digits after the second."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
