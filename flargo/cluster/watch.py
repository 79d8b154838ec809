"""List and watch one kind, until stopped: the loop behind every view of the cluster.

The loop survives every error, makes no decisions, and reports when the listener's view may be out of date.
"""

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from flargo.backoff import Backoff
from flargo.cluster.api import Api, Kind
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError, error_from
from flargo.terms import Object

STREAM_SECONDS = 45
"""Seconds after which the server ends a stream and the loop opens a new one. So the server is never silent for a whole
minute, and a longer silence means a dead connection: a half-open socket is noticed within the minute."""
MAX_SILENCE_SECONDS = STREAM_SECONDS + 8.0
"""Seconds without a byte after which a stream's connection counts as dead."""
MIN_STREAM_SECONDS = 1.0
"""Seconds between the starts of two streams, at least."""
STABLE_STREAM_SECONDS = 10.0
"""Seconds after which the loss of a stream counts as a first failure: a load balancer may have cut it, and the server
need not be in trouble."""
RELIST_SECONDS = 600.0
"""Seconds after which the loop lists again, to repair what a stream may have lost."""
_log = logging.getLogger(__name__)
_MAX_TRANSIENT_BACKOFF_SECONDS = 5.0
"""Seconds between attempts to reach an unavailable server, at most: the end of a job must be noticed soon after the
server is back."""
_BACKOFF = Backoff((0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0), max_retry_after=60.0)
"""The API server asks for one second (Retry-After); while the loop waits, no job's end is noticed."""


class WatchListener(Protocol):
    """Receives what a Watch lists and watches."""

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """All objects have been listed; the view is in sync from now on."""

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """One object was created, changed or deleted."""

    def on_contact(self, kind: Kind) -> None:
        """The API server responded, and no object of the kind has changed."""

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """The watch failed; the view is out of sync until the next ``on_listed``."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A watch of one kind: what it watches, who is informed, and the clock it runs by."""

    api: Api
    kind: Kind
    labels: str
    """The label selector of the watched objects."""
    trim: Callable[[Object], Object]
    """Reduces each listed object to the part that is kept."""
    listener: WatchListener
    pause: Callable[[float], bool]
    """Sleeps for some seconds; returns True to stop the watch. ``threading.Event.wait`` does this."""
    clock: Callable[[], float]
    """Returns a monotonic time in seconds."""

    def run(self) -> None:
        """List and watch until ``pause`` returns True."""
        version, listed_at, failures = "", 0.0, 0
        while not self.pause(0.0):
            start = self.clock()
            try:
                if not version or self.clock() - listed_at > RELIST_SECONDS:
                    version = self._list()
                    listed_at = self.clock()
                start = self.clock()
                version = self._stream(version)
                self.listener.on_contact(self.kind)
                failures = 0
                if self.pause(max(0.0, MIN_STREAM_SECONDS - (self.clock() - start))):
                    return
            except Exception as cause:  # noqa: BLE001  (malformed events must not end the watch)
                error = cause if isinstance(cause, ApiError) else self._unreadable(cause, is_first=failures == 0)
                # A fresh list brings the view back in sync whatever the failure was.
                version, failures = "", 1 if self.clock() - start > STABLE_STREAM_SECONDS else failures + 1
                self.listener.on_lost(self.kind, error)
                if self.pause(_backoff(failures, error)):
                    return

    def _unreadable(self, cause: Exception, *, is_first: bool) -> ApiError:
        if is_first:
            _log.error("%s: cannot read the API server's response", self.kind.value[1], exc_info=cause)
        return ApiError("watch", self.kind.value[1], 0, message=describe(cause))

    def _list(self) -> str:
        items, version = self.api.list(self.kind, self.labels, trim=self.trim)
        self.listener.on_listed(self.kind, items, version)
        return version

    def _stream(self, version: str) -> str:
        for event in self.api.watch(self.kind, self.labels, version, STREAM_SECONDS, MAX_SILENCE_SECONDS):
            item = event.get("object")
            if not isinstance(item, dict):
                raise TypeError("an event without an object")
            if event.get("type") == "ERROR":
                raise self._error_from(item)
            meta = item.get("metadata")
            version = str((meta.get("resourceVersion") if isinstance(meta, dict) else None) or version)
            if event.get("type") in {"ADDED", "MODIFIED", "DELETED"}:
                self.listener.on_changed(self.kind, item, deleted=event["type"] == "DELETED")
            else:  # a bookmark
                self.listener.on_contact(self.kind)
            if self.pause(0.0):
                break
        return version

    def _error_from(self, status: Object) -> ApiError:
        """Return the error for the Status object with which the API server ends a stream."""
        code = status.get("code")
        http_status = code if isinstance(code, int) and code in set(HTTPStatus) else 0
        return error_from("watch", self.kind.value[1], http_status, status)


def _backoff(failures: int, error: ApiError) -> float:
    """Return the seconds to wait before the next list: growing, with jitter, and at least a limited Retry-After."""
    limit = _MAX_TRANSIENT_BACKOFF_SECONDS if error.is_transient else math.inf
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
    return _BACKOFF.seconds(failures, retry_after=error.retry_after, limit=limit, jitter=jitter)
