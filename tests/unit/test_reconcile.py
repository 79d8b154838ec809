"""The life of a job, as lists of facts: what FLARE hears, and what is asked of the cluster."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.job_state import Action, ActionKind, LaunchGivenUp, Submitted
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause
from flargo.status.views import EventView, Exit, PodView, WorkflowView
from flargo.terms import StartTimeouts, Uid
from tests.harness.story import (
    FAILED,
    HELD,
    POD,
    POD_RUNNING,
    POD_SHORT,
    POD_STARTING,
    SHUT,
    SUCCEEDED,
    UNCLAIMED,
    WORKFLOW,
    Story,
    exited,
    finished,
    waiting,
)


def heard(story: Story) -> tuple[Reason, int] | None:
    verdict = story.verdict
    return None if verdict is None else (verdict.reason, verdict.code)


def test_exit_code_0_is_believed_at_once() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited(0, "Completed"))
    assert heard(story) == (Reason.SUCCEEDED, 0)
    assert story.actions == [ActionKind.DELETE_SECRET]


def test_after_success_argo_is_left_to_finish_and_the_life_is_cleared() -> None:
    story = Story().sees(WORKFLOW, exited(0, "Completed")).does(ActionKind.DELETE_SECRET).passes(5)
    assert not story.state.is_cleared
    assert story.actions == []
    assert not story.sees(SUCCEEDED, exited(0, "Completed")).state.is_cleared, (
        "Argo's wait container holds the pod still"
    )
    assert story.sees(SUCCEEDED, finished(exited(0, "Completed"))).state.is_cleared


def test_a_wait_container_that_hangs_is_ended_after_a_minute() -> None:
    hung = exited(0, "Completed")
    story = Story().sees(WORKFLOW, hung).does(ActionKind.DELETE_SECRET).passes(59)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, hung)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(SHUT, hung)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(SHUT)
    assert heard(story) == (Reason.SUCCEEDED, 0)
    assert story.state.is_cleared


def test_argo_is_not_hurried_while_the_cluster_is_not_heard() -> None:
    story = Story().sees(WORKFLOW, exited(0)).does(ActionKind.DELETE_SECRET).passes(3600, healthy=False)
    assert story.actions == []


def test_a_pod_on_a_lost_node_is_given_up_but_killed_on() -> None:
    dying = replace(POD_RUNNING, deleting=True)
    story = (
        Story()
        .sees(WORKFLOW, POD_RUNNING)
        .stops()
        .does(ActionKind.SHUTDOWN)
        .sees(SHUT, POD_RUNNING)
        .does(ActionKind.DELETE_POD)
    )
    story.sees(SHUT, dying).passes(62)
    assert heard(story) is None
    story.passes(1).reads(SHUT, dying)
    assert heard(story) == (Reason.ABORTED, 9)
    assert "was not seen" in story.state.verdict.detail  # type: ignore[union-attr]
    assert not story.state.is_cleared
    story.does(ActionKind.DELETE_POD)
    assert story.passes(14).actions[-1] is ActionKind.DELETE_POD


def test_a_pod_that_somebody_deletes_with_a_long_grace_gets_it_before_it_is_given_up() -> None:
    dying = replace(POD_RUNNING, deleting=True, deletion_grace=600.0)
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, dying).reads(WORKFLOW, dying).does(ActionKind.SHUTDOWN)
    story.sees(SHUT, dying).does(ActionKind.DELETE_POD).passes(659)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(SHUT, dying)
    assert heard(story) == (Reason.POD_DELETED, 104)


def test_a_release_whose_answer_was_lost_does_not_end_the_job_that_runs() -> None:
    story = Story(submitted=False).sees(WORKFLOW, POD_RUNNING).tell(Submitted("no answer"))
    assert story.actions == []
    assert heard(story.sees(WORKFLOW, exited(0))) == (Reason.SUCCEEDED, 0)


@pytest.mark.parametrize(
    ("pod", "reason", "code"),
    [
        pytest.param(exited(1), Reason.PROGRAM_FAILED, 1, id="exit 1"),
        pytest.param(exited(9), Reason.PROGRAM_FAILED, 1, id="its own 9 is no abort"),
        pytest.param(exited(104), Reason.PROGRAM_FAILED, 1, id="its own 104 is no loss"),
        pytest.param(exited(127), Reason.PROGRAM_FAILED, 1, id="its own 127"),
        pytest.param(exited(139), Reason.PROGRAM_FAILED, 1, id="a crash"),
        pytest.param(exited(101), Reason.PROGRAM_REPORTED, 101, id="FLARE's 101"),
        pytest.param(exited(102), Reason.PROGRAM_REPORTED, 102, id="FLARE's 102"),
        pytest.param(exited(103), Reason.PROGRAM_REPORTED, 103, id="FLARE's 103"),
        pytest.param(exited(137, "OOMKilled"), Reason.OUT_OF_MEMORY, 104, id="out of memory"),
        pytest.param(replace(exited(137), reason="Evicted", phase="Failed"), Reason.EVICTED, 104, id="evicted"),
        pytest.param(replace(exited(143), deleting=True), Reason.POD_DELETED, 104, id="pod deleted"),
        pytest.param(exited(137, "ContainerStatusUnknown"), Reason.NODE_LOST, 104, id="nobody saw its end"),
        pytest.param(
            replace(exited(137, "ContainerStatusUnknown"), deleting=True),
            Reason.POD_DELETED,
            104,
            id="deleted before its container was made",
        ),
        pytest.param(
            replace(exited(143), deleting=True, disruption="EvictionByEvictionAPI"), Reason.DISRUPTED, 104, id="drained"
        ),
        pytest.param(replace(exited(137), reason="Terminated"), Reason.DISRUPTED, 104, id="node shut down"),
        pytest.param(replace(exited(143), reason="DeadlineExceeded"), Reason.DEADLINE, 104, id="past its deadline"),
        pytest.param(
            replace(exited(64), exit=Exit(64, "Error", "failed to find name in PATH: exec: python")),
            Reason.CONTAINER,
            101,
            id="no such program",
        ),
        pytest.param(exited(64), Reason.PROGRAM_FAILED, 1, id="its own 64"),
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
    ],
)
def test_any_other_end_is_confirmed_and_then_named(pod: PodView, reason: Reason, code: int) -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, pod)
    assert heard(story) is None
    assert heard(story.reads(WORKFLOW, pod)) == (reason, code)


@pytest.mark.parametrize(
    ("left", "reason", "code"),
    [
        pytest.param(replace(POD_RUNNING, disruption="EvictionByEvictionAPI"), Reason.DISRUPTED, 104, id="drained"),
        pytest.param(POD_RUNNING, Reason.POD_DELETED, 104, id="deleted"),
    ],
)
def test_what_was_done_to_a_pod_outweighs_the_exit_that_only_argo_saw(left: PodView, reason: Reason, code: int) -> None:
    """A drain may take the API server away, too: what it did to the pod was seen, but not how the program ended."""
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, replace(left, deleting=True))
    story.does(ActionKind.CONFIRM, ok=False).passes(30.0, healthy=False)
    words = "main: Error (exit code 143)"
    ended = replace(FAILED, message=words, node_phase="Failed", node_message=words, node_exit_code=143)
    story.sees(ended, gap=True).reads(ended)
    assert heard(story) == (reason, code)


def test_a_shutdown_of_what_is_gone_already_is_no_end_without_a_fresh_read() -> None:
    """The stream told that it is deleted, and then an older event: it is believed to be there."""
    story = Story().sees(WORKFLOW, POD_STARTING).stops(Cause.ABORT).does(ActionKind.SHUTDOWN).sees(WORKFLOW)
    story.passes(10)
    assert ActionKind.CONFIRM in story.actions
    story.reads(None)
    assert heard(story) == (Reason.ABORTED, 9)


@pytest.mark.parametrize("workflow", [WORKFLOW, replace(WORKFLOW, phase="Error", message="pod deleted")])
@pytest.mark.parametrize(
    ("disruption", "reason"),
    [
        ("EvictionByEvictionAPI Eviction API: evicting", Reason.DISRUPTED),
        ("DeletionByPodGC PodGC: node no longer exists", Reason.NODE_LOST),
        ("", Reason.POD_DELETED),
    ],
)
def test_a_pod_that_is_gone_before_the_fresh_read_is_known_by_what_was_seen_of_it(
    workflow: WorkflowView, disruption: str, reason: Reason
) -> None:
    dying = replace(POD_RUNNING, deleting=True, disruption=disruption)
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, dying).sees(workflow).reads(workflow)
    assert heard(story) == (reason, 104)


def test_a_pod_that_is_gone_had_done_its_work_if_argo_says_so() -> None:
    dying = replace(POD_RUNNING, deleting=True, disruption="EvictionByEvictionAPI")
    ended = replace(SUCCEEDED, node_exit_code=0)
    assert heard(Story().sees(WORKFLOW, dying).sees(ended).reads(ended)) == (Reason.SUCCEEDED, 0)


def test_a_pod_that_only_argo_saw_run_was_deleted_if_it_is_gone() -> None:
    ran = replace(WORKFLOW, has_node=True, node_phase="Running")
    assert heard(Story().sees(WORKFLOW).sees(ran).reads(ran)) == (Reason.POD_DELETED, 104)


def test_a_pod_that_only_argo_saw_run_is_looked_for_before_it_is_given_up() -> None:
    ran = replace(WORKFLOW, has_node=True, node_phase="Running")
    story = Story().sees(WORKFLOW).sees(ran).reads(ran, POD_RUNNING).hears()
    assert heard(story) is None
    assert heard(story.sees(ran, exited(0))) == (Reason.SUCCEEDED, 0)


LAUNCHED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def of_another_pod(seconds: float) -> EventView:
    """An event of a pod of the same name, so long after the launch."""
    return EventView("Started", pod_uid="p0", first_timestamp=LAUNCHED + timedelta(seconds=seconds))


def test_a_pod_that_came_and_went_while_nobody_looked_is_found_by_its_events() -> None:
    launched = replace(WORKFLOW, created=LAUNCHED)
    story = Story().sees(launched).sees(launched, POD_RUNNING, gap=True)
    assert story.actions == [ActionKind.LIST_EVENTS]
    story.hears(of_another_pod(3)).reads(launched, POD_RUNNING).does(ActionKind.SHUTDOWN).sees(SHUT, exited(143))
    story.reads(SHUT, exited(143))
    assert heard(story) == (Reason.RUN_TWICE, 104)


def test_a_pod_of_an_earlier_launch_is_not_this_ones() -> None:
    launched = replace(WORKFLOW, created=LAUNCHED)
    story = Story().sees(launched).sees(launched, POD_RUNNING, gap=True).hears(of_another_pod(-3))
    assert story.actions == []
    assert heard(story.sees(launched, exited(0))) == (Reason.SUCCEEDED, 0)


def test_a_pod_that_was_seen_to_come_is_not_doubted() -> None:
    assert Story().sees(WORKFLOW).sees(WORKFLOW, POD).sees(WORKFLOW, POD_RUNNING, gap=True).actions == []


def test_143_seen_before_the_shutdown_that_caused_it_is_an_abort_from_outside() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited(143))
    assert heard(story.reads(SHUT, exited(143))) == (Reason.SHUT_DOWN, 9)


def test_an_exit_that_was_seen_counts_though_the_pod_is_collected_before_the_confirmation() -> None:
    story = Story().sees(WORKFLOW, exited(1)).reads(WORKFLOW)
    assert heard(story) == (Reason.PROGRAM_FAILED, 1)


def test_a_pod_gone_before_its_end_was_seen_is_judged_by_what_argo_recorded() -> None:
    ended = replace(FAILED, node_exit_code=101)
    assert heard(Story().sees(WORKFLOW, POD_RUNNING).sees(ended).reads(ended)) == (Reason.PROGRAM_REPORTED, 101)


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
            id="semaphore unreadable, as Argo 3.6 says it",
        ),
        pytest.param(
            replace(WORKFLOW, phase="Error", message="pod deleted"), Reason.POD_DELETED, 104, id="pod deleted"
        ),
        pytest.param(replace(WORKFLOW, phase="Error", message="other"), Reason.ARGO_FAILED, 104, id="anything else"),
    ],
)
def test_a_workflow_that_ended_without_a_pod(workflow: WorkflowView, reason: Reason, code: int) -> None:
    assert heard(Story().sees(workflow).reads(workflow)) == (reason, code)


@pytest.mark.parametrize("words", ["ErrImagePull", "ImageInspectError", "SignatureValidationFailed"])
def test_an_image_that_cannot_be_had_ends_the_job_and_nothing_is_left_pulling(words: str) -> None:
    stuck = waiting(words, "not found")
    story = Story().sees(WORKFLOW, stuck).reads(WORKFLOW, stuck)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(SHUT, stuck)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(SHUT).reads(SHUT)
    assert heard(story) == (Reason.IMAGE, 101)
    assert "not found" in story.state.verdict.detail  # type: ignore[union-attr]


def test_a_shortage_waits_for_pending_timeout_and_no_longer() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(119)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


@pytest.mark.parametrize(
    "words",
    [
        "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
        "0/1 nodes are available: 1 node(s) were unschedulable.",
        "no nodes available to schedule pods",
    ],
)
def test_a_taint_on_every_node_may_pass_and_fails_the_job_if_it_does_not(words: str) -> None:
    tainted = replace(POD_SHORT, unscheduled_message=words)
    story = Story().sees(WORKFLOW, tainted).passes(59)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, tainted)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNSCHEDULABLE


def test_a_pending_timeout_of_0_fails_at_once_and_none_never() -> None:
    assert Story(StartTimeouts(pending=0)).sees(WORKFLOW, POD_SHORT).actions == [ActionKind.CONFIRM]
    assert Story(StartTimeouts(pending=None)).sees(WORKFLOW, POD_SHORT).passes(1e6).actions == []


def test_patience_does_not_pass_while_the_cluster_is_not_heard() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(3600, healthy=False)
    assert story.actions == []


def test_a_pod_scheduled_by_the_time_of_the_confirmation_runs_on() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(120).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is None
    assert story.actions == []


def test_any_other_cause_of_being_unschedulable_fails_at_once() -> None:
    pod = replace(POD, unscheduled_reason="Unschedulable", unscheduled_message='persistentvolumeclaim "x" not found')
    story = Story().sees(WORKFLOW, pod).reads(WORKFLOW, pod)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNSCHEDULABLE


def test_a_workflow_that_no_controller_takes_up_is_given_up() -> None:
    story = Story(StartTimeouts(unclaimed=60)).sees(UNCLAIMED).passes(60).reads(UNCLAIMED)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.UNCLAIMED
    assert story.state.end_diagnosis.detail == "timeout of 60 s expired"


def test_an_abort_shuts_the_workflow_down_first_and_kills_the_pod_once_argo_has_ended_it() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).stops()
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN)
    assert story.actions == [], "a pod deleted before Argo knows of the shutdown may be made again"
    story.sees(SHUT, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(SHUT, replace(exited(143), deleting=True))
    assert heard(story.reads(SHUT, exited(143))) == (Reason.ABORTED, 9)


def test_with_the_controller_down_the_pod_is_killed_all_the_same() -> None:
    shut = replace(WORKFLOW, shutdown="Terminate")
    story = Story().sees(WORKFLOW, POD_RUNNING).stops().does(ActionKind.SHUTDOWN).sees(shut, POD_RUNNING).passes(3)
    assert story.actions == [ActionKind.DELETE_POD]


def test_a_kill_is_repeated_until_the_pod_is_gone() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).stops().does(ActionKind.SHUTDOWN).sees(SHUT, POD_RUNNING)
    story.does(ActionKind.DELETE_POD, ok=False)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.DELETE_POD]
    assert story.does(ActionKind.DELETE_POD, ok=False).passes(2).actions == [ActionKind.DELETE_POD]
    assert story.does(ActionKind.DELETE_POD).passes(12).actions == []
    assert story.passes(1).actions == [ActionKind.DELETE_POD]
    assert heard(story) is None


def test_a_program_deaf_to_sigterm_after_argo_terminate_is_killed() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(SHUT, POD_RUNNING).reads(SHUT, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(SHUT).reads(SHUT)
    assert heard(story) == (Reason.SHUT_DOWN, 9)


def test_an_abort_during_the_submit_discards_the_workflow_that_comes_late() -> None:
    story = Story(submitted=False).stops()
    assert story.actions == []
    story.sees(HELD)
    assert story.actions == [ActionKind.DELETE_WORKFLOW]


def test_an_abort_before_anything_was_created_is_an_abort() -> None:
    story = Story(submitted=False).stops().tell(Submitted("not wanted any more")).reads(None)
    assert heard(story) == (Reason.ABORTED, 9)
    assert story.does(ActionKind.DELETE_SECRET).state.is_cleared


def test_a_submit_that_failed_half_way_leaves_nothing() -> None:
    story = Story(submitted=False).sees(HELD).tell(Submitted("secrets is forbidden")).reads(HELD)
    assert story.actions == [ActionKind.DELETE_WORKFLOW]
    story.does(ActionKind.DELETE_WORKFLOW).sees(None).reads(None)
    assert heard(story) == (Reason.LAUNCH_FAILED, 101)
    assert "forbidden" in story.state.verdict.detail  # type: ignore[union-attr]


def test_credentials_that_a_submit_may_be_about_to_create_are_taken_away_after_it() -> None:
    invalid = replace(HELD, phase="Failed", message="invalid spec: no such template")
    story = Story(submitted=False).sees(invalid).reads(invalid)
    assert heard(story) == (Reason.INVALID, 101)
    assert story.actions == []
    assert story.tell(Submitted()).actions == [ActionKind.DELETE_SECRET]
    story.does(ActionKind.DELETE_SECRET).passes(1).reads(invalid)
    assert story.state.is_cleared


def test_a_second_pod_means_lost_and_both_are_ended() -> None:
    second = replace(POD_RUNNING, uid=Uid("p2"), name="job-site-2")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, second).reads(WORKFLOW, second)
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(SHUT, second).does(ActionKind.DELETE_POD).sees(SHUT).reads(SHUT)
    assert heard(story) == (Reason.RUN_TWICE, 104)


def test_a_program_that_failed_by_itself_has_failed_though_argo_runs_it_again() -> None:
    first, second = exited(3), replace(POD_STARTING, uid=Uid("p2"), name="job-site-2")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, first, second).reads(WORKFLOW, first, second)
    assert heard(story) == (Reason.PROGRAM_FAILED, 1)
    story.does(ActionKind.SHUTDOWN).sees(SHUT, first, second)
    assert Action(ActionKind.DELETE_POD, Uid("p2")) in story.pending_actions


def test_a_pod_that_vanishes_is_lost_and_argo_is_kept_from_running_it_again() -> None:
    story = Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW).reads(WORKFLOW)
    assert heard(story) == (Reason.POD_DELETED, 104)
    assert ActionKind.SHUTDOWN in story.actions


def test_a_workflow_deleted_by_a_person_is_lost_once_its_pod_is_gone() -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(None, POD_RUNNING).reads(None, POD_RUNNING)
    assert story.actions == [ActionKind.DELETE_POD]
    story.does(ActionKind.DELETE_POD).sees(None).reads(None)
    assert heard(story) == (Reason.WORKFLOW_DELETED, 104)


def test_a_drain_after_the_results_arrived_is_no_loss() -> None:
    drained = replace(exited(143), deleting=True, disruption="EvictionByEvictionAPI")
    story = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, drained).reads(WORKFLOW, drained, published=True)
    assert heard(story) == (Reason.SUCCEEDED, 0)


@pytest.mark.parametrize(
    ("cause", "code", "told"),
    [
        (Cause.ABORT, 0, (Reason.ABORTED, 9)),
        (Cause.ABORT, 1, (Reason.ABORTED, 9)),
        (Cause.ABORT, 102, (Reason.PROGRAM_REPORTED, 102)),
        (Cause.CLEANUP, 0, (Reason.SUCCEEDED, 0)),
        (Cause.CLEANUP, 143, (Reason.CLEANED_UP, 1)),
        (Cause.PARENT_END, 143, (Reason.PARENT_ENDED, 104)),
    ],
)
def test_who_wanted_the_end_and_how_the_program_took_it(cause: Cause, code: int, told: tuple[Reason, int]) -> None:
    story = Story().sees(WORKFLOW, POD_RUNNING).stops(cause).does(ActionKind.SHUTDOWN).sees(SHUT, exited(code))
    if story.verdict is None:
        story.reads(SHUT, exited(code))
    assert heard(story) == told


def test_terminate_after_the_end_changes_nothing() -> None:
    story = Story().sees(WORKFLOW, exited(0, "Completed")).stops()
    assert heard(story) == (Reason.SUCCEEDED, 0)
    assert story.actions == [ActionKind.DELETE_SECRET]


def test_a_verdict_stands_whatever_is_seen_later() -> None:
    story = Story().sees(WORKFLOW, exited(1)).reads(WORKFLOW, exited(1)).sees(WORKFLOW, POD_RUNNING).sees(None)
    assert heard(story) == (Reason.PROGRAM_FAILED, 1)


def test_an_absence_at_the_start_concludes_nothing() -> None:
    assert heard(Story(submitted=False).sees(None).passes(1000)) is None


def event(reason: str, message: str = "", count: int = 1, over: float = 0.0, at: float = 0.0) -> EventView:
    """Something that was reported of the pod so often, over so many seconds, the last time at that second."""
    last = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    return EventView(reason, message, count, last - timedelta(seconds=over), last)


def starting_slowly(*events: EventView, patience: StartTimeouts | None = None) -> Story:
    """A pod that has had a node for ten seconds and does not run; its events have been listed."""
    story = Story(patience).sees(WORKFLOW, POD_STARTING).passes(9)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.LIST_EVENTS]
    return story.hears(*events)


def test_events_are_listed_only_of_a_pod_that_is_slow_and_with_growing_gaps() -> None:
    story = starting_slowly()
    assert story.passes(9).actions == []
    assert story.passes(1).actions == [ActionKind.LIST_EVENTS]
    assert Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW, POD_RUNNING).passes(100).actions == []


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (event("FailedMount", 'secret "x" not found', count=6, over=16), Reason.VOLUME),
        (event("FailedAttachVolume", "Multi-Attach error", count=5, over=61), Reason.VOLUME),
        (event("FailedCreatePodSandBox", "no IP addresses", count=9, over=90), Reason.SANDBOX),
    ],
    ids=lambda it: it.reason if isinstance(it, EventView) else "",
)
def test_trouble_that_goes_on_fails_a_job_that_cannot_start(trouble: EventView, reason: Reason) -> None:
    story = starting_slowly(trouble).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert trouble.message in story.state.end_diagnosis.detail


@pytest.mark.parametrize(
    "trouble",
    [
        event("FailedMount", 'secret "x" not found', count=2, over=1),
        event("FailedMount", "timed out", count=9, over=30),
        event("FailedCreatePodSandBox", "no IP addresses"),
    ],
    ids=["twice at first", "half a minute", "once"],
)
def test_trouble_in_passing_fails_nothing(trouble: EventView) -> None:
    story = starting_slowly(trouble)
    assert story.actions == []
    assert heard(story.sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited(0))) == (Reason.SUCCEEDED, 0)


def test_the_pull_of_an_image_has_a_clock_of_its_own() -> None:
    story = starting_slowly(event("Pulling", at=1), patience=StartTimeouts(starting=60, pulling=600))
    stages = [story.state.stage]
    story.pending_actions.clear()
    assert ActionKind.CONFIRM not in story.passes(300).actions
    story.hears(event("Pulling", at=1), event("Pulled", at=200))
    stages.append(story.state.stage)
    assert ActionKind.CONFIRM in story.passes(60).actions
    assert stages == [Stage.PULLING, Stage.STARTING]


def test_an_image_that_is_pulled_is_told_from_those_that_are_there() -> None:
    there = event("Pulled", 'Container image "argoexec" already present on machine', at=1)
    pulling = event("Pulling", 'Pulling image "job"', at=1)
    assert starting_slowly(there, pulling).state.stage is Stage.PULLING
    pulled = event("Pulled", 'Successfully pulled image "job" in 9s', at=10)
    assert starting_slowly(there, pulling, pulled).state.stage is Stage.STARTING


def test_a_mount_that_failed_before_the_pull_is_not_what_a_pull_hangs_on() -> None:
    mount = event("FailedMount", "timed out waiting for the condition", at=0)
    story = starting_slowly(
        mount, event("Pulling", 'Pulling image "job"', at=1), patience=StartTimeouts(pulling=60)
    ).passes(60)
    story.reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.PULLING
    assert story.state.end_diagnosis.detail.startswith('Pulling image "job"')


def test_an_image_that_is_not_pulled_in_time_is_named() -> None:
    story = starting_slowly(event("Pulling", 'Pulling image "job"'), patience=StartTimeouts(pulling=60)).passes(60)
    story.reads(WORKFLOW, POD_STARTING).does(ActionKind.SHUTDOWN).sees(SHUT, exited(137, "ContainerStatusUnknown"))
    story.reads(SHUT, exited(137, "ContainerStatusUnknown"))
    assert heard(story) == (Reason.PULLING, 101)
    assert story.state.verdict.detail == 'Pulling image "job"; timeout of 60 s expired'  # type: ignore[union-attr]


def test_a_wait_in_a_queue_takes_nothing_of_pending_timeout() -> None:
    queued = replace(WORKFLOW, awaited_lock="Waiting for lock")
    story = Story(StartTimeouts(pending=5, queued=3600)).sees(queued).passes(3500)
    assert story.actions == []
    story.sees(WORKFLOW, POD_SHORT).passes(4)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


@pytest.mark.parametrize(
    ("workflow", "patience", "reason"),
    [
        (replace(WORKFLOW, node_message="pods is forbidden: exceeded quota: q"), StartTimeouts(quota=30), Reason.QUOTA),
        (replace(WORKFLOW, phase="Pending", awaited_lock="Waiting for lock"), StartTimeouts(queued=30), Reason.QUEUED),
        (replace(WORKFLOW, awaited_lock="Waiting for lock"), StartTimeouts(queued=30), Reason.QUEUED),
    ],
    ids=["quota", "a lock on the Workflow", "a lock on the step"],
)
def test_quota_and_locks_have_clocks_of_their_own(
    workflow: WorkflowView, patience: StartTimeouts, reason: Reason
) -> None:
    story = Story(patience).sees(workflow).passes(29)
    assert story.actions == []
    story.passes(1).reads(workflow)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert story.state.end_diagnosis.detail.endswith("timeout of 30 s expired")


OF_A_SERVER = StartTimeouts(
    pending=None, unclaimed=None, quota=None, queued=None, starting=None, placement=30, total=900
)
"""Of a server's job that may wait as long as it likes, but for its launch."""
TAINTED = replace(POD_SHORT, unscheduled_message="0/1 nodes are available: 1 node(s) had untolerated taint(s).")


