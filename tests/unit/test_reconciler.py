"""Tests of the Reconciler: which job gets which input, which commands follow, and when its clocks run."""

import math
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from unittest.mock import Mock

import pytest

from flargo.cluster.api import Kind
from flargo.control.budget import BURST, FREE_REPEATS, TOKENS_PER_SECOND
from flargo.control.command import Command
from flargo.control.inputs import (
    Admitted,
    Changed,
    CommandDone,
    Contact,
    JobInput,
    Listed,
    ObjectsRead,
    SiteInput,
    TimePassed,
    Unanswered,
    WatchLost,
    WorkflowCreated,
)
from flargo.control.latest_views import differs_in_notes_only, has_same_status
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.status.diagnosis import Stage
from flargo.status.job_state import (
    CONFIRM,
    Action,
    ActionKind,
    Input,
    JobState,
    LaunchGivenUp,
    Now,
    Retry,
    Step,
    StopRequested,
    Submitted,
    Tick,
)
from flargo.status.reasons import Reason
from flargo.status.reconcile import reconcile
from flargo.status.verdict import Cause
from flargo.status.views import pod_view, workflow_view
from flargo.terms import StartTimeouts, Uid
from tests.harness.objects import RUNNING, Object, pod, terminated_state, workflow


class Site:
    """A Reconciler with one job, and a clock."""

    def __init__(self, timeouts: StartTimeouts | None = None) -> None:
        self.now = 100.0
        self.reconciler = Reconciler(lambda _: False, self.now, epoch="me", grace=3)
        self.reconciler.handle(Admitted("job-site", "a1", timeouts or StartTimeouts(), 3), self.now)
        self.state: JobState | None = None
        self.commands: tuple[Command, ...] = ()
        self.action_kinds: list[ActionKind] = []

    def record(self, result: Result) -> "Site":
        self.state = result.states[-1] if result.states else self.state
        self.commands = result.commands
        self.action_kinds = [command.action.kind for command in result.commands]
        return self

    def takes(self, input_: SiteInput) -> "Site":
        return self.record(self.reconciler.handle(input_, self.now))

    def lists(self, *, workflows: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> "Site":
        self.takes(Listed(Kind.WORKFLOW, workflows))
        return self.takes(Listed(Kind.POD, pods))

    def changes(self, kind: Kind, item: Object, *, deleted: bool = False) -> "Site":
        return self.takes(Changed(kind, item, deleted=deleted))

    def passes(self, seconds: float) -> "Site":
        self.now += seconds
        return self.takes(TimePassed())

    @property
    def stage(self) -> Stage:
        assert self.state is not None
        return self.state.stage


def test_job_is_tracked_to_its_verdict() -> None:
    site = Site().lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    assert site.stage is Stage.RUNNING
    site.changes(Kind.POD, pod(main=terminated_state(0, "Completed"), version=2))
    assert site.state is not None
    assert site.state.verdict is not None
    assert site.action_kinds == [ActionKind.DELETE_SECRET]


def test_reprs_are_short_and_hold_no_message() -> None:
    site = Site().lists(workflows=(workflow(phase="Running", message="a message of the cluster"),))
    site.takes(JobInput("job-site", "a1", StopRequested(Cause.ABORT)))
    (state,) = site.reconciler.states
    line = "<JobState job-site a1: WAITING, is being ended; in flight: SHUTDOWN; verdict: none>"
    assert repr(state) == line
    assert repr(site.reconciler) == f"<Reconciler in sync: POD, WORKFLOW; jobs: 1\n  {line}>"


def test_pod_that_shows_before_its_workflow_is_followed() -> None:
    """The submit has handed the Workflow over, so its pod belongs to the job although the other watch is late."""
    site = Site().lists()
    site.takes(WorkflowCreated("job-site", "a1", workflow(suspend=True)))
    assert [state.stage for state in site.reconciler.states] == [Stage.SUBMITTED]
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running", version=5))
    assert site.stage is Stage.RUNNING
    assert site.passes(60).action_kinds == []
    site.changes(Kind.WORKFLOW, workflow(suspend=True)).changes(Kind.WORKFLOW, workflow(phase="Running", version=4))
    assert site.stage is Stage.RUNNING


def test_created_workflow_of_an_earlier_launch_is_ignored() -> None:
    site = Site().lists()
    site.takes(WorkflowCreated("job-site", "a0", workflow(uid="w0", attempt="a0", suspend=True)))
    assert site.reconciler.states[0].stage is Stage.ABSENT


def test_copy_of_the_workflow_is_not_the_job() -> None:
    """Somebody has deleted the job's Workflow and created it again with all its annotations."""
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    site.takes(JobInput("job-site", "a1", Submitted()))
    copy = workflow(uid="w2", phase="Running", version=9)
    end, confirm = site.takes(Listed(Kind.WORKFLOW, (copy,))).commands
    assert (end.action, confirm.key) == (Action(ActionKind.SHUTDOWN, Uid("w2")), "job-site")
    result = site.reconciler.handle(ObjectsRead(confirm, copy, ()), site.now)
    (verdict,) = {state.verdict for state in result.states}
    assert verdict is not None
    assert verdict.reason is Reason.WORKFLOW_DELETED


@pytest.mark.parametrize(
    ("input_", "reason", "detail"),
    [
        (StopRequested(Cause.ABORT, nothing_created=True), Reason.ABORTED, "ended before it was submitted"),
        (StopRequested(Cause.PARENT_END, nothing_created=True), Reason.PARENT_ENDED, "ended before it was submitted"),
        (Submitted("no answer", nothing_created=True), Reason.LAUNCH_FAILED, "no answer"),
        (LaunchGivenUp("too late", nothing_created=True), Reason.LAUNCH_FAILED, "too late"),
    ],
)
def test_launch_that_created_nothing_is_over_at_once(
    input_: Submitted | StopRequested | LaunchGivenUp, reason: Reason, detail: str
) -> None:
    """Also if the API server has never answered; there is nothing to confirm, and nothing to delete."""
    site = Site()
    site.takes(JobInput("job-site", "a1", input_))
    assert site.state is not None
    assert site.state.verdict is not None
    assert site.state.verdict.reason is reason
    assert detail in site.state.verdict.detail
    assert site.state.is_cleared
    assert site.action_kinds == []
    assert site.reconciler.names == ()


def test_late_older_event_is_ignored() -> None:
    site = Site().lists()
    site.changes(Kind.WORKFLOW, workflow(phase="Running", version=7))
    site.changes(Kind.WORKFLOW, workflow(phase="", suspend=True, version=5))
    assert site.stage is Stage.WAITING


def test_deletion_of_earlier_workflow_is_ignored() -> None:
    """An earlier Workflow of the same name is not the job's own."""
    site = Site().lists()
    site.changes(Kind.WORKFLOW, workflow(phase="Running", uid="w2", version=7))
    site.changes(Kind.WORKFLOW, workflow(phase="Succeeded", uid="w1", version=9), deleted=True)
    assert site.stage is Stage.WAITING


def test_pod_of_earlier_workflow_is_ignored() -> None:
    """An earlier Workflow of the same name is not the job's own, and neither is its pod."""
    site = Site().lists(
        workflows=(workflow(phase="Running", uid="w2"),), pods=(pod(owner="w1", main=terminated_state(1)),)
    )
    assert site.stage is Stage.WAITING


def test_pod_that_lost_its_owner_is_still_the_jobs() -> None:
    """``kubectl delete --cascade=orphan`` on a Workflow leaves its pod, whose program runs on."""
    site = Site().lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    orphaned = pod(main=RUNNING, phase="Running", version=3)
    orphaned["metadata"]["ownerReferences"] = []
    site.changes(Kind.POD, orphaned).changes(Kind.WORKFLOW, workflow(phase="Running", version=4), deleted=True)
    assert site.action_kinds == [ActionKind.CONFIRM]
    site.takes(ObjectsRead(site.commands[0], None, (orphaned,)))
    assert site.action_kinds == [ActionKind.DELETE_POD]
    assert site.state is not None
    assert site.state.verdict is None


def test_list_without_the_pod_needs_confirmation() -> None:
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    site.lists(workflows=(workflow(phase="Running"),))
    assert site.action_kinds == [ActionKind.CONFIRM]


def test_deadline_requeues_then_confirms() -> None:
    site = Site(StartTimeouts(unclaimed=30)).lists(workflows=(workflow(),))
    assert site.reconciler.next_requeue_at() == site.now + 30
    assert site.passes(29).action_kinds == []
    assert site.passes(1).action_kinds == [ActionKind.CONFIRM]


def test_lost_watch_stops_timeouts() -> None:
    """Timeouts stop while a watch is lost, and the requeue does not become a busy loop."""
    site = Site(StartTimeouts(unclaimed=30)).lists(workflows=(workflow(),))
    site.passes(20)
    site.reconciler.handle(WatchLost(Kind.POD), site.now)
    assert site.passes(500).action_kinds == []
    assert (site.reconciler.next_requeue_at() or 0.0) >= site.now
    site.takes(Listed(Kind.POD, ()))
    assert site.passes(9).action_kinds == []
    assert site.passes(1).action_kinds == [ActionKind.CONFIRM]


def test_abort_of_unknown_job_is_ignored() -> None:
    assert Site().reconciler.handle(JobInput("other", "a1", StopRequested(Cause.ABORT)), 100.0) == Result()


def test_unknown_objects_are_not_tracked() -> None:
    site = Site().lists(workflows=(workflow("foreign", parent=""),))
    assert site.reconciler.handle(Changed(Kind.POD, pod("foreign")), site.now) == Result()
    assert site.reconciler.names == ("job-site",)


def test_cleared_job_is_forgotten() -> None:
    site = Site().lists(workflows=(workflow(phase="Running"),))
    reconciler = site.reconciler
    site.record(reconciler.handle(JobInput("job-site", "a1", Submitted()), site.now))
    result = reconciler.handle(Changed(Kind.POD, pod(main=terminated_state(0), phase="Succeeded")), site.now)
    reconciler.handle(CommandDone(result.commands[0], ok=True), site.now)
    reconciler.handle(Changed(Kind.WORKFLOW, workflow(phase="Succeeded", version=9)), site.now)
    assert reconciler.names == ()


ORPHAN: dict[str, Any] = {"parent": "an earlier run", "attempt": "a0"}


def orphan_pod(**more: Any) -> Object:
    """Return the pod of an orphan."""
    return pod("job-other", uid="p9", owner="w9", **more)


def test_orphan_is_ended() -> None:
    orphan = workflow("job-other", uid="w9", phase="Running", **ORPHAN)
    site = Site().lists(workflows=(orphan,), pods=(orphan_pod(main=RUNNING, phase="Running"),))
    assert site.action_kinds == [ActionKind.SHUTDOWN]
    assert site.commands[0].action.uid == "w9"
    site.takes(CommandDone(site.commands[0], ok=True))
    terminated_workflow = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", version=2, **ORPHAN)
    site.changes(Kind.WORKFLOW, terminated_workflow)
    assert site.action_kinds == [ActionKind.DELETE_POD]
    site.takes(CommandDone(site.commands[0], ok=True))
    site.changes(Kind.POD, orphan_pod(main=terminated_state(137), phase="Failed", version=3))
    assert site.action_kinds == [ActionKind.CONFIRM]
    ended_pod = orphan_pod(main=terminated_state(137), phase="Failed", version=3)
    site.takes(ObjectsRead(site.commands[0], terminated_workflow, (ended_pod,)))
    assert site.action_kinds == [ActionKind.DELETE_SECRET]
    assert site.commands[0].secret_name == "nvflare-cred-job-other-a0"
    site.takes(CommandDone(site.commands[0], ok=True))
    assert site.reconciler.names == ("job-site",)


def test_finished_orphan_loses_only_credentials() -> None:
    orphan = workflow("job-other", uid="w9", phase="Succeeded", **ORPHAN)
    site = Site().lists(workflows=(orphan,), pods=(orphan_pod(main=terminated_state(0), phase="Succeeded"),))
    assert site.action_kinds == [ActionKind.DELETE_SECRET]
    site.takes(CommandDone(site.commands[0], ok=True))
    assert site.reconciler.names == ("job-site",)


def test_program_that_outlived_orphan_is_killed() -> None:
    """The orphan's Workflow is completed, but its program still runs."""
    orphan = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", **ORPHAN)
    site = Site().lists(workflows=(orphan,), pods=(orphan_pod(main=RUNNING, phase="Running"),))
    assert ActionKind.DELETE_POD in site.action_kinds


HANDLER_RUNS = {
    "job-other": {"type": "Pod", "phase": "Succeeded", "outputs": {"exitCode": "0"}},
    "x": {"name": "job-other.onExit", "type": "Pod", "phase": "Running", "templateName": "notify"},
}


def orphan_of_late_pods() -> tuple[Site, Object]:
    """Return a site whose list of pods is older than that of its Workflows, and the orphan, whose step is over."""
    orphan = workflow("job-other", uid="w9", phase="Running", nodes=HANDLER_RUNS, version=9, **ORPHAN)
    site = Site()
    site.takes(Listed(Kind.POD, (orphan_pod(main=RUNNING, phase="Running", version=5),)))
    return site.takes(Listed(Kind.WORKFLOW, (orphan,))), orphan


def test_late_list_of_pods_ends_no_exit_handler() -> None:
    """The parent starts as an orphan ends by itself. On 5b90c11 the Workflow was shut down, its handler included."""
    site, orphan = orphan_of_late_pods()
    assert site.action_kinds == [ActionKind.CONFIRM]
    ended = orphan_pod(main=terminated_state(0), phase="Succeeded", version=7)
    site.takes(ObjectsRead(site.commands[0], orphan, (ended,)))
    assert site.action_kinds == [ActionKind.DELETE_SECRET]
    site.takes(CommandDone(site.commands[0], ok=True))
    assert site.changes(Kind.POD, ended).action_kinds == []
    completed = workflow("job-other", uid="w9", phase="Succeeded", nodes=HANDLER_RUNS, version=10, **ORPHAN)
    site.changes(Kind.WORKFLOW, completed)
    assert site.reconciler.names == ("job-site",)


def test_orphan_that_only_seemed_over_is_ended() -> None:
    site, orphan = orphan_of_late_pods()
    running = orphan_pod(main=RUNNING, phase="Running", version=8)
    site.takes(CommandDone(site.commands[0], ok=False))
    assert site.action_kinds == []
    (read,) = site.passes(1.1).commands
    assert read.action == CONFIRM, "until it succeeds"
    site.changes(Kind.POD, running)
    assert site.takes(ObjectsRead(read, orphan, (running,))).action_kinds == [ActionKind.SHUTDOWN]


def test_own_jobs_are_no_orphans() -> None:
    site = Site().lists(workflows=(workflow(phase="Running"), workflow("done", uid="w5", phase="Succeeded")))
    assert site.action_kinds == []


def test_workflow_without_parent_label_is_no_orphan() -> None:
    foreign_workflow = workflow("foreign", uid="w7", phase="Running", parent="")
    assert Site().lists(workflows=(foreign_workflow,)).action_kinds == []


def test_late_created_workflow_is_deleted() -> None:
    """The API server carries a create out after its launch was given up."""
    site = Site().lists()
    late_workflow = workflow("given-up", uid="w8", suspend=True)
    assert site.changes(Kind.WORKFLOW, late_workflow).action_kinds == [ActionKind.DELETE_WORKFLOW]


def test_workflow_of_another_launch_is_not_touched() -> None:
    site = Site().lists()
    other_workflow = workflow(phase="Running", attempt="other", parent="")
    site.changes(Kind.WORKFLOW, other_workflow)
    site.takes(JobInput("job-site", "a1", Submitted("already there")))
    assert site.action_kinds == [ActionKind.CONFIRM]
    site.takes(ObjectsRead(site.commands[0], other_workflow, (pod(main=RUNNING),)))
    assert site.state is not None
    assert site.state.verdict is not None
    assert site.action_kinds == [ActionKind.DELETE_SECRET]


def test_job_and_orphan_of_its_name_coexist() -> None:
    orphan = workflow(uid="w9", phase="Running", **ORPHAN)
    site = Site().lists(workflows=(orphan,))
    assert site.reconciler.names == ("job-site", "job-site")


def test_result_of_an_earlier_launch_is_ignored() -> None:
    """A request may be answered seconds after its job is gone, when the job has been launched again."""
    site = Site().lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    (slow_command,) = site.takes(JobInput("job-site", "a1", StopRequested(Cause.ABORT))).commands
    assert slow_command.action.kind is ActionKind.SHUTDOWN
    terminated_workflow, exited_pod = (
        workflow(phase="Failed", shutdown="Terminate", version=2),
        pod(main=terminated_state(143), phase="Failed"),
    )
    site.changes(Kind.WORKFLOW, terminated_workflow)
    (confirm,) = site.changes(Kind.POD, exited_pod).commands
    (delete_secret,) = site.takes(ObjectsRead(confirm, terminated_workflow, (exited_pod,))).commands
    site.takes(CommandDone(delete_secret, ok=True))
    assert site.reconciler.names == (), "only that one result is missing"
    site.reconciler.handle(Admitted("job-site", "a2", StartTimeouts(), 3), site.now)
    site.takes(JobInput("job-site", "a2", Submitted()))
    queued_workflow = workflow(phase="Pending", attempt="a2", uid="w2", version=3)
    site.changes(Kind.WORKFLOW, queued_workflow)
    site.takes(CommandDone(slow_command, ok=True))
    site.passes(5)
    site.takes(JobInput("job-site", "a2", StopRequested(Cause.CLEANUP)))
    assert site.state is not None
    assert site.state.shutdown_at == math.inf, "the new Workflow has not been shut down"
    assert site.action_kinds == [ActionKind.SHUTDOWN]


def test_outdated_fresh_read_is_discarded() -> None:
    site = Site(StartTimeouts(unclaimed=30)).lists(workflows=(workflow(),))
    command = site.passes(30).commands[0]
    assert command.action.kind is ActionKind.CONFIRM
    site.changes(Kind.WORKFLOW, workflow(phase="Running", version=2))
    site.changes(Kind.POD, pod(main=RUNNING, phase="Running"))
    site.takes(ObjectsRead(command, workflow(), ()))
    assert site.stage is Stage.RUNNING
    assert site.state is not None
    assert site.state.verdict is None
    assert site.action_kinds == []


def test_outdated_fresh_read_is_repeated_at_once() -> None:
    site = Site().lists(workflows=(workflow(phase="Running"),))
    command = site.changes(Kind.POD, pod(main=terminated_state(1), phase="Running")).commands[0]
    site.changes(Kind.POD, pod(main=terminated_state(1), phase="Failed", version=3))
    site.takes(ObjectsRead(command, workflow(), ()))
    assert site.action_kinds == [ActionKind.CONFIRM]
    failed_pod = pod(main=terminated_state(1), phase="Failed", version=3)
    site.takes(ObjectsRead(site.commands[0], workflow(phase="Running"), (failed_pod,)))
    assert site.state is not None
    assert site.state.verdict is not None
    assert site.state.verdict.exit_code == 1


def flapping_verdict(change: Callable[[int], dict[str, Any]]) -> tuple[Reason | None, int]:
    """Change the Workflow before each read of an exit arrives; return the verdict and the number of reads."""
    node = {"n": {"type": "Pod", "phase": "Running"}}
    running = pod(main=RUNNING, phase="Running")
    site = Site().lists(workflows=(workflow(phase="Running", nodes=node),), pods=(running,))
    site.takes(JobInput("job-site", "a1", Submitted()))
    failed, reads = pod(main=terminated_state(3), phase="Failed", version=2), 0
    site.changes(Kind.POD, failed)
    for number in range(300):
        pending, site.now = [*site.commands], site.now + 0.2
        item = workflow(phase="Running", nodes=node, version=10 + number)
        annotations = change(number)
        item["metadata"]["annotations"] |= annotations
        if "message" in annotations:
            item["status"]["message"] = annotations["message"]
        pending += site.changes(Kind.WORKFLOW, item).commands
        for command in pending:
            reads += command.action.kind is ActionKind.CONFIRM
            site.takes(ObjectsRead(command, item, (failed,)))
            if site.state is not None and site.state.verdict is not None:
                return site.state.verdict.reason, reads
    return None, reads


def test_flapping_annotation_discards_no_read() -> None:
    """Somebody toggles an annotation faster than a read takes. On 5b90c11 there were 3000 reads and no verdict."""
    annotation = "flargo.dev/released"
    reason, reads = flapping_verdict(lambda number: {annotation: "true"} if number % 2 else {})
    assert (reason, reads) == (Reason.PROGRAM_FAILED, 1)


def test_read_that_is_up_to_date_is_used_after_three() -> None:
    """Whatever changes all the time: its versions show that the read is not older than what the watch has shown."""
    reason, reads = flapping_verdict(lambda number: {"message": str(number)})
    assert (reason, reads) == (Reason.PROGRAM_FAILED, 4)


def test_reads_that_stay_outdated_take_tokens() -> None:
    """The reads lack a pod that the watch has shown."""
    running = pod(main=RUNNING, phase="Running")
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(running,))
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.POD, pod(main=terminated_state(3), phase="Failed", version=2))
    reads, started_at, next_commands = 0, site.now, site.commands
    for number in range(3000):
        commands, site.now = next_commands, site.now + 0.1
        item = workflow(phase="Running", message=str(number), version=10 + number)
        next_commands = site.changes(Kind.WORKFLOW, item).commands
        for command in commands:
            reads += command.action.kind is ActionKind.CONFIRM
            next_commands += site.takes(ObjectsRead(command, item, ())).commands
    assert site.state is not None
    assert site.state.verdict is None, "never concluded from a read that is older"
    assert reads <= BURST + TOKENS_PER_SECOND * (site.now - started_at) + 5


