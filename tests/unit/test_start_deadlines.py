"""Tests of a job's start: how long a trouble may last, how long a pod may be without a node, when events are listed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.status.deadlines import TAINT_LIMIT
from flargo.status.diagnosis import DEFAULT_PATIENCE, Stage, diagnose
from flargo.status.job_state import ActionKind
from flargo.status.reasons import Reason
from flargo.status.views import EventView, Observation, PodView, Waiting
from flargo.terms import StartTimeouts
from tests.harness.story import POD_RUNNING, POD_SHORT, POD_STARTING, WORKFLOW, Story, exited_pod, waiting_pod

TAINTED = replace(POD_SHORT, unscheduled_message="0/2 nodes are available: 2 node(s) had untolerated taint {a: b}.")
UNMATCHED = replace(
    POD_SHORT, unscheduled_message="0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
)


def end_of(story: Story) -> tuple[Reason | None, str] | None:
    """Return the reason and the detail with which the job is being ended."""
    diagnosis = story.state.end_diagnosis
    return None if diagnosis is None else (diagnosis.reason, diagnosis.detail)


def reason_of(story: Story) -> Reason | None:
    """Return the reason with which the job is being ended."""
    diagnosis = story.state.end_diagnosis
    return None if diagnosis is None else diagnosis.reason


def seconds_until_end(story: Story, pod: PodView, limit: float = 4000.0) -> float | None:
    """Let a job's pod stay as it is; return the seconds after which the job is being ended, or None.

    Time passes only as ``requeue_after`` says, so a deadline that it leaves out is never met.
    """
    begin = story.now.wall
    story.sees(WORKFLOW, pod)
    while True:
        if ActionKind.CONFIRM in story.actions:
            story.reads(WORKFLOW, pod)
        while ActionKind.LIST_EVENTS in story.actions:
            story.lists_events()
        if story.state.end_diagnosis is not None:
            return story.now.wall - begin
        if story.requeue_after is None or story.now.wall - begin >= limit:
            return None
        story.passes(min(story.requeue_after, begin + limit - story.now.wall))


# --- a container that does not start

PATIENCE = [
    ("ErrImagePull", 'failed to resolve reference "registry.example/x:1": not found', 10.0),
    ("ImagePullBackOff", 'Back-off pulling image "registry.example/x:1"', 10.0),
    ("ErrImageNeverPull", 'Container image "x" is not present with pull policy of Never', 10.0),
    ("CreateContainerConfigError", 'secret "x" not found', 10.0),
    ("CreateContainerError", "no command specified", 10.0),
    ("RunContainerError", "exec format error", 10.0),
    ("ImageInspectError", 'Failed to inspect image "x"', 10.0),
    ("SignatureValidationFailed", "", 10.0),
    ("ErrImagePull", "toomanyrequests: You have reached your pull rate limit.", 60.0),
    ("ErrImagePull", "unexpected status code 429 Too Many Requests", 60.0),
    ("ImagePullBackOff", 'Back-off pulling image "x": ErrImagePull: unexpected status: 429', 60.0),
    ("ErrImagePull", "pull QPS exceeded", 60.0),
    ("RegistryUnavailable", "image pull failed for x because the registry is unavailable", 60.0),
    ("ImagePullBackOff", 'Back-off pulling image "x": RegistryUnavailable: the registry is unavailable', 60.0),
    ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", 60.0),
    ("ErrImagePull", "net/http: TLS handshake timeout", 60.0),
    ("ErrImagePull", "rpc error: code = DeadlineExceeded desc = context deadline exceeded", 60.0),
    ("CreateContainerError", "context deadline exceeded", 60.0),
    ("CreateContainerError", 'failed to reserve container name "x": name "x" is reserved for "y"', 60.0),
    ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", 60.0),
    ("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition", 60.0),
    ("CreateContainerConfigError", 'object "flare"/"x" not registered', 60.0),
    ("InvalidImageName", "couldn't parse image reference", 0.0),
    ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", 0.0),
    ("CreateContainerConfigError", "image has non-numeric user (x), cannot verify user is non-root", 0.0),
]


@pytest.mark.parametrize(("reason", "message", "seconds"), PATIENCE)
@pytest.mark.parametrize("container", ["init", "main"])
def test_a_trouble_must_last(container: str, reason: str, message: str, seconds: float) -> None:
    pod = waiting_pod(reason, message, container)
    story = Story()
    assert seconds_until_end(story, pod) == seconds
    diagnosis = diagnose(Observation(WORKFLOW, (pod,)), None)
    assert end_of(story) is not None
    assert reason_of(story) is diagnosis.reason
    assert f"{container}: {reason} {message}".strip() in story.state.end_diagnosis.detail  # type: ignore[union-attr]


@given(st.sampled_from([*{reason for reason, _, _ in PATIENCE}]), st.text(max_size=200))
def test_any_message_has_a_patience(reason: str, message: str) -> None:
    """Whatever a registry, a runtime or an admission plugin writes, the job waits for one of three times."""
    trouble = diagnose(Observation(WORKFLOW, (waiting_pod(reason, message),)), None).trouble
    assert trouble is not None
    assert trouble.patience in {0.0, 10.0, 60.0}


@given(
    st.text(max_size=80), st.sampled_from([row for row in PATIENCE if row[2] != DEFAULT_PATIENCE]), st.text(max_size=80)
)
def test_known_messages_are_found_in_longer_ones(before: str, row: tuple[str, str, float], after: str) -> None:
    reason, message, seconds = row
    trouble = diagnose(Observation(WORKFLOW, (waiting_pod(reason, f"{before} {message} {after}"),)), None).trouble
    assert trouble is not None
    assert trouble.patience in {0.0, seconds}


def test_a_trouble_that_passes_is_harmless() -> None:
    """The kubelet's cache of Secrets is in sync a few seconds after the pod has come."""
    stuck = waiting_pod(
        "CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"
    )
    story = Story().sees(WORKFLOW, stuck).passes(59)
    assert ActionKind.CONFIRM not in story.actions
    story.sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(0))
    assert story.verdict is not None
    assert story.verdict.code == 0


