"""Launches the jobs of a plan, intervenes as planned, and follows each job to its end."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.embedded_cluster import ResponseError
from tests.harness.site import IGNORES_SIGTERM, SLEEPS
from tests.soak.observer import Observer, workflow_name
from tests.soak.oracle import DoneIntervention, JobHistory
from tests.soak.parent import HeardVerdict
from tests.soak.parents import JobLostError, JobReference, Parents
from tests.soak.plan import THROUGH_FLARE, Intervention, Launch, PlannedIntervention, Program, ProgramKind, StartPoint
from tests.soak.restarts import ParentRestart
from tests.soak.timeline import Timeline

MAX_VERDICT_SECONDS = 240.0
"""The time from a launch to its verdict in the worst case; without a verdict by then, the run goes on."""
MAX_EXTRA_SECONDS = 60.0
"""The time after its last intervention at which a job that would run for ever is aborted.

Argo may have replaced the job's pod, whose end the plan does not know of."""
MAX_RELEASE_SECONDS = 150.0
"""The time from a verdict to the launcher's release of the job in the worst case."""
REPEAT_SECONDS = 2.0
"""The time within which FLARE asks again for what a parent that was killed may not have done."""
MAX_START_SECONDS = 90.0
"""How long an intervention waits for what it needs: the program's start, its pod, or its Workflow."""
_NEEDS_POD = frozenset({Intervention.DELETE_POD, Intervention.EVICT_POD})


@dataclass
class FollowedJob:
    """A job that was launched, and what is known about it."""

    launch: Launch
    reference: JobReference
    launched_at: float
    interventions: list[DoneIntervention] = field(default_factory=list)
    verdict: HeardVerdict | None = None
    verdict_at: float = 0.0
    released_at: float | None = None
    lost_in: ParentRestart | None = None
    """The restart of its parent after which it was not taken back. It gets no verdict then."""
    attempts: Sequence[JobHistory] | None = None
    """What had happened to its attempts before a person started it again; None if nobody did."""
    problems: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """True once FLARE has heard its verdict, or never will."""
        return bool(self.verdict_at) or self.lost_in is not None


def program_code(program: Program) -> str:
    """Return the Python code of a program."""
    pause = f"import os, time; time.sleep({program.after})\n"
    match program.kind:
        case ProgramKind.EXITS:
            return f"{pause}os._exit({program.number})\n"
        case ProgramKind.SIGNALS:
            return f"{pause}os.kill(os.getpid(), {program.number})\n"
        case ProgramKind.SLEEPS:
            return SLEEPS
        case ProgramKind.IGNORES_SIGTERM:
            return IGNORES_SIGTERM + SLEEPS
        case ProgramKind.HANDLES_SIGTERM:
            return f"import os, signal\nsignal.signal(15, lambda *_: os._exit({program.number}))\n{SLEEPS}"
        case ProgramKind.EXCEEDS_MEMORY:
            return f"{pause}held = [b'x' * 2**20 for _ in range(1000)]\n"


