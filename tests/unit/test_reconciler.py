"""The engine: which life hears of what, and when its clocks run."""

import math
from typing import Any
from unittest.mock import Mock

import pytest

from flargo.cluster.api import Kind
from flargo.control.reconciler import Command, Reconciler, Result
from flargo.status.diagnosis import Stage
from flargo.status.job_state import Action, ActionKind, JobState
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause
from flargo.status.views import pod_view, workflow_view
from flargo.terms import StartTimeouts
from tests.harness.objects import RUNNING, Object, ended, pod, workflow


class Site:
    """An engine with one job, and a clock."""

    def __init__(self, patience: StartTimeouts | None = None) -> None:
        self.now = 100.0
        self.engine = Reconciler(lambda _: False, self.now, epoch="me", grace=3)
        self.engine.admit("job-site", "a1", patience or StartTimeouts(), 3, self.now)
        self.life: JobState | None = None
        self.orders: tuple[Command, ...] = ()
        self.ordered: list[ActionKind] = []

    def take(self, outcome: Result) -> "Site":
        self.life = outcome.states[-1] if outcome.states else self.life
        self.orders = outcome.commands
        self.ordered = [order.action.kind for order in outcome.commands]
        return self

    def synced(self, *, workflows: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> "Site":
        self.take(self.engine.on_listed(Kind.WORKFLOW, workflows, self.now))
        return self.take(self.engine.on_listed(Kind.POD, pods, self.now))

    def changes(self, kind: Kind, item: Object, *, deleted: bool = False) -> "Site":
        return self.take(self.engine.on_changed(kind, item, self.now, deleted=deleted))

    def passes(self, seconds: float) -> "Site":
        self.now += seconds
        return self.take(self.engine.tick(self.now))

    @property
    def stage(self) -> Stage:
        assert self.life is not None
        return self.life.stage


def test_a_job_is_followed_from_its_streams_to_its_verdict() -> None:
    site = Site().synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    assert site.stage is Stage.RUNNING
    site.changes(Kind.POD, pod(main=ended(0, "Completed"), version=2))
    assert site.life is not None
    assert site.life.verdict is not None
    assert site.ordered == [ActionKind.DELETE_SECRET]


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
    assert site.ordered == [ActionKind.CONFIRM]


def test_a_deadline_wakes_the_engine_and_only_then_is_asked() -> None:
    site = Site(StartTimeouts(unclaimed=30)).synced(workflows=(workflow(),))
    assert site.engine.next_requeue_at() == site.now + 30
    assert site.passes(29).ordered == []
    assert site.passes(1).ordered == [ActionKind.CONFIRM]


def test_patience_stands_still_while_a_stream_is_lost_and_no_busy_loop_follows() -> None:
    site = Site(StartTimeouts(unclaimed=30)).synced(workflows=(workflow(),))
    site.passes(20)
    site.engine.on_watch_lost(Kind.POD, site.now)
    assert site.passes(500).ordered == []
    assert (site.engine.next_requeue_at() or 0.0) >= site.now
    site.take(site.engine.on_listed(Kind.POD, (), site.now))
    assert site.passes(9).ordered == []
    assert site.passes(1).ordered == [ActionKind.CONFIRM]


def test_an_abort_of_an_unknown_or_cleared_job_is_nothing() -> None:
    assert Site().engine.stop("other", Cause.ABORT, 100.0) == Result()


def test_what_concerns_no_known_job_is_not_kept() -> None:
    site = Site().synced(workflows=(workflow("stranger"),))
    assert site.engine.on_changed(Kind.POD, pod("stranger"), site.now, deleted=False) == Result()
    assert site.engine.names == ("job-site",)


def test_a_cleared_job_is_forgotten() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"),))
    engine = site.engine
    site.take(engine.on_submitted("job-site", "", site.now))
    outcome = engine.on_changed(Kind.POD, pod(main=ended(0), phase="Succeeded"), site.now, deleted=False)
    engine.on_action_done(outcome.commands[0], site.now, ok=True)
    engine.on_changed(Kind.WORKFLOW, workflow(phase="Succeeded", version=9), site.now, deleted=False)
    assert engine.names == ()


LEFT: dict[str, Any] = {"parent": "an earlier run", "attempt": "a0"}


def left_pod(**more: Any) -> Object:
    """A pod of what an earlier run of the parent left."""
    return pod("job-other", uid="p9", owner="w9", **more)


def test_what_an_earlier_run_of_the_parent_left_is_ended_though_nobody_waits_for_it() -> None:
    left = workflow("job-other", uid="w9", phase="Running", **LEFT)
    site = Site().synced(workflows=(left,), pods=(left_pod(main=RUNNING, phase="Running"),))
    assert site.ordered == [ActionKind.SHUTDOWN]
    assert site.orders[0].action.uid == "w9"
    site.take(site.engine.on_action_done(site.orders[0], site.now, ok=True))
    over = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", version=2, **LEFT)
    site.changes(Kind.WORKFLOW, over)
    assert site.ordered == [ActionKind.DELETE_POD]
    site.take(site.engine.on_action_done(site.orders[0], site.now, ok=True))
    site.changes(Kind.POD, left_pod(main=ended(137), phase="Failed", version=3))
    assert site.ordered == [ActionKind.CONFIRM]
    site.take(
        site.engine.on_confirmed(site.orders[0], over, [left_pod(main=ended(137), phase="Failed", version=3)], site.now)
    )
    assert site.ordered == [ActionKind.DELETE_SECRET]
    assert site.orders[0].secret_name == "nvflare-cred-job-other-a0"
    site.take(site.engine.on_action_done(site.orders[0], site.now, ok=True))
    assert site.engine.names == ("job-site",)


def test_of_a_finished_workflow_of_an_earlier_run_only_the_credentials_are_taken_away() -> None:
    left = workflow("job-other", uid="w9", phase="Succeeded", **LEFT)
    site = Site().synced(workflows=(left,), pods=(left_pod(main=ended(0), phase="Succeeded"),))
    assert site.ordered == [ActionKind.DELETE_SECRET]
    site.take(site.engine.on_action_done(site.orders[0], site.now, ok=True))
    assert site.engine.names == ("job-site",)


def test_a_program_that_outlived_its_finished_workflow_is_killed_after_the_parents_restart() -> None:
    left = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", **LEFT)
    site = Site().synced(workflows=(left,), pods=(left_pod(main=RUNNING, phase="Running"),))
    assert ActionKind.DELETE_POD in site.ordered


def test_a_living_parents_own_jobs_are_no_orphans() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"), workflow("done", uid="w5", phase="Succeeded")))
    assert site.ordered == []


def test_a_workflow_without_flargos_marks_is_nobodys_orphan() -> None:
    stranger = workflow("stranger", uid="w7", phase="Running", parent="")
    assert Site().synced(workflows=(stranger,)).ordered == []


def test_a_create_that_comes_true_after_its_job_was_given_up_is_discarded() -> None:
    site = Site().synced()
    late = workflow("given-up", uid="w8", suspend=True)
    assert site.changes(Kind.WORKFLOW, late).ordered == [ActionKind.DELETE_WORKFLOW]


def test_a_workflow_of_another_launch_that_has_the_jobs_name_is_not_touched() -> None:
    site = Site().synced()
    other = workflow(phase="Running", attempt="other", parent="")
    site.changes(Kind.WORKFLOW, other)
    site.take(site.engine.on_submitted("job-site", "already there", site.now))
    assert site.ordered == [ActionKind.CONFIRM]
    site.take(site.engine.on_confirmed(site.orders[0], other, [pod(main=RUNNING)], site.now))
    assert site.life is not None
    assert site.life.verdict is not None
    assert site.ordered == [ActionKind.DELETE_SECRET]


def test_a_job_launched_anew_and_the_orphan_of_its_name_have_a_life_each() -> None:
    left = workflow(uid="w9", phase="Running", **LEFT)
    site = Site().synced(workflows=(left,))
    assert site.engine.names == ("job-site", "job-site")


def test_an_answer_to_an_earlier_launch_says_nothing_of_the_next_one() -> None:
    """A request may be answered seconds after its job is gone, and that job be launched anew meanwhile."""
    site = Site().synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    (slow,) = site.take(site.engine.stop("job-site", Cause.ABORT, site.now)).orders
    assert slow.action.kind is ActionKind.SHUTDOWN
    shut, gone = workflow(phase="Failed", shutdown="Terminate", version=2), pod(main=ended(143), phase="Failed")
    site.changes(Kind.WORKFLOW, shut)
    (confirm,) = site.changes(Kind.POD, gone).orders
    (drop,) = site.take(site.engine.on_confirmed(confirm, shut, [gone], site.now)).orders
    site.take(site.engine.on_action_done(drop, site.now, ok=True))
    assert site.engine.names == (), "all is over but that one answer"
    site.engine.admit("job-site", "a2", StartTimeouts(), 3, site.now)
    site.take(site.engine.on_submitted("job-site", "", site.now))
    queued = workflow(phase="Pending", attempt="a2", uid="w2", version=3)
    site.changes(Kind.WORKFLOW, queued)
    site.take(site.engine.on_action_done(slow, site.now, ok=True))
    site.passes(5)
    site.take(site.engine.stop("job-site", Cause.CLEANUP, site.now))
    assert site.life is not None
    assert site.life.shutdown_at == math.inf, "it has not been shut down yet"
    assert site.ordered == [ActionKind.SHUTDOWN]


def test_a_fresh_read_that_a_stream_has_overtaken_is_not_believed() -> None:
    site = Site(StartTimeouts(unclaimed=30)).synced(workflows=(workflow(),))
    order = site.passes(30).orders[0]
    assert order.action.kind is ActionKind.CONFIRM
    site.changes(Kind.WORKFLOW, workflow(phase="Running", version=2))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    site.take(site.engine.on_confirmed(order, workflow(), [], site.now))
    assert site.stage is Stage.RUNNING
    assert site.life is not None
    assert site.life.verdict is None
    assert site.ordered == []


def test_a_fresh_read_that_a_stream_has_overtaken_is_repeated_at_once() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"),))
    order = site.changes(Kind.POD, pod(main=ended(1), phase="Running")).orders[0]
    site.changes(Kind.POD, pod(main=ended(1), phase="Failed", version=3))
    site.take(site.engine.on_confirmed(order, workflow(), [], site.now))
    assert site.ordered == [ActionKind.CONFIRM]
    failed = pod(main=ended(1), phase="Failed", version=3)
    site.take(site.engine.on_confirmed(site.orders[0], workflow(phase="Running"), [failed], site.now))
    assert site.life is not None
    assert site.life.verdict is not None
    assert site.life.verdict.exit_code == 1


def test_a_finished_orphan_is_looked_at_once_and_not_at_every_list() -> None:
    left = workflow("job-other", uid="w9", phase="Succeeded", **LEFT)
    site = Site().synced(workflows=(left,))
    site.take(site.engine.on_action_done(site.orders[0], site.now, ok=True))
    assert site.synced(workflows=(left,)).ordered == []


def test_an_orphans_pod_that_hangs_on_after_its_program_is_killed() -> None:
    """Argo's wait container may hang: until the pod is finished it holds its node's GPUs."""
    left = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", **LEFT)
    hangs = left_pod(main=ended(143), phase="Running")
    site = Site().synced(workflows=(left,), pods=(hangs,))
    acts: list[ActionKind] = []
    while ActionKind.DELETE_POD not in acts:
        assert site.now < 300, f"only {acts}"
        if not site.orders:
            site.passes(1)
            continue
        order, later = site.orders[0], site.orders[1:]
        acts.append(order.action.kind)
        if order.action.kind is ActionKind.CONFIRM:
            site.take(site.engine.on_confirmed(order, left, [hangs], site.now))
        else:
            site.take(site.engine.on_action_done(order, site.now, ok=True))
        site.orders += later


def test_what_failed_while_the_api_was_away_is_tried_again_at_once_when_it_is_back() -> None:
    site = Site().synced(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    order = site.take(site.engine.stop("job-site", Cause.ABORT, site.now)).orders[0]
    for _ in range(6):
        site.take(site.engine.on_action_done(order, site.now, ok=False))
        site.passes(31)
    site.take(site.engine.on_action_done(order, site.now, ok=False))
    assert site.ordered == []
    site.take(site.engine.on_listed(Kind.WORKFLOW, (workflow(phase="Running"),), site.now))
    assert site.ordered == [ActionKind.SHUTDOWN]


def test_a_frozen_api_costs_a_waiting_job_nothing_of_its_patience() -> None:
    """The streams say nothing and are not cut: for a minute nobody knows."""
    site = Site(StartTimeouts(pending=20)).synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    waiting = pod(conditions=[shortage])
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, waiting)
    site.passes(5)
    site.engine.on_contact(site.now)
    site.passes(15.1)
    assert site.ordered == [ActionKind.CONFIRM]
    (order,) = site.orders
    site.engine.on_unanswered(order, site.now, site.now)
    site.take(site.engine.on_action_done(order, site.now, ok=False)).passes(30)
    site.engine.on_contact(site.now)
    assert site.passes(14).ordered == []
    assert site.passes(2).ordered == [ActionKind.CONFIRM]


def test_of_the_silence_of_another_jobs_request_only_its_own_time_is_given_back() -> None:
    site = Site(StartTimeouts(pending=20)).synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, pod(conditions=[shortage]))
    hanging = Command("other", "other", Action(ActionKind.SHUTDOWN), "")
    site.passes(10)
    site.engine.on_unanswered(hanging, site.now - 4, site.now)
    site.passes(6)
    site.engine.on_contact(site.now)
    assert site.passes(13).ordered == []
    assert site.passes(2).ordered == [ActionKind.CONFIRM]


