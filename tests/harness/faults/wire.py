"""The fault matrix, where the fault is on the way between launcher and API server (tests/harness/wire.py)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from flargo.terms import Role
from tests.harness.cluster import Cluster, eventually
from tests.harness.scenarios import Scenarios, Together
from tests.harness.site import EXITS_ON_REQUEST, IGNORES_SIGTERM, SLEEPS, START_SECONDS, Job, Site, exits, read_token
from tests.harness.wire import Fault, Match, Wire

NOTICED = 20.0
"""Seconds within which what happens to a running job is known."""
ENDED = 60.0
"""Seconds within which a deaf program is gone, though flargo waits in vain for an answer of the API server once."""
HALF_OPEN = 60.0
"""Seconds within which a connection that says nothing any more is known to be dead."""
TOGETHER = 150.0
"""Seconds within which a job that is launched with all the others has ended."""
FOREVER = float("inf")
Object = dict[str, Any]

STEPS = {
    "reading the kit": Match("get", "secrets", "nvflare-startup-"),
    "writing the kit": Match("create", "secrets", "nvflare-startup-"),
    "the create": Match("create", "workflows"),
    "the credentials": Match("create", "secrets", "nvflare-cred-"),
    "the release": Match("patch", "workflows"),
}
"""The requests of a submit."""
WAYS = ("refused", "reply lost", "late", "429", "503", "API away from then on for 30 s")


def goes_away(wire: Wire, seconds: float) -> bool:
    """True, and the API is out of reach for a while; by other threads than the wire's own, which asks."""
    for delay, act in ((0.0, wire.stop_answering), (seconds, wire.resume_answering)):
        threading.Timer(delay, act).start()
    return True


def break_once(wire: Wire, way: str, step: Match) -> Fault:
    """Break one request."""
    match way:
        case "refused":
            return wire.refuse(step)
        case "reply lost":
            return wire.lose_reply(step)
        case "late":
            return wire.delay(step, 3)
        case "API away from then on for 30 s":
            return wire.refuse(lambda asked: step(asked) and goes_away(wire, 30))
        case _:
            return wire.answer_with_status(step, int(way), retry_after=2 if way == "429" else None)


@dataclass(frozen=True)
class Broken:
    """A job with one of its submit's requests broken."""

    job: Job
    fault: Fault
    launched: float


scenario = Scenarios()


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Together]:
    """The module's scenarios, running."""
    with Together(scenario, request, cluster) as running:
        yield running


@pytest.fixture(scope="module")
def broken(together: Together, cluster: Cluster) -> Iterator[dict[tuple[str, str], Broken]]:
    """A job for each way and step, beside the scenarios: a site each, for only its first job writes the kit."""
    del together
    made = {}
    with ExitStack() as stack:
        for way in WAYS:
            for step, match in STEPS.items():
                wire = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
                site = stack.enter_context(Site(cluster, wire=wire))
                fault = break_once(wire, way, match)
                made[way, step] = Broken(site.launch(exits(0)), fault, time.monotonic())
        yield made


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS)
def test_submit(broken: dict[tuple[str, str], Broken], way: str, step: str) -> None:
    it = broken[way, step]
    it.job.expect_end(Reason.SUCCEEDED, 0, TOGETHER)
    assert it.fault.hits == 1
    it.job.expect_nothing_left()
    assert it.job.workflow["status"]["phase"] == "Succeeded"
    assert len(it.job.pods) == 1


@scenario
def submit_refused_for_good(site: Site, wire: Wire) -> None:
    wire.answer_with_status(Match("create", "workflows"), 403, times=FOREVER)
    job = site.launch(SLEEPS)
    job.expect_end(Reason.LAUNCH_FAILED, 101, NOTICED)
    job.expect_nothing_left()
    assert job.workflows == []


@scenario
def credentials_refused_for_good(site: Site, wire: Wire) -> None:
    """The Workflow is there by then, suspended."""
    wire.answer_with_status(Match("create", "secrets", "nvflare-cred-"), 403, times=FOREVER)
    job = site.launch(SLEEPS)
    job.expect_end(Reason.LAUNCH_FAILED, 101, NOTICED)
    job.expect_nothing_left()
    assert job.workflows == []


