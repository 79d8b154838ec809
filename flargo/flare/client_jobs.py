"""The jobs of a client's parent: launched, and started again when the cluster has lost them."""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flargo.control.attempt_notes import EventReason
from flargo.control.attempts import Attempts
from flargo.control.launched_job import LaunchedJob
from flargo.control.loop import Loop
from flargo.control.meter import Meter
from flargo.control.workers import Task
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.nvflare_internals import WorkspaceTransfer
from flargo.flare.report import Report
from flargo.job.next_attempt import next_attempt
from flargo.job.plan import build_plan
from flargo.job.settings import Settings
from flargo.status.job_state import JobState
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Launch, Plan, ServerJob

OnEnd = Callable[[Verdict, str, str], None]
"""Called once for each job, with the verdict, the name of its last Workflow, and the end of its log."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Backend:
    """What the attempts of one job need (``flargo.control.attempts.Backend``)."""

    job_id: str
    site: str
    max_attempts: int
    first: Launch | None
    """The first attempt, from which others are built; None if there can be no other: it holds a startup kit."""
    settings: Settings
    loop: Loop
    transfer: WorkspaceTransfer
    report: Report
    meter: Meter
    probe: Callable[[], ServerJob]
    end: OnEnd

    def build_plan(self, number: int) -> Plan:
        """Return the plan of an attempt after the first."""
        assert self.first is not None, f"job {self.job_id} has one attempt only"
        return build_plan(next_attempt(self.first, number, secrets.token_hex(4)), self.settings)

    def launch(self, attempts: Attempts, plan: Plan, number: int) -> LaunchedJob:
        """Start to launch an attempt, and return at once.

        Raises:
            SubmitError: the parent is shutting down, or an earlier launch of the job is still tracked.
        """
        launched = self.loop.launch(
            plan,
            lambda: self.transfer.has_results,
            lambda verdict, tail: attempts.on_verdict(number, verdict, tail),
            collect_log=self.settings.argo.keep_lost_log,
            on_state=lambda state: attempts.on_state(number, state),
        )
        which = f", attempt {number} of {self.max_attempts}" if self.max_attempts > 1 else ""
        _log.info("%s: job %s submitted as Workflow %s%s", self.site, self.job_id, plan.name, which)
        return launched

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        """Request the end of an attempt, and return at once."""
        self.loop.stop(launched, cause)

    def run(self, task: Task) -> bool:
        """Run a task on another thread; return False if there is none."""
        return self.loop.run(task)

    def probe_server(self) -> ServerJob:
        """Return whether the server's process of the job runs."""
        return self.probe()

    def read_log(self, state: JobState) -> str:
        """Return the end of an attempt's log, or "" if there is none."""
        return self.loop.read_log(state)

    def on_lost(self, number: int, verdict: Verdict, tail: str, workflow: WorkflowView | None) -> None:
        """Log that an attempt was lost, count it, keep the end of its log, and create an Event."""
        self.meter.count_lost_attempt(verdict)
        self.report.note_lost_attempt(number, self.max_attempts, verdict, tail)
        message = f"{self._describe_attempt(number)} was lost: {self.report.loss_summary(verdict)}"
        if workflow is not None:
            self.run(lambda: self.loop.attempt_notes.announce(workflow, EventReason.LOST, message))

    def on_next(self, number: int, pods: tuple[str, ...], workflow: str, lost: WorkflowView | None) -> None:
        """Log which pods of the attempt before may still run beside a new one, and create an Event.

        The Event is about the lost Workflow, where people look for what followed. The new one has its attempt in the
        title.
        """
        if pods:
            text = "job %s at %s: %s may run beside attempt %d until its node hears that it is deleted"
            _log.warning(text, self.job_id, self.site, ", ".join(pods), number)
        if lost is not None:
            beside = f"; {', '.join(pods)} may still run beside it" if pods else ""
            message = f"{self._describe_attempt(number)} was submitted as Workflow {workflow}{beside}"
            self.run(lambda: self.loop.attempt_notes.announce(lost, EventReason.STARTED, message))

    def on_end(self, verdict: Verdict, workflow: str, tail: str) -> None:
        """Report the verdict on the job."""
        self.end(verdict, workflow, tail)

    def note_verdict(self, verdict: Verdict, workflows: Sequence[WorkflowView]) -> None:
        """Note the verdict on the first of these Workflows that exists, on another thread."""
        detail = self.report.public_detail(verdict)
        self.run(lambda: self.loop.attempt_notes.note_verdict(workflows, verdict, detail))

    def _describe_attempt(self, number: int) -> str:
        return f"attempt {number} of {self.max_attempts} of job {self.job_id}"


class ClientJobs:
    """The running jobs of one client's parent."""

    def __init__(self, settings: Settings, loop: Loop, meter: Meter) -> None:
        """Start without any job."""
        self._settings = settings
        self._loop = loop
        self._meter = meter
        self._running: set[Attempts] = set()

    def launch(
        self,
        launch: Launch,
        plan: Plan,
        transfer: WorkspaceTransfer,
        report: Report,
        probe: Callable[[], ServerJob],
        on_end: OnEnd,
    ) -> ArgoJobHandle:
        """Launch a job, and return its handle at once.

        Args:
            launch: the launch.
            plan: the launch's plan.
            transfer: the registered transfer of the job's workspace.
            report: where the job's outcome is reported.
            probe: returns whether the server's process of the job runs.
            on_end: called with the verdict, before threads that wait for the job are woken.

        Raises:
            SubmitError: the parent is shutting down, or an earlier launch of the job is still tracked.
        """

        def end(verdict: Verdict, workflow: str, tail: str) -> None:
            self._running.discard(attempts)
            on_end(verdict, workflow, tail)

        backend = _Backend(
            launch.job_id,
            launch.parent.site,
            launch.max_attempts,
            launch if launch.max_attempts > 1 else None,
            self._settings,
            self._loop,
            transfer,
            report,
            self._meter,
            probe,
            end,
        )
        argo = self._settings.argo
        attempts = Attempts(
            backend, launch.max_attempts, deleted_counts=argo.rejoin_deleted, keeps_logs=argo.keep_lost_log
        )
        self._running.add(attempts)
        try:
            attempts.start(plan)
        except BaseException:
            self._running.discard(attempts)
            raise
        return ArgoJobHandle(attempts.launched, attempts.stop)

    def stop_all(self, cause: Cause) -> None:
        """End all jobs, those between two attempts included. Returns at once."""
        for attempts in list(self._running):
            try:
                attempts.stop(cause)
            except Exception:  # noqa: BLE001  (an error about one job must not keep the others from their end)
                _log.exception("a job could not be stopped")