def test_how_stale_what_is_known_may_be() -> None:
    site = Site().synced()
    site.passes(7)
    assert site.engine.seconds_since_contact(site.now) == 7
    site.engine.on_contact(site.now)
    assert site.engine.seconds_since_contact(site.now) == 0


def test_moments_that_were_overtaken_are_not_kept() -> None:
    site = Site(StartTimeouts(pending=1e6)).synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    for version in range(1000):
        said = [{**shortage, "message": f"Insufficient cpu, {version}"}]
        site.changes(Kind.POD, pod(conditions=said, version=version + 1))
    assert len(site.engine._requeues) < 100
    assert site.passes(1e6 + 1).ordered == [ActionKind.CONFIRM]


def test_a_shutdown_is_ordered_with_the_reason_that_flare_will_hear() -> None:
    site = Site(StartTimeouts(pending=0.0)).synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    held, short = workflow(phase="Running"), pod(conditions=[shortage])
    site.changes(Kind.WORKFLOW, held)
    (confirm,) = site.changes(Kind.POD, short).orders
    site.take(site.engine.on_confirmed(confirm, held, [short], site.now))
    (order,) = site.orders
    assert (order.action.kind, order.end_reason, order.detail) == (
        ActionKind.SHUTDOWN,
        Reason.SHORTAGE,
        "Unschedulable Insufficient cpu; timeout of 0 s expired",
    )


