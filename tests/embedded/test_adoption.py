"""A client's parent that restarts takes its running jobs back, in real federations on the embedded engine."""

from flargo.embedded import Delays, Settings
from tests.harness.adoption_scenarios import test_scenario, together

__all__ = ["test_scenario", "together"]

LANES = 4
"""How many scenarios run side by side: each restarts a parent, and its job is three processes of FLARE."""

ENGINE_SETTINGS = Settings(delays=Delays(init=1.0))
"""A pod starts in three seconds, so that a parent can be killed before."""
