"""What kubectl makes of the table of kubeconfigs is what was recorded, and what flargo is held to.

The test needs the cluster's own kubectl and no cluster: the servers of the table are in this process.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.kubeconfigs.programs import run_kubectl
from tests.harness.kubeconfigs.rows import Row, read_recorded, read_rows
from tests.harness.kubeconfigs.servers import Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")).running() as running:
        yield running


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: row.name)
def test_kubectl_does_what_was_recorded(row: Row, servers: Servers, tmp_path: Path) -> None:
    heard, recorded = run_kubectl(row, servers, tmp_path), read_recorded()[row.name]
    if "message" in recorded:
        assert [*heard] == ["message"], heard  # its words change from version to version
    else:
        assert heard == recorded