def test_a_fresh_read_can_end_a_trouble() -> None:
    story = Story().sees(WORKFLOW, waiting_pod("ErrImagePull", "not found")).passes(DEFAULT_PATIENCE)
    story.reads(WORKFLOW, POD_RUNNING)
    assert story.state.end_diagnosis is None


def test_a_trouble_counts_time_with_contact_only() -> None:
    story = Story().sees(WORKFLOW, waiting_pod("ErrImagePull", "not found")).passes(3600, healthy=False)
    assert ActionKind.CONFIRM not in story.actions


@given(st.lists(st.sampled_from(["ErrImagePull", "ImagePullBackOff"]), min_size=2, max_size=8), st.integers(1, 3))
def test_a_failed_pull_and_its_back_off_are_one_trouble(reasons: list[str], seconds: int) -> None:
    story = Story()
    for reason in [*reasons, *reasons * 10]:
        story.sees(WORKFLOW, waiting_pod(reason, "not found")).passes(seconds)
        if ActionKind.CONFIRM in story.actions:
            break
    assert DEFAULT_PATIENCE <= story.now.wall < DEFAULT_PATIENCE + seconds


def test_a_back_off_keeps_the_patience_of_its_cause() -> None:
    """Older kubelets do not repeat in the back-off why the pull failed."""
    story = Story().sees(WORKFLOW, waiting_pod("ErrImagePull", "toomanyrequests")).passes(2)
    pod = waiting_pod("ImagePullBackOff", 'Back-off pulling image "x"')
    assert seconds_until_end(story, pod) == 58


def test_a_short_pause_does_not_end_a_trouble() -> None:
    """The kubelet shows ContainerCreating for a moment when it starts again."""
    pod = waiting_pod("ErrImagePull", "not found")
    story = Story().sees(WORKFLOW, pod).passes(6).sees(WORKFLOW, waiting_pod("ContainerCreating")).passes(1)
    assert seconds_until_end(story, pod) == 3


def test_the_next_container_has_its_own_trouble() -> None:
    story = Story().sees(WORKFLOW, waiting_pod("ErrImagePull", "not found", "init")).passes(9)
    assert seconds_until_end(story, waiting_pod("ErrImagePull", "not found", "main")) == DEFAULT_PATIENCE


def test_a_restarting_sidecar_is_no_end() -> None:
    """With restartPolicy Never only sidecars are started again, so it is the timeout that ends the job."""
    pod = waiting_pod("CrashLoopBackOff", "back-off 10s restarting failed container", "proxy")
    story = Story(StartTimeouts(starting=300))
    assert seconds_until_end(story, pod) == 300
    assert reason_of(story) is Reason.START_TIMEOUT


def event(reason: str, message: str = "", at: float = 0.0, count: int = 1, span: float = 0.0) -> EventView:
    last = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    return EventView(reason, message, count, last - timedelta(seconds=span), last)


def test_a_pull_that_goes_on_is_no_trouble() -> None:
    """The container's status shows the earlier failure until the next try has ended."""
    pod = waiting_pod("ErrImagePull", "toomanyrequests")
    failures = (
        event("Pulling", 'Pulling image "x"', at=0),
        event("Failed", 'Failed to pull image "x": toomanyrequests', at=1),
    )
    story = Story().sees(WORKFLOW, pod).passes(10).lists_events(*failures)
    stages = [story.state.stage]
    story.passes(30).lists_events(*failures, event("Pulling", 'Pulling image "x"', at=35, count=2, span=35))
    stages.append(story.state.stage)
    assert stages == [Stage.STARTING, Stage.PULLING]
    assert ActionKind.CONFIRM not in story.passes(600).actions
    again = (*failures, event("Failed", 'Failed to pull image "x": toomanyrequests', at=640, count=2, span=640))
    assert ActionKind.CONFIRM in story.lists_events(*again).actions