@pytest.mark.parametrize(
    ("workflow", "pods", "reason"),
    [
        (HELD, (), Reason.TIMEOUT),
        (UNCLAIMED, (), Reason.UNCLAIMED),
        (replace(WORKFLOW, awaited_lock="Waiting for lock"), (), Reason.QUEUED),
        (replace(WORKFLOW, node_message="pods is forbidden: exceeded quota: q"), (), Reason.QUOTA),
        (replace(WORKFLOW, has_node=True), (), Reason.START_TIMEOUT),
        (WORKFLOW, (POD_SHORT,), Reason.SHORTAGE),
        (WORKFLOW, (TAINTED,), Reason.UNSCHEDULABLE),
    ],
    ids=["held", "unclaimed", "queued", "quota", "waiting", "shortage", "tainted"],
)
def test_a_servers_job_without_a_node_ends_for_what_it_waits_for(
    workflow: WorkflowView, pods: tuple[PodView, ...], reason: Reason
) -> None:
    story = Story(OF_A_SERVER).sees(workflow, *pods).passes(29)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(workflow, *pods)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is reason
    assert story.state.end_diagnosis.detail.endswith(
        "timeout of 30 s expired for a server's job to get a node ('argo.server_pending')"
    )


def test_all_that_a_servers_job_waits_for_before_it_has_a_node_counts_together() -> None:
    story = Story(OF_A_SERVER).sees(UNCLAIMED).passes(15).sees(WORKFLOW, POD_SHORT).passes(14)
    assert story.actions == []
    story.passes(1).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.SHORTAGE


