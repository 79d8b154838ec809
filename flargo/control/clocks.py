"""The two clocks of the Reconciler, and the contact with the API server that one of them depends on."""

from flargo.cluster.api import Kind
from flargo.status.job_state import Now


class Clocks:
    """A wall clock that never runs backwards, and a clock that runs only while there is contact with the API server.

    There is contact while both watches are in sync and no request has stayed without a response since the last sign of
    the API server. Times are seconds on a monotonic clock that the caller reads.
    """

    def __init__(self, now: float) -> None:
        """Start both clocks without contact."""
        self._healthy = 0.0
        self._wall = now
        self._last_contact = now
        """Time of the last response or event from the API server."""
        self._is_silent = False
        """A request has got no response, and nothing has arrived from the API server since."""
        self._synced: set[Kind] = set()

    @property
    def synced(self) -> frozenset[Kind]:
        """Return the kinds whose watches are in sync."""
        return frozenset(self._synced)

    @property
    def has_synced(self) -> bool:
        """Return whether both watches are in sync."""
        return self._synced >= {Kind.WORKFLOW, Kind.POD}

    def seconds_since_contact(self, now: float) -> float:
        """Return the seconds since the last contact with the API server, the maximum age of what is known."""
        return max(0.0, now - self._last_contact)

    def advance(self, now: float) -> Now:
        """Advance both clocks to the current time, and return them."""
        if self.has_synced and not self._is_silent:
            self._healthy += max(0.0, now - self._wall)
        self._wall = max(self._wall, now)
        return Now(self._healthy, self._wall)

    def note_contact(self, now: float) -> None:
        """Record a response of the API server, an event of a watch, or the regular end of a watch request."""
        self.advance(now)
        self._last_contact, self._is_silent = self._wall, False

    def note_listed(self, kind: Kind, now: float) -> None:
        """Record that a watch has started with a list, so it is in sync."""
        self.note_contact(now)
        self._synced.add(kind)

    def note_lost(self, kind: Kind, now: float) -> None:
        """Stop the healthy clock until the watch's next list."""
        self.advance(now)
        self._synced.discard(kind)

    def note_unanswered(self, since: float, now: float, *, is_read: bool) -> None:
        """Set the healthy clock back and stop it, since a request that was sent at ``since`` got no response.

        A frozen API server does not close its watches, so they show the outage up to a minute late. A fresh read
        (``is_read``) is requested when a timeout expires, so the whole silence before it is taken off the clock. For
        any other request only the time since it was sent is taken off; otherwise a request that always hangs (in a
        webhook, for example) would stop all clocks.
        """
        self.advance(now)
        silent_since = self._last_contact if is_read else max(since, self._last_contact)
        if self.has_synced and not self._is_silent:
            self._healthy -= self._wall - silent_since
        self._is_silent = True
