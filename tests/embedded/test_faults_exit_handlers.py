"""The fault matrix on the embedded engine, where an administrator's exit handler and hooks run beside jobs."""

from tests.harness.embedded_cluster import REALISTIC_SETTINGS
from tests.harness.faults.exit_handlers import (
    configured_cluster,
    test_hook_while_the_job_runs,
    test_scenario,
    together,
)

__all__ = ["configured_cluster", "test_hook_while_the_job_runs", "test_scenario", "together"]

ENGINE_SETTINGS = REALISTIC_SETTINGS
