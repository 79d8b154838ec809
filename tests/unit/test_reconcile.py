"""Tests of reconcile(): the verdict and the actions that follow from a sequence of inputs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.job_state import Action, ActionKind, LaunchGivenUp, SecretReleased, Submitted
from flargo.status.reasons import Reason
from flargo.status.reconcile import KILL_LAG, NODE_LOST_AFTER
from flargo.status.rejoin import is_place_free
from flargo.status.verdict import Cause
from flargo.status.views import EventView, Exit, PodView, WorkflowView
from flargo.terms import StartTimeouts, Uid
from tests.harness.story import (
    FAILED,
    POD,
    POD_RUNNING,
    POD_SHORT,
    POD_STARTING,
    SUCCEEDED,
    SUSPENDED,
    TERMINATED,
    UNCLAIMED,
    WORKFLOW,
    Story,
    exited_pod,
    terminal_pod,
    waiting_pod,
)


def conclusion(story: Story) -> tuple[Reason, int] | None:
    verdict = story.verdict
    return None if verdict is None else (verdict.reason, verdict.code)


def test_exit_code_0_is_final() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(0, "Completed"))
    assert conclusion(story) == (Reason.SUCCEEDED, 0)
    assert story.actions == [ActionKind.DELETE_SECRET]


def test_a_kept_secret_is_deleted_once_it_is_released() -> None:
    story = Story()
    story.state = replace(story.state, keeps_secret=True)
    story.sees(SUCCEEDED, terminal_pod(exited_pod(0, "Completed"))).passes(3600)
    assert (story.actions, story.state.has_stopped, story.state.is_over) == ([], True, False)
    assert story.apply(SecretReleased()).actions == [ActionKind.DELETE_SECRET]
    assert story.does(ActionKind.DELETE_SECRET).state.is_cleared


def test_a_secret_that_is_released_early_is_deleted_after_the_verdict() -> None:
    story = Story()
    story.state = replace(story.state, keeps_secret=True)
    story.sees(WORKFLOW, POD_RUNNING).apply(SecretReleased())
    assert story.actions == []
    assert story.sees(WORKFLOW, exited_pod(0, "Completed")).actions == [ActionKind.DELETE_SECRET]


def test_argo_completes_a_successful_job() -> None:
    """After a success flargo takes no further action until Argo has completed the Workflow."""
    story = Story().sees(WORKFLOW, exited_pod(0, "Completed")).does(ActionKind.DELETE_SECRET).passes(5)
    assert not story.state.is_cleared
    assert story.actions == []
    assert not story.sees(SUCCEEDED, exited_pod(0, "Completed")).state.is_cleared, (
        "Argo's wait container keeps the pod alive"
    )
    assert story.sees(SUCCEEDED, terminal_pod(exited_pod(0, "Completed"))).state.is_cleared


def test_hanging_wait_container_is_ended() -> None:
    hanging_pod = exited_pod(0, "Completed")
    story = Story().sees(WORKFLOW, hanging_pod).does(ActionKind.DELETE_SECRET).passes(59)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, hanging_pod)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(TERMINATED, hanging_pod)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(TERMINATED)
    assert conclusion(story) == (Reason.SUCCEEDED, 0)
    assert story.state.is_cleared


def test_argo_gets_time_during_an_outage() -> None:
    story = Story().sees(WORKFLOW, exited_pod(0)).does(ActionKind.DELETE_SECRET).passes(3600, healthy=False)
    assert story.actions == []


def test_pod_on_lost_node_is_concluded() -> None:
    """FLARE gets the verdict, and flargo keeps deleting the pod."""
    deleting_pod = replace(POD_RUNNING, deleting=True)
    story = (
        Story()
        .sees(WORKFLOW, POD_RUNNING)
        .stops()
        .does(ActionKind.SHUTDOWN)
        .sees(TERMINATED, POD_RUNNING)
        .does(ActionKind.DELETE_POD)
    )
    story.sees(TERMINATED, deleting_pod).passes(62)
    assert conclusion(story) is None
    story.passes(1).reads(TERMINATED, deleting_pod)
    assert conclusion(story) == (Reason.ABORTED, 9)
    assert "was not seen" in story.state.verdict.detail  # type: ignore[union-attr]
    assert not story.state.is_cleared
    story.does(ActionKind.DELETE_POD)
    assert story.passes(19).actions[-1] is ActionKind.DELETE_POD


def test_long_grace_period_is_waited_out() -> None:
    """A node does not count as lost before the grace period has passed that somebody else gave the pod."""
    deleting_pod = replace(POD_RUNNING, deleting=True, deletion_grace=600.0)
    story = (
        Story()
        .sees(WORKFLOW, POD_RUNNING)
        .sees(WORKFLOW, deleting_pod)
        .reads(WORKFLOW, deleting_pod)
        .does(ActionKind.SHUTDOWN)
    )
    story.sees(TERMINATED, deleting_pod).does(ActionKind.DELETE_POD).passes(604)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(TERMINATED, deleting_pod).passes(54)
    assert conclusion(story) is None
    story.passes(1).reads(TERMINATED, deleting_pod)
    assert conclusion(story) == (Reason.POD_DELETED, 104)


def test_unseen_end_of_an_aborted_program_is_told() -> None:
    """A read before the node counts as lost shows the program running, and is no reason to keep quiet about it."""
    dying, terminated = replace(POD_RUNNING, deleting=True), replace(TERMINATED, ending="ABORTED")
    job = Story().sees(WORKFLOW, POD_RUNNING).stops().does(ActionKind.SHUTDOWN).sees(terminated, POD_RUNNING)
    job.does(ActionKind.DELETE_POD).sees(terminated, dying).passes(job.state.grace + KILL_LAG).reads(terminated, dying)
    job.passes(NODE_LOST_AFTER).reads(terminated, dying)
    assert conclusion(job) == (Reason.ABORTED, 9)
    assert job.verdict is not None
    assert job.verdict.detail == "Stopped with strategy 'Terminate'; its end on node n1 was not seen"


def test_lost_response_to_release_is_harmless() -> None:
    story = Story(is_submitted=False).sees(WORKFLOW, POD_RUNNING).apply(Submitted("no answer"))
    assert story.actions == []
    assert conclusion(story.sees(WORKFLOW, exited_pod(0))) == (Reason.SUCCEEDED, 0)


@pytest.mark.parametrize(
    ("pod", "reason", "code"),
    [
        pytest.param(exited_pod(1), Reason.PROGRAM_FAILED, 1, id="exit 1"),
        pytest.param(exited_pod(9), Reason.PROGRAM_FAILED, 1, id="own exit code 9 is no abort"),
        pytest.param(exited_pod(104), Reason.PROGRAM_FAILED, 1, id="own exit code 104 is no loss"),
        pytest.param(exited_pod(127), Reason.PROGRAM_FAILED, 1, id="own exit code 127"),
        pytest.param(exited_pod(139), Reason.PROGRAM_FAILED, 1, id="a crash"),
        pytest.param(exited_pod(101), Reason.PROGRAM_REPORTED, 101, id="FLARE's 101"),
        pytest.param(exited_pod(102), Reason.PROGRAM_REPORTED, 102, id="FLARE's 102"),
        pytest.param(exited_pod(103), Reason.PROGRAM_REPORTED, 103, id="FLARE's 103"),
        pytest.param(exited_pod(137, "OOMKilled"), Reason.OUT_OF_MEMORY, 104, id="out of memory"),
        pytest.param(replace(exited_pod(137), reason="Evicted", phase="Failed"), Reason.EVICTED, 104, id="evicted"),
        pytest.param(replace(exited_pod(143), deleting=True), Reason.POD_DELETED, 104, id="pod deleted"),
        pytest.param(exited_pod(137, "ContainerStatusUnknown"), Reason.NODE_LOST, 104, id="end not observed"),
        pytest.param(
            replace(exited_pod(137, "ContainerStatusUnknown"), deleting=True),
            Reason.POD_DELETED,
            104,
            id="deleted before its container was created",
        ),
        *(
            pytest.param(
                replace(exited_pod(137, "ContainerStatusUnknown"), deleting=True, disruption=disruption),
                reason,
                104,
                id=f"{disruption} before its container was created",
            )
            for disruption, reason in (
                ("EvictionByEvictionAPI", Reason.DISRUPTED),
                ("PreemptionByScheduler", Reason.DISRUPTED),
                ("DeletionByTaintManager", Reason.NODE_LOST),
            )
        ),
        pytest.param(
            replace(exited_pod(143), deleting=True, disruption="EvictionByEvictionAPI"),
            Reason.DISRUPTED,
            104,
            id="drained",
        ),
        pytest.param(replace(exited_pod(137), reason="Terminated"), Reason.DISRUPTED, 104, id="node shut down"),
        pytest.param(replace(exited_pod(143), reason="DeadlineExceeded"), Reason.DEADLINE, 104, id="past its deadline"),
        pytest.param(
            replace(exited_pod(64), exit=Exit(64, "Error", "failed to find name in PATH: exec: python")),
            Reason.CONTAINER,
            101,
            id="no such program",
        ),
        pytest.param(exited_pod(64), Reason.PROGRAM_FAILED, 1, id="own exit code 64"),
        pytest.param(
            replace(POD_STARTING, phase="Failed", init_failure="init container x: exit code 1"),
            Reason.INIT_FAILED,
            101,
            id="an init container failed",
        ),
        pytest.param(
            replace(POD_STARTING, phase="Failed", deleting=True, init_failure="init container x: exit code 143"),
            Reason.POD_DELETED,
            104,
            id="deleted while an init container ran",
        ),
        pytest.param(
            replace(POD, phase="Failed", reason="OutOfcpu"), Reason.NODE_REFUSED, 104, id="refused by its node"
        ),
        pytest.param(
            replace(POD, phase="Failed", reason="NodeShutdown"),
            Reason.DISRUPTED,
            104,
            id="came to a node that shuts down",
        ),
    ],
)
def test_other_ends_need_a_confirmation(pod: PodView, reason: Reason, code: int) -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, pod)
    assert conclusion(story) is None
    assert conclusion(story.reads(WORKFLOW, pod)) == (reason, code)


@pytest.mark.parametrize(
    ("pod", "reason", "code"),
    [
        pytest.param(replace(POD_RUNNING, disruption="EvictionByEvictionAPI"), Reason.DISRUPTED, 104, id="drained"),
        pytest.param(POD_RUNNING, Reason.POD_DELETED, 104, id="deleted"),
    ],
)
def test_disruption_outweighs_exit_code_from_argo(pod: PodView, reason: Reason, code: int) -> None:
    """A drain may interrupt the API server, too: flargo saw what was done to the pod, but not how the program ended."""
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, replace(pod, deleting=True))
    story.does(ActionKind.CONFIRM, ok=False).passes(30.0, healthy=False)
    message = "main: Error (exit code 143)"
    completed = replace(FAILED, message=message, node_phase="Failed", node_message=message, node_exit_code=143)
    story.sees(completed, after_relist=True).reads(completed)
    assert conclusion(story) == (reason, code)


def test_shutdown_of_deleted_workflow_needs_confirmation() -> None:
    """The watch delivered the deletion and then an older event, so the Workflow seems to exist."""
    story = Story().sees(WORKFLOW, POD_STARTING).stops(Cause.ABORT).does(ActionKind.SHUTDOWN).sees(WORKFLOW)
    story.passes(10)
    assert ActionKind.CONFIRM in story.actions
    story.reads(None)
    assert conclusion(story) == (Reason.ABORTED, 9)


@pytest.mark.parametrize("workflow", [WORKFLOW, replace(WORKFLOW, phase="Error", message="pod deleted")])
@pytest.mark.parametrize(
    ("disruption", "reason"),
    [
        ("EvictionByEvictionAPI Eviction API: evicting", Reason.DISRUPTED),
        ("DeletionByPodGC PodGC: node no longer exists", Reason.NODE_LOST),
        ("", Reason.POD_DELETED),
    ],
)
def test_latest_view_explains_a_missing_pod(workflow: WorkflowView, disruption: str, reason: Reason) -> None:
    deleting_pod = replace(POD_RUNNING, deleting=True, disruption=disruption)
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, deleting_pod).sees(workflow).reads(workflow)
    assert conclusion(story) == (reason, 104)


def test_argo_proves_success_of_a_missing_pod() -> None:
    deleting_pod = replace(POD_RUNNING, deleting=True, disruption="EvictionByEvictionAPI")
    completed = replace(SUCCEEDED, node_exit_code=0)
    assert conclusion(Story().sees(WORKFLOW, deleting_pod).sees(completed).reads(completed)) == (Reason.SUCCEEDED, 0)


def test_pod_that_only_argo_saw_was_deleted() -> None:
    ran = replace(WORKFLOW, has_node=True, node_phase="Running")
    assert conclusion(Story().sees(WORKFLOW).sees(ran).reads(ran)) == (Reason.POD_DELETED, 104)


def test_pod_that_only_argo_saw_is_read() -> None:
    ran = replace(WORKFLOW, has_node=True, node_phase="Running")
    story = Story().sees(WORKFLOW).sees(ran).reads(ran, POD_RUNNING).lists_events()
    assert conclusion(story) is None
    assert conclusion(story.sees(ran, exited_pod(0))) == (Reason.SUCCEEDED, 0)


LAUNCHED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event_of_another_pod(seconds: float) -> EventView:
    """Return an event about another pod of the same name, the given seconds after the launch."""
    return EventView("Started", pod_uid="p0", first_timestamp=LAUNCHED_AT + timedelta(seconds=seconds))


def test_events_reveal_an_unseen_pod() -> None:
    launched = replace(WORKFLOW, created=LAUNCHED_AT)
    story = Story().sees(launched).sees(launched, POD_RUNNING, after_relist=True)
    assert story.actions == [ActionKind.LIST_EVENTS]
    story.lists_events(event_of_another_pod(3)).reads(launched, POD_RUNNING).does(ActionKind.SHUTDOWN).sees(
        TERMINATED, exited_pod(143)
    )
    story.reads(TERMINATED, exited_pod(143))
    assert conclusion(story) == (Reason.RUN_TWICE, 104)


def test_events_of_an_earlier_launch_are_ignored() -> None:
    launched = replace(WORKFLOW, created=LAUNCHED_AT)
    story = Story().sees(launched).sees(launched, POD_RUNNING, after_relist=True).lists_events(event_of_another_pod(-3))
    assert story.actions == []
    assert conclusion(story.sees(launched, exited_pod(0))) == (Reason.SUCCEEDED, 0)


def test_observed_start_needs_no_events() -> None:
    assert Story().sees(WORKFLOW).sees(WORKFLOW, POD).sees(WORKFLOW, POD_RUNNING, after_relist=True).actions == []


def test_shutdown_may_be_observed_after_exit_143() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(143))
    assert conclusion(story.reads(TERMINATED, exited_pod(143))) == (Reason.SHUT_DOWN, 9)


def test_observed_exit_survives_its_pod() -> None:
    story = Story().sees(WORKFLOW, exited_pod(1)).reads(WORKFLOW)
    assert conclusion(story) == (Reason.PROGRAM_FAILED, 1)


def test_argo_records_exit_code_of_missing_pod() -> None:
    completed = replace(FAILED, node_exit_code=101)
    assert conclusion(Story().sees(WORKFLOW, POD_RUNNING).sees(completed).reads(completed)) == (
        Reason.PROGRAM_REPORTED,
        101,
    )


@pytest.mark.parametrize(
    ("workflow", "reason", "code"),
    [
        pytest.param(
            replace(WORKFLOW, phase="Error", message='pods "x" is forbidden: violates PodSecurity "restricted"'),
            Reason.POD_REFUSED,
            101,
            id="pod refused",
        ),
        pytest.param(replace(FAILED, message="invalid spec: no entrypoint"), Reason.INVALID, 101, id="invalid spec"),
        pytest.param(
            replace(WORKFLOW, phase="Error", message="failed to initialize semaphore flare/ConfigMap/x/y with limit"),
            Reason.SEMAPHORE,
            101,
            id="semaphore unreadable",
        ),
        pytest.param(
            replace(WORKFLOW, phase="Error", message='configmaps "x" is forbidden: User "argo" cannot get resource'),
            Reason.SEMAPHORE,
            101,
            id="semaphore unreadable, Argo 3.6",
        ),
        pytest.param(
            replace(WORKFLOW, phase="Error", message="pod deleted"), Reason.POD_DELETED, 104, id="pod deleted"
        ),
        pytest.param(replace(WORKFLOW, phase="Error", message="other"), Reason.ARGO_FAILED, 104, id="anything else"),
    ],
)
def test_workflow_ends_without_a_pod(workflow: WorkflowView, reason: Reason, code: int) -> None:
    assert conclusion(Story().sees(workflow).reads(workflow)) == (reason, code)


@pytest.mark.parametrize("waiting_reason", ["ErrImagePull", "ImageInspectError", "SignatureValidationFailed"])
def test_unavailable_image_ends_the_job(waiting_reason: str) -> None:
    stuck = waiting_pod(waiting_reason, "not found")
    story = Story().sees(WORKFLOW, stuck).passes(9)
    assert story.actions == []
    story.passes(1).lists_events().reads(WORKFLOW, stuck)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(TERMINATED, stuck)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(TERMINATED).reads(TERMINATED)
    assert conclusion(story) == (Reason.IMAGE, 101)
    assert "not found" in story.state.verdict.detail  # type: ignore[union-attr]


def test_shortage_lasts_for_pending_timeout() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(119)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


@pytest.mark.parametrize(
    "message",
    [
        "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
        "0/1 nodes are available: 1 node(s) were unschedulable.",
        "no nodes available to schedule pods",
    ],
)
def test_taints_are_tolerated_for_a_while(message: str) -> None:
    tainted = replace(POD_SHORT, unscheduled_message=message)
    story = Story().sees(WORKFLOW, tainted).passes(59)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, tainted)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNSCHEDULABLE


def test_pending_timeout_of_0_and_of_none() -> None:
    """A timeout of 0 fails the job at once, None never does."""
    assert Story(StartTimeouts(pending=0)).sees(WORKFLOW, POD_SHORT).actions == [ActionKind.CONFIRM]
    assert Story(StartTimeouts(pending=None)).sees(WORKFLOW, POD_SHORT).passes(1e6).actions == []


def test_timeouts_stop_without_api_contact() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(3600, healthy=False)
    assert story.actions == []


def test_pod_scheduled_before_confirmation_goes_on() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(120).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is None
    assert story.actions == []


def test_other_unschedulable_causes_fail_at_once() -> None:
    pod = replace(POD, unscheduled_reason="Unschedulable", unscheduled_message='persistentvolumeclaim "x" not found')
    story = Story().sees(WORKFLOW, pod).reads(WORKFLOW, pod)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNSCHEDULABLE


def test_unclaimed_workflow_times_out() -> None:
    story = Story(StartTimeouts(unclaimed=60)).sees(UNCLAIMED).passes(60).reads(UNCLAIMED)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNCLAIMED
    assert story.state.end_diagnosis.detail == "timeout of 60 s expired"


def test_abort_shuts_down_then_deletes_pod() -> None:
    """The pod is deleted once Argo has completed the Workflow."""
    story = Story().sees(WORKFLOW, POD_RUNNING).stops()
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN)
    assert story.actions == [], "Argo may create a pod again that is deleted before it knows of the shutdown"
    story.sees(TERMINATED, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(TERMINATED, replace(exited_pod(143), deleting=True))
    assert conclusion(story.reads(TERMINATED, exited_pod(143))) == (Reason.ABORTED, 9)


def test_abort_works_without_the_controller() -> None:
    shut = replace(WORKFLOW, shutdown="Terminate")
    story = Story().sees(WORKFLOW, POD_RUNNING).stops().does(ActionKind.SHUTDOWN).sees(shut, POD_RUNNING).passes(3)
    assert story.actions == [ActionKind.DELETE_POD]


def test_pod_deletion_is_repeated() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).stops().does(ActionKind.SHUTDOWN).sees(TERMINATED, POD_RUNNING)
    story.does(ActionKind.DELETE_POD, ok=False)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.DELETE_POD]
    assert story.does(ActionKind.DELETE_POD, ok=False).passes(2).actions == [ActionKind.DELETE_POD]
    assert story.does(ActionKind.DELETE_POD).passes(7).actions == []
    story.passes(1).reads(TERMINATED, POD_RUNNING)
    assert story.passes(4).actions == [ActionKind.CONFIRM]
    assert story.passes(1).actions == [ActionKind.CONFIRM, ActionKind.DELETE_POD]
    assert conclusion(story) is None


def test_missed_end_of_a_pod_is_read() -> None:
    """A late event may show a pod again that a read has shown gone, and the event of its end may never come."""
    workflow = replace(WORKFLOW, node_phase="Running")
    dying = replace(POD_RUNNING, deleting=True, disruption="EvictionByEvictionAPI: evicting")
    failed = replace(FAILED, node_phase="Failed")
    job = Story().sees(workflow, POD_RUNNING).sees(workflow, dying).reads(workflow, dying).passes(1).reads(workflow)
    assert conclusion(job) == (Reason.DISRUPTED, 104)
    job.does(ActionKind.DELETE_SECRET).sees(workflow, dying).sees(failed, dying).does(ActionKind.DELETE_POD)
    assert not is_place_free(job.state)
    job.passes(job.state.grace + KILL_LAG).reads(failed)
    assert is_place_free(job.state)


def test_program_ignoring_sigterm_is_killed() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(TERMINATED, POD_RUNNING).reads(TERMINATED, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(TERMINATED).reads(TERMINATED)
    assert conclusion(story) == (Reason.SHUT_DOWN, 9)


def test_abort_during_submit_deletes_late_workflow() -> None:
    story = Story(is_submitted=False).stops()
    assert story.actions == []
    story.sees(SUSPENDED)
    assert story.actions == [ActionKind.DELETE_WORKFLOW]


def test_abort_before_anything_exists() -> None:
    story = Story(is_submitted=False).stops().apply(Submitted("cancelled")).reads(None)
    assert conclusion(story) == (Reason.ABORTED, 9)
    assert story.does(ActionKind.DELETE_SECRET).state.is_cleared


def test_failed_submit_leaves_nothing() -> None:
    story = Story(is_submitted=False).sees(SUSPENDED).apply(Submitted("secrets is forbidden")).reads(SUSPENDED)
    assert story.actions == [ActionKind.DELETE_WORKFLOW]
    story.does(ActionKind.DELETE_WORKFLOW).sees(None).reads(None)
    assert conclusion(story) == (Reason.LAUNCH_FAILED, 101)
    assert "forbidden" in story.state.verdict.detail  # type: ignore[union-attr]


def test_credentials_are_deleted_after_the_submit() -> None:
    """A submit that has not finished may be about to create the Secret."""
    invalid = replace(SUSPENDED, phase="Failed", message="invalid spec: no such template")
    story = Story(is_submitted=False).sees(invalid).reads(invalid)
    assert conclusion(story) == (Reason.INVALID, 101)
    assert story.actions == []
    assert story.apply(Submitted()).actions == [ActionKind.DELETE_SECRET]
    story.does(ActionKind.DELETE_SECRET).passes(1).reads(invalid)
    assert story.state.is_cleared


def test_second_pod_ends_the_job() -> None:
    second = replace(POD_RUNNING, uid=Uid("p2"), name="job-site-2")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, second).reads(WORKFLOW, second)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(TERMINATED, second).does(ActionKind.DELETE_POD).sees(TERMINATED).reads(
        TERMINATED
    )
    assert conclusion(story) == (Reason.RUN_TWICE, 104)


def test_first_failure_stands_despite_a_retry() -> None:
    first, second = exited_pod(3), replace(POD_STARTING, uid=Uid("p2"), name="job-site-2")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, first, second).reads(WORKFLOW, first, second)
    assert conclusion(story) == (Reason.PROGRAM_FAILED, 1)
    story.does(ActionKind.SHUTDOWN).sees(TERMINATED, first, second)
    assert Action(ActionKind.DELETE_POD, Uid("p2")) in story.pending_actions


def test_missing_pod_is_not_run_again() -> None:
    story = Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW).reads(WORKFLOW)
    assert conclusion(story) == (Reason.POD_DELETED, 104)
    assert ActionKind.SHUTDOWN in story.actions


def test_workflow_deleted_by_a_person() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(None, POD_RUNNING).reads(None, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(None).reads(None)
    assert conclusion(story) == (Reason.WORKFLOW_DELETED, 104)


def test_drain_after_results_is_a_success() -> None:
    drained = replace(exited_pod(143), deleting=True, disruption="EvictionByEvictionAPI")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, drained).reads(WORKFLOW, drained, has_results=True)
    assert conclusion(story) == (Reason.SUCCEEDED, 0)


@pytest.mark.parametrize(
    ("cause", "code", "expected"),
    [
        (Cause.ABORT, 0, (Reason.ABORTED, 9)),
        (Cause.ABORT, 1, (Reason.ABORTED, 9)),
        (Cause.ABORT, 102, (Reason.PROGRAM_REPORTED, 102)),
        (Cause.CLEANUP, 0, (Reason.SUCCEEDED, 0)),
        (Cause.CLEANUP, 143, (Reason.CLEANED_UP, 1)),
        (Cause.PARENT_END, 143, (Reason.PARENT_ENDED, 104)),
    ],
)
def test_verdict_from_cause_and_exit_code(cause: Cause, code: int, expected: tuple[Reason, int]) -> None:
    story = (
        Story().sees(WORKFLOW, POD_RUNNING).stops(cause).does(ActionKind.SHUTDOWN).sees(TERMINATED, exited_pod(code))
    )
    if story.verdict is None:
        story.reads(TERMINATED, exited_pod(code))
    assert conclusion(story) == expected


def test_terminate_after_the_end_is_ignored() -> None:
    story = Story().sees(WORKFLOW, exited_pod(0, "Completed")).stops()
    assert conclusion(story) == (Reason.SUCCEEDED, 0)
    assert story.actions == [ActionKind.DELETE_SECRET]


def test_verdict_never_changes() -> None:
    story = Story().sees(WORKFLOW, exited_pod(1)).reads(WORKFLOW, exited_pod(1)).sees(WORKFLOW, POD_RUNNING).sees(None)
    assert conclusion(story) == (Reason.PROGRAM_FAILED, 1)


def test_absence_during_submit_proves_nothing() -> None:
    assert conclusion(Story(is_submitted=False).sees(None).passes(1000)) is None


def event(reason: str, message: str = "", count: int = 1, span: float = 0.0, at: float = 0.0) -> EventView:
    """Return an event that occurred ``count`` times within ``span`` seconds, the last time at second ``at``."""
    last = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    return EventView(reason, message, count, last - timedelta(seconds=span), last)


def slow_start(*events: EventView, timeouts: StartTimeouts | None = None) -> Story:
    """Return the story of a pod that has had a node for ten seconds without running; its events have been listed."""
    story = Story(timeouts).sees(WORKFLOW, POD_STARTING).passes(9)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.LIST_EVENTS]
    return story.lists_events(*events)


def test_events_of_slow_pods_are_listed() -> None:
    """Only a pod that starts slowly has its events listed, at growing intervals."""
    story = slow_start()
    assert story.passes(9).actions == []
    assert story.passes(1).actions == [ActionKind.LIST_EVENTS]
    assert Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW, POD_RUNNING).passes(100).actions == []


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (event("FailedMount", 'secret "x" not found', count=6, span=16), Reason.VOLUME),
        (event("FailedAttachVolume", "Multi-Attach error", count=5, span=61), Reason.VOLUME),
        (event("FailedCreatePodSandBox", "no IP addresses", count=9, span=90), Reason.SANDBOX),
    ],
    ids=lambda it: it.reason if isinstance(it, EventView) else "",
)
def test_persistent_failure_events_end_the_job(failure: EventView, reason: Reason) -> None:
    story = slow_start(failure).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert failure.message in story.state.end_diagnosis.detail


@pytest.mark.parametrize(
    "failure",
    [
        event("FailedMount", 'secret "x" not found', count=2, span=1),
        event("FailedMount", "timed out", count=9, span=30),
        event("FailedMount", "driver name x not found in the list of registered CSI drivers", count=9, span=30),
        event("FailedCreatePodSandBox", 'plugin type="x" failed (add): socket not found', count=9, span=30),
        event("FailedCreatePodSandBox", "no IP addresses"),
    ],
    ids=["twice at first", "half a minute", "driver of a new node", "network of a new node", "once"],
)
def test_passing_failure_events_are_harmless(failure: EventView) -> None:
    story = slow_start(failure)
    assert story.actions == []
    assert conclusion(story.sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(0))) == (Reason.SUCCEEDED, 0)


@pytest.mark.parametrize("failure", ["FailedMount", "FailedCreatePodSandBox"])
def test_a_started_container_resolves_failure_events(failure: str) -> None:
    """A mount failed for a minute and recovered; then an init container works for hours."""
    initializing = replace(POD_STARTING, has_started=True)
    story = Story().sees(WORKFLOW, initializing).passes(10).lists_events(event(failure, "timed out", 9, span=90))
    assert story.state.end_diagnosis is None
    assert ActionKind.CONFIRM not in story.actions
    story.sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(0))
    assert conclusion(story) == (Reason.SUCCEEDED, 0)


def test_pulling_has_its_own_timeout() -> None:
    story = slow_start(event("Pulling", at=1), timeouts=StartTimeouts(starting=60, pulling=600))
    stages = [story.state.stage]
    story.pending_actions.clear()
    assert ActionKind.CONFIRM not in story.passes(300).actions
    story.lists_events(event("Pulling", at=1), event("Pulled", at=200))
    stages.append(story.state.stage)
    assert ActionKind.CONFIRM in story.passes(60).actions
    assert stages == [Stage.PULLING, Stage.STARTING]


def test_pulls_are_tracked_per_image() -> None:
    present_image = event("Pulled", 'Container image "argoexec" already present on machine', at=1)
    pulling = event("Pulling", 'Pulling image "job"', at=1)
    assert slow_start(present_image, pulling).state.stage is Stage.PULLING
    pulled = event("Pulled", 'Successfully pulled image "job" in 9s', at=10)
    assert slow_start(present_image, pulling, pulled).state.stage is Stage.STARTING


def test_mount_failure_before_pull_is_resolved() -> None:
    mount = event("FailedMount", "timed out waiting for the condition", at=0)
    story = slow_start(mount, event("Pulling", 'Pulling image "job"', at=1), timeouts=StartTimeouts(pulling=60)).passes(
        60
    )
    story.reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.PULLING
    assert story.state.end_diagnosis.detail.startswith('Pulling image "job"')


def test_pull_timeout_names_the_image() -> None:
    story = slow_start(event("Pulling", 'Pulling image "job"'), timeouts=StartTimeouts(pulling=60)).passes(60)
    story.reads(WORKFLOW, POD_STARTING).does(ActionKind.SHUTDOWN).sees(
        TERMINATED, exited_pod(137, "ContainerStatusUnknown")
    )
    story.reads(TERMINATED, exited_pod(137, "ContainerStatusUnknown"))
    assert conclusion(story) == (Reason.PULLING, 101)
    assert story.state.verdict.detail == 'Pulling image "job"; timeout of 60 s expired'  # type: ignore[union-attr]


def test_queueing_does_not_use_up_pending_timeout() -> None:
    queued = replace(WORKFLOW, awaited_lock="Waiting for lock")
    story = Story(StartTimeouts(pending=5, queued=3600)).sees(queued).passes(3500)
    assert story.actions == []
    story.sees(WORKFLOW, POD_SHORT).passes(4)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


@pytest.mark.parametrize(
    ("workflow", "timeouts", "reason"),
    [
        (replace(WORKFLOW, node_message="pods is forbidden: exceeded quota: q"), StartTimeouts(quota=30), Reason.QUOTA),
        (replace(WORKFLOW, phase="Pending", awaited_lock="Waiting for lock"), StartTimeouts(queued=30), Reason.QUEUED),
        (replace(WORKFLOW, awaited_lock="Waiting for lock"), StartTimeouts(queued=30), Reason.QUEUED),
    ],
    ids=["quota", "a lock on the Workflow", "a lock on the step"],
)
def test_quota_and_locks_have_own_timeouts(workflow: WorkflowView, timeouts: StartTimeouts, reason: Reason) -> None:
    story = Story(timeouts).sees(workflow).passes(29)
    assert story.actions == []
    story.passes(1).reads(workflow)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert story.state.end_diagnosis.detail.endswith("timeout of 30 s expired")


SERVER_TIMEOUTS = StartTimeouts(
    pending=None, unclaimed=None, quota=None, queued=None, starting=None, placement=30, total=900
)
"""The timeouts of a server's job that only its launch limits."""
TAINTED = replace(POD_SHORT, unscheduled_message="0/1 nodes are available: 1 node(s) had untolerated taint(s).")


