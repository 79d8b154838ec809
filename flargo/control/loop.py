"""Threads: two watches, one that owns the engine, a few that perform its orders. It decides nothing.

The engine's thread takes facts from one queue, so the engine needs no lock and no request is ever made
while it is held. What it orders goes to the performers, whose answers are facts again.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from flargo.cluster.api import Api, Kind
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.watch import Watch
from flargo.control.launched_job import LaunchedJob
from flargo.control.meter import Meter, NullMeter, Snapshot, take_snapshot
from flargo.control.parse_error_log import ParseErrorLog
from flargo.control.reconciler import Command, Reconciler, Result
from flargo.control.submit import SubmitError, Submitter
from flargo.job.names import display_text
from flargo.status.diagnosis import Stage
from flargo.status.job_state import ActionKind, JobState
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import is_credentials_secret, strip_unused_fields, uid_of
from flargo.terms import MAIN_CONTAINER, WORKFLOW_NAME_LABEL, Annotation, Object, Plan

MAX_SUBMIT_SECONDS = 120.0
"""Seconds for which a submit is repeated while the API server does not answer."""
MAX_LOG_LINES, MAX_LOG_BYTES, LOG_READ_SECONDS = 200, 64 * 1024, 5.0
"""How much of a failed program's log is kept, and how long a verdict waits for it. Twice as much is read, and redacted
before its beginning is cut off: a key or token that is cut in two would not be known for one."""
MAX_SLEEP_SECONDS = 3600.0
"""Seconds for which the engine's thread sleeps at most: a queue cannot be told to wait for years."""
MAX_ENDING_DETAIL_LENGTH = 500
"""Characters of the cluster's words that are left on a Workflow that is ended."""
_WORKERS, _CLEANERS = 8, 2
_log = logging.getLogger(__name__)
Task = Callable[[], Result]
OnVerdict = Callable[[Verdict, str], None]


