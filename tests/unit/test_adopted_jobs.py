"""The Reconciler and the Loop with jobs that an earlier run of the parent has launched."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from flargo.cluster.api import Kind
from flargo.control.inputs import (
    Adopted,
    Changed,
    CommandDone,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    Reserved,
    TimePassed,
)
from flargo.control.loop import Loop
from flargo.control.reconciler import Reconciler
from flargo.control.result import Result
from flargo.control.submit import SubmitError
from flargo.status.diagnosis import Stage
from flargo.status.job_state import ActionKind, JobState, StopRequested
from flargo.status.reasons import Reason
from flargo.status.reconcile import PAST_LIMIT
from flargo.status.verdict import UNFOLLOWED, Cause, Verdict
from flargo.terms import StartTimeouts, Uid
from tests.harness.fake_api import THREAD_SECONDS, IdleApi
from tests.harness.objects import RUNNING, Object, pod, terminated_state, workflow

if TYPE_CHECKING:
    from flargo.control.command import Command

JOB = Adopted("job-site", Uid("w1"), "a1", StartTimeouts(), 3)
POD_RUNS = pod(main=RUNNING, phase="Running")
ENDS = {ActionKind.SHUTDOWN, ActionKind.DELETE_POD, ActionKind.DELETE_WORKFLOW}
"""What flargo does to end a program."""


def step(phase: str, **node: Any) -> Object:
    """Return the status of Argo's node of the job's step."""
    return {"nodes": {"n": {"id": "n", "type": "Pod", "phase": phase, **node}}}


RUNS = workflow(phase="Running", **step("Running"))


class Run:
    """The Reconciler of a parent's new run, in front of a cluster with these objects."""

    def __init__(self, *, workflows: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> None:
        self.workflows, self.pods = workflows, pods
        self.events: tuple[Object, ...] = ()
        self.can_list_events = True
        self.performed: list[ActionKind] = []
        self.now = 100.0
        self.reconciler = Reconciler(lambda _: False, self.now, epoch="new run", grace=3)
        self.commands: list[Command] = []
        self.kinds: set[ActionKind] = set()
        self.states: list[JobState] = []
        self.takes(self.reconciler.handle(JOB, self.now))

    def takes(self, result: Result) -> None:
        self.commands += result.commands
        self.kinds |= {command.action.kind for command in result.commands}
        self.states += [state for state in result.states if state.cause not in UNFOLLOWED]

    def lists(self, kind: Kind) -> None:
        items = self.workflows if kind is Kind.WORKFLOW else self.pods
        self.takes(self.reconciler.handle(Listed(kind, items), self.now))

    def stops(self, cause: Cause) -> None:
        self.takes(self.reconciler.handle(JobInput(JOB.name, JOB.attempt, StopRequested(cause)), self.now))

    def works(self) -> None:
        """Carry all commands out."""
        while self.commands:
            command = self.commands.pop(0)
            self.performed.append(command.action.kind)
            match command.action.kind:
                case ActionKind.CONFIRM:
                    own = next((each for each in self.workflows if each["metadata"]["name"] == JOB.name), None)
                    self.takes(self.reconciler.handle(ObjectsRead(command, own, self.pods), self.now))
                case ActionKind.LIST_EVENTS if not self.can_list_events:
                    self.takes(self.reconciler.handle(CommandDone(command, ok=False), self.now))
                case ActionKind.LIST_EVENTS:
                    self.takes(self.reconciler.handle(PodEventsRead(command, self.events), self.now))
                case _:
                    self.takes(self.reconciler.handle(CommandDone(command, ok=True), self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.takes(self.reconciler.handle(TimePassed(), self.now))
        self.works()

    @property
    def verdict(self) -> Verdict | None:
        return next((state.verdict for state in self.states if state.verdict is not None), None)


def workflows_first(run: Run) -> None:
    run.lists(Kind.WORKFLOW)
    run.works()
    run.lists(Kind.POD)
    run.works()


def pods_first(run: Run) -> None:
    run.lists(Kind.POD)
    run.works()
    run.lists(Kind.WORKFLOW)
    run.works()


def lists_before_any_answer(run: Run) -> None:
    run.lists(Kind.WORKFLOW)
    run.lists(Kind.POD)
    run.works()


in_any_order = pytest.mark.parametrize("observe", [workflows_first, pods_first, lists_before_any_answer])


@in_any_order
def test_a_running_job_goes_on(observe: Callable[[Run], None]) -> None:
    """The Workflow is another run's by its label until it is taken, and no orphan all the same."""
    run = Run(workflows=(workflow(phase="Running", parent="an earlier run", **step("Running")),), pods=(POD_RUNS,))
    observe(run)
    run.passes(600.0)
    assert run.states[-1].stage is Stage.RUNNING
    assert (run.verdict, run.kinds & ENDS, run.reconciler.names) == (None, set(), (JOB.name,))


@in_any_order
def test_a_pending_job_goes_on(observe: Callable[[Run], None]) -> None:
    run = Run(workflows=(workflow(phase="Running", **step("Pending")),), pods=(pod(),))
    observe(run)
    assert run.states[-1].stage is Stage.WAITING
    assert (run.verdict, run.kinds & ENDS) == (None, set())


@in_any_order
@pytest.mark.parametrize(
    ("main", "reason"),
    [
        (terminated_state(0, "Completed"), Reason.SUCCEEDED),
        (terminated_state(1), Reason.PROGRAM_FAILED),
        (terminated_state(102), Reason.PROGRAM_REPORTED),
        (terminated_state(137, "OOMKilled"), Reason.OUT_OF_MEMORY),
    ],
)
def test_a_job_that_ended_meanwhile_ends_by_its_exit(
    main: Object, reason: Reason, observe: Callable[[Run], None]
) -> None:
    phase = "Succeeded" if reason is Reason.SUCCEEDED else "Failed"
    run = Run(workflows=(workflow(phase=phase, **step(phase)),), pods=(pod(main=main, phase=phase),))
    observe(run)
    assert run.verdict is not None
    assert (run.verdict.reason, run.kinds & ENDS) == (reason, set())
    assert run.reconciler.names == (), "it is cleared"


@in_any_order
@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [("0", "", Reason.SUCCEEDED), ("3", "Error (exit code 3)", Reason.PROGRAM_FAILED), ("", "pod deleted", None)],
)
def test_an_end_without_a_pod_is_read_from_argo(
    code: str, message: str, reason: Reason | None, observe: Callable[[Run], None]
) -> None:
    phase = "Succeeded" if code == "0" else "Failed"
    node = step(phase, message=message, **({"outputs": {"exitCode": code}} if code else {}))
    run = Run(workflows=(workflow(phase=phase, **node),))
    observe(run)
    assert run.verdict is not None
    assert run.verdict.reason is (reason or Reason.POD_DELETED)


@in_any_order
def test_a_job_that_is_gone_gets_its_verdict(observe: Callable[[Run], None]) -> None:
    """It existed a moment before; a watch may be late, so flargo waits before it reads once more."""
    run = Run()
    observe(run)
    assert run.verdict is None
    run.passes(10.0)
    assert run.verdict is not None
    assert (run.verdict.reason, run.reconciler.names) == (Reason.WORKFLOW_DELETED, ())


@in_any_order
def test_a_pod_that_outlived_its_workflow_is_ended(observe: Callable[[Run], None]) -> None:
    """The pod is known by its owner's uid, although this run never saw the Workflow."""
    run = Run(pods=(POD_RUNS,))
    observe(run)
    run.passes(10.0)
    assert ActionKind.DELETE_POD in run.kinds


@in_any_order
def test_another_workflow_of_the_name_is_an_orphan(observe: Callable[[Run], None]) -> None:
    """Somebody has deleted the Workflow after it was taken, and created it again."""
    run = Run(workflows=(workflow(uid="w2", phase="Running", **step("Running")),))
    observe(run)
    run.passes(10.0)
    assert run.verdict is not None
    assert (run.verdict.reason, ActionKind.SHUTDOWN in run.kinds) == (Reason.WORKFLOW_DELETED, True)


def test_a_workflow_that_was_not_released_is() -> None:
    """The earlier run ended between the creation of the credentials and the release."""
    run = Run(workflows=(workflow(suspend=True),))
    workflows_first(run)
    assert run.states[-1].stage is Stage.SUBMITTED
    run.passes(5.0)
    assert (ActionKind.RELEASE in run.kinds, run.kinds & ENDS) == (True, set())


@in_any_order
def test_a_pod_that_argo_made_twice_is_ended(observe: Callable[[Run], None]) -> None:
    """The first pod was deleted while nobody watched, and Argo made another before it knew that the first one ran."""
    item = workflow(phase="Running", **step("Running"))
    item["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    run = Run(workflows=(item,), pods=(POD_RUNS,))
    times = {"firstTimestamp": "2026-01-01T00:00:05Z", "lastTimestamp": "2026-01-01T00:00:05Z"}
    run.events = ({"reason": "Started", "type": "Normal", "involvedObject": {"uid": "p0"}, **times},)
    observe(run)
    assert run.kinds & ENDS
    assert run.states[-1].end_diagnosis is not None
    assert run.states[-1].end_diagnosis.reason is Reason.RUN_TWICE


EARLIER_START = "2026-01-01T00:00:05Z"
EXITS = {
    "0": terminated_state(0, "Completed"),
    "1": terminated_state(1),
    "102": terminated_state(102),
    "OOM": terminated_state(137, "OOMKilled"),
}


def replaced(main: Object) -> Run:
    """Return the run of a job whose pod Argo has replaced, and whose second program has ended, both unseen."""
    phase = "Succeeded" if main["terminated"]["exitCode"] == 0 else "Failed"
    item = workflow(phase=phase, **step(phase))
    item["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    run = Run(workflows=(item,), pods=(pod(main=main, phase=phase),))
    times = {"firstTimestamp": EARLIER_START, "lastTimestamp": EARLIER_START}
    run.events = ({"reason": "Started", "type": "Normal", "involvedObject": {"uid": "p0"}, **times},)
    return run


@in_any_order
@pytest.mark.parametrize("main", EXITS.values(), ids=EXITS)
def test_the_end_of_a_second_program_is_not_the_jobs(main: Object, observe: Callable[[Run], None]) -> None:
    """Argo replaced the pod while nobody watched, and the second program has ended as well."""
    run = replaced(main)
    observe(run)
    assert run.verdict is not None
    assert (run.verdict.reason, run.verdict.code) == (Reason.RUN_TWICE, 104)
    assert run.verdict.detail == "its events show an earlier pod"
    assert run.reconciler.names == (), "it is cleared"
    assert run.kinds & ENDS == set(), "nothing is left to end"


@in_any_order
def test_an_abort_of_a_job_that_ran_twice_stays_one(observe: Callable[[Run], None]) -> None:
    run = replaced(EXITS["1"])
    run.stops(Cause.ABORT)
    observe(run)
    assert run.verdict is not None
    assert run.verdict.reason is Reason.ABORTED


@in_any_order
def test_an_end_that_nobody_saw_costs_one_list_of_events(observe: Callable[[Run], None]) -> None:
    run = replaced(EXITS["1"])
    run.events = ()
    observe(run)
    assert [kind for kind in run.performed if kind is ActionKind.LIST_EVENTS] == [ActionKind.LIST_EVENTS]
    assert run.verdict is not None
    assert run.verdict.reason is Reason.PROGRAM_FAILED


def test_the_wait_for_events_ends_in_time() -> None:
    """The retries of the list become rare: none of them need be due when the wait ends."""
    run = replaced(EXITS["1"])
    run.can_list_events = False
    workflows_first(run)
    began_at = run.now
    run.now += 5.0
    while run.verdict is None:
        due = run.reconciler.next_requeue_at()
        assert due is not None
        run.passes(max(due - run.now, 0.01))
    assert run.now - began_at == pytest.approx(PAST_LIMIT)


@in_any_order
@pytest.mark.parametrize("main", EXITS.values(), ids=EXITS)
def test_a_verdict_does_not_wait_for_events_for_ever(main: Object, observe: Callable[[Run], None]) -> None:
    """The right to list them is missing, for example."""
    run = replaced(main)
    run.can_list_events = False
    observe(run)
    assert run.verdict is None
    for _ in range(70):
        run.passes(1.0)
    assert run.verdict is not None
    assert run.verdict.exit_code == main["terminated"]["exitCode"]
    assert run.reconciler.names == ()


@in_any_order
def test_an_abort_does_not_wait_for_events(observe: Callable[[Run], None]) -> None:
    run = replaced(EXITS["0"])
    run.can_list_events = False
    observe(run)
    run.stops(Cause.ABORT)
    run.passes(1.0)
    assert run.verdict is not None
    assert run.verdict.reason is Reason.ABORTED


@in_any_order
def test_an_abort_before_anything_is_known_ends_the_job(observe: Callable[[Run], None]) -> None:
    run = Run(workflows=(RUNS,), pods=(POD_RUNS,))
    run.stops(Cause.ABORT)
    observe(run)
    assert ActionKind.SHUTDOWN in run.kinds
    ended = pod(main=terminated_state(143), phase="Failed", version=2)
    run.workflows, run.pods = (workflow(phase="Failed", shutdown="Terminate", version=2),), (ended,)
    observe(run)
    run.passes(5.0)
    assert run.verdict is not None
    assert (run.verdict.reason, run.verdict.code) == (Reason.ABORTED, 9)


@pytest.mark.parametrize(("note", "reason"), [("ABORTED", Reason.ABORTED), ("CLEANED_UP", Reason.SUCCEEDED)])
def test_an_abort_that_an_earlier_run_had_begun_stays_one(note: str, reason: Reason) -> None:
    """The program ends with 0 after the abort's SIGTERM, and the parent was killed between the two."""
    item = workflow(phase="Failed", shutdown="Terminate", **step("Failed"))
    item["metadata"]["annotations"] |= {"flargo.dev/ending": note}
    run = Run(workflows=(item,), pods=(pod(main=terminated_state(0, "Completed"), phase="Succeeded"),))
    workflows_first(run)
    assert run.verdict is not None
    assert run.verdict.reason is reason


# --- jobs that are taken back after the loop has started


class LateRun(Run):
    """A run that takes its job back late."""

    def __init__(self, *, workflows: tuple[Object, ...] = (), pods: tuple[Object, ...] = ()) -> None:
        super().__init__(workflows=workflows, pods=pods)
        self.reconciler = Reconciler(lambda _: False, self.now, epoch="new run", grace=3)
        self.states.clear()
        self.commands.clear()
        self.reserves(JOB.name)

    def reserves(self, *names: str) -> None:
        self.takes(self.reconciler.handle(Reserved(frozenset(names)), self.now))

    def adopts(self) -> None:
        self.takes(self.reconciler.handle(JOB, self.now))
        self.reserves()
        self.works()

    def changes(self, item: Object, *, deleted: bool = False) -> None:
        self.takes(self.reconciler.handle(Changed(Kind.WORKFLOW, item, deleted), self.now))
        self.works()


EARLIER = workflow(phase="Running", parent="an earlier run", **step("Running"))


@in_any_order
def test_a_reserved_workflow_is_left_alone(observe: Callable[[Run], None]) -> None:
    run = LateRun(workflows=(EARLIER,), pods=(POD_RUNS,))
    observe(run)
    run.passes(600.0)
    observe(run)
    assert (run.kinds, run.reconciler.names) == (set(), ())


@in_any_order
def test_a_workflow_that_is_reserved_no_more_is_ended(observe: Callable[[Run], None]) -> None:
    run = LateRun(workflows=(EARLIER,), pods=(POD_RUNS,))
    observe(run)
    run.reserves("another")
    run.works()
    assert ActionKind.SHUTDOWN in run.kinds


@in_any_order
def test_a_job_that_is_taken_back_late_goes_on(observe: Callable[[Run], None]) -> None:
    """No watch shows anything new of it after that."""
    run = LateRun(workflows=(EARLIER,), pods=(POD_RUNS,))
    observe(run)
    run.adopts()
    run.passes(600.0)
    assert run.states[-1].stage is Stage.RUNNING
    assert (run.verdict, run.kinds & ENDS, run.reconciler.names) == (None, set(), (JOB.name,))


@in_any_order
def test_a_job_that_ended_before_it_is_taken_back_late_ends_by_its_exit(observe: Callable[[Run], None]) -> None:
    """Its Workflow has this run as its parent already, in the version that the watch shows."""
    ended = workflow(phase="Succeeded", parent="new run", **step("Succeeded"))
    run = LateRun(workflows=(ended,), pods=(pod(main=terminated_state(0, "Completed"), phase="Succeeded"),))
    observe(run)
    run.adopts()
    run.passes(10.0)
    assert run.verdict is not None
    assert run.verdict.reason is Reason.SUCCEEDED


def test_a_job_whose_workflow_is_deleted_before_it_is_taken_back_late_gets_its_verdict() -> None:
    run = LateRun(workflows=(EARLIER,))
    workflows_first(run)
    run.workflows = ()
    run.changes(EARLIER, deleted=True)
    run.adopts()
    run.passes(10.0)
    assert run.verdict is not None
    assert run.verdict.reason is Reason.WORKFLOW_DELETED


def test_the_loop_launches_nothing_under_a_reserved_name() -> None:
    loop = Loop(IdleApi(), "", "new run", 3)
    loop.reserve(frozenset({JOB.name}))
    with pytest.raises(SubmitError, match="may still be taken back"):
        loop.require(JOB.name)
    loop.adopt(JOB, lambda: False, lambda *_: None, collect_log=False)
    loop.reserve(frozenset())
    loop.end(Cause.PARENT_END, 0.0)


def test_the_loop_follows_an_adopted_job() -> None:
    """Its Workflow is no orphan, although the lists arrive as soon as the loop starts."""
    api, verdicts, stages = IdleApi(), list[Verdict](), list[Stage]()
    api.store[Kind.WORKFLOW, JOB.name] = workflow(phase="Succeeded", **step("Succeeded"))
    api.store[Kind.POD, JOB.name] = pod(main=terminated_state(0, "Completed"), phase="Succeeded")
    loop = Loop(api, "", "new run", 3)
    launched = loop.adopt(
        JOB,
        lambda: False,
        lambda verdict, _: verdicts.append(verdict),
        collect_log=False,
        on_state=lambda state: stages.append(state.stage),
    )
    loop.start()
    assert launched.wait(lambda job: job.verdict is not None, THREAD_SECONDS)
    loop.end(Cause.PARENT_END, 0.1)
    api.test_ended.set()
    assert [verdict.reason for verdict in verdicts] == [Reason.SUCCEEDED]
    assert Stage.ENDED in stages
    assert (Kind.WORKFLOW, JOB.name) in api.store


def test_the_loop_refuses_what_it_cannot_follow() -> None:
    """An adopted job is followed once, and not by a parent that shuts down, which would leave its waiter alone."""
    api = IdleApi()
    loop = Loop(api, "", "new run", 3)
    loop.adopt(JOB, lambda: False, lambda *_: None, collect_log=False)
    with pytest.raises(SubmitError, match="still being cleaned up"):
        loop.adopt(JOB, lambda: False, lambda *_: None, collect_log=False)
    loop.end(Cause.PARENT_END, 0.0)
    with pytest.raises(SubmitError, match="shutting down"):
        loop.adopt(JOB, lambda: False, lambda *_: None, collect_log=False)
    api.test_ended.set()


def test_a_shutdown_reports_an_adopted_job() -> None:
    """Also if the loop has not started: FLARE's thread waits for the job."""
    loop, verdicts = Loop(IdleApi(), "", "new run", 3), list[Verdict]()
    launched = loop.adopt(JOB, lambda: False, lambda verdict, _: verdicts.append(verdict), collect_log=False)
    loop.end(Cause.PARENT_END, 0.0)
    assert launched.verdict is not None
    assert [verdict.reason for verdict in verdicts] == [Reason.PARENT_ENDED]


def test_a_shutdown_ends_an_adopted_job() -> None:
    """Also if the parent shuts down before it has taken back all jobs: nobody would follow this one any more."""
    api = IdleApi()
    api.store[Kind.WORKFLOW, JOB.name] = workflow(phase="Running")
    api.store[Kind.POD, JOB.name] = pod(main=RUNNING, phase="Running")
    loop = Loop(api, "", "new run", 3)
    loop.adopt(JOB, lambda: False, lambda *_: None, collect_log=False)
    loop.end(Cause.PARENT_END, 2.0)
    api.test_ended.set()
    assert api.store[Kind.WORKFLOW, JOB.name]["spec"]["shutdown"] == "Terminate"
