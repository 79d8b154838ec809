"""The jobs of a client's parent: launched, started again when the cluster has lost them, and taken back.

Every launch is recorded on the site's disk before anything of it can exist, so that the parent's next run knows it, and
until FLARE has told its server how the job has ended.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flargo.control.attempt_notes import MAX_MESSAGE_LENGTH, EventReason
from flargo.control.attempts import Attempts
from flargo.control.attempts_backend import Listener
from flargo.control.inputs import Adopted
from flargo.control.launched_job import LaunchedJob
from flargo.control.loop import Loop
from flargo.control.meter import Meter
from flargo.control.workers import Task
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.job_record import JobRecord
from flargo.flare.launch_records import LaunchRecord, LaunchRecords, LostAttempt
from flargo.flare.nvflare_internals import WorkspaceTransfer
from flargo.flare.report import Report
from flargo.job.names import credentials_secret, display_text
from flargo.job.next_attempt import next_attempt
from flargo.job.plan import build_plan, start_timeouts
from flargo.job.settings import Settings
from flargo.status.job_state import JobState
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Credentials, Launch, Plan, ServerJob, Uid

OnEnd = Callable[[Verdict, str, str], None]
"""Called once for each job, with the verdict, the name of its last Workflow, and the end of its log."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Backend:
    """What the attempts of one job need (``flargo.control.attempts_backend.Backend``)."""

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
    record: JobRecord | None
    """The job's record for the parent's next run; None: there is none."""
    end: OnEnd
    adopted: Adopted | None = None
    """The attempt that an earlier run of this parent has launched; None: this run has launched the first one."""

    def build_plan(self, number: int, loss: Verdict, lost: WorkflowView | None) -> Plan:
        """Return the plan of an attempt after the first, and record the attempt.

        Raises:
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        assert self.first is not None, f"job {self.job_id} has one attempt only"
        launch = next_attempt(self.first, number, secrets.token_hex(4))
        self.loop.require(launch.pod["metadata"]["name"])
        if self.record is not None:
            before = LostAttempt(lost.attempt, loss) if lost is not None and lost.attempt else None
            self.record.begin(LaunchRecord(self.first, number, launch.attempt, before))
        return replace(build_plan(launch, self.settings), replaces=_credentials(lost))

    def launch(self, listener: Listener, plan: Plan, number: int) -> LaunchedJob:
        """Start to launch an attempt, and return at once.

        Raises:
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        launched = self.loop.launch(
            plan,
            lambda: self.transfer.has_results,
            lambda verdict, tail: listener.on_verdict(number, verdict, tail),
            collect_log=self.settings.argo.keep_lost_log,
            on_state=lambda state: listener.on_state(number, state),
            keeps_secret=True,
        )
        which = f", attempt {number} of {self.max_attempts}" if self.max_attempts > 1 else ""
        _log.info("%s: job %s submitted as Workflow %s%s", self.site, self.job_id, plan.name, which)
        return launched

    def adopt(self, listener: Listener, number: int) -> LaunchedJob:
        """Follow an attempt that an earlier run of this parent has launched, and return at once.

        Raises:
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        assert self.adopted is not None, f"job {self.job_id} was not launched by an earlier run"
        return self.loop.adopt(
            self.adopted,
            lambda: self.transfer.has_results,
            lambda verdict, tail: listener.on_verdict(number, verdict, tail),
            collect_log=self.settings.argo.keep_lost_log,
            on_state=lambda state: listener.on_state(number, state),
        )

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        """Request the end of an attempt, and return at once."""
        self.loop.stop(launched, cause)

    def release_secret(self, launched: LaunchedJob) -> None:
        """Let an attempt's credentials be deleted, and return at once."""
        self.loop.release_secret(launched)

    def run(self, task: Task, delay: float = 0.0) -> bool:
        """Run a task on another thread, after a delay in seconds; return False if there is none."""
        return self.loop.run(task, delay)

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
        names = display_text(", ".join(pods), MAX_MESSAGE_LENGTH)
        if names:
            text = "job %s at %s: %s may run beside %s, attempt %d, until its node hears that it is deleted"
            _log.warning(text, self.job_id, self.site, names, workflow, number)
        if lost is not None:
            beside = f"; {names} may still run beside it" if names else ""
            message = f"{self._describe_attempt(number)} was submitted as Workflow {workflow}{beside}"
            self.run(lambda: self.loop.attempt_notes.announce(lost, EventReason.STARTED, message))

    def on_end(self, verdict: Verdict, workflow: str, tail: str) -> None:
        """Record and report the verdict on the job."""
        if self.record is not None:
            self.record.end(verdict)
        self.end(verdict, workflow, tail)

    def note_verdict(self, verdict: Verdict, workflows: Sequence[WorkflowView]) -> None:
        """Note the verdict on the first of these Workflows that exists, on another thread."""
        detail = self.report.public_detail(verdict)
        self.run(lambda: self.loop.attempt_notes.note_verdict(workflows, verdict, detail))

    def _describe_attempt(self, number: int) -> str:
        return f"attempt {number} of {self.max_attempts} of job {self.job_id}"


def _credentials(workflow: WorkflowView | None) -> Credentials | None:
    """Return which credentials Secret belongs to a Workflow of this site."""
    if workflow is None or not workflow.attempt:
        return None
    return Credentials(credentials_secret(workflow.name, workflow.attempt), workflow.name, workflow.uid)


