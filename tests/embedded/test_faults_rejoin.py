"""The fault matrix on the embedded engine, where a job's process is lost and started again."""

from tests.harness.embedded_cluster import REALISTIC_SETTINGS
from tests.harness.faults.rejoin import (
    history,
    site,
    test_drained_while_the_controller_is_away,
    test_scenario,
    together,
)

__all__ = ["history", "site", "test_drained_while_the_controller_is_away", "test_scenario", "together"]

ENGINE_SETTINGS = REALISTIC_SETTINGS
