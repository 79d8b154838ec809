"""The two job launchers that a FLARE site names in a ``local/<name>__p_resources.json``."""

import logging
import platform
import secrets
import threading
import time
import traceback
from abc import abstractmethod
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.job_launcher_spec import JobLauncherSpec, add_launcher

from flargo.cluster.api import Api
from flargo.cluster.client_config import config_loader
from flargo.cluster.error_text import describe
from flargo.control.authority import unlimited
from flargo.control.launched_job import LaunchedJob
from flargo.control.lease_keeper import LeaseKeeper
from flargo.control.loop import Loop
from flargo.control.meter import Meter, NullMeter
from flargo.control.progress_notes import ProgressNotes
from flargo.control.status_notes import StatusNotes
from flargo.control.submit import SubmitError
from flargo.flare.client_jobs import ClientJobs, OnEnd
from flargo.flare.final_status import FINAL_EVENTS, FinalStatuses
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.heartbeat import Heartbeat
from flargo.flare.job_adoption import JobAdoption
from flargo.flare.launch_records import LaunchRecords, RecordsError
from flargo.flare.notifier import FLUSH_SECONDS, Notifier, Notify, no_notification
from flargo.flare.nvflare_internals import ServerJobProbe, WorkspaceTransfer, add_deploy_detail, find_changes
from flargo.flare.receiver import post
from flargo.flare.redact import REDACTION, install_filter
from flargo.flare.report import Report
from flargo.flare.request import read_launch, read_parent, read_report, read_workspace
from flargo.flare.takeover import SiteTakenError, Takeover
from flargo.flare.wait import wait_until_running
from flargo.job.plan import build_plan, site_selector
from flargo.job.settings import check_settings
from flargo.job.validate import Endpoint, InvalidInput, Sentence
from flargo.status.job_state import JobState
from flargo.status.reasons import NOT_STARTED_IN_TIME, Reason, ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Launch, Parent, Plan, Role

if TYPE_CHECKING:
    from flargo.metrics import Exporter

END_PATIENCE = 15.0
"""Seconds for which a parent that shuts down waits for its jobs to end."""
REPORT_PATIENCE = 2.0
"""Seconds for which a client's parent that shuts down waits until FLARE has reported the ends of its jobs. It may not
delete their records any more once it has released its site's Lease; the next run then reports them again."""
_MAX_FRAMES = 5
"""Innermost calls of an unexpected exception that the parent's log shows."""
_log = logging.getLogger(__name__)


class _LaunchRefusedError(RuntimeError):
    """Raised to FLARE instead of returning a handle that has ended."""


class _ShutDownError(_LaunchRefusedError):
    """The parent is shutting down."""


class _NotStartedError(_LaunchRefusedError):
    """A server's job did not run in time, and was ended."""


