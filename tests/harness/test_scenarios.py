"""Scenarios get what their parameters name, and fail only their own test."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.harness.cluster import Cluster
from tests.harness.scenarios import EVERYTHING, Scenarios, Together

CLUSTER = cast("Cluster", SimpleNamespace(max_parallel_jobs=2))
scenario = Scenarios()
calls: list[dict[str, Any]] = []


@scenario
def needs_the_cluster(cluster: Cluster) -> None:
    calls.append({"cluster": cluster})


@scenario.variants(one={"number": 1}, number_two={"number": 2})
def has_variants(site: str, number: int) -> None:
    calls.append({"site": site, "number": number})


@scenario
def fails() -> None:
    raise AssertionError("as it must")


def test_names_are_those_of_functions_and_variants() -> None:
    assert scenario.names == ["needs the cluster", "has variants, one", "has variants, number two", "fails"]


def test_extra_scenarios_run_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """They can be called by other scenarios in any case."""

    def detail() -> None:
        """Differ in a detail."""

    monkeypatch.delenv(EVERYTHING, raising=False)
    usual, all_scenarios = Scenarios(), Scenarios()
    assert usual.in_everything(detail) is detail
    monkeypatch.setenv(EVERYTHING, "1")
    all_scenarios.in_everything(detail)
    assert (usual.names, all_scenarios.names) == ([], ["detail"])


def test_each_scenario_gets_what_it_names() -> None:
    calls.clear()
    for name in scenario.names[:3]:
        scenario.run(name, CLUSTER, {"site": "a site", "server": "unused"})
    assert calls == [{"cluster": CLUSTER}, {"site": "a site", "number": 1}, {"site": "a site", "number": 2}]


def test_unselected_scenarios_do_not_run(request: pytest.FixtureRequest) -> None:
    """This module's only parametrized test selects two of the four scenarios."""
    calls.clear()
    with Together(scenario, request, CLUSTER, site="a site") as together:
        running = {*together._running}
    assert running <= {"has variants, one", "fails"}
    assert all(call.get("number") == 1 for call in calls)


@pytest.mark.parametrize("name", ["has variants, one", "fails"])
def test_a_failure_is_its_own_tests(request: pytest.FixtureRequest, name: str) -> None:
    with Together(scenario, request, CLUSTER, site="a site") as together:
        if name == "fails":
            with pytest.raises(AssertionError, match="as it must"):
                together.result(name)
        else:
            together.result(name)
