"""Tests of `flargo demo` on a real cluster, as in README.md.

Only the rights of flargo-launcher are needed, except for an eviction.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.demo_command import DemoCommand
from tests.harness.federation_checks import PARTIES, job_credentials
from tests.harness.real_cluster.target import Target

STEP_SECONDS = 240.0
"""Seconds within which parents and jobs start or end on a busy machine."""


@pytest.fixture
def demo(target: Target) -> Iterator[DemoCommand]:
    run = start(target, target.launcher_kubeconfig)
    yield run
    run.close()


@pytest.fixture
def drain(target: Target) -> Iterator[DemoCommand]:
    run = start(target, target.kubeconfig, "--drain")
    yield run
    run.close()


def start(target: Target, kubeconfig: Path, *flags: str) -> DemoCommand:
    """Start the demo with three rounds on the cluster."""
    options = {"--kubeconfig": str(kubeconfig), "--namespace": target.namespace}
    options |= {"--image": target.job_image, "--address": target.address, "--rounds": "3"}
    return DemoCommand(*(word for option in options.items() for word in option), *flags)


def test_demo_completes_and_leaves_only_workflows(demo: DemoCommand, cluster: Cluster) -> None:
    demo.wait_for_output(f"{Label.JOB_ID}=", STEP_SECONDS)
    (job_id,) = re.findall(rf"{Label.JOB_ID}=(\S+)", demo.output)
    eventually(
        lambda: len(job_credentials(cluster, job_id)) == len(PARTIES),
        STEP_SECONDS,
        "each party's program has credentials",
    )
    federation = cluster.workflows(job_id)["server"]["metadata"]["labels"][Label.FEDERATION]
    assert len(kits(cluster, federation)) == len(PARTIES)
    assert demo.wait(STEP_SECONDS) == 0, demo.output
    # Two sites add 1 and 2, with these weights: 5/3 for each of three rounds.
    assert "[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]], as expected" in demo.output
    assert "FLARE says FINISHED:COMPLETED" in demo.output
    assert "nothing is left running" in demo.output
    phases = {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()}
    assert phases == dict.fromkeys(PARTIES, "Succeeded"), "the finished Workflows stay"
    assert len(cluster.pods(job_id)) == len(PARTIES)
    assert cluster.unfinished_pods(job_id) == []
    assert cluster.processes(job_id) == []
    assert (job_credentials(cluster, job_id), kits(cluster, federation)) == ([], [])
    assert cluster.items("leases", f"{Label.FEDERATION}={federation}") == []
    assert (demo.processes(), demo.folders()) == ([], []), "the demo left something on this machine"


def test_drained_site_trains_again_and_job_completes(drain: DemoCommand, cluster: Cluster) -> None:
    """The Workflow of each attempt stays, and the credentials of none."""
    assert drain.wait(STEP_SECONDS) == 0, drain.output
    (job_id,) = re.findall(rf"{Label.JOB_ID}=(\S+)", drain.output)
    (drained,) = re.findall(r"drain +site-1 trains round (\d): its pod is evicted", drain.output)
    assert f"rejoined    site-1 trains round {drained} again" in drain.output
    assert "[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]], as expected" in drain.output
    assert "the server got 3 of 3 from site-1, 3 of 3 from site-2" in drain.output
    items = cluster.items("workflows", f"{Label.JOB_ID}={job_id}")
    phases = {item["metadata"]["name"]: item["status"]["phase"] for item in items}
    (second,) = (name for name in phases if name.endswith("-r1"))
    assert phases.pop(second.removesuffix("-r1")) in {"Failed", "Error"}
    assert [*phases.values()] == ["Succeeded"] * 3, "the server's, site-2's and the second attempt's"
    assert cluster.unfinished_pods(job_id) == []
    assert cluster.processes(job_id) == []
    assert job_credentials(cluster, job_id) == []
    assert (drain.processes(), drain.folders()) == ([], []), "the demo left something on this machine"


def kits(cluster: Cluster, federation: str) -> list[str]:
    """Return the names of the Secrets with a federation's startup kits."""
    return [name for name in cluster.secrets("nvflare-startup-") if name.endswith(federation)]
