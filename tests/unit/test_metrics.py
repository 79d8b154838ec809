"""What Prometheus is told: names, types and labels, and counts that are right after a played sequence of facts."""

import json
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
from flargo.control.meter import Snapshot
from flargo.job.validate import InvalidInput
from flargo.metrics import Exporter, Metric, Type
from flargo.status.diagnosis import Stage
from flargo.status.reasons import FLARE_EXIT_CODES, Reason
from flargo.status.verdict import Cause, Verdict
from tests.harness.fake_api import LONG, QuietApi
from tests.harness.objects import RUNNING, Object, ended, pod, workflow
from tests.harness.paths import ROOT
from tests.harness.plans import plan
from tests.harness.scripted_api import Answer, Served

DASHBOARD = ROOT / "deploy/grafana-dashboard.json"


class Measured:
    """A loop with an exporter, whose streams are the test."""

    def __init__(self) -> None:
        self.api = QuietApi()
        self.exporter = Exporter()
        self.loop = Loop(self.api, "", "me", 3, meter=self.exporter)
        self.exporter.follow(self.loop.snapshot)

    def launch(self) -> LaunchedJob:
        ticket = self.loop.launch(plan(), lambda: False, lambda *_: None, collect_log=False)
        assert ticket.wait(lambda it: it.is_released, LONG)
        self.shows(workflow(uid="uid-3", version=2, phase="Running"))
        return ticket

    def shows(self, *items: Object) -> None:
        """The streams tell of Workflows and pods."""
        for item in items:
            kind = Kind.POD if "containers" in item["spec"] else Kind.WORKFLOW
            name = item["metadata"]["name"]
            self.api.store[kind, name] = item
            self.loop.on_changed(kind, item, deleted=False)

    def value(self, name: str, **labels: str) -> float:
        return self.exporter.registry.get_sample_value(name, labels) or 0.0

    def comes_to(self, value: float, name: str, **labels: str) -> None:
        """Wait until Prometheus would see so."""
        limit = time.monotonic() + LONG
        while self.value(name, **labels) != value:
            assert time.monotonic() < limit, f"{name} {labels} is {self.value(name, **labels)}, not {value}"
            time.sleep(0.01)

    def stages(self) -> dict[str, float]:
        found = {stage.label: self.value("flargo_jobs", stage=stage.label) for stage in Stage}
        return {name: count for name, count in found.items() if count}


@pytest.fixture
def site() -> Iterator[Measured]:
    made = Measured()
    yield made
    made.api.over.set()
    made.loop.end(Cause.PARENT_END, seconds=0.0)


