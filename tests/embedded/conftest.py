"""What the tests on the embedded server share."""

from collections.abc import Iterator

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
    return EmbeddedWorld(embedded, tmp_path_factory.mktemp("embedded"))
