"""What the tests on the embedded server share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flargo.embedded import Embedded
from tests.embedded.world import EmbeddedWorld


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    """A server of the module's own."""
    with Embedded(namespace="flare") as running:
        yield running


@pytest.fixture(scope="module")
def world(embedded: Embedded, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedWorld:
    folder: Path = tmp_path_factory.mktemp("embedded")
    return EmbeddedWorld(embedded, folder)