def test_finished_orphan_is_handled_once() -> None:
    orphan = workflow("job-other", uid="w9", phase="Succeeded", **ORPHAN)
    site = Site().lists(workflows=(orphan,))
    site.takes(CommandDone(site.commands[0], ok=True))
    assert site.lists(workflows=(orphan,)).action_kinds == []


def test_hanging_pod_of_orphan_is_deleted() -> None:
    """Argo's wait container may hang. Until the pod is terminal it occupies its node's GPUs."""
    orphan = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", **ORPHAN)
    hanging_pod = orphan_pod(main=terminated_state(143), phase="Running")
    site = Site().lists(workflows=(orphan,), pods=(hanging_pod,))
    kinds: list[ActionKind] = []
    while ActionKind.DELETE_POD not in kinds:
        assert site.now < 300, f"only {kinds}"
        if not site.commands:
            site.passes(1)
            continue
        command, other_commands = site.commands[0], site.commands[1:]
        kinds.append(command.action.kind)
        if command.action.kind is ActionKind.CONFIRM:
            site.takes(ObjectsRead(command, orphan, (hanging_pod,)))
        else:
            site.takes(CommandDone(command, ok=True))
        site.commands += other_commands


def test_backoff_ends_with_an_outage() -> None:
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    command = site.takes(JobInput("job-site", "a1", StopRequested(Cause.ABORT))).commands[0]
    for _ in range(6):
        site.takes(CommandDone(command, ok=False))
        site.passes(31)
    site.takes(CommandDone(command, ok=False))
    assert site.action_kinds == []
    site.takes(Listed(Kind.WORKFLOW, (workflow(phase="Running"),)))
    assert site.action_kinds == [ActionKind.SHUTDOWN]


