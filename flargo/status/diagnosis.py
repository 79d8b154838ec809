"""Diagnosis of one observation: the job's stage and, if it has ended or can never start, the reason.

Diagnosing uses neither earlier observations nor the time. Where a pod and its Workflow disagree, the pod counts: Argo's
status lags behind by seconds, and a Workflow can be Running before its pod exists, or Failed while the program still
runs.
"""

import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from flargo.status.reasons import FLARE_EXIT_CODES, PROGRAM_ENDS, Reason
from flargo.status.views import EventView, Exit, Observation, PodView, Waiting, WorkflowView
from flargo.terms import Uid


class Stage(IntEnum):
    """How far a job is. A job can return to an earlier stage, for example when its pod is deleted and created again."""

    ABSENT = 0
    """The Workflow does not exist."""
    SUBMITTED = 1
    """The Workflow is suspended: its Secrets are being created, or a person suspended it."""
    UNCLAIMED = 2
    """No Workflow controller has processed the Workflow yet."""
    QUEUED = 3
    """Argo keeps the Workflow waiting for a lock, or for its limit on parallel Workflows."""
    QUOTA = 4
    """The namespace's resource quota does not admit the pod."""
    WAITING = 5
    """The pod does not exist yet, or the scheduler has not tried to place it."""
    SHORTAGE = 6
    """No node has enough left for the pod of something that nodes run out of, such as memory, GPUs or room for pods."""
    TAINTED = 7
    """Every node is tainted (for example not ready after an outage) or cordoned, or none exists. This may pass."""
    STARTING = 8
    """The pod has a node, which prepares volumes, network and containers."""
    PULLING = 9
    """The node is pulling an image."""
    RUNNING = 10
    """The main container is running."""
    ENDED = 11
    """The main container has ended or will never start."""

    @property
    def label(self) -> str:
        """Return the stage's public name in output, JSON and metrics: the member's name, but HELD for SUBMITTED."""
        return "HELD" if self is Stage.SUBMITTED else self.name


STARTING_STAGES = frozenset({Stage.STARTING, Stage.PULLING})
"""Stages of a pod that has a node and does not run yet. Only the pod's events show what it waits for."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a container does not start, if that may pass. A job ends for it only if it lasts."""

    container: str
    patience: float
    """Seconds for which it must last."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A job's stage, and the reason of its end if it has ended or must end."""

    stage: Stage
    reason: Reason | None = None
    """Set if the job has ended, can never start, or is being ended by somebody outside flargo."""
    detail: str = ""
    """The messages of the kubelet, the scheduler or Argo that explain the stage or the reason."""
    exit: Exit | None = None
    """How the main container ended, if that is known."""
    trouble: Trouble | None = None
    """Set if the reason is a trouble that may pass."""

    @property
    def may_pass(self) -> bool:
        """Return whether the reason is one for which the job ends only if it lasts (flargo.status.deadlines)."""
        return self.trouble is not None or self.reason is Reason.UNSCHEDULABLE

    @property
    def is_final(self) -> bool:
        """Return whether the main container ended with exit code 0, which with restartPolicy Never is final."""
        return self.exit is not None and self.exit.code == 0


# Waiting reasons of a container that, if they last, mean that it will not start. Source: nvflare 2.9, k8s_launcher.py,
# _PENDING_FAILURE_WAITING_REASONS, where each fails the job at once, plus ImageInspectError, the waiting reason that
# goes with its event InspectFailed, and what a runtime may report instead of ErrImagePull (the CRI's errors.go).
# CrashLoopBackOff is left out: with restartPolicy Never the kubelet starts only sidecars again. So is its rule that a
# pod of phase Unknown has failed: kubelets no longer set that phase, and it proves no end.
WAITING_REASONS = {
    "ErrImagePull": Reason.IMAGE,
    "ErrImageNeverPull": Reason.IMAGE,
    "ImagePullBackOff": Reason.IMAGE,
    "RegistryUnavailable": Reason.IMAGE,
    "InvalidImageName": Reason.IMAGE,
    "ImageInspectError": Reason.IMAGE,
    "SignatureValidationFailed": Reason.IMAGE,
    "CreateContainerConfigError": Reason.CONTAINER,
    "CreateContainerError": Reason.CONTAINER,
    "RunContainerError": Reason.CONTAINER,
}
_PULL_FAILURES = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})


