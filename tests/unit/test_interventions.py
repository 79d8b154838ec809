"""What administrators, people in the Argo UI and a refusing API server do to a job, and how flargo still ends it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flargo.control.command import Command
from flargo.control.perform import Performer
from flargo.status.job_state import ActionKind, Submitted
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause
from flargo.status.views import EventView, PodView, WorkflowView
from flargo.terms import Uid
from tests.harness.story import (
    POD_RUNNING,
    POD_STARTING,
    SUCCEEDED,
    SUSPENDED,
    TERMINATED,
    WORKFLOW,
    Story,
    exited_pod,
    terminal_pod,
)

RAN = replace(WORKFLOW, has_node=True, node_phase="Running")
"""The Workflow of a job that Argo has seen run."""
STEP_FAILED = replace(RAN, node_phase="Failed", is_step_done=True)
HANDLER_RUNS = replace(STEP_FAILED, is_handler_running=True)
HELD = replace(RAN, suspended=True, released=True)
"""A person has suspended the Workflow of a running job."""
DRAINED = replace(POD_RUNNING, deleting=True, disruption="EvictionByEvictionAPI")
EVICTED = replace(POD_RUNNING, running=False, phase="Failed", reason="Evicted")
ENDING_ACTIONS = {ActionKind.SHUTDOWN, ActionKind.DELETE_WORKFLOW, ActionKind.DELETE_POD}


def code_of(story: Story) -> tuple[Reason, int]:
    assert story.verdict is not None
    return story.verdict.reason, story.verdict.code


# --- exit handlers


def test_drained_jobs_workflow_is_left_to_argo() -> None:
    """Argo runs no exit handler in a Workflow that is shut down. On a06983c a drained job's was shut down at once."""
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, DRAINED).reads(RAN, DRAINED)
    assert story.state.is_ending
    assert not ENDING_ACTIONS & set(story.actions)
    story.sees(RAN).reads(RAN)
    assert code_of(story) == (Reason.DISRUPTED, 104)
    assert not ENDING_ACTIONS & set(story.actions)
    assert ActionKind.NOTE_REASON in story.actions, "Argo will only say that the pod was deleted"
    story.does(ActionKind.NOTE_REASON).does(ActionKind.DELETE_SECRET).sees(replace(HANDLER_RUNS, ending="DISRUPTED"))
    assert story.state.is_over
    assert not story.state.is_cleared
    assert story.passes(600).actions == []
    assert story.sees(replace(STEP_FAILED, phase="Failed")).state.is_cleared


def test_evicted_jobs_workflow_is_left_to_argo() -> None:
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, EVICTED).reads(RAN, EVICTED)
    assert code_of(story) == (Reason.EVICTED, 104)
    assert not ENDING_ACTIONS & set(story.actions)


@pytest.mark.parametrize(
    "workflow",
    [replace(RAN, node_phase="Pending"), replace(RAN, is_retried=True), replace(WORKFLOW)],
    ids=["not seen running", "retried", "without a step"],
)
def test_workflow_that_would_start_a_second_pod_is_shut_down(workflow: WorkflowView) -> None:
    story = Story().sees(workflow, POD_RUNNING).sees(workflow, DRAINED).reads(workflow, DRAINED)
    assert ActionKind.SHUTDOWN in story.actions


def test_drain_of_a_lost_node_is_concluded() -> None:
    """Nobody's deletion of a pod ends on a node that is lost. Then flargo ends what is left."""
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, DRAINED).reads(RAN, DRAINED).passes(64)
    story.reads(RAN, DRAINED)
    assert code_of(story) == (Reason.DISRUPTED, 104)
    assert ActionKind.SHUTDOWN in story.actions


def test_handler_over_a_minute_is_not_ended() -> None:
    over = terminal_pod(exited_pod(7))
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, over).reads(RAN, over).sees(HANDLER_RUNS, over)
    assert code_of(story) == (Reason.PROGRAM_FAILED, 1)
    story.does(ActionKind.DELETE_SECRET)
    for _ in range(20):
        story.passes(30)
        if ActionKind.CONFIRM in story.actions:
            story.reads(HANDLER_RUNS, over)
    assert set(story.actions) <= {ActionKind.CONFIRM}
    assert story.sees(replace(STEP_FAILED, phase="Failed"), over).state.is_cleared


def test_abort_while_only_the_handler_runs() -> None:
    story = Story().sees(HANDLER_RUNS, terminal_pod(exited_pod(7))).stops()
    assert story.actions == [ActionKind.CONFIRM]
    story.reads(HANDLER_RUNS, terminal_pod(exited_pod(7)))
    assert story.actions == [ActionKind.DELETE_SECRET]
    assert story.does(ActionKind.DELETE_SECRET).state.is_over


