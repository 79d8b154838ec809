"""List, then watch, then watch on: the one loop that follows a kind.

It never ends before it is told to, never decides anything, and says when what it told may be out of date.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from flargo.cluster.api import MAX_MESSAGE_LENGTH, Api, Kind
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.terms import Object

STREAM_SECONDS = 45
"""A stream is renewed after so long. The server then has nothing to tell for less than a minute at a time, so
silence beyond it is a dead connection: a half-open socket is noticed within the minute."""
MAX_SILENCE_SECONDS = STREAM_SECONDS + 8.0
MIN_STREAM_SECONDS = 1.0
"""A stream that ends sooner is not renewed before."""
STABLE_STREAM_SECONDS = 10.0
"""A stream that was heard for longer and then cut, by a load balancer perhaps, is no sign of a server in trouble."""
RELIST_SECONDS = 600.0
"""A fresh list repairs what a stream may have lost."""
_log = logging.getLogger(__name__)
_BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
_AWAY = 5.0
"""Seconds between knocks at a server that is away, at most: what ends jobs meanwhile is to be heard soon after."""
_ASKED = 60.0
"""Seconds for which a server is left alone because it asks for that, at most. The API server asks for one; what stands
before it may ask for hours, and jobs that end meanwhile are not heard of."""


class WatchListener(Protocol):
    """Who is told."""

    def on_listed(self, kind: Kind, items: list[Object], version: str) -> None:
        """These are all that there are; from now on in sync."""

    def on_changed(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """One came, changed, or went."""

    def on_contact(self, kind: Kind) -> None:
        """The API server was heard, and had nothing to tell of that kind."""

    def on_lost(self, kind: Kind, error: ApiError) -> None:
        """Out of sync until the next listed()."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to follow, and the world it is followed in."""

    api: Api
    kind: Kind
    labels: str
    trim: Callable[[Object], Object]
    """What is kept of each object of a list."""
    listener: WatchListener
    pause: Callable[[float], bool]
    """Sleep so many seconds; True: stop. ``threading.Event.wait``."""
    clock: Callable[[], float]

    def run(self) -> None:
        """Follow until told to stop."""
        version, listed_at, failures = "", 0.0, 0
        while not self.pause(0.0):
            begun = self.clock()
            try:
                if not version or self.clock() - listed_at > RELIST_SECONDS:
                    version = self._list()
                    listed_at = self.clock()
                begun = self.clock()
                version = self._stream(version)
                self.listener.on_contact(self.kind)
                failures = 0
                if self.pause(max(0.0, MIN_STREAM_SECONDS - (self.clock() - begun))):
                    return
            except Exception as broken:  # noqa: BLE001  (a stream of nonsense must not end the watching either)
                error = broken if isinstance(broken, ApiError) else self._misread(broken, again=failures > 0)
                # Whatever broke the stream, a list is the sure way back into sync.
                version, failures = "", 1 if self.clock() - begun > STABLE_STREAM_SECONDS else failures + 1
                self.listener.on_lost(self.kind, error)
                if self.pause(_gap(failures, error)):
                    return

    def _misread(self, broken: Exception, *, again: bool) -> ApiError:
        if not again:
            _log.error("%s: what the API server sent could not be read", self.kind.value[1], exc_info=broken)
        return ApiError("watch", self.kind.value[1], 0, message=describe(broken))

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
                raise self._error_of(item)
            meta = item.get("metadata")
            version = str((meta.get("resourceVersion") if isinstance(meta, dict) else None) or version)
            if event.get("type") in {"ADDED", "MODIFIED", "DELETED"}:
                self.listener.on_changed(self.kind, item, deleted=event["type"] == "DELETED")
            else:  # a bookmark
                self.listener.on_contact(self.kind)
            if self.pause(0.0):
                break
        return version

    def _error_of(self, status: Object) -> ApiError:
        """The Status object with which the API server ends a stream."""
        code = status.get("code")
        known = code if isinstance(code, int) and code in set(HTTPStatus) else 0
        reason, message = (str(status.get(key) or "")[:MAX_MESSAGE_LENGTH] for key in ("reason", "message"))
        return ApiError("watch", self.kind.value[1], known, reason, message)


def _gap(failures: int, error: ApiError) -> float:
    """Seconds to wait: growing, never the same for two sites, as long as the server asks for within reason."""
    step = _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]
    gap = (min(step, _AWAY) if error.transient else step) * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
    return max(gap, min(error.retry_after or 0.0, _ASKED))
