"""How a site's Lease is read, whoever wrote it, and how it is written."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.control.lease_object import (
    LEASE_SECONDS,
    MAX_LEASE_SECONDS,
    LeaseView,
    away_seconds,
    held_lease,
    idle_seconds,
    released_lease,
    view_lease,
)
from flargo.terms import Object, Uid
from tests.harness.lease_parents import LABELS, NAME

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def stored(**spec: Any) -> Object:
    """Return a Lease as an API server returns it, with changes of its spec."""
    item = held_lease(NAME, LABELS, "a_1", NOW, None)
    managed = {"manager": "python", "time": "2026-03-01T12:00:00Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}}
    item["metadata"] |= {"uid": "u-1", "resourceVersion": "7", "managedFields": [managed]}
    return {**item, "spec": {**item["spec"], **spec}}


def test_a_written_lease_is_read_back() -> None:
    view = view_lease(stored(), LABELS)
    assert view == LeaseView(Uid("u-1"), "7", "a_1", True, 15, NOW, datetime(2026, 3, 1, 12, tzinfo=UTC), NOW, 0)
    assert view.is_usable


def test_times_are_kubernetes_micro_times() -> None:
    """Go's decoder takes exactly six digits after the second."""
    spec = held_lease(NAME, LABELS, "a_1", NOW.replace(microsecond=0), None)["spec"]
    assert spec["renewTime"] == spec["acquireTime"] == "2026-03-01T12:00:00.000000Z"


def test_a_renewal_keeps_the_time_of_the_acquisition() -> None:
    later = NOW + timedelta(seconds=10)
    item = held_lease(NAME, LABELS, "a_1", later, view_lease(stored(), LABELS))
    assert (item["spec"]["acquireTime"], item["spec"]["leaseTransitions"]) == ("2026-03-01T12:00:00.250000Z", 0)
    assert item["spec"]["renewTime"] == "2026-03-01T12:00:10.250000Z"
    assert (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) == ("u-1", "7")


def test_a_takeover_is_counted() -> None:
    later = NOW + timedelta(seconds=60)
    item = held_lease(NAME, LABELS, "b_2", later, view_lease(stored(leaseTransitions=4), LABELS))
    assert (item["spec"]["acquireTime"], item["spec"]["leaseTransitions"]) == ("2026-03-01T12:01:00.250000Z", 5)


def test_a_released_lease_has_no_holder() -> None:
    item = released_lease(NAME, LABELS, NOW + timedelta(seconds=3), view_lease(stored(), LABELS))
    assert item["spec"]["holderIdentity"] == ""
    assert item["spec"]["renewTime"] == "2026-03-01T12:00:03.250000Z"
    assert item["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize(
    ("written", "believed"),
    [(None, 15), (1, 15), (15, 15), (40, 40), (10**9, 60), (-3, 15), ("90", 15), (True, 15), (10**30, 15)],
)
def test_a_written_duration_is_believed_within_limits(written: object, believed: int) -> None:
    """A later flargo may need longer, and nobody may lock a parent out for hours."""
    assert view_lease(stored(leaseDurationSeconds=written), LABELS).lease_seconds == believed
    assert LEASE_SECONDS <= believed <= MAX_LEASE_SECONDS


@pytest.mark.parametrize(
    ("part", "value"),
    [("labels", {}), ("labels", {**LABELS, "flargo.dev/site": "other"}), ("uid", "../x"), ("resourceVersion", 7)],
)
def test_a_foreign_lease_is_not_usable(part: str, value: object) -> None:
    item = stored()
    item["metadata"][part] = value
    assert not view_lease(item, LABELS).is_usable


@pytest.mark.parametrize("moment", ["", "soon", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", 5, None, "١٢"])
def test_an_impossible_time_is_absent(moment: object) -> None:
    """A time at the calendar's edge could not be written back in UTC."""
    view = view_lease(stored(renewTime=moment, acquireTime=moment), LABELS)
    assert (view.renewed_at, view.acquired_at) == (None, None)
    assert held_lease(NAME, LABELS, "a_1", NOW, view)["spec"]["acquireTime"] == "2026-03-01T12:00:00.250000Z"


@given(JSON, JSON, JSON, st.sampled_from(["holderIdentity", "leaseTransitions", "leaseDurationSeconds", "renewTime"]))
def test_any_content_is_read_and_replaced(spec: Any, meta: Any, value: Any, key: str) -> None:
    """Nothing of a hostile Lease is written back, and Kubernetes accepts what is written."""
    for item in ({"spec": spec, "metadata": meta}, stored(**{key: value}), {**stored(), "spec": spec}):
        view = view_lease(item, LABELS)
        written = held_lease(NAME, LABELS, "a_1", NOW, view)
        assert 0 <= written["spec"]["leaseTransitions"] < 2**31
        assert set(written["metadata"]) == {"name", "labels", "uid", "resourceVersion"}
        assert len(json.dumps(released_lease(NAME, LABELS, NOW, view))) < 1000 + len(view.version)


def test_transitions_stay_within_32_bits() -> None:
    view = view_lease(stored(leaseTransitions=2**31 - 1), LABELS)
    assert held_lease(NAME, LABELS, "b_2", NOW, view)["spec"]["leaseTransitions"] == 2**31 - 1


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("server", "own", "proven"),
    [(40, 50, 40), (40, 31, 31), (40, -7200, -7200), (-3, 50, -3), (None, 50, 0), (7200, 5, 5)],
)
def test_the_smaller_age_counts(server: float | None, own: float, proven: float) -> None:
    """A clock that is wrong by hours, on either side, proves nothing by itself."""
    view = view_lease(stored(renewTime="2026-03-01T12:00:00.000000Z"), LABELS)
    base = datetime(2026, 3, 1, 12, tzinfo=UTC)
    server_time = None if server is None else base + seconds(server)
    assert idle_seconds(view, server_time, base + seconds(own)) == proven


@pytest.mark.parametrize("managed", [[], None, [{"time": "2026-03-01T12:00:00Z"}], "x", [{"fieldsV1": {"f:spec": 3}}]])
def test_without_the_servers_time_no_age_is_proven(managed: object) -> None:
    item = stored()
    item["metadata"]["managedFields"] = managed
    view = view_lease(item, LABELS)
    assert view.written_at is None
    assert idle_seconds(view, NOW + seconds(900), NOW + seconds(900)) == 0


def test_the_time_away_is_the_api_servers() -> None:
    """Only without it do the clocks of the two parents count."""
    base = datetime(2026, 3, 1, 12, tzinfo=UTC)
    before = LeaseView(Uid("u"), "1", "a", True, renewed_at=base + seconds(3600), written_at=base)
    after = LeaseView(Uid("u"), "2", "b", True, renewed_at=base, written_at=base + seconds(20))
    assert away_seconds(before, after) == 20
    assert away_seconds(LeaseView(Uid("u"), "1", "a", True, renewed_at=base - seconds(9)), after) == 9
    assert away_seconds(LeaseView(Uid("u"), "1", "a", True, renewed_at=base + seconds(9)), after) == 0
    assert away_seconds(LeaseView(Uid("u"), "1", "a", True), after) is None