class Follower:
    """Launches jobs, intervenes as the plan says, and records what FLARE hears."""

    def __init__(self, cluster: Cluster, parents: Parents, observer: Observer, timeline: Timeline) -> None:
        self._cluster, self._parents, self._observer, self._say = cluster, parents, observer, timeline.say

    def launch(self, launch: Launch) -> FollowedJob:
        """Launch a job, and return as soon as the launcher tracks it."""
        spec: dict[str, Any] = {"memory": "100Mi"} if launch.program.kind is ProgramKind.EXCEEDS_MEMORY else {}
        if launch.rejoins:
            spec["argo"] = {"rejoin": launch.rejoins}
        launched_at = time.time()
        reference = self._parents.launch(launch.role, program_code(launch.program), spec)
        what = "launched" if reference.is_launched else "was being launched when its parent was killed,"
        self._say(f"job {launch.number} {what} as {reference.name}: {launch}")
        return FollowedJob(launch, reference, launched_at)

    def follow(self, job: FollowedJob, on_verdict: Callable[[], None]) -> None:
        """Wait for the verdict, call ``on_verdict``, and wait until the launcher has released the job."""
        number, reference, parents = job.launch.number, job.reference, self._parents
        try:
            verdict = parents.wait_for_verdict(reference, MAX_VERDICT_SECONDS)
            job.verdict_at = time.time()
        except JobLostError as lost:
            self._say(f"job {number}: not taken back, {reference.name}")
            job.lost_in = lost.restart
            return
        finally:
            on_verdict()
        if verdict is None:
            stage = parents.stage(reference)
            job.problems.append(f"no verdict after {MAX_VERDICT_SECONDS} s; the launcher's stage is {stage}")
            parents.abort(reference)
            return
        job.verdict = verdict
        reason, code = verdict.report
        self._say(f"job {number}: {reason.name} {code} of {reference.name}: {verdict.detail}")
        try:
            parents.wait_until_released(reference, MAX_RELEASE_SECONDS)
            job.released_at = time.time()
            self._say(f"job {number}: released {job.released_at - job.verdict_at:.1f} s later, {reference.name}")
        except AssertionError as error:
            job.problems.append(str(error))
        if code != verdict.return_code:
            job.problems.append(f"poll returns {verdict.return_code}, the verdict's code is {code}")

    def intervene(self, job: FollowedJob) -> None:
        """Do to a job what the plan says; abort it if it would run for ever after that."""
        order = list(StartPoint)
        interventions = sorted(job.launch.interventions, key=lambda each: (order.index(each.since), each.at))
        try:
            for planned in interventions:
                if planned.since is not StartPoint.RELEASE and self._wait_until_due(job, planned):
                    job.interventions.append(self._do(job, planned.intervention))
            self._insist(job)
            runs_for_ever = job.launch.program.own_end is None
            if runs_for_ever and not self._parents.wait_for_verdict(job.reference, MAX_EXTRA_SECONDS):
                self._say(f"job {job.launch.number}: still runs, {job.reference.name}")
                job.interventions.append(replace(self._do(job, Intervention.ABORT), is_planned=False))
        except JobLostError:
            return
        self._start_again(job, [each for each in interventions if each.since is StartPoint.RELEASE])

    def _insist(self, job: FollowedJob) -> None:
        """Ask again for what FLARE wants, if the parent has restarted since, as FLARE does with each heartbeat."""
        wanted = [each for each in job.interventions if each.intervention in THROUGH_FLARE]
        while wanted and not self._parents.wait_for_verdict(job.reference, REPEAT_SECONDS):
            last = wanted[-1]
            if time.time() > last.finished_at + MAX_EXTRA_SECONDS:
                return
            if any(each.killed_at > last.finished_at for each in self._parents.restarts):
                wanted.append(self._do(job, last.intervention))
                job.interventions.append(wanted[-1])

    def _start_again(self, job: FollowedJob, interventions: Sequence[PlannedIntervention]) -> None:
        """Retry or resubmit a job that the launcher has released. Nothing of it may be left at the end of the round."""
        for planned in interventions:
            deadline = time.time() + MAX_VERDICT_SECONDS + MAX_RELEASE_SECONDS
            while job.released_at is None and not job.problems and job.lost_in is None and time.time() < deadline:
                time.sleep(0.2)
            time.sleep(planned.at)
            job.attempts = self._observer.attempts(job.reference.id)
            job.interventions.append(self._do(job, planned.intervention))

    def _wait_until_due(self, job: FollowedJob, planned: PlannedIntervention) -> bool:
        """Wait for an intervention's time; return whether it still makes sense.

        To end a job through FLARE always makes sense, even after its end.
        """
        job_id, deadline = job.reference.id, time.time() + MAX_START_SECONDS
        start = job.launched_at
        if planned.since is not StartPoint.LAUNCH:
            count = 2 if planned.since is StartPoint.REJOIN else 1
            while not self._observer.wait(job_id, lambda attempts: _has_started(attempts, count), 0.5):
                if job.is_over or time.time() > deadline:
                    break
            start = time.time()
        time.sleep(max(0.0, start + planned.at - time.time()))
        if planned.intervention in THROUGH_FLARE:
            return True

        def has_target(attempts: Sequence[JobHistory]) -> bool:
            if planned.intervention in _NEEDS_POD:
                return attempts[-1].pod_count > 0
            return attempts[-1].workflow_at is not None

        while not self._observer.wait(job_id, has_target, 0.5):
            if job.is_over or time.time() > deadline:
                return False
        return not job.is_over

    def _do(self, job: FollowedJob, intervention: Intervention) -> DoneIntervention:
        number, target = job.launch.number, self._observer.attempts(job.reference.id)[-1].name
        name = target or job.reference.name
        self._say(f"job {number}: {intervention.value}, {name}")
        started_at, error = time.time(), ""
        try:
            self._perform(job.reference, intervention, name)
        except (AssertionError, ValueError, ResponseError) as refusal:
            error = str(refusal) or "refused"
            self._say(f"job {number}: {intervention.value}: {error}")
            if intervention in THROUGH_FLARE:
                job.problems.append(f"{intervention.value}: {error}")
        is_for_job = intervention in THROUGH_FLARE
        return DoneIntervention(intervention, started_at, time.time(), error, "" if is_for_job else name)

    def _perform(self, job: JobReference, intervention: Intervention, workflow: str) -> None:
        match intervention:
            case Intervention.ABORT:
                self._parents.abort(job)
            case Intervention.CLEANUP:
                self._parents.cleanup(job)
            case Intervention.TERMINATE | Intervention.SUSPEND | Intervention.RESUBMIT | Intervention.RETRY:
                self._cluster.argo(intervention.value.removeprefix("argo "), workflow)
            case Intervention.DELETE_WORKFLOW:
                self._cluster.delete("workflows.argoproj.io", {"metadata": {"name": workflow}})
            case Intervention.DELETE_POD | Intervention.EVICT_POD:
                pods = [pod for pod in self._cluster.pods(job.id) if workflow_name(pod) == workflow]
                assert pods, "its pod is gone"
                if intervention is Intervention.EVICT_POD:
                    self._cluster.evict(pods[0])
                else:
                    self._cluster.delete("pod", pods[0])


def _has_started(attempts: Sequence[JobHistory], count: int) -> bool:
    """Return whether a program has started in this attempt, or in a later one: a drain may come before the start."""
    return any(attempt.started_count > 0 for attempt in attempts[count - 1 :])
