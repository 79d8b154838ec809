"""A client's parent that restarts takes its running jobs back, in real federations on a real cluster.

The scenarios are those of tests/harness/adoption_scenarios.py.
"""

import os

import pytest

from tests.harness.adoption_scenarios import scenario, together
from tests.harness.scenarios import EVERYTHING, Together

__all__ = ["together"]

LANES = 3
"""How many scenarios run side by side: each restarts a parent, and its job is three processes of FLARE."""
DETAILS = {"job fails meanwhile, exit code 1", "parent dies before its report", "second parent of a site"}
"""Scenarios that differ from others in a detail. The embedded engine always runs them, and a real cluster only in
``make everything``."""


@pytest.mark.parametrize("name", [name for name in scenario.names if name not in DETAILS or os.environ.get(EVERYTHING)])
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