@scenario.variants(credentials={"step": STEPS["the credentials"]}, release={"step": STEPS["the release"]})
def workflow_deleted_with_its_submit_before(site: Site, wire: Wire, cluster: Cluster, step: Match) -> None:
    """It could be launched; somebody did not want it. Without its Workflow its Secret must not stay either."""
    late = wire.delay(step, START_SECONDS)
    job = site.launch(SLEEPS)
    eventually(lambda: late.hits, START_SECONDS, "its Workflow is there")
    cluster.delete("workflows.argoproj.io", job.workflow)
    late.disarm()
    job.expect_end(Reason.WORKFLOW_DELETED, 104, NOTICED)
    job.expect_nothing_left()


@scenario.variants(**{step.replace(" ", "_"): {"step": match} for step, match in STEPS.items()})
def parent_killed_with_its_submit_at(site: Site, wire: Wire, cluster: Cluster, step: Match) -> None:
    """The request of that step takes effect, and the parent dies before it knows."""
    old = read_token(site.kubeconfig)
    reached = wire.lose_reply(replace(step, token=old))
    wire.refuse(lambda asked: reached.hits > 0 and asked.token == old, FOREVER)
    job = site.launch(SLEEPS)
    eventually(lambda: reached.hits, 20, "the step is reached")
    wire.cut_watches()
    wire.kubeconfig(site.kubeconfig, cluster.kubectl("create", "token", "flargo-launcher"))
    site.restart_parent()
    cluster.wait_until_clear(job.id, job.name, within=60)
    again = site.launch(exits(0), job_id=job.id)
    again.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    again.expect_nothing_left()


ENDINGS = {"shutdown": Match("patch", "workflows"), "kill": Match("delete", "pods")}
"""The requests by which a program that runs is ended."""
SILENCE = 20.0
"""Seconds: longer than flargo waits for an answer."""
TROUBLES: dict[str, Callable[[Wire, Match], Fault]] = {
    "503 three times": lambda wire, asked: wire.answer_with_status(asked, 503, times=3),
    "its reply lost": lambda wire, asked: wire.lose_reply(asked),
    "no answer": lambda wire, asked: wire.delay(asked, SILENCE),
}


@scenario.variants(
    **{
        f"{request} {trouble}": {"request": asked, "trouble": arm}
        for request, asked in ENDINGS.items()
        for trouble, arm in TROUBLES.items()
    }
)
def abort_that_meets(
    site: Site, wire: Wire, cluster: Cluster, request: Match, trouble: Callable[[Wire, Match], Fault]
) -> None:
    """What is asked is asked again until it shows; FLARE hears of the end when there is one, and not before."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    fault = trouble(wire, request)
    asked_for = fault.times
    job.abort()
    eventually(lambda: fault.hits, NOTICED, "the request is in trouble")
    assert job.launched_job.verdict is None
    assert cluster.processes(job.id)
    job.expect_end(Reason.ABORTED, 9, ENDED)
    assert cluster.processes(job.id) == []
    assert fault.hits == asked_for
    job.expect_nothing_left()


@scenario
def clock_of_the_parents_machine_jumps(site: Site, wire: Wire) -> None:
    """An hour ahead, then a day back; nothing of flargo reads that clock to decide."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": 30}).expect_stage(Stage.SHORTAGE)
    begun = time.monotonic()
    with jumped(3600):
        wire.cut_watches()
        time.sleep(5)
        with jumped(-86400):
            wire.cut_watches()
            time.sleep(5)
            assert (job.launched_job.verdict, waiting.launched_job.verdict) == (None, None)
            job.exit_program(3)
            job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    waiting.expect_end(Reason.SHORTAGE, 101, within=60)
    assert time.monotonic() - begun > 20
    for each in (job, waiting):
        each.expect_nothing_left()


@contextmanager
def jumped(seconds: float) -> Iterator[None]:
    """The time of day is another one for this process: all that asks for it, FLARE and libraries included."""
    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        yield


# --- watches


def is_pod(item: Object) -> bool:
    return item.get("kind") == "Pod"


def is_ended(item: Object) -> bool:
    """A pod whose main container has ended, or a Workflow that knows of it."""
    rows = (item.get("status") or {}).get("containerStatuses") or []
    main = any(row["name"] == "main" and "terminated" in (row.get("state") or {}) for row in rows)
    return main or (item.get("status") or {}).get("phase") in {"Succeeded", "Failed", "Error"}


@scenario
def watches_half_open(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    wire.freeze_watches()
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, HALF_OPEN + 5)
    job.expect_nothing_left()


@scenario
def workflows_end_lost(site: Site, wire: Wire) -> None:
    lost = wire.drop_events(lambda item: not is_pod(item) and is_ended(item))
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    eventually(lambda: lost.hits, 60, "the Workflow's end was lost")
    # Nothing tells that Argo is done, until it has had a minute to be.
    job.expect_nothing_left(within=100)


