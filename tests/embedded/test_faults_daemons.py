"""The fault matrix on the embedded engine, where Argo's controller is stopped or suspended."""

import pytest

from tests.harness.faults.daemons import (
    site,
    test_api_server_away_for_thirty_seconds,
    test_controller_away_at_the_launch,
    test_controller_away_during_an_abort,
    test_controller_away_for_too_long,
    test_controller_away_while_many_jobs_end,
    test_controller_away_while_the_program_ends,
    test_controller_overlooks_the_release,
    test_controller_restarted_while_it_runs,
    test_invalid_by_an_administrators_defaults,
    test_node_drained_while_jobs_run_and_wait,
    test_node_lost_and_back,
    test_pod_deleted_while_the_controller_is_away,
    test_preempted_by_a_more_important_pod,
    test_queued_for_room_among_argos_workflows,
    test_queued_on_a_lock_until_it_is_free_or_for_too_long,
    test_run_again_by_an_administrators_retry_strategy,
    test_suspended_by_a_person_before_its_start_and_aborted,
    test_suspended_by_a_person_before_its_start_and_resumed,
)
from tests.harness.wire import Wire

__all__ = [
    "site",
    "test_api_server_away_for_thirty_seconds",
    "test_controller_away_at_the_launch",
    "test_controller_away_during_an_abort",
    "test_controller_away_for_too_long",
    "test_controller_away_while_many_jobs_end",
    "test_controller_away_while_the_program_ends",
    "test_controller_overlooks_the_release",
    "test_controller_restarted_while_it_runs",
    "test_invalid_by_an_administrators_defaults",
    "test_node_drained_while_jobs_run_and_wait",
    "test_node_lost_and_back",
    "test_pod_deleted_while_the_controller_is_away",
    "test_preempted_by_a_more_important_pod",
    "test_queued_for_room_among_argos_workflows",
    "test_queued_on_a_lock_until_it_is_free_or_for_too_long",
    "test_run_again_by_an_administrators_retry_strategy",
    "test_suspended_by_a_person_before_its_start_and_aborted",
    "test_suspended_by_a_person_before_its_start_and_resumed",
]


@pytest.fixture
def controllers_wire() -> Wire:
    """There is no way between this controller and its API server."""
    raise NotImplementedError
