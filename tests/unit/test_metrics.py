"""Tests of the metrics: names, types and labels, and the values after a sequence of inputs."""

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import flargo
from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.launched_job import LaunchedJob
from flargo.control.loop import Loop
from flargo.control.meter import Delivery, Snapshot
from flargo.job.validate import InvalidInput
from flargo.metrics import Exporter, Metric, Type
from flargo.status.diagnosis import Stage
from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from flargo.status.verdict import Cause, Verdict
from tests.harness.fake_api import THREAD_SECONDS, IdleApi
from tests.harness.objects import RUNNING, Object, pod, terminated_state, workflow
from tests.harness.plans import submit_plan
from tests.harness.scripted_api import Response, ScriptedApi

WORKFLOW_UID = "uid-2"
"""The uid that the fake API gives the job's Workflow, which is created after the startup Secret."""


class MeasuredLoop:
    """A loop with an exporter, whose watch events come from the test."""

    def __init__(self) -> None:
        self.api = IdleApi()
        self.exporter = Exporter()
        self.loop = Loop(self.api, "", "me", 3, meter=self.exporter)
        self.exporter.follow(self.loop.snapshot)

    def launch(self) -> LaunchedJob:
        launched = self.loop.launch(
            submit_plan(), lambda: False, lambda verdict, _: self.exporter.count_verdict(verdict), collect_log=False
        )
        assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
        self.send(workflow(uid=WORKFLOW_UID, version=2, phase="Running"))
        return launched

    def send(self, *items: Object) -> None:
        """Send watch events about Workflows and pods."""
        for item in items:
            kind = Kind.POD if "containers" in item["spec"] else Kind.WORKFLOW
            name = item["metadata"]["name"]
            self.api.store[kind, name] = item
            self.loop.on_changed(kind, item, deleted=False)

    def value(self, name: str, **labels: str) -> float:
        return self.exporter.registry.get_sample_value(name, labels) or 0.0

    def wait_for_value(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value."""
        limit = time.monotonic() + THREAD_SECONDS
        while self.value(name, **labels) != value:
            assert time.monotonic() < limit, f"{name} {labels} is {self.value(name, **labels)}, not {value}"
            time.sleep(0.01)

    def stages(self) -> dict[str, float]:
        jobs_by_stage = {stage.label: self.value("flargo_jobs", stage=stage.label) for stage in Stage}
        return {name: count for name, count in jobs_by_stage.items() if count}


@pytest.fixture
def site() -> Iterator[MeasuredLoop]:
    exporter = MeasuredLoop()
    yield exporter
    exporter.api.test_ended.set()
    exporter.loop.end(Cause.PARENT_END, seconds=0.0)


def metric_families(exporter: Exporter) -> dict[str, Any]:
    """Return all metric families by name, as Prometheus parses them."""
    text = generate_latest(exporter.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def filled_exporter() -> Exporter:
    """Return an exporter with a sample of every metric."""
    exporter = Exporter()
    exporter.observe_request("list", Kind.POD, 200, 0.1)
    exporter.observe_launch(1.0)
    exporter.observe_start(1.0)
    exporter.count_verdict(Verdict(Reason.SUCCEEDED, 0))
    exporter.count_lost_attempt(Verdict(Reason.DISRUPTED, 104))
    exporter.count_watch_restart(Kind.POD)
    exporter.count_notification(Delivery.DELIVERED)
    exporter.follow(lambda: Snapshot({Stage.RUNNING: 2}, 3, 4, {Kind.POD: 5.0}, 6, 7.0))
    return exporter


def samples(exporter: Exporter) -> dict[str, set[str]]:
    """Return the labels of each sample name."""
    labels: dict[str, set[str]] = {}
    for family in metric_families(exporter).values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize("metric", Metric)
def test_metric_has_type_help_and_labels(metric: Metric) -> None:
    row = metric.value
    exporter = filled_exporter()
    family = metric_families(exporter)[row.name.removesuffix("_total")]
    assert (family.type, family.documentation) == (row.type, row.help)
    sample = f"{row.name}_count" if row.type is Type.HISTOGRAM else row.name
    assert samples(exporter)[sample] == set(row.labels)


def test_no_other_metrics_exist() -> None:
    metric_names = {metric.value.name.removesuffix("_total") for metric in Metric}
    assert {name.removesuffix("_created") for name in metric_families(filled_exporter())} == metric_names


def test_every_reason_starts_at_0() -> None:
    """Prometheus does not count an increase from a missing series to 1."""
    series = metric_families(Exporter())["flargo_ends"].samples
    verdict_counts = {
        (each.labels["reason"], each.labels["code"]): each.value for each in series if each.name.endswith("_total")
    }
    expected = {
        (reason.name, str(int(code)))
        for reason in Reason
        for code in (FLARE_EXIT_CODES if reason.code is None else {reason.code})
    }
    assert verdict_counts == dict.fromkeys(expected, 0.0)


def test_jobs_and_verdicts_are_counted(site: MeasuredLoop) -> None:
    launched = site.launch()
    site.send(pod(owner=WORKFLOW_UID))
    site.wait_for_value(1, "flargo_jobs", stage="WAITING")
    assert site.stages() == {"WAITING": 1}
    assert site.value("flargo_start_seconds_count") == 0
    site.send(pod(owner=WORKFLOW_UID, version=2, main=RUNNING, phase="Running"))
    site.wait_for_value(1, "flargo_jobs", stage="RUNNING")
    site.wait_for_value(1, "flargo_start_seconds_count")
    site.send(workflow(uid=WORKFLOW_UID, version=3, phase="Running", message="it goes on"))
    site.send(pod(owner=WORKFLOW_UID, version=3, main=terminated_state(0, "Completed"), phase="Succeeded"))
    site.send(workflow(uid=WORKFLOW_UID, version=4, phase="Succeeded"))
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    site.wait_for_value(1, "flargo_ends_total", reason="SUCCEEDED", code="0")
    site.wait_for_value(0, "flargo_jobs", stage="ENDED")
    assert site.stages() == {}
    assert site.value("flargo_start_seconds_count") == 1


def test_kill_is_outstanding_until_program_ends(site: MeasuredLoop) -> None:
    launched = site.launch()
    running = pod(owner=WORKFLOW_UID, version=2, main=RUNNING, phase="Running")
    site.send(running)
    site.wait_for_value(1, "flargo_jobs", stage="RUNNING")
    assert site.value("flargo_kills_outstanding") == 0
    site.loop.stop(launched, Cause.ABORT)
    site.send(workflow(uid=WORKFLOW_UID, version=3, phase="Failed", shutdown="Terminate"))
    site.wait_for_value(1, "flargo_kills_outstanding")
    site.send(pod(owner=WORKFLOW_UID, version=4, main=terminated_state(137), phase="Running"))
    site.wait_for_value(0, "flargo_kills_outstanding")
    assert site.stages() == {"ENDED": 1}, "Argo has not completed the Workflow"
    site.send(pod(owner=WORKFLOW_UID, version=5, main=terminated_state(137), phase="Failed"))
    site.wait_for_value(1, "flargo_ends_total", reason="ABORTED", code="9")


def test_longest_wait_ends_when_the_job_runs(site: MeasuredLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.value("flargo_longest_wait_seconds") == 0, "no job waits"
    before = time.monotonic()
    site.launch()
    site.send(pod(owner=WORKFLOW_UID))
    site.wait_for_value(1, "flargo_jobs", stage="WAITING")
    with monkeypatch.context() as patch:
        patch.setattr("flargo.control.loop.time.monotonic", lambda: before + 1000)
        assert 900 < site.value("flargo_longest_wait_seconds") <= 1000
    site.send(pod(owner=WORKFLOW_UID, version=2, main=RUNNING, phase="Running"))
    site.wait_for_value(0, "flargo_longest_wait_seconds")
    assert site.stages() == {"RUNNING": 1}


def test_a_job_that_is_being_ended_waits_no_more(site: MeasuredLoop) -> None:
    launched = site.launch()
    site.send(pod(owner=WORKFLOW_UID))
    site.wait_for_value(1, "flargo_jobs", stage="WAITING")
    assert site.value("flargo_longest_wait_seconds") > 0
    site.loop.stop(launched, Cause.ABORT)
    site.wait_for_value(0, "flargo_longest_wait_seconds")


def test_orphans_are_counted_apart(site: MeasuredLoop) -> None:
    site.loop.start()
    site.api.store[Kind.WORKFLOW, "left"] = workflow("left", uid="w9", parent="another", phase="Running")
    site.loop.on_listed(Kind.WORKFLOW, [site.api.store[Kind.WORKFLOW, "left"]], "2")
    site.loop.on_listed(Kind.POD, [pod("left", owner="w9", main=RUNNING, phase="Running")], "2")
    site.wait_for_value(1, "flargo_orphans")
    assert site.stages() == {}


def test_broken_watch_counts_once(site: MeasuredLoop) -> None:
    """A broken watch counts again only after it has recovered."""
    connection_error = ApiError("watch", "pods", 0)
    for _ in range(3):
        site.loop.on_lost(Kind.POD, connection_error)
    assert site.value("flargo_watch_restarts_total", resource="pods") == 1
    assert site.value("flargo_watch_restarts_total", resource="workflows") == 0
    site.loop.on_listed(Kind.POD, [], "7")
    site.loop.on_lost(Kind.POD, connection_error)
    assert site.value("flargo_watch_restarts_total", resource="pods") == 2


def test_each_watch_has_its_staleness(site: MeasuredLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    site.loop._last_contact = dict.fromkeys((Kind.WORKFLOW, Kind.POD), 100.0)
    monkeypatch.setattr("flargo.control.loop.time.monotonic", lambda: 130.0)
    site.loop.on_contact(Kind.POD)
    monkeypatch.setattr("flargo.control.loop.time.monotonic", lambda: 142.0)
    assert site.value("flargo_watch_staleness_seconds", resource="workflows") == 42
    assert site.value("flargo_watch_staleness_seconds", resource="pods") == 12


def test_requests_are_counted() -> None:
    """Requests without a response count, too, with code 0."""
    exporter = Exporter()
    api = ScriptedApi(Response(200), Response(404), ConnectionResetError("reset"), Response(401), Response(200))
    api._on_request = exporter.observe_request
    api.get(Kind.SECRET, "job-a")
    for _ in range(2):
        with pytest.raises(ApiError):
            api.get(Kind.SECRET, "job-b")
    api.list(Kind.POD)
    request_counts = {
        tuple(each.labels[label] for label in Metric.REQUESTS.value.labels): each.value
        for each in metric_families(exporter)["flargo_api_requests"].samples
        if each.name.endswith("_total")
    }
    secrets = {("get", "secrets", code): 1.0 for code in ("200", "404", "0")}
    assert request_counts == {**secrets, ("list", "pods", "401"): 1.0, ("list", "pods", "200"): 1.0}
    assert (
        exporter.registry.get_sample_value("flargo_api_request_seconds_count", {"verb": "get", "resource": "secrets"})
        == 3
    )


def test_labels_have_no_job_or_site_names(site: MeasuredLoop) -> None:
    site.launch()
    site.send(pod(owner=WORKFLOW_UID, version=2, main=RUNNING, phase="Running"))
    site.wait_for_value(1, "flargo_jobs", stage="RUNNING")
    exposition = generate_latest(site.exporter.registry).decode()
    assert not re.search("job-site|uid-3|a1|flare\\b", exposition)


# The launcher


def test_two_launchers_have_separate_metrics() -> None:
    first, second = Exporter(), Exporter()
    first.observe_launch(1.0)
    assert second.registry.get_sample_value("flargo_launch_seconds_count") == 0


def test_metrics_are_off_by_default() -> None:
    """Without the setting, Prometheus' client is not even imported."""
    exporter = flargo.ClientArgoJobLauncher()
    assert exporter._exporter is None
    assert exporter._settings.argo.metrics_address is None


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flargo.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InvalidInput, match=re.escape("pip install 'flargo[metrics]'")) as raised:
        flargo.ClientArgoJobLauncher(argo={"metrics_address": "127.0.0.1:9464"})
    assert raised.value.field == "argo['metrics_address']"
    assert "prometheus_client" in str(raised.value)
