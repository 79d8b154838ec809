"""The fault matrix, where a node fails and a job's process is started again on another one. Not for one node only.

The tests are those of tests/harness/faults/nodes.py.
"""

from tests.harness.faults.nodes import (
    first,
    site,
    test_drained_node,
    test_evicted_for_its_node,
    test_node_cut_off_and_back,
    test_node_without_power_is_back_in_time,
    test_preempted,
    test_tainted_node,
)
from tests.harness.faults.rejoin import history

__all__ = [
    "first",
    "history",
    "site",
    "test_drained_node",
    "test_evicted_for_its_node",
    "test_node_cut_off_and_back",
    "test_node_without_power_is_back_in_time",
    "test_preempted",
    "test_tainted_node",
]
