"""The fault matrix: what becomes of a job, what FLARE hears of it and how soon, and that nothing is left of it.

The rows whose jobs do not get into each other's way are launched together (``started``), so that the machine's
time goes into pods rather than into waiting; each is a test of its own. The tests' names are the matrix's rows.
"""

from tests.harness.faults.matrix import (
    site,
    started,
    test_end,
    test_quota_exceeded_and_lifted,
    test_quota_exceeded_for_too_long,
    test_quota_on_workflows,
    test_scenario,
    together,
)

__all__ = [
    "site",
    "started",
    "test_end",
    "test_quota_exceeded_and_lifted",
    "test_quota_exceeded_for_too_long",
    "test_quota_on_workflows",
    "test_scenario",
    "together",
]
