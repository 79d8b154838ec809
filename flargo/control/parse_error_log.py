"""Objects that can't be parsed: each is named in the log once, and skipped."""

import logging

from flargo.cluster.error_text import describe
from flargo.status.fields import name_for_log
from flargo.status.views import uid_of
from flargo.terms import Object

MAX_NAMED = 1000
"""Objects that are named; more are skipped in silence."""
_log = logging.getLogger(__name__)


class ParseErrorLog:
    """Called with each object that could not be parsed. Does no I/O but logging."""

    def __init__(self) -> None:
        """Nothing has been named yet."""
        self._named: set[str] = set()

    def __call__(self, item: Object, error: Exception) -> None:
        """Name an object, unless its uid was named before."""
        uid = uid_of(item)
        if uid not in self._named and len(self._named) < MAX_NAMED:
            self._named.add(uid)
            _log.warning("%s: an object that can't be parsed is skipped (%s)", name_for_log(item), describe(error))