def exposed(exporter: Exporter) -> dict[str, Any]:
    """All families by name, as Prometheus reads them."""
    text = generate_latest(exporter.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def busy() -> Exporter:
    """An exporter that was told one fact of each sort."""
    made = Exporter()
    made.observe_request("list", Kind.POD, 200, 0.1)
    made.observe_launch(1.0)
    made.observe_start(1.0)
    made.count_verdict(Verdict(Reason.SUCCEEDED, 0))
    made.count_watch_restart(Kind.POD)
    made.follow(lambda: Snapshot({Stage.RUNNING: 2}, 3, 4, {Kind.POD: 5.0}, 6))
    return made


def samples(exporter: Exporter) -> dict[str, set[str]]:
    """The labels of each sample's name."""
    found: dict[str, set[str]] = {}
    for family in exposed(exporter).values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("metric", Metric)
def test_a_metric_is_there_with_its_type_its_meaning_and_its_labels(metric: Metric) -> None:
    row = metric.value
    exporter = busy()
    family = exposed(exporter)[row.name.removesuffix("_total")]
    assert (family.type, family.documentation) == (row.type, row.help)
    sample = f"{row.name}_count" if row.type is Type.HISTOGRAM else row.name
    assert samples(exporter)[sample] == set(row.labels)


def test_there_are_no_others() -> None:
    known = {metric.value.name.removesuffix("_total") for metric in Metric}
    assert {name.removesuffix("_created") for name in exposed(busy())} == known


def test_every_way_to_end_is_there_before_it_has_happened() -> None:
    """Prometheus takes no notice of a counter's step from nothing to 1."""
    found = exposed(Exporter())["flargo_ends"].samples
    ways = {(each.labels["reason"], each.labels["code"]): each.value for each in found if each.name.endswith("_total")}
    wanted = {
        (reason.name, str(int(code)))
        for reason in Reason
        for code in (FLARE_EXIT_CODES if reason.code is None else {reason.code})
    }
    assert ways == dict.fromkeys(wanted, 0.0)


def test_a_job_is_counted_at_each_stage_and_its_end_by_reason_and_code(site: Measured) -> None:
    ticket = site.launch()
    site.shows(pod(owner="uid-3"))
    site.comes_to(1, "flargo_jobs", stage="WAITING")
    assert site.stages() == {"WAITING": 1}
    assert site.value("flargo_start_seconds_count") == 0
    site.shows(pod(owner="uid-3", version=2, main=RUNNING, phase="Running"))
    site.comes_to(1, "flargo_jobs", stage="RUNNING")
    site.comes_to(1, "flargo_start_seconds_count")
    site.shows(workflow(uid="uid-3", version=3, phase="Running", message="it goes on"))
    site.shows(pod(owner="uid-3", version=3, main=ended(0, "Completed"), phase="Succeeded"))
    site.shows(workflow(uid="uid-3", version=4, phase="Succeeded"))
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    site.comes_to(1, "flargo_ends_total", reason="SUCCEEDED", code="0")
    site.comes_to(0, "flargo_jobs", stage="ENDED")
    assert site.stages() == {}
    assert site.value("flargo_start_seconds_count") == 1


def test_a_kill_is_outstanding_until_the_program_is_seen_to_have_ended(site: Measured) -> None:
    ticket = site.launch()
    running = pod(owner="uid-3", version=2, main=RUNNING, phase="Running")
    site.shows(running)
    site.comes_to(1, "flargo_jobs", stage="RUNNING")
    assert site.value("flargo_kills_outstanding") == 0
    site.loop.stop(ticket, Cause.ABORT)
    site.shows(workflow(uid="uid-3", version=3, phase="Failed", shutdown="Terminate"))
    site.comes_to(1, "flargo_kills_outstanding")
    site.shows(pod(owner="uid-3", version=4, main=ended(137), phase="Running"))
    site.comes_to(0, "flargo_kills_outstanding")
    assert site.stages() == {"ENDED": 1}, "Argo is still tidying up"
    site.shows(pod(owner="uid-3", version=5, main=ended(137), phase="Failed"))
    site.comes_to(1, "flargo_ends_total", reason="ABORTED", code="9")


def test_an_orphan_is_no_job_of_this_parents(site: Measured) -> None:
    site.loop.start()
    site.api.store[Kind.WORKFLOW, "left"] = workflow("left", uid="w9", parent="another", phase="Running")
    site.loop.on_listed(Kind.WORKFLOW, [site.api.store[Kind.WORKFLOW, "left"]], "2")
    site.loop.on_listed(Kind.POD, [pod("left", owner="w9", main=RUNNING, phase="Running")], "2")
    site.comes_to(1, "flargo_orphans")
    assert site.stages() == {}


def test_a_watch_that_breaks_is_counted_once_until_it_is_heard_again(site: Measured) -> None:
    cut = ApiError("watch", "pods", 0)
    for _ in range(3):
        site.loop.on_lost(Kind.POD, cut)
    assert site.value("flargo_watch_restarts_total", resource="pods") == 1
    assert site.value("flargo_watch_restarts_total", resource="workflows") == 0
    site.loop.on_listed(Kind.POD, [], "7")
    site.loop.on_lost(Kind.POD, cut)
    assert site.value("flargo_watch_restarts_total", resource="pods") == 2


def test_staleness_is_each_watchs_own(site: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    site.loop._last_contact = dict.fromkeys((Kind.WORKFLOW, Kind.POD), 100.0)
    monkeypatch.setattr("flargo.control.loop.time.monotonic", lambda: 130.0)
    site.loop.on_contact(Kind.POD)
    monkeypatch.setattr("flargo.control.loop.time.monotonic", lambda: 142.0)
    assert site.value("flargo_watch_staleness_seconds", resource="workflows") == 42
    assert site.value("flargo_watch_staleness_seconds", resource="pods") == 12


def test_a_request_is_counted_by_verb_resource_and_code_also_without_an_answer() -> None:
    exporter = Exporter()
    api = Served(Answer(200), Answer(404), ConnectionResetError("reset"), Answer(401), Answer(200))
    api._on_request = exporter.observe_request
    api.get(Kind.SECRET, "job-a")
    for _ in range(2):
        with pytest.raises(ApiError):
            api.get(Kind.SECRET, "job-b")
    api.list(Kind.POD)
    counted = {
        tuple(each.labels[label] for label in Metric.REQUESTS.value.labels): each.value
        for each in exposed(exporter)["flargo_api_requests"].samples
        if each.name.endswith("_total")
    }
    secrets = {("get", "secrets", code): 1.0 for code in ("200", "404", "0")}
    assert counted == {**secrets, ("list", "pods", "401"): 1.0, ("list", "pods", "200"): 1.0}
    assert (
        exporter.registry.get_sample_value("flargo_api_request_seconds_count", {"verb": "get", "resource": "secrets"})
        == 3
    )


def test_no_label_carries_what_a_job_or_a_site_is_called(site: Measured) -> None:
    site.launch()
    site.shows(pod(owner="uid-3", version=2, main=RUNNING, phase="Running"))
    site.comes_to(1, "flargo_jobs", stage="RUNNING")
    said = generate_latest(site.exporter.registry).decode()
    assert not re.search("job-site|uid-3|a1|flare\\b", said)


# The launcher


def test_two_launchers_measure_apart() -> None:
    first, second = Exporter(), Exporter()
    first.observe_launch(1.0)
    assert second.registry.get_sample_value("flargo_launch_seconds_count") == 0


def test_nothing_is_measured_or_imported_by_default() -> None:
    made = flargo.ClientArgoJobLauncher()
    assert made._exporter is None
    assert made._settings.argo.metrics_address is None


def test_a_missing_extra_is_named_at_load_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "flargo.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InvalidInput, match=re.escape("pip install 'flargo[metrics]'")) as caught:
        flargo.ClientArgoJobLauncher(argo={"metrics_address": "127.0.0.1:9464"})
    assert caught.value.field == "argo['metrics_address']"
    assert "prometheus_client" in str(caught.value)


# The docs and the dashboard


def queries() -> Iterator[str]:
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query")


def test_the_dashboard_asks_for_every_metric_and_for_nothing_else() -> None:
    there = samples(busy())
    asked = {name for query in queries() for name in re.findall(r"flargo_\w+", query)}
    assert asked <= set(there)
    assert {name.removesuffix("_bucket") for name in asked} == {metric.value.name for metric in Metric}


def test_the_dashboard_groups_by_labels_that_are_there() -> None:
    there = samples(busy())
    for query in queries():
        (name,) = re.findall(r"flargo_\w+", query)
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            assert set(re.split(r",\s*", grouped)) <= there[name] | {"instance"}, query


def test_every_panel_is_told_apart() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
