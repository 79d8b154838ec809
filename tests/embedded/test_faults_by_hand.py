"""The fault matrix on the embedded engine, where people do what Argo's UI and kubectl offer."""

from tests.harness.embedded_cluster import REALISTIC_SETTINGS
from tests.harness.faults.by_hand import test_scenario, together

__all__ = ["test_scenario", "together"]

ENGINE_SETTINGS = REALISTIC_SETTINGS
