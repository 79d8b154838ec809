"""Tests of real federated jobs that lose a site's process and start it again, on a real cluster.

The scenarios are those of tests/harness/federation_rejoin.py.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.federation import Federation, argo_launcher
from tests.harness.federation_rejoin import (
    ARGO,
    history,
    test_scenario,
    test_servers_job_finishes_between_attempts,
    together,
)
from tests.harness.real_cluster.target import Target

__all__ = ["history", "test_scenario", "test_servers_job_finishes_between_attempts", "together"]


@pytest.fixture(scope="module")
def fed(target: Target) -> Iterator[Federation]:
    """A federation whose sites start lost processes again."""
    root = Path(tempfile.mkdtemp(prefix="flargo-", dir="/tmp"))
    root.chmod(0o755)
    launcher = argo_launcher(
        root, config_file_path=str(target.launcher_kubeconfig), namespace=target.namespace, argo=dict(ARGO)
    )
    with Federation(root, launcher=launcher, host=target.address) as federation:
        yield federation
    shutil.rmtree(root, ignore_errors=True)
