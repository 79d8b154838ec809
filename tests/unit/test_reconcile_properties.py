"""Properties that hold whatever Argo, the kubelet, people, FLARE and the network do to one job.

``Cluster`` is a small model of one job's Workflow and pods, written from argo.md and not from flargo's code.
``Site`` delivers its two watches' events, and the results of commands, to a real Reconciler: late, twice or not at all.
``allowed_codes`` is the oracle: the codes that FLARE may get, given what happened. Hypothesis draws the moves.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.control.command import Command
from flargo.control.inputs import Admitted, Changed, CommandDone, JobInput, Listed, ObjectsRead, TimePassed, WatchLost
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.status.job_state import ActionKind, LaunchGivenUp, StopRequested, Submitted
from flargo.status.reasons import Reason
from flargo.status.reconcile import ARGO_FINISH_LIMIT, MAX_SHUTDOWN_TRIES, SHUTDOWN_LIMIT
from flargo.status.verdict import Cause, Verdict
from flargo.terms import StartTimeouts
from tests.harness.objects import Object, pod, workflow

NAME = "job-site"
TIMEOUTS = StartTimeouts(pending=120, total=900, unclaimed=120, starting=300)
SERVER_TIMEOUTS = replace(TIMEOUTS, pending=None, placement=60)
FLARE_EXIT_CODES = frozenset({101, 102, 103})
CODES = frozenset({0, 1, 9, *FLARE_EXIT_CODES, 104})
DISTURBING_ACTIONS = frozenset({ActionKind.SHUTDOWN, ActionKind.DELETE_POD, ActionKind.DELETE_WORKFLOW})
SETTLE_SECONDS = 3000
"""Seconds within which everything has ended that can end."""


# --- the cluster


@dataclass
class Pod:
    """A pod as the API server stores it, and what its main container really does."""

    uid: str
    owner: str
    phase: str = "Pending"
    reason: str = ""
    scheduled: bool = False
    waiting_reason: str = ""
    running: bool = False
    exit: tuple[int, str] | None = None
    deleting: bool = False
    disruption: str = ""
    has_sigterm: bool = False
    kill_at: float = float("inf")


@dataclass
class Workflow:
    """A Workflow as the API server stores it."""

    uid: str = "w1"
    phase: str = ""
    message: str = ""
    suspended: bool = True
    shutdown: str = ""
    node_phase: str = ""
    node_message: str = ""
    node_exit: int | None = None
    is_released: bool = False
    handler_phase: str = ""
    """The phase of the exit handler's node, once it exists."""

    @property
    def is_completed(self) -> bool:
        return self.phase in {"Succeeded", "Failed", "Error"}


@dataclass(frozen=True)
class Job:
    """The properties of a job that are fixed before anything happens."""

    code: int = 0
    """The exit code of the program if nobody disturbs it."""
    on_sigterm: int | None = 143
    """The exit code of the program after SIGTERM; None if it ignores the signal."""
    image_missing: bool = False
    no_room: bool = False
    is_server: bool = False
    """The launch waits for the job, so the job has a placement timeout."""
    has_handler: bool = False
    """An administrator has configured an exit handler for every Workflow."""
    submit_fails_at: int | None = None
    """The step of the submit that is refused: 0 is the create, 1 the release."""