class ArgoJobLauncher(JobLauncherSpec):  # type: ignore[misc]  # nvflare is untyped
    """Runs each job as an Argo Workflow of one step.

    The arguments of nvflare 2.9's K8sJobLauncher have the same meaning here. ``argo`` holds the settings that only Argo
    needs (flargo.job.settings.ArgoSettings).
    """

    role: ClassVar[Role]

    # The arguments stand here and in check_settings. The signature is what people, IDEs and nvflare's job API inspect,
    # and check_settings has to know the same defaults because `flargo prepare` and `flargo render` check arguments
    # without a launcher. tests/unit/test_public_names.py holds the signature.
    def __init__(  # noqa: PLR0913, PLR0917  (the stock launcher's own arguments)
        self,
        config_file_path: str | None = None,
        study_data_pvc_file_path: str | None = None,
        timeout: float | None = None,
        namespace: str = "default",
        pending_timeout: float | None = 120,
        python_path: str | None = None,
        security_context: dict[str, Any] | None = None,
        ephemeral_storage: str = "1Gi",
        default_python_path: str | None = None,
        workspace_mount_path: str = "/var/tmp/nvflare/workspace",  # noqa: S108  (nvflare's own default)
        image_pull_secrets: list[str] | None = None,
        argo: dict[str, Any] | None = None,
    ) -> None:
        """Check all arguments and start to serve metrics. The API server is not contacted yet.

        Raises:
            InvalidInput: an argument is not allowed. The message names the argument, its value, and what is expected.
        """
        super().__init__()
        install_filter()
        self._settings = check_settings(
            config_file_path=config_file_path,
            study_data_pvc_file_path=study_data_pvc_file_path,
            timeout=timeout,
            namespace=namespace,
            pending_timeout=pending_timeout,
            python_path=python_path,
            security_context=security_context,
            ephemeral_storage=ephemeral_storage,
            default_python_path=default_python_path,
            workspace_mount_path=workspace_mount_path,
            image_pull_secrets=image_pull_secrets,
            argo=argo,
        )
        self._exporter = _start_exporter(self._settings.argo.metrics_address)
        self._meter: Meter = self._exporter or NullMeter()
        receiver = self._settings.argo.notify
        self._notifier = (
            Notifier(partial(post, receiver), self._meter.count_notification) if receiver is not None else None
        )
        self._notify: Notify = self._notifier.send if self._notifier is not None else no_notification
        load = config_loader(self._settings.config_file_path)
        self._api = Api(load, self._settings.namespace, self._meter.observe_request, REDACTION.learn_own_token)
        self._epoch = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._is_shut_down = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Register as a launcher before a job's launch, and start and shut down together with FLARE's parent."""
        if event_type == EventType.BEFORE_JOB_LAUNCH:
            add_launcher(self, fl_ctx)
        elif event_type == EventType.SYSTEM_START:
            self._start(fl_ctx)
        elif event_type == EventType.SYSTEM_END:
            self._shut_down()

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> ArgoJobHandle:
        """Submit a job as an Argo Workflow.

        A client's launch returns at once: FLARE gives up on it after 20 s. A server's launch returns when the job's
        process runs: FLARE then starts the clients, which give up on the server's process after 60 s.

        A server's job that finds no node, or does not run in time, is ended, and its launch fails: FLARE starts the
        clients of every job that has a handle, even one that has ended. FLARE's status is FAILED_TO_RUN then, and the
        reason is in the job's metadata (job_deploy_detail).

        Any other job that cannot be launched gets a handle that has ended with 101: an exception would only be text in
        the server's log, while the outcome of a handle reaches the researcher. This also applies to an unexpected
        exception, of which only the type is reported, because its text may quote the site's files.

        Raises:
            InvalidInput: FLARE's context does not say which job this is, or where its files are.
            RuntimeError: the parent is shutting down, or a server's job did not run in time.
        """
        start = time.monotonic()
        try:
            return self._launch(job_meta, fl_ctx)
        finally:
            self._meter.observe_launch(time.monotonic() - start)

    def _launch(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> ArgoJobHandle:
        report = read_report(job_meta, fl_ctx, self.role)
        try:
            launch, transfer = read_launch(
                job_meta, fl_ctx, self.role, self._settings, attempt=secrets.token_hex(4), epoch=self._epoch
            )
        except Exception as error:  # noqa: BLE001  (the researcher gets to know every failure of a launch)
            return self._report_failed_launch(report, _describe_failure(error, report.job_id))
        try:
            REDACTION.learn(launch.credentials, public=launch.job_id)
            plan = build_plan(launch, self._settings)
            return self._submit(launch, plan, self._get_loop(launch.parent), transfer, report, fl_ctx)
        except _LaunchRefusedError:
            transfer.remove()
            raise
        except Exception as error:  # noqa: BLE001  (the same)
            transfer.remove()
            handle = self._report_failed_launch(report, _describe_failure(error, report.job_id))
            REDACTION.forget(launch.credentials)
            return handle
        except BaseException:
            transfer.remove()
            raise

    @abstractmethod
    def _submit(
        self, launch: Launch, plan: Plan, loop: Loop, transfer: WorkspaceTransfer, report: Report, fl_ctx: FLContext
    ) -> ArgoJobHandle:
        """Submit a launch that was read, and return its handle."""

    def _end(self, launch: Launch, transfer: WorkspaceTransfer, report: Report) -> OnEnd:
        """Return the function that reports a job's verdict. It does not hold the launch with its startup kit."""
        credentials, attempt = launch.credentials, launch.attempt

        def end(verdict: Verdict, workflow: str, tail: str) -> None:
            transfer.remove()
            self._notify(report.publish(verdict, workflow, tail), attempt)
            REDACTION.forget(credentials)
            self._meter.count_verdict(verdict)

        return end

    def _start(self, fl_ctx: FLContext) -> None:
        """Start the loop before the first launch, so that Workflows of an earlier run of this parent are ended."""
        try:
            self._get_loop(read_parent(fl_ctx, self.role, self._epoch)).start()
        except InvalidInput as error:
            _log.warning("cannot look for Workflows of an earlier run before the first launch: %s", error)

    def _get_loop(self, parent: Parent) -> Loop:
        """Return the loop of this launcher; create it at the first call."""
        with self._lock:
            if self._is_shut_down:
                raise _ShutDownError(f"{parent.site} is shutting down and launches no more jobs")
            if self._loop is None:
                grace = self._settings.argo.kill_grace
                selector = site_selector(parent)
                self._loop = Loop(
                    self._api,
                    selector,
                    parent.epoch,
                    grace,
                    REDACTION.redact,
                    self._meter,
                    self._may_change,
                    self._is_certain,
                )
                if self._exporter is not None:
                    self._exporter.follow(self._loop.snapshot)
            return self._loop

    def _may_change(self, *, is_followed: bool) -> bool:
        """Return whether this parent may change a job's objects now (flargo.control.authority.MayChange)."""
        return unlimited(is_followed=is_followed)

    def _is_certain(self) -> bool:
        """Return whether it is certain that no other parent has taken over the jobs that this one follows."""
        return True

    def _shut_down(self) -> None:
        with self._lock:
            self._is_shut_down = True
            loop = self._loop
        try:
            if loop is not None:
                self._end_jobs(loop)
            if self._notifier is not None:
                self._notifier.close(FLUSH_SECONDS)
        finally:
            if self._exporter is not None:
                self._exporter.close()

    def _end_jobs(self, loop: Loop) -> None:
        loop.end(Cause.PARENT_END, END_PATIENCE)

    def _report_failed_launch(self, report: Report, detail: str) -> ArgoJobHandle:
        """Report a launch that failed; return a handle that has ended."""
        verdict = Verdict(Reason.LAUNCH_FAILED, int(ReturnCode.NEVER_STARTED), detail)
        self._notify(report.publish(verdict, workflow=""), secrets.token_hex(4))
        job = LaunchedJob("")
        job.conclude(verdict)
        self._meter.count_verdict(verdict)
        return ArgoJobHandle(job, lambda _: None)


