"""What one observation says of a job: no memory, no time.

The pod is believed before the Workflow: Argo's status follows it by seconds, and a Workflow can say Running
before there is a pod, or Failed while the program still runs.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

from flargo.status.reasons import FLARE_EXIT_CODES, PROGRAM_ENDS, Reason
from flargo.status.views import EventView, Exit, Observation, PodView, WorkflowView
from flargo.terms import Uid


class Stage(IntEnum):
    """How far a job is. It may go back: a pod that had a node may be waiting for one again only as another pod."""

    ABSENT = 0
    """No Workflow is there."""
    SUBMITTED = 1
    """The Workflow is suspended: its Secrets are on their way, or a person suspended it."""
    UNCLAIMED = 2
    """No controller has taken notice."""
    QUEUED = 3
    """It waits for a lock of Argo's, or for room among its Workflows."""
    QUOTA = 4
    """The namespace's quota has no room for its pod."""
    WAITING = 5
    """No pod yet, or one that the scheduler has not looked at."""
    SHORTAGE = 6
    """No node has enough free cpu, memory or GPUs."""
    TAINTED = 7
    """No node takes it, perhaps in passing: tainted (not ready after an outage), drained, or there is none just now."""
    STARTING = 8
    """The pod has a node; volumes, network, containers."""
    PULLING = 9
    """The node pulls an image."""
    RUNNING = 10
    """The program runs."""
    ENDED = 11
    """Nothing runs, or nothing will."""

    @property
    def label(self) -> str:
        """The stage as people, JSON and metrics have it: the member's name, but for ``HELD``, which is older."""
        return "HELD" if self is Stage.SUBMITTED else self.name


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How far a job is, and how it ends if it can only end."""

    stage: Stage
    reason: Reason | None = None
    """Set where the job has ended, can never start, or was told from outside to end."""
    detail: str = ""
    """The cluster's own words."""
    exit: Exit | None = None

    @property
    def is_final(self) -> bool:
        """Exit code 0 of main: nothing seen later can change what it means (restartPolicy is Never)."""
        return self.exit is not None and self.exit.code == 0


# Waiting reasons with which a container never starts by itself (nvflare 2.9, k8s_launcher.py,
# _PENDING_FAILURE_WAITING_REASONS, and for its event InspectFailed the reason that goes with it). Its rule that a pod
# of phase Unknown has failed is not here: no node sets that any more, and what is unknown is no end.
_NEVER = {
    "ErrImagePull": Reason.IMAGE,
    "ErrImageNeverPull": Reason.IMAGE,
    "ImagePullBackOff": Reason.IMAGE,
    "InvalidImageName": Reason.IMAGE,
    "ImageInspectError": Reason.IMAGE,
    "SignatureValidationFailed": Reason.IMAGE,
    "CreateContainerConfigError": Reason.CONTAINER,
    "CreateContainerError": Reason.CONTAINER,
    "RunContainerError": Reason.CONTAINER,
    "CrashLoopBackOff": Reason.CONTAINER,
}

# Warning events of a scheduled pod that, if they go on, mean that it will not start (nvflare 2.9, k8s_launcher.py,
# _PENDING_FAILURE_EVENT_REASONS; there one of them in the last minute is enough).
_TROUBLE = {
    "FailedMount": Reason.VOLUME,
    "FailedAttachVolume": Reason.VOLUME,
    "FailedMapVolume": Reason.VOLUME,
    "FailedCreatePodSandBox": Reason.SANDBOX,
    "FailedSync": Reason.SANDBOX,
    "NetworkNotReady": Reason.SANDBOX,
}
_PERSISTENT_COUNT, _PERSISTENT_SECONDS, _ABSENT_SECONDS = 4, 60.0, 15.0

# Argo's words for a Workflow that ended without its program's exit (argo.md, observed on 3.7.18 and 4.1.2).
# Argo reads a semaphore's ConfigMap with the first job that asks for it; 3.7 then names the semaphore, where older ones
# pass on what they met (initializeSemaphore in workflow/sync/sync_manager.go).
_WORKFLOW_WORDS = (
    (re.compile(r"^invalid spec"), Reason.INVALID),
    (re.compile(r"configmaps \"|Sync configuration key|strconv\.Atoi|initialize semaphore"), Reason.SEMAPHORE),
    (re.compile(r"forbidden|admission webhook"), Reason.POD_REFUSED),
    (re.compile(r"pod deleted"), Reason.POD_DELETED),
    (re.compile(r"Pod was rejected"), Reason.NODE_REFUSED),
)