def test_frozen_api_uses_up_no_timeout() -> None:
    """The watches deliver nothing and are not closed, so the outage shows up to a minute late."""
    site = Site(StartTimeouts(pending=20)).lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    waiting_pod = pod(conditions=[shortage])
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, waiting_pod)
    site.passes(5)
    site.reconciler.handle(Contact(), site.now)
    site.passes(15.1)
    assert site.action_kinds == [ActionKind.CONFIRM]
    (command,) = site.commands
    site.reconciler.handle(Unanswered(command, site.now), site.now)
    site.takes(CommandDone(command, ok=False)).passes(30)
    site.reconciler.handle(Contact(), site.now)
    assert site.passes(14).action_kinds == []
    assert site.passes(2).action_kinds == [ActionKind.CONFIRM]


def test_unanswered_request_gives_back_its_duration() -> None:
    site = Site(StartTimeouts(pending=20)).lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    site.changes(Kind.WORKFLOW, workflow(phase="Running")).changes(Kind.POD, pod(conditions=[shortage]))
    hanging = Command("other", "other", Action(ActionKind.SHUTDOWN), "")
    site.passes(10)
    site.reconciler.handle(Unanswered(hanging, site.now - 4), site.now)
    site.passes(6)
    site.reconciler.handle(Contact(), site.now)
    assert site.passes(13).action_kinds == []
    assert site.passes(2).action_kinds == [ActionKind.CONFIRM]


