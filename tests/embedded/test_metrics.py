"""What Prometheus finds at a real launcher, by HTTP, while its jobs run, end and are killed, and its wire is cut."""

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
from tests.harness.prometheus import SOON, Prometheus
from tests.harness.site import DEAF, SLEEPS, Site, exits
from tests.harness.wire import Match, Wire

GRACE = 12
"""Seconds for which a deaf program goes on, and its kill is outstanding."""


@pytest.fixture
def prometheus() -> Prometheus:
    return Prometheus()


@pytest.fixture
def wire(cluster: EmbeddedCluster) -> Iterator[Wire]:
    with Wire(cluster.target.launcher_kubeconfig) as made:
        yield made


@pytest.fixture
def site(cluster: EmbeddedCluster, wire: Wire, prometheus: Prometheus) -> Iterator[Site]:
    argo = {"metrics_address": prometheus.address, "kill_grace": GRACE}
    with Site(cluster, wire=wire, argo=argo) as made:
        yield made


def seen(wire: Wire) -> Counter[tuple[str, str]]:
    """The same as whoever stands between it and the API server has seen it."""
    return Counter((each.verb, each.resource) for each in wire.asked)


def test_jobs_that_end_well_fail_wait_and_do_not_die(site: Site, wire: Wire, prometheus: Prometheus) -> None:
    assert prometheus.value("flargo_jobs") == 0
    good, bad = site.launch(exits(0)), site.launch(exits(3))
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).reaches(Stage.SHORTAGE)
    deaf = site.launch(DEAF + SLEEPS).runs()
    good.ends(Reason.SUCCEEDED, 0, SOON)
    bad.ends(Reason.PROGRAM_FAILED, 1, SOON)
    prometheus.comes_to(1, "flargo_jobs", stage="SHORTAGE")
    prometheus.comes_to(1, "flargo_jobs", stage="RUNNING")
    prometheus.comes_to(0, "flargo_jobs", stage="ENDED")
    prometheus.comes_to(1, "flargo_ends_total", reason="SUCCEEDED", code="0")
    prometheus.comes_to(1, "flargo_ends_total", reason="PROGRAM_FAILED", code="1")
    assert prometheus.value("flargo_ends_total") == 2
    assert prometheus.value("flargo_kills_outstanding") == 0
    deaf.abort()
    prometheus.comes_to(1, "flargo_kills_outstanding")
    deaf.ends(Reason.ABORTED, 9, GRACE + SOON)
    prometheus.comes_to(0, "flargo_kills_outstanding")
    prometheus.comes_to(1, "flargo_ends_total", reason="ABORTED", code="9")
    waiting.abort()
    waiting.ends(Reason.ABORTED, 9, SOON)
    prometheus.comes_to(2, "flargo_ends_total", reason="ABORTED", code="9")
    prometheus.comes_to(0, "flargo_jobs")
    assert prometheus.value("flargo_launch_seconds_count") == 4
    assert prometheus.value("flargo_start_seconds_count") >= 1
    eventually(lambda: prometheus.requests() == seen(wire), SOON, "requests are counted as the wire saw them")
    assert seen(wire)["create", "workflows"] == 4
    assert prometheus.value("flargo_api_request_seconds_count") == prometheus.value("flargo_api_requests_total")


def test_a_launch_that_is_refused_is_an_end(site: Site, prometheus: Prometheus) -> None:
    site.launch(SLEEPS, {"memory": "much"})
    prometheus.comes_to(1, "flargo_ends_total", reason="LAUNCH_FAILED", code="101")
    assert prometheus.value("flargo_launch_seconds_count") == 1