# What the kubelet says of an end that is not the program's: nobody saw it, or it never began.
_NOT_ITS_OWN = {
    "OOMKilled": Reason.OUT_OF_MEMORY,
    "ContainerStatusUnknown": Reason.NODE_LOST,
    "Unknown": Reason.NODE_LOST,
    "StartError": Reason.CONTAINER,
    "ContainerCannotRun": Reason.CONTAINER,
}

# The kubelet's words for a pod that it ended (the kubelet's eviction, shutdown and active deadline managers).
_BY_THE_NODE = {
    "Evicted": Reason.EVICTED,
    "Terminated": Reason.DISRUPTED,
    "DeadlineExceeded": Reason.DEADLINE,
}

# With this code and these words Argo's executor, which starts the program, says that there is no such program.
_NO_PROGRAM_CODE, _NO_PROGRAM = 64, "failed to find name in PATH"

# Argo's words for the end of a step whose pod it saw and flargo did not (argo.md; the kubelet's eviction messages).
_STEP_WORDS = (
    (re.compile(r"OOMKilled"), Reason.OUT_OF_MEMORY),
    (re.compile(r"[Uu]sage of|exceeds the|storage limit|low on resource"), Reason.EVICTED),
    (re.compile(r"exceeded its deadline|longer than the specified deadline"), Reason.DEADLINE),
    (re.compile(_NO_PROGRAM), Reason.CONTAINER),
)

_TAINT = re.compile(r"untolerated taint|node\(s\) were unschedulable|no nodes available")
_SHORTAGE = re.compile(r"\binsufficient\s+([a-z0-9./_-]+)", re.IGNORECASE)


def diagnose(seen: Observation, first_pod: Uid | None) -> Diagnosis:
    """Read one observation.

    Args:
        seen: the Workflow and the pods of one job.
        first_pod: the pod seen first, where one was seen before. Any other pod means that Argo ran the job again.
    """
    workflow, pods = seen.workflow, seen.pods
    first = first_pod or (pods[0].uid if pods else None)
    pod = next((pod for pod in pods if pod.uid == first), None)
    if pod is not None and pod.exit is not None and pod.exit.code == 0:
        return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, exit=pod.exit)
    if any(other.uid != first for other in pods):
        return _diagnose_twins(pod, seen)
    if pod is not None:
        return _diagnose_pod(pod, seen)
    if workflow is None:
        return _diagnose_absence(first_pod)
    if workflow.is_completed:
        return _diagnose_end(workflow, seen.missing_pod)
    told_to_end = Reason.SHUT_DOWN if workflow.shutdown else None
    # Argo saw it run, if nobody else did.
    if first_pod is not None or workflow.node_phase == "Running":
        reason = told_to_end or _disruption(seen.missing_pod) or Reason.POD_DELETED
        return Diagnosis(Stage.ENDED, reason, _last_words(seen.missing_pod))
    return Diagnosis(_stage_without_pod(workflow), told_to_end, workflow.node_message or workflow.message)


def _diagnose_twins(first: PodView | None, seen: Observation) -> Diagnosis:
    """Argo made another pod. With an administrator's retryStrategy it does so after any failure: that one stands."""
    if first is not None and first.exit is not None:
        end = _diagnose_pod(first, seen)
        if end.reason in PROGRAM_ENDS:
            return end
    stage = Stage.ENDED if all(pod.is_main_done for pod in seen.pods) else Stage.RUNNING
    return Diagnosis(stage, Reason.RUN_TWICE, f"pods {', '.join(sorted(pod.name for pod in seen.pods))}")


def _diagnose_absence(first_pod: Uid | None) -> Diagnosis:
    if first_pod is None:
        return Diagnosis(Stage.ABSENT)
    return Diagnosis(Stage.ENDED, Reason.WORKFLOW_DELETED)


def _disruption(pod: PodView | None) -> Reason | None:
    """What Kubernetes did to a pod, if it says so (the condition DisruptionTarget)."""
    if pod is None or not pod.disruption:
        return None
    # The garbage collector of pods takes those whose node is gone.
    return Reason.NODE_LOST if pod.disruption.startswith("DeletionByPodGC") else Reason.DISRUPTED