def test_shutdown_command_carries_the_reason() -> None:
    site = Site(StartTimeouts(pending=0.0)).lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    shortage = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    running_workflow, short_pod = workflow(phase="Running"), pod(conditions=[shortage])
    site.changes(Kind.WORKFLOW, running_workflow)
    (confirm,) = site.changes(Kind.POD, short_pod).commands
    site.takes(ObjectsRead(confirm, running_workflow, (short_pod,)))
    (command,) = site.commands
    assert (command.action.kind, command.end_reason, command.detail) == (
        ActionKind.SHUTDOWN,
        Reason.SHORTAGE,
        "Unschedulable Insufficient cpu; timeout of 0 s expired",
    )


def test_abort_command_carries_its_reason() -> None:
    site = Site().lists()
    site.takes(JobInput("job-site", "a1", Submitted()))
    site.changes(Kind.WORKFLOW, workflow(phase="Running"))
    site.takes(JobInput("job-site", "a1", StopRequested(Cause.ABORT)))
    assert [(command.action.kind, command.end_reason) for command in site.commands] == [
        (ActionKind.SHUTDOWN, Reason.ABORTED)
    ]


@pytest.mark.parametrize("has_results", [True, False])
def test_disruption_after_results_ends_as_success(has_results: bool) -> None:  # noqa: FBT001
    reconciler = Reconciler(lambda _: has_results, 0.0, epoch="me")
    reconciler.handle(Admitted("job-site", "a1", StartTimeouts(), 3), 0.0)
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    running_workflow, deleting_pod = workflow(phase="Running"), pod(main=RUNNING, phase="Running", conditions=[drained])
    deleting_pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    reconciler.handle(Listed(Kind.WORKFLOW, (running_workflow,)), 0.0)
    reconciler.handle(JobInput("job-site", "a1", Submitted()), 0.0)
    (confirm,) = reconciler.handle(Listed(Kind.POD, (deleting_pod,)), 0.0).commands
    (command,) = reconciler.handle(ObjectsRead(confirm, running_workflow, (deleting_pod,)), 0.0).commands
    assert command.action.kind is ActionKind.SHUTDOWN
    assert command.end_reason is (Reason.SUCCEEDED if has_results else Reason.DISRUPTED)


