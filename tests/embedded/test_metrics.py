"""Tests of the metrics of a real launcher, by HTTP, while jobs run, end and are killed, and the network is cut."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest

import flargo
from flargo.job.validate import InvalidInput
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from tests.harness.cluster import eventually
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.prometheus import SCRAPE_SECONDS, Prometheus
from tests.harness.site import IGNORES_SIGTERM, SLEEPS, Site, exits
from tests.harness.wire import Match, Wire

GRACE = 12
"""Seconds for which a program that ignores SIGTERM runs on, and its kill is outstanding."""


@pytest.fixture
def prometheus() -> Prometheus:
    return Prometheus()


@pytest.fixture
def wire(cluster: EmbeddedCluster) -> Iterator[Wire]:
    with Wire(cluster.target.launcher_kubeconfig) as wire:
        yield wire


@pytest.fixture
def site(cluster: EmbeddedCluster, wire: Wire, prometheus: Prometheus) -> Iterator[Site]:
    argo = {"metrics_address": prometheus.address, "kill_grace": GRACE}
    with Site(cluster, wire=wire, argo=argo) as site:
        yield site


def requests_on_the_wire(wire: Wire) -> Counter[tuple[str, str]]:
    """Count the requests that have passed between the launcher and the API server."""
    return Counter((each.verb, each.resource) for each in wire.requests)


def test_metrics_of_ends_waits_and_kills(site: Site, wire: Wire, prometheus: Prometheus) -> None:
    assert prometheus.value("flargo_jobs") == 0
    good, bad = site.launch(exits(0)), site.launch(exits(3))
    waiting_job = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
    unresponsive = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    good.expect_end(Reason.SUCCEEDED, 0, SCRAPE_SECONDS)
    bad.expect_end(Reason.PROGRAM_FAILED, 1, SCRAPE_SECONDS)
    prometheus.wait_for_value(1, "flargo_jobs", stage="SHORTAGE")
    prometheus.wait_for_value(1, "flargo_jobs", stage="RUNNING")
    prometheus.wait_for_value(0, "flargo_jobs", stage="ENDED")
    prometheus.wait_for_value(1, "flargo_ends_total", reason="SUCCEEDED", code="0")
    prometheus.wait_for_value(1, "flargo_ends_total", reason="PROGRAM_FAILED", code="1")
    assert prometheus.value("flargo_ends_total") == 2
    assert prometheus.value("flargo_kills_outstanding") == 0
    unresponsive.abort()
    prometheus.wait_for_value(1, "flargo_kills_outstanding")
    unresponsive.expect_end(Reason.ABORTED, 9, GRACE + SCRAPE_SECONDS)
    prometheus.wait_for_value(0, "flargo_kills_outstanding")
    prometheus.wait_for_value(1, "flargo_ends_total", reason="ABORTED", code="9")
    waiting_job.abort()
    waiting_job.expect_end(Reason.ABORTED, 9, SCRAPE_SECONDS)
    prometheus.wait_for_value(2, "flargo_ends_total", reason="ABORTED", code="9")
    prometheus.wait_for_value(0, "flargo_jobs")
    assert prometheus.value("flargo_launch_seconds_count") == 4
    assert prometheus.value("flargo_start_seconds_count") >= 1
    eventually(
        lambda: prometheus.requests() == requests_on_the_wire(wire),
        SCRAPE_SECONDS,
        "the request counters match the wire",
    )
    assert requests_on_the_wire(wire)["create", "workflows"] == 4
    assert prometheus.value("flargo_api_request_seconds_count") == prometheus.value("flargo_api_requests_total")


def test_refused_launch_counts_as_an_end(site: Site, prometheus: Prometheus) -> None:
    site.launch(SLEEPS, {"memory": "much"})
    prometheus.wait_for_value(1, "flargo_ends_total", reason="LAUNCH_FAILED", code="101")
    assert prometheus.value("flargo_launch_seconds_count") == 1


def test_metrics_of_a_network_outage(site: Site, wire: Wire, prometheus: Prometheus) -> None:
    """Staleness grows, each watch restarts once, and failed requests count with code 0."""

    def staleness() -> tuple[float, ...]:
        name = "flargo_watch_staleness_seconds"
        return tuple(prometheus.value(name, resource=resource) for resource in ("workflows", "pods"))

    job = site.launch(SLEEPS).expect_running()
    assert prometheus.value("flargo_watch_restarts_total") == 0
    assert prometheus.value("flargo_api_requests_total", code="0") == 0
    wire.stop_answering()
    for resource in ("workflows", "pods"):
        prometheus.wait_for_value(1, "flargo_watch_restarts_total", resource=resource)
    eventually(lambda: min(staleness()) > 5, SCRAPE_SECONDS, "both watches are stale")
    first = staleness()
    eventually(lambda: min(staleness()) > max(first) + 1, SCRAPE_SECONDS, "the staleness grows")
    assert prometheus.value("flargo_api_requests_total", verb="list", code="0") >= 2
    assert prometheus.value("flargo_watch_restarts_total") == 2, (
        "each watch counts the outage once, however many attempts fail"
    )
    wire.resume_answering()
    up_at = time.monotonic()
    # Not at once: each watch retries after its own backoff, and may then get no event for a while.
    eventually(lambda: max(staleness()) < time.monotonic() - up_at, SCRAPE_SECONDS, "both watches have had contact")
    eventually(lambda: wire.open_watches == 2, SCRAPE_SECONDS, "both watches are open")
    wire.cut_watches()
    prometheus.wait_for_value(2, "flargo_watch_restarts_total", resource="pods")
    job.abort()
    job.expect_end(Reason.ABORTED, 9, SCRAPE_SECONDS)


def test_requests_are_counted_by_status_code(site: Site, wire: Wire, prometheus: Prometheus) -> None:
    wire.answer_with_status(Match("create", "workflows"), 503)
    wire.lose_reply(Match("create", "secrets", "nvflare-cred-"))
    site.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, 3 * SCRAPE_SECONDS)
    labels = {"verb": "create", "resource": "workflows"}
    assert [prometheus.value("flargo_api_requests_total", **labels, code=code) for code in ("503", "201")] == [1, 1]
    assert prometheus.value("flargo_api_requests_total", verb="create", resource="secrets", code="0") == 1


def test_metrics_are_served_until_the_parent_ends(site: Site, prometheus: Prometheus) -> None:
    site.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, SCRAPE_SECONDS)
    threads = [each for each in threading.enumerate() if each.name == "flargo-metrics"]
    assert [each.daemon for each in threads] == [True]
    site.shut_down()
    with pytest.raises(urllib.error.URLError, match="refused"):
        prometheus.families()
    threads[0].join(SCRAPE_SECONDS)
    assert not threads[0].is_alive()
    site.shut_down()  # FLARE may shut it down twice


def test_silent_connection_is_closed(
    site: Site, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    del site
    monkeypatch.setattr("flargo.metrics_server.MAX_REQUEST_SECONDS", 0.3)
    host, _, port = prometheus.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SCRAPE_SECONDS) as silent:
        assert silent.recv(1) == b""
    assert prometheus.value("flargo_jobs") == 0, "other connections are served"
    assert "Traceback" not in capfd.readouterr().err


def test_metrics_address_in_use_is_refused(site: Site, prometheus: Prometheus) -> None:
    with pytest.raises(InvalidInput, match="a port that is free") as caught:
        flargo.ServerArgoJobLauncher(argo={"metrics_address": prometheus.address})
    assert caught.value.field == "argo['metrics_address']"
    assert prometheus.value("flargo_jobs") == 0, "the first launcher's metrics are still served"
    del site


def test_launchers_of_one_process_count_separately(cluster: EmbeddedCluster) -> None:
    sides = Prometheus(), Prometheus()
    with (
        Site(cluster, argo={"metrics_address": sides[0].address}) as first,
        Site(cluster, argo={"metrics_address": sides[1].address}),
    ):
        first.launch(exits(0)).expect_end(Reason.SUCCEEDED, 0, SCRAPE_SECONDS)
        sides[0].wait_for_value(1, "flargo_ends_total")
        assert sides[1].value("flargo_ends_total") == 0


def test_metrics_are_served_over_ipv6() -> None:
    port = Prometheus().address.rpartition(":")[2]
    launcher = flargo.ClientArgoJobLauncher(argo={"metrics_address": f"[::1]:{port}"})
    try:
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=5) as response:
            assert b"flargo_jobs" in response.read()
    finally:
        launcher._shut_down()
