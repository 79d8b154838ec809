"""Which ends of an attempt are losses, and when the next attempt may begin."""

from dataclasses import replace

import pytest

from flargo.status.job_state import ActionKind
from flargo.status.reasons import FLARE_EXIT_CODES, Reason, ReturnCode
from flargo.status.reconcile import END_LIMIT
from flargo.status.rejoin import (
    SETTLE_SECONDS,
    find_obstacle,
    has_never_started,
    is_loss,
    is_place_free,
    lost_pods,
    may_have_missed_the_server,
    settle_seconds,
)
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Uid
from tests.harness.story import FAILED, POD_RUNNING, WORKFLOW, Story, exited_pod, terminal_pod

DRAINED = replace(POD_RUNNING, deleting=True, disruption="EvictionByEvictionAPI: Eviction API: evicting")


def story(reason: Reason, *, disruption: str = "", cause: Cause | None = None) -> Story:
    """Return the story of a job that has ended for a reason."""
    told = Story().sees(WORKFLOW, POD_RUNNING)
    pod = replace(terminal_pod(exited_pod(143)), disruption=disruption)
    told.state = replace(
        told.state, verdict=Verdict(reason, int(reason.code or 0)), cause=cause, pod=pod, exited_pod=pod
    )
    return told


@pytest.mark.parametrize("reason", Reason)
def test_only_the_infrastructure_loses_a_job(reason: Reason) -> None:
    state = story(reason).state
    assert is_loss(state, deleted_counts=False) == (reason in {Reason.DISRUPTED, Reason.NODE_LOST})
    assert is_loss(state, deleted_counts=True) == (reason in {Reason.DISRUPTED, Reason.NODE_LOST, Reason.POD_DELETED})


@pytest.mark.parametrize("refusal_counts", [True, False])
def test_a_refusal_is_a_loss_where_it_counts(*, refusal_counts: bool) -> None:
    state = replace(story(Reason.NODE_REFUSED).state, exited_pod=None)
    assert is_loss(state, deleted_counts=False, refusal_counts=refusal_counts) == refusal_counts
    assert not find_obstacle(state, deleted_counts=False, refusal_counts=True)
    terminated = replace(state, is_ended_by_others=True)
    assert not is_loss(terminated, deleted_counts=False, refusal_counts=refusal_counts)
    assert find_obstacle(terminated, deleted_counts=False, refusal_counts=refusal_counts)


def test_only_an_eviction_for_the_nodes_sake_is_a_loss() -> None:
    own_excess = story(Reason.EVICTED).state
    pressure = story(Reason.EVICTED, disruption="TerminationByKubelet: The node was low on resource: memory.").state
    assert not is_loss(own_excess, deleted_counts=True)
    assert is_loss(pressure, deleted_counts=False)


def test_a_pod_that_a_node_under_pressure_rejects_is_lost() -> None:
    told = story(Reason.EVICTED)
    message = "Pod was rejected: The node had condition: [DiskPressure]. "
    assert told.state.pod is not None
    rejected = replace(told.state.pod, message=message)
    assert is_loss(replace(told.state, pod=rejected, exited_pod=None), deleted_counts=False)


@pytest.mark.parametrize("reason", Reason)
def test_only_what_the_scheduler_does_not_know_has_to_settle(reason: Reason) -> None:
    """It does not know yet that the node is under pressure, or what else the node's kubelet has against the pod."""
    is_nodes = reason in {Reason.EVICTED, Reason.NODE_REFUSED}
    assert settle_seconds(Verdict(reason, 104)) == (SETTLE_SECONDS if is_nodes else 0.0)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("code", [None, 1, 137, 143])
def test_a_pod_that_nobody_saw_may_have_been_drained(reason: Reason, code: int | None) -> None:
    """SIGTERM is the kubelet's. SIGKILL may also be the kernel's, for want of memory."""
    state = story(reason).state
    assert state.verdict is not None
    state = replace(state, pod=None, exited_pod=None, verdict=replace(state.verdict, exit_code=code))
    is_killed = reason is Reason.PROGRAM_FAILED and code == 143
    expected = is_killed or reason in {Reason.DISRUPTED, Reason.NODE_LOST, Reason.POD_DELETED}
    assert is_loss(state, deleted_counts=False, ended_unseen=True) == expected
    assert not is_loss(replace(state, cause=Cause.ABORT), deleted_counts=False, ended_unseen=True)


@pytest.mark.parametrize("cause", Cause)
def test_a_job_that_flare_ends_is_not_lost(cause: Cause) -> None:
    assert not is_loss(story(Reason.DISRUPTED, cause=cause).state, deleted_counts=True)