def test_a_servers_job_waits_for_a_node_from_the_end_of_its_submit() -> None:
    story = Story(OF_A_SERVER, submitted=False).passes(100).tell(Submitted()).sees(WORKFLOW, POD_SHORT).passes(29)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.CONFIRM]


def test_a_servers_wait_for_a_node_passes_only_while_the_cluster_is_heard() -> None:
    story = Story(OF_A_SERVER).sees(WORKFLOW, POD_SHORT).passes(3600, healthy=False)
    assert story.actions == []


def test_a_servers_job_with_a_node_has_until_the_end_of_all_patience() -> None:
    story = Story(OF_A_SERVER).sees(WORKFLOW, POD_STARTING).passes(899)
    assert ActionKind.CONFIRM not in story.actions
    story.passes(1).reads(WORKFLOW, POD_STARTING)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.TIMEOUT


def test_a_servers_own_pending_timeout_may_be_shorter() -> None:
    story = Story(replace(OF_A_SERVER, pending=5)).sees(WORKFLOW, POD_SHORT).passes(5).reads(WORKFLOW, POD_SHORT)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.detail.endswith("timeout of 5 s expired")


def test_a_launch_that_was_given_up_is_ended_and_is_no_abort() -> None:
    story = Story().sees(WORKFLOW, POD_STARTING).tell(LaunchGivenUp("nobody waits for it"))
    assert story.actions == [ActionKind.SHUTDOWN]
    story.does(ActionKind.SHUTDOWN).sees(SHUT).reads(SHUT)
    assert heard(story) == (Reason.LAUNCH_FAILED, 101)
    assert story.state.verdict.detail == "nobody waits for it"  # type: ignore[union-attr]


