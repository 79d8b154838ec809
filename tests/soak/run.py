"""Carries a plan out, and says what was wrong."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from flargo.terms import Label, Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.wire import Wire
from tests.soak import gauge
from tests.soak.job import Follower, Running
from tests.soak.leftovers import left
from tests.soak.observer import Witness
from tests.soak.oracle import Case, Disturbance, lateness, may_hear
from tests.soak.parents import Parents, apart
from tests.soak.plan import Fault, Launch, Plan, Round
from tests.soak.timeline import Timeline
from tests.soak.troubles import Troubles

AT_ONCE = 10
"""Jobs without a verdict: more than the machine takes at a time, so that some wait."""
LINGERS = 150.0
"""Seconds after the last verdict within which nothing of a round may be left, at the worst: a minute for Argo to finish
what it does not say it has finished, and what it takes to end that."""

SLOW = 30.0
"""Seconds from a verdict to the launcher's letting go that are worth a look."""


def soak(plan: Plan, cluster: Cluster) -> list[str]:
    """Carry a plan out, print what happens, and return all that was wrong."""
    timeline = Timeline()
    timeline.say(f"seed {plan.seed}: {plan.jobs} jobs in {plan.seconds:g} s; again by: {plan.command}")
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
        parents = stack.enter_context(apart(wire.route, timeline))
        witness = stack.enter_context(Witness(cluster, list(parents.federations().values())))
        run = _Run(cluster, wire, parents, witness, timeline)
        stack.callback(run.pool.shutdown)
        try:
            for index, each in enumerate(plan.rounds, 1):
                run.round(index, each)
            run.summary()
        finally:
            run.wrong += parents.close()
    for found in run.wrong:
        timeline.say(f"WRONG: {found}")
    timeline.say(f"{len(run.wrong)} wrong" + (f"; again by: {plan.command}" if run.wrong else ""))
    return run.wrong


