"""Whatever Argo, the kubelet, people, FLARE and the wire do to one job: what must hold all the same.

``Cluster`` is a small model of one job's Workflow and pods, written from argo.md and not from flargo's code.
``Site`` lets its two streams, and the answers to what flargo wishes, reach a real Engine late, twice or not at
all. ``allowed`` is the oracle: what FLARE may be told, by what truly happened. Hypothesis draws the moves.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.control.reconciler import Command, Reconciler, Result
from flargo.status.job_state import ActionKind
from flargo.status.reasons import Reason
from flargo.status.reconcile import ARGO_FINISH_LIMIT
from flargo.status.verdict import Cause, Verdict
from flargo.terms import StartTimeouts
from tests.harness.objects import Object, pod, workflow

NAME = "job-site"
PATIENCE = StartTimeouts(pending=120, total=900, unclaimed=120, starting=300)
OF_A_SERVER = replace(PATIENCE, pending=None, placement=60)
OWN = frozenset({101, 102, 103})
CODES = frozenset({0, 1, 9, *OWN, 104})
HURTING = frozenset({ActionKind.SHUTDOWN, ActionKind.DELETE_POD, ActionKind.DELETE_WORKFLOW})
WHOLE = 3000
"""Seconds within which everything that can end has ended."""


# --- the world


@dataclass
class Pod:
    """A pod as the API server holds it, and what its main container really does."""

    uid: str
    owner: str
    phase: str = "Pending"
    reason: str = ""
    scheduled: bool = False
    stuck: str = ""
    running: bool = False
    exit: tuple[int, str] | None = None
    deleting: bool = False
    disruption: bool = False
    signalled: bool = False
    kill_at: float = float("inf")


@dataclass
class Workflow:
    """A Workflow as the API server holds it."""

    uid: str = "w1"
    phase: str = ""
    message: str = ""
    suspended: bool = True
    shutdown: str = ""
    node_phase: str = ""
    node_message: str = ""
    node_exit: int | None = None

    @property
    def over(self) -> bool:
        return self.phase in {"Succeeded", "Failed", "Error"}


@dataclass(frozen=True)
class Job:
    """What is fixed about a job before anything happens."""

    code: int = 0
    """The program's own exit code, if it is let."""
    on_sigterm: int | None = 143
    """Its exit code on SIGTERM; None: it is deaf."""
    image_missing: bool = False
    no_room: bool = False
    of_server: bool = False
    """Its launch waits for it, so it may not wait for a node as long as it likes."""
    submit_fails_at: int | None = None
    """The step of the submit that is refused: 0 create, 1 release."""


