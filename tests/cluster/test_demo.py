"""`flargo demo` on a cluster of one's own, as README.md says: by the rights of flargo-launcher, and no more."""

import re
from collections.abc import Iterator

import pytest

from flargo.terms import Label
from tests.harness.cluster import Cluster, eventually
from tests.harness.demo_command import DemoCommand
from tests.harness.federation_checks import PARTIES, job_credentials
from tests.harness.real_cluster.target import Target

LONG = 240.0
"""Seconds that parents and jobs may take to start, and to end, on a busy machine."""


@pytest.fixture
def demo(target: Target) -> Iterator[DemoCommand]:
    options = {"--kubeconfig": str(target.launcher_kubeconfig), "--namespace": target.namespace}
    options |= {"--image": target.job_image, "--address": target.address, "--rounds": "3"}
    run = DemoCommand(*(word for option in options.items() for word in option))
    yield run
    run.close()


def test_it_completes_on_a_real_cluster_and_leaves_its_finished_workflows_and_nothing_else(
    demo: DemoCommand, cluster: Cluster
) -> None:
    demo.wait_for_output(f"{Label.JOB_ID}=", LONG)
    (job_id,) = re.findall(rf"{Label.JOB_ID}=(\S+)", demo.output)
    eventually(
        lambda: len(job_credentials(cluster, job_id)) == len(PARTIES), LONG, "each party's program has credentials"
    )
    federation = cluster.workflows(job_id)["server"]["metadata"]["labels"][Label.FEDERATION]
    assert len(kits(cluster, federation)) == len(PARTIES)
    assert demo.wait(LONG) == 0, demo.output
    # Two sites add 1 and 2, and weigh as much: 5/3 for each of three rounds.
    assert "[[6.0, 7.0, 8.0], [9.0, 10.0, 11.0]], as expected" in demo.output
    assert "FLARE says FINISHED:COMPLETED" in demo.output
    assert "nothing is left running" in demo.output
    phases = {site: item["status"]["phase"] for site, item in cluster.workflows(job_id).items()}
    assert phases == dict.fromkeys(PARTIES, "Succeeded"), "they stay to be seen"
    assert len(cluster.pods(job_id)) == len(PARTIES)
    assert cluster.unfinished_pods(job_id) == []
    assert cluster.processes(job_id) == []
    assert (job_credentials(cluster, job_id), kits(cluster, federation)) == ([], [])
    assert (demo.processes(), demo.folders()) == ([], []), "nor is there anything of it on this machine"


def kits(cluster: Cluster, federation: str) -> list[str]:
    """The names of the Secrets with a federation's startup kits."""
    return [name for name in cluster.secrets("nvflare-startup-") if name.endswith(federation)]
