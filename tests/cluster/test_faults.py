"""The fault matrix: how a job ends, what FLARE hears about it and how soon, and that nothing of the job is left.

The rows and scenarios are those of tests/harness/faults/matrix.py.
"""

from tests.harness.faults.matrix import (
    row_jobs,
    site,
    test_end,
    test_quota_exceeded_and_lifted,
    test_quota_exceeded_for_too_long,
    test_quota_on_workflows,
    test_scenario,
    together,
)

__all__ = [
    "row_jobs",
    "site",
    "test_end",
    "test_quota_exceeded_and_lifted",
    "test_quota_exceeded_for_too_long",
    "test_quota_on_workflows",
    "test_scenario",
    "together",
]
