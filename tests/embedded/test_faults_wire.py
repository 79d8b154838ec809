"""The fault matrix on the embedded engine, where the fault is on the way to the API server."""

from tests.harness.faults.wire import broken_submits, test_scenario, test_submit, together

__all__ = ["broken_submits", "test_scenario", "test_submit", "together"]