def test_end_while_the_controller_is_away_needs_no_shutdown() -> None:
    """The exit handler runs once the controller is back. On a06983c the Workflow was shut down after a minute."""
    over = terminal_pod(exited_pod(0))
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, over).does(ActionKind.DELETE_SECRET)
    requests = 0
    for _ in range(360):
        story.passes(10)
        while story.actions:
            requests += 1
            assert not ENDING_ACTIONS & set(story.actions)
            if ActionKind.CONFIRM in story.actions:
                story.reads(RAN, over)
            else:
                story.does(ActionKind.TOUCH)
    assert requests < 50, "requests in an hour"


# --- Suspend in the UI


@pytest.mark.parametrize("code", [0, 3])
def test_suspended_job_that_ends_is_resumed(code: int) -> None:
    """Argo neither completes a suspended Workflow nor gives back its locks. On a06983c it was touched for ever."""
    over = terminal_pod(exited_pod(code))
    story = Story().sees(RAN, POD_RUNNING).sees(HELD, POD_RUNNING)
    assert story.actions == []
    story.sees(HELD, over)
    if code:
        story.reads(HELD, over)
    assert ActionKind.RESUME in story.actions
    story.does(ActionKind.RESUME).does(ActionKind.DELETE_SECRET)
    assert story.sees(SUCCEEDED, over).state.is_cleared


def test_suspended_job_that_is_aborted_is_resumed() -> None:
    story = Story().sees(HELD, POD_RUNNING).stops()
    assert story.actions == [ActionKind.SHUTDOWN], "a Workflow whose pod runs is not deleted, as a new one is"
    shut_down = replace(HELD, shutdown="Terminate")
    story.does(ActionKind.SHUTDOWN).sees(shut_down, POD_RUNNING)
    assert ActionKind.RESUME in story.actions, "somebody suspended it again"


def test_job_that_was_terminated_while_suspended_is_resumed() -> None:
    shut_down = replace(HELD, shutdown="Terminate")
    story = Story().sees(HELD, POD_RUNNING).sees(shut_down, POD_RUNNING).reads(shut_down, POD_RUNNING)
    assert ActionKind.RESUME in story.actions
    story.passes(4)
    assert ActionKind.DELETE_POD in story.actions


def test_shutdown_and_resume_unsuspend() -> None:
    patches = []

    class RecordingApi:
        def merge(self, _kind: object, _name: str, patch: dict[str, object]) -> None:
            patches.append(patch["spec"])

    story = Story().sees(HELD, POD_RUNNING).stops()
    (action,) = story.pending_actions
    performer = Performer(RecordingApi())  # type: ignore[arg-type]
    for kind in (ActionKind.SHUTDOWN, ActionKind.RESUME, ActionKind.RELEASE):
        performer.perform(Command("job-site", "job-site", replace(action, kind=kind), "secret"))
    assert patches == [{"shutdown": "Terminate", "suspend": False}, {"suspend": False}, {"suspend": False}]


# --- a release that does not last


def test_lost_release_is_requested_again() -> None:
    """On a06983c the job stayed submitted for ever."""
    story = Story().sees(SUSPENDED)
    assert story.actions == [], "the watch lags behind the release"
    assert story.passes(5).actions == [ActionKind.RELEASE]
    story.does(ActionKind.RELEASE)
    assert story.passes(5).actions == [ActionKind.RELEASE], "until the Workflow is seen released"
    story.does(ActionKind.RELEASE).sees(replace(SUSPENDED, suspended=False, released=True))
    assert story.passes(60).actions == [], "it is no longer wanted"


def test_suspension_by_a_person_is_respected() -> None:
    assert Story().sees(replace(SUSPENDED, released=True)).passes(60).actions == []


def test_nothing_is_released_during_the_submit() -> None:
    assert Story(is_submitted=False).sees(SUSPENDED).passes(60).actions == []


def test_failed_submit_is_not_released() -> None:
    story = Story(is_submitted=False).sees(SUSPENDED).apply(Submitted("refused")).passes(6)
    assert ActionKind.RELEASE not in story.actions


# --- shutdowns that are refused


def refuse_shutdown(story: Story, times: int) -> None:
    for _ in range(times):
        while ActionKind.SHUTDOWN not in story.actions:
            story.passes(1)
        story.does(ActionKind.SHUTDOWN, ok=False)


