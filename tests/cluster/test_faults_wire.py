"""The fault matrix, where the fault is on the way between launcher and API server (tests/harness/wire.py)."""

from tests.harness.faults.wire import (
    broken,
    test_scenario,
    test_submit,
    together,
)

__all__ = [
    "broken",
    "test_scenario",
    "test_submit",
    "together",
]
