"""A job of a run: launched, treated as the plan says, and followed to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from flargo.status.verdict import Verdict
from tests.harness.cluster import Cluster
from tests.harness.site import IGNORES_SIGTERM, SLEEPS
from tests.soak.observer import Witness
from tests.soak.oracle import Done
from tests.soak.parents import Launched, Parents
from tests.soak.plan import Act, Deed, Kind, Launch, Program, Since
from tests.soak.timeline import Timeline

MOST = 240.0
"""Seconds from a launch to its verdict, whatever happens: then the run goes on without it."""
UNENDED = 60.0
"""Seconds after its last deed after which a job that would go on for ever is ended: Argo made another pod for it."""
CLEARS = 150.0
"""Seconds from a verdict to when the launcher lets go, at the worst."""
_FLARES = frozenset({Deed.ABORT, Deed.CLEANUP})
_PODS = frozenset({Deed.DELETE_POD, Deed.EVICT_POD})


@dataclass
class Running:
    """A job that was launched, and what has been noted of it."""

    launch: Launch
    job: Launched
    launched: float
    deeds: list[Done] = field(default_factory=list)
    verdict: Verdict | None = None
    ruled: float = 0.0
    cleared: float | None = None
    problems: list[str] = field(default_factory=list)


def code_of(program: Program) -> str:
    """Python that does what a program does."""
    pause = f"import os, time; time.sleep({program.after})\n"
    match program.kind:
        case Kind.EXITS:
            return f"{pause}os._exit({program.number})\n"
        case Kind.SIGNALS:
            return f"{pause}os.kill(os.getpid(), {program.number})\n"
        case Kind.SLEEPS:
            return SLEEPS
        case Kind.DEAF:
            return IGNORES_SIGTERM + SLEEPS
        case Kind.HEEDS:
            return f"import os, signal\nsignal.signal(15, lambda *_: os._exit({program.number}))\n{SLEEPS}"
        case Kind.DEVOURS:
            return f"{pause}held = [b'x' * 2**20 for _ in range(1000)]\n"


class Follower:
    """Does to jobs what the plan says, and notes what FLARE hears."""

    def __init__(self, cluster: Cluster, parents: Parents, witness: Witness, timeline: Timeline) -> None:
        self._world, self._parents, self._witness, self._say = cluster, parents, witness, timeline.say

    def launch(self, launch: Launch) -> Running:
        """Launch a job; returns when the launcher knows it."""
        spec = {"memory": "100Mi"} if launch.program.kind is Kind.DEVOURS else {}
        launched = time.time()
        job = Launched(*self._parents.launch(launch.role, code_of(launch.program), spec))
        self._say(f"job {launch.number} launched as {job.name}: {launch}")
        return Running(launch, job, launched)

    def follow(self, running: Running, ruled: Callable[[], None]) -> None:
        """Wait for the verdict, call ``ruled``, and wait until the launcher has let go of the job."""
        number, job, parents = running.launch.number, running.job, self._parents
        try:
            heard = parents.ruled(job.id, MOST)
            running.ruled = time.time()
        finally:
            ruled()
        if not heard:
            running.problems.append(f"no verdict after {MOST} s; the launcher has seen {parents.stage(job.id)}")
            parents.abort(job.id)
            return
        verdict = parents.verdict(job.id)
        assert verdict is not None
        running.verdict = verdict
        self._say(f"job {number}: {verdict.reason.name} {verdict.code} of {job.name}: {verdict.detail}")
        code = parents.code(job.id)
        try:
            parents.cleared(job.id, CLEARS)
            running.cleared = time.time()
            self._say(f"job {number}: cleared {running.cleared - running.ruled:.1f} s later, {job.name}")
        except AssertionError as problem:
            running.problems.append(str(problem))
        if code != verdict.code:
            running.problems.append(f"poll says {code}, the verdict {verdict.code}")

    def act(self, running: Running) -> None:
        """Do what the plan does to a job."""
        for act in sorted(running.launch.acts, key=lambda act: (act.since is Since.RUNNING, act.at)):
            if self._is_due(running, act):
                running.deeds.append(self._do(running, act.deed))
        if running.launch.program.own_end is None and not self._parents.ruled(running.job.id, UNENDED):
            self._say(f"job {running.launch.number}: goes on, {running.job.name}")
            running.deeds.append(replace(self._do(running, Deed.ABORT), planned=False))

    def _is_due(self, running: Running, act: Act) -> bool:
        """Wait until it is; whether it still makes sense. To end through FLARE what has ended always does."""
        job_id, waits = running.job.id, time.time() + 90.0
        if act.since is Since.RUNNING:
            while not self._witness.wait(job_id, lambda seen: seen.started > 0, 0.5):
                if running.ruled or time.time() > waits:
                    break
            begins = time.time()
        else:
            begins = running.launched
        time.sleep(max(0.0, begins + act.at - time.time()))
        if act.deed in _FLARES:
            return True
        while not self._witness.wait(
            job_id, lambda seen: seen.workflow is not None if act.deed not in _PODS else seen.pods > 0, 0.5
        ):
            if running.ruled or time.time() > waits:
                return False
        return not running.ruled

    def _do(self, running: Running, deed: Deed) -> Done:
        number, name = running.launch.number, running.job.name
        self._say(f"job {number}: {deed.value}, {name}")
        begun, problem = time.time(), ""
        try:
            self._deed(running.job, deed)
        except (AssertionError, ValueError) as refused:
            problem = str(refused) or "refused"
            self._say(f"job {number}: {deed.value}: {problem}")
            if deed in _FLARES:
                running.problems.append(f"{deed.value}: {problem}")
        return Done(deed, begun, time.time(), problem)

    def _deed(self, job: Launched, deed: Deed) -> None:
        match deed:
            case Deed.ABORT:
                self._parents.abort(job.id)
            case Deed.CLEANUP:
                self._parents.cleanup(job.id)
            case Deed.TERMINATE:
                self._world.argo("terminate", job.name)
            case Deed.DELETE_WORKFLOW:
                self._world.kubectl("delete", "workflows.argoproj.io", job.name, "--wait=false")
            case Deed.DELETE_POD | Deed.EVICT_POD:
                pods = self._world.pods(job.id)
                assert pods, "its pod is gone"
                if deed is Deed.EVICT_POD:
                    self._world.evict(pods[0])
                else:
                    self._world.delete("pod", pods[0])