def test_pod_is_deleted_if_the_shutdown_is_refused() -> None:
    """On a06983c nothing was ever killed, and FLARE got no verdict."""
    story = Story().sees(RAN, POD_RUNNING).stops()
    refuse_shutdown(story, 2)
    assert ActionKind.DELETE_POD not in story.actions, "a webhook may be down for a moment"
    refuse_shutdown(story, 1)
    assert ActionKind.DELETE_POD in story.actions
    story.does(ActionKind.DELETE_POD).sees(RAN).passes(60)
    story.reads(RAN)
    assert code_of(story) == (Reason.ABORTED, 9)


def test_second_pod_is_deleted_too() -> None:
    """Argo creates another pod if it has not seen the first one run."""
    pending = replace(RAN, node_phase="Pending")
    story = Story().sees(pending, POD_STARTING).stops()
    refuse_shutdown(story, 3)
    second = replace(POD_STARTING, uid=Uid("p2"))
    story.does(ActionKind.DELETE_POD).sees(pending, second)
    assert any(action.kind is ActionKind.DELETE_POD and action.uid == "p2" for action in story.pending_actions)


def test_workflow_without_a_pod_is_deleted_if_the_shutdown_is_refused() -> None:
    story = Story().sees(WORKFLOW).stops()
    refuse_shutdown(story, 3)
    assert ActionKind.DELETE_WORKFLOW in story.actions
    story.does(ActionKind.DELETE_WORKFLOW).sees(None).reads(None)
    assert code_of(story) == (Reason.ABORTED, 9)


# --- an exit is evidence


LATER_EVENTS = {
    "pod deleted": (RAN, (replace(exited_pod(3), deleting=True),)),
    "pod gone": (RAN, ()),
    "drained": (RAN, (replace(exited_pod(3), deleting=True, disruption="EvictionByEvictionAPI"),)),
    "Workflow deleted": (None, (replace(exited_pod(3), deleting=True),)),
    "Workflow and pod gone": (None, ()),
    "Workflow being deleted": (replace(RAN, deleting=True), (replace(exited_pod(3), deleting=True),)),
}


@pytest.mark.parametrize(("workflow", "pods"), LATER_EVENTS.values(), ids=LATER_EVENTS)
@pytest.mark.parametrize("is_watched", [True, False], ids=["watched first", "read only"])
def test_exit_before_a_deletion_stays(
    workflow: WorkflowView | None, pods: tuple[PodView, ...], *, is_watched: bool
) -> None:
    """On a06983c an exit 3 became 104 if the pod or the Workflow was deleted before the fresh read."""
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, exited_pod(3))
    if is_watched:
        story.sees(workflow, *pods)
    story.reads(workflow, *pods)
    assert code_of(story) == (Reason.PROGRAM_FAILED, 1)


@pytest.mark.parametrize("code", [137, 143])
def test_signal_before_the_workflow_was_deleted_proves_nothing(code: int) -> None:
    """Who deletes a Workflow may have terminated it just before: the two watches have no order between them."""
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, exited_pod(code)).reads(None)
    assert code_of(story) == (Reason.WORKFLOW_DELETED, 104)


def test_exit_first_seen_on_a_pod_being_deleted_proves_nothing() -> None:
    deleted = replace(exited_pod(143), deleting=True)
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, deleted).reads(RAN, deleted)
    assert code_of(story) == (Reason.POD_DELETED, 104)


def test_exit_that_a_shutdown_may_have_caused() -> None:
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, exited_pod(3)).reads(TERMINATED, exited_pod(3))
    assert code_of(story) == (Reason.SHUT_DOWN, 9)


# --- actions in flight


@pytest.mark.parametrize("kind", [ActionKind.SHUTDOWN, ActionKind.CONFIRM, ActionKind.DELETE_SECRET])
def test_lost_command_is_derived_again(kind: ActionKind) -> None:
    """On a06983c an action whose result never came was in flight for ever."""
    if kind is ActionKind.SHUTDOWN:
        story = Story().sees(RAN, POD_RUNNING).stops(Cause.ABORT)
    elif kind is ActionKind.CONFIRM:
        story = Story().sees(RAN, POD_RUNNING).sees(RAN, exited_pod(3))
    else:
        story = Story().sees(RAN, POD_RUNNING).sees(RAN, exited_pod(0))
    assert kind in story.actions
    story.pending_actions.clear()
    assert kind not in story.passes(59).actions
    assert kind in story.passes(1).actions
    story.pending_actions.clear()
    assert kind not in story.passes(60).actions, "it backs off"
    assert kind in story.passes(60).actions


# --- what a hostile reading found


