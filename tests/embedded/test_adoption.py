"""A client's parent that restarts takes its running jobs back, in real federations on the embedded engine.

The scenarios are those of tests/harness/adoption_scenarios.py.
"""

import pytest

from flargo.embedded import Delays, Settings
from tests.harness.adoption_scenarios import scenario, together
from tests.harness.scenarios import Together

__all__ = ["together"]

LANES = 4
"""How many scenarios run side by side: each restarts a parent, and its job is three processes of FLARE."""
ENGINE_SETTINGS = Settings(delays=Delays(init=1.0))
"""A pod starts in three seconds, so that a parent can be killed before."""


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
