"""The commands that look at a cluster, on a real one: the scenarios of both engines, and what only a real one has."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flargo.status.reasons import Reason
from flargo.terms import Label
from tests.harness.cluster import Cluster
from tests.harness.command_scenarios import (
    CommandResult,
    flargo,
    flargo_command,
    server,
    server_job,
    site,
    start,
    test_commands_and_launcher_agree_on_every_end,
    test_commands_claim_no_end_between_two_attempts,
    test_commands_show_a_job_that_was_started_again,
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
from tests.harness.site import SLEEPS, START_SECONDS, Site
from tests.harness.wire import Wire

__all__ = [
    "flargo",
    "server",
    "server_job",
    "site",
    "start",
    "test_commands_and_launcher_agree_on_every_end",
    "test_commands_claim_no_end_between_two_attempts",
    "test_commands_show_a_job_that_was_started_again",
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


def test_argo_command_selects_jobs_by_label(cluster: Cluster, site: Site) -> None:
    job, other = site.launch(SLEEPS), site.launch(SLEEPS)
    label = f"--selector={Label.JOB_ID}={job.id}"
    job.expect_running()
    assert cluster.argo("list", label, "--output=name").split() == [job.name]
    assert json.loads(cluster.argo("get", job.name, "--output=json"))["status"]["phase"] == "Running"
    with ThreadPoolExecutor() as pool:
        log = pool.submit(cluster.argo, "logs", job.name, "--follow", "--container=main", "--no-color")
        cluster.argo("terminate", label)
        job.expect_end(Reason.SHUT_DOWN, 9, START_SECONDS)
        assert "ready" in log.result(START_SECONDS)
    assert other.expect_running().launched_job.verdict is None


def test_missing_rights_are_named(cluster: Cluster, tmp_path: Path) -> None:
    """The real cluster refuses in its own words."""
    powerless = cluster.kubectl("create", "token", "flargo-job")
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        wire_config = wire.kubeconfig(tmp_path / "kubeconfig", powerless)
        for command, job in (("jobs", ()), ("why", ("x",)), ("logs", ("x",)), ("terminate", ("x",)), ("sweep", ())):
            argv = flargo_command(wire_config, command, *job, f"--namespace={cluster.target.namespace}")
            result = CommandResult(subprocess.run(argv, text=True, capture_output=True, check=False))
            assert (result.code, result.out) == (1, "")
            assert "this account needs the right to list workflows.argoproj.io" in result.err
            assert "flargo-job" in result.err