def test_killing_of_an_earlier_launchs_pod_is_no_second_run() -> None:
    """The submit deletes it after it has created the Workflow, so its end is younger than the Workflow."""
    created = datetime(2026, 1, 1, tzinfo=UTC)
    own = replace(WORKFLOW, created=created)
    killed, pulled = created + timedelta(seconds=2), created + timedelta(seconds=9)
    killing = EventView("Killing", "Stopping container main", 1, killed, killed, "old")
    pulling = EventView("Pulling", 'Pulling image "x"', 1, pulled, pulled, "p1")
    story = Story().sees(own).sees(own, POD_STARTING).passes(10).lists_events(killing, pulling).sees(own, POD_RUNNING)
    assert not story.state.ran_twice
    assert not story.state.is_stopping


def test_shutdown_without_effect_has_a_successor() -> None:
    """A webhook may drop the change and answer 200."""
    story = Story().sees(RAN, POD_RUNNING).stops()
    for _ in range(3):
        while ActionKind.SHUTDOWN not in story.actions:
            story.passes(1)
            if ActionKind.CONFIRM in story.actions:
                story.reads(RAN, POD_RUNNING)
        story.does(ActionKind.SHUTDOWN)
    assert ActionKind.DELETE_POD in story.passes(20).actions


def test_hanging_shutdowns_have_a_successor_after_a_time() -> None:
    """Each of many shutdowns may hang in a webhook, and wait for those of other jobs."""
    story = Story().sees(RAN, POD_RUNNING).stops().passes(44)
    assert ActionKind.DELETE_POD not in story.actions
    assert ActionKind.DELETE_POD in story.passes(1).actions


def test_workflow_that_shows_no_shutdown_may_still_start() -> None:
    story = Story().sees(WORKFLOW).stops().does(ActionKind.SHUTDOWN).passes(5)
    story.reads(WORKFLOW)
    assert story.verdict is None


@pytest.mark.parametrize(
    "ended",
    [
        terminal_pod(exited_pod(128, "StartError", pod=POD_STARTING)),
        replace(POD_STARTING, phase="Failed", init_failure="init container init: exit code 2"),
        replace(POD_STARTING, phase="Failed", reason="OutOfcpu"),
    ],
    ids=["start error", "init failure", "refused by the node"],
)
def test_end_before_argo_saw_the_pod_run_is_argos_to_complete(ended: PodView) -> None:
    """Argo sees the pod, which is still there, so it runs the exit handler and creates no second pod."""
    pending = replace(WORKFLOW, has_node=True, node_phase="Pending")
    story = Story().sees(pending, POD_STARTING).sees(pending, ended).reads(pending, ended)
    assert story.verdict is not None
    assert ActionKind.NOTE_REASON in story.actions, "nothing else tells the reason once the pod is gone"
    assert not ENDING_ACTIONS & set(story.actions)


def test_fight_over_a_suspension_backs_off() -> None:
    over = terminal_pod(exited_pod(0))
    story = Story().sees(RAN, POD_RUNNING).sees(RAN, over).does(ActionKind.DELETE_SECRET)
    resumes = 0
    for _ in range(1200):
        story.sees(HELD, over)
        while ActionKind.RESUME in story.actions:
            resumes += 1
            story.does(ActionKind.RESUME).sees(RAN, over)
        story.passes(0.5)
    assert 0 < resumes < 20, "in ten minutes"


def test_released_workflow_that_a_person_suspended_is_not_deleted() -> None:
    held = replace(WORKFLOW, suspended=True, released=True, awaited_lock="Waiting for a lock")
    assert Story().sees(held).stops().actions == [ActionKind.SHUTDOWN]


def test_second_pods_deletion_has_its_own_clock() -> None:
    second = replace(POD_RUNNING, uid=Uid("p2"))
    story = Story().sees(TERMINATED, POD_RUNNING).stops().passes(5).does(ActionKind.DELETE_POD)
    story.sees(TERMINATED, replace(POD_RUNNING, deleting=True)).passes(50)
    story.sees(TERMINATED, second)
    story.does(ActionKind.DELETE_POD).sees(TERMINATED, replace(second, deleting=True)).passes(30)
    if ActionKind.CONFIRM in story.actions:
        story.reads(TERMINATED, replace(second, deleting=True))
    assert story.verdict is None, "the second pod's program may still run"


def test_refusal_of_a_node_is_no_failed_init_container() -> None:
    """The kubelet reports the init containers of a pod that it has refused as ended, seconds later."""
    refused = replace(
        POD_STARTING, phase="Failed", reason="OutOfcpu", init_failure="init container init: exit code 137"
    )
    story = Story().sees(WORKFLOW, POD_STARTING).sees(WORKFLOW, refused).reads(WORKFLOW, refused)
    assert code_of(story) == (Reason.NODE_REFUSED, 104)
