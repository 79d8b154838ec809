"""The fault matrix, where an administrator's exit handler and hooks run beside jobs. Not for a user's own cluster."""

from tests.harness.faults.daemons import cluster
from tests.harness.faults.exit_handlers import (
    configured_cluster,
    test_hook_while_the_job_runs,
    test_scenario,
    together,
)

__all__ = ["cluster", "configured_cluster", "test_hook_while_the_job_runs", "test_scenario", "together"]
