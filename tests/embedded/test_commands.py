"""The commands on the embedded engine, which has no roles: they do what they do on a real cluster."""

from tests.harness.command_scenarios import (
    flargo,
    server,
    site,
    start,
    test_a_cluster_that_fails_for_a_moment_or_refuses_is_told_of,
    test_a_job_that_is_not_there_or_may_be_several_is_told_in_a_line,
    test_a_job_that_runs_has_nothing_wrong_at_two_sites,
    test_a_log_is_followed_over_cut_connections_without_loss_or_repetition,
    test_a_program_that_has_not_begun_has_no_log,
    test_jobs_are_watched_over_broken_connections,
    test_jobs_of_nobody_is_no_error,
    test_jobs_tells_what_the_launcher_says_of_each,
    test_sweep_kills_what_runs_on_after_its_workflow_if_no_parent_has,
    test_sweep_takes_what_no_parent_can_own_and_nothing_else,
    test_terminate_ends_a_job_and_the_launcher_sees_to_it,
    test_terminate_ends_what_its_dead_parent_never_released,
    test_the_commands_and_the_launcher_tell_the_same_of_every_end,
    test_what_flargo_0_1_left_running_is_listed_and_ended_by_its_successor,
    test_why_tells_of_each_site_and_of_an_end_its_evidence_and_remedy,
    test_why_tells_what_a_pod_waits_for,
)
from tests.harness.embedded_cluster import REALISTIC_SETTINGS

__all__ = [
    "flargo",
    "server",
    "site",
    "start",
    "test_a_cluster_that_fails_for_a_moment_or_refuses_is_told_of",
    "test_a_job_that_is_not_there_or_may_be_several_is_told_in_a_line",
    "test_a_job_that_runs_has_nothing_wrong_at_two_sites",
    "test_a_log_is_followed_over_cut_connections_without_loss_or_repetition",
    "test_a_program_that_has_not_begun_has_no_log",
    "test_jobs_are_watched_over_broken_connections",
    "test_jobs_of_nobody_is_no_error",
    "test_jobs_tells_what_the_launcher_says_of_each",
    "test_sweep_kills_what_runs_on_after_its_workflow_if_no_parent_has",
    "test_sweep_takes_what_no_parent_can_own_and_nothing_else",
    "test_terminate_ends_a_job_and_the_launcher_sees_to_it",
    "test_terminate_ends_what_its_dead_parent_never_released",
    "test_the_commands_and_the_launcher_tell_the_same_of_every_end",
    "test_what_flargo_0_1_left_running_is_listed_and_ended_by_its_successor",
    "test_why_tells_of_each_site_and_of_an_end_its_evidence_and_remedy",
    "test_why_tells_what_a_pod_waits_for",
]

ENGINE_SETTINGS = REALISTIC_SETTINGS