def _describe_failure(error: Exception, job_id: str) -> str:
    """Describe an exception that ended a launch: an unexpected one only by its type, since others wrote its text.

    The parent's log shows where an unexpected exception was raised, by files and lines of code.
    """
    if isinstance(error, InvalidInput | SubmitError):
        return str(error)
    text = "job %s: launch failed with an unexpected %s, raised at %s"
    _log.error(text, job_id, type(error).__name__, _where_raised(error))
    return f"an unexpected {type(error).__name__}; the FLARE parent's log says where it was raised"


def _describe_takeover_failure(error: Exception) -> str:
    """Describe why a client's parent does not start, and what to do, for FLARE's log."""
    if isinstance(error, SiteTakenError):
        return str(error)
    is_known = isinstance(error, RecordsError)
    problem = str(error) if is_known else f"an unexpected {type(error).__name__}, raised at {_where_raised(error)}"
    return (
        "this FLARE parent does not start, because the takeover of its site could not be prepared, and without it the "
        f"site's running jobs would end: {problem}. The jobs go on; start the parent again. With argo.adopt false it "
        "starts without a takeover, and ends them"
    )


def _where_raised(error: Exception) -> str:
    """Return the innermost calls in which an exception was raised, by files and lines of code."""
    calls = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return ", ".join(f"{Path(call.filename).name}:{call.lineno} in {call.name}" for call in calls)


def _start_exporter(address: Endpoint | None) -> "Exporter | None":
    """Serve metrics at an address; None: serve none.

    Raises:
        InvalidInput: the metrics' dependencies are not installed, or nothing can listen at the address.
    """
    if address is None:
        return None
    field = "argo['metrics_address']"
    try:
        from flargo.metrics import Exporter  # noqa: PLC0415  (its dependencies are an extra)
    except ModuleNotFoundError as error:
        needs = f"needs {error.name}, which is not installed: run pip install 'flargo[metrics]', or set it to null"
        raise InvalidInput(field, str(address), Sentence(needs)) from error
    exporter = Exporter()
    try:
        exporter.serve(address)
    except OSError as error:
        allowed = f"an address of this machine and a port that is free ({describe(error)})"
        raise InvalidInput(field, str(address), allowed) from error
    return exporter