def test_an_abort_is_ordered_as_one() -> None:
    site = Site().synced()
    site.take(site.engine.on_submitted("job-site", "", site.now))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.take(site.engine.stop("job-site", Cause.ABORT, site.now))
    assert [(order.action.kind, order.end_reason) for order in site.orders] == [(ActionKind.SHUTDOWN, Reason.ABORTED)]


@pytest.mark.parametrize("published", [True, False])
def test_a_job_that_is_disrupted_after_its_results_have_arrived_is_ended_as_a_success(published: bool) -> None:  # noqa: FBT001
    engine = Reconciler(lambda _: published, 0.0, epoch="me")
    engine.admit("job-site", "a1", StartTimeouts(), 3, 0.0)
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    held, going = workflow(phase="Running"), pod(main=RUNNING, phase="Running", conditions=[drained])
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    engine.on_listed(Kind.WORKFLOW, [held], 0.0)
    engine.on_submitted("job-site", "", 0.0)
    (confirm,) = engine.on_listed(Kind.POD, [going], 0.0).commands
    (order,) = engine.on_confirmed(confirm, held, [going], 0.0).commands
    assert order.action.kind is ActionKind.SHUTDOWN
    assert order.end_reason is (Reason.SUCCEEDED if published else Reason.DISRUPTED)