class Cluster:
    """Argo, the kubelet, the garbage collector and people. Every change goes to its kind's stream."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.now = 0.0
        self.workflow: Workflow | None = None
        self.pods: list[Pod] = []
        self.secret = False
        self.argo_is_up = True
        self.argo_was_down = False
        self.happened: set[str] = set()
        """What was done to the job, by name: see ``allowed``."""
        self.ends: list[tuple[str, int, bool]] = []
        """Of every main container that ended: its pod, its exit code, whether by itself."""
        self.streams: dict[Kind, deque[tuple[Object, bool]]] = {Kind.WORKFLOW: deque(), Kind.POD: deque()}
        self._version = 0
        self._pods_made = 0

    # what the API server shows

    def show(self) -> Object | None:
        it = self.workflow
        return None if it is None else self._workflow(it)

    def show_pods(self) -> list[Object]:
        return [self._pod(it) for it in self.pods]

    def _workflow(self, it: Workflow) -> Object:
        node: Object = {"type": "Pod", "phase": it.node_phase, "message": it.node_message}
        if it.node_exit is not None:
            node["outputs"] = {"exitCode": str(it.node_exit)}
        shown = workflow(
            NAME,
            uid=it.uid,
            version=self._version,
            suspend=it.suspended,
            shutdown=it.shutdown,
            phase=it.phase,
            message=it.message,
            nodes={NAME: node} if it.node_phase else {},
        )
        shown["metadata"]["annotations"] = {"flargo.dev/attempt": "a1"}
        return shown

    def _pod(self, it: Pod) -> Object:
        main: Object = {"waiting": {"reason": it.stuck or "PodInitializing"}}
        if it.running:
            main = {"running": {}}
        elif it.exit is not None:
            main = {"terminated": {"exitCode": it.exit[0], "reason": it.exit[1]}}
        conditions: list[Object] = [{"type": "PodScheduled", "status": "True"}]
        if not it.scheduled:
            words = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            conditions = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            ] * self.job.no_room
        if it.disruption:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
        shown = pod(
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
            shown["spec"]["nodeName"] = "n1"
        if it.deleting:
            shown["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        return shown

    def _changed(self, it: Workflow | Pod, *, deleted: bool = False) -> None:
        self._version += 1
        if isinstance(it, Workflow):
            self.streams[Kind.WORKFLOW].append((self._workflow(it), deleted))
        else:
            self.streams[Kind.POD].append((self._pod(it), deleted))

    # what can be asked of the API server

    def create(self) -> None:
        self.workflow = Workflow()
        self._changed(self.workflow)

    def create_secret(self) -> None:
        self.secret = self.workflow is not None  # what has no owner is collected

    def release(self) -> bool:
        if self.workflow is None:
            return False
        self.workflow.suspended = False
        self._changed(self.workflow)
        return True

    def shut_down(self) -> None:
        if self.workflow is not None and not self.workflow.shutdown:
            self.workflow.shutdown = "Terminate"
            self._changed(self.workflow)

    def delete_workflow(self) -> None:
        if self.workflow is not None:
            gone, self.workflow, self.secret = self.workflow, None, False
            self._changed(gone, deleted=True)

    def delete_pod(self, it: Pod, grace: float = 30) -> None:
        it.deleting = it.signalled = True
        it.kill_at = min(it.kill_at, self.now + grace)
        self._changed(it)

    # who works on it

    def argo(self) -> None:
        """One look of the Workflow controller at the Workflow."""
        it = self.workflow
        if it is None or not self.argo_is_up:
            return
        before = Workflow(**vars(it))
        self._reconcile(it)
        if it != before:
            self._changed(it)

    def _reconcile(self, it: Workflow) -> None:
        own = next((pod for pod in self.pods if pod.owner == it.uid), None)
        if own is not None and own.exit is not None and it.node_exit is None and not own.deleting:
            it.node_exit, words = own.exit
            it.node_message = f"{words} (exit code {it.node_exit})" if it.node_exit else ""
            it.node_phase = "Failed" if it.node_exit else "Succeeded"
        elif it.over:
            pass
        elif it.shutdown:
            it.phase, it.message = "Failed", "Stopped with strategy 'Terminate'"
            if own is not None:
                own.signalled = True
        elif not it.phase:
            it.phase = "Running"
        elif it.node_exit is not None:
            it.phase, it.message = it.node_phase, it.node_message
        elif own is not None:
            it.node_phase = own.phase if own.phase in {"Pending", "Running"} else it.node_phase
        elif it.node_phase in {"", "Pending"} and not it.suspended:
            it.node_phase = "Pending"
            self._make_pod(it)
        elif it.node_phase == "Running":
            it.phase, it.message = "Error", "pod deleted"

    def _make_pod(self, it: Workflow) -> None:
        self._pods_made += 1
        if self._pods_made > 1:
            self.happened.add("twice")
        self.pods.append(Pod(f"p{self._pods_made}", it.uid))
        self._changed(self.pods[-1])

    def kubelet(self, *, program_may_end: bool = False) -> None:
        """One step of scheduler, kubelet and garbage collector for every pod."""
        for it in list(self.pods):
            orphan = self.workflow is None or self.workflow.uid != it.owner
            if orphan and not it.deleting:
                self.delete_pod(it)
            elif it.running:
                self._run(it, program_may_end=program_may_end)
            elif it.deleting:
                self.pods.remove(it)
                self._changed(it, deleted=True)
            elif it.exit is None and it.phase == "Pending":
                self._start(it)
            elif it.phase == "Running":
                it.phase = "Failed" if it.exit and it.exit[0] else "Succeeded"
                self._changed(it)

    def _start(self, it: Pod) -> None:
        if not it.scheduled:
            it.scheduled = not self.job.no_room
        elif self.job.image_missing:
            it.stuck = "ErrImagePull"
            self.happened.add("image")
        elif not it.signalled:
            it.running, it.phase = True, "Running"
        else:
            return  # Argo does not let main start in a Workflow that is shut down
        self._changed(it)

    def _run(self, it: Pod, *, program_may_end: bool) -> None:
        if it.signalled and self.job.on_sigterm is not None:
            self._end(it, self.job.on_sigterm, "Error", itself=False)
        elif self.now >= it.kill_at:
            self._end(it, 137, "Error", itself=False)
        elif program_may_end and not it.signalled:
            self._end(it, self.job.code, "Error" if self.job.code else "Completed", itself=True)

    def _end(self, it: Pod, code: int, reason: str, *, itself: bool) -> None:
        it.running, it.exit = False, (code, reason)
        self.ends.append((it.uid, code, itself))
        self._changed(it)

    # what befalls it

    def befall(self, what: str) -> None:
        """Something done to the job from outside, where it can be."""
        it = next((pod for pod in self.pods if not pod.deleting), None)
        if what == "deleted Workflow" and self.workflow is not None:
            self.delete_workflow()
        elif what == "terminated" and self.workflow is not None and not self.workflow.over:
            self.shut_down()
        elif what in {"drained", "deleted pod"} and it is not None:
            it.disruption = what == "drained"
            self.delete_pod(it)
        elif what in {"out of memory", "evicted"} and it is not None and it.running:
            if what == "evicted":
                it.phase, it.reason = "Failed", "Evicted"
            self._end(it, 137, "OOMKilled" if what == "out of memory" else "ContainerStatusUnknown", itself=False)
        else:
            return
        self.happened.add(what)

    @property
    def runs(self) -> bool:
        """Whether a main container runs, or may yet."""
        released = self.workflow is not None and not self.workflow.over
        return released or any(it.running or (it.exit is None and not it.deleting) for it in self.pods)


# --- what FLARE may be told

BY_WHAT_BEFELL = {
    "drained": 104,
    "deleted pod": 104,
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


def allowed(world: Cluster, stops: set[Cause], first_pod: str) -> set[int]:
    """The codes that are true of what happened, before the verdict. One if only one thing did.

    ``first_pod`` is the first that flargo was ever shown: of one that came and went unseen nobody can know.
    """
    shown = [(code, itself) for uid, code, itself in world.ends if first_pod in {"", uid}]
    first = shown[-1] if shown else None  # only Argo's record of the last, where no pod was shown
    befell = {BY_WHAT_BEFELL[what] for what in world.happened}
    if Cause.CLEANUP in stops:
        befell.add(1)
    if Cause.ABORT in stops:
        befell = {9}
    if first is None:
        return befell
    code, itself = first
    told = code if code in OWN or code == 0 else 1
    if told == 0 and Cause.ABORT in stops:
        return {9, 0}  # 0 if its end was seen before the abort
    return befell | {told} if itself or told != 1 else befell


# --- flargo, and the wire between it and the world


@dataclass
class Site:
    """A real Engine that hears of the world by its streams, and whose wishes are performed on it."""

    world: Cluster
    engine: Reconciler = field(init=False)
    orders: deque[Command] = field(default_factory=deque)
    sent: list[ActionKind] = field(default_factory=list)
    verdict: Verdict | None = None
    ruled_at: float | None = None
    first_pod: str = ""
    """The first that was shown."""
    stops: set[Cause] = field(default_factory=set)
    given_up: bool = False
    submitted: int | None = 0
    """The next step of the submit; None: it is over."""
    cut: set[Kind] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine = Reconciler(lambda _: False, 0.0)
        self.engine.admit(NAME, "a1", OF_A_SERVER if self.world.job.of_server else PATIENCE, 3, 0.0)
        for kind in self.world.streams:
            self.relist(kind)

    def take(self, outcome: Result) -> None:
        """What follows from a fact. Here most properties are held."""
        for order in outcome.commands:
            self.orders.append(order)
        for life in outcome.states:
            if life.end_diagnosis is not None and life.end_diagnosis.reason in {
                Reason.UNCLAIMED,
                Reason.TIMEOUT,
                Reason.START_TIMEOUT,
            }:
                self.world.happened.add("out of patience")
            if life.end_diagnosis is not None and life.end_diagnosis.reason is Reason.SHORTAGE:
                self.world.happened.add("no room")
            if self.verdict is not None:
                assert life.verdict == self.verdict, "a verdict stands"
            elif life.verdict is not None:
                self._check(life.verdict)

    def _check(self, verdict: Verdict) -> None:
        self.verdict, self.ruled_at = verdict, self.world.now
        assert verdict.code in CODES
        truth = allowed(self.world, self.stops, self.first_pod)
        assert verdict.code in truth, f"told {verdict}, but the truth is one of {truth}"

    # facts

    def deliver(self, kind: Kind, *, again: bool = False) -> None:
        """The next event of a stream; ``again``: and once more later."""
        stream = self.world.streams[kind]
        if kind not in self.cut and stream:
            item, deleted = stream[0] if again else stream.popleft()
            self._note([item] if kind is Kind.POD and not deleted else [])
            self.take(self.engine.on_changed(kind, item, self.world.now, deleted=deleted))

    def _note(self, pods: list[Object]) -> None:
        self.first_pod = self.first_pod or next((str(pod["metadata"]["uid"]) for pod in pods), "")

    def cut_off(self, kind: Kind) -> None:
        """A stream breaks off: what it had to tell is never told."""
        self.cut.add(kind)
        self.engine.on_watch_lost(kind, self.world.now)

    def relist(self, kind: Kind) -> None:
        self.cut.discard(kind)
        self.world.streams[kind].clear()
        shown = self.world.show()
        items = self.world.show_pods() if kind is Kind.POD else [shown] if shown is not None else []
        self._note(items if kind is Kind.POD else [])
        self.take(self.engine.on_listed(kind, items, self.world.now))

    def stop(self, cause: Cause) -> None:
        if self.verdict is None:
            self.stops.add(cause)
        self.take(self.engine.stop(NAME, cause, self.world.now))

    def give_up(self) -> None:
        """FLARE is told that the launch failed, whatever becomes of the job."""
        if self.verdict is None:
            self.world.happened.add("given up")
        self.given_up = True
        self.take(self.engine.give_up(NAME, "nobody waits for it", self.world.now))

    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds
        self.take(self.engine.tick(self.world.now))

    def submit(self) -> None:
        """The next step of the submit."""
        if self.submitted is None:
            return
        refused = self.world.job.submit_fails_at == self.submitted
        unwanted = self.stops or self.given_up
        if self.submitted == 1 and not unwanted:
            self.world.create_secret()
        if refused or unwanted:
            self.world.happened |= {"not submitted"} if refused else set()
            self._submitted("refused")
        elif self.submitted == 0:
            self.world.create()
            self.submitted = 1
        else:
            self._submitted("" if self.world.release() else "404")

    def _submitted(self, error: str) -> None:
        self.submitted = None
        if error == "404":
            self.world.happened.add("not submitted")
        self.take(self.engine.on_submitted(NAME, error, self.world.now))

    # wishes

    def perform(self, *, works: bool = True, answered: bool = True) -> None:
        """The oldest wish is performed, or is not; its answer comes, or is lost."""
        if not self.orders:
            return
        order = self.orders.popleft()
        self._may_be_sent(order)
        self.sent.append(order.action.kind)
        if order.action.kind is ActionKind.CONFIRM and works and answered:
            fresh = self.world.show(), self.world.show_pods()
            self._note(fresh[1])
            self.take(self.engine.on_confirmed(order, *fresh, self.world.now))
            return
        ok = self._do(order) if works else False
        self.take(self.engine.on_action_done(order, self.world.now, ok=ok and answered))

    def _may_be_sent(self, order: Command) -> None:
        it = self.world.workflow
        if order.action.kind is ActionKind.DELETE_POD:
            assert it is None or it.shutdown or it.over, "a pod that is killed before the shutdown is made again"
            assert order.pod_name, "a DELETE without a name would be of all pods"
        if order.action.kind is ActionKind.DELETE_WORKFLOW and not self.stops:
            assert not any(pod.running for pod in self.world.pods), "a Workflow whose program runs is discarded"
        undisturbed = not self.world.happened and not self.stops and not self.world.argo_was_down
        if undisturbed and order.action.kind in HURTING:
            settled = self.ruled_at is not None and self.world.now >= self.ruled_at + ARGO_FINISH_LIMIT
            assert settled, f"{order.action} although nothing happened to the job"

    def _do(self, order: Command) -> bool:
        match order.action.kind:
            case ActionKind.SHUTDOWN:
                self.world.shut_down()
            case ActionKind.DELETE_WORKFLOW:
                self.world.delete_workflow()
            case ActionKind.DELETE_POD:
                same_name = self.world.pods[0] if self.world.pods else None
                if same_name is not None and same_name.uid != order.action.uid:
                    return False
                if same_name is not None:
                    self.world.delete_pod(same_name, order.grace)
            case ActionKind.DELETE_SECRET:
                self.world.secret = False
        return True

    # the end

    def settle(self, until: Callable[[], bool]) -> None:
        """Nothing more befalls the job, all that is sent arrives: time passes until something is true."""
        end = self.world.now + WHOLE
        while not until() and self.world.now < end:
            for kind in self.cut.copy():
                self.relist(kind)
            self.round(program_may_end=True)

    def round(self, *, program_may_end: bool) -> None:
        """A second in which everybody does one thing, and the wire is quick and true."""
        self.submit()
        self.world.argo()
        self.world.kubelet(program_may_end=program_may_end)
        for kind in self.world.streams:
            while self.world.streams[kind] and kind not in self.cut:
                self.deliver(kind)
        for _ in range(20):
            self.perform()
        assert not self.orders, f"wished for without end, at one moment: {self.sent[-3:]}"
        self.pass_time(1.0)


# --- the moves


def half_a_minute(site: Site) -> None:
    """In which everything on the cluster that goes by itself goes on."""
    for _ in range(6):
        site.world.argo()
        site.world.kubelet()
        site.pass_time(5.0)


MOVES: dict[str, Callable[[Site], Any]] = {
    "round": lambda site: site.round(program_may_end=False),
    "submit": lambda site: site.submit(),
    "argo looks": lambda site: site.world.argo(),
    "kubelet works": lambda site: site.world.kubelet(),
    "program ends": lambda site: site.world.kubelet(program_may_end=True),
    "workflow event": lambda site: site.deliver(Kind.WORKFLOW),
    "pod event": lambda site: site.deliver(Kind.POD),
    "perform": lambda site: site.perform(),
    "second": lambda site: site.pass_time(1.0),
    "workflow event, again later": lambda site: site.deliver(Kind.WORKFLOW, again=True),
    "pod event, again later": lambda site: site.deliver(Kind.POD, again=True),
    "cut workflows": lambda site: site.cut_off(Kind.WORKFLOW),
    "cut pods": lambda site: site.cut_off(Kind.POD),
    "relist workflows": lambda site: site.relist(Kind.WORKFLOW),
    "relist pods": lambda site: site.relist(Kind.POD),
    "refuse": lambda site: site.perform(works=False),
    "lose the answer": lambda site: site.perform(answered=False),
    "half a minute": half_a_minute,
    "argo goes": lambda site: argo_goes(site.world),
    "argo returns": lambda site: vars(site.world).update(argo_is_up=True),
    "abort": lambda site: site.stop(Cause.ABORT),
    "clean up": lambda site: site.stop(Cause.CLEANUP),
    "give up": lambda site: site.give_up(),
    **{
        what: lambda site, what=what: site.world.befall(what)  # type: ignore[misc]
        for what in ("drained", "deleted pod", "deleted Workflow", "out of memory", "evicted", "terminated")
    },
}
PROGRESS = list(MOVES)[:9]
WIRE = list(MOVES)[9:18]


def argo_goes(world: Cluster) -> None:
    world.argo_is_up, world.argo_was_down = False, True


def moves(*, disturbed: bool) -> st.SearchStrategy[list[str]]:
    """Mostly progress, for a job to get anywhere before something befalls it."""
    seldom = list(MOVES)[9:] if disturbed else WIRE
    some = st.lists(st.sampled_from(PROGRESS), max_size=6)
    blows = st.lists(st.tuples(st.sampled_from(seldom), some), max_size=8)
    first = st.integers(0, 8).map(lambda rounds: ["round"] * rounds)
    return st.builds(lambda rounds, rest: rounds + [m for blow, few in rest for m in (blow, *few)], first, blows)


JOBS = st.builds(
    Job,
    code=st.sampled_from([0, 0, 1, 9, 101, 103, 104, 137, 143]),
    on_sigterm=st.sampled_from([143, None]),
    image_missing=st.sampled_from([False] * 5 + [True]),
    no_room=st.sampled_from([False] * 5 + [True]),
    of_server=st.booleans(),
    submit_fails_at=st.sampled_from([None] * 8 + [0, 1]),
)
PROFILE = settings(
    max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def play(job: Job, happenings: list[str]) -> Site:
    """All moves, then to the end."""
    site = Site(Cluster(job))
    for move in happenings:
        MOVES[move](site)
    return site


def finish(site: Site) -> None:
    """Even without Argo's controller FLARE hears a verdict; with it, nothing is left."""
    site.settle(lambda: site.verdict is not None)
    assert site.verdict is not None, "FLARE waits for ever"
    site.world.argo_is_up = True
    site.settle(lambda: not site.engine.names)
    assert site.engine.names == (), "never cleared"
    assert not site.world.runs
    assert not any(it.running for it in site.world.pods)
    assert not site.world.secret, "credentials are left"
    for _ in range(5):
        site.world.argo()
        site.world.kubelet(program_may_end=True)
    assert not any(it.running for it in site.world.pods), "something was started after the end"