class Cluster:
    """Argo, the kubelet, the garbage collector and people. Every change is sent to the watch of its kind."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.now = 0.0
        self.workflow: Workflow | None = None
        self.pods: list[Pod] = []
        self.has_secret = False
        self.argo_is_up = True
        self.argo_was_down = False
        self.refuses_shutdown = False
        """A webhook denies every change of ``spec.shutdown``."""
        self.incidents: set[str] = set()
        """The names of what was done to the job, for ``allowed_codes``."""
        self.ends: list[tuple[str, int, bool]] = []
        """For every main container that ended: its pod, its exit code, and whether it ended by itself."""
        self.begun: set[str] = set()
        """The uids of the pods whose programs have begun."""
        self.streams: dict[Kind, deque[tuple[Object, bool]]] = {Kind.WORKFLOW: deque(), Kind.POD: deque()}
        self._version = 0
        self._pod_count = 0

    # what the API server returns

    def workflow_manifest(self) -> Object | None:
        it = self.workflow
        return None if it is None else self._workflow(it)

    def pod_manifests(self) -> list[Object]:
        return [self._pod(it) for it in self.pods]

    def _workflow(self, it: Workflow) -> Object:
        node: Object = {"type": "Pod", "phase": it.node_phase, "message": it.node_message}
        if it.node_exit is not None:
            node["outputs"] = {"exitCode": str(it.node_exit)}
        nodes = {NAME: node} if it.node_phase else {}
        if it.handler_phase:
            nodes["handler"] = {"name": f"{NAME}.onExit", "type": "Pod", "phase": it.handler_phase}
            nodes["handler"] |= {"templateName": "notify", "startedAt": "2026-01-01T09:00:00Z"}
        manifest = workflow(
            NAME,
            uid=it.uid,
            version=self._version,
            suspend=it.suspended,
            shutdown=it.shutdown,
            phase=it.phase,
            message=it.message,
            nodes=nodes,
        )
        manifest["metadata"]["annotations"] |= {"flargo.dev/released": "true"} if it.is_released else {}
        return manifest

    def _pod(self, it: Pod) -> Object:
        main: Object = {"waiting": {"reason": it.waiting_reason or "PodInitializing"}}
        if it.running:
            main = {"running": {}}
        elif it.exit is not None:
            main = {"terminated": {"exitCode": it.exit[0], "reason": it.exit[1]}}
        conditions: list[Object] = [{"type": "PodScheduled", "status": "True"}]
        if not it.scheduled:
            message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            conditions = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            ] * self.job.no_room
        if it.disruption:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": it.disruption})
        manifest = pod(
            NAME,
            uid=it.uid,
            owner=it.owner,
            version=self._version,
            phase=it.phase,
            main=main if it.scheduled else None,
            reason=it.reason,
            conditions=conditions,
        )
        if it.scheduled:
            manifest["spec"]["nodeName"] = "n1"
        if it.deleting:
            manifest["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return manifest

    def _emit(self, it: Workflow | Pod, *, deleted: bool = False) -> None:
        self._version += 1
        if isinstance(it, Workflow):
            self.streams[Kind.WORKFLOW].append((self._workflow(it), deleted))
        else:
            self.streams[Kind.POD].append((self._pod(it), deleted))

    # requests to the API server

    def create(self) -> None:
        self.workflow = Workflow()
        self._emit(self.workflow)

    def create_secret(self) -> None:
        self.has_secret = self.workflow is not None  # the garbage collector deletes a Secret without an owner

    def release(self) -> bool:
        if self.workflow is None:
            return False
        self.workflow.suspended, self.workflow.is_released = False, True
        self._emit(self.workflow)
        return True

    def resume(self) -> None:
        if self.workflow is not None and self.workflow.suspended:
            self.workflow.suspended = False
            self._emit(self.workflow)

    def shut_down(self) -> None:
        if self.workflow is not None and not self.workflow.shutdown:
            self.workflow.shutdown = "Terminate"
            self._emit(self.workflow)

    def delete_workflow(self) -> None:
        if self.workflow is not None:
            deleted_workflow, self.workflow, self.has_secret = self.workflow, None, False
            self._emit(deleted_workflow, deleted=True)

    def delete_pod(self, it: Pod, grace: float = 30) -> None:
        it.deleting = it.has_sigterm = True
        it.kill_at = min(it.kill_at, self.now + grace)
        self._emit(it)

    # controllers

    def argo(self) -> None:
        """Let the Workflow controller reconcile the Workflow once."""
        it = self.workflow
        if it is None or not self.argo_is_up:
            return
        if it.suspended and it.phase:
            return  # Argo does nothing about a suspended Workflow, whether it is shut down or not
        before = Workflow(**vars(it))
        self._reconcile(it)
        if it != before:
            self._emit(it)

    def _reconcile(self, it: Workflow) -> None:
        own_pod = next((pod for pod in self.pods if pod.owner == it.uid), None)
        if own_pod is not None and own_pod.exit is not None and it.node_exit is None and not own_pod.deleting:
            it.node_exit, message = own_pod.exit
            it.node_message = f"{message} (exit code {it.node_exit})" if it.node_exit else ""
            it.node_phase = "Failed" if it.node_exit else "Succeeded"
        elif it.is_completed:
            pass
        elif it.shutdown:
            it.phase, it.message = "Failed", "Stopped with strategy 'Terminate'"
            if own_pod is not None:
                own_pod.has_sigterm = True
        elif not it.phase:
            it.phase = "Running"
        elif it.node_exit is not None or it.node_phase == "Error":
            self._complete(it)
        elif own_pod is not None:
            it.node_phase = own_pod.phase if own_pod.phase in {"Pending", "Running"} else it.node_phase
        elif it.node_phase in {"", "Pending"} and not it.suspended:
            it.node_phase = "Pending"
            self._make_pod(it)
        elif it.node_phase == "Running":
            it.node_phase, it.node_message = "Error", "pod deleted"
            self._complete(it)

    def _complete(self, it: Workflow) -> None:
        """Complete a Workflow whose step is done; the exit handler, if there is one, runs first."""
        following = {"": "Pending", "Pending": "Running", "Running": "Succeeded"}
        if self.job.has_handler and it.handler_phase != "Succeeded":
            it.handler_phase = following[it.handler_phase]
        else:
            it.phase, it.message = it.node_phase, it.node_message

    def _make_pod(self, it: Workflow) -> None:
        self._pod_count += 1
        if self._pod_count > 1:
            self.incidents.add("twice")
        self.pods.append(Pod(f"p{self._pod_count}", it.uid))
        self._emit(self.pods[-1])

    def kubelet(self, *, program_may_end: bool = False) -> None:
        """Let scheduler, kubelet and garbage collector take one step for every pod."""
        for it in list(self.pods):
            orphan = self.workflow is None or self.workflow.uid != it.owner
            if orphan and not it.deleting:
                self.delete_pod(it)
            elif it.running:
                self._run(it, program_may_end=program_may_end)
            elif it.deleting and it.scheduled and it.phase == "Pending":
                self._end_unstarted(it)
            elif it.deleting:
                self.pods.remove(it)
                self._emit(it, deleted=True)
            elif it.exit is None and it.phase == "Pending":
                self._start(it)
            elif it.phase == "Running":
                it.phase = "Failed" if it.exit and it.exit[0] else "Succeeded"
                self._emit(it)

    def _start(self, it: Pod) -> None:
        if not it.scheduled:
            it.scheduled = not self.job.no_room
        elif self.job.image_missing:
            it.waiting_reason = "ErrImagePull"
            self.incidents.add("image")
        elif not it.has_sigterm:
            it.running, it.phase = True, "Running"
            self.begun.add(it.uid)
        else:
            return  # Argo does not start main in a Workflow that is shut down
        self._emit(it)

    def _end_unstarted(self, it: Pod) -> None:
        """End a deleted pod; of a container that waits for its image, the kubelet makes an end up."""
        it.phase = "Failed"
        if it.waiting_reason:
            it.exit = 137, "ContainerStatusUnknown"
        self._emit(it)

    def _run(self, it: Pod, *, program_may_end: bool) -> None:
        if it.has_sigterm and self.job.on_sigterm is not None:
            self._end(it, self.job.on_sigterm, "Error", by_itself=False)
        elif self.now >= it.kill_at:
            self._end(it, 137, "Error", by_itself=False)
        elif program_may_end and not it.has_sigterm:
            self._end(it, self.job.code, "Error" if self.job.code else "Completed", by_itself=True)

    def _end(self, it: Pod, code: int, reason: str, *, by_itself: bool) -> None:
        it.running, it.exit = False, (code, reason)
        self.ends.append((it.uid, code, by_itself))
        self._emit(it)

    # incidents

    def interfere(self, what: str) -> None:
        """Let an incident happen to the job, if it can."""
        it = next((pod for pod in self.pods if not pod.deleting), None)
        if what == "deleted Workflow" and self.workflow is not None:
            self.delete_workflow()
        elif what == "terminated" and self.workflow is not None and not self.workflow.is_completed:
            self.shut_down()
        elif what == "suspended" and self.workflow is not None and self.workflow.is_released:
            self.workflow.suspended = True
            self._emit(self.workflow)
            return  # no incident: it ends nothing, and flargo need not know of it
        elif what in {"drained", "deleted pod"} and it is not None:
            it.disruption = "EvictionByEvictionAPI" if what == "drained" else ""
            self.delete_pod(it)
        elif what in {"deleted by force", "node lost"} and it is not None:
            self._forget_pod(it, is_node_lost=what == "node lost")
        elif what in {"out of memory", "evicted"} and it is not None and it.running:
            if what == "evicted":
                it.phase, it.reason = "Failed", "Evicted"
            self._end(it, 137, "OOMKilled" if what == "out of memory" else "ContainerStatusUnknown", by_itself=False)
        else:
            return
        self.incidents.add(what)

    def _forget_pod(self, it: Pod, *, is_node_lost: bool) -> None:
        """Remove a pod without its kubelet, on whose node the program may begin or go on."""
        if it.scheduled:
            self.begun.add(it.uid)
        if is_node_lost:  # the pod garbage collector, which of a pod that terminates changes only the phase
            it.phase, it.disruption = "Failed", "DeletionByTaintManager" if it.deleting else "DeletionByPodGC"
            self._emit(it)
        self.pods.remove(it)
        self._emit(it, deleted=True)

    @property
    def may_run_again(self) -> bool:
        """Return whether a main container runs or may still start."""
        may_run = self.workflow is not None and not self.workflow.is_completed
        return may_run or any(it.running or (it.exit is None and not it.deleting) for it in self.pods)


# --- the codes that FLARE may get

CODE_BY_INCIDENT = {
    "drained": 104,
    "deleted pod": 104,
    "deleted by force": 104,
    "node lost": 104,
    "deleted Workflow": 104,
    "out of memory": 104,
    "evicted": 104,
    "twice": 104,
    "terminated": 9,
    "image": 101,
    "no room": 101,
    "out of patience": 101,
    "not submitted": 101,
    "given up": 101,
}


def allowed_codes(cluster: Cluster, stops: set[Cause], first_pod: str) -> set[int]:
    """Return the codes that are true of what happened before the verdict: one, if only one thing happened.

    ``first_pod`` is the first pod that flargo ever observed. Nobody can know of one that came and went unobserved.
    """
    # If the first pod's program never began, the next pod may be the job's.
    is_any = first_pod not in cluster.begun
    ends = [(code, by_itself) for uid, code, by_itself in cluster.ends if is_any or first_pod == uid]
    first = ends[-1] if ends else None  # without an observed pod, Argo has recorded the last one only
    codes = {CODE_BY_INCIDENT[what] for what in cluster.incidents}
    if Cause.CLEANUP in stops:
        codes.add(1)
    if Cause.ABORT in stops:
        codes = {9}
    if first is None:
        return codes
    code, by_itself = first
    own_code = code if code in FLARE_EXIT_CODES or code == 0 else 1
    if own_code == 0 and Cause.ABORT in stops:
        return {9, 0}  # 0 if its end was observed before the abort
    return codes | {own_code} if by_itself or own_code != 1 else codes


# --- flargo, and the network between it and the cluster


@dataclass
class Site:
    """A real Reconciler that observes the cluster by its watches, and whose commands are performed on it."""

    cluster: Cluster
    reconciler: Reconciler = field(init=False)
    commands: deque[Command] = field(default_factory=deque)
    sent_actions: list[ActionKind] = field(default_factory=list)
    verdict: Verdict | None = None
    verdict_at: float | None = None
    first_pod: str = ""
    """The uid of the first pod that was observed."""
    evidence: int | None = None
    """The code of an exit that was observed before anybody disturbed the job: nothing that follows changes it."""
    stops: set[Cause] = field(default_factory=set)
    is_given_up: bool = False
    submit_step: int | None = 0
    """The next step of the submit; None if it has finished."""
    cut_watches: set[Kind] = field(default_factory=set)
    shutdowns: int = 0
    """The shutdowns that were sent."""
    first_shutdown_at: float = math.inf
    """The time at which the first shutdown was asked for."""

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(lambda _: False, 0.0)
        self.reconciler.handle(
            Admitted(NAME, "a1", SERVER_TIMEOUTS if self.cluster.job.is_server else TIMEOUTS, 3), 0.0
        )
        for kind in self.cluster.streams:
            self.relist(kind)

    def record(self, result: Result) -> None:
        """Take the result of an input. Most properties are checked here."""
        for command in result.commands:
            self.commands.append(command)
            if command.action.kind is ActionKind.SHUTDOWN:
                self.first_shutdown_at = min(self.first_shutdown_at, self.cluster.now)
        for state in result.states:
            assert not state.unstarted_pods & self.cluster.begun, "a pod counts as never begun whose program began"
            if state.end_diagnosis is not None and state.end_diagnosis.reason in {
                Reason.UNCLAIMED,
                Reason.TIMEOUT,
                Reason.START_TIMEOUT,
            }:
                self.cluster.incidents.add("out of patience")
            if state.end_diagnosis is not None and state.end_diagnosis.reason is Reason.SHORTAGE:
                self.cluster.incidents.add("no room")
            if self.verdict is not None:
                assert state.verdict == self.verdict, "a verdict never changes"
            elif state.verdict is not None:
                self._check(state.verdict)

    def _check(self, verdict: Verdict) -> None:
        self.verdict, self.verdict_at = verdict, self.cluster.now
        assert verdict.code in CODES
        expected = allowed_codes(self.cluster, self.stops, self.first_pod)
        if self.evidence is not None:
            # A signal may be the end of a Workflow that somebody terminates: the watches have no order between them.
            signal = any(code in {137, 143} for _, code, _ in self.cluster.ends)
            is_doubtful = "terminated" in self.cluster.incidents or signal or self.is_given_up
            expected = expected if is_doubtful else {self.evidence} | ({9} if Cause.ABORT in self.stops else set())
            expected |= {1} if Cause.CLEANUP in self.stops else set()
        assert verdict.code in expected, f"{verdict}, but the true code is one of {expected}"

    # inputs

    def deliver(self, kind: Kind, *, redeliver: bool = False) -> None:
        """Deliver the next event of a watch; with ``redeliver``, it is delivered once more later."""
        stream = self.cluster.streams[kind]
        if kind not in self.cut_watches and stream:
            item, deleted = stream[0] if redeliver else stream.popleft()
            self._note_pods([item] if kind is Kind.POD and not deleted else [])
            self.record(self.reconciler.handle(Changed(kind, item, deleted=deleted), self.cluster.now))

    def _note_pods(self, pods: list[Object]) -> None:
        """Note what the Reconciler is about to observe."""
        self.first_pod = self.first_pod or next((str(pod["metadata"]["uid"]) for pod in pods), "")
        is_undisturbed = not (self.cluster.incidents or self.stops or self.is_given_up)
        for uid, code, by_itself in self.cluster.ends:
            is_observed = any(
                pod["metadata"]["uid"] == uid == self.first_pod
                and any("terminated" in row["state"] for row in pod["status"].get("containerStatuses", ()))
                for pod in pods
            )
            if is_observed and by_itself and is_undisturbed and self.evidence is None:
                self.evidence = code if code in FLARE_EXIT_CODES or code == 0 else 1

    def cut_watch(self, kind: Kind) -> None:
        """Cut a watch: its undelivered events are lost."""
        self.cut_watches.add(kind)
        self.reconciler.handle(WatchLost(kind), self.cluster.now)

    def relist(self, kind: Kind) -> None:
        self.cut_watches.discard(kind)
        self.cluster.streams[kind].clear()
        manifest = self.cluster.workflow_manifest()
        items = self.cluster.pod_manifests() if kind is Kind.POD else [manifest] if manifest is not None else []
        self._note_pods(items if kind is Kind.POD else [])
        self.record(self.reconciler.handle(Listed(kind, tuple(items)), self.cluster.now))

    def stop(self, cause: Cause) -> None:
        if self.verdict is None:
            self.stops.add(cause)
        self.record(self.reconciler.handle(JobInput(NAME, "a1", StopRequested(cause)), self.cluster.now))

    def give_up(self) -> None:
        """Let FLARE hear that the launch failed, whatever becomes of the job."""
        if self.verdict is None:
            self.cluster.incidents.add("given up")
        self.is_given_up = True
        self.record(
            self.reconciler.handle(JobInput(NAME, "a1", LaunchGivenUp("the launch took too long")), self.cluster.now)
        )

    def pass_time(self, seconds: float) -> None:
        self.cluster.now += seconds
        self.record(self.reconciler.handle(TimePassed(), self.cluster.now))

    def submit(self) -> None:
        """Take the next step of the submit."""
        if self.submit_step is None:
            return
        is_refused = self.cluster.job.submit_fails_at == self.submit_step
        is_cancelled = self.stops or self.is_given_up
        if self.submit_step == 1 and not is_cancelled:
            self.cluster.create_secret()
        if is_refused or is_cancelled:
            self.cluster.incidents |= {"not submitted"} if is_refused else set()
            self._submitted("refused")
        elif self.submit_step == 0:
            self.cluster.create()
            self.submit_step = 1
        else:
            self._submitted("" if self.cluster.release() else "404")

    def _submitted(self, error: str) -> None:
        self.submit_step = None
        if error == "404":
            self.cluster.incidents.add("not submitted")
        self.record(self.reconciler.handle(JobInput(NAME, "a1", Submitted(error)), self.cluster.now))

    # commands

    def perform(self, *, is_effective: bool = True, is_answered: bool = True) -> None:
        """Perform the oldest command, unless it is not effective; its result arrives, unless it is not answered."""
        if not self.commands:
            return
        command = self.commands.popleft()
        self._may_be_sent(command)
        self.shutdowns += command.action.kind is ActionKind.SHUTDOWN
        self.sent_actions.append(command.action.kind)
        if command.action.kind is ActionKind.CONFIRM and is_effective and is_answered:
            objects = self.cluster.workflow_manifest(), self.cluster.pod_manifests()
            self._note_pods(objects[1])
            self.record(self.reconciler.handle(ObjectsRead(command, objects[0], tuple(objects[1])), self.cluster.now))
            return
        ok = self._carry_out(command) if is_effective else False
        self.record(self.reconciler.handle(CommandDone(command, ok=ok and is_answered), self.cluster.now))

    def _may_be_sent(self, command: Command) -> None:
        it = self.cluster.workflow
        if command.action.kind is ActionKind.DELETE_POD:
            is_hopeless = self.shutdowns >= MAX_SHUTDOWN_TRIES
            is_hopeless |= self.cluster.now >= self.first_shutdown_at + SHUTDOWN_LIMIT
            assert it is None or it.shutdown or it.is_completed or is_hopeless, (
                "Argo creates a pod again that is deleted before the shutdown"
            )
            assert command.pod_name, "a DELETE without a name would delete all pods"
        if command.action.kind is ActionKind.DELETE_WORKFLOW and not self.stops:
            assert not any(pod.running for pod in self.cluster.pods), "a Workflow is deleted whose program runs"
        is_undisturbed = not self.cluster.incidents and not self.stops and not self.cluster.argo_was_down
        if is_undisturbed and command.action.kind in DISTURBING_ACTIONS:
            is_overdue = self.verdict_at is not None and self.cluster.now >= self.verdict_at + ARGO_FINISH_LIMIT
            assert is_overdue, f"{command.action} although the job was not disturbed"

    def _carry_out(self, command: Command) -> bool:
        match command.action.kind:
            case ActionKind.SHUTDOWN:
                if self.cluster.refuses_shutdown:
                    return False
                self.cluster.resume()
                self.cluster.shut_down()
            case ActionKind.RESUME:
                self.cluster.resume()
            case ActionKind.RELEASE:
                self.cluster.release()
            case ActionKind.DELETE_WORKFLOW:
                self.cluster.delete_workflow()
            case ActionKind.DELETE_POD:
                same_name = self.cluster.pods[0] if self.cluster.pods else None
                if same_name is not None and same_name.uid != command.action.uid:
                    return False
                if same_name is not None:
                    self.cluster.delete_pod(same_name, command.grace)
            case ActionKind.DELETE_SECRET:
                self.cluster.has_secret = False
        return True

    # the end of a run

    def settle(self, until: Callable[[], bool]) -> None:
        """Let time pass without incidents and without losses, until a condition holds."""
        end = self.cluster.now + SETTLE_SECONDS
        while not until() and self.cluster.now < end:
            for kind in self.cut_watches.copy():
                self.relist(kind)
            self.round(program_may_end=True)

    def round(self, *, program_may_end: bool) -> None:
        """Let a second pass in which everybody takes one step and everything is delivered."""
        self.submit()
        self.cluster.argo()
        self.cluster.kubelet(program_may_end=program_may_end)
        for kind in self.cluster.streams:
            while self.cluster.streams[kind] and kind not in self.cut_watches:
                self.deliver(kind)
        for _ in range(20):
            self.perform()
        assert not self.commands, f"endless commands at one moment: {self.sent_actions[-3:]}"
        self.pass_time(1.0)


# --- the moves


def pass_half_a_minute(site: Site) -> None:
    """Let half a minute pass on the cluster without delivering anything."""
    for _ in range(6):
        site.cluster.argo()
        site.cluster.kubelet()
        site.pass_time(5.0)


MOVES: dict[str, Callable[[Site], Any]] = {
    "round": lambda site: site.round(program_may_end=False),
    "submit": lambda site: site.submit(),
    "argo looks": lambda site: site.cluster.argo(),
    "kubelet works": lambda site: site.cluster.kubelet(),
    "program ends": lambda site: site.cluster.kubelet(program_may_end=True),
    "workflow event": lambda site: site.deliver(Kind.WORKFLOW),
    "pod event": lambda site: site.deliver(Kind.POD),
    "perform": lambda site: site.perform(),
    "second": lambda site: site.pass_time(1.0),
    "workflow event, again later": lambda site: site.deliver(Kind.WORKFLOW, redeliver=True),
    "pod event, again later": lambda site: site.deliver(Kind.POD, redeliver=True),
    "cut workflows": lambda site: site.cut_watch(Kind.WORKFLOW),
    "cut pods": lambda site: site.cut_watch(Kind.POD),
    "relist workflows": lambda site: site.relist(Kind.WORKFLOW),
    "relist pods": lambda site: site.relist(Kind.POD),
    "refuse": lambda site: site.perform(is_effective=False),
    "lose the answer": lambda site: site.perform(is_answered=False),
    "drop the command": lambda site: site.commands.popleft() if site.commands else None,
    "release is undone": lambda site: undo_release(site.cluster),
    "half a minute": pass_half_a_minute,
    "argo goes": lambda site: stop_argo(site.cluster),
    "argo returns": lambda site: vars(site.cluster).update(argo_is_up=True),
    "abort": lambda site: site.stop(Cause.ABORT),
    "clean up": lambda site: site.stop(Cause.CLEANUP),
    "give up": lambda site: site.give_up(),
    "shutdown is refused": lambda site: vars(site.cluster).update(refuses_shutdown=True),
    "shutdown is allowed": lambda site: vars(site.cluster).update(refuses_shutdown=False),
    **{
        what: lambda site, what=what: site.cluster.interfere(what)  # type: ignore[misc]
        for what in (
            "drained",
            "deleted pod",
            "deleted by force",
            "node lost",
            "deleted Workflow",
            "out of memory",
            "evicted",
            "terminated",
            "suspended",
        )
    },
}
PROGRESS = list(MOVES)[:9]
WIRE = list(MOVES)[9:20]


def stop_argo(cluster: Cluster) -> None:
    cluster.argo_is_up, cluster.argo_was_down = False, True


def undo_release(cluster: Cluster) -> None:
    """Restore etcd from a backup that was made before the release."""
    if cluster.workflow is not None and not cluster.workflow.phase and cluster.workflow.is_released:
        cluster.workflow.suspended, cluster.workflow.is_released = True, False
        cluster._emit(cluster.workflow)


def moves(*, disturbed: bool) -> st.SearchStrategy[list[str]]:
    """Draw moves: mostly progress, so that a job gets anywhere before an incident."""
    rare_moves = list(MOVES)[9:] if disturbed else WIRE
    progress = st.lists(st.sampled_from(PROGRESS), max_size=6)
    incidents_between = st.lists(st.tuples(st.sampled_from(rare_moves), progress), max_size=8)
    first = st.integers(0, 8).map(lambda rounds: ["round"] * rounds)
    return st.builds(
        lambda rounds, rest: rounds + [m for incident, steps in rest for m in (incident, *steps)],
        first,
        incidents_between,
    )


JOBS = st.builds(
    Job,
    code=st.sampled_from([0, 0, 1, 9, 101, 103, 104, 137, 143]),
    on_sigterm=st.sampled_from([143, None]),
    image_missing=st.sampled_from([False] * 5 + [True]),
    no_room=st.sampled_from([False] * 5 + [True]),
    is_server=st.booleans(),
    has_handler=st.booleans(),
    submit_fails_at=st.sampled_from([None] * 8 + [0, 1]),
)
PROFILE = settings(
    max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def play(job: Job, move_names: list[str]) -> Site:
    """Return the site of a job after all moves."""
    site = Site(Cluster(job))
    for move in move_names:
        MOVES[move](site)
    return site


def finish(site: Site) -> None:
    """Check that there is a verdict even without Argo's controller, and that with it nothing remains."""
    site.settle(lambda: site.verdict is not None)
    assert site.verdict is not None, "no verdict"
    site.cluster.argo_is_up = True
    site.settle(lambda: not site.reconciler.names)
    assert site.reconciler.names == (), "never cleared"
    assert not site.cluster.may_run_again
    assert not any(it.running for it in site.cluster.pods)
    assert not site.cluster.has_secret, "credentials remain"
    for _ in range(5):
        site.cluster.argo()
        site.cluster.kubelet(program_may_end=True)
    assert not any(it.running for it in site.cluster.pods), "something was started after the end"