@pytest.mark.parametrize(
    ("workflow", "pods", "reason"),
    [
        (SUSPENDED, (), Reason.TIMEOUT),
        (UNCLAIMED, (), Reason.UNCLAIMED),
        (replace(WORKFLOW, awaited_lock="Waiting for lock"), (), Reason.QUEUED),
        (replace(WORKFLOW, node_message="pods is forbidden: exceeded quota: q"), (), Reason.QUOTA),
        (replace(WORKFLOW, has_node=True), (), Reason.START_TIMEOUT),
        (WORKFLOW, (POD_SHORT,), Reason.SHORTAGE),
        (WORKFLOW, (TAINTED,), Reason.UNSCHEDULABLE),
    ],
    ids=["held", "unclaimed", "queued", "quota", "waiting", "shortage", "tainted"],
)
def test_placement_timeout_names_the_stages_reason(
    workflow: WorkflowView, pods: tuple[PodView, ...], reason: Reason
) -> None:
    story = Story(SERVER_TIMEOUTS).sees(workflow, *pods).passes(29)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(workflow, *pods)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert story.state.end_diagnosis.detail.endswith(
        "timeout of 30 s expired for a server's job to get a node ('argo.server_pending')"
    )


def test_placement_timeout_spans_stages() -> None:
    story = Story(SERVER_TIMEOUTS).sees(UNCLAIMED).passes(15).sees(WORKFLOW, POD_SHORT).passes(14)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