def _last_words(pod: PodView | None) -> str:
    if pod is None:
        return "the pod is gone"
    return "; ".join(filter(None, (pod.disruption, f"was on node {pod.node}" if pod.node else ""))) or "the pod is gone"


def _diagnose_end(workflow: WorkflowView, vanished: PodView | None) -> Diagnosis:
    """Of a Workflow that is over and has no pod (any more)."""
    detail = workflow.message or workflow.node_message
    if workflow.node_exit_code is not None:
        ended = Exit(workflow.node_exit_code, message=workflow.node_message)
        if ended.code == 0:
            return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, exit=ended)
        said = (words_reason for words, words_reason in _STEP_WORDS if words.search(workflow.node_message))
        own = _own_end(ended, workflow) if vanished is None else _pod_end(vanished, ended, workflow)
        return Diagnosis(Stage.ENDED, next(said, None) or own, detail, ended)
    if workflow.phase == "Succeeded":
        return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, detail)
    if workflow.shutdown:
        return Diagnosis(Stage.ENDED, Reason.SHUT_DOWN, detail)
    disruption = _disruption(vanished)
    if disruption is not None:
        return Diagnosis(Stage.ENDED, disruption, _last_words(vanished))
    words = f"{workflow.message} {workflow.node_message}"
    for pattern, reason in (*_WORKFLOW_WORDS, *_STEP_WORDS):
        if pattern.search(words.strip()):
            return Diagnosis(Stage.ENDED, reason, detail)
    return Diagnosis(Stage.ENDED, Reason.ARGO_FAILED, detail)


def _diagnose_pod(pod: PodView, seen: Observation) -> Diagnosis:
    workflow = seen.workflow
    if pod.exit is not None:
        return Diagnosis(Stage.ENDED, _pod_end(pod, pod.exit, workflow), _pod_words(pod), pod.exit)
    if pod.phase in {"Succeeded", "Failed"}:
        return Diagnosis(Stage.ENDED, _unstarted_end(pod, workflow), _pod_words(pod))
    stage = Stage.RUNNING if pod.running else _stage_of_pod(pod, seen.events)
    ended_by = _told_to_end(pod, workflow)
    if ended_by is not None:
        return Diagnosis(stage, ended_by, workflow.message if workflow else "")
    if stage is Stage.RUNNING:
        return Diagnosis(stage)
    return _diagnose_start(pod, stage, seen.events)


def _told_to_end(pod: PodView, workflow: WorkflowView | None) -> Reason | None:
    """Why a living pod's job is over all the same: Argo leaves a program that ignores SIGTERM running."""
    if workflow is None:
        return Reason.WORKFLOW_DELETED
    if workflow.shutdown:
        return Reason.SHUT_DOWN
    if pod.deleting:
        return _disruption(pod) or Reason.POD_DELETED
    if workflow.is_completed:
        return Reason.ARGO_FAILED
    return None


def _diagnose_start(pod: PodView, stage: Stage, events: tuple[EventView, ...]) -> Diagnosis:
    for waiting in pod.waiting:
        if waiting.reason in _NEVER:
            detail = f"{waiting.container}: {waiting.reason} {waiting.message}".strip()
            return Diagnosis(stage, _NEVER[waiting.reason], detail)
    detail = f"{pod.unscheduled_reason} {pod.unscheduled_message}".strip()
    if stage is Stage.WAITING and pod.unscheduled_reason == "Unschedulable":
        return Diagnosis(stage, Reason.UNSCHEDULABLE, detail)
    pull = _pull(events)
    if stage is Stage.PULLING and pull is not None:
        # The kubelet mounts volumes and makes the sandbox before it pulls: what was wrong with them is over.
        return Diagnosis(stage, detail=pull.message)
    trouble = max((event for event in events if event.reason in _TROUBLE), key=lambda it: it.span, default=None)
    if trouble is None or not pod.scheduled:
        return Diagnosis(stage, detail=detail)
    words = f"{trouble.reason}, {trouble.count} times: {trouble.message}"
    return Diagnosis(stage, _TROUBLE[trouble.reason] if _is_persistent(trouble) else None, words)


def _is_persistent(trouble: EventView) -> bool:
    """Healthy starts see one or two failed mounts; what is not there at all will hardly come by itself."""
    least = _ABSENT_SECONDS if "not found" in trouble.message else _PERSISTENT_SECONDS
    return trouble.count >= _PERSISTENT_COUNT and trouble.span >= least