# --- a pod without a node


def change_of(name: str) -> PodView:
    return {"shortage": POD_SHORT, "taint": TAINTED, "other": UNMATCHED}[name]


@given(
    st.lists(st.tuples(st.sampled_from(["shortage", "taint", "other"]), st.integers(1, 50)), min_size=1, max_size=12),
    st.sampled_from([0.0, 30.0, 120.0, 600.0]),
    st.sampled_from([0.0, 45.0, 300.0]),
)
def test_being_without_a_node_is_one_clock(
    changes: list[tuple[str, int]], pending: float, unschedulable: float
) -> None:
    """No sequence of obstacles gives new patience: the job ends within the longest limit of those that it has met."""
    story = Story(StartTimeouts(pending=pending, unschedulable=unschedulable))
    own = {"shortage": pending, "taint": max(TAINT_LIMIT, unschedulable), "other": unschedulable}
    met: set[str] = set()
    for name, seconds in changes:
        met.add(name)
        pod = change_of(name)
        end = seconds_until_end(story, pod, seconds)
        if end is not None:
            assert story.now.wall >= own[name], "never before the limit of the present obstacle"
            assert story.now.wall <= max(own[other] for other in met) or end == 0
            is_short = name == "shortage" or (name == "taint" and "shortage" in met)
            assert reason_of(story) is (Reason.SHORTAGE if is_short else Reason.UNSCHEDULABLE)
            return
        assert story.now.wall < max(own[other] for other in met)


def test_shortage_and_taint_in_turns_end() -> None:
    story = Story(StartTimeouts(pending=120))
    for pod in (POD_SHORT, TAINTED, POD_SHORT):
        assert seconds_until_end(story, pod, 39) is None
    assert seconds_until_end(story, TAINTED, 39) is not None
    assert story.now.wall == 120


def test_taints_after_a_shortage_do_not_shorten_the_wait() -> None:
    """A new node is tainted until it is ready; after an outage all nodes are."""
    story = Story(StartTimeouts(pending=600))
    assert seconds_until_end(story, POD_SHORT, 300) is None
    assert seconds_until_end(story, TAINTED, 100) is None
    assert seconds_until_end(story, POD_SHORT) == pytest.approx(200)
    assert reason_of(story) is Reason.SHORTAGE


def test_a_node_resets_the_clock() -> None:
    story = Story(StartTimeouts(pending=120)).sees(WORKFLOW, POD_SHORT).passes(100).sees(WORKFLOW, POD_STARTING)
    assert story.state.start.obstacle is None
    assert story.state.start.unplaced_since == float("inf")


def test_no_waiting_for_other_obstacles_by_default() -> None:
    """As with the stock launcher; taints may last for a minute."""
    assert seconds_until_end(Story(), UNMATCHED) == 0
    story = Story()
    seconds_until_end(story, UNMATCHED)
    assert end_of(story) == (Reason.UNSCHEDULABLE, f"Unschedulable {UNMATCHED.unscheduled_message}")
    assert seconds_until_end(Story(), TAINTED) == TAINT_LIMIT


@pytest.mark.parametrize(
    "message",
    [
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        'persistentvolumeclaim "x" not found',
        "0/2 nodes are available: 2 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
    ],
)
def test_unschedulable_lets_a_job_wait(message: str) -> None:
    pod = replace(UNMATCHED, unscheduled_message=message)
    story = Story(StartTimeouts(unschedulable=300))
    assert seconds_until_end(story, pod) == 300
    assert end_of(story) == (Reason.UNSCHEDULABLE, f"Unschedulable {message}; timeout of 300 s expired")


@pytest.mark.parametrize("scale_up", ["TriggeredScaleUp", "Nominated"])
@pytest.mark.parametrize("pod", [UNMATCHED, TAINTED], ids=["no match", "taints"])
def test_a_scale_up_counts_as_a_shortage(pod: PodView, scale_up: str) -> None:
    story = Story(StartTimeouts(pending=600, unschedulable=30)).sees(WORKFLOW, pod).passes(9)
    assert story.actions == []
    assert story.passes(1).actions == [ActionKind.LIST_EVENTS]
    story.lists_events(event("FailedScheduling"), event(scale_up, "pod triggered scale-up: [{gpus 0->1}]", at=5))
    assert story.state.stage is Stage.SHORTAGE
    assert seconds_until_end(story, pod) == pytest.approx(590)
    scaling = f"{scale_up} pod triggered scale-up: [{{gpus 0->1}}]"
    detail = f"Unschedulable {pod.unscheduled_message}; {scaling}; timeout of 600 s expired"
    assert end_of(story) == (Reason.SHORTAGE, detail)


