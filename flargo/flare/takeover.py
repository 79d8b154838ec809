"""Lets a client's parent begin once it is its site's only one, with the jobs of its earlier run taken back.

A parent that follows its site's Workflows ends those that nobody follows. So it must not begin while another parent of
the site is alive, whose jobs these are, and not before it knows what an earlier run of its own has left. If either
cannot be found out, it neither launches nor ends anything: jobs may have trained for weeks, and go on meanwhile.

A parent that knows which jobs there are, and cannot take some of them back yet, begins all the same. It reserves their
Workflows, which the loop then leaves alone, and goes on to try. There is no limit to that, since no time shows that a
job has to end. Only a Lease that is refused is a reason to give up after UNAVAILABLE_PATIENCE: the site may never get
the right on Leases, and without it no job can be taken back.
"""

import logging
import threading
from collections.abc import Callable

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext

from flargo.backoff import Backoff
from flargo.control.lease import LeaseStage, LeaseStatus
from flargo.control.lease_keeper import LeaseKeeper
from flargo.control.submit import SubmitError
from flargo.flare.heartbeat import WRITE_SECONDS, Heartbeat
from flargo.flare.job_adoption import JobAdoption
from flargo.flare.launch_records import RecordsError

START_PATIENCE = 20.0
"""Seconds for which FLARE's start waits until the jobs are taken back, once the parent is registered."""
OUTAGE_PATIENCE = 40.0
"""Seconds for which FLARE's start waits for the Lease while requests fail, such as two that each get no answer in 15 s.
FLARE's server takes a client without heartbeats for dead after 600 s."""
DECISION_PATIENCE = 60.0
"""Seconds for which FLARE's start waits for the Lease while requests are answered. That an earlier run is gone is known
15 s after a first read, and whether another parent was faster two requests later; each takes seconds on a busy machine.
A parent that did not wait for that would register beside the other one."""
LAUNCH_PATIENCE = 15.0
"""Seconds for which a launch waits for the Lease. FLARE gives up on a client's launch after 20."""
RETRY = Backoff((1.0, 5.0, 15.0, 60.0))
"""Delays after a takeover that failed with an unexpected exception, or has not taken all jobs back."""
UNAVAILABLE_PATIENCE = 3600.0
"""Seconds for which recorded jobs are not ended while the Lease is refused: time to repair the parent's Role."""
_FINAL = frozenset({LeaseStage.HELD, LeaseStage.UNAVAILABLE, LeaseStage.RELEASED})
_log = logging.getLogger(__name__)


class SiteTakenError(Exception):
    """Another parent of the site is alive, so this one must not start."""


