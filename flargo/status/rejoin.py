"""Decides whether a job's process that has ended may be started again, and when. Pure functions of the job's state.

A client's process that is started again fetches its workspace and its task once more, and the federated job goes on.
That is right only if the infrastructure ended the process, and only once the process cannot go on beside its successor.
"""

from flargo.status.diagnosis import shutdown_reason
from flargo.status.job_state import DISRUPTIONS, JobState
from flargo.status.reasons import FLARE_EXIT_CODES, Reason, ReturnCode
from flargo.status.reconcile import END_LIMIT, is_node_lost
from flargo.status.verdict import Verdict
from flargo.status.views import PodView

SETTLE_SECONDS = 15.0
"""Seconds before the next attempt after a node has evicted or refused a pod. The scheduler learns of a node's pressure
with the node's next status, up to 10 s after the kubelet; until then it sends the next pod to the same node."""
MAY_BE_LOST = DISRUPTIONS | {Reason.NODE_REFUSED}
"""Reasons of attempts that another one may follow. Which of them does, depends on more."""
_REJECTED = "Pod was rejected"
"""The beginning of a pod's message if its kubelet has not admitted it."""
_SIGTERM_CODE = 143
"""The exit code of a program that SIGTERM has ended. When a pod is deleted, the kubelet sends it."""


def is_loss(state: JobState, *, deleted_counts: bool, ended_unseen: bool = False, refusal_counts: bool = False) -> bool:
    """Return whether the infrastructure has ended a job's process, so that it may be started again.

    It may not if somebody has ended the job meanwhile, or if its results have arrived: there is nothing left to do, and
    the parent gives out the job's workspace no more.

    Args:
        state: the state of the attempt.
        deleted_counts: the deletion of the pod counts, too.
        ended_unseen: the pod was gone before this run of the parent saw it. Nothing tells then whether it was drained,
            together with the parent perhaps, or deleted by a person; so a deletion counts, and so does SIGTERM, which
            Argo sometimes records as the end of a deleted pod's program.
        refusal_counts: a pod that its node has refused counts, too. A first attempt's does not: it has lost nothing,
            and FLARE itself deals with a job that does not start at a site.
    """
    if state.verdict is None or state.cause is not None or state.is_ended_by_others or state.observation.has_results:
        return False
    if _was_ended_by_earlier_run(state):
        return False
    match state.verdict.reason:
        case Reason.DISRUPTED | Reason.NODE_LOST:
            return True
        case Reason.EVICTED:
            pod = state.exited_pod or state.pod
            return pod is not None and is_evicted_for_its_node(pod)
        case Reason.POD_DELETED:
            return deleted_counts or ended_unseen
        case Reason.NODE_REFUSED:
            return refusal_counts
        case Reason.PROGRAM_FAILED:
            return ended_unseen and state.verdict.exit_code == _SIGTERM_CODE
        case _:
            return False


def _was_ended_by_earlier_run(state: JobState) -> bool:
    """Return whether an earlier run of the parent was ending the job, for a reason that its next run knows no more."""
    workflow = state.observation.workflow
    reason = shutdown_reason(workflow) if workflow is not None else None
    return reason not in {None, Reason.SHUT_DOWN, Reason.NODE_REFUSED, *DISRUPTIONS}


def is_evicted_for_its_node(pod: PodView) -> bool:
    """Return whether a pod that was evicted has not exceeded a limit of its own.

    The kubelet sets the pod's condition DisruptionTarget if it evicts a pod for its node's sake, and does not if the
    pod has exceeded a limit of its own, nor if it rejects a pod that comes while the node is under pressure
    (Kubernetes 1.34, pkg/kubelet/eviction/eviction_manager.go, kubelet.go).
    """
    return bool(pod.disruption) or pod.message.startswith(_REJECTED)


