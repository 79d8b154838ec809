"""A job for which nothing changes costs the API server almost nothing, and its end is noticed without any watch event.

Hypothesis brings a job into any state, possible or not. Then the cluster stands still: every read shows the same, and
every other request is accepted, refused or lost, always in the same way.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flargo.status.job_state import ActionKind, Input, LaunchGivenUp, Observed, StopRequested, Submitted
from flargo.status.verdict import Cause
from flargo.status.views import EventView, Observation, PodView, WorkflowView
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

FLOOR_PER_HOUR = 90
"""Requests for one job in an hour in which nothing changes: each of at most seven actions every five minutes."""
MISSED_END_LIMIT = 400.0
"""Seconds within which reads show the end of a job that is over: a request that had no effect is repeated meanwhile."""
LONGEST_WAIT = 400.0
"""Seconds within which every action that is wanted is tried again: five minutes, and the grace period."""

RAN = replace(WORKFLOW, has_node=True, node_phase="Running")
HELD = replace(RAN, suspended=True, released=True)
STEP_DONE = replace(RAN, node_phase="Failed", is_step_done=True)
WORKFLOWS: tuple[WorkflowView | None, ...] = (
    None,
    SUSPENDED,
    replace(SUSPENDED, released=True),
    UNCLAIMED,
    WORKFLOW,
    RAN,
    HELD,
    replace(HELD, shutdown="Terminate"),
    replace(RAN, shutdown="Terminate"),
    replace(RAN, deleting=True),
    replace(RAN, is_retried=True),
    STEP_DONE,
    replace(STEP_DONE, is_handler_running=True),
    replace(STEP_DONE, suspended=True, released=True),
    replace(WORKFLOW, phase="Pending", awaited_lock="Waiting for a lock"),
    replace(WORKFLOW, node_message="pods is forbidden: exceeded quota: q"),
    TERMINATED,
    FAILED,
    SUCCEEDED,
)
ONE_POD = (
    POD,
    POD_SHORT,
    POD_STARTING,
    POD_RUNNING,
    waiting_pod("ErrImagePull"),
    *(exited_pod(code) for code in (0, 3, 101, 143)),
    *(terminal_pod(exited_pod(code)) for code in (0, 3)),
    replace(POD_RUNNING, deleting=True),
    replace(POD_STARTING, deleting=True, disruption="DeletionByTaintManager"),
    replace(POD_RUNNING, running=False, phase="Failed", reason="Evicted"),
)
PODS = st.one_of(
    st.just(()),
    st.sampled_from(ONE_POD).map(lambda pod: (pod,)),
    st.tuples(st.sampled_from(ONE_POD), st.sampled_from(ONE_POD).map(lambda pod: replace(pod, uid=Uid("p2")))),
)
OBSERVATIONS = st.builds(
    Observation, st.sampled_from(WORKFLOWS), PODS, after_relist=st.booleans(), is_fresh=st.booleans()
)
INPUTS: st.SearchStrategy[Input | float] = st.one_of(
    OBSERVATIONS.map(Observed),
    OBSERVATIONS.map(Observed),
    st.sampled_from([Cause.ABORT, Cause.CLEANUP, Cause.ORPHANED]).map(StopRequested),
    st.sampled_from([Submitted(), Submitted("refused"), LaunchGivenUp("the launch took too long")]),
    st.sampled_from([0.5, 5.0, 70.0, 2000.0]),
)
POLICIES = st.fixed_dictionaries({kind: st.sampled_from(["accept", "refuse", "lose"]) for kind in ActionKind})
EVENTS = st.sampled_from(
    [(), (EventView("FailedMount", "not found", count=3),), (EventView("Pulling", 'Pulling image "a"'),)]
)


def answer_all(
    story: Story,
    objects: tuple[WorkflowView | None, tuple[PodView, ...]],
    events: tuple[EventView, ...],
    policy: dict[ActionKind, str],
) -> int:
    """Answer every pending action in the way of its kind; return how many were sent."""
    actions, story.pending_actions = story.pending_actions, []
    for action in actions:
        story.pending_actions.append(action)
        match policy[action.kind], action.kind:
            case "lose", _:
                story.pending_actions.clear()
            case "refuse", _:
                story.does(action.kind, ok=False)
            case "accept", ActionKind.CONFIRM:
                story.sees(objects[0], *objects[1], is_fresh=True)
            case "accept", ActionKind.LIST_EVENTS:
                story.lists_events(*events)
            case _:
                story.does(action.kind)
    return len(actions)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(INPUTS, max_size=8), st.sampled_from(WORKFLOWS), PODS, EVENTS, POLICIES)
def test_requests_fall_to_the_floor(
    inputs: list[Input | float],
    workflow: WorkflowView | None,
    pods: tuple[PodView, ...],
    events: tuple[EventView, ...],
    policy: dict[ActionKind, str],
) -> None:
    """On a06983c a suspended job was touched 12 times a minute for ever, and a lost command was never repeated."""
    story = Story(StartTimeouts(total=None), is_submitted=False)
    for input_ in inputs:
        story = story.passes(input_) if isinstance(input_, float) else story.apply(input_)
    story.apply(Submitted()).sees(workflow, *pods)
    times: list[float] = []
    end = story.now.wall + 3 * 3600
    while story.now.wall < end:
        times += [story.now.wall] * answer_all(story, (workflow, pods), events, policy)
        if story.pending_actions:
            assert len(times) < 1000, "endless requests at one moment"
            continue
        if story.requeue_after is None:
            assert story.state.is_cleared or not story.state.retries, (
                f"{story.state} waits for a result that need not come"
            )
            break
        assert not story.state.retries or story.requeue_after <= LONGEST_WAIT
        story.passes(max(story.requeue_after, 0.2))
    last_hour = [time for time in times if time > end - 3600]
    assert len(last_hour) <= FLOOR_PER_HOUR, f"{len(last_hour)} requests in the last hour: {story.state}"


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(INPUTS, max_size=8),
    st.sampled_from([workflow for workflow in WORKFLOWS if workflow is None or not workflow.is_handler_running]),
    PODS,
    st.sampled_from([None, TERMINATED, FAILED, SUCCEEDED]),
    st.sampled_from([(), *((terminal_pod(exited_pod(code)),) for code in (0, 3, 143))]),
)
def test_missed_end_is_noticed(
    inputs: list[Input | float],
    workflow: WorkflowView | None,
    pods: tuple[PodView, ...],
    completed: WorkflowView | None,
    ended_pods: tuple[PodView, ...],
) -> None:
    """A watch that has missed the job's end, or shows a pod again that a read has shown gone, keeps no job open.

    An exit handler may run for hours; its end alone is left to the watch, which is opened again every few minutes.
    """
    story = Story(StartTimeouts(total=None), is_submitted=False)
    for input_ in inputs:
        story = story.passes(input_) if isinstance(input_, float) else story.apply(input_)
    story.apply(Submitted()).sees(workflow, *pods)
    if story.verdict is None:
        story.stops()
    end = story.now.wall + MISSED_END_LIMIT
    accept = dict.fromkeys(ActionKind, "accept")
    while not story.state.is_cleared and story.now.wall < end:
        answer_all(story, (completed, ended_pods), (), accept)
        if not story.pending_actions and not story.state.is_cleared:
            assert story.requeue_after is not None
            story.passes(max(story.requeue_after, 0.2))
    assert story.state.is_cleared, story.state
