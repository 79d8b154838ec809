"""Reads a program's log to its end, over connections that break and while the program still writes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.status.fields import parse_each
from flargo.status.views import PodView, WorkflowView, pod_view, workflow_view
from flargo.terms import MAIN_CONTAINER, WORKFLOW_NAME_LABEL, Uid
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line, LogDeduplicator, last_whole_lines, parse_line

SILENCE_LIMIT = 60.0
"""Seconds without a byte after which a followed log is connected again. A program that writes nothing and a dead
connection look the same."""
_BACKOFF = Backoff((0.2, 1.0, 2.0, 5.0))
_MAX_FAILURES = 3
"""Failures in a row that are tolerated. A log that is followed is retried beyond that, with a message."""
_POLL_SECONDS = 1.0
"""Seconds between two reads of a pod whose program has not started, or whose end does not show yet."""
_MAX_EXECUTOR_LINES = 16
"""More lines than Argo's executor writes after a program's end: what it saved, how the program ended, its own error."""
_POD_DELETED = "{}: its pod was deleted; the last lines of its log may be missing"


@dataclass(slots=True)
class LogTail:
    """The log of one Workflow's program. Its methods raise ApiError where the cluster refuses."""

    api: Api
    workflow: str
    uid: Uid
    pause: Callable[[float], object]
    """Sleeps for a number of seconds."""
    notify: Callable[[str], None]
    """Shows people a message that is not part of the log."""
    since: str = ""
    """The time from which the log is read, RFC 3339; empty: from its beginning."""
    last_lines: int | None = None
    """How many lines, from the end, are yielded of what the program has written so far; None: all."""
    _deduplicator: LogDeduplicator = field(default_factory=LogDeduplicator)
    _executor_filter: ExecutorLineFilter = field(default_factory=ExecutorLineFilter)
    _last_time: str = ""
    """The time of the last line."""
    _failures: int = 0
    """Failures since something was last read."""
    has_begun: bool = False
    """True once the program was seen to have started, so that there is a log."""

    def lines(self, *, follow: bool) -> Iterator[Line]:
        """Yield the lines of the log; with ``follow``, also those that come until the program ends.

        The last piece of a line is never partial, even if the log ends before the line does.
        """
        pod = self._wait_for_program(follow=follow)
        lines = chain(self._read_to_end(pod, follow=follow), self._close_line(has_newline=False))
        # A log that still grows has no end to count from: its node begins with the line that was the last but N.
        grows = follow and pod is not None and not pod.is_main_done
        yield from lines if grows or self.last_lines is None else last_whole_lines(lines, self.last_lines)

    def _read_to_end(self, pod: PodView | None, *, follow: bool) -> Iterator[Line]:
        while pod is not None:
            # Only a connection that begins after the program's end is certain to deliver the whole log.
            has_ended = pod.is_main_done
            try:
                yield from self._read_connection(pod, follow=follow and not has_ended)
                if has_ended or not follow:
                    return
                pod = self._read_pod_again(pod)
            except ApiError as error:
                if error.meaning is Meaning.NOT_FOUND:
                    self.notify(_POD_DELETED.format(self.workflow))
                    return
                self._back_off(error, follow=follow)

    def _read_pod_again(self, pod: PodView) -> PodView | None:
        """Read the pod after a connection has ended, which mostly means that its program has ended too."""
        current = self._read_pod()
        if current is None or current.uid != pod.uid:
            self.notify(_POD_DELETED.format(self.workflow))
            return None
        if not current.is_main_done:
            self.pause(_POLL_SECONDS)
        return current

    def _read_connection(self, pod: PodView, *, follow: bool) -> Iterator[Line]:
        silence = SILENCE_LIMIT if follow else SILENCE_LIMIT / 4
        resumed_at = self._deduplicator.connect()
        since = resumed_at or self.since
        tail = None if resumed_at else self._requested_tail(pod)
        previous: Line | None = None
        for piece in self.api.log_lines(
            pod.name, MAIN_CONTAINER, follow=follow, since=since, tail=tail, silence=silence
        ):
            self._failures = 0
            is_inside_line = previous is not None and previous.is_partial
            # Only the first piece of a line begins with its time.
            line = Line(previous.time, piece.text) if previous and is_inside_line else parse_line(piece.text)
            line = replace(line, is_partial=piece.is_partial, has_newline=piece.has_newline)
            is_first, previous = previous is None, line
            if is_first and since and not line.time:
                continue  # the rest of a line that began before `since`, and that was yielded then
            if follow and not (line.has_newline or line.is_partial):
                return  # the program may still be writing this line: the next connection delivers all of it
            if self._deduplicator.is_new(line):
                yield from self._filter(line, is_inside_line=is_inside_line)

    def _requested_tail(self, pod: PodView) -> int | None:
        """Return how many lines to request. After the program's end the executor's lines are among the last."""
        if self.last_lines is None:
            return None
        return self.last_lines + (_MAX_EXECUTOR_LINES if pod.is_main_done else 0)

    def _filter(self, line: Line, *, is_inside_line: bool) -> Iterator[Line]:
        if not is_inside_line:
            yield from self._close_line(has_newline=True)
        self._last_time = line.time
        program_line = self._executor_filter.filter(line)
        if program_line is not None:
            yield program_line

    def _close_line(self, *, has_newline: bool) -> Iterator[Line]:
        """Yield the last piece of a line whose end was lost, with its pod or with an older part of the log."""
        if self._executor_filter.is_inside_line:
            last_piece = self._executor_filter.filter(Line(self._last_time, "", has_newline=has_newline))
            if last_piece is not None:
                yield last_piece

    def _back_off(self, error: ApiError, *, follow: bool) -> None:
        """Wait after a failed connection, or raise its error if another attempt is of no use."""
        is_starting = error.meaning is Meaning.INVALID and follow  # "container ... is waiting to start"
        self._failures += 1
        if not (error.is_transient or is_starting) or (self._failures > _MAX_FAILURES and not follow):
            raise error
        if self._failures == _MAX_FAILURES and not is_starting:
            self.notify(f"{self.workflow}: log connection lost, still retrying: {error}")
        self.pause(_BACKOFF.seconds(self._failures))

    def _wait_for_program(self, *, follow: bool) -> PodView | None:
        """Return the pod once its program has started; None if there is no such pod and none will come."""
        has_notified = False
        while True:
            try:
                pod, workflow = self._read_pod(), self._read_workflow()
            except ApiError as error:
                self._back_off(error, follow=follow)
                continue
            if pod is not None and (pod.running or pod.is_main_done):
                self.has_begun = True
                return pod
            if workflow is None:
                self.notify(f"{self.workflow}: the Workflow no longer exists")
                return None
            if workflow.is_completed and pod is None and workflow.has_node:
                self.notify(f"{self.workflow}: its pod is gone, and the log with it")
                return None
            if workflow.is_completed or not follow:
                self.notify(f"{self.workflow}: its program has not started")
                return None
            if not has_notified:
                self.notify(f"{self.workflow}: its program has not started yet")
                has_notified = True
            self.pause(_POLL_SECONDS)

    def _read_pod(self) -> PodView | None:
        items, _ = self.api.list(Kind.POD, f"{WORKFLOW_NAME_LABEL}={self.workflow}")
        own_pods = (pod for pod in parse_each(items, pod_view) if pod.owner_uid == self.uid)
        return min(own_pods, key=lambda pod: pod.name, default=None)

    def _read_workflow(self) -> WorkflowView | None:
        try:
            workflow = workflow_view(self.api.get(Kind.WORKFLOW, self.workflow))
        except ApiError as error:
            if error.meaning is not Meaning.NOT_FOUND:
                raise
            return None
        return workflow if workflow.uid == self.uid else None
