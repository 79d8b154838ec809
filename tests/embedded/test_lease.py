"""A site's Lease on the embedded engine, which has no roles. It behaves as on a real cluster."""

from tests.harness.lease_scenarios import (
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
