"""Notifies a site's receiver of each job's outcome (``argo.notify``), beside the job.

Nobody who needs a verdict waits for a notification: ``send`` only queues it, and one thread of its own sends it, again
if it fails. If too many wait, further ones are dropped. A notification that is lost changes nothing about its job.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from flargo.backoff import Backoff
from flargo.cluster.error_text import describe
from flargo.control.meter import Delivery
from flargo.control.workers import Workers
from flargo.terms import Object

MAX_WAITING = 256
"""Notifications that wait to be sent, for the first time or again. Further ones are dropped."""
MAX_TRIES = 6
"""How often one notification is sent before it is given up."""
LAST_TRY_SECONDS = 15 * 60.0
"""Seconds after an outcome's verdict after which no try begins. A receiver that does not answer uses up the time of a
delivery with each try, and a Retry-After and the outcomes in front prolong the wait for the next one."""
BACKOFF = Backoff((1.0, 5.0, 15.0, 60.0, 300.0), max_retry_after=300.0)
"""The seconds between two tries: all together six minutes."""
FLUSH_SECONDS = 3.0
"""Seconds for which a parent that shuts down waits until its last notifications are sent."""
Notify = Callable[[Object, str], None]
"""Called with an outcome and the id of its launch. Returns at once and raises nothing."""
_log = logging.getLogger(__name__)


def no_notification(_outcome: Object, _launch: str) -> None:
    """Notify nobody."""


@dataclass(frozen=True, slots=True)
class _Notification:
    """An outcome that waits."""

    job: str
    """The job and its site, for the log."""
    body: bytes
    last_try_at: float
    """The time, on the notifier's clock, after which no try begins."""


class Notifier:
    """Sends outcomes from one daemon thread, which is started for the first one. Safe to use from many threads."""

    def __init__(
        self,
        post: Callable[[bytes], None],
        count: Callable[[Delivery], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without a thread.

        Args:
            post: sends one JSON document, in bounded time, and raises any exception if it was not taken.
            count: called with what became of each notification.
            clock: returns the current time in seconds, on a monotonic clock.
        """
        self._clock = clock
        self._post = post
        self._count = count
        self._workers = Workers(1, "flargo-notify")
        self._changed = threading.Condition()
        self._waiting = 0
        self._is_closed = False
        self._is_dropping = False
        """Since the last delivery, notifications were dropped, and the log says so already."""
        self._is_failing = False
        """The latest try has failed, and the log says so already. Only the thread uses it."""

    def send(self, outcome: Object, launch: str) -> None:
        """Queue the notification of an outcome; return at once, whatever happens.

        Args:
            outcome: the outcome, as ``argo_outcome.json`` has it.
            launch: the id of the launch. The same verdict, reported again by a later run of the parent, has the same
                id, so that a receiver can recognise it.
        """
        job, site = outcome["job_id"], outcome["site"]
        body = json.dumps({"id": f"{job}/{site}/{launch}", **outcome}).encode()
        notification = _Notification(f"job {job} at {site}", body, self._clock() + LAST_TRY_SECONDS)
        with self._changed:
            has_room = self._waiting < MAX_WAITING
            self._waiting += has_room
            is_first_drop = not has_room and not self._is_dropping
            self._is_dropping = self._is_dropping or not has_room
        if not has_room:
            self._count(Delivery.DROPPED)
            if is_first_drop:
                _log.warning("argo.notify: %d outcomes wait; further ones are dropped until one is taken", MAX_WAITING)
        elif not self._workers.run(lambda: self._try(notification, 1)):
            self._finish(Delivery.DROPPED)
            _log.warning("job %s at %s: argo.notify: its outcome is dropped: no thread can send it", job, site)

    def close(self, seconds: float) -> None:
        """Wait until everything is sent, for some seconds at most; then send nothing more. A second call does nothing.

        FLARE may shut a launcher down twice.
        """
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.wait_for(lambda: not self._waiting, seconds)
            lost = self._waiting
        self._workers.close()
        if lost:
            _log.warning("argo.notify: the parent ends before %d outcomes could be sent", lost)

    def _try(self, notification: _Notification, tries: int, problem: str = "others were in front of it") -> None:
        """Send a notification.

        Args:
            notification: the notification.
            tries: which try it is, from 1.
            problem: why it was not taken before.
        """
        if self._clock() > notification.last_try_at:
            self._give_up(notification, tries - 1, problem)
            return
        try:
            self._post(notification.body)
        except Exception as error:  # noqa: BLE001  (whatever it is, the thread goes on with the next one)
            problem = describe(error)
            delay = BACKOFF.seconds(tries, retry_after=getattr(error, "retry_after", None))
            if not self._is_failing:
                self._is_failing = True
                _log.warning("argo.notify: the receiver does not take outcomes: %s; tried again", problem)
            may_try = tries < MAX_TRIES and self._clock() + delay <= notification.last_try_at
            if not (may_try and self._workers.run(lambda: self._try(notification, tries + 1, problem), delay)):
                self._give_up(notification, tries, problem)
            return
        if self._is_failing:
            self._is_failing = False
            _log.info("argo.notify: the receiver takes outcomes again")
        self._finish(Delivery.DELIVERED)

    def _give_up(self, notification: _Notification, tries: int, problem: str) -> None:
        self._finish(Delivery.FAILED)
        _log.warning("%s: argo.notify: its outcome is given up (tries: %d): %s", notification.job, tries, problem)

    def _finish(self, result: Delivery) -> None:
        with self._changed:
            self._waiting -= 1
            self._is_dropping = self._is_dropping and result is not Delivery.DELIVERED
            self._changed.notify_all()
        self._count(result)
