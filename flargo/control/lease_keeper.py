"""Holds the Lease of a parent's site: the requests, and the thread that sends them. The decisions are in ``lease``."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flargo.cluster.api import Api, Kind
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE, TRANSIENT, Meaning
from flargo.control import authority
from flargo.control.lease import (
    Lease,
    LeaseFailed,
    LeaseRead,
    LeaseRejected,
    LeaseRequest,
    LeaseResult,
    LeaseStage,
    LeaseStatus,
    LeaseWritten,
    RequestKind,
)
from flargo.control.lease_log import notice
from flargo.control.lease_object import LeaseView, held_lease, idle_seconds, released_lease, view_lease
from flargo.job.names import site_labels, site_lease
from flargo.terms import Object, Parent

RELEASE_SECONDS = 5.0
"""Seconds for which a parent that shuts down waits until the Lease is released."""
_RELEASE_TRIES = 3
_MAY_PASS = TRANSIENT | {Meaning.UNAUTHENTICATED}
"""The errors that are no refusal of the Lease: the same request may succeed later, or no request of the parent does."""
_CHANGED = GONE | {Meaning.CONFLICT, Meaning.EXISTS}
"""The errors of a write over another version than the Lease's present one."""
_log = logging.getLogger(__name__)


def boot_time() -> float:
    """Return a monotonic clock that also counts while the machine is suspended, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def utc_now() -> datetime:
    """Return the wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class LeaseClient:
    """Sends the requests about one site's Lease. It keeps no state and raises nothing but what a bug raises."""

    api: Api
    name: str
    labels: Mapping[str, str]
    """The labels of the site's objects."""
    identity: str
    """The holder's name of this parent."""
    wall_clock: Callable[[], datetime] = utc_now

    def perform(self, request: LeaseRequest) -> LeaseResult:
        """Send a request; return its result."""
        try:
            if request.kind is RequestKind.READ:
                return self._read()
            item = held_lease(self.name, self.labels, self.identity, self.wall_clock(), request.over)
            is_new = request.kind is RequestKind.CREATE
            return self._written(self.api.create(Kind.LEASE, item) if is_new else self.api.replace(Kind.LEASE, item))
        except ApiError as error:
            return self._failure(request.kind, error)

    def release(self, over: LeaseView) -> bool:
        """Give the Lease back, over the given version; return whether that version was still the present one.

        Raises:
            ApiError: the request failed otherwise.
        """
        try:
            self.api.replace(Kind.LEASE, released_lease(self.name, self.labels, self.wall_clock(), over))
        except ApiError as error:
            if error.meaning not in _CHANGED:
                raise
            return False
        return True

    def _read(self) -> LeaseResult:
        item, server_time = self.api.get_with_time(Kind.LEASE, self.name)
        view = view_lease(item, self.labels)
        return LeaseRead(view, idle_seconds(view, server_time, self.wall_clock()))

    def _written(self, item: Object) -> LeaseResult:
        view = view_lease(item, self.labels)
        if not view.is_usable or view.holder != self.identity:
            return LeaseFailed("the API server's answer does not show the Lease as it was written", is_refusal=False)
        return LeaseWritten(view)

    def _failure(self, kind: RequestKind, error: ApiError) -> LeaseResult:
        if kind is RequestKind.READ and error.meaning is Meaning.NOT_FOUND:
            return LeaseRead(None)
        # A create that is "not found" lacks its namespace.
        is_missing_namespace = kind is RequestKind.CREATE and error.meaning is Meaning.NOT_FOUND
        if kind is not RequestKind.READ and error.meaning in _CHANGED and not is_missing_namespace:
            return LeaseRejected()
        return LeaseFailed(error.brief, is_refusal=error.meaning not in _MAY_PASS)


