"""flargo's real launcher on the embedded server: what becomes of a job, as on a real cluster."""

from collections.abc import Iterator

import pytest

from flargo.status.reasons import Reason
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.site import Site, exits


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster) -> Iterator[Site]:
    with Site(cluster) as made:
        yield made


@pytest.mark.parametrize(
    ("code", "reason", "heard"),
    [(0, Reason.SUCCEEDED, 0), (3, Reason.PROGRAM_FAILED, 1), (101, Reason.PROGRAM_REPORTED, 101)],
)
def test_an_exit_code_is_heard(site: Site, code: int, reason: Reason, heard: int) -> None:
    job = site.launch(exits(code))
    job.ends(reason, heard, within=15)
    job.leaves_nothing()
