"""The fault matrix, where requests are refused for a while, answered by a gateway, or never answered."""

from tests.harness.faults.refusals import test_scenario, together

__all__ = ["test_scenario", "together"]
