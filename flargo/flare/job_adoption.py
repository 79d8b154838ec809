"""Takes the running jobs of a client's earlier parent process back.

A client's job goes on without its parent: the server's process of the job knows its tokens. What the parent's next run
needs is in the launch's record (``launch_records``), in the latest attempt's Workflow, and in its credentials Secret.

Only evidence ends a job: its Workflow or its credentials do not exist any more or are another launch's, it has no run
directory, the site had no parent for too long, FLARE refuses it, or its record is damaged. Then FLARE reports its end
if it can, and the reconciler ends its Workflow as an orphan. Whatever else fails decides nothing: the record and the
Workflow stay, and the job is tried again until it is taken back or there is evidence. A job that FLARE's server has
given up meanwhile does no harm: once it is taken back, FLARE's next heartbeat ends it.

There are two steps. As soon as the parent is reachable, job processes that fetch their workspace or deliver their
results are served: they ask once, and would fail. That changes nothing on the cluster, so it need not wait until the
parent is the site's only one. Then, each Workflow gets this run as its parent, and FLARE and the loop follow the job.

Whether the server's process of the job still runs does not matter: a job whose program has ended must be reported even
if the server's process has ended before, since FLARE's server waits for that. A program that runs on without the
server's process is ended by FLARE's next heartbeat, 10 s later, unless FLARE's server still waits for its end.

A parent may have ended in the middle of a submit. If the Workflow has its credentials, it is taken back and released
once more (``ActionKind.RELEASE``). That does not wait for pods of an earlier Workflow of the name, as a submit does,
because there is none: FLARE launches a job once at a client, and each attempt has a name of its own. An attempt that
was begun twice had no credentials the first time, so it was never released.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey

from flargo.cluster.api import Api
from flargo.cluster.error_text import describe
from flargo.control.authority import OTHER_PARENT, MayChange
from flargo.control.reclaim import PATIENCE_SECONDS, NotThereError, Reclaimer, ReclaimError, UndecidedError
from flargo.control.submit import SubmitError
from flargo.flare.client_jobs import ClientJobs, OnEnd
from flargo.flare.launch_records import LaunchRecord, LaunchRecords
from flargo.flare.notifier import Notify
from flargo.flare.nvflare_internals import (
    HEART_BEAT_TIMEOUT,
    TOKEN_VARIABLE,
    AdoptionError,
    ServerJobProbe,
    WorkspaceTransfer,
    adopt_job,
)
from flargo.flare.redact import REDACTION
from flargo.flare.report import Report
from flargo.flare.request import read_cell, read_report, read_startup_kit, read_workspace
from flargo.job.validate import InvalidInput
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.verdict import Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Launch, Parent, Role

AWAY_LIMIT = HEART_BEAT_TIMEOUT - 60.0
"""Seconds without a parent after which jobs are not taken back: FLARE's server drops a client that is silent for longer
than its timeout, and the client's jobs with it."""
MIN_JOB_PATIENCE = 5.0
"""Seconds for which requests about one job are repeated even if the other jobs have used up the common time. If the
job before it could not be taken back either, the cause is probably the same, and there is no repetition."""
_log = logging.getLogger(__name__)


