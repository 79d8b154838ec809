"""The delays between retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.backoff import Backoff

BACKOFF = Backoff((0.2, 1.0, 5.0), max_retry_after=30.0)


@pytest.mark.parametrize(("failures", "seconds"), [(-1, 0.2), (0, 0.2), (1, 0.2), (2, 1.0), (3, 5.0), (4, 5.0)])
def test_the_last_delay_repeats(failures: int, seconds: float) -> None:
    assert BACKOFF.seconds(failures) == seconds


@pytest.mark.parametrize(("retry_after", "seconds"), [(None, 1.0), (0.0, 1.0), (7.0, 7.0), (3600.0, 30.0)])
def test_retry_after_is_a_limited_minimum(retry_after: float | None, seconds: float) -> None:
    assert BACKOFF.seconds(2, retry_after=retry_after) == seconds
    assert Backoff((1.0,)).seconds(1, retry_after=retry_after) == 1.0


def test_jitter_and_limit_shorten_only_the_delay() -> None:
    assert BACKOFF.seconds(3, limit=2.0, jitter=0.5) == 1.0
    assert BACKOFF.seconds(3, limit=2.0, jitter=0.5, retry_after=7.0) == 7.0


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=6),
    st.integers(),
    st.one_of(st.none(), st.floats(0, allow_infinity=True, allow_nan=False)),
)
def test_delays_stay_in_their_bounds(delays: list[float], failures: int, retry_after: float | None) -> None:
    seconds = Backoff(tuple(delays), max_retry_after=60.0).seconds(failures, retry_after=retry_after)
    assert 0 <= min(delays) <= seconds <= max(*delays, 60.0)
