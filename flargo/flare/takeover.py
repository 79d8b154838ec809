"""Lets a client's parent begin once it is its site's only one, with the jobs of its earlier run taken back.

A parent that follows its site's Workflows ends those that nobody follows. So it must not begin while another parent of
the site is alive, whose jobs these are, and not before it has taken back what an earlier run of its own has left.
"""

import logging
import threading
from collections.abc import Callable

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext

from flargo.control.lease import LeaseStage, LeaseStatus
from flargo.control.lease_keeper import LeaseKeeper
from flargo.control.submit import SubmitError
from flargo.flare.job_adoption import JobAdoption

START_PATIENCE = 20.0
"""Seconds for which FLARE's start waits for the Lease, and then until the jobs are taken back. That an earlier run is
gone is known after 15. FLARE's server takes a client without heartbeats for dead after 600."""
LAUNCH_PATIENCE = 15.0
"""Seconds for which a launch waits for the Lease. FLARE gives up on a client's launch after 20."""
_FINAL = frozenset({LeaseStage.HELD, LeaseStage.UNAVAILABLE, LeaseStage.RELEASED})
_log = logging.getLogger(__name__)


class SiteTakenError(Exception):
    """Another parent of the site is alive, so this one must not start."""


class Takeover:
    """Acquires a site's Lease, and starts the parent's work once the Lease is held."""

    def __init__(
        self, lease: LeaseKeeper, adoption: JobAdoption, start: Callable[[], None], ending: threading.Event
    ) -> None:
        """Prepare; nothing is acquired yet.

        Args:
            lease: the site's Lease.
            adoption: takes the jobs of the earlier run back.
            start: starts to follow the site's Workflows, and to end those that nobody follows.
            ending: set by ``cancel``, when the parent shuts down.
        """
        self._lease = lease
        self._adoption = adoption
        self._start = start
        self._ending = ending
        self._thread: threading.Thread | None = None
        self._has_begun = threading.Event()
        """Set when jobs may be launched."""

    def prepare(self, fl_ctx: FLContext) -> None:
        """Serve the processes of the earlier run's jobs, and acquire the Lease. Waits for some seconds.

        A parent must not stay while another one of its site is alive. FLARE's server knows one connection of a site,
        so the two cut each other off; and if this one registers, the server takes nothing more from the other one, not
        even that its jobs have ended.

        Args:
            fl_ctx: the context of SYSTEM_BOOTSTRAP, before the parent registers.

        Raises:
            SiteTakenError: another parent of the site is alive.
        """
        self._adoption.serve(fl_ctx)
        self._lease.start()
        self._lease.wait(lambda status: status.is_fenced or _is_final(status), START_PATIENCE)
        status = self._lease.state
        if status.is_fenced:
            self._lease.close(release=False)
            self._adoption.drop()
            raise SiteTakenError(
                f"another FLARE parent of this site is alive and holds its Lease: {status.holder}; end it first"
            )

    def begin(self, fl_ctx: FLContext) -> None:
        """Start the work on a thread, and wait for some seconds until it has begun. Further calls do nothing.

        Args:
            fl_ctx: the context of AFTER_CLIENT_REGISTER, which FLARE also fires if the server has refused the client.
        """
        if self._thread is not None or not fl_ctx.get_prop(FLContextKey.CLIENT_TOKEN):
            return
        context = fl_ctx.get_engine().new_context()
        self._thread = threading.Thread(target=self._run, args=(context,), name="flargo-takeover", daemon=True)
        self._thread.start()
        self._has_begun.wait(START_PATIENCE)

    def may_change(self, *, is_followed: bool) -> bool:
        """Return whether this parent may change a job's objects now (flargo.control.authority.MayChange)."""
        return self._lease.may_change(is_followed=is_followed)

    def require(self) -> None:
        """Wait until this parent may launch jobs.

        Raises:
            SubmitError: another parent of the site is alive, or it is not known whether there is one.
        """
        has_begun = self._has_begun.wait(LAUNCH_PATIENCE)
        status = self._lease.state
        if status.is_fenced:
            raise SubmitError(f"another FLARE parent of this site is alive and holds its Lease: {status.holder}")
        if not has_begun:
            problem = f": {status.problem}" if status.problem else ""
            raise SubmitError(f"this FLARE parent does not hold the Lease of its site yet{problem}")

    def cancel(self) -> None:
        """Take no more jobs back: the parent shuts down."""
        self._ending.set()

    def close(self) -> None:
        """Release the Lease: all jobs have ended."""
        self._ending.set()
        self._lease.close()

    def _run(self, fl_ctx: FLContext) -> None:
        status = self._take_back(fl_ctx)
        while self._lease.state.is_fenced:
            # Another parent has taken the site meanwhile. Its jobs are this parent's to take back once it has ended.
            status = self._take_back(fl_ctx)
        self._adoption.drop()
        if status.stage is not LeaseStage.RELEASED and not self._ending.is_set():
            self._start()
            self._has_begun.set()

    def _take_back(self, fl_ctx: FLContext) -> LeaseStatus:
        """Take the jobs of the earlier run back, once the Lease is held; return its status before."""
        status = self._wait_for_lease()
        if status.stage is LeaseStage.HELD:
            try:
                self._adoption.adopt_all(fl_ctx, status.away_seconds)
            except Exception:  # noqa: BLE001  (jobs that cannot be taken back must not keep others from running)
                _log.exception("taking back the jobs of an earlier run failed")
        return status

    def _wait_for_lease(self) -> LeaseStatus:
        """Return the first status that says whether this parent may begin. It may change at any moment."""
        statuses: list[LeaseStatus] = []

        def is_final(status: LeaseStatus) -> bool:
            statuses[:] = [status]
            return _is_final(status)

        self._lease.wait(is_final)
        return statuses[0]


def _is_final(status: LeaseStatus) -> bool:
    return status.stage in _FINAL
