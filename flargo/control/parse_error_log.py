"""A log of objects that could not be parsed. Each object is logged once."""

import logging

from flargo.cluster.error_text import describe
from flargo.status.fields import name_for_log
from flargo.status.views import uid_of
from flargo.terms import Object

MAX_LOGGED_OBJECTS = 1000
"""Maximum number of objects that one log names; further ones are skipped silently."""
_log = logging.getLogger(__name__)


class ParseErrorLog:
    """A callback (flargo.status.fields.OnParseError) that logs a warning. It does no other I/O."""

    def __init__(self) -> None:
        """Start without any logged object."""
        self._logged_uids: set[str] = set()

    def __call__(self, item: Object, error: Exception) -> None:
        """Log an object that could not be parsed, unless its uid was logged before."""
        uid = uid_of(item)
        if uid not in self._logged_uids and len(self._logged_uids) < MAX_LOGGED_OBJECTS:
            self._logged_uids.add(uid)
            _log.warning("%s: object could not be parsed and is skipped: %s", name_for_log(item), describe(error))