def test_a_list_is_heeded_where_an_object_is_newer_and_costs_little_where_it_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site().synced()
    held, runs = workflow(phase="Running", version=4), pod(main=RUNNING, phase="Running", version=5)
    site.synced(workflows=(held,), pods=(runs,))
    assert site.stage is Stage.RUNNING
    parse = Mock(wraps=pod_view), Mock(wraps=workflow_view)
    monkeypatch.setattr("flargo.control.reconciler.pod_view", parse[0])
    monkeypatch.setattr("flargo.control.reconciler.workflow_view", parse[1])
    site.synced(workflows=(held,), pods=(runs,))
    assert [each.call_count for each in parse] == [0, 0]
    site.synced(workflows=(held,), pods=(pod(main=ended(0), phase="Succeeded", version=6),))
    assert [each.call_count for each in parse] == [1, 0]
    assert site.life is not None
    assert site.life.verdict is not None


def test_a_list_of_objects_without_versions_is_believed() -> None:
    """Nothing says that they are the same."""
    site = Site().synced(workflows=(workflow(phase="Running", version=0),), pods=(pod(main=RUNNING, version=0),))
    site.synced(workflows=(workflow(phase="Running", version=0),), pods=(pod(main=ended(0), version=0),))
    assert site.life is not None
    assert site.life.verdict is not None
