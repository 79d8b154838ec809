"""Tests of real federated jobs that lose a site's process and start it again, on the embedded engine."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.federation import Federation, argo_launcher
from tests.harness.federation_rejoin import (
    ARGO,
    history,
    test_scenario,
    test_servers_job_finishes_between_attempts,
    together,
)

__all__ = ["history", "test_scenario", "test_servers_job_finishes_between_attempts", "together"]


@pytest.fixture(scope="module")
def fed(cluster: EmbeddedCluster) -> Iterator[Federation]:
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    target = cluster.target
    launcher = argo_launcher(
        root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace, argo=dict(ARGO)
    )
    with Federation(root, launcher=launcher, host=target.address) as federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)
