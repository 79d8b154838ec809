"""The Lease of a site on a cluster, by the requests that a parent sends and with the rights that it has."""

import math
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.errors import ApiError
from flargo.cluster.meaning import Meaning
from flargo.control.lease import HOLD_SECONDS, REFUSAL_PATIENCE_SECONDS, RENEW_SECONDS, LeaseStage, LeaseStatus
from flargo.control.lease_keeper import LeaseKeeper
from flargo.control.lease_object import LEASE_SECONDS, LeaseView, held_lease, view_lease
from flargo.job.names import site_labels, site_lease
from flargo.terms import Object, Parent, Role
from tests.harness.cluster import Cluster
from tests.harness.site import read_token
from tests.harness.wire import Match, Wire

SLACK_SECONDS = 10.0
"""More than a few requests need on a busy machine."""


@pytest.fixture
def api(cluster: Cluster) -> Api:
    return Api(config_loader(str(cluster.target.launcher_kubeconfig)), cluster.target.namespace)


@pytest.fixture
def wire(cluster: Cluster) -> Iterator[Wire]:
    """The way of one parent to the API server, on which requests can get lost."""
    with Wire(cluster.target.launcher_kubeconfig) as proxy:
        yield proxy


class Site:
    """A site with a federation of its own, and the parents that a test starts for it."""

    def __init__(self, cluster: Cluster, api: Api) -> None:
        self.cluster, self.api = cluster, api
        self.parent = Parent("site-1", secrets.token_hex(16), "", Role.CLIENT)
        self.name, self.labels = site_lease(self.parent), site_labels(self.parent)
        self.keepers: list[LeaseKeeper] = []

    def start(self, wire: Wire | None = None, folder: Path | None = None) -> LeaseKeeper:
        """Start a parent's keeper, which reaches the API server over a wire, if one is given."""
        api, target = self.api, self.cluster.target
        if wire is not None and folder is not None:
            file = wire.kubeconfig(folder / "kubeconfig", read_token(target.launcher_kubeconfig))
            api = Api(config_loader(str(file)), target.namespace)
        parent = Parent(self.parent.site, self.parent.federation, secrets.token_hex(4), Role.CLIENT)
        keeper = LeaseKeeper(api, parent, "host")
        self.keepers.append(keeper)
        keeper.start()
        return keeper

    def view(self) -> LeaseView:
        return view_lease(self.api.get(Kind.LEASE, self.name), self.labels)

    def written(self, over: LeaseView | None, holder: str = "a") -> Object:
        """Return the Lease as a holder writes it over a version."""
        return held_lease(self.name, self.labels, holder, datetime.now(UTC), over)

    def delete(self) -> None:
        self.cluster.delete("leases", {"metadata": {"name": self.name}})


@pytest.fixture
def site(cluster: Cluster, api: Api) -> Iterator[Site]:
    lease_site = Site(cluster, api)
    yield lease_site
    for keeper in lease_site.keepers:
        keeper.close(release=False)
    if any(item["metadata"]["name"] == lease_site.name for item in cluster.items("leases")):
        lease_site.delete()


def meaning_of(request: Callable[[], object]) -> Meaning:
    """Return the meaning of the error with which a request fails."""
    with pytest.raises(ApiError) as caught:
        request()
    return caught.value.meaning


def is_held(status: LeaseStatus) -> bool:
    return status.stage is LeaseStage.HELD


def test_a_lease_is_read_as_it_was_written(site: Site) -> None:
    item = site.written(None)
    created = site.api.create(Kind.LEASE, item)
    assert created["spec"] == item["spec"]
    view = site.view()
    assert (view.holder, view.is_usable, view.lease_seconds) == ("a", True, LEASE_SECONDS)
    renewed = view_lease(site.api.replace(Kind.LEASE, site.written(view)), site.labels)
    assert renewed.version != view.version
    assert renewed.acquired_at == view.acquired_at
    _, server_time = site.api.get_with_time(Kind.LEASE, site.name)
    assert server_time is not None


def test_only_the_present_version_is_replaced(site: Site) -> None:
    assert meaning_of(lambda: site.api.get(Kind.LEASE, site.name)) is Meaning.NOT_FOUND
    first = view_lease(site.api.create(Kind.LEASE, site.written(None)), site.labels)
    assert meaning_of(lambda: site.api.create(Kind.LEASE, site.written(None, "b"))) is Meaning.EXISTS
    site.api.replace(Kind.LEASE, site.written(first))
    assert meaning_of(lambda: site.api.replace(Kind.LEASE, site.written(first, "b"))) is Meaning.CONFLICT
    assert site.view().holder == "a"
    # Without a version Kubernetes replaces no Lease at all.
    assert meaning_of(lambda: site.api.replace(Kind.LEASE, site.written(None, "b"))) is Meaning.INVALID