def _stage_of_pod(pod: PodView, events: tuple[EventView, ...]) -> Stage:
    if pod.scheduled:
        return Stage.STARTING if _pull(events) is None else Stage.PULLING
    if _is_shortage(pod.unscheduled_message):
        return Stage.SHORTAGE
    return Stage.TAINTED if _TAINT.search(pod.unscheduled_message) else Stage.WAITING


def _pull(events: tuple[EventView, ...]) -> EventView | None:
    """The begin of a pull that goes on: the last word on one of the images.

    Image by image, as each message quotes it first: that Argo's own image is there ("Pulled", too) is mostly told in
    the very second in which the pull of the job's begins.
    """
    pulls = sorted((event for event in events if event.reason in {"Pulling", "Pulled"}), key=_last_time)
    newest = {_quoted(event.message): event for event in pulls}
    return next((event for event in newest.values() if event.reason == "Pulling"), None)


def _quoted(message: str) -> str:
    return message.partition('"')[2].partition('"')[0]


def _last_time(event: EventView) -> tuple[datetime, bool]:
    # Of two in the same second the pull's end is the later one.
    return event.last_timestamp or datetime.min.replace(tzinfo=UTC), event.reason == "Pulled"


def _is_shortage(message: str) -> bool:
    """Whether a scheduler's message names cpu, memory or a GPU (nvflare 2.9, _is_cpu_memory_gpu_shortage)."""
    names = (name.lower().rstrip(".,;:") for name in _SHORTAGE.findall(message))
    return any(name in {"cpu", "memory"} or "gpu" in name for name in names)


def _stage_without_pod(workflow: WorkflowView) -> Stage:
    if workflow.suspended:
        return Stage.SUBMITTED
    if not workflow.phase:
        return Stage.UNCLAIMED
    if "exceeded quota" in workflow.node_message:
        return Stage.QUOTA
    return Stage.QUEUED if workflow.awaited_lock or workflow.phase == "Pending" else Stage.WAITING


def _pod_end(pod: PodView, ended: Exit, workflow: WorkflowView | None) -> Reason:
    """Why main ended with another code than 0: what was done to the pod comes before what the program did."""
    by_the_node = _BY_THE_NODE.get(pod.reason) or _NOT_ITS_OWN.get(ended.reason)
    # Of a pod that somebody deletes before its container is made, the kubelet says that it can't find the container.
    is_unseen = by_the_node is Reason.NODE_LOST and pod.deleting and not pod.disruption
    if by_the_node is not None and not is_unseen:
        return by_the_node
    if ended.code == _NO_PROGRAM_CODE and ended.message.startswith(_NO_PROGRAM):
        return Reason.CONTAINER
    disruption = _disruption(pod)
    if disruption is not None:
        return disruption
    if workflow is None:
        return Reason.WORKFLOW_DELETED
    if pod.deleting and not workflow.shutdown:
        return Reason.POD_DELETED
    return _own_end(ended, workflow)


def _own_end(ended: Exit, workflow: WorkflowView) -> Reason:
    if ended.code in FLARE_EXIT_CODES:
        return Reason.PROGRAM_REPORTED
    return Reason.SHUT_DOWN if workflow.shutdown else Reason.PROGRAM_FAILED


def _unstarted_end(pod: PodView, workflow: WorkflowView | None) -> Reason:
    """Why a pod is over although its main container has no exit code."""
    if pod.reason in _BY_THE_NODE:
        return _BY_THE_NODE[pod.reason]
    disruption = _disruption(pod)
    if disruption is not None:
        return disruption
    ended_by = _told_to_end(pod, workflow)
    # That Argo has failed the Workflow is only what follows from the pod's end.
    if ended_by not in {None, Reason.ARGO_FAILED}:
        return ended_by
    if pod.init_failure:
        return Reason.INIT_FAILED
    return Reason.NODE_REFUSED if pod.reason else Reason.ARGO_FAILED


def _pod_words(pod: PodView) -> str:
    ended = pod.exit
    words = [pod.reason, pod.message, pod.disruption, pod.init_failure]
    if ended is not None:
        words += [f"exit code {ended.code}", ended.reason if ended.reason != "Error" else "", ended.message]
        if ended.reason == "OOMKilled" and pod.memory_limit:
            words.append(f"memory limit {pod.memory_limit}")
    return "; ".join(word for word in words if word)
