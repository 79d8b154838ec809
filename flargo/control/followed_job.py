"""A launched job as the loop follows it: what the launch needs, and where its progress and verdict are reported."""

import threading
import time
from collections.abc import Callable

from flargo.control.launched_job import LaunchedJob
from flargo.control.meter import Meter
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.verdict import Verdict
from flargo.terms import Plan

OnVerdict = Callable[[Verdict, str], None]
OnState = Callable[[JobState], None]


class FollowedJob:
    """A launched job that is not cleared yet. It holds the plan, with a startup kit, only until the submit begins."""

    def __init__(
        self,
        name: str,
        attempt: str,
        has_results: Callable[[], bool],
        on_verdict: OnVerdict,
        *,
        collect_log: bool,
        on_state: OnState = lambda _: None,
        plan: Plan | None = None,
    ) -> None:
        """Start to follow a launch.

        Args:
            name: the name of the job's Workflow.
            attempt: the id of the launch.
            has_results: returns whether the job's results have reached the parent; does no I/O.
            on_verdict: called with the verdict and the end of the log.
            collect_log: read the end of the program's log if the program fails.
            on_state: called with every new state, before ``on_verdict``; does no I/O.
            plan: the launch's plan; None: an earlier run of this parent has submitted it.
        """
        self.name = name
        self.attempt = attempt
        self._plan = plan
        self.has_results = has_results
        self.on_verdict = on_verdict
        self.on_state = on_state
        self.collect_log = collect_log
        self.is_concluded = False
        """The verdict is being reported, or was. Only the reconciler's thread changes it."""
        self.launched = LaunchedJob(name)
        self.cancelled = threading.Event()
        """Set when FLARE no longer wants the job."""
        self.submit_problem = ""
        """The error of the submit's latest request, for people."""
        self._create_lock = threading.Lock()
        self._may_exist = plan is None
        """The request that creates the Workflow may have been sent."""
        self.cleared = threading.Event()
        """Set when nothing of the job is left on the cluster."""
        self._followed_since = time.monotonic()
        self._has_run = False
        """The job was seen running."""
        self._released_at: float | None = None
        self._is_start_measured = plan is None

    def take_plan(self) -> Plan:
        """Return the plan, once; from then on the job does not hold it."""
        plan, self._plan = self._plan, None
        assert plan is not None, f"{self.name}: its plan was taken before"
        return plan

    @property
    def may_exist(self) -> bool:
        """Return whether anything of the job may have been created."""
        return self._may_exist

    def begin_create(self) -> bool:
        """Record that the Workflow is about to be created; return False if it must not be, as the job was cancelled."""
        with self._create_lock:
            if self.cancelled.is_set():
                return False
            self._may_exist = True
            return True

    def cancel(self) -> bool:
        """Cancel the submit; return whether that proves that nothing of the job exists or will be created."""
        with self._create_lock:
            self.cancelled.set()
            return not self._may_exist

    def expire(self) -> bool:
        """Cancel the submit if nothing can have been created yet; return whether it is cancelled for that reason."""
        with self._create_lock:
            if not self._may_exist:
                self.cancelled.set()
            return not self._may_exist

    def note_problem(self, message: str) -> None:
        """Keep the error of a request that is retried."""
        self.submit_problem = message

    def seconds_waiting(self, now: float) -> float:
        """Return for how many seconds the job has waited to run; 0 once it has run, or is being ended."""
        is_waiting = not (self._has_run or self.launched.is_stopping or self.is_concluded)
        return max(0.0, now - self._followed_since) if is_waiting else 0.0

    def measure_start(self, meter: Meter, now: float) -> None:
        """Measure once how many seconds after its release the job was seen running."""
        self._has_run = self._has_run or self.launched.stage is Stage.RUNNING
        if self._is_start_measured or not self.launched.is_released:
            return
        self._released_at = now if self._released_at is None else self._released_at
        if self.launched.stage is Stage.RUNNING:
            self._is_start_measured = True
            meter.observe_start(now - self._released_at)