class PatienceRow(NamedTuple):
    """What a container's waiting reason or its message says, and for how long the job is patient with it."""

    pattern: re.Pattern[str]
    """Is searched for in the waiting reason, a space and its message."""
    seconds: float
    """Seconds for which it must last before the job ends."""
    examples: str
    """The texts for the documentation."""
    meaning: str


DEFAULT_PATIENCE = 10.0
"""Seconds for every other reason of a container that does not start."""
PATIENCE = (
    PatienceRow(
        re.compile(r"^InvalidImageName\b|runAsNonRoot|\bnon-root\b"),
        0.0,
        "`InvalidImageName`, `runAsNonRoot`, `non-root`",
        "The name, or the user of the image, never becomes valid.",
    ),
    PatienceRow(
        re.compile(r"too ?many ?requests|\bstatus(?: code)?:? 429\b|pull QPS exceeded", re.IGNORECASE),
        60.0,
        "`toomanyrequests`, `Too Many Requests`, `status code 429`, `pull QPS exceeded`",
        "The registry or the kubelet limits the rate of pulls.",
    ),
    PatienceRow(
        # After a create that timed out, containerd keeps the container's name for a while.
        re.compile(r"time-?out|timed out|deadline ?exceeded|is reserved for|Registry ?Unavailable", re.IGNORECASE),
        60.0,
        "`timeout`, `timed out`, `deadline exceeded`, `is reserved for`, `RegistryUnavailable`",
        "The registry, the container runtime or a disk is slow or away.",
    ),
    PatienceRow(
        re.compile(r"failed to sync \w+ cache|object .* not registered", re.IGNORECASE),
        60.0,
        "`failed to sync secret cache`, `object ... not registered`",
        "The kubelet has not read the pod's Secrets and ConfigMaps yet.",
    ),
)
"""The rows for what takes longer to pass, or never passes; the first match counts."""

# Warning events of a scheduled pod that, if they persist, mean that it will not start. Source: nvflare 2.9,
# k8s_launcher.py, _PENDING_FAILURE_EVENT_REASONS, where a single event within the last minute suffices.
_FAILURE_EVENTS = {
    "FailedMount": Reason.VOLUME,
    "FailedAttachVolume": Reason.VOLUME,
    "FailedMapVolume": Reason.VOLUME,
    "FailedCreatePodSandBox": Reason.SANDBOX,
    "FailedSync": Reason.SANDBOX,
    "NetworkNotReady": Reason.SANDBOX,
}
_PERSISTENT_COUNT, _PERSISTENT_SECONDS, _NOT_FOUND_SECONDS = 4, 60.0, 15.0
"""A failure persists from that many events on, over that many seconds; less if an object that it needs is missing."""
# A CSI driver or a network plugin that is not found is another matter: a new node gets them within a minute.
_MISSING_OBJECT = re.compile(r'\b(?:secret|configmap|persistentvolume(?:claim)?)s? "[^"]*" not found', re.IGNORECASE)

# Messages of a Workflow that ended without an exit of its program (argo.md, observed on 3.7.18 and 4.1.2).
# Argo reads a semaphore's ConfigMap for the first Workflow that needs it. If that fails, 3.7 names the semaphore, and
# older versions pass on the original error (initializeSemaphore in workflow/sync/sync_manager.go).
_WORKFLOW_MESSAGES = (
    (re.compile(r"^invalid spec"), Reason.INVALID),
    (re.compile(r"configmaps \"|Sync configuration key|strconv\.Atoi|initialize semaphore"), Reason.SEMAPHORE),
    # Argo looks up the executor's account and its token before it creates the pod (getServiceAccountTokenName in
    # workflow/controller/workflowpod.go).
    (re.compile(r'serviceaccounts? "[^"]*" not found|\.service-account-token" not found'), Reason.POD_REFUSED),
    (re.compile(r"forbidden|admission webhook"), Reason.POD_REFUSED),
    (re.compile(r"pod deleted"), Reason.POD_DELETED),
    (re.compile(r"node is shutting down"), Reason.DISRUPTED),
    (re.compile(r"Pod was rejected"), Reason.NODE_REFUSED),
)

