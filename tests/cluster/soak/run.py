"""Carries a plan out, and says what was wrong."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from flargo.terms import Role
from tests.cluster.site import Site
from tests.cluster.soak import gauge
from tests.cluster.soak.job import STUDIES, Follower, Running
from tests.cluster.soak.plan import Fault, Launch, Plan, Round
from tests.cluster.soak.timeline import Timeline
from tests.cluster.soak.troubles import Troubles
from tests.cluster.soak.truth import Case, Disturbance, lateness, may_hear
from tests.cluster.soak.witness import Witness
from tests.cluster.wire import Wire
from tests.cluster.world import World, eventually

AT_ONCE = 10
"""Jobs without a verdict: more than the machine takes at a time, so that some wait."""
LINGERS = 150.0
"""Seconds after the last verdict within which nothing of a round may be left, at the worst: a minute for Argo to finish
what it does not say it has finished, and what it takes to end that."""

SLOW = 30.0
"""Seconds from a verdict to the launcher's letting go that are worth a look."""


def soak(plan: Plan, world: World) -> list[str]:
    """Carry a plan out, print what happens, and return all that was wrong."""
    before = Counter(thread.name for thread in threading.enumerate())
    timeline = Timeline()
    timeline.say(f"seed {plan.seed}: {plan.jobs} jobs in {plan.seconds:g} s; again by: {plan.command}")
    with ExitStack() as stack:
        stack.enter_context(timeline.of_the_log("flargo"))
        wire = stack.enter_context(Wire(world.place.launcher_kubeconfig))
        sites = {role: stack.enter_context(Site(world, wire=wire, role=role, studies=STUDIES)) for role in Role}
        witness = stack.enter_context(Witness(world, [site.federation for site in sites.values()]))
        run = _Run(world, wire, sites, witness, timeline)
        stack.callback(run.pool.shutdown)
        for index, each in enumerate(plan.rounds, 1):
            run.round(index, each)
        run.summary()
    wrong = [*run.wrong, *_threads_left(before)]
    for found in wrong:
        timeline.say(f"WRONG: {found}")
    timeline.say(f"{len(wrong)} wrong" + (f"; again by: {plan.command}" if wrong else ""))
    return wrong


def _threads_left(before: Counter[str]) -> list[str]:
    def more() -> Counter[str]:
        return Counter(thread.name for thread in threading.enumerate()) - before

    try:
        eventually(lambda: not more(), 20, "all threads have ended")
    except AssertionError:
        return [f"threads left: {dict(more())}"]
    return []


class _Run:
    """What goes on, and what was found."""

    def __init__(self, world: World, wire: Wire, sites: dict[Role, Site], witness: Witness, timeline: Timeline) -> None:
        self.world, self.wire, self.sites, self.witness, self.timeline = world, wire, sites, witness, timeline
        self.pool = ThreadPoolExecutor(4 * AT_ONCE, thread_name_prefix=gauge.OWN)
        self.wrong: list[str] = []
        self._room = threading.Semaphore(AT_ONCE)
        self._follower = Follower(world, witness, timeline)
        self._troubles = Troubles(world, wire, timeline)
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
        jobs.clear()
        futures.clear()
        self._count()
        self._readings.append(gauge.read())
        self.timeline.say(f"after round {index}: {self._readings[-1]}")

    def _break(self, faults: Sequence[Fault], begun: float) -> list[Disturbance]:
        happening = []
        for fault in sorted(faults, key=lambda fault: fault.at):
            time.sleep(max(0.0, begun + fault.at - time.time()))
            happening.append(self.pool.submit(self._troubles.make, fault))
        return [future.result() for future in happening]

    def _launch(self, launch: Launch) -> Running | None:
        site = self.sites[launch.role]
        begun = time.time()
        try:
            running = self._follower.launch(site, launch)
        except Exception as problem:  # noqa: BLE001  (a finding)
            self.wrong.append(f"job {launch.number} ({launch}) could not be launched: {problem!r}")
            return None
        if launch.role is Role.CLIENT:
            self._slowest_launch = max(self._slowest_launch, time.time() - begun)
        return running

    def _look(self, index: int, jobs: Sequence[Running]) -> None:
        """Whether nothing is left of a round's jobs."""
        of_site = {site: [it.job for it in jobs if it.job.site is site] for site in self.sites.values()}
        remains: list[str] = []

        def is_clear() -> bool:
            remains[:] = [each for site, its in of_site.items() for each in gauge.left(self.world, site, its)]
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
        running.forget()

    def _count(self) -> None:
        """Keep only numbers: what this test remembers must not look like a leak."""
        asked, self.wire.asked[:] = list(self.wire.asked), []
        self._asked.update(f"{each.verb} {each.resource}" for each in asked)
        self.witness.forget()
        self.timeline.forget()

    def summary(self) -> None:
        """Print figures, and look for growth."""
        self.wrong += gauge.growth(self._readings, len(self.sites))
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
