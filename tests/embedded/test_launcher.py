"""Tests of flargo's launcher on the embedded engine: a job's exit code becomes FLARE's return code."""

from collections.abc import Iterator

import pytest

from flargo.status.reasons import Reason
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.site import Site, exits


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster) -> Iterator[Site]:
    with Site(cluster) as site:
        yield site


@pytest.mark.parametrize(
    ("code", "reason", "return_code"),
    [(0, Reason.SUCCEEDED, 0), (3, Reason.PROGRAM_FAILED, 1), (101, Reason.PROGRAM_REPORTED, 101)],
)
def test_exit_code_decides_reason_and_return_code(site: Site, code: int, reason: Reason, return_code: int) -> None:
    job = site.launch(exits(code))
    job.expect_end(reason, return_code, within=15)
    job.expect_nothing_left()
