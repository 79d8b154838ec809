"""Durations as people read them in tables and sentences. Pure."""

from datetime import timedelta

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
_AGES = (
    # up to, the unit, its letter, the smaller unit, its letter
    (2 * _MINUTE, 1, "s", 0, ""),
    (10 * _MINUTE, _MINUTE, "m", 1, "s"),
    (3 * _HOUR, _MINUTE, "m", 0, ""),
    (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
    (2 * _DAY, _HOUR, "h", 0, ""),
    (8 * _DAY, _DAY, "d", _HOUR, "h"),
    (2 * _YEAR, _DAY, "d", 0, ""),
    (8 * _YEAR, _YEAR, "y", _DAY, "d"),
)
"""How kubectl shows an age (HumanDuration of k8s.io/apimachinery/pkg/util/duration)."""


def format_duration(duration: timedelta) -> str:
    """Format a duration in its largest unit (s, min, h or d), of which there are at least two: 119 s, but 2 min.

    A negative duration, which comes from two clocks that disagree, is shown as 0 s.
    """
    seconds = max(0, int(duration.total_seconds()))
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def format_age(age: timedelta) -> str:
    """Format an age in a table as kubectl does: 45s, 5m30s, 15m, 3h20m, 40h, 3d4h. It has at most six characters.

    A negative age, which comes from two clocks that disagree, is shown as 0s.
    """
    seconds = max(0, int(age.total_seconds()))
    for limit, unit, letter, smaller, smaller_letter in _AGES:
        if seconds < limit:
            rest = seconds % unit // smaller if smaller else 0
            return f"{seconds // unit}{letter}" + (f"{rest}{smaller_letter}" if rest else "")
    return f"{seconds // _YEAR}y"
