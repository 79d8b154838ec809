"""Checks that the engine runs the whole fault matrix, and that the list of known differences is current."""

import importlib
from pathlib import Path

import pytest

from tests.embedded import known_differences
from tests.harness import recorder
from tests.harness.real_cluster import versions

TESTS = Path(__file__).parents[1]
MODULES = sorted(file.stem for file in (TESTS / "cluster").glob("test_faults*.py"))
FAULTS = ("by_hand", "daemons", "exit_handlers", "matrix", "nodes", "refusals", "rejoin", "wire")


def scenario_names(module: str) -> set[str]:
    return {name for name in vars(importlib.import_module(module)) if name.startswith("test_")}


@pytest.mark.parametrize("module", MODULES)
def test_engine_runs_the_whole_fault_matrix(module: str) -> None:
    assert scenario_names(f"tests.embedded.{module}") == scenario_names(f"tests.cluster.{module}")


def test_no_scenario_is_left_out() -> None:
    """Every test of tests/harness/faults is imported by a module of tests/cluster, since nothing else runs it."""
    scenarios = {name for module in FAULTS for name in scenario_names(f"tests.harness.faults.{module}")}
    assert scenarios == {name for module in MODULES for name in scenario_names(f"tests.cluster.{module}")}


def test_listed_scenarios_and_recordings_exist() -> None:
    tests = {name for module in MODULES for name in scenario_names(f"tests.cluster.{module}")}
    assert {name.partition("[")[0] for name in (*known_differences.SCENARIOS, *known_differences.ABSENT)} <= tests
    recordings = {file.stem for file in (recorder.FOLDER / versions.ARGO).glob("*.jsonl")}
    assert {*known_differences.RECORDINGS, *known_differences.RACES} <= recordings
    assert not set(known_differences.RECORDINGS) & set(known_differences.RACES)
