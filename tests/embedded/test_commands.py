"""The commands on the embedded engine, which has no roles. They behave as on a real cluster."""

from tests.harness.command_scenarios import (
    flargo,
    server,
    site,
    start,
    test_commands_and_launcher_agree_on_every_end,
    test_jobs_of_flargo_0_1_are_listed_and_ended,
    test_jobs_shows_the_launchers_states,
    test_jobs_watch_survives_broken_connections,
    test_jobs_without_matches_succeeds,
    test_logs_fails_before_the_program_starts,
    test_logs_follow_survives_cut_connections,
    test_missing_and_ambiguous_jobs_are_reported,
    test_refusing_and_unreachable_clusters_are_reported,
    test_sweep_deletes_only_leftovers,
    test_sweep_kills_pods_that_outlive_their_workflow,
    test_terminate_ends_running_jobs,
    test_terminate_ends_unreleased_workflows,
    test_why_and_logs_cover_both_sites,
    test_why_shows_events_of_a_starting_pod,
    test_why_shows_evidence_and_remedy,
)
from tests.harness.embedded_cluster import REALISTIC_SETTINGS

__all__ = [
    "flargo",
    "server",
    "site",
    "start",
    "test_commands_and_launcher_agree_on_every_end",
    "test_jobs_of_flargo_0_1_are_listed_and_ended",
    "test_jobs_shows_the_launchers_states",
    "test_jobs_watch_survives_broken_connections",
    "test_jobs_without_matches_succeeds",
    "test_logs_fails_before_the_program_starts",
    "test_logs_follow_survives_cut_connections",
    "test_missing_and_ambiguous_jobs_are_reported",
    "test_refusing_and_unreachable_clusters_are_reported",
    "test_sweep_deletes_only_leftovers",
    "test_sweep_kills_pods_that_outlive_their_workflow",
    "test_terminate_ends_running_jobs",
    "test_terminate_ends_unreleased_workflows",
    "test_why_and_logs_cover_both_sites",
    "test_why_shows_events_of_a_starting_pod",
    "test_why_shows_evidence_and_remedy",
]

ENGINE_SETTINGS = REALISTIC_SETTINGS