def settle_seconds(loss: Verdict) -> float:
    """Return the seconds to wait after a loss before the next attempt."""
    return SETTLE_SECONDS if loss.reason in {Reason.EVICTED, Reason.NODE_REFUSED} else 0.0


def is_place_free(state: JobState) -> bool:
    """Return whether the next attempt may begin: nothing of this one runs any more, or its node is lost.

    A verdict is given while a pod is alive if its deletion takes so long that its node must be lost. The deletion goes
    on: the kubelet ends the pod as soon as it hears of it. A pod that Argo has created since is not lost.
    """
    if state.verdict is None or state.is_submitting:
        return False
    other_containers_run = any(pod.is_main_done and not pod.is_terminal for pod in state.observation.pods)
    return state.has_stopped or (is_node_lost(state, state.verdict_at) and not other_containers_run)


def find_obstacle(
    state: JobState, *, deleted_counts: bool, ended_unseen: bool = False, refusal_counts: bool = False
) -> str:
    """Return why no attempt may follow one whose pod was disrupted; empty if one may follow, at once or later.

    Args:
        state: the state of the lost attempt.
        deleted_counts: as for ``is_loss``.
        ended_unseen: as for ``is_loss``.
        refusal_counts: as for ``is_loss``.
    """
    if not is_loss(state, deleted_counts=deleted_counts, ended_unseen=ended_unseen, refusal_counts=refusal_counts):
        return _describe_uncounted(state)
    if state.is_end_overdue and not is_place_free(state):
        return f"its Workflow or pod has not ended after {END_LIMIT:g} s"
    return ""


def _describe_uncounted(state: JobState) -> str:
    """Return why an end that the infrastructure may have brought about is no loss."""
    if state.observation.has_results:
        return "its results have arrived"
    reason = state.verdict.reason if state.verdict is not None and not state.is_ended_by_others else None
    if reason is Reason.POD_DELETED:
        return "the site does not count a pod that somebody has deleted (argo.rejoin_deleted)"
    if reason is Reason.EVICTED:
        return "nothing shows that its node was under pressure, so it may have exceeded a limit of its own"
    return "its Workflow was terminated or deleted"


def lost_pods(state: JobState) -> tuple[str, ...]:
    """Return the pods whose program may still run, each with its node: on a lost node, or after a deletion by force.

    The kubelet deletes a pod once its containers have ended. Whoever deletes it by force, as Kubernetes does when its
    node is gone, does not wait for that.
    """
    latest, pods = state.pod, state.observation.pods
    vanished = (latest,) if latest is not None and all(pod.uid != latest.uid for pod in pods) else ()
    alive = [pod for pod in pods if not pod.is_main_done] + [pod for pod in vanished if pod.running]
    return tuple(f"{pod.name} on node {pod.node}" for pod in alive)


def has_never_started(verdict: Verdict) -> bool:
    """Return whether an attempt ended before its program ran. The loss before it then stays the job's verdict.

    A container that the node could not start has an exit code, too.
    """
    return verdict.code == ReturnCode.NEVER_STARTED and verdict.reason is not Reason.PROGRAM_REPORTED


def may_have_missed_the_server(verdict: Verdict) -> bool:
    """Return whether an attempt ended as FLARE's process does that finds no process of the server's job."""
    return verdict.exit_code in FLARE_EXIT_CODES


def needs_note(verdict: Verdict, last_attempt: Verdict | None) -> bool:
    """Return whether the objects of a job's last attempt do not show how the job has ended.

    They show either another end, or one after which the job might be started again.

    Args:
        verdict: the verdict on the job.
        last_attempt: the verdict on its last attempt; None if there is none.
    """
    if last_attempt is None or (last_attempt.reason, last_attempt.code) != (verdict.reason, verdict.code):
        return True
    is_known_to_parent_only = verdict.reason is Reason.SUCCEEDED and verdict.exit_code != 0
    return verdict.reason in MAY_BE_LOST or is_known_to_parent_only
