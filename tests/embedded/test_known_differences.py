"""Nothing is left out in silence: all tests of the fault matrix are here, and the list names what is there."""

import importlib
from pathlib import Path

import pytest

from tests.embedded import known_differences
from tests.harness import recorder
from tests.harness.real_cluster import versions

TESTS = Path(__file__).parents[1]
MODULES = sorted(file.stem for file in (TESTS / "cluster").glob("test_faults*.py"))


def names_of(module: str) -> set[str]:
    return {name for name in vars(importlib.import_module(module)) if name.startswith("test_")}


@pytest.mark.parametrize("module", MODULES)
def test_all_of_the_fault_matrix_is_on_the_embedded_engine(module: str) -> None:
    assert names_of(f"tests.embedded.{module}") == names_of(f"tests.cluster.{module}")


def test_what_is_listed_is_there() -> None:
    tests = {name for module in MODULES for name in names_of(f"tests.cluster.{module}")}
    assert {name.partition("[")[0] for name in (*known_differences.SCENARIOS, *known_differences.ABSENT)} <= tests
    recordings = {file.stem for file in (recorder.FOLDER / versions.ARGO).glob("*.jsonl")}
    assert {*known_differences.RECORDINGS, *known_differences.RACES} <= recordings
    assert not set(known_differences.RECORDINGS) & set(known_differences.RACES)