class ServerArgoJobLauncher(ArgoJobLauncher):
    """The job launcher of a FLARE server."""

    role = Role.SERVER

    @cached_property
    def _progress(self) -> ProgressNotes:
        return ProgressNotes(self._api, lambda: self._may_change(is_followed=True))

    @cached_property
    def _statuses(self) -> FinalStatuses:
        return FinalStatuses(StatusNotes(self._api))

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Do the same as any launcher, and note FLARE's final status of each job on its Workflow."""
        super().handle_event(event_type, fl_ctx)
        if event_type in FINAL_EVENTS and self._loop is not None:
            self._statuses.on_event(fl_ctx, self._loop)

    def _end_jobs(self, loop: Loop) -> None:
        self._progress.close()
        super()._end_jobs(loop)

    def _submit(
        self, launch: Launch, plan: Plan, loop: Loop, transfer: WorkspaceTransfer, report: Report, fl_ctx: FLContext
    ) -> ArgoJobHandle:
        workflow, end = plan.name, self._end(launch, transfer, report)
        status, rounds = self._statuses.follow(launch.job_id), report.read_round_count()

        def on_state(state: JobState) -> None:
            status.on_state(state)
            self._progress.on_state(state, rounds)

        def on_verdict(verdict: Verdict, tail: str) -> None:
            # FLARE archives and removes the job's files as soon as it knows the verdict.
            status.error = report.read_error()
            end(verdict, workflow, tail)

        job = loop.launch(plan, lambda: transfer.has_results, on_verdict, collect_log=True, on_state=on_state)
        _log.info("%s: job %s submitted as Workflow %s", launch.parent.site, launch.job_id, workflow)

        def stop(cause: Cause) -> None:
            report.write_preliminary(cause, workflow)
            loop.stop(job, cause)

        handle = ArgoJobHandle(job, stop)
        self._wait_for_process(handle, job, loop, transfer, launch, report, fl_ctx)
        return handle

    def _wait_for_process(
        self,
        handle: ArgoJobHandle,
        job: LaunchedJob,
        loop: Loop,
        transfer: WorkspaceTransfer,
        launch: Launch,
        report: Report,
        fl_ctx: FLContext,
    ) -> None:
        """Wait until the process of a server's job runs, or the job has ended.

        Raises:
            _NotStartedError: the job found no node, or did not run in time.
        """
        try:
            is_given_up = wait_until_running(
                handle,
                job,
                loop.seconds_out_of_sync,
                lambda: transfer.is_connected,
                lambda detail: loop.give_up(job, detail),
                launch.job_id,
                fl_ctx,
            )
        except Exception as error:  # noqa: BLE001  (the Workflow exists: its own handle has to end)
            loop.give_up(job, _describe_failure(error, launch.job_id))
            handle.wait()
            is_given_up = True
        except BaseException:
            # FLARE gets no handle with which it could end the job.
            handle.terminate()
            raise
        verdict = job.verdict
        if verdict is not None and (is_given_up or verdict.reason in NOT_STARTED_IN_TIME):
            reason = report.summary(verdict)
            add_deploy_detail(fl_ctx, f"{launch.parent.site}: {reason}")
            raise _NotStartedError(f"the server's job {launch.job_id} was not started: {reason}")