def test_list_parses_only_newer_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site().lists()
    running_workflow, running_pod = workflow(phase="Running", version=4), pod(main=RUNNING, phase="Running", version=5)
    site.lists(workflows=(running_workflow,), pods=(running_pod,))
    assert site.stage is Stage.RUNNING
    parse = Mock(wraps=pod_view), Mock(wraps=workflow_view)
    monkeypatch.setattr("flargo.control.reconciler.pod_view", parse[0])
    monkeypatch.setattr("flargo.control.reconciler.workflow_view", parse[1])
    site.lists(workflows=(running_workflow,), pods=(running_pod,))
    assert [each.call_count for each in parse] == [0, 0]
    site.lists(workflows=(running_workflow,), pods=(pod(main=terminated_state(0), phase="Succeeded", version=6),))
    assert [each.call_count for each in parse] == [1, 0]
    assert site.state is not None
    assert site.state.verdict is not None


def test_objects_without_versions_are_parsed() -> None:
    """Without versions, nothing shows that the objects are the same."""
    site = Site().lists(workflows=(workflow(phase="Running", version=0),), pods=(pod(main=RUNNING, version=0),))
    site.lists(workflows=(workflow(phase="Running", version=0),), pods=(pod(main=terminated_state(0), version=0),))
    assert site.state is not None
    assert site.state.verdict is not None


def test_defect_about_one_job_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both jobs are in one list. The one whose reconciliation fails is reconciled again later."""
    errors: list[str] = []
    reconciler = Reconciler(lambda _: False, 0.0, epoch="me", on_job_error=lambda name, _: errors.append(name))
    broken = {"broken"}

    def fail(state: JobState, input_: Input, now: Now) -> Step:
        if state.name in broken:
            raise ValueError("a defect")
        return reconcile(state, input_, now)

    monkeypatch.setattr("flargo.control.reconciler.reconcile", fail)
    for name in ("broken", "fine"):
        reconciler.handle(Admitted(name, "a1", StartTimeouts(), 3), 0.0)
    workflows = tuple(workflow(name, uid=f"w-{name}", phase="Running") for name in ("broken", "fine"))
    reconciler.handle(Listed(Kind.POD, ()), 0.0)
    result = reconciler.handle(Listed(Kind.WORKFLOW, workflows), 0.0)
    assert [state.name for state in result.states] == ["fine"]
    assert errors == ["broken"]
    broken.clear()
    assert "broken" in [state.name for state in reconciler.handle(TimePassed(), 30.0).states]


# --- Workflows that no launch follows


def cleared_site() -> Site:
    """Return a site whose job has ended, and about which everything is done."""
    site = Site().lists(workflows=(workflow(phase="Running"),))
    site.takes(JobInput("job-site", "a1", Submitted()))
    exited, over = pod(main=terminated_state(1), phase="Failed"), workflow(phase="Failed", version=9)
    (confirm,) = site.changes(Kind.POD, exited).commands
    site.changes(Kind.WORKFLOW, over)
    (confirm,) = site.takes(ObjectsRead(confirm, over, (exited,))).commands
    (delete_secret,) = site.takes(ObjectsRead(confirm, over, (exited,))).commands
    return site.takes(CommandDone(delete_secret, ok=True))


def test_cleared_job_is_marked() -> None:
    site = cleared_site()
    (mark,) = site.commands
    assert mark.action == Action(ActionKind.MARK_CLEARED, Uid("w1"))
    assert site.takes(CommandDone(mark, ok=False)).action_kinds == [], "refused, and nothing else happens"


def test_retried_workflow_is_ended() -> None:
    """Argo's Retry keeps the uid of a job that was cleared, and starts its step anew."""
    site = cleared_site()
    result = site.reconciler.handle(Changed(Kind.WORKFLOW, workflow(phase="Running", version=20)), site.now)
    (command,) = result.commands
    assert (command.action, command.end_reason) == (Action(ActionKind.SHUTDOWN, Uid("w1")), Reason.NOT_LAUNCHED)
    assert [notice.text for notice in result.notices] == [
        "job-site: no launch of this FLARE parent follows this Workflow; ending it"
    ]


def test_late_events_of_a_cleared_job_are_ignored() -> None:
    """The watch is behind the reads, and Argo goes on to write labels."""
    site = cleared_site()
    assert site.changes(Kind.WORKFLOW, workflow(phase="Running", version=8)).commands == ()
    assert site.changes(Kind.POD, pod(main=RUNNING, phase="Running")).commands == ()
    assert site.changes(Kind.WORKFLOW, workflow(phase="Failed", version=20)).commands == ()
    assert site.changes(Kind.WORKFLOW, workflow(phase="Failed", version=21), deleted=True).commands == ()
    assert site.changes(Kind.WORKFLOW, workflow(phase="Running", version=8)).commands == ()


def test_resubmitted_workflow_is_ended_and_its_job_goes_on() -> None:
    """Argo's Resubmit copies all labels and annotations to a Workflow of another name."""
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    site.takes(JobInput("job-site", "a1", Submitted()))
    copy = workflow("job-site-x7k2p", uid="w2", phase="Running", version=9)
    (command,) = site.changes(Kind.WORKFLOW, copy).commands
    assert (command.name, command.action) == ("job-site-x7k2p", Action(ActionKind.SHUTDOWN, Uid("w2")))
    states = {state.name: state for state in site.reconciler.states}
    assert not states["job-site"].is_stopping