class JobAdoption:
    """Takes back the jobs of the earlier run of one parent."""

    def __init__(
        self,
        api: Api,
        jobs: ClientJobs,
        parent: Parent,
        records: LaunchRecords,
        max_attempts: int,
        end: Callable[[Launch, WorkspaceTransfer, Report], OnEnd],
        pause: Callable[[float], bool],
        may_change: MayChange,
        notify: Notify,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            api: the client for the parent's namespace.
            jobs: the running jobs of this run.
            parent: this run of the parent.
            records: the records of launches.
            max_attempts: how many attempts a job may have at this site now; an administrator may have lowered the
                limit.
            end: returns the function that reports a job's verdict.
            pause: sleeps for some seconds; returns True when the parent shuts down.
            may_change: returns whether this parent may change the site's Workflows at this moment.
            notify: called with each outcome that is reported without ``end``.
        """
        self._api = api
        self._jobs = jobs
        self._parent = parent
        self._records = records
        self._max_attempts = max_attempts
        self._end = end
        self._pause = pause
        self._may_change = may_change
        self._notify = notify
        self._taken: set[str] = set()
        """The ids of the jobs that were taken back."""
        self._open: dict[str, LaunchRecord] = {}
        """The records about which nothing is decided, as they were read last, by job id."""
        self._is_sealed = False
        self._problems: dict[str, str] = {}
        """Why jobs are not taken back yet, as it was logged, by job id."""
        self._lock = threading.Lock()
        self._transfers: dict[str, WorkspaceTransfer] = {}
        """The workspace transfers of jobs whose processes are served before the jobs are taken back, by job id."""

    def serve(self, fl_ctx: FLContext) -> None:
        """Serve the processes of all jobs of earlier runs. Returns at once; a thread reads their tokens.

        Args:
            fl_ctx: a context of the client's parent, whose cell is reachable.
        """
        cell, workspace = read_cell(fl_ctx), read_workspace(fl_ctx)
        expected = []
        for record in self._records.load(self._parent, is_owner=False):
            if record.verdict is not None:
                continue  # Its process has ended.
            transfer = WorkspaceTransfer(cell, record.first.job_id, workspace)
            try:
                transfer.expect()
            except (AdoptionError, OSError):
                continue  # It is logged when the job is not taken back.
            self._transfers[record.first.job_id] = transfer
            expected.append((record, transfer))
        if expected:
            threading.Thread(target=self._read_tokens, args=(expected,), name="flargo-tokens", daemon=True).start()

    def find_open(self) -> frozenset[str]:
        """Return the names of the Workflows of the recorded jobs that have not ended, as far as the records tell.

        It changes nothing: another parent of the site may be alive.

        Raises:
            RecordsError: the records cannot be read.
        """
        self._load(is_owner=False)
        return frozenset().union(*(_workflows(record) for record in self._open.values() if record.verdict is None))

    def seal(self) -> None:
        """Take back only jobs whose records were read until now, and read no more.

        From now on this run records launches of its own in the same folder, and a file there may be half written.
        """
        self._is_sealed = True

    def adopt_all(self, fl_ctx: FLContext, away_seconds: float | None) -> frozenset[str]:
        """Take back all jobs of earlier runs that can be, and log each one.

        Call it again if it returns names, later or once the site's Lease is held again. Jobs that were taken back stay
        so.

        Args:
            fl_ctx: a context of the client's parent, which is registered with the server.
            away_seconds: seconds for which the site had no parent; None if that is not known.

        Returns:
            The names of the Workflows about which nothing is decided. Nobody may end them.

        Raises:
            RecordsError: the records cannot be read.
        """
        self._load(is_owner=True)
        deadline, problem = time.monotonic() + PATIENCE_SECONDS, ""
        for job_id, record in list(self._open.items()):
            if self._pause(0.0):
                break  # The next run may take the others back.
            patience = max(deadline - time.monotonic(), 0.0 if problem else MIN_JOB_PATIENCE)
            problem = self._try_to_adopt(record, fl_ctx, patience, away_seconds)
            if not problem:
                del self._open[job_id]
                self._problems.pop(job_id, None)
                continue
            self._log_problem(record, problem)
            if not self._may_change(is_followed=False):
                break
        return frozenset().union(*(_workflows(record) for record in self._open.values()))

    def _load(self, *, is_owner: bool) -> None:
        if not self._is_sealed:
            records = {record.first.job_id: record for record in self._records.load(self._parent, is_owner=is_owner)}
            self._open = {job_id: record for job_id, record in records.items() if job_id not in self._taken}

    def _try_to_adopt(
        self, record: LaunchRecord, fl_ctx: FLContext, patience: float, away_seconds: float | None
    ) -> str:
        """Take one job back, or delete its record if it can never be; return why neither was done, if so."""
        job_id, site = record.first.job_id, self._parent.site
        reclaimer = self._create_reclaimer(patience)
        try:
            what = self._adopt_or_report(record, fl_ctx, reclaimer, away_seconds)
        except (ReclaimError, AdoptionError, SubmitError, InvalidInput) as error:
            if not _is_evidence(error) or self._pause(0.0) or not self._may_change(is_followed=False):
                return str(error)  # It may be another parent that has changed the objects.
            _log.warning(
                "job %s at %s: not taken back, and its Workflow is ended if there is one: %s", job_id, site, error
            )
            with self._lock:
                transfer = self._transfers.pop(job_id, None)
            if transfer is not None:
                transfer.remove()
            self._report_orphan(record, str(error), fl_ctx)
        except OSError as error:
            return describe(error)
        except Exception as error:  # noqa: BLE001  (a defect about one job must end neither it nor the others)
            problem = f"an unexpected {type(error).__name__}"
            if self._problems.get(job_id) != problem:
                _log.exception("job %s at %s: unexpected exception", job_id, site)
            return problem
        else:
            self._taken.add(job_id)
            _log.info("job %s at %s: %s", job_id, site, what)
        return ""

    def _log_problem(self, record: LaunchRecord, problem: str) -> None:
        """Log why a job is not taken back yet, unless the same was logged for it before."""
        job_id = record.first.job_id
        if self._problems.get(job_id) == problem:
            return
        self._problems[job_id] = problem
        _log.warning(
            "job %s at %s: not taken back yet, and tried again; it goes on, and FLARE does not follow it meanwhile. To "
            "give it up, delete its Workflow %s. Reason: %s",
            job_id,
            self._parent.site,
            record.workflow,
            problem,
        )

    def drop(self) -> None:
        """Serve the processes of no job that was not taken back."""
        with self._lock:
            transfers, self._transfers = self._transfers, {}
        for transfer in transfers.values():
            transfer.remove()

    def _create_reclaimer(self, patience_seconds: float = PATIENCE_SECONDS) -> Reclaimer:
        return Reclaimer(self._api, self._parent, time.monotonic, self._pause, self._may_change, patience_seconds)

    def _read_tokens(self, expected: list[tuple[LaunchRecord, WorkspaceTransfer]]) -> None:
        reclaimer = self._create_reclaimer()
        for record, transfer in expected:
            try:
                workflow = reclaimer.read_workflow(record.workflow, record.attempt)
                token = _read_token(reclaimer, record, workflow)[1]
                with self._lock:
                    if self._transfers.get(record.first.job_id) is transfer:
                        transfer.restore(token)
            except Exception as error:  # noqa: BLE001  (the same happens, and is logged, when the job is taken back)
                _log.debug("job %s: its process is not served: %s", record.first.job_id, type(error).__name__)
                with self._lock:
                    if self._transfers.get(record.first.job_id) is transfer:
                        del self._transfers[record.first.job_id]
                        transfer.remove()

    def _adopt_or_report(
        self, record: LaunchRecord, fl_ctx: FLContext, reclaimer: Reclaimer, away_seconds: float | None
    ) -> str:
        """Take one job back, or report its end; return what was done.

        The parent may have ended while it began the latest attempt. If that one does not exist completely, the job goes
        on with the one before; if that one has lost its credentials, the job ends with its loss.

        Raises:
            ReclaimError, AdoptionError, InvalidInput, SubmitError, OSError: see ``_adopt``.
        """
        if record.verdict is not None:
            self._report(record, record.verdict, fl_ctx)
            # Nobody knows whether the earlier run came to notify the site's receiver.
            report = _read_report(record.first.job_id, fl_ctx)
            self._notify(report.outcome(record.verdict, record.workflow), record.first.attempt)
            return (
                f"its end ({record.verdict.reason.name}) is reported, in case its earlier parent did not come to that"
            )
        _check_away(away_seconds)
        try:
            self._adopt(record, fl_ctx, reclaimer)
        except NotThereError as error:
            before, problem = record.before, f"attempt {record.number} cannot be followed: {error}"
            if before is None:
                raise
        else:
            return f"taken back, Workflow {record.workflow}"
        try:
            self._adopt(before, fl_ctx, reclaimer)
        except NotThereError:
            if not self._may_change(is_followed=False):
                raise UndecidedError(OTHER_PARENT) from None
            loss = _loss_with(record, problem)
            self._report_loss(record, loss, fl_ctx)
            return f"not taken back, and its loss is reported: {problem}"
        return f"taken back, Workflow {before.workflow}, which was lost"

    def _report(self, record: LaunchRecord, verdict: Verdict, fl_ctx: FLContext) -> None:
        """Let FLARE report a job's end.

        Raises:
            AdoptionError: FLARE cannot wait for the job.
            InvalidInput: FLARE's context is not complete.
        """
        job_id, workspace = record.first.job_id, read_workspace(fl_ctx)
        has_started = verdict.code == ReturnCode.FAILED
        self._jobs.report(
            record, verdict, lambda handle: adopt_job(fl_ctx, job_id, handle, workspace, has_started=has_started)
        )

    def _report_orphan(self, record: LaunchRecord, problem: str, fl_ctx: FLContext) -> None:
        """Let FLARE report that a job has ended at this site, or delete its record if FLARE cannot.

        FLARE's server does not miss the job by itself: it knows the jobs of a client by a token that the client has no
        more. The federated job would wait for this site, and the other sites with it.
        """
        job_id, orphaned = record.first.job_id, Verdict(Reason.ORPHANED, int(ReturnCode.LOST), problem)
        try:
            self._report_loss(record, orphaned, fl_ctx)
        except AdoptionError as error:  # FLARE knows the job by now, or has no files of it.
            failure = str(error)
        except Exception as error:  # noqa: BLE001  (whatever it is, the job's record must not stay)
            failure = describe(error)
        else:
            return
        _log.warning(
            "job %s at %s: its end cannot be reported to FLARE's server (%s); abort it if it still runs there",
            job_id,
            self._parent.site,
            failure,
        )
        self._records.delete(job_id)

    def _report_loss(self, record: LaunchRecord, loss: Verdict, fl_ctx: FLContext) -> None:
        """Let FLARE report an end that nobody has heard of yet, and write it where people look.

        Raises:
            AdoptionError, InvalidInput: see ``_report``.
        """
        self._report(record, loss, fl_ctx)
        outcome = _read_report(record.first.job_id, fl_ctx).publish(loss, record.workflow)
        self._notify(outcome, record.first.attempt)

    def _adopt(self, record: LaunchRecord, fl_ctx: FLContext, reclaimer: Reclaimer) -> None:
        """Take one job back.

        Raises:
            NotThereError: the attempt's Workflow or credentials do not exist.
            ReclaimError: the cluster does not have the launch unchanged.
            UndecidedError: the cluster cannot be asked.
            AdoptionError: FLARE cannot take the job back.
            InvalidInput: the site's startup kit, or FLARE's context, is not complete.
            SubmitError: the parent is shutting down, or may not change the site's Workflows.
            OSError: the startup kit or the run directory cannot be read.
        """
        job_id, workspace, cell = record.first.job_id, read_workspace(fl_ctx), read_cell(fl_ctx)
        report = _read_report(job_id, fl_ctx)
        startup = replace(record.first.startup, data=read_startup_kit(fl_ctx))
        workflow = reclaimer.read_workflow(record.workflow, record.attempt)
        credentials, token = _read_token(reclaimer, record, workflow)
        first = replace(
            record.first,
            startup=startup,
            credentials=replace(record.first.credentials, data=credentials),
            max_attempts=max(record.number, min(record.first.max_attempts, self._max_attempts)),
        )
        with self._lock:
            transfer = self._transfers.pop(job_id, None) or WorkspaceTransfer(cell, job_id, workspace)
        try:
            transfer.restore(token)
            REDACTION.learn(first.credentials, public=job_id)
            workflow = reclaimer.take(record.workflow, record.attempt)
            has_started = workflow.has_started
            self._jobs.adopt(
                replace(record, first=first),
                workflow.uid,
                transfer,
                report,
                ServerJobProbe(cell, job_id).probe,
                self._end(first, transfer, report),
                lambda handle: adopt_job(fl_ctx, job_id, handle, workspace, has_started=has_started),
            )
        except BaseException as error:
            REDACTION.forget(first.credentials)
            if _is_evidence(error):
                transfer.remove()
            else:
                with self._lock:  # The process may deliver its results before the next try.
                    self._transfers[job_id] = transfer
            raise


def _read_report(job_id: str, fl_ctx: FLContext) -> Report:
    """Return the report of a job that an earlier run of this parent has launched.

    Raises:
        InvalidInput: FLARE's context is not complete.
    """
    return read_report({JobMetaKey.JOB_ID.value: job_id}, fl_ctx, Role.CLIENT)


def _workflows(record: LaunchRecord) -> frozenset[str]:
    """Return the names of the Workflows with which a job may go on."""
    return frozenset({record.workflow} | ({record.before.workflow} if record.before is not None else set()))


def _is_evidence(error: BaseException) -> bool:
    """Return whether an error shows that a job can never be taken back."""
    return isinstance(error, ReclaimError | AdoptionError) and not isinstance(error, UndecidedError)


def _check_away(seconds: float | None) -> None:
    """Raise a ReclaimError if a site had no parent for too long.

    A time that nobody knows is no evidence. If it was too long, FLARE's heartbeat ends what its server has given up.
    """
    if seconds is not None and seconds > AWAY_LIMIT:
        raise ReclaimError(f"the site had no parent for {seconds:.0f} s, and {AWAY_LIMIT:.0f} s are the limit")


def _loss_with(record: LaunchRecord, problem: str) -> Verdict:
    """Return the verdict on a job whose latest attempt this run of the parent cannot follow: the loss before it."""
    assert record.lost is not None, "no attempt was lost"
    loss = record.lost.verdict
    detail = f"the FLARE parent was started again, and {problem}"
    return replace(loss, detail="; ".join(filter(None, (loss.detail, detail))))


def _read_token(reclaimer: Reclaimer, record: LaunchRecord, workflow: WorkflowView) -> tuple[dict[str, bytes], str]:
    """Return a job's credentials, and of them the token with which its process fetches and delivers its workspace.

    Raises:
        ReclaimError: there are none, or no token among them.
    """
    credentials = reclaimer.read_credentials(record.credentials, workflow)
    token = credentials.get(TOKEN_VARIABLE, b"")
    if not (token and token.isascii()):
        raise ReclaimError(f"Secret {record.credentials} holds no {TOKEN_VARIABLE}")
    return credentials, token.decode("ascii")
