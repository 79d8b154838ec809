"""The fault matrix on the embedded engine, where a node fails: it has one node, so none of this happens there."""

import pytest

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
from tests.harness.node import SecondNode

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


@pytest.fixture(scope="module")
def second_node() -> SecondNode:
    """The engine has no second node."""
    raise NotImplementedError
