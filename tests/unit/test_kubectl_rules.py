"""flargo reaches the same server as kubectl, as the same user, with every kubeconfig of a table.

What kubectl does was recorded with the real one; tests/cluster/test_kubectl.py repeats that.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.kubeconfigs.programs import run_flargo
from tests.harness.kubeconfigs.rows import Row, read_recorded, read_rows
from tests.harness.kubeconfigs.servers import Servers

ROWS = read_rows()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")).running() as running:
        yield running


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_flargo_does_the_same(row: Row, servers: Servers, tmp_path: Path) -> None:
    heard = run_flargo(row, servers, tmp_path)
    expected = row.flargo if row.flargo is not None else read_recorded()[row.name]
    if row.problem:
        assert row.problem in servers.without_ports(heard.get("message", str(heard)))
        assert row.flargo == {} or "message" in expected
    else:
        assert heard == expected


def test_differences_are_stated() -> None:
    recorded = read_recorded()
    assert [*recorded] == sorted(row.name for row in ROWS)
    for row in ROWS:
        if row.flargo is not None:
            assert row.why
            assert row.flargo != recorded[row.name]
