"""Tests of Timers: one time for each key, and no growth by superseded times."""

from hypothesis import given
from hypothesis import strategies as st

from flargo.control.timers import Timers

KEYS = st.sampled_from("abcd")


def test_later_time_replaces_earlier() -> None:
    timers = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert timers.next_at() == 5.0
    assert timers.take_due(4.0) == []
    assert timers.take_due(5.0) == ["a"]
    assert timers.next_at() is None


def test_due_keys_come_earliest_first() -> None:
    timers = Timers()
    for key, at in (("late", 3.0), ("early", 1.0), ("cancelled", 2.0), ("later", 9.0)):
        timers.set(key, at)
    timers.cancel("cancelled")
    timers.cancel("unknown")
    assert timers.take_due(3.0) == ["early", "late"]
    assert len(timers) == 1


def test_superseded_times_do_not_accumulate() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.set("a", 1e6 - number)
    assert len(timers._heap) < 100
    assert timers.take_due(1e6) == ["a"]


@given(st.lists(st.one_of(st.tuples(KEYS, st.floats(0, 10)), KEYS, st.floats(0, 10))))
def test_timers_are_like_a_dictionary(operations: list[tuple[str, float] | str | float]) -> None:
    """Setting, cancelling and taking in any order."""
    timers, times = Timers(), dict[str, float]()
    for operation in operations:
        if isinstance(operation, tuple):
            timers.set(*operation)
            times[operation[0]] = operation[1]
        elif isinstance(operation, str):
            timers.cancel(operation)
            times.pop(operation, None)
        else:
            taken = timers.take_due(operation)
            assert set(taken) == {key for key, at in times.items() if at <= operation}
            taken_times = [times.pop(key) for key in taken]
            assert taken_times == sorted(taken_times)
        assert timers.next_at() == min(times.values(), default=None)
        assert len(timers) == len(times)
