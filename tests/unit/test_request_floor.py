"""With nothing changing, the requests of a parent fall to a floor, for any number of jobs in any state.

The Reconciler of a whole site is driven with jobs in a mix of states. Its commands succeed without effect, are refused,
or get no result at all; reads show the same objects for ever. Only a change of the cluster may bring more requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.cluster.api import Kind
from flargo.control.budget import TOKENS_PER_SECOND
from flargo.control.command import Command
from flargo.control.inputs import (
    Admitted,
    CommandDone,
    JobInput,
    Listed,
    ObjectsRead,
    PodEventsRead,
    SiteInput,
    TimePassed,
)
from flargo.control.reconciler import Reconciler
from flargo.status.job_state import ActionKind, LaunchGivenUp, StopRequested, Submitted
from flargo.status.verdict import Cause
from flargo.terms import StartTimeouts
from tests.harness.objects import RUNNING, Object, pod, terminated_state, workflow

FLOOR = 60 * TOKENS_PER_SECOND
"""Commands in a minute. A read of a job's objects is two requests."""
CALM_MINUTES, MEASURED_MINUTES = 25, 5
PATIENT = StartTimeouts(pending=None, unclaimed=None, quota=None, pulling=None, starting=None)
"""Timeouts that end no job."""


def node(phase: str) -> dict[str, Any]:
    return {"phase": "Running", "nodes": {"n": {"type": "Pod", "phase": phase}}}


SCHEDULED = [{"type": "PodScheduled", "status": "True"}]
STATES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "unclaimed": ({}, None),
    "suspended again": ({"phase": "Running", "suspend": True}, None),
    "overlooked by Argo": ({"phase": "Running"}, None),
    "starting": (node("Pending"), {"conditions": SCHEDULED}),
    "image missing": (
        node("Pending"),
        {
            "main": {"waiting": {"reason": "ImagePullBackOff"}},
            "conditions": [{"type": "PodScheduled", "status": "True"}],
        },
    ),
    "running": (node("Running"), {"main": RUNNING, "phase": "Running"}),
    "exited, not completed": (node("Running"), {"main": terminated_state(0), "phase": "Succeeded"}),
    "failed, not completed": (node("Running"), {"main": terminated_state(1), "phase": "Failed"}),
    "wait container hangs": (node("Running"), {"main": terminated_state(1), "phase": "Running"}),
    "completed, program runs on": ({"phase": "Failed", "shutdown": "Terminate"}, {"main": RUNNING, "phase": "Running"}),
    "completed": ({"phase": "Failed"}, {"main": terminated_state(1), "phase": "Failed"}),
}
ENDS: dict[str, Callable[[], StopRequested | LaunchGivenUp | None]] = {
    "wanted": lambda: None,
    "aborted": lambda: StopRequested(Cause.ABORT),
    "given up": lambda: LaunchGivenUp("too late"),
}
ANSWERS = ["accepted", "refused", "lost"]


@dataclass
class CalmSite:
    """A site whose objects never change."""

    jobs: list[tuple[str, str]]
    answers: list[str]
    reconciler: Reconciler = field(default_factory=lambda: Reconciler(lambda _: False, 0.0, epoch="me", grace=3))
    now: float = 0.0
    objects: dict[str, tuple[Object, list[Object]]] = field(default_factory=dict)
    sent: list[tuple[float, ActionKind]] = field(default_factory=list)

    def start(self) -> None:
        """Launch all jobs, and show their objects."""
        for number, (state, _) in enumerate(self.jobs):
            name, (status, pod_status) = f"job-{number}", STATES[state]
            pods = [] if pod_status is None else [pod(name, uid=f"p-{number}", owner=f"w-{number}", **pod_status)]
            self.objects[name] = workflow(name, uid=f"w-{number}", **status), pods
            self.take(Admitted(name, "a1", PATIENT, 3))
            self.take(JobInput(name, "a1", Submitted()))
        self.take(Listed(Kind.WORKFLOW, tuple(item for item, _ in self.objects.values())))
        self.take(Listed(Kind.POD, tuple(item for _, pods in self.objects.values() for item in pods)))
        for number, (_, end) in enumerate(self.jobs):
            request = ENDS[end]()
            if request is not None:
                self.take(JobInput(f"job-{number}", "a1", request))

    def take(self, input_: SiteInput) -> None:
        """Handle an input, and the results of all commands."""
        pending = [self.reconciler.handle(input_, self.now)]
        while pending:
            for command in pending.pop().commands:
                self.sent.append((self.now, command.action.kind))
                answer = self._answer(command)
                if answer is not None:
                    pending.append(self.reconciler.handle(answer, self.now))

    def _answer(self, command: Command) -> SiteInput | None:
        answer = self.answers[int(command.name.removeprefix("job-")) % len(self.answers)]
        if answer == "lost":
            return None
        if answer == "refused":
            return CommandDone(command, ok=False)
        if command.action.kind is ActionKind.CONFIRM:
            item, pods = self.objects[command.name]
            return ObjectsRead(command, item, tuple(pods))
        if command.action.kind is ActionKind.LIST_EVENTS:
            return PodEventsRead(command, ())
        return CommandDone(command, ok=True)

    def pass_minutes(self, minutes: int) -> None:
        end = self.now + 60 * minutes
        while self.now < end:
            requeue_at = self.reconciler.next_requeue_at()
            self.now = end if requeue_at is None else min(end, max(self.now, requeue_at))
            self.take(TimePassed())


@settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STATES)), st.sampled_from(sorted(ENDS))), min_size=1, max_size=12),
    st.sampled_from([1, 10]),
    st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=3),
)
def test_requests_fall_to_a_floor(jobs: list[tuple[str, str]], times: int, answers: list[str]) -> None:
    site = CalmSite(jobs * times, answers)
    site.start()
    site.pass_minutes(CALM_MINUTES)
    site.sent.clear()
    site.pass_minutes(MEASURED_MINUTES)
    assert len(site.sent) <= FLOOR * MEASURED_MINUTES + 1, site.reconciler
    touches = [kind for _, kind in site.sent if kind is ActionKind.TOUCH]
    assert len(touches) <= MEASURED_MINUTES + 1
