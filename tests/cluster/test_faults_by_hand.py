"""The fault matrix, where people do to Workflows and pods what Argo's UI and kubectl offer.

The scenarios are those of tests/harness/faults/by_hand.py.
"""

from tests.harness.faults.by_hand import test_scenario, together

__all__ = ["test_scenario", "together"]
