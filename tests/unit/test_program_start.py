"""What the views of a pod prove about its program, and which of two pods is the job's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flargo.status.job_state import ActionKind, Observed
from flargo.status.program_start import ProgramStart, note_start
from flargo.status.reasons import Reason
from flargo.status.views import EventView, Exit, Observation, PodView, pod_view
from flargo.terms import Uid
from tests.harness.objects import pod
from tests.harness.story import POD, POD_RUNNING, POD_STARTING, WORKFLOW, Story, exited_pod, terminal_pod

LAUNCHED_AT = datetime(2026, 1, 1, tzinfo=UTC)
MADE_UP = Exit(137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated")
DRAINED = replace(POD_STARTING, deleting=True, disruption="EvictionByEvictionAPI")
UNSTARTED = replace(DRAINED, phase="Failed")
SECOND = replace(POD_RUNNING, uid=Uid("p2"))
SUCCEEDED_SECOND = terminal_pod(exited_pod(0, "Completed", pod=SECOND))


@pytest.mark.parametrize(
    ("view", "is_deleted", "has_gap", "expected"),
    [
        (POD, False, False, ProgramStart.UNKNOWN),
        (POD, True, False, ProgramStart.NEVER),
        (DRAINED, True, False, ProgramStart.UNKNOWN),  # by force: its kubelet may start the program all the same
        (UNSTARTED, False, False, ProgramStart.NEVER),
        (UNSTARTED, False, True, ProgramStart.NEVER),
        (replace(UNSTARTED, disruption="DeletionByPodGC: node not found"), False, False, ProgramStart.UNKNOWN),
        (replace(UNSTARTED, disruption="DeletionByTaintManager"), False, False, ProgramStart.UNKNOWN),
        (replace(UNSTARTED, reason="OutOfcpu"), False, False, ProgramStart.NEVER),
        (replace(UNSTARTED, reason="OutOfcpu"), False, True, ProgramStart.UNKNOWN),  # after a restart of its kubelet
        (replace(UNSTARTED, exit=MADE_UP), False, False, ProgramStart.NEVER),
        (replace(UNSTARTED, exit=MADE_UP), False, True, ProgramStart.UNKNOWN),
        (replace(UNSTARTED, exit=MADE_UP, reason="Evicted"), False, False, ProgramStart.UNKNOWN),
        (replace(UNSTARTED, exit=MADE_UP, main_has_started=True), False, False, ProgramStart.BEGUN),
        (terminal_pod(exited_pod(143)), False, False, ProgramStart.BEGUN),
        (POD_RUNNING, False, True, ProgramStart.BEGUN),
    ],
)
def test_a_view_proves_whether_the_program_has_begun(
    view: PodView, *, is_deleted: bool, has_gap: bool, expected: ProgramStart
) -> None:
    assert note_start(ProgramStart.UNKNOWN, view, is_deleted=is_deleted, has_gap=has_gap) is expected


def test_a_program_that_has_begun_stays_so() -> None:
    """Its kubelet finds nothing of it any more, after a restart of the node for example."""
    lost = replace(UNSTARTED, exit=MADE_UP)
    assert note_start(ProgramStart.BEGUN, lost, is_deleted=True, has_gap=False) is ProgramStart.BEGUN


@pytest.mark.parametrize(
    ("main", "has_started"),
    [
        ({"state": {"waiting": {"reason": "PodInitializing"}}}, False),
        ({"state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}, False),
        ({"state": {"running": {}}}, True),
        ({"state": {"terminated": {"exitCode": 143, "reason": "Error"}}}, True),
        (
            {"state": {"terminated": {"reason": "ContainerStatusUnknown", "startedAt": "2026-01-01T00:00:00Z"}}},
            True,
        ),
        (
            {
                "state": {
                    "terminated": {
                        "reason": "ContainerStatusUnknown",
                        "message": "The container could not be located when the pod was deleted.  "
                        "The container used to be Running",
                    }
                }
            },
            True,
        ),
        ({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}, True),
    ],
)
def test_the_main_containers_status_tells_whether_it_has_started(main: dict[str, Any], *, has_started: bool) -> None:
    item = pod(containerStatuses=[{"name": "wait", "state": {"running": {}}}, {"name": "main", **main}])
    assert pod_view(item).main_has_started is has_started


def drained(*views: PodView, deleted: PodView | None = None) -> Story:
    """Return the story of a job whose pod is drained: its further views, its deletion, and Argo's second pod."""
    story = Story().sees(WORKFLOW, POD_STARTING)
    for view in views:
        story.sees(WORKFLOW, view)
    return story.apply(Observed(Observation(WORKFLOW, deleted_pod=deleted))).sees(WORKFLOW, SECOND)


def test_a_pod_in_place_of_an_unstarted_one_is_the_jobs() -> None:
    """Argo has made it before flargo could read the drain."""
    story = drained(DRAINED, UNSTARTED).reads(WORKFLOW, SECOND)
    assert ActionKind.SHUTDOWN not in story.actions
    assert (story.state.end_diagnosis, story.state.first_pod_uid) == (None, "p2")
    story.sees(WORKFLOW, SUCCEEDED_SECOND)
    assert story.verdict is not None
    assert story.verdict.reason is Reason.SUCCEEDED


def test_a_pod_that_was_deleted_before_it_had_a_node_has_not_begun() -> None:
    story = Story().sees(WORKFLOW, POD).apply(Observed(Observation(WORKFLOW, deleted_pod=POD)))
    story.sees(WORKFLOW, SECOND).reads(WORKFLOW, SECOND)
    assert (story.state.end_diagnosis, story.state.first_pod_uid) == (None, "p2")


