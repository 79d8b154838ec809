"""The fault matrix on the embedded engine: programs, people, Kubernetes and Argo."""

from tests.harness.embedded_cluster import REALISTIC_SETTINGS
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

ENGINE_SETTINGS = REALISTIC_SETTINGS
