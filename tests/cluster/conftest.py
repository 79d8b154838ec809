"""What the tests on a cluster share: the cluster itself."""

import os

import pytest

from tests.harness.cluster import World
from tests.harness.real_cluster import sandbox
from tests.harness.real_cluster.target import Place, find


@pytest.fixture(scope="session")
def place() -> Place:
    """The cluster to test on; without one (or outside of it) the test fails: what was not run has not passed."""
    found = find()
    if found is None or not (found.own or os.environ.get(sandbox.INSIDE)):
        pytest.fail("no cluster: python -m tests.harness.real_cluster up, then exec; or name one (FLARGO_KUBECONFIG)")
    return found


@pytest.fixture(scope="session")
def world(place: Place) -> World:
    """The cluster as somebody other than flargo sees and touches it."""
    return World(place)