class LeaseKeeper:
    """Acquires and renews the Lease of one parent's site on a thread of its own. Safe to use from many threads."""

    def __init__(
        self,
        api: Api,
        parent: Parent,
        hostname: str,
        *,
        clock: Callable[[], float] = boot_time,
        wall_clock: Callable[[], datetime] = utc_now,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """Prepare the keeper without a thread or a request.

        Args:
            api: the client for the parent's namespace.
            parent: the parent, whose epoch distinguishes it from every other run.
            hostname: the name of the parent's machine or pod, for people.
            clock: a monotonic clock in seconds.
            wall_clock: the time of day.
            pause: sleeps for some seconds and returns True to stop; by default until ``close`` is called.
        """
        identity = f"{hostname}_{parent.epoch}"
        self.name = site_lease(parent)
        """The Lease's name."""
        self._client = LeaseClient(api, self.name, site_labels(parent), identity, wall_clock)
        self._clock = clock
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._changed = threading.Condition()
        self._lease = Lease(identity)
        self._reported = LeaseStatus(LeaseStage.ACQUIRING)
        """The status at the last line of the log."""
        self._thread: threading.Thread | None = None
        self._must_release = False

    @property
    def state(self) -> LeaseStatus:
        """What this parent may believe at this moment."""
        return self._lease.status_at(self._clock())

    def may_change(self, *, is_followed: bool) -> bool:
        """Return whether this parent may change a job's objects now (``flargo.control.authority.MayChange``)."""
        return authority.may_change(self.state.stage, is_followed=is_followed)

    def start(self) -> None:
        """Start the thread, unless it was started."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self.run, name="flargo-lease", daemon=True)
                self._thread.start()

    def wait(self, until: Callable[[LeaseStatus], bool], seconds: float | None = None) -> bool:
        """Wait until a condition on the state holds, or the seconds have passed; return whether the condition holds.

        The condition is tried after each result of a request.
        """
        with self._changed:
            return self._changed.wait_for(lambda: until(self.state), seconds)

    def close(self, *, release: bool = True) -> None:
        """Hold the Lease no more, and stop the thread.

        Args:
            release: give the Lease back, so that the next parent need not wait until it expires. Only if all of this
                parent's jobs have ended or may be taken over.
        """
        with self._changed:
            self._must_release = release
        self._closing.set()
        if self._thread is not None:
            self._thread.join(RELEASE_SECONDS)
        # A request that hangs still may renew the Lease, which nobody believes in then.
        self._set(replace(self._lease, stage=LeaseStage.RELEASED))

    def run(self) -> None:
        """Acquire and renew the Lease until ``pause`` returns True; the body of the thread."""
        while True:
            request = self._lease.next_request()
            if self._pause(max(0.0, request.at - self._clock())):
                break
            sent_at = self._clock()
            result = self._perform(request)
            self._set(self._lease.advance(result, sent_at, self._clock()))
        self._end()

    def _perform(self, request: LeaseRequest) -> LeaseResult:
        try:
            return self._client.perform(request)
        except Exception as error:  # noqa: BLE001  (an error must not end the renewals)
            _log.exception("Lease %s: request failed", self.name)
            return LeaseFailed(describe(error), is_refusal=False)

    def _set(self, lease: Lease) -> None:
        with self._changed:
            if self._lease.stage is LeaseStage.RELEASED:
                return
            before, self._lease = self._lease, lease
            self._changed.notify_all()
        self._log_change(before, lease)

    def _end(self) -> None:
        """Stop believing, then give the Lease back if it is this parent's."""
        lease = self._lease
        self._set(replace(lease, stage=LeaseStage.RELEASED))
        if not self._must_release or not lease.has_acquired:
            return
        try:
            self._release(lease.view if lease.is_current else None)
        except Exception as error:  # noqa: BLE001  (the next parent waits until the Lease expires)
            problem = error if isinstance(error, ApiError) else describe(error)
            _log.warning("Lease %s not released; the next parent has to wait until it expires: %s", self.name, problem)

    def _release(self, view: LeaseView | None) -> None:
        """Release the Lease; a version that is not known, because an answer was lost, is read first."""
        for _ in range(_RELEASE_TRIES):
            if view is None:
                result = self._client.perform(LeaseRequest(RequestKind.READ, 0.0))
                view = result.view if isinstance(result, LeaseRead) else None
                if view is None or not view.is_usable or view.holder != self._client.identity:
                    return
            if self._client.release(view):
                _log.info("Lease %s released", self.name)
                return
            view = None

    def _log_change(self, before: Lease, after: Lease) -> None:
        status = after.status_at(self._clock())
        line = notice(self.name, self._reported, status, is_same_term=before.has_acquired)
        self._reported = status
        if line is not None:
            _log.log(logging.WARNING if line.is_warning else logging.INFO, "%s", line.text)