def test_a_launch_that_was_given_up_before_its_release_is_discarded() -> None:
    story = Story(submitted=False).sees(HELD).tell(LaunchGivenUp("nobody waits for it"))
    assert story.actions == [ActionKind.DELETE_WORKFLOW]
    story.does(ActionKind.DELETE_WORKFLOW).tell(Submitted("ended before")).sees(None).reads(None)
    assert heard(story) == (Reason.LAUNCH_FAILED, 101)


@pytest.mark.parametrize("cause", [Cause.ABORT, Cause.CLEANUP])
def test_an_end_that_was_wanted_before_outweighs_giving_up(cause: Cause) -> None:
    story = Story().sees(WORKFLOW, POD_STARTING).stops(cause).tell(LaunchGivenUp("nobody waits for it"))
    assert story.state.end_diagnosis is None


def test_a_queue_is_waited_in_for_ever_by_default() -> None:
    assert Story().sees(replace(WORKFLOW, awaited_lock="Waiting for lock")).passes(1e6).actions == []


def test_a_released_workflow_that_argo_overlooks_is_touched_until_it_shows() -> None:
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


def test_a_shutdown_that_argo_overlooks_is_pressed() -> None:
    shut = replace(WORKFLOW, shutdown="Terminate")
    story = Story().sees(WORKFLOW).stops().does(ActionKind.SHUTDOWN).sees(shut).passes(4)
    assert ActionKind.TOUCH in story.actions