@pytest.mark.parametrize(
    ("ending", "is_lost"),
    [("ABORTED", False), ("PARENT_ENDED", False), ("SHORTAGE", False), ("DISRUPTED", True), ("NODE_LOST", True)],
)
def test_a_job_that_an_earlier_run_was_ending_is_not_lost(ending: str, *, is_lost: bool) -> None:
    """Its pod was drained at the same time, and only the Workflow tells that the parent did not want the job any more.

    A parent also shuts down a Workflow whose pod was drained before Argo knew it.
    """
    state = story(Reason.DISRUPTED).state
    workflow = replace(WORKFLOW, shutdown="Terminate", ending=ending)
    state = replace(state, observation=replace(state.observation, workflow=workflow))
    assert is_loss(state, deleted_counts=True) == is_lost


STARTED = replace(WORKFLOW, node_phase="Running")
GONE = terminal_pod(exited_pod(143, pod=DRAINED))


def draining() -> Story:
    """Return the story of a job whose pod is drained and whose program still runs."""
    return Story().sees(STARTED, POD_RUNNING).sees(STARTED, DRAINED).reads(STARTED, DRAINED)


def lost(told: Story, workflow: WorkflowView | None = STARTED) -> bool:
    """Let the drained pod end; return whether the job counts as lost."""
    told.passes(2.0).sees(workflow, GONE)
    told.sees(workflow, GONE, is_fresh=True)
    assert told.verdict is not None
    assert told.verdict.reason is Reason.DISRUPTED
    return is_loss(told.state, deleted_counts=True)


def test_a_drained_job_is_lost() -> None:
    assert lost(draining())


def test_a_job_terminated_during_a_drain_is_not_lost() -> None:
    """Its program may take minutes to end, and a person may not want it any more."""
    terminated = replace(STARTED, shutdown="Terminate")
    assert not lost(draining().sees(terminated, DRAINED), terminated)


def test_a_workflow_deleted_during_a_drain_is_not_lost() -> None:
    assert not lost(draining().sees(None, DRAINED), None)
    deleting = replace(STARTED, deleting=True)
    assert not lost(draining().sees(deleting, DRAINED), None), "a foreground deletion ends the pod first"


def test_a_finished_workflow_may_be_deleted() -> None:
    """Argo does so itself after a while, which a site may set to 0."""
    told = draining().passes(2.0).sees(STARTED, GONE).sees(FAILED, GONE).sees(replace(FAILED, deleting=True), GONE)
    told.sees(None, GONE, is_fresh=True)
    assert is_loss(told.state, deleted_counts=False)


def test_a_missing_workflow_is_read_before_it_counts_as_deleted() -> None:
    """The list with which a watch begins again may be older."""
    told = draining().sees(None, DRAINED, after_relist=True).sees(STARTED, DRAINED)
    assert lost(told)


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_shutdown_by_flargo_is_not_somebody_elses(*, is_answered: bool) -> None:
    """A drained pod that Argo has not seen running is made again unless its Workflow is shut down."""
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, DRAINED).reads(WORKFLOW, DRAINED)
    if is_answered:
        told.does(ActionKind.SHUTDOWN)
    shut_down = replace(STARTED, shutdown="Terminate", ending="DISRUPTED")
    told.sees(shut_down, DRAINED).sees(shut_down, DRAINED)
    assert lost(told, shut_down)


def test_a_shutdown_by_flargo_is_known_by_its_note() -> None:
    """It may arrive when it is no longer wanted, before its answer."""
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, DRAINED).reads(WORKFLOW, DRAINED)
    told.sees(STARTED, DRAINED).sees(replace(STARTED, shutdown="Terminate", ending="DISRUPTED"), DRAINED)
    assert lost(told, replace(STARTED, shutdown="Terminate", ending="DISRUPTED"))


def test_a_shutdown_after_the_loss_keeps_the_next_attempt_from_beginning() -> None:
    told = draining()
    assert lost(told)
    assert not find_obstacle(told.state, deleted_counts=False)
    noted = replace(STARTED, ending="DISRUPTED")
    told.sees(noted, GONE).sees(replace(noted, shutdown="Terminate"), GONE)
    assert find_obstacle(told.state, deleted_counts=False) == "its Workflow was terminated or deleted"


