"""The threads of the launcher's control loop: two watches, one thread for the reconciler, and worker pools.

The reconciler's thread takes one input at a time from a queue, so the reconciler needs no lock, and no request to the
API server is made on that thread. The commands that the reconciler returns are performed by workers, whose results are
inputs in turn. The loop itself makes no decisions about jobs.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from flargo.cluster.api import Api, Kind
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.cluster.watch import Watch
from flargo.control.attempt_notes import AttemptNotes
from flargo.control.authority import OTHER_PARENT, MayChange, unlimited
from flargo.control.command_queue import CommandQueue
from flargo.control.followed_job import FollowedJob, OnState, OnVerdict
from flargo.control.inputs import (
    Admitted,
    Adopted,
    Changed,
    Contact,
    JobInput,
    Listed,
    Reserved,
    SiteInput,
    TimePassed,
    WatchLost,
    WorkflowCreated,
)
from flargo.control.launched_job import LaunchedJob
from flargo.control.meter import Meter, NullMeter, Snapshot, take_snapshot
from flargo.control.parse_error_log import ParseErrorLog
from flargo.control.perform import Performer
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.control.submit import POD_POLL_SECONDS, Created, SubmitError, Submitter
from flargo.control.timers import Timers
from flargo.control.workers import Task, Workers
from flargo.status.job_state import JobState, LaunchGivenUp, SecretReleased, StopRequested, Submitted
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.verdict import UNFOLLOWED, Cause, Verdict
from flargo.status.views import strip_unused_fields
from flargo.terms import MAIN_CONTAINER, Object, Plan

MAX_SUBMIT_SECONDS = 120.0
"""Seconds from the launch for which a submit is retried while the API server does not respond."""
MAX_LOG_LINES, MAX_LOG_BYTES, LOG_READ_SECONDS = 200, 64 * 1024, 5.0
"""The part of a failed program's log that is kept, and the seconds that a verdict waits for it. Twice as much is read,
and redacted before its beginning is cut off: a key or token that was cut in two would not be recognised."""
MAX_SLEEP_SECONDS = 3600.0
"""Maximum seconds that the reconciler's thread waits for an input: a queue does not accept a timeout of years."""
_WORKERS = 8
"""Threads that submit, threads whose launches wait for the pods of earlier ones, threads that report verdicts, and
threads that start lost jobs again."""
_NO_THREAD = "the operating system allows the FLARE parent's process no more threads"
_log = logging.getLogger(__name__)
T = TypeVar("T")


