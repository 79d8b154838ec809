"""The fault matrix, where a job's process is lost and started again (docs/rejoin.md).

The scenarios are those of tests/harness/faults/rejoin.py.
"""

from tests.harness.faults.rejoin import (
    history,
    site,
    test_drained_while_the_controller_is_away,
    test_scenario,
    together,
)

__all__ = ["history", "site", "test_drained_while_the_controller_is_away", "test_scenario", "together"]