@pytest.mark.parametrize("suspend", [True, False])
def test_own_create_without_response_is_followed(suspend: bool) -> None:  # noqa: FBT001
    site = Site().lists()
    assert site.changes(Kind.WORKFLOW, workflow(suspend=suspend, phase="Running")).commands == ()
    assert site.reconciler.names == ("job-site",)


def test_unfollowed_workflow_waits_for_the_pods() -> None:
    """A Workflow that is over may have a pod that still runs."""
    site = Site()
    left = workflow("job-other", uid="w9", phase="Succeeded", **ORPHAN)
    assert site.takes(Listed(Kind.WORKFLOW, (left,))).commands == ()
    assert (
        site.changes(Kind.WORKFLOW, {**left, "metadata": {**left["metadata"], "resourceVersion": "2"}}).commands == ()
    )
    kinds = site.takes(Listed(Kind.POD, (orphan_pod(main=RUNNING, phase="Running"),))).action_kinds
    assert ActionKind.DELETE_POD in kinds


def finished(number: int, **annotations: str) -> Object:
    """Return a finished Workflow of an earlier run."""
    item = workflow(f"job-{number}", uid=f"old-{number}", phase="Succeeded", **ORPHAN)
    item["metadata"]["annotations"] |= annotations
    return item


def test_finished_workflows_that_are_cleared_cost_nothing() -> None:
    site = Site()
    workflows = tuple(finished(number, **{"flargo.dev/cleared": "true"}) for number in range(3000))
    for _ in range(2):
        for input_ in (Listed(Kind.WORKFLOW, workflows), Listed(Kind.POD, ())):
            assert site.reconciler.handle(input_, site.now) == Result()
        site.passes(3600)
    assert site.reconciler.names == ("job-site",)


def test_finished_workflows_are_cleaned_within_the_budget() -> None:
    """Those of an earlier version are not marked. One line in the log sums up, and none is a warning."""
    site, cleaned, marked, notices = Site(), dict[str, float](), list[str](), list[str]()
    results = [site.reconciler.handle(Listed(Kind.WORKFLOW, tuple(map(finished, range(300)))), site.now)]
    results.append(site.reconciler.handle(Listed(Kind.POD, ()), site.now))
    started_at = site.now
    while results and site.now < started_at + 1000:
        result = results.pop(0)
        notices += [notice.text for notice in result.notices]
        for command in result.commands:
            if command.action.kind is ActionKind.DELETE_SECRET:
                cleaned[command.name] = site.now - started_at
            marked += [command.name] * (command.action.kind is ActionKind.MARK_CLEARED)
            results.append(site.reconciler.handle(CommandDone(command, ok=True), site.now))
        requeue_at = site.reconciler.next_requeue_at()
        if not results and requeue_at is not None and not notices:
            site.now = max(site.now, requeue_at)
            results.append(site.reconciler.handle(TimePassed(), site.now))
    assert len(cleaned) == 300
    assert sorted(marked) == sorted(cleaned), "the next run finds them marked"
    assert max(cleaned.values()) == pytest.approx((300 - BURST / 2) / (TOKENS_PER_SECOND / 2), abs=1.0)
    assert notices == ["300 finished Workflows of earlier runs: credentials checked"]


def test_workflow_that_was_really_ended_is_a_warning() -> None:
    orphan = workflow("job-other", uid="w9", phase="Running", **ORPHAN)
    site = Site().lists(workflows=(orphan,))
    (command,) = site.commands
    site.takes(CommandDone(command, ok=True))
    ended = workflow("job-other", uid="w9", phase="Failed", shutdown="Terminate", version=2, **ORPHAN)
    (confirm,) = site.changes(Kind.WORKFLOW, ended).commands
    (delete_secret,) = site.takes(ObjectsRead(confirm, ended, ())).commands
    result = site.reconciler.handle(CommandDone(delete_secret, ok=True), site.now)
    (notice,) = result.notices
    assert (notice.text, notice.is_warning) == (
        "job-other: Workflow left behind by another run of this FLARE parent was ended",
        True,
    )


def test_release_of_a_workflow_that_is_gone_ends_the_job() -> None:
    """The created Workflow is handed over after the watch has shown its deletion. The performer reads after a 404."""
    site, item = Site().lists(), workflow(suspend=True, version=3)
    deleted = workflow(suspend=True, version=4)
    site.changes(Kind.WORKFLOW, item).changes(Kind.WORKFLOW, deleted, deleted=True)
    site.takes(WorkflowCreated("job-site", "a1", item)).takes(JobInput("job-site", "a1", Submitted()))
    (release,) = site.passes(6).commands
    assert release.action.kind is ActionKind.RELEASE
    site.takes(CommandDone(release, ok=True)).takes(ObjectsRead(replace(release, action=CONFIRM), None, ()))
    assert site.state is not None
    assert site.state.verdict is not None
    assert site.state.verdict.reason is Reason.WORKFLOW_DELETED


# --- the budget


def sent_per_minute(site: Site, minutes: int) -> list[dict[ActionKind, int]]:
    """Let commands be accepted without effect; return the numbers of those of each minute."""
    counts = []
    pending = list(site.commands)
    for _ in range(minutes):
        counts.append(dict.fromkeys(ActionKind, 0))
        end = site.now + 60
        while site.now < end:
            commands, pending = pending, []
            for command in commands:
                counts[-1][command.action.kind] += 1
                pending += site.reconciler.handle(CommandDone(command, ok=True), site.now).commands
            site.now = min(end, max(site.now, site.reconciler.next_requeue_at() or end))
            pending += site.reconciler.handle(TimePassed(), site.now).commands
    return counts


def test_five_hundred_ends_without_a_controller_flood_nothing() -> None:
    """Argo's controller is away when 500 programs end, so it completes no Workflow."""
    site = Site().lists()
    for number in range(500):
        name = f"job-{number}"
        site.reconciler.handle(Admitted(name, "a1", StartTimeouts(), 3), site.now)
        site.changes(Kind.WORKFLOW, workflow(name, uid=f"w-{number}", phase="Running"))
        site.takes(JobInput(name, "a1", Submitted()))
        site.changes(Kind.POD, pod(name, uid=f"p-{number}", owner=f"w-{number}", main=RUNNING, phase="Running"))
    commands: list[Command] = []
    for number in range(500):
        ended = pod(
            f"job-{number}",
            uid=f"p-{number}",
            owner=f"w-{number}",
            main=terminated_state(0),
            phase="Succeeded",
            version=2,
        )
        commands += site.changes(Kind.POD, ended).commands
    site.commands = tuple(commands)
    minutes = sent_per_minute(site, 20)
    assert sum(minutes[0].values()) <= 2 * 500, "first tries"
    assert max(minute[ActionKind.TOUCH] for minute in minutes[5:]) <= 1, "a probe"
    assert max(sum(minute.values()) for minute in minutes[3:]) <= 2, "nothing but the probe"
    site.changes(Kind.WORKFLOW, workflow("job-7", uid="w-7", phase="Succeeded", version=9))
    back = sent_per_minute(site, 1)[0]
    assert back[ActionKind.TOUCH] > 1, "the controller is back"


