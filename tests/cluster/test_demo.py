"""Tests of `flargo demo` on a real cluster, as in README.md, with only the rights of flargo-launcher."""

import re
from collections.abc import Iterator

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
    options = {"--kubeconfig": str(target.launcher_kubeconfig), "--namespace": target.namespace}
    options |= {"--image": target.job_image, "--address": target.address, "--rounds": "3"}
    run = DemoCommand(*(word for option in options.items() for word in option))
    yield run
    run.close()


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
    assert (demo.processes(), demo.folders()) == ([], []), "the demo left something on this machine"


def kits(cluster: Cluster, federation: str) -> list[str]:
    """Return the names of the Secrets with a federation's startup kits."""
    return [name for name in cluster.secrets("nvflare-startup-") if name.endswith(federation)]