# The kubelet's termination reasons for a container whose program did not end by itself: the kernel killed it, its end
# was not observed, or it never started.
_TERMINATION_REASONS = {
    "OOMKilled": Reason.OUT_OF_MEMORY,
    "ContainerStatusUnknown": Reason.NODE_LOST,
    "Unknown": Reason.NODE_LOST,
    "StartError": Reason.CONTAINER,
    "ContainerCannotRun": Reason.CONTAINER,
}

# Status reasons of a pod that the kubelet ended (its eviction, shutdown and active deadline managers), or rejected
# because the node was shutting down.
_POD_REASONS = {
    "Evicted": Reason.EVICTED,
    "Terminated": Reason.DISRUPTED,
    "NodeShutdown": Reason.DISRUPTED,
    "DeadlineExceeded": Reason.DEADLINE,
}

# Argo's message about a program whose end the container's runtime does not know, because its node was restarted.
_UNKNOWN_END = "main: Unknown (exit code 255)"

# Exit code and message with which Argo's executor, which starts the program, reports that the program does not exist.
_NO_PROGRAM_CODE, _NO_PROGRAM_MESSAGE = 64, "failed to find name in PATH"

# Messages of the Argo node of a step whose pod Argo observed and flargo did not (argo.md; the kubelet's eviction
# messages).
_STEP_MESSAGES = (
    (re.compile(r"OOMKilled"), Reason.OUT_OF_MEMORY),
    (re.compile(r"[Uu]sage of|exceeds the|storage limit|low on resource"), Reason.EVICTED),
    (re.compile(r"exceeded its deadline|longer than the specified deadline"), Reason.DEADLINE),
    (re.compile(_NO_PROGRAM_MESSAGE), Reason.CONTAINER),
)

_SIGNAL_CODES = frozenset({137, 143})
"""Exit codes of a program that SIGKILL or SIGTERM ended."""
# Events of an autoscaler about a pod that no node can take: a node is being created for it (cluster-autoscaler,
# karpenter), or none would help (cluster-autoscaler). The later one counts.
_SCALE_UP_EVENTS = {"TriggeredScaleUp": True, "Nominated": True, "NotTriggerScaleUp": False}

_TAINT = re.compile(r"untolerated taint|node\(s\) were unschedulable|no nodes available")
# What nodes run out of, in the words of kube-scheduler 1.34: of any resource (noderesources/fit.go), of devices for
# resource claims (dynamicresources), of volumes that may be attached (nodevolumelimits), of storage for new volumes
# (volumebinding) and of host ports (nodeports). Another pod's end or a new node can resolve each of them.
_SHORTAGE = re.compile(
    r"\binsufficient\s+[a-z0-9]"
    r"|\btoo many pods\b"
    r"|\bcannot (?:allocate all claims|schedule extended resource claim|fit resource)\b"
    r"|\btimed out trying to allocate devices\b|\bresourceclaim (?:in use|not available on the node)\b"
    r"|\bnode\(s\) exceed max volume count\b"
    r"|\bnode\(s\) did not have enough free storage\b"
    r"|\bnode\(s\) didn't have free ports\b",
    re.IGNORECASE,
)