def spend_budget(reconciler: Reconciler, now: float) -> None:
    """Take all tokens, as repeats of other jobs do."""
    while reconciler._budget.may_go("other", CONFIRM, now, is_repeated=True):
        pass
    reconciler._budget.withdraw("other")


def site_of(count: int) -> Reconciler:
    """Return a reconciler with running jobs j0, j1, ..., in sync."""
    reconciler = Reconciler(lambda _: False, 0.0, epoch="me", grace=3)
    node = {"n": {"type": "Pod", "phase": "Running"}}
    names = [f"j{number}" for number in range(count)]
    for name in names:
        reconciler.handle(Admitted(name, "a1", StartTimeouts(), 3), 0.0)
        reconciler.handle(JobInput(name, "a1", Submitted()), 0.0)
    items = tuple(workflow(name, uid=f"w-{name}", phase="Running", nodes=node) for name in names)
    pods = tuple(pod(name, uid=f"p-{name}", owner=f"w-{name}", main=RUNNING, phase="Running") for name in names)
    reconciler.handle(Listed(Kind.WORKFLOW, items), 0.0)
    reconciler.handle(Listed(Kind.POD, pods), 0.0)
    return reconciler


def ended_pod(name: str, code: int) -> Object:
    """Return the pod of one of these jobs after its end."""
    return pod(name, uid=f"p-{name}", owner=f"w-{name}", main=terminated_state(code), phase="Failed", version=2)


def test_held_actions_survive_a_clock_that_is_set_back() -> None:
    """The tick that sends one held action of a job finds that the other one is not wanted any more.

    On 5b90c11 handle raised KeyError, and all commands of that call were lost.
    """
    reconciler = site_of(2)
    for command in reconciler.handle(Changed(Kind.POD, ended_pod("j0", 0)), 1.0).commands:
        reconciler.handle(CommandDone(command, ok=True), 1.0)
    item = workflow("j1", uid="w-j1", phase="Running", message="progress", version=3)
    reconciler.handle(Changed(Kind.WORKFLOW, item), 40.0)  # Argo's controller works
    reconciler.handle(Contact(), 60.55)
    overdue = [c for c in reconciler.handle(TimePassed(), 61.0).commands if c.key == "j0"]
    assert [command.action.kind.name for command in overdue] == ["CONFIRM", "TOUCH"]
    for command in overdue:
        reconciler.handle(CommandDone(command, ok=False), 61.0)
    spend_budget(reconciler, 62.0)
    assert reconciler.handle(TimePassed(), 62.0).commands == ()
    assert len(reconciler._budget.waiting("j0")) == 2
    reconciler.handle(Unanswered(replace(overdue[0], key="other"), 60.0), 63.15)
    assert reconciler._budget.waiting("j0") == ()
    (state,) = (state for state in reconciler.states if state.name == "j0")
    assert all(retry.not_before < math.inf for retry in state.retries.values())


@pytest.mark.parametrize("count", [120, 500])
def test_kills_do_not_wait_behind_each_other_after_a_blip(count: int) -> None:
    """The API server fails for a moment while all jobs are ended. On 5b90c11 the last kill came minutes later."""
    reconciler = site_of(count)
    commands: list[Command] = []
    for number in range(count):
        stop = JobInput(f"j{number}", "a1", StopRequested(Cause.PARENT_END))
        commands += reconciler.handle(stop, 10.0).commands
    assert {command.action.kind for command in commands} == {ActionKind.SHUTDOWN}
    now = 11.0
    for backoff in (1.0, 2.0, 4.0):
        for command in commands:
            reconciler.handle(CommandDone(command, ok=False), now)
        now += backoff
        due = reconciler.handle(TimePassed(), now).commands
        commands = [command for command in due if command.action.kind is ActionKind.SHUTDOWN]
        assert len(commands) == count, "all at once"


def test_storm_of_refused_kills_is_bounded() -> None:
    """Every request of a hundred aborted jobs is refused: some free tries for each job, then two a second."""
    count, seconds, sent = 100, 600.0, 0
    reconciler, now = site_of(count), 10.0
    commands: list[Command] = []
    for number in range(count):
        commands += reconciler.handle(JobInput(f"j{number}", "a1", StopRequested(Cause.ABORT)), now).commands
    while now < 10.0 + seconds:
        pending, commands = commands, []
        sent += len(pending)
        for command in pending:
            commands += reconciler.handle(CommandDone(command, ok=False), now).commands
        now += 0.5
        commands += reconciler.handle(TimePassed(), now).commands
    kinds = 3  # shutdowns, deletions of the pod, reads
    assert sent <= count * kinds * (1 + FREE_REPEATS) + BURST + TOKENS_PER_SECOND * seconds


def test_read_for_the_verdict_waits_behind_no_other_job() -> None:
    """An API server that fails for a moment costs an exit 3 no minutes."""
    reconciler = site_of(1)
    spend_budget(reconciler, 10.0)
    (read,) = reconciler.handle(Changed(Kind.POD, ended_pod("j0", 3)), 10.0).commands
    reconciler.handle(CommandDone(read, ok=False), 10.0)
    spend_budget(reconciler, 11.0)
    (again,) = reconciler.handle(TimePassed(), 11.0).commands
    assert again.action == CONFIRM


def test_list_after_an_outage_makes_repeats_free_again() -> None:
    """But at most once a minute: a watch may be cut every few seconds."""
    reconciler = site_of(1)
    (command,) = reconciler.handle(JobInput("j0", "a1", StopRequested(Cause.ABORT)), 70.0).commands
    tracked = reconciler._tracked["j0"]
    tracked.sent[command.action] = 9
    for at, count in ((71.0, 1), (72.0, 0)):
        reconciler.handle(CommandDone(command, ok=False), at)
        spend_budget(reconciler, at)
        tracked.sent[command.action] = 9
        items = (workflow("j0", uid="w-j0", phase="Running", nodes={"n": {"type": "Pod", "phase": "Running"}}),)
        assert len(reconciler.handle(Listed(Kind.WORKFLOW, items), at).commands) == count


