"""The two job launchers that a FLARE site names in a ``local/<name>__p_resources.json``."""

import logging
import secrets
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobLauncherSpec, add_launcher

from flargo.cluster.api import Api
from flargo.cluster.client_config import config_loader
from flargo.cluster.error_text import describe
from flargo.control.launched_job import LaunchedJob
from flargo.control.loop import Loop
from flargo.control.meter import Meter, NullMeter
from flargo.control.submit import SubmitError
from flargo.flare.handle import ArgoJobHandle
from flargo.flare.nvflare_internals import WorkspaceTransfer, add_deploy_detail
from flargo.flare.redact import REDACTION, install_filter
from flargo.flare.report import Report
from flargo.flare.request import read_launch, read_parent, read_report
from flargo.flare.wait import wait_until_running
from flargo.job.plan import build_plan, site_selector
from flargo.job.settings import check_settings
from flargo.job.validate import Endpoint, InvalidInput
from flargo.status.reasons import NOT_STARTED_IN_TIME, Reason, ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Launch, Parent, Role

if TYPE_CHECKING:
    from flargo.metrics import Exporter

END_PATIENCE = 15.0
"""Seconds that a parent which is shut down gives its jobs' ends to be seen."""
_FRAMES = 5
"""Innermost calls that the parent's log has of an unforeseen exception."""
_log = logging.getLogger(__name__)


class _ForFlareError(RuntimeError):
    """FLARE gets this one as it is, in place of a handle."""


class _ShutDownError(_ForFlareError):
    """The parent is shutting down."""


class _NotStartedError(_ForFlareError):
    """A server's job did not come to run in time, and was ended."""


