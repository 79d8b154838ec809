"""What the tests on the embedded server share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from flargo.embedded import Embedded
from tests.embedded import known_differences
from tests.harness.embedded_cluster import EmbeddedCluster

TOGETHER = frozenset({"test_end", "test_scenario", "test_submit"})
"""Of a module: what begins all its scenarios at once, so that they belong into one process."""


class _Beside(LoadScopeScheduling):  # type: ignore[misc]
    """Who runs what: each test for itself, but for those that are together.

    pytest-xdist's own groups do not work with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        return module if test.partition("[")[0] in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """See xdist's hook."""
    return _Beside(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is knowingly unlike the real cluster is expected to fail, and has to."""
    here = Path(__file__).parent
    # What takes longest begins first; and of a module, what is begun beside its scenarios.
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
    """An engine of the module's own, with the module's ``ENGINE_SETTINGS`` if it has any."""
    with Embedded(getattr(request.module, "ENGINE_SETTINGS", None), namespace="flare") as running:
        yield running


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which scenarios leave what their launchers saw; of the user's, who wants to compare them later."""
    said = os.environ.get("FLARGO_RECORD")
    return Path(said) if said else tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def cluster(
    embedded: Embedded, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLARGO_RECORD", str(recordings))
        yield EmbeddedCluster(embedded, tmp_path_factory.mktemp("embedded"))