def test_a_cut_wire_shows_as_staleness_that_grows_restarts_and_requests_without_an_answer(
    site: Site, wire: Wire, prometheus: Prometheus
) -> None:
    def stale() -> tuple[float, ...]:
        name = "flargo_watch_staleness_seconds"
        return tuple(prometheus.value(name, resource=resource) for resource in ("workflows", "pods"))

    job = site.launch(SLEEPS).runs()
    assert prometheus.value("flargo_watch_restarts_total") == 0
    assert prometheus.value("flargo_api_requests_total", code="0") == 0
    wire.down()
    for resource in ("workflows", "pods"):
        prometheus.comes_to(1, "flargo_watch_restarts_total", resource=resource)
    eventually(lambda: min(stale()) > 5, SOON, "both are stale")
    first = stale()
    eventually(lambda: min(stale()) > max(first) + 1, SOON, "it grows")
    assert prometheus.value("flargo_api_requests_total", verb="list", code="0") >= 2
    assert prometheus.value("flargo_watch_restarts_total") == 2, "of one outage, however often it was knocked"
    wire.up()
    up = time.monotonic()
    # Not at once: each knocks in its own time, and is quiet afterwards.
    eventually(lambda: max(stale()) < time.monotonic() - up, SOON, "both have been heard again")
    eventually(lambda: wire.watches == 2, SOON, "both streams are open")
    wire.cut_watches()
    prometheus.comes_to(2, "flargo_watch_restarts_total", resource="pods")
    job.abort()
    job.ends(Reason.ABORTED, 9, SOON)


def test_requests_are_counted_by_the_code_they_were_answered_with(
    site: Site, wire: Wire, prometheus: Prometheus
) -> None:
    wire.status(Match("create", "workflows"), 503)
    wire.lose_reply(Match("create", "secrets", "nvflare-cred-"))
    site.launch(exits(0)).ends(Reason.SUCCEEDED, 0, 3 * SOON)
    made = {"verb": "create", "resource": "workflows"}
    assert [prometheus.value("flargo_api_requests_total", **made, code=code) for code in ("503", "201")] == [1, 1]
    assert prometheus.value("flargo_api_requests_total", verb="create", resource="secrets", code="0") == 1


def test_it_is_served_until_flare_shuts_the_parent_down(site: Site, prometheus: Prometheus) -> None:
    site.launch(exits(0)).ends(Reason.SUCCEEDED, 0, SOON)
    threads = [each for each in threading.enumerate() if each.name == "flargo-metrics"]
    assert [each.daemon for each in threads] == [True]
    site.end()
    with pytest.raises(urllib.error.URLError, match="refused"):
        prometheus.families()
    threads[0].join(SOON)
    assert not threads[0].is_alive()
    site.end()  # FLARE may say so twice


def test_who_connects_and_says_nothing_is_hung_up_on(
    site: Site, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    del site
    monkeypatch.setattr("flargo.metrics_server.MAX_REQUEST_SECONDS", 0.3)
    host, _, port = prometheus.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SOON) as silent:
        assert silent.recv(1) == b""
    assert prometheus.value("flargo_jobs") == 0, "others are served"
    assert "Traceback" not in capfd.readouterr().err


def test_two_launchers_at_one_address_are_refused_by_name(site: Site, prometheus: Prometheus) -> None:
    with pytest.raises(InvalidInput, match="a port that is free") as caught:
        flargo.ServerArgoJobLauncher(argo={"metrics_address": prometheus.address})
    assert caught.value.field == "argo['metrics_address']"
    assert prometheus.value("flargo_jobs") == 0, "the first one's are served on"
    del site


def test_two_launchers_in_one_process_count_apart(cluster: EmbeddedCluster) -> None:
    sides = Prometheus(), Prometheus()
    with (
        Site(cluster, argo={"metrics_address": sides[0].address}) as first,
        Site(cluster, argo={"metrics_address": sides[1].address}),
    ):
        first.launch(exits(0)).ends(Reason.SUCCEEDED, 0, SOON)
        sides[0].comes_to(1, "flargo_ends_total")
        assert sides[1].value("flargo_ends_total") == 0


def test_it_is_served_over_ipv6_too() -> None:
    port = Prometheus().address.rpartition(":")[2]
    made = flargo.ClientArgoJobLauncher(argo={"metrics_address": f"[::1]:{port}"})
    try:
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=5) as answer:
            assert b"flargo_jobs" in answer.read()
    finally:
        made._end()
