"""The fault matrix on the embedded engine, where requests are refused, or answered by a gateway, or never answered."""

from tests.harness.faults.refusals import test_scenario, together

__all__ = ["test_scenario", "together"]