class _Run:
    """What goes on, and what was found."""

    def __init__(self, cluster: Cluster, wire: Wire, parents: Parents, witness: Witness, timeline: Timeline) -> None:
        self.cluster, self.wire, self.parents, self.witness, self.timeline = cluster, wire, parents, witness, timeline
        self.pool = ThreadPoolExecutor(4 * AT_ONCE)
        self.wrong: list[str] = []
        self._room = threading.Semaphore(AT_ONCE)
        self._follower = Follower(cluster, parents, witness, timeline)
        self._troubles = Troubles(cluster, wire, timeline)
        self._readings: list[gauge.Reading] = []
        self._heard: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._slowest = (0.0, "no job")
        self._slowest_launch = 0.0
        self._slowest_to_clear = 0.0

    def round(self, index: int, it: Round) -> None:
        """Launch, break, wait until no job is alive, and look at what there is."""
        begun = time.time()
        self.timeline.say(f"round {index}: {len(it.launches)} jobs, {len(it.faults)} faults")
        breaking = self.pool.submit(self._break, it.faults, begun)
        jobs: list[Running] = []
        futures: list[Future[None]] = []
        for launch in it.launches:
            time.sleep(max(0.0, begun + launch.at - time.time()))
            self._room.acquire()
            running = self._launch(launch)
            if running is None:
                self._room.release()
                continue
            jobs.append(running)
            futures += [
                self.pool.submit(self._follower.act, running),
                self.pool.submit(self._follower.follow, running, self._room.release),
            ]
        disturbed = breaking.result()
        wait(futures)
        for future in futures:
            if future.exception() is not None:
                self.wrong.append(f"the test itself broke: {future.exception()!r}")
        self._look(index, jobs)
        for running in jobs:
            self._judge(running, disturbed)
        self._count()
        self._retire()
        self._readings.append(self.parents.reading())
        self.timeline.say(f"after round {index}: {self._readings[-1]}")

    def _break(self, faults: Sequence[Fault], begun: float) -> list[Disturbance]:
        happening = []
        for fault in sorted(faults, key=lambda fault: fault.at):
            time.sleep(max(0.0, begun + fault.at - time.time()))
            happening.append(self.pool.submit(self._troubles.make, fault))
        return [future.result() for future in happening]

    def _launch(self, launch: Launch) -> Running | None:
        begun = time.time()
        try:
            running = self._follower.launch(launch)
        except Exception as problem:  # noqa: BLE001  (a finding)
            self.wrong.append(f"job {launch.number} ({launch}) could not be launched: {problem!r}")
            return None
        if launch.role is Role.CLIENT:
            self._slowest_launch = max(self._slowest_launch, time.time() - begun)
        return running

    def _look(self, index: int, jobs: Sequence[Running]) -> None:
        """Whether nothing is left of a round's jobs."""
        federations = self.parents.federations()
        launched = {role: [it.job for it in jobs if it.launch.role is role] for role in federations}
        remains: list[str] = []

        def is_clear() -> bool:
            remains[:] = [f"{name}, followed by the launcher" for name in self.parents.followed()]
            for role, federation in federations.items():
                remains.extend(left(self.cluster, federation, launched[role]))
            return not remains

        try:
            eventually(is_clear, LINGERS, "nothing is left")
        except AssertionError:
            self.wrong.append(f"left after round {index}: {remains}")

    def _judge(self, running: Running, disturbed: Sequence[Disturbance]) -> None:
        verdict, name = running.verdict, running.job.name
        seen = self.witness.seen(running.job.id)
        case = Case(running.launch.program, running.launched, running.deeds, seen, disturbed, running.ruled)
        problems = list(running.problems)
        if verdict is not None:
            heard, right = (verdict.reason, verdict.code), may_hear(case)
            self._heard[f"{verdict.reason.name} {verdict.code}"] += 1
            if heard not in right:
                problems.append(f"FLARE heard {_words([heard])}; right: {_words(right) or 'nothing explains the end'}")
            late, allowed = lateness(case)
            if late > allowed:
                problems.append(f"the verdict came {late:.1f} s after it could, {allowed:.0f} s are allowed")
            self._slowest = max(self._slowest, (late, f"job {running.launch.number}, {running.launch}"))
            clearing = (running.cleared or running.ruled) - running.ruled
            self._slowest_to_clear = max(self._slowest_to_clear, clearing)
            if clearing > SLOW and not problems:
                told = self.witness.told(running.job.id)
                self.timeline.evidence(f"slow: {name} was cleared {clearing:.1f} s later", running.deeds, told, name)
        if problems:
            self.wrong.append(f"job {running.launch.number}, {name} ({running.launch}): {'; '.join(problems)}")
            self.timeline.evidence(f"WRONG: {self.wrong[-1]}", running.deeds, self.witness.told(running.job.id), name)

    def _count(self) -> None:
        """Keep only numbers of a round."""
        asked, self.wire.requests[:] = list(self.wire.requests), []
        self._asked.update(f"{each.verb} {each.resource}" for each in asked)
        self.parents.forget()
        self.witness.forget()
        self.timeline.forget()

    def _retire(self) -> None:
        """Delete a round's Workflows, as their time to live would: what a list of them takes is no leak."""
        for federation in self.parents.federations().values():
            ours = f"--selector={Label.FEDERATION}={federation}"
            self.cluster.kubectl("delete", "workflows.argoproj.io", ours, "--wait", "--timeout=60s")

    def summary(self) -> None:
        """Print figures, and look for growth."""
        self.wrong += gauge.growth(self._readings, len(Role))
        if self.witness.broken:
            self.wrong.append(f"the witness lost sight of {self.witness.broken}: the run proves nothing")
        say = self.timeline.say
        say(f"heard: {', '.join(f'{count} {name}' for name, count in self._heard.most_common())}")
        say(f"slowest verdict: {self._slowest[0]:.1f} s after it could be known ({self._slowest[1]})")
        say(f"slowest to be cleared after its verdict: {self._slowest_to_clear:.1f} s")
        say(f"slowest launch_job of a client: {self._slowest_launch:.1f} s")
        total, jobs = self._asked.total(), max(1, self._heard.total())
        rows = ", ".join(f"{count} {name}" for name, count in self._asked.most_common())
        say(f"requests: {total}, {total / jobs:.1f} a job: {rows}")
        for index, each in enumerate(self._readings, 1):
            say(f"after round {index}: {each}")


def _words(heard: Sequence[tuple[object, int]] | frozenset[tuple[object, int]]) -> str:
    return " or ".join(sorted(f"{getattr(reason, 'name', reason)} {code}" for reason, code in heard))
