"""Tests of the two Clocks: what counts as contact with the API server."""

from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.control.clocks import Clocks


def synced_clocks() -> Clocks:
    clocks = Clocks(100.0)
    for kind in (Kind.WORKFLOW, Kind.POD):
        clocks.note_listed(kind, 100.0)
    return clocks


def test_healthy_clock_needs_both_watches() -> None:
    clocks = Clocks(100.0)
    clocks.note_listed(Kind.WORKFLOW, 101.0)
    assert clocks.advance(110.0).healthy == 0.0
    clocks.note_listed(Kind.POD, 110.0)
    assert clocks.advance(113.0).healthy == 3.0
    clocks.note_lost(Kind.POD, 114.0)
    assert clocks.advance(150.0).healthy == 4.0
    assert clocks.advance(150.0).wall == 150.0


def test_seconds_since_contact() -> None:
    clocks = synced_clocks()
    assert clocks.seconds_since_contact(107.0) == 7.0
    clocks.note_contact(107.0)
    assert clocks.seconds_since_contact(107.0) == 0.0


def test_unanswered_read_takes_the_silence_off() -> None:
    """A fresh read is sent when a timeout expires, so the outage may have begun at the last contact."""
    clocks = synced_clocks()
    clocks.note_contact(105.0)
    clocks.note_unanswered(118.0, 120.0, is_read=True)
    assert clocks.advance(140.0).healthy == 5.0
    clocks.note_contact(140.0)
    assert clocks.advance(141.0).healthy == 6.0


def test_unanswered_write_takes_its_duration_off() -> None:
    clocks = synced_clocks()
    clocks.note_unanswered(110.0, 120.0, is_read=False)
    assert clocks.advance(140.0).healthy == 10.0
    clocks.note_unanswered(130.0, 150.0, is_read=False)
    assert clocks.advance(150.0).healthy == 10.0, "taken off once"


NOTES = {
    "contact": lambda clocks, now: clocks.note_contact(now),
    "listed": lambda clocks, now: clocks.note_listed(Kind.POD, now),
    "lost": lambda clocks, now: clocks.note_lost(Kind.POD, now),
    "unanswered": lambda clocks, now: clocks.note_unanswered(now - 3.0, now, is_read=False),
    "unanswered read": lambda clocks, now: clocks.note_unanswered(now - 3.0, now, is_read=True),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(NOTES)), st.floats(-1, 30))))
def test_healthy_clock_is_never_ahead(events: list[tuple[str, float]]) -> None:
    """The healthy clock never runs faster than the wall clock, and the wall clock never runs backwards."""
    clocks, now = synced_clocks(), 100.0
    previous = clocks.advance(now)
    for event, seconds in events:
        now += seconds
        NOTES[event](clocks, now)
        current = clocks.advance(now)
        assert current.wall - previous.wall >= 0.0
        assert current.healthy - previous.healthy <= current.wall - previous.wall + 1e-6
        assert current.healthy >= -1e-6
        previous = current