@PROFILE
@given(JOBS, moves(disturbed=True))
@example(Job(), ["argo goes"])
@example(Job(of_server=True), ["argo goes"])
@example(Job(of_server=True, no_room=True), ["round"])
@example(Job(), ["give up"])
@example(Job(), ["round", "round", "give up", "round"])
@example(Job(), ["round", "argo goes"])
@example(Job(), ["submit", "cut workflows", "round", "abort", "round"])
@example(Job(), [*["round"] * 3, "cut pods", "out of memory", "round", "drained", "round"])
@example(
    Job(),
    ["round", "round", "drained", "kubelet works", "pod event, again later", "cut pods", "perform", *["round"] * 2],
)
@example(Job(), ["submit", "terminated", "argo looks", *["workflow event"] * 3, *["perform"] * 3])
def test_whatever_happens_the_verdict_is_right_and_nothing_is_left(job: Job, happenings: list[str]) -> None:
    finish(play(job, happenings))


@PROFILE
@given(st.sampled_from([0, 1, 9, 101, 102, 103, 104, 127, 143]), moves(disturbed=False))
@example(0, ["round", "submit", "half a minute", "program ends", "half a minute"])
def test_a_job_left_alone_by_all_but_the_wire_is_left_alone_by_flargo(code: int, happenings: list[str]) -> None:
    site = play(Job(code), happenings)
    finish(site)
    assert site.verdict is not None
    assert site.verdict.code == (code if code == 0 or code in OWN else 1)