class ArgoJobLauncher(JobLauncherSpec):  # type: ignore[misc]  # nvflare is untyped
    """Runs each job as an Argo Workflow of one step.

    The arguments are those of nvflare 2.9's K8sJobLauncher, with their meaning, and ``argo``: what Argo needs
    and FLARE's launcher has no word for. See flargo.job.settings.
    """

    role: ClassVar[Role]

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
        """Check every argument; nothing is connected before the first job. Metrics are served from now on.

        Raises:
            Refused: an argument is wrong; says which, its value, and what is allowed.
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
        self._exporter = _exporter(self._settings.argo.metrics_address)
        self._meter: Meter = self._exporter or NullMeter()
        self._epoch = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._loop: Loop | None = None
        self._ended = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """FLARE asks who launches, and says when it goes away."""
        if event_type == EventType.BEFORE_JOB_LAUNCH:
            add_launcher(self, fl_ctx)
        elif event_type == EventType.SYSTEM_START:
            self._begin(fl_ctx)
        elif event_type == EventType.SYSTEM_END:
            self._end()

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> ArgoJobHandle:
        """Hand a job to Argo.

        A client's launch returns at once: FLARE gives up on it after 20 s. A server's returns when the job's
        process runs: FLARE starts the clients after it, and they give up on the server's process after 60 s.

        A server's job that finds no place, or does not run in time, is ended, and its launch fails: FLARE starts the
        clients of a job that has a handle, even one that has ended. FLARE's status is FAILED_TO_RUN then, and the
        reason is in the job's metadata (job_deploy_detail).

        Any other job that cannot be launched has a handle all the same, ended with 101: what is raised here is only
        text in the server's log, while the outcome of a handle reaches the researcher. That holds for an unforeseen
        exception too, of which only the type is told: its text may quote the site's files.

        Raises:
            Refused: FLARE's context says neither which job this is nor where its files are.
            RuntimeError: the parent is shutting down, or a server's job did not come to run in time.
        """
        begun = time.monotonic()
        try:
            return self._launch(job_meta, fl_ctx)
        finally:
            self._meter.observe_launch(time.monotonic() - begun)

    def _launch(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> ArgoJobHandle:
        report = read_report(job_meta, fl_ctx, self.role)
        try:
            launch, transfer = read_launch(
                job_meta, fl_ctx, self.role, self._settings, attempt=secrets.token_hex(4), epoch=self._epoch
            )
        except Exception as error:  # noqa: BLE001  (whatever it is, the researcher hears that the launch failed)
            return self._refuse(report, _told(error, report.job_id))
        try:
            REDACTION.learn(launch.credentials, public=launch.job_id)
            return self._submit(launch, transfer, report, fl_ctx)
        except _ForFlareError:
            transfer.remove()
            raise
        except Exception as error:  # noqa: BLE001  (the same)
            transfer.remove()
            handle = self._refuse(report, _told(error, report.job_id))
            REDACTION.forget(launch.credentials)
            return handle
        except BaseException:
            transfer.remove()
            raise

    def _submit(self, launch: Launch, transfer: WorkspaceTransfer, report: Report, fl_ctx: FLContext) -> ArgoJobHandle:
        prepared = build_plan(launch, self._settings)
        loop = self._loop_of(launch.parent)
        # What the job holds while it runs is small: neither the launch nor the plan, each with a startup kit.
        workflow, credentials = prepared.name, launch.credentials

        def ruled(verdict: Verdict, tail: str) -> None:
            transfer.remove()
            report.publish(verdict, workflow, tail)
            REDACTION.forget(credentials)

        is_server = self.role is Role.SERVER
        # A client's log may hold patients' data, and is not read.
        ticket = loop.launch(prepared, lambda: transfer.is_published, ruled, collect_log=is_server)
        _log.info("%s: job %s is submitted as Workflow %s", launch.parent.site, launch.job_id, workflow)

        def stop(cause: Cause) -> None:
            report.write_preliminary(cause, workflow)
            loop.stop(ticket, cause)

        handle = ArgoJobHandle(ticket, stop)
        if is_server:
            self._hold(handle, ticket, loop, transfer, launch, report, fl_ctx)
        return handle

    def _hold(
        self,
        handle: ArgoJobHandle,
        ticket: LaunchedJob,
        loop: Loop,
        transfer: WorkspaceTransfer,
        launch: Launch,
        report: Report,
        fl_ctx: FLContext,
    ) -> None:
        """Hold a server's launch until its process runs, or has ended.

        Raises:
            _NotStartedError: the job found no place, or did not run in time.
        """
        try:
            given_up = wait_until_running(
                handle,
                ticket,
                loop.seconds_out_of_sync,
                lambda: transfer.is_connected,
                lambda detail: loop.give_up(ticket, detail),
                launch.job_id,
                fl_ctx,
            )
        except Exception as error:  # noqa: BLE001  (the job is there: its own handle has to end)
            loop.give_up(ticket, _told(error, launch.job_id))
            handle.wait()
            given_up = True
        except BaseException:
            # FLARE would have no handle on it.
            handle.terminate()
            raise
        verdict = ticket.verdict
        if verdict is not None and (given_up or verdict.reason in NOT_STARTED_IN_TIME):
            reason = report.summary(verdict)
            add_deploy_detail(fl_ctx, f"{launch.parent.site}: {reason}")
            raise _NotStartedError(f"the server's job {launch.job_id} was not started: {reason}")

    def _begin(self, fl_ctx: FLContext) -> None:
        """End what an earlier run of this parent left behind, without waiting for a job to be launched."""
        try:
            self._loop_of(read_parent(fl_ctx, self.role, self._epoch)).start()
        except InvalidInput as refused:
            _log.warning("Workflows that an earlier run may have left are not looked for yet: %s", refused)

    def _loop_of(self, who: Parent) -> Loop:
        with self._lock:
            if self._ended:
                raise _ShutDownError(f"{who.site} is shutting down and launches no more jobs")
            if self._loop is None:
                load = config_loader(self._settings.config_file_path)
                api = Api(load, self._settings.namespace, self._meter.observe_request, REDACTION.learn_own_token)
                grace = self._settings.argo.kill_grace
                self._loop = Loop(api, site_selector(who), who.epoch, grace, REDACTION.redact, self._meter)
                if self._exporter is not None:
                    self._exporter.follow(self._loop.snapshot)
            return self._loop

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            loop = self._loop
        try:
            if loop is not None:
                loop.end(Cause.PARENT_END, END_PATIENCE)
        finally:
            if self._exporter is not None:
                self._exporter.close()

    def _refuse(self, report: Report, why: str) -> ArgoJobHandle:
        """The handle of a job that was not launched."""
        verdict = Verdict(Reason.LAUNCH_FAILED, int(ReturnCode.NEVER_STARTED), why)
        report.publish(verdict, workflow="")
        ticket = LaunchedJob("")
        ticket.conclude(verdict)
        self._meter.count_verdict(verdict)
        return ArgoJobHandle(ticket, lambda _: None)


def _told(error: Exception, job_id: str) -> str:
    """What may be told of an exception that ended a launch: of an unforeseen one its type, for others wrote its text.

    The parent's log has where it was raised, by files and lines of code.
    """
    if isinstance(error, InvalidInput | SubmitError):
        return str(error)
    calls = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = ", ".join(f"{Path(call.filename).name}:{call.lineno} in {call.name}" for call in calls)
    _log.error("job %s: its launch failed with an unforeseen %s, raised at %s", job_id, type(error).__name__, where)
    return f"an unforeseen {type(error).__name__}; the FLARE parent's log says where it was raised"


def _exporter(at: Endpoint | None) -> "Exporter | None":
    """Who measures and serves, if a site wants that.

    Raises:
        Refused: it cannot be.
    """
    if at is None:
        return None
    where = "argo['metrics_address']"
    try:
        from flargo.metrics import Exporter  # noqa: PLC0415  (what it imports is an extra)
    except ModuleNotFoundError as error:
        allowed = f"null, as long as {error.name} is not installed: pip install 'flargo[metrics]'"
        raise InvalidInput(where, str(at), allowed) from error
    made = Exporter()
    try:
        made.serve(at)
    except OSError as error:
        raise InvalidInput(
            where, str(at), f"an address of this machine and a port that is free ({describe(error)})"
        ) from error
    return made


class ServerArgoJobLauncher(ArgoJobLauncher):
    """For the FLARE server."""

    role = Role.SERVER


class ClientArgoJobLauncher(ArgoJobLauncher):
    """For a FLARE client."""

    role = Role.CLIENT
