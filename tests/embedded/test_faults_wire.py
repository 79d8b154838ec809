"""The fault matrix of the real cluster on the embedded engine, where the fault is on the way to the API server."""

from tests.harness.faults.wire import broken, test_scenario, test_submit, together

__all__ = ["broken", "test_scenario", "test_submit", "together"]