def diagnose(observation: Observation, first_pod_uid: Uid | None) -> Diagnosis:
    """Return the diagnosis of one observation.

    Args:
        observation: the Workflow and the pods of one job.
        first_pod_uid: the uid of the first pod that was ever observed, if one was. Any other pod means that Argo ran
            the job again.
    """
    workflow, pods = observation.workflow, observation.pods
    first_uid = first_pod_uid or (pods[0].uid if pods else None)
    pod = next((pod for pod in pods if pod.uid == first_uid), None)
    if pod is not None and pod.exit is not None and pod.exit.code == 0:
        return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, exit=pod.exit)
    if any(other.uid != first_uid for other in pods):
        return _diagnose_second_pod(pod, observation)
    if pod is not None:
        return _diagnose_pod(pod, observation)
    if workflow is None:
        return Diagnosis(Stage.ABSENT) if first_pod_uid is None else Diagnosis(Stage.ENDED, Reason.WORKFLOW_DELETED)
    if workflow.is_completed or workflow.is_step_done:
        return _diagnose_without_pod(workflow, observation.missing_pod)
    imposed_end = shutdown_reason(workflow)
    # The Argo node is Running if Argo saw the pod run, even if flargo never saw the pod.
    if first_pod_uid is not None or workflow.node_phase == "Running":
        reason = imposed_end or _disruption(observation.missing_pod) or Reason.POD_DELETED
        return Diagnosis(Stage.ENDED, reason, _missing_pod_detail(observation.missing_pod))
    return Diagnosis(_stage_without_pod(workflow), imposed_end, workflow.node_message or workflow.message)


_NO_SHUTDOWN_REASONS = frozenset({Reason.SUCCEEDED, Reason.PROGRAM_FAILED, Reason.PROGRAM_REPORTED})
"""Reasons that are no explanation of a shutdown."""


def shutdown_reason(workflow: WorkflowView) -> Reason | None:
    """Return why a Workflow is shut down, or None if it is not.

    flargo notes its reason together with the shutdown, also that of a pod which was drained before Argo knew it. A
    parent remembers that, but its next run knows only the note. It also takes the note for the reason if a person has
    terminated a Workflow on which the loss of its pod was noted before, which Argo completes within seconds.
    Whoever can forge the note can shut the Workflow down as well.
    """
    if not workflow.shutdown:
        return None
    noted = Reason.__members__.get(workflow.ending)
    return Reason.SHUT_DOWN if noted is None or noted in _NO_SHUTDOWN_REASONS else noted


def _diagnose_second_pod(first: PodView | None, observation: Observation) -> Diagnosis:
    """Diagnose a job for which Argo created another pod.

    An administrator's retryStrategy makes Argo do so after any failure. If the first pod's program ended by itself,
    that end stands.
    """
    if first is not None and first.exit is not None:
        diagnosis = _diagnose_pod(first, observation)
        if diagnosis.reason in PROGRAM_ENDS:
            return diagnosis
    stage = Stage.ENDED if all(pod.is_main_done for pod in observation.pods) else Stage.RUNNING
    return Diagnosis(stage, Reason.RUN_TWICE, f"pods {', '.join(sorted(pod.name for pod in observation.pods))}")


_NODE_IS_KNOWN = ("EvictionByEvictionAPI", "PreemptionByScheduler")
"""The beginnings of disruptions that say nothing against the pod's node. A taint may say that it is unreachable."""


def _disruption(pod: PodView | None) -> Reason | None:
    """Return the reason for a pod's condition DisruptionTarget, or None if the pod has no such condition."""
    if pod is None or not pod.disruption:
        return None
    # The pod garbage collector deletes pods whose node is gone.
    return Reason.NODE_LOST if pod.disruption.startswith("DeletionByPodGC") else Reason.DISRUPTED


def _missing_pod_detail(pod: PodView | None) -> str:
    if pod is None:
        return "the pod is gone"
    return "; ".join(filter(None, (pod.disruption, f"was on node {pod.node}" if pod.node else ""))) or "the pod is gone"