def test_placement_timeout_starts_after_submit() -> None:
    story = (
        Story(SERVER_TIMEOUTS, is_submitted=False).passes(100).apply(Submitted()).sees(WORKFLOW, POD_SHORT).passes(29)
    )
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.CONFIRM]


def test_placement_timeout_stops_without_api_contact() -> None:
    story = Story(SERVER_TIMEOUTS).sees(WORKFLOW, POD_SHORT).passes(3600, healthy=False)
    assert story.actions == []


def test_placed_server_job_has_total_timeout() -> None:
    story = Story(SERVER_TIMEOUTS).sees(WORKFLOW, POD_STARTING).passes(899)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.TIMEOUT


def test_pending_timeout_below_placement_timeout_counts() -> None:
    story = Story(replace(SERVER_TIMEOUTS, pending=5)).sees(WORKFLOW, POD_SHORT).passes(5).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.detail.endswith("timeout of 5 s expired")


def test_given_up_launch_is_ended() -> None:
    """The reason is LAUNCH_FAILED, not an abort."""
    story = Story().sees(WORKFLOW, POD_STARTING).apply(LaunchGivenUp("the launch took too long"))
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(TERMINATED).reads(TERMINATED)
    assert conclusion(story) == (Reason.LAUNCH_FAILED, 101)
    assert story.state.verdict.detail == "the launch took too long"  # type: ignore[union-attr]


