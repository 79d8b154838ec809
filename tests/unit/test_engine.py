"""The engine: which life hears of what, and when its clocks run."""

from flargo.cluster.api import Kind
from flargo.control.engine import Engine, Outcome
from flargo.status.diagnosis import Stage
from flargo.status.life import Act, Life
from flargo.status.verdict import Cause
from flargo.terms import Patience
from tests.unit.objects import RUNNING, Object, ended, pod, workflow


class Site:
    """An engine with one job, and a clock."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.now = 100.0
        self.engine = Engine(lambda _: False, self.now)
        self.engine.admit("job-site", patience or Patience(), 3, self.now)
        self.life: Life | None = None
        self.ordered: list[Act] = []

    def take(self, outcome: Outcome) -> "Site":
        self.life = outcome.lives[-1] if outcome.lives else self.life
        self.ordered = [order.wish.act for order in outcome.orders]
        return self

    def synced(self, *, workflows: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> "Site":
        self.take(self.engine.listed(Kind.WORKFLOW, workflows, self.now))
        return self.take(self.engine.listed(Kind.POD, pods, self.now))

    def changes(self, kind: Kind, item: Object, *, deleted: bool = False) -> "Site":
        return self.take(self.engine.changed(kind, item, self.now, deleted=deleted))

    def passes(self, seconds: float) -> "Site":
        self.now += seconds
        return self.take(self.engine.tick(self.now))

    @property
    def stage(self) -> Stage:
        assert self.life is not None
        return self.life.stage


def test_a_job_is_followed_from_its_streams_to_its_verdict() -> None:
    site = Site().synced()
    site.take(site.engine.submitted("job-site", "", site.now))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    assert site.stage is Stage.RUNNING
    site.changes(Kind.POD, pod(main=ended(0, "Completed"), version=2))
    assert site.life is not None
    assert site.life.verdict is not None
    assert site.ordered == [Act.DROP_SECRET]


def test_an_older_event_that_comes_late_is_passed_over() -> None:
    site = Site().synced()
    site.changes(Kind.WORKFLOW, workflow(phase="Running", version=7))
    site.changes(Kind.WORKFLOW, workflow(phase="", suspend=True, version=5))
    assert site.stage is Stage.WAITING


def test_a_deletion_of_an_earlier_workflow_of_the_same_name_is_not_this_ones() -> None:
    site = Site().synced()
    site.changes(Kind.WORKFLOW, workflow(phase="Running", uid="w2", version=7))
    site.changes(Kind.WORKFLOW, workflow(phase="Succeeded", uid="w1", version=9), deleted=True)
    assert site.stage is Stage.WAITING


def test_a_pod_of_an_earlier_workflow_of_the_same_name_is_not_this_ones() -> None:
    site = Site().synced(workflows=(workflow(phase="Running", uid="w2"),), pods=(pod(owner="w1", main=ended(1)),))
    assert site.stage is Stage.WAITING


def test_a_list_without_the_pod_asks_before_it_concludes() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    site.synced(workflows=(workflow(phase="Running"),))
    assert site.ordered == [Act.CONFIRM]


def test_a_deadline_wakes_the_engine_and_only_then_is_asked() -> None:
    site = Site(Patience(unclaimed=30)).synced(workflows=(workflow(),))
    assert site.engine.wake_at() == site.now + 30
    assert site.passes(29).ordered == []
    assert site.passes(1).ordered == [Act.CONFIRM]


def test_patience_stands_still_while_a_stream_is_lost_and_no_busy_loop_follows() -> None:
    site = Site(Patience(unclaimed=30)).synced(workflows=(workflow(),))
    site.passes(20)
    site.engine.lost(Kind.POD, site.now)
    assert site.passes(500).ordered == []
    assert (site.engine.wake_at() or 0.0) >= site.now
    site.take(site.engine.listed(Kind.POD, (), site.now))
    assert site.passes(9).ordered == []
    assert site.passes(1).ordered == [Act.CONFIRM]


def test_an_abort_of_an_unknown_or_cleared_job_is_nothing() -> None:
    assert Site().engine.stop("other", Cause.ABORT, 100.0) == Outcome()


def test_what_concerns_no_known_job_is_not_kept() -> None:
    site = Site().synced(workflows=(workflow("stranger"),))
    assert site.engine.changed(Kind.POD, pod("stranger"), site.now, deleted=False) == Outcome()
    assert site.engine.names == ("job-site",)


def test_a_cleared_job_is_forgotten() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"),))
    engine = site.engine
    site.take(engine.submitted("job-site", "", site.now))
    outcome = engine.changed(Kind.POD, pod(main=ended(0)), site.now, deleted=False)
    engine.told(outcome.orders[0], site.now, ok=True)
    engine.changed(Kind.WORKFLOW, workflow(phase="Succeeded", version=9), site.now, deleted=False)
    assert engine.names == ()