def _diagnose_without_pod(workflow: WorkflowView, missing_pod: PodView | None) -> Diagnosis:
    """Diagnose a job whose step or Workflow has ended, and whose pod does not exist or no longer exists.

    The Workflow's own phase and message may be those of an exit handler, so the step counts first.
    """
    detail = workflow.node_message if workflow.is_step_done and workflow.node_message else workflow.message
    if workflow.node_exit_code is not None:
        end = Exit(workflow.node_exit_code, message=workflow.node_message)
        if end.code == 0:
            return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, exit=end)
        for pattern, reason in _STEP_MESSAGES:
            if pattern.search(workflow.node_message):
                return Diagnosis(Stage.ENDED, reason, detail, end)
        reason = _program_end(end, workflow) if missing_pod is None else _missing_pod_end(missing_pod, end, workflow)
        return Diagnosis(Stage.ENDED, reason, detail, end)
    # Argo takes over an old pod of the same name (argo.md), so its success needs a pod that flargo saw.
    if workflow.phase == "Succeeded" and missing_pod is not None:
        return Diagnosis(Stage.ENDED, Reason.SUCCEEDED, detail)
    imposed_end = shutdown_reason(workflow)
    if imposed_end is not None:
        return Diagnosis(Stage.ENDED, imposed_end, detail)
    disruption = _disruption(missing_pod)
    if disruption is not None:
        return Diagnosis(Stage.ENDED, disruption, _missing_pod_detail(missing_pod))
    rows = itertools.product((workflow.node_message, workflow.message), (*_WORKFLOW_MESSAGES, *_STEP_MESSAGES))
    reason = next((reason for message, (pattern, reason) in rows if pattern.search(message)), Reason.ARGO_FAILED)
    return Diagnosis(Stage.ENDED, reason, detail)


def _diagnose_pod(pod: PodView, observation: Observation) -> Diagnosis:
    workflow = observation.workflow
    if pod.exit is not None:
        return Diagnosis(Stage.ENDED, _pod_end(pod, pod.exit, workflow), _pod_detail(pod), pod.exit)
    if pod.is_terminal:
        return Diagnosis(Stage.ENDED, _unstarted_end(pod, workflow), _pod_detail(pod))
    stage = Stage.RUNNING if pod.running else _stage_of_pod(pod, observation.events)
    reason = _imposed_end(pod, workflow)
    if reason is not None:
        return Diagnosis(stage, reason, workflow.message if workflow else "")
    if stage is Stage.RUNNING:
        return Diagnosis(stage)
    return _diagnose_start(pod, stage, observation.events)


def _imposed_end(pod: PodView, workflow: WorkflowView | None) -> Reason | None:
    """Return why a job whose pod is alive must end, or None if it may go on.

    Argo lets a program run on that ignores SIGTERM, so the pod can outlive its Workflow's end.
    """
    if workflow is None:
        return Reason.WORKFLOW_DELETED
    imposed_end = shutdown_reason(workflow)
    if imposed_end is not None:
        return imposed_end
    if pod.deleting:
        return _disruption(pod) or Reason.POD_DELETED
    if workflow.is_completed:
        return Reason.ARGO_FAILED
    return None


