"""A client's parent that restarts takes its running jobs back, in real federations on the embedded engine."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flargo.embedded import Delays, Settings
from tests.harness import adoption_scenarios as scenarios
from tests.harness.cluster import Cluster
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.federation import Federation, argo_launcher

ENGINE_SETTINGS = Settings(delays=Delays(init=1.0))
"""A pod starts in three seconds, so that a parent can be killed before."""


@pytest.fixture(scope="module")
def fed(cluster: EmbeddedCluster) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    target = cluster.target
    launcher = argo_launcher(
        root,
        config_file_path=str(target.launcher_kubeconfig),
        namespace=target.namespace,
        argo={"adopt": True, "policy": {"rejoin": 1}},
    )
    with Federation(root, launcher=launcher, host=target.address) as federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize(
    "scenario",
    [
        scenarios.training_goes_on,
        scenarios.parent_restarts_twice,
        scenarios.job_ends_meanwhile,
        scenarios.job_fails_meanwhile,
        scenarios.parent_and_pod_are_lost,
        scenarios.parent_dies_between_two_attempts,
        scenarios.parent_dies_before_its_report,
        scenarios.abort_after_restart,
        scenarios.abort_of_a_program_that_hangs,
        scenarios.site_without_a_parent_for_too_long,
        scenarios.second_parent_of_a_site,
    ],
    ids=lambda scenario: scenario.__name__.replace("_", " "),
)
def test_adoption(scenario: Callable[[Federation, Cluster], None], fed: Federation, cluster: EmbeddedCluster) -> None:
    scenario(fed, cluster)
