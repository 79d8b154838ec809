"""Carries out a plan, judges every job, and reports what was wrong."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from flargo.terms import Label, Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.embedded_cluster import EmbeddedCluster
from tests.harness.faults import exit_handlers
from tests.harness.wire import Wire
from tests.soak import gauge
from tests.soak.attempts import Attempts
from tests.soak.fault_injector import FaultInjector
from tests.soak.job import FollowedJob, Follower
from tests.soak.leftovers import leftovers
from tests.soak.observer import Observer
from tests.soak.oracle import Case, FaultPeriod, lateness
from tests.soak.parents import Parents, running_parents
from tests.soak.plan import FaultKind, Launch, Plan, PlannedFault, Round
from tests.soak.restarts import allowed_ends, as_understood, why_lost
from tests.soak.timeline import Timeline

HANDLER_SCRIPT = "sleep 1"
"""The exit handler of each Workflow, if the run may configure the Workflow controller."""
MAX_UNFINISHED = 10
"""The limit of jobs without a verdict: more than the machine runs at a time, so that some have to wait."""
MAX_CLEANUP_SECONDS = 150.0
"""The time after the last verdict within which nothing of a round may be left.

The worst case is a minute for Argo to finish a Workflow without reporting it, and the time to end that one."""
SLOW_RELEASE_SECONDS = 30.0
"""From this time between a verdict and the launcher's release of the job on, the job's timeline is printed."""


def soak(plan: Plan, cluster: Cluster) -> list[str]:
    """Carry out a plan, print what happens, and return all problems."""
    timeline = Timeline()
    timeline.say(f"seed {plan.seed}: {plan.jobs} jobs in {plan.seconds:g} s; repeat it with: {plan.command}")
    with ExitStack() as stack:
        if plan.controller:
            handler = exit_handlers.defaults(cluster, HANDLER_SCRIPT, onExit=exit_handlers.HANDLER_TEMPLATE)
            stack.enter_context(cluster.configure_argo(workflowDefaults=handler))
        wire = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
        engine = cluster.address if isinstance(cluster, EmbeddedCluster) else None
        parents = stack.enter_context(running_parents(cluster, wire.route, engine, timeline))
        observer = stack.enter_context(Observer(cluster, list(parents.federations.values())))
        run = _Run(cluster, wire, parents, observer, timeline)
        stack.callback(run.pool.shutdown)
        try:
            for index, each in enumerate(plan.rounds, 1):
                run.run_round(index, each)
            run.summarize()
        finally:
            run.problems += parents.close()
    for problem in run.problems:
        timeline.say(f"WRONG: {problem}")
    timeline.say(f"{len(run.problems)} wrong" + (f"; repeat it with: {plan.command}" if run.problems else ""))
    return run.problems


class _Run:
    """The state of one run, and the problems so far."""

    def __init__(self, cluster: Cluster, wire: Wire, parents: Parents, observer: Observer, timeline: Timeline) -> None:
        self.cluster, self.wire, self.parents = cluster, wire, parents
        self.observer, self.timeline = observer, timeline
        self.pool = ThreadPoolExecutor(4 * MAX_UNFINISHED)
        self.problems: list[str] = []
        self._slots = threading.Semaphore(MAX_UNFINISHED)
        self._follower = Follower(cluster, parents, observer, timeline)
        self._injector = FaultInjector(cluster, wire, parents, timeline)
        self._readings: defaultdict[str, list[gauge.Reading]] = defaultdict(list)
        """By process: a parent that restarts begins anew."""
        self._report_counts: Counter[str] = Counter()
        self._request_counts: Counter[str] = Counter()
        self._slowest_verdict = (0.0, "no job")
        self._attempt_counts: Counter[int] = Counter()
        self._loss_counts: Counter[str] = Counter()
        self._slowest_attempt = (0.0, "no job")
        self._slowest_launch = 0.0
        self._slowest_release = 0.0

    def run_round(self, index: int, plan: Round) -> None:
        """Launch the round's jobs, inject its faults, wait until no job is alive, and judge what happened."""
        started_at = time.time()
        self.timeline.say(f"round {index}: {len(plan.launches)} jobs, {len(plan.faults)} faults")
        injection = self.pool.submit(self._inject, plan.faults, started_at)
        jobs: list[FollowedJob] = []
        futures: list[Future[None]] = []
        for launch in plan.launches:
            time.sleep(max(0.0, started_at + launch.at - time.time()))
            self._slots.acquire()
            job = self._launch(launch)
            if job is None:
                self._slots.release()
                continue
            jobs.append(job)
            futures += [
                self.pool.submit(self._follower.intervene, job),
                self.pool.submit(self._follower.follow, job, self._slots.release),
            ]
        faults = injection.result()
        wait(futures)
        for future in futures:
            if future.exception() is not None:
                self.problems.append(f"the test itself failed: {future.exception()!r}")
        self._check_leftovers(index, jobs)
        for job in jobs:
            self._judge(job, faults)
        self._count_requests_and_forget()
        self._delete_workflows()
        for name, reading in self.parents.read_gauges().items():
            self.timeline.say(f"after round {index}, {name}: {reading}")
            # One that was started during the round has not met yet what a process keeps one of: its last error, say.
            if name in self._readings or not any(fault.kind is FaultKind.PARENT_RESTART for fault in plan.faults):
                self._readings[name].append(reading)

    def _inject(self, faults: Sequence[PlannedFault], started_at: float) -> list[FaultPeriod]:
        injections = []
        for fault in sorted(faults, key=lambda fault: fault.at):
            time.sleep(max(0.0, started_at + fault.at - time.time()))
            injections.append(self.pool.submit(self._injector.inject, fault))
        return [injection.result() for injection in injections]

    def _launch(self, launch: Launch) -> FollowedJob | None:
        started_at = time.time()
        try:
            job = self._follower.launch(launch)
        except Exception as error:  # noqa: BLE001  (a finding)
            self.problems.append(f"job {launch.number} ({launch}) could not be launched: {error!r}")
            return None
        if launch.role is Role.CLIENT:
            self._slowest_launch = max(self._slowest_launch, time.time() - started_at)
        return job

    def _check_leftovers(self, index: int, jobs: Sequence[FollowedJob]) -> None:
        """Wait until nothing of a round's jobs is left; what stays is a problem."""
        federations = self.parents.federations
        references = {role: [job.reference for job in jobs if job.launch.role is role] for role in federations}
        remains: list[str] = []

        def is_clear() -> bool:
            remains[:] = [f"{name}, followed by the launcher" for name in self.parents.followed_workflows()]
            remains.extend(f"record {name}" for name in self.parents.records())
            for role, federation in federations.items():
                remains.extend(leftovers(self.cluster, federation, references[role]))
            return not remains

        try:
            eventually(is_clear, MAX_CLEANUP_SECONDS, "nothing is left")
        except AssertionError:
            self.problems.append(f"left after round {index}: {remains}")

    def _judge(self, job: FollowedJob, faults: Sequence[FaultPeriod]) -> None:
        verdict, name, launch = job.verdict, job.reference.name, job.launch
        histories = job.attempts or self.observer.attempts(job.reference.id)
        events = self.observer.events(job.reference.id)
        if launch.role is Role.SERVER:
            faults = [each for each in faults if each.kind is not FaultKind.PARENT_RESTART]
        whole = Case(launch.program, job.launched_at, job.interventions, histories[-1], faults, job.verdict_at)
        attempts = Attempts(as_understood(whole), histories, 1 + launch.rejoins)
        problems = [*job.problems, *self._judge_log(job)]
        self._count_attempts(job, attempts)
        if job.lost_in is not None:
            problems += self._judge_loss(job, attempts)
        if verdict is not None:
            problems += attempts.problems()
            case = attempts.case_of(len(histories) - 1)
            allowed = allowed_ends(attempts, self.parents.restarts)
            report = verdict.report
            self._report_counts[_describe([report])] += 1
            if report not in allowed:
                expected = _describe(allowed) or "nothing explains the end"
                problems.append(f"FLARE heard {_describe([report])}; expected: {expected}")
            seconds, limit = lateness(case)
            if seconds > limit:
                problems.append(f"the verdict came {seconds:.1f} s after it could; the limit is {limit:.0f} s")
            self._slowest_verdict = max(self._slowest_verdict, (seconds, f"job {launch.number}, {launch}"))
            release = (job.released_at or job.verdict_at) - job.verdict_at
            self._slowest_release = max(self._slowest_release, release)
            if release > SLOW_RELEASE_SECONDS and not problems:
                title = f"slow: {name} was released {release:.1f} s after its verdict"
                self.timeline.print_job(title, job.interventions, events, name)
        if problems:
            self.problems.append(f"job {launch.number}, {name} ({launch}): {'; '.join(problems)}")
            self.timeline.print_job(f"WRONG: {self.problems[-1]}", job.interventions, events, name)

    def _judge_log(self, job: FollowedJob) -> list[str]:
        """Return a problem if the launchers have logged another number of verdicts than FLARE has heard."""
        logged = [each.report for each in self.parents.verdicts(job.reference)]
        if job.lost_in is not None:
            return [f"the log has {len(logged)} verdicts: {_describe(logged)}"] if len(logged) > 1 else []
        heard = [job.verdict.report] if job.verdict is not None else []
        return [f"the log has {_describe(logged) or 'no verdict'}; FLARE heard {_describe(heard)}"] * (logged != heard)

    def _judge_loss(self, job: FollowedJob, attempts: Attempts) -> list[str]:
        """Return a problem if a job should have been taken back."""
        reference, restart = job.reference, job.lost_in
        assert restart is not None, "the job was lost"
        verdicts = self.parents.verdicts(reference)
        why = why_lost(reference.id, attempts, restart, verdicts, is_launched=reference.is_launched)
        self._loss_counts[why or "wrongly"] += 1
        return [] if why else ["lost with its parent, whose next run should have taken it back"]

    def _count_attempts(self, job: FollowedJob, attempts: Attempts) -> None:
        self._attempt_counts[len(attempts.histories)] += 1
        for seconds in attempts.gaps():
            self._slowest_attempt = max(self._slowest_attempt, (seconds, f"job {job.launch.number}, {job.launch}"))

    def _count_requests_and_forget(self) -> None:
        """Keep only the numbers of a round."""
        requests, self.wire.requests[:] = list(self.wire.requests), []
        self._request_counts.update(f"{each.verb} {each.resource}" for each in requests)
        self.parents.forget()
        self.observer.forget()
        self.timeline.forget()

    def _delete_workflows(self) -> None:
        """Delete a round's Workflows, as their time to live would: the memory that a list of them takes is no leak."""
        for federation in self.parents.federations.values():
            self.cluster.delete_workflows(f"{Label.FEDERATION}={federation}")

    def summarize(self) -> None:
        """Look for growth, and print the run's figures."""
        for name, readings in self._readings.items():
            self.problems += [f"{name}: {problem}" for problem in gauge.growth(readings)]
        if self.observer.lost_streams:
            self.problems.append(f"the observer lost its watch of {self.observer.lost_streams}: the run proves nothing")
        say = self.timeline.say
        say(f"reports: {', '.join(f'{count} {name}' for name, count in self._report_counts.most_common())}")
        say(f"slowest verdict: {self._slowest_verdict[0]:.1f} s after it could be known ({self._slowest_verdict[1]})")
        say(f"jobs by their attempts: {dict(sorted(self._attempt_counts.items()))}")
        say(f"slowest next attempt: {self._slowest_attempt[0]:.1f} s after the loss ({self._slowest_attempt[1]})")
        say(f"slowest release after a verdict: {self._slowest_release:.1f} s")
        say(f"slowest launch_job of a client: {self._slowest_launch:.1f} s")
        total, jobs = self._request_counts.total(), max(1, self._report_counts.total())
        rows = ", ".join(f"{count} {name}" for name, count in self._request_counts.most_common())
        say(f"requests: {total}, {total / jobs:.1f} a job: {rows}")
        taken_back = ", ".join(map(str, self.parents.taken_back)) or "none"
        say(f"restarts of the client's parent: {len(self.parents.restarts)}; jobs taken back: {taken_back}")
        say(f"jobs lost with the parent: {dict(self._loss_counts)}")
        for name, readings in self._readings.items():
            for index, each in enumerate(readings, 1):
                say(f"reading {index} of {name}: {each}")


def _describe(reports: Collection[tuple[object, int]]) -> str:
    return " or ".join(sorted(f"{getattr(reason, 'name', reason)} {code}" for reason, code in reports))