class Loop:
    """Follows and ends the jobs of one parent."""

    def __init__(
        self,
        api: Api,
        labels: str,
        epoch: str,
        grace: int,
        redact: Callable[[str], str] = lambda text: text,
        meter: Meter | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            api: the parent's namespace.
            labels: the selector of the site's Workflows and pods.
            epoch: this run of the parent: what the site's other runs left behind is ended.
            grace: seconds between SIGTERM and SIGKILL for that.
            redact: removes secrets from a text that others will read.
            meter: who measures, if anybody does.
        """
        self._api = api
        self._redact = redact
        self._meter: Meter = meter or NullMeter()
        self._reconciler = Reconciler(
            self._has_results, time.monotonic(), epoch=epoch, grace=grace, on_parse_error=ParseErrorLog()
        )
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        """No more launches."""
        self._launch_lock = threading.Lock()
        """A launch is there as a whole before the end begins, or not at all."""
        self._stop_watching = threading.Event()
        """No more watching."""
        self._started = threading.Lock()
        self._threads: list[threading.Thread] = []
        # Apart from one another: launches that wait for an API server must not hold up a kill or a verdict, and neither
        # must the credentials of a thousand jobs that end at once.
        self._submitters = ThreadPoolExecutor(_WORKERS, thread_name_prefix="flargo-submit")
        self._performers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="flargo-perform")
        self._cleaners = ThreadPoolExecutor(_CLEANERS, thread_name_prefix="flargo-clean")
        self._reporters = ThreadPoolExecutor(_WORKERS, thread_name_prefix="flargo-tell")
        self._jobs: dict[str, _Job] = {}
        self._unreported: set[_Job] = set()
        """Whose verdict nobody has been told yet."""
        self._lost: dict[Kind, float] = {}
        self._last_contact: dict[Kind, float] = {}
        """When each stream said something for the last time; before that, when it was first wanted."""
        self._watches = [
            Watch(api, kind, labels, strip_unused_fields, self, self._stop_watching.wait, time.monotonic)
            for kind in (Kind.WORKFLOW, Kind.POD)
        ]

    def start(self) -> None:
        """Begin to follow the site's Workflows, if that has not begun; a launch does so too."""
        with self._started:
            if self._threads:
                return
            self._last_contact = {watch.kind: time.monotonic() for watch in self._watches}
            runs = [("flargo-engine", self._run)]
            runs += [(f"flargo-{watch.kind.value[1]}", watch.run) for watch in self._watches]
            self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in runs]
            for thread in self._threads:
                thread.start()

    def launch(
        self, plan: Plan, has_results: Callable[[], bool], on_verdict: OnVerdict, *, collect_log: bool
    ) -> LaunchedJob:
        """Begin a job; returns at once. What becomes of it is on the ticket.

        Args:
            plan: what to put on the cluster.
            has_results: whether the job's results have reached the parent; does no I/O.
            on_verdict: told the verdict, and the end of the log, before anybody who waits for it is woken.
            collect_log: fetch the end of the program's log if it fails.

        Raises:
            SubmitError: a job of that name is still being followed.
        """
        self.start()
        job = _Job(plan.name, has_results, on_verdict, collect_log=collect_log)

        def admit() -> Result:
            self._reconciler.admit(plan.name, plan.attempt, plan.timeouts, plan.grace, time.monotonic())
            self._submitters.submit(self._submit, job, plan)
            return Result()

        with self._launch_lock:
            if self._ended.is_set():
                raise SubmitError("this FLARE parent is shutting down")
            if self._jobs.setdefault(plan.name, job) is not job:
                raise SubmitError(f"{plan.name}: an earlier launch of this job has not been cleared away yet")
            self._unreported.add(job)
            self._tasks.put(admit)
        return job.launched

    def stop(self, ticket: LaunchedJob, cause: Cause) -> None:
        """Have a job ended; returns at once. A later launch of the same job is left alone."""
        job = self._jobs.get(ticket.name)
        if job is None or job.launched is not ticket:
            return
        job.cancelled.set()

        def stop() -> Result:
            is_followed = self._jobs.get(job.name) is job
            return self._reconciler.stop(job.name, cause, time.monotonic()) if is_followed else Result()

        self._tasks.put(stop)

    def give_up(self, ticket: LaunchedJob, detail: str) -> None:
        """End a launch that can't be waited for any longer; returns at once.

        Who waits for the ticket hears that the launch failed, even while the cluster is not heard. The job itself is
        ended as soon as the cluster is.

        Args:
            ticket: of the launch; a later launch of the same job is left alone.
            detail: why it is given up, for people.
        """
        job = self._jobs.get(ticket.name)
        if job is None or job.launched is not ticket:
            return
        job.cancelled.set()

        def give_up() -> Result:
            if self._jobs.get(job.name) is not job:
                return Result()
            if not job.is_concluded:
                job.is_concluded = True
                verdict = Verdict(Reason.LAUNCH_FAILED, int(ReturnCode.NEVER_STARTED), detail)
                self._reporters.submit(self._conclude, job, None, verdict)
            return self._reconciler.give_up(job.name, detail, time.monotonic())

        self._tasks.put(give_up)

    def seconds_out_of_sync(self) -> float:
        """For how many seconds a stream has not been heard; 0 while both are."""
        since = min(self._lost.values(), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def snapshot(self) -> Snapshot:
        """What goes on at this moment; for any thread."""
        now, heard = time.monotonic(), self._last_contact
        silence = {kind: max(0.0, now - at) for kind, at in heard.items()}
        return take_snapshot(self._reconciler.states, silence, self._tasks.qsize())

    def end(self, cause: Cause, seconds: float) -> None:
        """End all jobs, wait so long for it, then let everything go: nobody is left waiting."""
        with self._launch_lock:
            self._ended.set()
        for job in list(self._jobs.values()):
            self.stop(job.launched, cause)
        limit = time.monotonic() + seconds
        for job in list(self._jobs.values()):
            job.cleared.wait(max(0.0, limit - time.monotonic()))
        self._stop_watching.set()
        self._tasks.put(None)
        for pool in (self._submitters, self._performers, self._cleaners):
            pool.shutdown(wait=False, cancel_futures=True)
        self._reporters.shutdown(wait=True)
        reason = cause.value
        for job in list(self._unreported):
            _log.warning("%s: the parent ends before the job's end was seen", job.name)
            self._conclude(job, None, Verdict(reason, int(reason.code or ReturnCode.LOST), "not seen to end"))

    # --- the watches' threads

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """See Listener."""
        self._last_contact[kind] = time.monotonic()
        since = self._lost.pop(kind, None)
        if since is not None:
            _log.info("%s: heard again after %.0f s, at version %s", kind.value[1], time.monotonic() - since, version)
        self._tasks.put(lambda: self._reconciler.on_listed(kind, items, time.monotonic()))

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """See Listener."""
        self._last_contact[kind] = time.monotonic()
        self._tasks.put(lambda: self._reconciler.on_changed(kind, item, time.monotonic(), deleted=deleted))

    def on_contact(self, kind: Kind) -> None:
        """See Listener."""
        self._last_contact[kind] = time.monotonic()
        self._note(self._reconciler.on_contact)

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """See Listener."""
        if kind not in self._lost:
            silent = self._reconciler.seconds_since_contact(time.monotonic())
            said = "%s: not heard (the API was for the last time %.0f s ago), nothing is decided until they are: %s"
            _log.warning(said, kind.value[1], silent, error)
            self._lost[kind] = time.monotonic()
            self._meter.count_watch_restart(kind)

        self._note(lambda now: self._reconciler.on_watch_lost(kind, now))

    def _note(self, fact: Callable[[float], None]) -> None:
        """Let the engine know of something that orders nothing by itself."""

        def note() -> Result:
            fact(time.monotonic())
            return Result()

        self._tasks.put(note)

    # --- the engine's thread

    def _run(self) -> None:
        while True:
            wake_at = self._reconciler.next_requeue_at()
            try:
                timeout = None if wake_at is None else min(max(0.0, wake_at - time.monotonic()), MAX_SLEEP_SECONDS)
                task = None  # not to hold a whole list until the next fact
                task = self._tasks.get(timeout=timeout)
            except queue.Empty:
                task = self._tick
            if task is None:
                return
            try:
                self._execute(task())
            except Exception:  # noqa: BLE001
                # One job's trouble must not end the following of all others.
                _log.exception("a fact could not be dealt with")

    def _tick(self) -> Result:
        return self._reconciler.tick(time.monotonic())

    def _execute(self, outcome: Result) -> None:
        for life in outcome.states:
            self._publish(life)
        for order in outcome.commands:
            pool = self._cleaners if order.action.kind is ActionKind.DELETE_SECRET else self._performers
            pool.submit(self._perform, order)

    def _has_results(self, name: str) -> bool:
        job = self._jobs.get(name)
        try:
            return job is not None and job.has_results()
        except Exception:  # noqa: BLE001
            _log.exception("%s: whether its results have arrived could not be told", name)
            return False

    def _publish(self, life: JobState) -> None:
        if life.cause is Cause.ORPHANED:
            if life.is_cleared:
                _log.warning("%s: left behind by another run of this FLARE parent; it has been ended", life.name)
            return
        job = self._jobs.get(life.name)
        if job is None:
            return
        job.launched.update(
            life.stage, released=not life.is_submitting and not life.submit_error, stopping=life.is_stopping
        )
        job.time_start(self._meter)
        if life.verdict is not None and not job.is_concluded:
            job.is_concluded = True
            # Not here: it writes files, and may fetch a log.
            self._reporters.submit(self._conclude, job, life, life.verdict)
        if life.is_cleared:
            del self._jobs[life.name]
            job.cleared.set()

    # --- the workers' threads

    def _conclude(self, job: "_Job", life: JobState | None, verdict: Verdict) -> None:
        """Tell what became of a job, then wake those who wait for it."""
        try:
            wants_tail = job.collect_log and life is not None and verdict.code != ReturnCode.SUCCESS
            job.on_verdict(verdict, self._tail(life) if wants_tail and life is not None else "")
        except Exception:  # noqa: BLE001  (FLARE must hear the verdict whatever the report ran into)
            _log.exception("%s: its outcome could not be told", job.name)
        job.launched.conclude(verdict)
        self._unreported.discard(job)
        self._meter.count_verdict(verdict)

    def _tail(self, life: JobState) -> str:
        """The end of the program's log, if it ever ran and its pod is still there."""
        pod = next((pod for pod in life.observation.pods if pod.uid == life.first_pod_uid), None)
        if pod is None or pod.exit is None:
            return ""
        try:
            return self._api.log(pod.name, MAIN_CONTAINER, 2 * MAX_LOG_LINES, 2 * MAX_LOG_BYTES, LOG_READ_SECONDS)
        except ApiError as error:
            return f"the log could not be read: {error}"

    def _submit(self, job: "_Job", plan: Plan) -> None:
        submit = Submitter(self._api, job.cancelled.wait, time.monotonic, time.monotonic() + MAX_SUBMIT_SECONDS)
        error, secret = "", None
        try:
            secret = submit.run(plan)
        except SubmitError as refused:
            error = str(refused)
            _log.warning("%s: not submitted: %s", job.name, error)
        except Exception as unforeseen:  # noqa: BLE001  (the life must hear of it)
            error = describe(unforeseen)
            _log.exception("%s: not submitted", job.name)
        self._tasks.put(lambda: self._reconciler.on_submitted(job.name, error, time.monotonic(), secret))

    def _perform(self, order: Command) -> None:
        begun = time.monotonic()
        try:
            if order.action.kind is ActionKind.CONFIRM:
                workflow, pods = self._read(order.name)
                self._tasks.put(lambda: self._reconciler.on_confirmed(order, workflow, pods, time.monotonic()))
                return
            if order.action.kind is ActionKind.LIST_EVENTS:
                events, _ = self._api.list(
                    Kind.EVENT, fields=f"involvedObject.kind=Pod,involvedObject.name={order.pod_name}"
                )
                self._tasks.put(lambda: self._reconciler.on_events_listed(order, events, time.monotonic()))
                return
            self._do(order)
            ok = True
        except ApiError as error:
            # Gone, or (409) its name is another object's by now, or no object can have its name.
            ok = error.not_found or error.conflict or error.invalid_target
            if not error.status:
                self._note(lambda now: self._reconciler.on_unanswered(order, begun, now))
            if not ok:
                # While nothing is heard that has been said once, and each of a thousand jobs' retries says no more.
                level = logging.DEBUG if self._lost else logging.WARNING
                _log.log(level, "%s: could not %s it: %s", order.name, order.action.kind.value, error)
        except Exception:  # noqa: BLE001
            # Whatever it was, a wish that is not answered would never be tried again.
            _log.exception("%s: could not %s it", order.name, order.action.kind.value)
            ok = False
        self._tasks.put(lambda: self._reconciler.on_action_done(order, time.monotonic(), ok=ok))

    def _read(self, name: str) -> tuple[Object | None, list[Object]]:
        try:
            workflow = self._api.get(Kind.WORKFLOW, name)
        except ApiError as error:
            if not error.not_found:
                raise
            workflow = None
        pods, _ = self._api.list(Kind.POD, labels=f"{WORKFLOW_NAME_LABEL}={name}")
        return workflow, pods

    def _do(self, order: Command) -> None:
        match order.action.kind:
            case ActionKind.SHUTDOWN:
                self._api.merge(Kind.WORKFLOW, order.name, self._shutdown(order))
            case ActionKind.TOUCH:
                touch = {Annotation.NUDGED.value: str(time.time())}
                self._api.merge(
                    Kind.WORKFLOW, order.name, {"metadata": {"uid": order.action.uid, "annotations": touch}}
                )
            case ActionKind.DELETE_WORKFLOW:
                self._api.delete(Kind.WORKFLOW, order.name, order.object_uid)
            case ActionKind.DELETE_POD:
                self._api.delete(Kind.POD, order.pod_name, order.object_uid, order.grace)
            case ActionKind.DELETE_SECRET:
                self._drop_secret(order)
            case ActionKind.CONFIRM | ActionKind.LIST_EVENTS:
                raise AssertionError

    def _drop_secret(self, order: Command) -> None:
        """Delete the credentials Secret: the one whose creation told its uid, else one that is surely the job's."""
        uid = order.action.uid
        if uid is None:
            meta = self._api.metadata(Kind.SECRET, order.secret_name)
            if not is_credentials_secret(meta, order.name, order.workflow_uid):
                _log.warning("%s: Secret %s belongs to another owner and is left alone", order.name, order.secret_name)
                return
            uid = uid_of({"metadata": meta})
        self._api.delete(Kind.SECRET, order.secret_name, uid)

    def _shutdown(self, order: Command) -> Object:
        """The patch that ends a Workflow, and says on it why: a shutdown itself does not tell who wanted it."""
        detail = display_text(self._redact(order.detail), MAX_ENDING_DETAIL_LENGTH)
        said = {Annotation.ENDING: order.end_reason.name if order.end_reason else "", Annotation.ENDING_DETAIL: detail}
        notes = {key.value: value for key, value in said.items() if value}
        return {"metadata": {"uid": order.action.uid, "annotations": notes}, "spec": {"shutdown": "Terminate"}}


class _Job:
    """A job on its way, and who waits for it. Its plan is not kept: that holds a startup kit."""

    def __init__(self, name: str, has_results: Callable[[], bool], on_verdict: OnVerdict, *, collect_log: bool) -> None:
        self.name = name
        self.has_results = has_results
        self.on_verdict = on_verdict
        self.collect_log = collect_log
        self.is_concluded = False
        self.launched = LaunchedJob(name)
        self.cancelled = threading.Event()
        self.cleared = threading.Event()
        self.released_at: float | None = None
        self.started = False

    def time_start(self, meter: Meter) -> None:
        """Measure, once, how long after its release it was seen running."""
        if self.started or not self.launched.is_released:
            return
        now = time.monotonic()
        self.released_at = now if self.released_at is None else self.released_at
        if self.launched.stage is Stage.RUNNING:
            self.started = True
            meter.observe_start(now - self.released_at)