@PROFILE
@given(JOBS, moves(disturbed=True))
@example(Job(), ["argo goes"])
@example(Job(is_server=True), ["argo goes"])
@example(Job(is_server=True, no_room=True), ["round"])
@example(Job(), ["give up"])
@example(Job(), ["round", "round", "give up", "round"])
@example(Job(), ["round", "argo goes"])
@example(Job(), ["submit", "cut workflows", "round", "abort", "round"])
@example(Job(), [*["round"] * 3, "cut pods", "out of memory", "round", "drained", "round"])
@example(
    Job(),
    ["round", "round", "drained", "kubelet works", "pod event, again later", "cut pods", "perform", *["round"] * 2],
)
@example(Job(code=1), [*["round"] * 4, "program ends", "pod event", "deleted pod", "pod event", "perform"])
@example(Job(code=1), [*["round"] * 4, "program ends", "pod event", "deleted Workflow", "workflow event", "perform"])
@example(Job(), ["submit", "terminated", "argo looks", *["workflow event"] * 3, *["perform"] * 3])
def test_verdict_is_right_and_nothing_remains(job: Job, move_names: list[str]) -> None:
    finish(play(job, move_names))


@PROFILE
@given(st.sampled_from([0, 1, 9, 101, 102, 103, 104, 127, 143]), moves(disturbed=False))
@example(1, ["submit", "submit", "release is undone"])
@example(0, ["round", "submit", "half a minute", "program ends", "half a minute"])
def test_undisturbed_job_is_not_disturbed(code: int, move_names: list[str]) -> None:
    """Only the connection fails; nobody else interferes with the job."""
    site = play(Job(code), move_names)
    finish(site)
    assert site.verdict is not None
    assert site.verdict.code == (code if code == 0 or code in FLARE_EXIT_CODES else 1)