def test_a_job_whose_results_have_arrived_is_not_lost() -> None:
    """Its node was lost after it had done its work."""
    told = story(Reason.NODE_LOST)
    assert is_loss(told.state, deleted_counts=False)
    told.state = replace(told.state, observation=replace(told.state.observation, has_results=True))
    assert not is_loss(told.state, deleted_counts=False)
    assert find_obstacle(told.state, deleted_counts=False) == "its results have arrived"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason.POD_DELETED, "the site does not count a pod that somebody has deleted (argo.rejoin_deleted)"),
        (Reason.EVICTED, "nothing shows that its node was under pressure, so it may have exceeded a limit of its own"),
    ],
)
def test_an_end_that_does_not_count_is_explained(reason: Reason, text: str) -> None:
    state = story(reason).state
    assert find_obstacle(state, deleted_counts=False) == text
    ended_by_others = replace(state, is_ended_by_others=True)
    assert find_obstacle(ended_by_others, deleted_counts=False) == "its Workflow was terminated or deleted"
    with_results = replace(state, observation=replace(state.observation, has_results=True))
    assert find_obstacle(with_results, deleted_counts=False) == "its results have arrived"


def test_the_wait_for_a_place_has_an_end() -> None:
    """Otherwise a right that is missing, or a controller that is away, would keep the verdict from FLARE for ever."""
    told = draining()
    assert lost(told)
    told.passes(END_LIMIT - 1.0)
    assert not find_obstacle(told.state, deleted_counts=False)
    told.passes(600.0, healthy=False)
    assert not find_obstacle(told.state, deleted_counts=False), "the API server was away"
    told.passes(1.0)
    assert find_obstacle(told.state, deleted_counts=False) == "its Workflow or pod has not ended after 600 s"
    told.sees(replace(STARTED, phase="Failed"), GONE)
    assert not find_obstacle(told.state, deleted_counts=False), "the place is free after all"


def test_the_place_of_a_drained_pod_is_free_once_all_is_gone() -> None:
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, DRAINED)
    assert not is_place_free(told.reads(WORKFLOW, DRAINED).state), "the program runs"
    gone = replace(terminal_pod(exited_pod(143, pod=DRAINED)), running=False)
    told.sees(FAILED, gone).reads(FAILED, gone)
    assert told.verdict is not None
    assert told.verdict.reason is Reason.DISRUPTED
    assert is_place_free(told.state)


def test_the_place_is_taken_while_argo_may_make_another_pod() -> None:
    """Argo makes a deleted pod again unless its Workflow is over."""
    gone = replace(terminal_pod(exited_pod(143, pod=DRAINED)), running=False)
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, gone).reads(WORKFLOW, gone)
    assert told.verdict is not None
    assert not is_place_free(told.state)


def test_a_lost_nodes_place_is_free_when_the_verdict_is_given() -> None:
    workflow = replace(WORKFLOW, node_phase="Running")
    told = Story().sees(workflow, POD_RUNNING).sees(workflow, DRAINED)
    told.reads(workflow, DRAINED)
    assert told.verdict is None
    told.passes(200.0).reads(workflow, DRAINED)
    assert told.verdict is not None
    assert is_place_free(told.state)
    assert lost_pods(told.state) == ("job-site on node n1",)


def test_a_pod_that_was_deleted_by_force_may_still_run() -> None:
    """Nobody has seen its program end: Kubernetes forgets the pods of a node that was removed."""
    removed = replace(STARTED, phase="Failed")
    told = draining().passes(2.0).sees(removed)
    told.sees(removed, is_fresh=True)
    assert told.verdict is not None
    assert lost_pods(told.state) == ("job-site on node n1",)
    ended = draining()
    assert lost(ended)
    ended.sees(removed)
    assert not lost_pods(ended.state)


def test_a_second_pod_that_is_deleted_is_not_lost() -> None:
    """Argo makes a drained pod again if it has not seen that pod run. The second program has a grace period, too."""
    gone = terminal_pod(exited_pod(143, pod=DRAINED))
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, DRAINED).reads(WORKFLOW, DRAINED)
    told.sees(WORKFLOW, gone, is_fresh=True)
    assert told.verdict is not None
    shut_down, second = replace(WORKFLOW, shutdown="Terminate"), replace(POD_RUNNING, uid=Uid("p2"))
    told.sees(shut_down, second)
    assert not is_place_free(told.state)
    told.sees(shut_down, replace(second, deleting=True))
    assert not is_place_free(told.state)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("exit_code", [None, 128])
def test_an_attempt_that_never_ran_has_a_code_of_flargo(reason: Reason, exit_code: int | None) -> None:
    """128 is that of a container that could not be started, by a GPU's runtime for example."""
    verdict = Verdict(reason, int(reason.code if reason.code is not None else 101), exit_code=exit_code)
    assert has_never_started(verdict) == (reason.code == ReturnCode.NEVER_STARTED)


@pytest.mark.parametrize("code", [0, 1, 9, 104, *FLARE_EXIT_CODES])
def test_flares_own_codes_may_mean_a_missing_server(code: int) -> None:
    verdict = Verdict(Reason.PROGRAM_REPORTED, code, exit_code=code)
    assert may_have_missed_the_server(verdict) == (code in FLARE_EXIT_CODES)
