"""A job's log, read to its end: over connections that break, and while it is written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.status.fields import parse_each
from flargo.status.views import PodView, WorkflowView, pod_view, workflow_view
from flargo.terms import MAIN_CONTAINER, WORKFLOW_NAME_LABEL, Uid
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line, LogDeduplicator, parsed

SILENCE = 60.0
"""Seconds without a byte after which a connection is made anew: whether the program has nothing to say, or the way to
it is dead, nobody can tell."""
_BACK_OFF = (0.2, 1.0, 2.0, 5.0)
_PATIENT = 3
"""So many failures in a row are said to people; if the log is not followed, no more are borne."""
_LOOK = 1.0
"""Seconds between two looks at a program that has not begun, or whose end does not show yet."""
_GONE = "{}: its pod is gone, and with it what it may have said last"


@dataclass(slots=True)
class Tail:
    """The log of one Workflow's program. ApiError is raised where the cluster refuses."""

    api: Api
    workflow: str
    uid: Uid
    pause: Callable[[float], object]
    """Sleep so many seconds."""
    say: Callable[[str], None]
    """Tell people something that is not of the log."""
    _seam: LogDeduplicator = field(default_factory=LogDeduplicator)
    _sieve: ExecutorLineFilter = field(default_factory=ExecutorLineFilter)
    _time: str = ""
    """Of the line that was told last."""
    _failures: int = 0
    begun: bool = False
    """Whether there was a program that could say something."""

    def lines(self, *, follow: bool) -> Iterator[Line]:
        """What the program has said, and, if it is followed, what it says until it ends.

        A line in pieces always has a last piece that is not continued, though the log may end before the line does.
        """
        yield from self._lines(follow=follow)
        yield from self._broken_off(ended=False)

    def _lines(self, *, follow: bool) -> Iterator[Line]:
        pod = self._begun(follow=follow)
        while pod is not None:
            # Only what is read after the program's end is all that there is of it.
            over = pod.is_main_done
            try:
                yield from self._connection(pod, follow=follow and not over)
                if over or not follow:
                    return
                pod = self._still(pod)
            except ApiError as error:
                if error.not_found:
                    self.say(_GONE.format(self.workflow))
                    return
                self._bear(error, follow=follow)

    def _still(self, pod: PodView) -> PodView | None:
        """The pod as it is now that a connection has ended: mostly because the program has."""
        now = self._pod()
        if now is None or now.uid != pod.uid:
            self.say(_GONE.format(self.workflow))
            return None
        if not now.is_main_done:
            self.pause(_LOOK)
        return now

    def _connection(self, pod: PodView, *, follow: bool) -> Iterator[Line]:
        silence = SILENCE if follow else SILENCE / 4
        since = self._seam.connect()
        before: Line | None = None
        for piece in self.api.log_lines(pod.name, MAIN_CONTAINER, follow=follow, since=since, silence=silence):
            self._failures = 0
            goes_on = before is not None and before.continued
            # Only the first piece of a line has its time before it.
            line = Line(before.time, piece.text) if before is not None and goes_on else parsed(piece.text)
            line = replace(line, continued=piece.continued, ended=piece.ended)
            first, before = before is None, line
            if first and since and not line.time:
                continue  # the rest of a line that began earlier, and was told then
            if follow and not (line.ended or line.continued):
                return  # more of the line may be written yet: the next connection tells the whole of it
            if self._seam.is_new(line):
                yield from self._new(line, goes_on=goes_on)

    def _new(self, line: Line, *, goes_on: bool) -> Iterator[Line]:
        if not goes_on:
            yield from self._broken_off(ended=True)
        self._time = line.time
        said = self._sieve.line(line)
        if said is not None:
            yield said

    def _broken_off(self, *, ended: bool) -> Iterator[Line]:
        """The last piece of a line whose end is lost: with its pod, or with an older part of its log."""
        if self._sieve.waits and (said := self._sieve.line(Line(self._time, "", ended=ended))) is not None:
            yield said

    def _bear(self, error: ApiError, *, follow: bool) -> None:
        """A connection broke, or was not made: go on unless that is of no use."""
        waits = error.status == HTTPStatus.BAD_REQUEST and follow  # it is waiting to start
        self._failures += 1
        if not (error.transient or waits) or (self._failures > _PATIENT and not follow):
            raise error
        if self._failures == _PATIENT and not waits:
            self.say(f"{self.workflow}: its log is not heard, and will be read on: {error}")
        self.pause(_BACK_OFF[min(self._failures, len(_BACK_OFF)) - 1])

    def _begun(self, *, follow: bool) -> PodView | None:
        """The pod, once its program has begun; None: there is none, and none will come."""
        waits = False
        while True:
            try:
                pod, workflow = self._pod(), self._workflow()
            except ApiError as error:
                self._bear(error, follow=follow)
                continue
            if pod is not None and (pod.running or pod.is_main_done):
                self.begun = True
                return pod
            if workflow is None or workflow.is_completed or not follow:
                self.say(f"{self.workflow}: its program has not begun" if workflow else f"{self.workflow}: it is gone")
                return None
            if not waits:
                self.say(f"{self.workflow}: its program has not begun yet")
                waits = True
            self.pause(_LOOK)

    def _pod(self) -> PodView | None:
        found, _ = self.api.list(Kind.POD, f"{WORKFLOW_NAME_LABEL}={self.workflow}")
        own = sorted(
            (pod for pod in parse_each(found, pod_view) if pod.owner_uid == self.uid), key=lambda pod: pod.name
        )
        return own[0] if own else None

    def _workflow(self) -> WorkflowView | None:
        try:
            found = workflow_view(self.api.get(Kind.WORKFLOW, self.workflow))
        except ApiError as error:
            if not error.not_found:
                raise
            return None
        return found if found.uid == self.uid else None
