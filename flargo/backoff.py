"""The seconds between retries. Pure: the caller waits, counts failures, and brings the jitter."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A table of delays, and how far a server's Retry-After is obeyed."""

    delays: tuple[float, ...]
    """Seconds before the first, second, ... retry; the last value repeats. Not empty."""
    max_retry_after: float = 0.0
    """Seconds of a Retry-After that are obeyed at most. A gateway in front of a server may ask for hours, and work
    again after a moment."""

    def seconds(
        self, failures: int, *, retry_after: float | None = None, limit: float = math.inf, jitter: float = 1.0
    ) -> float:
        """Return the seconds to wait before the next try.

        Args:
            failures: the failures in a row; below 1 counts as 1.
            retry_after: the seconds that the server has asked for, if any. They are a minimum, and get no jitter.
            limit: seconds to which the table's value is limited.
            jitter: a factor, usually random and at most 1, so that clients of one server do not return together.
        """
        delay = self.delays[min(max(failures, 1), len(self.delays)) - 1]
        return max(min(delay, limit) * jitter, min(retry_after or 0.0, self.max_retry_after))