class Takeover:
    """Acquires a site's Lease, and starts the parent's work once the Lease is held."""

    def __init__(
        self,
        lease: LeaseKeeper,
        adoption: JobAdoption,
        heartbeat: Heartbeat,
        start: Callable[[], None],
        reserve: Callable[[frozenset[str]], None],
        ending: threading.Event,
    ) -> None:
        """Prepare; nothing is acquired yet.

        Args:
            lease: the site's Lease.
            adoption: takes the jobs of the earlier run back.
            heartbeat: tells when the earlier run was alive, and the next one when this one was.
            start: starts to follow the site's Workflows, and to end those that nobody follows.
            reserve: lets Workflows of these names, and only of these, neither be followed nor ended.
            ending: set by ``cancel``, when the parent shuts down.
        """
        self._lease = lease
        self._adoption = adoption
        self._heartbeat = heartbeat
        self._idle_seconds: float | None = None
        """Seconds from the earlier run's last heartbeat to this one's first; None if that is not known."""
        self._is_beating = False
        self._start = start
        self._reserve = reserve
        self._reserved: frozenset[str] = frozenset()
        """The Workflows of jobs that are not taken back yet."""
        self._ending = ending
        self._thread: threading.Thread | None = None
        self._other_terms: int | None = None
        """LeaseStatus.other_terms when this parent began; None: it has not begun."""
        self._has_warned = False
        self._problem = ""
        """Why the latest try to begin failed, if it did. For people; of an unexpected exception only its type."""
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
            RecordsError: the records of the earlier run's launches cannot be read.
            InvalidInput: FLARE's context is not complete.
        """
        try:
            self._acquire(fl_ctx)
        except BaseException:
            self._lease.close(release=False)
            self._adoption.drop()
            raise

    def begin(self, fl_ctx: FLContext) -> None:
        """Start the work on a thread, and wait for some seconds until it has begun.

        Call it again in case it has raised an exception, which FLARE swallows. Otherwise further calls do nothing.

        Args:
            fl_ctx: the context of AFTER_CLIENT_REGISTER, which FLARE also fires if the server has refused the client;
                or that of a later event.
        """
        if self._thread is not None or not fl_ctx.get_prop(FLContextKey.CLIENT_TOKEN):
            return
        context = fl_ctx.get_engine().new_context()
        self._start_heartbeat()
        thread = threading.Thread(target=self._run, args=(context,), name="flargo-takeover", daemon=True)
        thread.start()
        self._thread = thread
        self._has_begun.wait(START_PATIENCE)

    def may_change(self, *, is_followed: bool) -> bool:
        """Return whether this parent may change a job's objects now (flargo.control.authority.MayChange).

        If another parent has had the site meanwhile, and has ended, its jobs still run, and a run that begins can take
        them back. This run leaves alone what it does not follow, for good.
        """
        if not self._lease.may_change(is_followed=is_followed):
            return False
        is_own = is_followed or self._other_terms is None or self._lease.state.other_terms == self._other_terms
        if not is_own and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "another FLARE parent of this site has held its Lease meanwhile; this one leaves the jobs alone that "
                "it does not follow, until it is started again"
            )
        return is_own

    @property
    def is_certain(self) -> bool:
        """True while no other parent can have taken over the jobs that this one follows: the Lease is not late."""
        return self._lease.may_change(is_followed=False)

    def require(self) -> None:
        """Wait until this parent may launch jobs.

        Raises:
            SubmitError: another parent of the site is alive, it is not known whether there is one, or the jobs of the
                earlier run could not be taken back yet.
        """
        has_begun = self._has_begun.wait(0.0 if self._problem else LAUNCH_PATIENCE)
        status = self._lease.state
        if status.is_fenced:
            raise SubmitError(f"another FLARE parent of this site is alive and holds its Lease: {status.holder}")
        if not has_begun and self._problem:
            raise SubmitError(f"this FLARE parent has not taken over its site yet: {self._problem}; see its log")
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

    def _acquire(self, fl_ctx: FLContext) -> None:
        self._adoption.serve(fl_ctx)
        self._lease.start()
        self._lease.wait(lambda status: is_decided(status, 0.0), OUTAGE_PATIENCE)
        self._lease.wait(lambda status: is_decided(status, OUTAGE_PATIENCE), DECISION_PATIENCE - OUTAGE_PATIENCE)
        status = self._lease.state
        if status.is_fenced:
            raise SiteTakenError(
                f"another FLARE parent of this site is alive and holds its Lease: {status.holder}; end it first"
            )

    def _run(self, fl_ctx: FLContext) -> None:
        """Take the site over, and try again until nothing is left to take back; the body of a thread.

        An unexpected exception must not end the site's jobs.
        """
        failures = 0
        while not self._try_to_run(fl_ctx):
            failures += 1
            seconds = RETRY.seconds(failures)
            if self._problem:
                self._log_failure(seconds)
            if self._ending.wait(seconds):
                return

    def _log_failure(self, seconds: float) -> None:
        if self._has_begun.is_set():
            text = "running jobs of this site cannot be taken back yet: %s. They go on; the next try is in %.0f s"
            _log.warning(text, self._problem, seconds)
            return
        _log.error(
            "the takeover of this site has failed: %s. Its running jobs go on; this parent launches and ends none "
            "before it has succeeded, and tries again in %.0f s. If it goes on to fail, start the parent again; "
            "with argo.adopt false it starts without a takeover, and ends the running jobs",
            self._problem,
            seconds,
        )

    def _try_to_run(self, fl_ctx: FLContext) -> bool:
        """Return whether nothing is left to take back."""
        try:
            is_complete = self._take_over(fl_ctx)
        except RecordsError as error:
            self._problem = str(error)
            return False
        except Exception as error:  # noqa: BLE001  (a parent that went on would end jobs that can be taken back)
            self._problem = f"an unexpected {type(error).__name__}"
            _log.exception("unexpected exception")
            return False
        self._problem = ""
        return is_complete

    def _take_over(self, fl_ctx: FLContext) -> bool:
        """Take back what can be, and begin; return whether nothing is left to take back."""
        status = self._wait_for_lease()
        while not self._is_over(status):
            if status.stage is LeaseStage.UNAVAILABLE:
                return self._begin_without_lease(status)
            names = self._adoption.adopt_all(fl_ctx, self._away_seconds(status))
            now = self._lease.state
            if now.is_fenced or now.other_terms != status.other_terms or (names and not _is_final(now)):
                # Another parent has taken the site meanwhile, or may take it. Its jobs are this parent's to take back
                # once it has ended.
                status = self._wait_for_lease()
                continue
            self._set_reserved(names)
            if not names:
                self._adoption.drop()
            self._begin_work(status)
            return not names
        self._adoption.drop()
        return True

    def _begin_without_lease(self, status: LeaseStatus) -> bool:
        """Begin while the Lease is refused, and end no recorded job for a long time; return whether there is none.

        The refusal may pass: somebody replaces the parent's RoleBinding, or applies the Role of this flargo.
        """
        names = self._adoption.find_open()
        if names:
            _log.warning(
                "the Lease of this site is refused, and %d Workflows of its earlier run may still run: %s. They go on, "
                "and are taken back once the right on Leases is there: apply deploy/launcher.yaml again, or the kit's "
                "chart. If it is not there in %.0f s, they are ended; to end them now, start the parent again with "
                "argo.adopt false",
                len(names),
                ", ".join(sorted(names)),
                UNAVAILABLE_PATIENCE,
            )
        self._set_reserved(names)
        if not names:
            self._adoption.drop()
        self._begin_work(status)
        if not names:
            return True
        decisive = {LeaseStage.HELD, LeaseStage.RELEASED}
        has_changed = self._lease.wait(lambda now: now.stage in decisive, UNAVAILABLE_PATIENCE)
        if not has_changed:
            _log.warning("the Lease of this site is still refused: the Workflows of its earlier run are ended")
            self._set_reserved(frozenset())
            self._adoption.drop()
        return not has_changed

    def _is_over(self, status: LeaseStatus) -> bool:
        """Return whether nothing may be taken back any more: the parent ends, or another one has had the site."""
        is_lost = self._other_terms is not None and status.other_terms != self._other_terms
        return status.stage is LeaseStage.RELEASED or self._ending.is_set() or is_lost

    def _set_reserved(self, names: frozenset[str]) -> None:
        if names != self._reserved:
            self._reserve(names)
            self._reserved = names

    def _begin_work(self, status: LeaseStatus) -> None:
        if self._other_terms is None:
            self._other_terms = status.other_terms
        if not self._has_begun.is_set() and not self._ending.is_set():
            self._adoption.seal()
            self._start()
            self._has_begun.set()

    def _away_seconds(self, status: LeaseStatus) -> float | None:
        """Return for how long the site had no parent. One that could not renew the Lease was a parent all the same."""
        if status.away_seconds is None or self._idle_seconds is None or status.other_terms:
            return status.away_seconds
        return min(status.away_seconds, self._idle_seconds)

    def _start_heartbeat(self) -> None:
        if self._is_beating:
            return
        self._idle_seconds = self._heartbeat.seconds_since()
        threading.Thread(target=self._beat, name="flargo-heartbeat", daemon=True).start()
        self._is_beating = True

    def _beat(self) -> None:
        """Note that this parent runs, while no other one has the site; the body of a thread."""
        while True:
            if not self._lease.state.is_fenced:
                self._heartbeat.write()
            if self._ending.wait(WRITE_SECONDS):
                return

    def _wait_for_lease(self) -> LeaseStatus:
        """Return the first status that says whether this parent may begin. It may change at any moment."""
        statuses: list[LeaseStatus] = []

        def is_final(status: LeaseStatus) -> bool:
            statuses[:] = [status]
            return _is_final(status)

        self._lease.wait(is_final)
        return statuses[0]


def is_decided(status: LeaseStatus, seconds: float) -> bool:
    """Return whether FLARE's start need not wait any longer for the Lease, because of its status or the time.

    Args:
        status: the status of the Lease.
        seconds: seconds since the parent has begun to acquire it.
    """
    if status.is_fenced or _is_final(status):
        return True
    return seconds >= (OUTAGE_PATIENCE if status.problem else DECISION_PATIENCE)


def _is_final(status: LeaseStatus) -> bool:
    return status.stage in _FINAL