class ClientArgoJobLauncher(ArgoJobLauncher):
    """The job launcher of a FLARE client, which takes the jobs of its earlier run back (flargo.flare.takeover)."""

    role = Role.CLIENT
    _jobs: ClientJobs | None = None
    """None before the first launch, and before SYSTEM_BOOTSTRAP."""
    _takeover: Takeover | None = None
    """None: no job is taken back, and the loop starts at once."""
    _refusal = ""
    """Why this parent neither launches nor ends jobs; empty: it does, or its takeover says why not."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Do the same as a server's launcher; acquire the site's Lease, and take jobs back before FLARE's heartbeats.

        The first heartbeat comes after AFTER_CLIENT_REGISTER. If it lacks a running job whose server's process has
        ended, FLARE's server reports the job as failed.

        Raises:
            UnsafeComponentError: another parent of the site is alive, or the takeover of the site could not be
                prepared. FLARE's client ends then.
        """
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._prepare_takeover(fl_ctx)
        elif event_type == EventType.AFTER_CLIENT_REGISTER and self._takeover is not None:
            self._takeover.begin(fl_ctx)
        elif event_type == EventType.JOB_COMPLETED and self._jobs is not None:
            self._jobs.on_completed(str(fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID)))
        super().handle_event(event_type, fl_ctx)

    def _prepare_takeover(self, fl_ctx: FLContext) -> None:
        """Prepare to take the site over, or keep FLARE's client from starting.

        FLARE swallows the exceptions of event handlers and goes on. A parent without its takeover would end all jobs of
        the site, so after any other exception than that of an incomplete context this one does not start. A client that
        registers without its running jobs fails them, too, since the server misses them in its heartbeats. One that
        ends is started again by its cluster, and the jobs go on meanwhile.
        """
        if not self._settings.argo.adopt:
            return
        try:
            changes = find_changes()
            if changes:
                _log.warning("argo.adopt is off: this nvflare is not one of those that it was made for: %s", changes[0])
                return
            self._jobs, self._takeover = self._create_takeover(fl_ctx)
        except InvalidInput as error:
            # No launch can succeed either. Launchers of other kinds may run jobs at this site.
            self._refusal = str(error)
            _log.error("this FLARE parent launches and ends no jobs until it is started again: %s", error)
        except Exception as error:
            self._refusal = problem = _describe_takeover_failure(error)
            # The only exception that keeps FLARE's client from going on (nvflare 2.9, component_security_check).
            raise UnsafeComponentError(problem) from error

    def _create_takeover(self, fl_ctx: FLContext) -> tuple[ClientJobs, Takeover]:
        """Return the jobs of this run, and the site's takeover, which may begin.

        Raises:
            InvalidInput: FLARE's context is not complete.
            SiteTakenError: another parent of the site is alive.
            RecordsError: the records of the earlier run's launches cannot be read.
        """
        parent = read_parent(fl_ctx, self.role, self._epoch)
        workspace = read_workspace(fl_ctx)
        lease = LeaseKeeper(self._api, parent, platform.node())
        loop, ending, records = self._get_loop(parent), threading.Event(), LaunchRecords(Path(workspace))
        jobs, max_attempts = (
            ClientJobs(self._settings, loop, self._meter, records),
            1 + self._settings.argo.policy.rejoin,
        )
        adoption = JobAdoption(
            self._api,
            jobs,
            parent,
            records,
            max_attempts,
            self._end,
            ending.wait,
            lease.may_change,
            self._notify,
        )
        takeover = Takeover(lease, adoption, Heartbeat(Path(workspace)), loop.start, loop.reserve, ending)
        takeover.prepare(fl_ctx)
        return jobs, takeover

    def _start(self, fl_ctx: FLContext) -> None:
        if self._takeover is not None:
            self._takeover.begin(fl_ctx)
        elif not self._refusal:
            super()._start(fl_ctx)

    def _may_change(self, *, is_followed: bool) -> bool:
        if self._refusal:
            return False
        may_change = unlimited if self._takeover is None else self._takeover.may_change
        return may_change(is_followed=is_followed)

    def _is_certain(self) -> bool:
        return self._takeover is None or self._takeover.is_certain

    def _submit(
        self, launch: Launch, plan: Plan, loop: Loop, transfer: WorkspaceTransfer, report: Report, fl_ctx: FLContext
    ) -> ArgoJobHandle:
        if self._refusal:
            raise SubmitError(self._refusal)
        if self._takeover is not None:
            self._takeover.require()
        with self._lock:
            self._jobs = self._jobs or ClientJobs(self._settings, loop, self._meter, None)
        probe = ServerJobProbe(fl_ctx.get_engine().cell, launch.job_id)
        return self._jobs.launch(launch, plan, transfer, report, probe.probe, self._end(launch, transfer, report))

    def _end_jobs(self, loop: Loop) -> None:
        if self._takeover is not None:
            self._takeover.cancel()
        if self._jobs is not None:
            self._jobs.stop_all(Cause.PARENT_END)
        super()._end_jobs(loop)
        if self._jobs is not None:
            self._jobs.wait_for_reports(REPORT_PATIENCE)
        if self._takeover is not None:
            self._takeover.close()