def _diagnose_start(pod: PodView, stage: Stage, events: tuple[EventView, ...]) -> Diagnosis:
    """Diagnose a pod whose main container does not run yet."""
    # While the kubelet pulls an image again, the container's status still shows the failure before.
    past = _PULL_FAILURES if stage is Stage.PULLING else frozenset()
    candidates = (each for each in pod.waiting if each.reason in WAITING_REASONS and each.reason not in past)
    waiting = min(candidates, key=_patience, default=None)
    if waiting is not None:
        detail = f"{waiting.container}: {waiting.reason} {waiting.message}".strip()
        trouble = Trouble(waiting.container, _patience(waiting))
        return Diagnosis(stage, WAITING_REASONS[waiting.reason], detail, trouble=trouble)
    detail = f"{pod.unscheduled_reason} {pod.unscheduled_message}".strip()
    scale_up = _scale_up(events) if stage is Stage.SHORTAGE else None
    if scale_up is not None:
        return Diagnosis(stage, detail=f"{detail}; {scale_up.reason} {scale_up.message}".strip())
    if stage is Stage.WAITING and pod.unscheduled_reason == "Unschedulable":
        return Diagnosis(stage, Reason.UNSCHEDULABLE, detail)
    pull = _current_pull(events)
    if stage is Stage.PULLING and pull is not None:
        # The kubelet mounts volumes and creates the sandbox before it pulls images: earlier failures are resolved.
        return Diagnosis(stage, detail=pull.message)
    failures = (event for event in events if event.reason in _FAILURE_EVENTS)
    failure = max(failures, key=lambda event: event.span, default=None)
    # A container starts only after the volumes are mounted and the sandbox exists, so the failures are resolved.
    if failure is None or not pod.scheduled or pod.has_started:
        return Diagnosis(stage, detail=detail)
    detail = f"{failure.reason}, {failure.count} times: {failure.message}"
    return Diagnosis(stage, _FAILURE_EVENTS[failure.reason] if _is_persistent(failure) else None, detail)


def _patience(waiting: Waiting) -> float:
    """Return the seconds for which a container must wait for a reason before its job ends."""
    text = f"{waiting.reason} {waiting.message}"
    return next((row.seconds for row in PATIENCE if row.pattern.search(text)), DEFAULT_PATIENCE)


def _is_persistent(event: EventView) -> bool:
    """Return whether a failure has occurred often and long enough to count as permanent.

    Healthy starts have one or two failed mounts. An object that does not exist will hardly appear by itself, so such a
    failure counts earlier.
    """
    min_span = _NOT_FOUND_SECONDS if _MISSING_OBJECT.search(event.message) else _PERSISTENT_SECONDS
    return event.count >= _PERSISTENT_COUNT and event.span >= min_span


def _stage_of_pod(pod: PodView, events: tuple[EventView, ...]) -> Stage:
    """Return the stage of a pod whose main container does not run.

    The scheduler's message counts the nodes by what each of them lacks. A shortage takes precedence: of the nodes that
    it names, at least one lacks nothing else that was checked before. Taints come next, since they may pass, and the
    rest is for a person to correct.
    """
    if pod.scheduled:
        return Stage.STARTING if _current_pull(events) is None else Stage.PULLING
    if _SHORTAGE.search(pod.unscheduled_message) or (pod.unscheduled_reason and _scale_up(events) is not None):
        return Stage.SHORTAGE
    return Stage.TAINTED if _TAINT.search(pod.unscheduled_message) else Stage.WAITING


def _scale_up(events: tuple[EventView, ...]) -> EventView | None:
    """Return the event of the autoscaler that is creating a node for the pod, or None if none is."""
    answers = (event for event in events if event.reason in _SCALE_UP_EVENTS)
    latest = max(answers, key=lambda event: event.last_timestamp or datetime.min.replace(tzinfo=UTC), default=None)
    return latest if latest is not None and _SCALE_UP_EVENTS[latest.reason] else None


def _current_pull(events: tuple[EventView, ...]) -> EventView | None:
    """Return the Pulling event of an image that is still being pulled, or None.

    The latest event counts for each image by itself: "Pulled" for Argo's own image mostly has the same second as
    "Pulling" for the job's. An event's message quotes the image first.
    """
    pulls = sorted(filter(_is_about_pull, events), key=_event_order)
    latest = {event.message.partition('"')[2].partition('"')[0]: event for event in pulls}
    return next((event for event in latest.values() if event.reason == "Pulling"), None)


def _is_about_pull(event: EventView) -> bool:
    has_failed = event.reason == "Failed" and event.message.startswith("Failed to pull image")
    return has_failed or event.reason in {"Pulling", "Pulled"}


def _event_order(event: EventView) -> tuple[datetime, bool]:
    # Timestamps have whole seconds. In the same second, the end of a pull comes after its beginning.
    return event.last_timestamp or datetime.min.replace(tzinfo=UTC), event.reason != "Pulling"


