"""The fault matrix, at random: a short soak. A longer one is ``make soak``."""

import secrets

from tests.cluster.place import Place
from tests.cluster.soak.plan import plan
from tests.cluster.soak.run import soak
from tests.cluster.world import World


def test_short_jobs_with_faults_at_random(place: Place) -> None:
    """The seed, and what runs it again, are in the output."""
    assert soak(plan(secrets.randbelow(10**6), jobs=20, seconds=60), World(place)) == []
