"""What the tests on a cluster share: the cluster itself."""

import os

import pytest

from tests.harness.cluster import Cluster
from tests.harness.real_cluster import sandbox
from tests.harness.real_cluster.target import Target, find


@pytest.fixture(scope="session")
def target() -> Target:
    """The cluster to test on; without one (or outside of it) the test fails: what was not run has not passed."""
    found = find()
    if found is None or not (found.own or os.environ.get(sandbox.INSIDE)):
        pytest.fail("no cluster: python -m tests.harness.real_cluster up, then exec; or name one (FLARGO_KUBECONFIG)")
    return found


@pytest.fixture(scope="session")
def cluster(target: Target) -> Cluster:
    """The cluster as somebody other than flargo sees and touches it."""
    return Cluster(target)