@scenario
def watches_cut_again_and_again(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3, after=1)
    for _ in range(5):
        wire.cut_watches()
        time.sleep(0.5)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.expect_nothing_left()


@scenario
def watches_too_old(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    wire.expire_watches(4)
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.expect_nothing_left()


@scenario
def pods_end_lost(site: Site, wire: Wire) -> None:
    """The Workflow's end is heard, and asks for the truth."""
    lost = wire.drop_events(lambda item: is_pod(item) and is_ended(item))
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert lost.hits
    job.expect_nothing_left()


@scenario
def pods_and_workflows_beginnings_lost(site: Site, wire: Wire) -> None:
    lost = wire.drop_events(lambda item: not is_ended(item))
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert lost.hits
    job.expect_nothing_left()


@scenario
def events_told_twice(site: Site, wire: Wire) -> None:
    twice = wire.repeat_events(lambda _: True)
    job = site.launch(exits(101))
    job.expect_end(Reason.PROGRAM_REPORTED, 101, START_SECONDS)
    assert twice.hits
    job.expect_nothing_left()


@scenario.variants(pods={"kept_back": "pods"}, workflows={"kept_back": "workflows"})
def argo_terminate_with_events_late_and_out_of_order(site: Site, wire: Wire, cluster: Cluster, kept_back: str) -> None:
    """143 is seen before the shutdown that caused it, or the shutdown with a program that runs on."""
    job = site.launch(SLEEPS).expect_running()
    held = wire.hold_events(lambda item: is_pod(item) == (kept_back == "pods"))
    cluster.argo("terminate", job.name)
    eventually(lambda: held.hits >= 2, 20, "events are held back")
    time.sleep(4)
    wire.release_events()
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICED)
    job.expect_nothing_left()


# --- the API server out of reach, and as it should not be


@scenario
def token_rotated(site: Site, wire: Wire, cluster: Cluster) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    old, new = read_token(site.kubeconfig), cluster.kubectl("create", "token", "flargo-launcher")
    refused = wire.answer_with_status(Match(token=old), 401, times=FOREVER)
    wire.kubeconfig(site.kubeconfig, new)
    wire.cut_watches()
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICED)
    job.expect_nothing_left()
    assert 1 <= refused.hits <= 4


@scenario
def everything_throttled_while_the_program_ends(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3, after=2)
    storm = wire.answer_with_status(Match(), 429, retry_after=1, times=FOREVER)
    wire.cut_watches()
    time.sleep(8)
    assert job.launched_job.verdict is None
    asked = storm.hits
    storm.disarm()
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.expect_nothing_left()
    assert asked < 40


@scenario
def cut_off_for_thirty_seconds(site: Site, wire: Wire) -> None:
    """Nothing is decided meanwhile, patience stands still, an abort returns, and a launch goes on after it."""
    running = site.launch(EXITS_ON_REQUEST).expect_running()
    aborted = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    ending = site.launch(EXITS_ON_REQUEST).expect_running()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": 20}).expect_stage(Stage.SHORTAGE)
    ending.exit_program(0, after=5)
    wire.stop_answering()
    time.sleep(1)
    launched = site.launch(exits(0))
    aborted.abort()
    time.sleep(29)
    jobs = (waiting, running, aborted, ending, launched)
    assert [job.launched_job.verdict for job in jobs] == [None] * len(jobs)
    wire.resume_answering()
    ending.expect_end(Reason.SUCCEEDED, 0, within=25)
    assert waiting.launched_job.verdict is None
    aborted.expect_end(Reason.ABORTED, 9, NOTICED)
    launched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    waiting.expect_end(Reason.SHORTAGE, 101, within=25)
    running.expect_stage(Stage.RUNNING).exit_program(3)
    running.expect_end(Reason.PROGRAM_FAILED, 1, NOTICED)
    for job in jobs:
        job.expect_nothing_left()


@scenario
def servers_launch_returns_when_the_api_is_lost(cluster: Cluster, wire: Wire) -> None:
    """FLARE tells a process that it does not know yet to abort, and this one may run by now."""
    with Site(cluster, wire=wire, role=Role.SERVER) as server:
        job = server.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        assert not job.is_launched(0.5)
        wire.stop_answering()
        assert job.is_launched(10)
        assert job.handle.poll() == 127
        wire.resume_answering()
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICED)
        job.expect_nothing_left()


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