def _stage_without_pod(workflow: WorkflowView) -> Stage:
    if workflow.suspended:
        return Stage.SUBMITTED
    if not workflow.phase:
        return Stage.UNCLAIMED
    if "exceeded quota" in workflow.node_message:
        return Stage.QUOTA
    return Stage.QUEUED if workflow.awaited_lock or workflow.phase == "Pending" else Stage.WAITING


def _pod_end(pod: PodView, end: Exit, workflow: WorkflowView | None) -> Reason:
    """Return why the main container ended with an exit code other than 0.

    What was done to the pod takes precedence over what the program did.
    """
    node_reason = _POD_REASONS.get(pod.reason) or _TERMINATION_REASONS.get(end.reason)
    # The kubelet also reports ContainerStatusUnknown for a pod that is deleted before its container was created.
    is_node_known = not pod.disruption or pod.disruption.startswith(_NODE_IS_KNOWN)
    is_deleted_early = node_reason is Reason.NODE_LOST and pod.deleting and is_node_known
    if node_reason is not None and not is_deleted_early:
        return node_reason
    if end.code == _NO_PROGRAM_CODE and end.message.startswith(_NO_PROGRAM_MESSAGE):
        return Reason.CONTAINER
    disruption = _disruption(pod)
    if disruption is not None:
        return disruption
    if workflow is None:
        # The garbage collector marks the pod as deleted before it is killed. A signal before that may be the end of a
        # Workflow that was terminated and then deleted.
        is_own_end = not pod.deleting and end.code not in _SIGNAL_CODES
        return _program_end(end, workflow) if is_own_end else Reason.WORKFLOW_DELETED
    if pod.deleting and not workflow.shutdown:
        return Reason.POD_DELETED
    return _program_end(end, workflow)


def _missing_pod_end(pod: PodView, end: Exit, workflow: WorkflowView) -> Reason:
    """Return why the main container of a pod ended that flargo saw alive, and that is gone.

    Argo mostly ignores how the containers of a deleted pod end, but sometimes records their signal (observed on
    3.7.18).
    """
    reason = _pod_end(pod, end, workflow)
    is_killed = reason is Reason.PROGRAM_FAILED and end.code in _SIGNAL_CODES
    return Reason.POD_DELETED if is_killed and pod.exit is None and not workflow.shutdown else reason


def _program_end(end: Exit, workflow: WorkflowView | None) -> Reason:
    if end.code in FLARE_EXIT_CODES:
        return Reason.PROGRAM_REPORTED
    imposed_end = shutdown_reason(workflow) if workflow is not None else None
    if imposed_end is not None:
        return imposed_end
    return Reason.NODE_LOST if end.message == _UNKNOWN_END else Reason.PROGRAM_FAILED


def _unstarted_end(pod: PodView, workflow: WorkflowView | None) -> Reason:
    """Return why a pod is terminal although its main container has no exit code."""
    if pod.reason in _POD_REASONS:
        return _POD_REASONS[pod.reason]
    disruption = _disruption(pod)
    if disruption is not None:
        return disruption
    imposed_end = _imposed_end(pod, workflow)
    # ARGO_FAILED is only a consequence here: Argo failed the Workflow because the pod ended.
    if imposed_end not in {None, Reason.ARGO_FAILED}:
        return imposed_end
    # A kubelet that refuses a pod reports its init containers as ended, too.
    if pod.reason:
        return Reason.NODE_REFUSED
    return Reason.INIT_FAILED if pod.init_failure else Reason.ARGO_FAILED


def _pod_detail(pod: PodView) -> str:
    parts = [pod.reason, pod.message, pod.disruption, pod.init_failure]
    end = pod.exit
    if end is not None:
        parts += [f"exit code {end.code}", end.reason if end.reason != "Error" else "", end.message]
        if end.reason == "OOMKilled" and pod.memory_limit:
            parts.append(f"memory limit {pod.memory_limit}")
    return "; ".join(filter(None, parts))
