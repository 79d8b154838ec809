"""A site's Lease on a real API server."""

import time
from datetime import UTC, datetime, timedelta

from flargo.cluster.api import Api, Kind
from flargo.control.lease_object import away_seconds, idle_seconds, view_lease
from tests.harness.cluster import Cluster
from tests.harness.lease_scenarios import (
    Site,
    api,
    site,
    test_a_deleted_lease_is_created_again,
    test_a_deleted_lease_is_not_replaced,
    test_a_lease_is_read_as_it_was_written,
    test_a_parent_that_died_is_replaced_when_its_lease_expires,
    test_a_parent_that_was_cut_off_has_lost_the_lease,
    test_a_parent_without_the_right_is_told,
    test_a_second_parent_is_fenced_until_the_first_ends,
    test_a_write_whose_answer_is_lost_is_found,
    test_only_the_present_version_is_replaced,
    wire,
)

__all__ = [
    "api",
    "site",
    "test_a_deleted_lease_is_created_again",
    "test_a_deleted_lease_is_not_replaced",
    "test_a_lease_is_read_as_it_was_written",
    "test_a_parent_that_died_is_replaced_when_its_lease_expires",
    "test_a_parent_that_was_cut_off_has_lost_the_lease",
    "test_a_parent_without_the_right_is_told",
    "test_a_second_parent_is_fenced_until_the_first_ends",
    "test_a_write_whose_answer_is_lost_is_found",
    "test_only_the_present_version_is_replaced",
    "wire",
]


def test_the_api_server_notes_when_the_lease_was_renewed(cluster: Cluster, api: Api) -> None:
    """Its own clock tells how long a parent was away; the parents' clocks need not be right."""
    own = Site(cluster, api)
    try:
        first = view_lease(api.create(Kind.LEASE, own.written(None)), own.labels)
        assert first.written_at is not None
        time.sleep(2.1)
        second = view_lease(api.replace(Kind.LEASE, own.written(first, "b")), own.labels)
        away = away_seconds(first, second)
        assert away is not None
        assert 1 <= away <= 60
        item, server_time = api.get_with_time(Kind.LEASE, own.name)
        assert idle_seconds(view_lease(item, own.labels), server_time, datetime.now(UTC) + timedelta(hours=1)) < 60
        # Somebody who edits anything else does not look like the holder.
        cluster.kubectl("annotate", "lease", own.name, "note=x")
        time.sleep(1.1)
        assert view_lease(api.get(Kind.LEASE, own.name), own.labels).written_at == second.written_at
    finally:
        own.delete()
