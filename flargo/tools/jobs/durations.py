"""Durations as people read them in tables and sentences. Pure."""

from datetime import timedelta


def format_duration(duration: timedelta) -> str:
    """Format a duration in its largest unit (s, min, h or d), of which there are at least two: 119 s, but 2 min.

    A negative duration, which comes from two clocks that disagree, is shown as 0 s.
    """
    seconds = max(0, int(duration.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