class Loop:
    """Launches, tracks and ends the jobs of one FLARE parent."""

    def __init__(
        self,
        api: Api,
        selector: str,
        epoch: str,
        grace: int,
        redact: Callable[[str], str] = lambda text: text,
        meter: Meter | None = None,
        may_change: MayChange = unlimited,
        is_certain: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare the loop without starting a thread.

        Args:
            api: the client for the parent's namespace.
            selector: the label selector of the site's Workflows and pods.
            epoch: the epoch of this run of the parent. The site's Workflows that no launch of this run follows, of
                whichever epoch, are ended (flargo.control.adoption).
            grace: seconds between SIGTERM and SIGKILL for those.
            redact: removes secrets from a text that others will read.
            meter: receives measurements; None if nobody measures.
            may_change: returns whether this parent may launch and end jobs at this moment; does no I/O.
            is_certain: returns whether it is certain that no other parent has taken over the jobs that this one
                follows; does no I/O.
        """
        self._api = api
        self._meter: Meter = meter or NullMeter()
        self.may_change = may_change
        """Returns whether this parent may launch and end jobs at this moment."""
        self._reconciler = Reconciler(
            self._has_results,
            time.monotonic(),
            epoch=epoch,
            grace=grace,
            on_parse_error=ParseErrorLog(),
            on_job_error=lambda name, error: _log.error("%s: reconciling failed", name, exc_info=error),
            redact=redact,
        )
        self._inputs: queue.SimpleQueue[SiteInput | None] = queue.SimpleQueue()
        """Inputs for the reconciler's thread; None ends the thread."""
        self.attempt_notes = AttemptNotes(api)
        """Writes notes about jobs with several attempts; use it on a thread that ``run`` provides."""
        performer = Performer(api, redact, lambda: bool(self._lost_since), may_change, is_certain, epoch)
        self._commands = CommandQueue(performer.perform, self._inputs.put)
        self._is_ending = threading.Event()
        """Set when no more jobs may be launched."""
        self._launch_lock = threading.Lock()
        """Ensures that a launch is complete before the end begins, or is refused."""
        self._stop_watching = threading.Event()
        self._start_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        # Launches that wait for the API server must not delay a verdict, and neither of them a command.
        self._submitters = Workers(_WORKERS, "flargo-submit")
        self._waiters = Workers(_WORKERS, "flargo-wait")
        self._reporters = Workers(_WORKERS, "flargo-report")
        self._rejoiners = Workers(_WORKERS, "flargo-rejoin")
        self._submit_limits = Timers()
        """For each Workflow's name the time at which its submit must have begun to create something."""
        self._jobs: dict[str, FollowedJob] = {}
        self._reserved: frozenset[str] = frozenset()
        self._unreported: set[FollowedJob] = set()
        """Jobs whose verdict has not been reported to FLARE yet."""
        self._lost_since: dict[Kind, float] = {}
        """The watches that are out of sync, with the time of their loss."""
        self._last_contact: dict[Kind, float] = {}
        """The time of each watch's last contact with the API server; before the first one, of its start."""
        self._watches = [
            Watch(api, kind, selector, strip_unused_fields, self, self._stop_watching.wait, time.monotonic)
            for kind in (Kind.WORKFLOW, Kind.POD)
        ]

    def start(self) -> None:
        """Start the watches and the reconciler's thread, unless they are running. A launch does so, too.

        Call it again if the operating system has refused a thread.
        """
        with self._start_lock:
            if not self._threads:
                self._last_contact = {watch.kind: time.monotonic() for watch in self._watches}
                runs = [("flargo-reconciler", self._run)]
                runs += [(f"flargo-{watch.kind.value[1]}", watch.run) for watch in self._watches]
                self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in runs]
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def launch(
        self,
        plan: Plan,
        has_results: Callable[[], bool],
        on_verdict: OnVerdict,
        *,
        collect_log: bool,
        on_state: OnState = lambda _: None,
        keeps_secret: bool = False,
    ) -> LaunchedJob:
        """Start to launch a job, and return at once. The LaunchedJob shows the job's progress and its verdict.

        Args:
            plan: the objects to create, and the start timeouts.
            has_results: returns whether the job's results have reached the parent; does no I/O.
            on_verdict: called with the verdict and the end of the log, before threads that wait for the job are woken.
            collect_log: read the end of the program's log if the program fails.
            on_state: called with every new state of the job, before its verdict is reported; does no I/O.
            keeps_secret: delete the credentials Secret only after ``release_secret``.

        Raises:
            SubmitError: see ``require``.
        """
        self.start()
        job = FollowedJob(
            plan.name, plan.attempt, has_results, on_verdict, collect_log=collect_log, on_state=on_state, plan=plan
        )
        self._follow(job, Admitted(plan.name, plan.attempt, plan.timeouts, plan.grace, keeps_secret))
        return job.launched

    def adopt(
        self,
        adopted: Adopted,
        has_results: Callable[[], bool],
        on_verdict: OnVerdict,
        *,
        collect_log: bool,
        on_state: OnState = lambda _: None,
    ) -> LaunchedJob:
        """Follow a launch of an earlier run of this parent; see ``launch``.

        Call it before ``start``, or while its Workflow's name is reserved (``reserve``).

        Raises:
            SubmitError: see ``require``.
        """
        job = FollowedJob(
            adopted.name, adopted.attempt, has_results, on_verdict, collect_log=collect_log, on_state=on_state
        )
        self._follow(job, adopted)
        return job.launched

    def require(self, name: str) -> None:
        """Require that a Workflow of a name may be launched or followed now.

        Raises:
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        self.require_for_adoption(name)
        if name in self._reserved:
            raise SubmitError(f"{name}: an earlier launch of this job may still be taken back")

    def require_for_adoption(self, name: str) -> None:
        """Require that a Workflow of a name, which may be reserved, may be followed now.

        Raises:
            SubmitError: the parent is shutting down, another parent of the site is alive, or an earlier launch of the
                job is still tracked.
        """
        if self._is_ending.is_set():
            raise SubmitError("this FLARE parent is shutting down")
        if not self.may_change(is_followed=True):
            raise SubmitError(OTHER_PARENT)
        if name in self._jobs:
            raise SubmitError(f"{name}: an earlier launch of this job is still being cleaned up")

    def reserve(self, names: frozenset[str]) -> None:
        """Leave Workflows of these names alone from now on, and only of these: they may still be taken back.

        Whatever is not reserved any more, and not followed either, is ended.
        """
        self._reserved = names
        self._inputs.put(Reserved(names))

    def _follow(self, job: FollowedJob, input_: Admitted | Adopted) -> None:
        with self._launch_lock:
            self.require_for_adoption(job.name) if isinstance(input_, Adopted) else self.require(job.name)
            self._jobs[job.name] = job
            self._unreported.add(job)
            self._inputs.put(input_)

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        """Request the end of a job, and return at once. A later launch of the same job is not affected."""
        job = self._jobs.get(launched.name)
        if job is None or job.launched is not launched:
            return
        nothing_created = job.cancel()
        self._inputs.put(JobInput(job.name, job.attempt, StopRequested(cause, nothing_created)))

    def release_secret(self, launched: LaunchedJob) -> None:
        """Let a job's credentials Secret be deleted once the job has its verdict, and return at once."""
        job = self._jobs.get(launched.name)
        if job is not None and job.launched is launched:
            self._inputs.put(JobInput(job.name, job.attempt, SecretReleased()))

    def give_up(self, launched: LaunchedJob, detail: str) -> None:
        """End a launch for which FLARE cannot wait any longer, and return at once.

        FLARE gets the verdict LAUNCH_FAILED even without API contact. The job itself is ended as soon as there is
        contact again.

        Args:
            launched: the launch; a later launch of the same job is not affected.
            detail: why the launch is given up, for people.
        """
        job = self._jobs.get(launched.name)
        if job is None or job.launched is not launched:
            return
        nothing_created = job.cancel()
        self._inputs.put(JobInput(job.name, job.attempt, LaunchGivenUp(detail, nothing_created)))

    def run(self, task: Task, delay: float = 0.0) -> bool:
        """Run a task about one job on another thread, after a delay in seconds; return False if there is no thread.

        The threads are few, so a task must not wait: it can run another task after a delay.
        """
        return self._rejoiners.run(task, delay)

    def read_log(self, state: JobState) -> str:
        """Return the end of a program's log, or "" if the program never ran or its pod no longer exists."""
        pod = next((pod for pod in state.observation.pods if pod.uid == state.first_pod_uid), None)
        if pod is None or not (pod.running or pod.exit is not None):
            return ""
        try:
            return self._api.log(pod.name, MAIN_CONTAINER, 2 * MAX_LOG_LINES, 2 * MAX_LOG_BYTES, LOG_READ_SECONDS)
        except ApiError as error:
            return "" if error.meaning is Meaning.NOT_FOUND else f"the log could not be read: {error}"

    def seconds_out_of_sync(self) -> float:
        """Return the seconds for which a watch has been out of sync; 0 while both are in sync."""
        since = min(self._lost_since.values(), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def snapshot(self) -> Snapshot:
        """Return the current numbers for metrics. Any thread may call this."""
        now, last_contact = time.monotonic(), self._last_contact
        silence = {kind: max(0.0, now - at) for kind, at in last_contact.items()}
        longest_wait = max((job.seconds_waiting(now) for job in list(self._jobs.values())), default=0.0)
        return take_snapshot(self._reconciler.states, silence, self._inputs.qsize(), longest_wait)

    def end(self, cause: Cause, seconds: float) -> None:
        """End all jobs, wait up to the given seconds for them, then stop all threads.

        A job that has not ended by then gets its verdict anyway, so nobody keeps waiting for it.
        """
        with self._launch_lock:
            self._is_ending.set()
        if self._jobs:
            # Jobs were adopted, and the parent ends before it has begun: nobody else will end them.
            self.start()
        for job in list(self._jobs.values()):
            self.stop(job.launched, cause)
        deadline = time.monotonic() + seconds
        for job in list(self._jobs.values()):
            job.cleared.wait(max(0.0, deadline - time.monotonic()))
        self._stop_watching.set()
        self._inputs.put(None)
        self._submitters.close()
        self._waiters.close()
        self._rejoiners.close()
        self._commands.close()
        self._reporters.close(wait=True)
        reason = cause.value
        for job in list(self._unreported):
            _log.warning("%s: job not seen to end before the parent shut down", job.name)
            self._conclude(job, None, Verdict(reason, int(reason.code or ReturnCode.LOST), "not seen to end"))

    # --- called by the watches' threads (flargo.cluster.watch.WatchListener)

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """Pass a watch's list on to the reconciler."""
        self._last_contact[kind] = time.monotonic()
        lost_since = self._lost_since.pop(kind, None)
        if lost_since is not None:
            seconds = time.monotonic() - lost_since
            _log.info("%s watch recovered after %.0f s, at version %s", kind.name.capitalize(), seconds, version)
        self._inputs.put(Listed(kind, tuple(items)))

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """Pass a watch event on to the reconciler."""
        self._last_contact[kind] = time.monotonic()
        self._inputs.put(Changed(kind, item, deleted))

    def on_contact(self, kind: Kind) -> None:
        """Pass on that the API server answers, although a watch has no events."""
        self._last_contact[kind] = time.monotonic()
        self._inputs.put(Contact())

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """Pass the loss of a watch on to the reconciler, and log it once until the watch recovers."""
        if kind not in self._lost_since:
            _log.warning(
                "%s watch lost (last API contact %.0f s ago); decisions paused until it recovers: %s",
                kind.name.capitalize(),
                self._reconciler.seconds_since_contact(time.monotonic()),
                error.brief,
            )
            self._lost_since[kind] = time.monotonic()
            self._meter.count_watch_restart(kind)

        self._inputs.put(WatchLost(kind))

    # --- the reconciler's thread

    def _run(self) -> None:
        while True:
            times = [at for at in (self._reconciler.next_requeue_at(), self._submit_limits.next_at()) if at is not None]
            try:
                timeout = min(max(0.0, min(times) - time.monotonic()), MAX_SLEEP_SECONDS) if times else None
                # An input holds what its watch has listed: drop it before waiting for the next one.
                input_ = None
                input_ = self._inputs.get(timeout=timeout)
            except queue.Empty:
                input_ = TimePassed()
            if input_ is None:
                return
            self._handle(input_)
            for name in self._submit_limits.take_due(time.monotonic()):
                self._expire_submit(name)

    def _handle(self, input_: SiteInput) -> None:
        match input_:
            case JobInput(name, attempt, LaunchGivenUp(detail)):
                self._conclude_at_once(name, attempt, detail)
        try:
            result = self._reconciler.handle(input_, time.monotonic())
        except Exception:  # noqa: BLE001  (an error about one input must not end the tracking of all jobs)
            _log.exception("reconciler input failed")
            result = Result()
        for command in result.commands:
            self._commands.put(command)
        for notice in result.notices:
            _log.log(logging.WARNING if notice.is_warning else logging.INFO, "%s", notice.text)
        for state in result.states:
            try:
                self._publish(state)
            except Exception:  # noqa: BLE001  (the same)
                _log.exception("%s: state could not be published", state.name)
        match input_:
            case Admitted(name):
                self._begin_submit(self._jobs[name])

    def _begin_submit(self, job: FollowedJob) -> None:
        plan = job.take_plan()
        deadline = time.monotonic() + MAX_SUBMIT_SECONDS
        self._submit_limits.set(job.name, deadline)
        if not self._submitters.run(lambda: self._submit(job, plan, deadline)):
            self._inputs.put(JobInput(job.name, job.attempt, Submitted(_NO_THREAD, nothing_created=True)))

    def _expire_submit(self, name: str) -> None:
        """Fail a launch whose submit has not come to the creation of the Workflow in time: a request may hang."""
        job = self._jobs.get(name)
        if job is not None and job.expire():
            problem = job.submit_problem or "no request was answered"
            message = f"nothing could be created within {MAX_SUBMIT_SECONDS:g} s: {problem}"
            self._handle(JobInput(name, job.attempt, Submitted(message, nothing_created=True)))

    def _conclude_at_once(self, name: str, attempt: str, detail: str) -> None:
        """Report that a launch failed, without waiting for the job's end."""
        job = self._jobs.get(name)
        if job is not None and job.attempt == attempt and not job.is_concluded:
            self._report(job, None, Verdict(Reason.LAUNCH_FAILED, int(ReturnCode.NEVER_STARTED), detail))

    def _report(self, job: FollowedJob, state: JobState | None, verdict: Verdict) -> None:
        """Have the verdict reported on another thread, because a report writes files and may read the log."""
        job.is_concluded = True
        if not self._reporters.run(lambda: self._conclude(job, state, verdict)):
            self._conclude(job, state, verdict)

    def _has_results(self, name: str) -> bool:
        job = self._jobs.get(name)
        try:
            return job is not None and job.has_results()
        except Exception:  # noqa: BLE001
            _log.exception("%s: arrival of results could not be checked", name)
            return False

    def _publish(self, state: JobState) -> None:
        """Pass a job's new state on to its LaunchedJob, and its verdict to a reporter."""
        if state.cause in UNFOLLOWED:
            return
        job = self._jobs.get(state.name)
        if job is None:
            return
        job.launched.follow(state)
        job.measure_start(self._meter, time.monotonic())
        try:
            job.on_state(state)
        except Exception:  # noqa: BLE001  (FLARE must get the verdict even if nobody can tell whether it is a loss)
            _log.exception("%s: state could not be passed on", job.name)
        if state.verdict is not None and not job.is_concluded:
            self._report(job, state, state.verdict)
        if state.is_over:
            job.cleared.set()
        if state.is_cleared:
            del self._jobs[state.name]

    # --- the workers' threads

    def _conclude(self, job: FollowedJob, state: JobState | None, verdict: Verdict) -> None:
        """Report the verdict on a job, then wake the threads that wait for it."""
        try:
            needs_log = job.collect_log and verdict.code != ReturnCode.SUCCESS
            exited = state if state is not None and state.exited_pod is not None else None
            job.on_verdict(verdict, self.read_log(exited) if needs_log and exited is not None else "")
        except Exception:  # noqa: BLE001  (FLARE must get the verdict even if the report fails)
            _log.exception("%s: report of the verdict failed", job.name)
        job.launched.conclude(verdict)
        self._unreported.discard(job)

    def _submit(self, job: FollowedJob, plan: Plan, deadline: float) -> None:
        def pause(seconds: float) -> bool:
            return job.cancelled.wait(seconds) or not self.may_change(is_followed=True)

        submitter = Submitter(
            self._api,
            pause,
            time.monotonic,
            deadline,
            job.begin_create,
            lambda item: self._inputs.put(WorkflowCreated(job.name, job.attempt, item)),
            job.note_problem,
            self._reconciler.may_have_other_pods,
        )
        created = self._try_submit(job, lambda: submitter.create(plan))
        if created is not None:
            self._release(job, submitter, created)

    def _release(self, job: FollowedJob, submitter: Submitter, created: Created) -> None:
        """Release a Workflow. If it has to wait for pods of an earlier launch, it does so on threads of its own."""
        while (is_released := self._try_submit(job, lambda: submitter.release(created))) is False:
            if self._waiters.run(lambda: self._wait_and_release(job, submitter, created)):
                return
            job.cancelled.wait(POD_POLL_SECONDS)
        if is_released:
            self._inputs.put(JobInput(job.name, job.attempt, Submitted(secret_uid=created.secret_uid)))

    def _wait_and_release(self, job: FollowedJob, submitter: Submitter, created: Created) -> None:
        job.cancelled.wait(POD_POLL_SECONDS)
        self._release(job, submitter, created)

    def _try_submit(self, job: FollowedJob, step: Callable[[], T]) -> T | None:
        """Return the result of a step of a submit; if it fails, pass the error on and return None."""
        try:
            return step()
        except SubmitError as error:
            message = str(error) if self.may_change(is_followed=True) else OTHER_PARENT
            _log.warning("%s: submit failed: %s", job.name, message)
        except Exception as error:  # noqa: BLE001  (the reconciler must get a result)
            message = describe(error)
            _log.exception("%s: submit failed", job.name)
        submitted = Submitted(message, nothing_created=not job.may_exist)
        self._inputs.put(JobInput(job.name, job.attempt, submitted))
        return None
