"""Fixtures and scheduling of the tests on the embedded engine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from flargo.embedded import Embedded
from tests.embedded import known_differences
from tests.harness.embedded_cluster import EmbeddedCluster

ONE_WORKER_TESTS = frozenset({"test_end", "test_scenario", "test_submit"})
"""Tests whose module starts all scenarios at once, so that a module's scenarios must run in one worker."""


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Distributes single tests to workers, and the scenarios of a module as one group.

    pytest-xdist's own groups do not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        return module if test.partition("[")[0] in ONE_WORKER_TESTS else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Use the scheduling of this module (a hook of pytest-xdist)."""
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests, and mark the known differences from the real cluster as strict expected failures."""
    here = Path(__file__).parent
    # The slowest module comes first, and in a module the tests that run beside its scenarios.
    items.sort(
        key=lambda item: (item.path.stem != "test_faults_daemons", item.path, item.name.startswith("test_scenario"))
    )
    recordings = {f"test_recording[{name}]": why for name, why in known_differences.RECORDINGS.items()}
    for item in items:
        if item.path.parent != here:
            continue
        if why := known_differences.SCENARIOS.get(item.name) or recordings.get(item.name):
            item.add_marker(pytest.mark.xfail(strict=True, reason=why))
        if why := known_differences.ABSENT.get(item.name):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="module")
def embedded(request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """An embedded engine for one test module, with the module's ``ENGINE_SETTINGS`` if it has any."""
    with Embedded(getattr(request.module, "ENGINE_SETTINGS", None), namespace="flare") as engine:
        yield engine


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for recordings of the scenarios; FLARGO_RECORD names one that is kept for test_recordings.py."""
    folder = os.environ.get("FLARGO_RECORD")
    return Path(folder) if folder else tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def cluster(
    embedded: Embedded, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLARGO_RECORD", str(recordings))
        yield EmbeddedCluster(embedded, tmp_path_factory.mktemp("embedded"))
