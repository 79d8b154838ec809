"""The fault matrix, where the fault is on the way between the launcher and the API server (tests/harness/wire.py)."""

from tests.harness.faults.wire import (
    broken_submits,
    test_scenario,
    test_submit,
    together,
)

__all__ = [
    "broken_submits",
    "test_scenario",
    "test_submit",
    "together",
]
