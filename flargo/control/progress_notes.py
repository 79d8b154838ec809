"""Notes on the Workflow of each running server's job which round of training has started last.

FLARE tells a server's parent nothing about rounds: its events are fired in the job's own process. That process logs
them, so the parent reads what its log has gained. However many jobs run, one thread reads one log a second at most,
and writes one note a second at most; the more jobs there are, the later a note comes. Nothing depends on the notes.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import GONE
from flargo.log_rounds import Rounds, parse_started_round
from flargo.parsing import log_time
from flargo.status.diagnosis import Stage
from flargo.status.job_state import JobState
from flargo.status.views import PodView, WorkflowView
from flargo.terms import MAIN_CONTAINER, Annotation, Object

TICK_SECONDS = 1.0
"""Seconds between two reads, of whichever jobs."""
READ_SECONDS = 5.0
"""Seconds between two reads of one job's log, if there are few jobs."""
_MAX_PIECES = 2000
"""Lines of a log that are read at once. A log that grows faster is read later than it is written."""
_SILENCE_SECONDS = 5.0
"""Seconds without a byte after which reading fails."""
_BACKOFF = Backoff((10.0, 30.0, 60.0, 300.0))
"""Seconds until the next read of a job whose log, or whose Workflow, the API server has refused."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """A running job, and how far its log has been read."""

    workflow: WorkflowView
    pod: PodView
    total: int | None
    due: float
    """When its log is read next."""
    since: str = ""
    """The time of the last line that was read."""
    number: int | None = None
    """The round that has started last."""
    noted: str = ""
    failures: int = 0
    has_ended: bool = False
    """The job's log is read a last time."""


class ProgressNotes:
    """Reads the logs of a parent's running jobs, and notes their rounds. Its methods do no I/O, except ``step``."""

    def __init__(self, api: Api, may_change: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        """Start without jobs and without a thread.

        Args:
            api: the client for the jobs' namespace.
            may_change: returns whether this parent may change a job's Workflow now.
            clock: returns a time in seconds.
        """
        self._api = api
        self._may_change = may_change
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        """The running jobs by the names of their Workflows."""
        self._is_running = False
        self._is_closed = threading.Event()

    def on_state(self, state: JobState, total: int | None) -> None:
        """Follow a job while its program runs, as a new state of it shows."""
        workflow = state.observation.workflow
        pod = next((pod for pod in state.observation.pods if pod.uid == state.first_pod_uid), None)
        if state.stage is Stage.RUNNING and state.verdict is None and workflow is not None and pod is not None:
            self.follow(workflow, pod, total)
        else:
            self.finish(state.name)

    def follow(self, workflow: WorkflowView, pod: PodView, total: int | None) -> None:
        """Begin to follow a job whose program runs, unless it is followed already.

        Args:
            workflow: the job's Workflow.
            pod: the pod that runs its program.
            total: the number of rounds; None if it is unknown.
        """
        with self._lock:
            known = self._jobs.get(workflow.name)
            if self._is_closed.is_set() or (known is not None and known.pod.uid == pod.uid):
                return
            self._jobs[workflow.name] = _Job(workflow, pod, total, self._clock())
            if not self._is_running:
                self._start()

    def finish(self, name: str) -> None:
        """Read the log of a job that has ended once more, and then no longer. The job need not be followed."""
        with self._lock:
            job = self._jobs.get(name)
            if job is not None and not job.has_ended:
                job.has_ended, job.due = True, self._clock()

    def close(self) -> None:
        """Stop for good."""
        self._is_closed.set()

    def step(self) -> None:
        """Read the log of the job that has waited longest, if its time has come; note its round if that is new."""
        now = self._clock()
        with self._lock:
            job = min(self._jobs.values(), key=lambda each: each.due, default=None)
        if job is None or job.due > now:
            return
        if job.has_ended:
            self._drop(job)
        job.due = now + READ_SECONDS
        try:
            self._read(job)
            self._note(job)
            job.failures = 0
        except ApiError as error:
            job.failures += 1
            job.due = now + _BACKOFF.seconds(job.failures)
            _log.debug("%s: progress could not be read or noted: %s", job.workflow.name, error)
            if error.meaning in GONE:
                self._drop(job)
        with self._lock:
            if job.has_ended:  # perhaps only while its log was read
                job.due = now

    def _drop(self, job: _Job) -> None:
        with self._lock:
            if self._jobs.get(job.workflow.name) is job:
                del self._jobs[job.workflow.name]

    def _start(self) -> None:
        try:
            threading.Thread(target=self._run, name="flargo-progress", daemon=True).start()
        except RuntimeError:
            return  # the process may have no more threads: nothing depends on this one
        self._is_running = True

    def _run(self) -> None:
        """Work until there is no job left; the next job starts another thread."""
        while not self._is_closed.wait(TICK_SECONDS):
            with self._lock:
                if not self._jobs:
                    self._is_running = False
                    return
            try:
                self.step()
            except Exception:  # noqa: BLE001  (a defect about one job must not end the thread)
                _log.exception("progress of a job could not be read")

    def _read(self, job: _Job) -> None:
        """Read what a log has gained. Lines of the last second that was read come again, which changes nothing."""
        lines = self._api.log_lines(
            job.pod.name, MAIN_CONTAINER, follow=False, since=job.since, silence=_SILENCE_SECONDS
        )
        is_inside_line = False
        # The iterator is a generator, which closes its connection.
        with closing(cast("Any", lines)):
            for piece in islice(lines, _MAX_PIECES):
                if not is_inside_line:
                    stamp = piece.text.partition(" ")[0]
                    # A program may write such a time, too. It then misleads only about its own progress.
                    job.since = stamp if log_time(stamp) is not None else job.since
                    job.number = parse_started_round(piece.text) or job.number
                is_inside_line = piece.is_partial

    def _note(self, job: _Job) -> None:
        if job.number is None:
            return
        total = job.total if job.total is not None and job.total >= job.number else None
        note = Rounds(job.number, total).note
        if note != job.noted and self._may_change():
            self._api.merge(Kind.WORKFLOW, job.workflow.name, build_progress_patch(job.workflow, note))
            job.noted = note


def build_progress_patch(workflow: WorkflowView, note: str) -> Object:
    """Return the merge patch that notes a job's progress. The uid guards it."""
    return {"metadata": {"uid": workflow.uid, "annotations": {Annotation.PROGRESS.value: note}}}
