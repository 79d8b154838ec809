"""Tests of a launcher's Prometheus metrics on a real cluster, compared with the API server's own audit log.

tests/embedded/test_metrics.py tests the metrics under network faults and with programs that ignore SIGTERM.
"""

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from tests.harness.cluster import Cluster, eventually
from tests.harness.prometheus import SCRAPE_SECONDS, Prometheus
from tests.harness.real_cluster import audit
from tests.harness.site import SLEEPS, START_SECONDS, Site, exits


def test_metrics_agree_with_the_audit_log(cluster: Cluster) -> None:
    log = cluster.target.audit_log
    if log is None:
        pytest.skip("only the harness's own cluster has an audit log")
    prometheus, mark = Prometheus(), audit.mark(log)
    with Site(cluster, argo={"metrics_address": prometheus.address}) as site:
        success, failure = site.launch(exits(0)), site.launch(exits(3))
        pending = site.launch(SLEEPS, {"num_of_gpus": 1, "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        for resource in ("workflows", "pods"):  # before the watches are renewed
            prometheus.wait_for_value(1, "flargo_api_requests_total", verb="watch", resource=resource, code="200")
        success.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
        failure.expect_end(Reason.PROGRAM_FAILED, 1, START_SECONDS)
        prometheus.wait_for_value(1, "flargo_ends_total", reason="SUCCEEDED", code="0")
        prometheus.wait_for_value(1, "flargo_ends_total", reason="PROGRAM_FAILED", code="1")
        prometheus.wait_for_value(1, "flargo_jobs", stage="SHORTAGE")
        assert prometheus.value("flargo_ends_total") == 2
        for resource in ("workflows", "pods"):
            assert 0 <= prometheus.value("flargo_watch_staleness_seconds", resource=resource) < START_SECONDS
        assert prometheus.value("flargo_api_requests_total", verb="create", resource="workflows", code="201") == 3
        pending.abort()
        pending.expect_end(Reason.ABORTED, 9, START_SECONDS)
        prometheus.wait_for_value(1, "flargo_ends_total", reason="ABORTED", code="9")
        for job in (success, failure, pending):
            job.expect_nothing_left()
        prometheus.wait_for_value(0, "flargo_jobs")
        eventually(
            lambda: prometheus.requests() == audit.count_by_user(":flargo-launcher", log, mark),
            SCRAPE_SECONDS,
            "the counted requests are those of the audit log",
        )