def test_a_scale_up_does_not_shorten_the_wait() -> None:
    story = Story(StartTimeouts(pending=0, unschedulable=300)).sees(WORKFLOW, UNMATCHED).passes(10)
    story.lists_events(event("TriggeredScaleUp"))
    assert ActionKind.CONFIRM not in story.passes(289).actions
    assert ActionKind.CONFIRM in story.passes(1).actions


def test_a_later_refusal_to_scale_up_counts() -> None:
    story = Story(StartTimeouts(unschedulable=30)).sees(WORKFLOW, UNMATCHED).passes(10)
    story.lists_events(event("TriggeredScaleUp", at=1), event("NotTriggerScaleUp", at=2))
    assert story.state.stage is Stage.WAITING


def test_no_events_without_the_setting() -> None:
    assert Story().sees(WORKFLOW, TAINTED).passes(59).actions == []


# --- lists of events


@given(st.lists(st.integers(1, 60), max_size=30))
def test_a_slow_pull_lists_few_events(relists: list[int]) -> None:
    """However often the watches start again meanwhile."""
    story = Story().sees(WORKFLOW, POD_STARTING, after_relist=bool(relists))
    pulling = event("Pulling", 'Pulling image "x"')
    lists, relist_times = 0, [sum(relists[: i + 1]) for i in range(len(relists))]
    for second in range(600):
        if second in relist_times:
            story.state = story.state.without_backoff()
            story.sees(WORKFLOW, POD_STARTING, after_relist=True)
        if ActionKind.LIST_EVENTS in story.actions:
            lists += 1
            story.lists_events(pulling)
        story.passes(1)
    assert 5 <= lists <= 8


@pytest.mark.parametrize("started_at", [0, 3, 9])
def test_a_failing_mount_is_found(started_at: int) -> None:
    """The kubelet tries again after 0.5, 1, 2, 4, ... seconds, and counts in one event."""
    tries = [started_at + 0.5 * (2**n - 1) for n in range(9)]
    story = Story().sees(WORKFLOW, POD_STARTING)
    while ActionKind.CONFIRM not in story.actions:
        assert story.requeue_after is not None
        story.passes(story.requeue_after)
        if ActionKind.LIST_EVENTS in story.actions:
            past = [at for at in tries if at <= story.now.wall]
            story.lists_events(event("FailedMount", "timed out", past[-1], len(past), past[-1] - past[0]))
    assert story.now.wall <= 90


def test_events_are_listed_before_a_deadline() -> None:
    """The latest list may be five minutes old, and the pull that it showed may be over."""
    story = Story(StartTimeouts(pulling=3600)).sees(WORKFLOW, POD_STARTING)
    pulling = event("Pulling", 'Pulling image "x"')
    times = []
    while ActionKind.CONFIRM not in story.actions:
        assert story.requeue_after is not None
        story.passes(story.requeue_after)
        if ActionKind.LIST_EVENTS in story.actions:
            times.append(story.now.wall)
            story.lists_events(pulling)
    assert story.now.wall == 3610
    assert times[-1] == 3600


def test_a_pod_with_a_new_node_starts_its_lists_again() -> None:
    story = Story(StartTimeouts(unschedulable=3600, pending=3600)).sees(WORKFLOW, UNMATCHED)
    for _ in range(5):
        while ActionKind.LIST_EVENTS not in story.actions:
            assert story.requeue_after is not None
            story.passes(story.requeue_after)
        story.lists_events()
    story.sees(WORKFLOW, POD_STARTING).passes(10)
    assert story.actions == [ActionKind.LIST_EVENTS]


def test_two_containers_in_trouble() -> None:
    """The shorter patience counts: an invalid name never becomes valid."""
    waiting = (Waiting("wait", "ErrImagePull", "toomanyrequests"), Waiting("main", "InvalidImageName", "x"))
    assert seconds_until_end(Story(), replace(POD_STARTING, waiting=waiting)) == 0


def test_events_are_listed_within_a_short_wait() -> None:
    """An autoscaler is heard although ``argo.unschedulable`` is less than the time after which events are listed."""
    story = Story(StartTimeouts(unschedulable=8, pending=300)).sees(WORKFLOW, UNMATCHED).passes(4)
    assert story.actions == [ActionKind.LIST_EVENTS]
    story.lists_events(event("TriggeredScaleUp"))
    assert story.passes(10).actions == []
