"""A client's parent that restarts takes its running jobs back, in real federations on a real cluster.

The scenarios are those of tests/harness/adoption_scenarios.py.
"""

from tests.harness.adoption_scenarios import test_scenario, together

__all__ = ["test_scenario", "together"]

LANES = 2
"""How many scenarios run side by side: each restarts a parent, and its job is three processes of FLARE."""
