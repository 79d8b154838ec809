"""What the tests on the embedded server share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flargo.embedded import Embedded
from tests.embedded import unlike
from tests.embedded.world import EmbeddedWorld


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is knowingly unlike the real cluster is expected to fail, and has to."""
    here = Path(__file__).parent
    recordings = {f"test_recording[{name}]": why for name, why in unlike.RECORDINGS.items()}
    for item in items:
        if item.path.parent != here:
            continue
        if why := unlike.SCENARIOS.get(item.name) or recordings.get(item.name):
            item.add_marker(pytest.mark.xfail(strict=True, reason=why))
        if why := unlike.ABSENT.get(item.name):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    """A server of the module's own."""
    with Embedded(namespace="flare") as running:
        yield running


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which scenarios leave what their launchers saw."""
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def world(embedded: Embedded, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedWorld]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLARGO_RECORD", str(recordings))
        yield EmbeddedWorld(embedded, tmp_path_factory.mktemp("embedded"))