class ClientJobs:
    """The running jobs of one client's parent."""

    def __init__(self, settings: Settings, loop: Loop, meter: Meter, records: LaunchRecords | None) -> None:
        """Start without any job.

        Args:
            settings: the site's settings.
            loop: the parent's loop.
            meter: receives measurements.
            records: where launches are recorded for the parent's next run; None: nowhere.
        """
        self._settings = settings
        self._loop = loop
        self._meter = meter
        self._records = records
        self._running: set[Attempts] = set()
        self._ended: dict[str, JobRecord] = {}
        """The records of jobs that have ended, and whose ends FLARE may not have reported yet, by job id."""
        self._reported = threading.Condition()

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
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        self._loop.require(plan.name)
        self._ended.pop(launch.job_id, None)
        attempts = self._prepare(launch, transfer, report, probe, on_end)
        if self._records is not None:
            self._records.save(LaunchRecord(launch, launch.number, launch.attempt))
        try:
            attempts.start(plan)
        except BaseException:
            self._running.discard(attempts)
            if self._records is not None:
                self._records.delete(launch.job_id)
            raise
        return ArgoJobHandle(attempts.launched, attempts.stop)

    def adopt(
        self,
        record: LaunchRecord,
        uid: Uid,
        transfer: WorkspaceTransfer,
        report: Report,
        probe: Callable[[], ServerJob],
        on_end: OnEnd,
        register: Callable[[ArgoJobHandle], None],
    ) -> ArgoJobHandle:
        """Take back a job that an earlier run of this parent has launched; return its handle.

        Args:
            record: the record of the launch, with the content of the Secrets.
            uid: the uid of the latest attempt's Workflow.
            transfer: the transfer of the job's workspace, registered with the old token.
            report: where the job's outcome is reported.
            probe: returns whether the server's process of the job runs.
            on_end: called with the verdict, before threads that wait for the job are woken.
            register: makes FLARE wait for a handle.

        Raises:
            AdoptionError: FLARE cannot wait for the job.
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked. If that is so only since the call, ``on_end`` has been called.
        """
        self._loop.require_for_adoption(record.workflow)
        timeouts = start_timeouts(record.first, self._settings)
        adopted = Adopted(
            record.workflow, uid, record.attempt, timeouts, self._settings.argo.kill_grace, keeps_secret=True
        )
        attempts = self._prepare(record.first, transfer, report, probe, on_end, adopted)
        handle = ArgoJobHandle(attempts.launched, attempts.stop)
        try:
            register(handle)
            attempts.adopt(record.number, record.lost.verdict if record.lost is not None else None)
        except BaseException:
            self._running.discard(attempts)
            raise
        return handle

    def report(self, record: LaunchRecord, verdict: Verdict, register: Callable[[ArgoJobHandle], None]) -> None:
        """Let FLARE report the end of a job whose earlier parent may not have come to that.

        Args:
            record: the record of the launch.
            verdict: the verdict on the job.
            register: makes FLARE wait for a handle.

        Raises:
            AdoptionError: FLARE cannot wait for the job.
        """
        job_record = self._record(record.first.job_id)
        if job_record is not None:
            job_record.end(verdict)
            self._ended[record.first.job_id] = job_record
        job = LaunchedJob(record.workflow)
        job.conclude(verdict)
        try:
            register(ArgoJobHandle(job, lambda _: None))
        except BaseException:
            self._ended.pop(record.first.job_id, None)
            raise

    def on_completed(self, job_id: str) -> None:
        """Delete the record of a job that has ended: FLARE has reported the end to its server, or has tried to."""
        record = self._ended.get(job_id)
        if record is not None:
            record.delete()
            with self._reported:
                self._ended.pop(job_id, None)
                self._reported.notify_all()

    def wait_for_reports(self, seconds: float) -> None:
        """Wait until FLARE has reported the ends of all jobs that have ended, for some seconds at most."""
        with self._reported:
            self._reported.wait_for(lambda: not self._ended, seconds)

    def stop_all(self, cause: Cause) -> None:
        """End all jobs, those between two attempts included. Returns at once."""
        for attempts in list(self._running):
            try:
                attempts.stop(cause)
            except Exception:  # noqa: BLE001  (an error about one job must not keep the others from their end)
                _log.exception("a job could not be stopped")

    def _prepare(
        self,
        first: Launch,
        transfer: WorkspaceTransfer,
        report: Report,
        probe: Callable[[], ServerJob],
        on_end: OnEnd,
        adopted: Adopted | None = None,
    ) -> Attempts:
        job_id = first.job_id
        record = self._record(job_id)

        def end(verdict: Verdict, workflow: str, tail: str) -> None:
            self._running.discard(attempts)
            if record is not None:
                self._ended[job_id] = record
            on_end(verdict, workflow, tail)

        backend = _Backend(
            first.job_id,
            first.parent.site,
            first.max_attempts,
            first if first.max_attempts > 1 else None,
            self._settings,
            self._loop,
            transfer,
            report,
            self._meter,
            probe,
            record,
            end,
            adopted,
        )
        argo = self._settings.argo
        attempts = Attempts(
            backend, first.max_attempts, deleted_counts=argo.rejoin_deleted, keeps_logs=argo.keep_lost_log
        )
        self._running.add(attempts)
        return attempts

    def _record(self, job_id: str) -> JobRecord | None:
        if self._records is None:
            return None
        return JobRecord(self._records, job_id, lambda: self._loop.may_change(is_followed=True))
