"""Taking jobs back while the site's Lease is uncertain, lost or the parent shuts down."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flargo.cluster.api import Kind
from flargo.control.authority import may_change
from flargo.control.lease import LeaseStage, LeaseStatus
from flargo.control.reclaim import PATIENCE_SECONDS, Reclaimer, ReclaimError
from flargo.flare.takeover import Takeover
from flargo.job.names import site_labels
from flargo.terms import Label, Parent, Role
from tests.harness.fake_api import THREAD_SECONDS, MemoryApi
from tests.harness.lease_parents import FEDERATION, SITE
from tests.harness.objects import workflow

PARENT = Parent(SITE, FEDERATION, "new", Role.CLIENT)


class Site:
    """A site's Workflow, and the stages that its Lease goes through, one each second."""

    def __init__(self, *stages: LeaseStage) -> None:
        self.api, self.now, self.stages = MemoryApi(), 0.0, stages
        item = workflow("job-site")
        item["metadata"]["labels"] |= site_labels(PARENT)
        self.api.store[Kind.WORKFLOW, "job-site"] = item

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def may_change(self, *, is_followed: bool) -> bool:
        return may_change(self.stages[min(int(self.now), len(self.stages) - 1)], is_followed=is_followed)

    def take(self) -> None:
        Reclaimer(self.api, PARENT, lambda: self.now, self.pause, self.may_change).take("job-site", "a1")

    @property
    def parent(self) -> str:
        return str(self.api.store[Kind.WORKFLOW, "job-site"]["metadata"]["labels"][Label.PARENT])


def test_an_uncertain_parent_waits() -> None:
    """The API server was away, and the Lease is about to be renewed."""
    site = Site(LeaseStage.ACQUIRING, LeaseStage.ACQUIRING, LeaseStage.HELD)
    site.take()
    assert (site.parent, site.now >= 2.0) == ("new", True)


@pytest.mark.parametrize("stage", [LeaseStage.LOST, LeaseStage.ACQUIRING])
def test_a_parent_without_the_site_takes_nothing(stage: LeaseStage) -> None:
    site = Site(stage)
    with pytest.raises(ReclaimError, match="another FLARE parent"):
        site.take()
    assert site.parent == "me"
    assert site.now > PATIENCE_SECONDS


class Keeper:
    """A Lease that is lost while jobs are taken back, and held again later."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stage = LeaseStage.HELD

    @property
    def state(self) -> LeaseStatus:
        return LeaseStatus(self.stage, 1.0)

    def start(self) -> None:
        pass

    def set(self, stage: LeaseStage) -> None:
        with self.changed:
            self.stage = stage
            self.changed.notify_all()

    def wait(self, until: Callable[[LeaseStatus], bool], seconds: float | None = None) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: until(self.state), seconds)


def test_a_parent_that_loses_the_site_begins_later() -> None:
    """It launches and ends nothing until the other parent has ended, and takes that one's jobs back then."""
    keeper, calls, ending = Keeper(), list[str](), threading.Event()
    lost = threading.Event()

    def adopt_all(*_: object) -> frozenset[str]:
        calls.append("take back")
        if len(calls) == 1:
            keeper.set(LeaseStage.LOST)
            lost.set()
        return frozenset()

    started = threading.Event()
    adoption = SimpleNamespace(adopt_all=adopt_all, drop=lambda: None, seal=lambda: None)
    takeover = Takeover(
        cast("Any", keeper), cast("Any", adoption), cast("Any", None), started.set, lambda _: None, ending
    )
    thread = threading.Thread(target=takeover._run, args=(cast("Any", None),), daemon=True)
    thread.start()
    assert lost.wait(THREAD_SECONDS)
    assert not started.wait(0.3)
    keeper.set(LeaseStage.HELD)
    assert started.wait(THREAD_SECONDS)
    assert calls == ["take back"] * 2
