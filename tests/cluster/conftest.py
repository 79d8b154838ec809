"""What the tests on a cluster share: the cluster itself."""

import os

import pytest

from tests.cluster import sandbox
from tests.cluster.place import Place, find
from tests.cluster.world import World


@pytest.fixture(scope="session")
def place() -> Place:
    """The cluster to test on; without one (or outside of it) the test fails: what was not run has not passed."""
    found = find()
    if found is None or not (found.own or os.environ.get(sandbox.INSIDE)):
        pytest.fail("no cluster: run inside one (python -m tests.cluster up, exec), or name one (FLARGO_KUBECONFIG)")
    return found


@pytest.fixture(scope="session")
def world(place: Place) -> World:
    """The cluster as somebody other than flargo sees and touches it."""
    return World(place)