def test_repeated_read_waits_only_until_something_changes() -> None:
    """The exit of a pod must not wait for the repetition of an earlier read that concluded nothing."""
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(pod(main=RUNNING, phase="Running"),))
    site.takes(JobInput("job-site", "a1", Submitted()))
    spend_budget(site.reconciler, site.now)
    tracked = site.reconciler._tracked["job-site"]
    tracked.state = replace(tracked.state, retries=MappingProxyType({CONFIRM: Retry(0.0, tries=4)}), ran_twice=True)
    assert site.changes(Kind.POD, pod(main=RUNNING, phase="Running", version=1)).action_kinds == []
    site.takes(TimePassed())
    site.record(site.reconciler._apply("job-site", Tick(), site.now))
    assert site.action_kinds == [], "it waits for a token"
    assert site.changes(Kind.POD, pod(main=terminated_state(3), phase="Failed", version=2)).action_kinds == [
        ActionKind.CONFIRM
    ]


def test_other_pods_of_a_name_are_known() -> None:
    """The submit asks, from another thread, before it releases a Workflow."""
    site = Site()
    assert site.reconciler.may_have_other_pods("job-site", Uid("w1")), "not known yet"
    site.lists(pods=(pod(owner="w0"),))
    assert site.reconciler.may_have_other_pods("job-site", Uid("w1"))
    assert not site.reconciler.may_have_other_pods("job-site", Uid("w0"))
    without_owner = pod(uid="p7", version=2)
    del without_owner["metadata"]["ownerReferences"]
    site.changes(Kind.POD, without_owner)
    assert site.reconciler.may_have_other_pods("job-site", Uid("w0")), "somebody has deleted only the Workflow"
    site.changes(Kind.POD, without_owner, deleted=True)
    site.changes(Kind.POD, pod(owner="w0", version=2), deleted=True)
    assert not site.reconciler.may_have_other_pods("job-site", Uid("w1"))
    site.changes(Kind.POD, pod(owner="w0", uid="p2", version=3))
    assert site.reconciler.may_have_other_pods("job-site", Uid("w1"))
    site.lists()
    assert not site.reconciler.may_have_other_pods("job-site", Uid("w1"))
    site.takes(WatchLost(Kind.POD))
    assert site.reconciler.may_have_other_pods("job-site", Uid("w1")), "not known any more"


def test_pod_whose_owner_was_removed_is_still_ended() -> None:
    """``kubectl delete --cascade=orphan`` removes the owner and leaves the pod, which was the job's own before."""
    running = pod(main=RUNNING, phase="Running")
    site = Site().lists(workflows=(workflow(phase="Running"),), pods=(running,))
    site.takes(JobInput("job-site", "a1", Submitted()))
    orphaned = pod(main=RUNNING, phase="Running", version=5)
    del orphaned["metadata"]["ownerReferences"]
    (confirm,) = site.changes(Kind.WORKFLOW, workflow(phase="Running", version=4), deleted=True).commands
    site.changes(Kind.POD, orphaned).takes(ObjectsRead(confirm, None, (orphaned,)))
    (confirm,) = site.commands
    site.takes(ObjectsRead(confirm, None, (orphaned,)))
    assert ActionKind.DELETE_POD in site.action_kinds
    assert site.state is not None
    assert site.state.verdict is None, "its program runs"


def test_flargos_own_patch_is_no_sign_of_argos_controller() -> None:
    """A shutdown also notes its reason. Only what Argo writes shows that the controller works."""
    ended = workflow_view(workflow(phase="Running", suspend=True))
    shut_down = replace(ended, suspended=False, shutdown="Terminate", ending="ABORTED")
    assert has_same_status(shut_down, ended)
    assert not has_same_status(replace(shut_down, phase="Failed"), ended)
    assert not has_same_status(None, ended)


def test_only_what_no_conclusion_depends_on_is_a_note() -> None:
    """Each change of a view asks for a fresh read, except that of a note."""
    view = workflow_view(workflow(phase="Running"))
    notes: dict[str, Any] = {"cleared": True, "ending": "ABORTED", "released": True, "actor": "x", "has_verdict": True}
    for key, value in {**notes, "version": 9}.items():
        assert differs_in_notes_only(replace(view, **{key: value}), view), key
    others: dict[str, Any] = {"phase": "Failed", "suspended": True, "shutdown": "Stop", "deleting": True, "uid": "w2"}
    for key, value in others.items():
        assert not differs_in_notes_only(replace(view, **{key: value}), view), key
    held = replace(view, suspended=True)
    assert not differs_in_notes_only(replace(held, released=True), held), "a release has been accepted"


def test_the_last_state_of_a_deleted_pod_counts() -> None:
    """Argo makes another pod for one that was deleted before it had a node; both may be there before a read."""
    site = Site().takes(JobInput("job-site", "a1", Submitted()))
    site.lists(workflows=(workflow(phase="Running"),)).changes(Kind.POD, pod(version=2))
    (read,) = site.changes(Kind.POD, pod(version=3), deleted=True).commands
    second = pod(uid="p2", version=4, phase="Running", main=RUNNING)
    site.changes(Kind.POD, second).takes(ObjectsRead(read, workflow(phase="Running"), (second,)))
    assert site.state is not None
    assert (site.state.first_pod_uid, site.state.end_diagnosis) == ("p2", None)


def test_a_verdict_is_redacted_when_it_is_given() -> None:
    """The mark comes after the report of the verdict, from which on the job's credentials are not redacted any more."""
    secrets = ["t0ken"]
    reconciler = Reconciler(
        lambda _: False,
        0.0,
        epoch="me",
        redact=lambda text: text.replace(secrets[0], "[redacted]") if secrets else text,
    )
    reconciler.handle(Admitted("job-site", "a1", StartTimeouts(), 3), 0.0)
    running, failed = workflow(phase="Running"), workflow(phase="Failed", version=2)
    reconciler.handle(Listed(Kind.WORKFLOW, (running,)), 0.0)
    reconciler.handle(JobInput("job-site", "a1", Submitted()), 0.0)
    exited = pod(main=terminated_state(3), phase="Failed")
    exited["status"]["containerStatuses"][1]["state"]["terminated"]["message"] = "401 for t0ken"
    (confirm,) = reconciler.handle(Listed(Kind.POD, (exited,)), 0.0).commands
    (delete,) = reconciler.handle(ObjectsRead(confirm, running, (exited,)), 0.0).commands
    secrets.clear()
    reconciler.handle(CommandDone(delete, ok=True), 0.0)
    (mark,) = reconciler.handle(Changed(Kind.WORKFLOW, failed, deleted=False), 0.0).commands
    assert (mark.action.kind, mark.detail) == (ActionKind.MARK_CLEARED, "exit code 3; 401 for [redacted]")
