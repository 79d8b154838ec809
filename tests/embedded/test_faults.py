"""The fault matrix of the real cluster, as far as no daemon is stopped and no wire is cut, on the embedded engine."""

import time
from collections.abc import Iterator

import pytest

from flargo.embedded import Embedded, Lags, Settings
from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.cluster.scenarios import Together
from tests.cluster.site import SLEEPS, STARTS, Job, Site, exits
from tests.cluster.test_faults import ROWS, STUDIES, Row, scenario, verdict_of
from tests.embedded.world import EmbeddedWorld


@pytest.fixture(scope="module")
def embedded() -> Iterator[Embedded]:
    # Starting takes a second, so that what happens before it can be seen.
    settings = Settings(lags=Lags(init=0.3), missing_images=frozenset({"flargo.test/job:not-there"}))
    with Embedded(settings, namespace="flare") as running:
        yield running


@pytest.fixture(scope="module")
def site(world: EmbeddedWorld) -> Iterator[Site]:
    with Site(world, studies=STUDIES) as made:
        yield made


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, site: Site, world: EmbeddedWorld) -> Iterator[Together]:
    with (
        Site(world, role=Role.SERVER) as server,
        Together(scenario, request, world, site=site, server=server) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def started(site: Site) -> dict[str, Job]:
    return {
        row.name: site.launch(row.runs or SLEEPS, row.spec, **({"study": row.study} if row.study else {}))
        for row in ROWS
    }


def test_quota_exceeded_and_lifted(site: Site, world: EmbeddedWorld) -> None:
    with world.quota("flargo-test", pods="0"):
        job = site.launch(exits(0)).reaches(Stage.QUOTA)
        time.sleep(1.5)
        assert job.ticket.verdict is None
    job.ends(Reason.SUCCEEDED, 0, within=STARTS)
    job.leaves_nothing()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_end(started: dict[str, Job], row: Row) -> None:
    job = started[row.name]
    job.ends(row.reason, row.code, within=30)
    assert row.says in verdict_of(job).detail
    job.leaves_nothing()


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