def test_an_end_of_the_unstarted_pod_is_not_the_jobs() -> None:
    """The kubelet has made one up."""
    story = drained(DRAINED, replace(UNSTARTED, exit=MADE_UP)).reads(WORKFLOW, SECOND)
    assert story.state.exited_pod is None
    assert story.state.end_diagnosis is None


@pytest.mark.parametrize(
    "views",
    [(), (DRAINED,), (POD_RUNNING, replace(UNSTARTED, exit=MADE_UP))],
    ids=["vanished", "vanished while it ended", "ran"],
)
def test_a_pod_that_may_have_run_makes_the_second_one_a_repetition(views: tuple[PodView, ...]) -> None:
    story = drained(*views).reads(WORKFLOW, SECOND)
    assert story.state.end_diagnosis is not None
    assert story.state.end_diagnosis.reason is Reason.RUN_TWICE


def on(address: str, view: PodView) -> PodView:
    return replace(view, host_address=address)


@pytest.mark.parametrize(
    ("views", "is_repetition"),
    [
        # A kubelet that took the pod before it was cut off may have started the program without a report.
        ((on("10.0.0.1", POD_STARTING), on("10.0.0.2", UNSTARTED)), True),
        # The new machine has taken the pod again before the drain.
        ((on("10.0.0.1", POD_STARTING), on("10.0.0.2", POD_STARTING), on("10.0.0.2", UNSTARTED)), True),
        ((on("10.0.0.1", POD_STARTING), on("10.0.0.2", DRAINED), on("10.0.0.2", UNSTARTED)), True),
        ((on("10.0.0.1", POD_STARTING), on("10.0.0.1", UNSTARTED)), False),
        ((on("", POD_STARTING), on("10.0.0.1", UNSTARTED)), False),
        # What the first machine has proven stays.
        ((on("10.0.0.1", UNSTARTED), on("10.0.0.2", UNSTARTED)), False),
    ],
)
def test_a_node_that_another_machine_has_replaced_proves_nothing(
    views: tuple[PodView, ...], *, is_repetition: bool
) -> None:
    story = Story()
    for view in views:
        story.sees(WORKFLOW, view)
    story.apply(Observed(Observation(WORKFLOW, deleted_pod=views[-1]))).sees(WORKFLOW, SECOND)
    if is_repetition:
        story.reads(WORKFLOW, SECOND)
        assert story.state.end_diagnosis is not None
        assert story.state.end_diagnosis.reason is Reason.RUN_TWICE
    else:
        assert story.state.first_pod_uid == "p2"


def test_the_last_state_of_a_deleted_pod_may_show_another_machine() -> None:
    story = Story().sees(WORKFLOW, on("10.0.0.1", DRAINED))
    gone = Observation(WORKFLOW, deleted_pod=on("10.0.0.2", UNSTARTED))
    story.apply(Observed(gone)).sees(WORKFLOW, SECOND).reads(WORKFLOW, SECOND)
    assert story.state.first_pod_uid == "p1"


def test_the_address_of_the_node_is_read() -> None:
    assert pod_view(pod(hostIP="10.0.0.1")).host_address == "10.0.0.1"


def test_an_end_that_was_missed_stays_doubtful() -> None:
    """The program may have run during the gap; a later view of the pod's end does not close it."""
    lost = replace(UNSTARTED, exit=MADE_UP, deleting=False)
    story = Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW, lost, after_relist=True)
    story.sees(WORKFLOW, replace(lost, deleting=True))
    story.apply(Observed(Observation(WORKFLOW, deleted_pod=lost))).sees(WORKFLOW, SECOND)
    assert story.state.first_pod_uid == "p1"


def test_a_late_view_of_the_unstarted_pod_changes_nothing() -> None:
    """The fresh read was ahead of the watch."""
    story = drained(DRAINED, UNSTARTED).sees(WORKFLOW, UNSTARTED, SECOND)
    assert story.state.stage.label == "RUNNING"
    story.sees(WORKFLOW, UNSTARTED, SECOND, is_fresh=True)
    assert story.state.end_diagnosis is None


def test_a_job_that_is_being_ended_keeps_its_first_pod() -> None:
    """That one explains the end, and whether an attempt may follow."""
    story = Story().sees(WORKFLOW, DRAINED).reads(WORKFLOW, DRAINED).sees(WORKFLOW, UNSTARTED)
    story.sees(WORKFLOW, SECOND)
    assert story.state.first_pod_uid == "p1"
    assert ActionKind.SHUTDOWN in story.actions


def test_events_of_the_unstarted_pod_reveal_no_other_pod() -> None:
    """The second pod was first seen by a read, so a pod between the two may have been missed."""
    launched = replace(WORKFLOW, created=LAUNCHED_AT)
    story = Story().sees(launched, POD_STARTING).sees(launched, UNSTARTED).sees(launched).reads(launched, SECOND)
    assert story.actions == [ActionKind.LIST_EVENTS]
    at = LAUNCHED_AT + timedelta(seconds=1)
    story.lists_events(EventView("Scheduled", pod_uid="p1", first_timestamp=at))
    assert not story.state.ran_twice


def test_events_of_a_pod_between_the_two_are_found() -> None:
    launched = replace(WORKFLOW, created=LAUNCHED_AT)
    story = Story().sees(launched, POD_STARTING).sees(launched, UNSTARTED).sees(launched).reads(launched, SECOND)
    at = LAUNCHED_AT + timedelta(seconds=1)
    assert story.lists_events(EventView("Started", pod_uid="p9", first_timestamp=at)).state.ran_twice