def test_given_up_launch_is_deleted_before_release() -> None:
    story = Story(is_submitted=False).sees(SUSPENDED).apply(LaunchGivenUp("the launch took too long"))
    assert story.actions == [ActionKind.DELETE_WORKFLOW]
    story.does(ActionKind.DELETE_WORKFLOW).apply(Submitted("ended before")).sees(None).reads(None)
    assert conclusion(story) == (Reason.LAUNCH_FAILED, 101)


@pytest.mark.parametrize("cause", [Cause.ABORT, Cause.CLEANUP])
def test_earlier_stop_request_outweighs_giving_up(cause: Cause) -> None:
    story = Story().sees(WORKFLOW, POD_STARTING).stops(cause).apply(LaunchGivenUp("the launch took too long"))
    assert story.state.end_diagnosis is None


def test_queueing_is_unlimited_by_default() -> None:
    assert Story().sees(replace(WORKFLOW, awaited_lock="Waiting for lock")).passes(1e6).actions == []


def test_overlooked_release_is_touched() -> None:
    story = Story().sees(WORKFLOW).passes(3)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.TOUCH]
    story.does(ActionKind.TOUCH).passes(4)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.TOUCH]
    assert (
        story.sees(replace(WORKFLOW, has_node=True, node_phase="Pending"), POD)
        .does(ActionKind.TOUCH)
        .passes(60)
        .actions
        == []
    )


def test_overlooked_shutdown_is_touched() -> None:
    shut = replace(WORKFLOW, shutdown="Terminate")
    story = Story().sees(WORKFLOW).stops().does(ActionKind.SHUTDOWN).sees(shut).passes(4)
    assert ActionKind.TOUCH in story.actions


def test_lost_node_is_concluded_when_its_time_has_come() -> None:
    """The reads that conclude nothing back off, but the next one is due when a read can conclude something."""
    workflow = replace(WORKFLOW, node_phase="Running")
    dying = replace(POD_RUNNING, deleting=True, deletion_grace=30.0, disruption="DeletionByTaintManager: taint manager")
    job = Story().sees(workflow, POD_RUNNING).sees(workflow, dying)
    seconds = 0.0
    while job.verdict is None and seconds < 300.0:
        if ActionKind.CONFIRM in job.actions:
            job.reads(workflow, dying)
        assert job.requeue_after is not None
        step = max(job.requeue_after, 0.2)
        job.passes(step)
        seconds += step
        if ActionKind.CONFIRM in job.actions:
            job.reads(workflow, dying)
    assert job.verdict is not None
    assert job.verdict.reason is Reason.DISRUPTED
    assert 90.0 <= seconds < 92.0
