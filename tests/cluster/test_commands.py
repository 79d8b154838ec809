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
from tests.harness.site import SLEEPS, START_SECONDS, Site
from tests.harness.wire import Wire

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


def test_argos_command_lists_reads_follows_and_ends_a_job_by_its_label(cluster: Cluster, site: Site) -> None:
    job, other = site.launch(SLEEPS), site.launch(SLEEPS)
    label = f"--selector={Label.JOB_ID}={job.id}"
    job.expect_running()
    assert cluster.argo("list", label, "--output=name").split() == [job.name]
    assert json.loads(cluster.argo("get", job.name, "--output=json"))["status"]["phase"] == "Running"
    with ThreadPoolExecutor() as pool:
        followed = pool.submit(cluster.argo, "logs", job.name, "--follow", "--container=main", "--no-color")
        cluster.argo("terminate", label)
        job.expect_end(Reason.SHUT_DOWN, 9, START_SECONDS)
        assert "ready" in followed.result(START_SECONDS)
    assert other.expect_running().launched_job.verdict is None


def test_an_account_without_rights_is_told_which_it_lacks(cluster: Cluster, tmp_path: Path) -> None:
    """The real cluster's own words."""
    powerless = cluster.kubectl("create", "token", "flargo-job")
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        there = wire.kubeconfig(tmp_path / "kubeconfig", powerless)
        for word, job in (("jobs", ()), ("why", ("x",)), ("logs", ("x",)), ("terminate", ("x",)), ("sweep", ())):
            words = flargo_command(there, word, *job, f"--namespace={cluster.target.namespace}")
            done = CommandResult(subprocess.run(words, text=True, capture_output=True, check=False))
            assert (done.code, done.out) == (1, "")
            assert "this account needs the right to list workflows.argoproj.io" in done.err
            assert "flargo-job" in done.err