def test_a_deleted_lease_is_not_replaced(site: Site) -> None:
    """Kubernetes creates a Lease by an update, but not over the uid of another."""
    first = view_lease(site.api.create(Kind.LEASE, site.written(None)), site.labels)
    site.delete()
    assert meaning_of(lambda: site.api.replace(Kind.LEASE, site.written(first))) is Meaning.PRECONDITION_FAILED
    assert meaning_of(lambda: site.api.get(Kind.LEASE, site.name)) is Meaning.NOT_FOUND
    second = view_lease(site.api.replace(Kind.LEASE, site.written(None)), site.labels)
    assert second.uid != first.uid
    assert meaning_of(lambda: site.api.replace(Kind.LEASE, site.written(first, "b"))) is Meaning.PRECONDITION_FAILED


def test_a_second_parent_is_fenced_until_the_first_ends(site: Site) -> None:
    first = site.start()
    assert first.wait(is_held, SLACK_SECONDS)
    second = site.start()
    assert second.wait(lambda status: status.is_fenced, RENEW_SECONDS + SLACK_SECONDS)
    assert is_held(first.state)
    assert second.state.holder == site.view().holder
    first.close()
    assert second.wait(is_held, SLACK_SECONDS)
    away = second.state.away_seconds
    assert away is not None
    assert away < SLACK_SECONDS


def test_a_parent_that_died_is_replaced_when_its_lease_expires(site: Site) -> None:
    first = site.start()
    assert first.wait(is_held, SLACK_SECONDS)
    first.close(release=False)
    second = site.start()
    assert not second.wait(is_held, HOLD_SECONDS)
    assert second.wait(is_held, LEASE_SECONDS - HOLD_SECONDS + SLACK_SECONDS)
    away = second.state.away_seconds
    assert away is not None
    assert LEASE_SECONDS - 1 <= away <= LEASE_SECONDS + SLACK_SECONDS


def test_a_parent_that_was_cut_off_has_lost_the_lease(site: Site, wire: Wire, tmp_path: Path) -> None:
    """It stops believing before the second parent takes over, and learns of the loss when it is back."""
    first = site.start(wire, tmp_path)
    assert first.wait(is_held, SLACK_SECONDS)
    cut = wire.refuse(Match(resource="leases"), math.inf)
    second = site.start()
    deadline = time.monotonic() + LEASE_SECONDS + RENEW_SECONDS + SLACK_SECONDS
    while not is_held(second.state):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert first.state.stage is LeaseStage.ACQUIRING
    cut.disarm()
    assert first.wait(lambda status: status.stage is LeaseStage.LOST, SLACK_SECONDS)
    assert is_held(second.state)


@pytest.mark.parametrize("verb", ["create", "update"])
def test_a_write_whose_answer_is_lost_is_found(site: Site, wire: Wire, tmp_path: Path, verb: str) -> None:
    lost = wire.lose_reply(Match(verb, "leases"))
    keeper = site.start(wire, tmp_path)
    assert keeper.wait(lambda status: lost.hits == 1 and is_held(status), RENEW_SECONDS + SLACK_SECONDS)
    assert keeper.wait(lambda _: keeper._lease.failures == 0, SLACK_SECONDS)
    assert site.view().holder == keeper._lease.identity


def test_a_parent_without_the_right_is_told(site: Site, wire: Wire, tmp_path: Path) -> None:
    wire.answer_with_status(Match(resource="leases"), 403, times=math.inf)
    keeper = site.start(wire, tmp_path)
    unavailable = LeaseStage.UNAVAILABLE
    assert keeper.wait(lambda status: status.stage is unavailable, REFUSAL_PATIENCE_SECONDS + SLACK_SECONDS)
    keeper.close()
    assert meaning_of(site.view) is Meaning.NOT_FOUND


def test_a_deleted_lease_is_created_again(site: Site) -> None:
    keeper = site.start()
    assert keeper.wait(is_held, SLACK_SECONDS)
    old = site.view()
    site.delete()
    assert keeper.wait(
        lambda _: keeper._lease.view is not None and keeper._lease.view.uid != old.uid, 2 * RENEW_SECONDS
    )
    assert is_held(keeper.state)
    assert site.view().holder == old.holder
