"""Timers: for each key at most one time at which something is due."""

import heapq

_SPARE_ENTRIES = 64
"""Entries beyond four for each key that the heap may hold before it is rebuilt."""


class Timers:
    """One timer for each key. Setting a timer replaces the key's earlier one. Times are seconds on any one clock."""

    def __init__(self) -> None:
        """Start without any timers."""
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        """All times that were set; an entry that differs from ``_times`` was superseded."""

    def __len__(self) -> int:
        """Return the number of timers that are set."""
        return len(self._times)

    def set(self, key: str, at: float) -> None:
        """Set a key's timer."""
        self._times[key] = at
        heapq.heappush(self._heap, (at, key))
        # Most entries are superseded long before their time comes; the heap is rebuilt before they accumulate.
        if len(self._heap) > 4 * len(self._times) + _SPARE_ENTRIES:
            self._heap = [(time, other) for other, time in self._times.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: str) -> None:
        """Remove a key's timer, if it is set."""
        self._times.pop(key, None)

    def next_at(self) -> float | None:
        """Return the time of the earliest timer, or None if none is set."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[str]:
        """Return the keys whose time has come, earliest first, and remove their timers."""
        due = []
        while (at := self.next_at()) is not None and at <= now:
            _, key = heapq.heappop(self._heap)
            del self._times[key]
            due.append(key)
        return due
