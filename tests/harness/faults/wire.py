"""The fault matrix, where the fault is on the way between the launcher and the API server (tests/harness/wire.py)."""

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

NOTICE_SECONDS = 20.0
"""The limit within which FLARE hears of what happens to a running job."""
KILL_SECONDS = 60.0
"""The limit within which a program that ignores SIGTERM is dead, though one request of flargo's gets no answer."""
HALF_OPEN_SECONDS = 60.0
"""The limit within which a silent connection is known to be dead."""
SUBMIT_SECONDS = 150.0
"""The limit within which a job that is launched together with all others has ended."""
FOREVER = float("inf")
Object = dict[str, Any]

STEPS = {
    "reading the kit": Match("get", "secrets", "nvflare-startup-"),
    "writing the kit": Match("create", "secrets", "nvflare-startup-"),
    "the create": Match("create", "workflows"),
    "the credentials": Match("create", "secrets", "nvflare-cred-"),
    "the release": Match("patch", "workflows"),
}
"""The requests of a submit, by the names of their rows."""
FAULTS = ("refused", "reply lost", "late", "429", "503", "API away from then on for 30 s")


def cut_off(wire: Wire, seconds: float) -> bool:
    """Make the API unreachable for some seconds, and return True.

    Timers do it, since the wire's own thread calls this function and must not wait for itself.
    """
    for delay, act in ((0.0, wire.stop_answering), (seconds, wire.resume_answering)):
        threading.Timer(delay, act).start()
    return True


def break_once(wire: Wire, fault: str, step: Match) -> Fault:
    """Break one request of a submit by a fault of FAULTS."""
    match fault:
        case "refused":
            return wire.refuse(step)
        case "reply lost":
            return wire.lose_reply(step)
        case "late":
            return wire.delay(step, 3)
        case "API away from then on for 30 s":
            return wire.refuse(lambda request: step(request) and cut_off(wire, 30))
        case _:
            return wire.answer_with_status(step, int(fault), retry_after=2 if fault == "429" else None)


@dataclass(frozen=True)
class BrokenSubmit:
    """A job whose submit has one broken request."""

    job: Job
    fault: Fault
    launched_at: float


scenario = Scenarios()


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Together]:
    """The module's running scenarios."""
    with Together(scenario, request, cluster) as running:
        yield running


@pytest.fixture(scope="module")
def broken_submits(together: Together, cluster: Cluster) -> Iterator[dict[tuple[str, str], BrokenSubmit]]:
    """Launch a job for each fault and step, beside the scenarios.

    Each has a site of its own, since only a site's first job writes the kit.
    """
    del together
    submits = {}
    with ExitStack() as stack:
        for name in FAULTS:
            for step, match in STEPS.items():
                wire = stack.enter_context(Wire(cluster.target.launcher_kubeconfig))
                site = stack.enter_context(Site(cluster, wire=wire))
                fault = break_once(wire, name, match)
                submits[name, step] = BrokenSubmit(site.launch(exits(0)), fault, time.monotonic())
        yield submits


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
def test_submit(broken_submits: dict[tuple[str, str], BrokenSubmit], fault: str, step: str) -> None:
    submit = broken_submits[fault, step]
    submit.job.expect_end(Reason.SUCCEEDED, 0, SUBMIT_SECONDS)
    assert submit.fault.hits == 1
    submit.job.expect_nothing_left()
    assert submit.job.workflow["status"]["phase"] == "Succeeded"
    assert len(submit.job.pods) == 1


@scenario
def submit_refused_for_good(site: Site, wire: Wire) -> None:
    wire.answer_with_status(Match("create", "workflows"), 403, times=FOREVER)
    job = site.launch(SLEEPS)
    job.expect_end(Reason.LAUNCH_FAILED, 101, START_SECONDS)
    job.expect_nothing_left()
    assert job.workflows == []


@scenario
def credentials_refused_for_good(site: Site, wire: Wire) -> None:
    """The Workflow exists by then, suspended."""
    wire.answer_with_status(Match("create", "secrets", "nvflare-cred-"), 403, times=FOREVER)
    job = site.launch(SLEEPS)
    job.expect_end(Reason.LAUNCH_FAILED, 101, START_SECONDS)
    job.expect_nothing_left()
    assert job.workflows == []


@scenario.variants(credentials={"step": STEPS["the credentials"]}, release={"step": STEPS["the release"]})
def workflow_deleted_with_its_submit_before(site: Site, wire: Wire, cluster: Cluster, step: Match) -> None:
    """Somebody deletes the Workflow during its submit: its Secret must not stay either."""
    delay = wire.delay(step, START_SECONDS)
    job = site.launch(SLEEPS)
    eventually(lambda: delay.hits, START_SECONDS, "its Workflow exists")
    cluster.delete("workflows.argoproj.io", job.workflow)
    delay.disarm()
    job.expect_end(Reason.WORKFLOW_DELETED, 104, START_SECONDS)
    job.expect_nothing_left()


@scenario.variants(**{step.replace(" ", "_"): {"step": match} for step, match in STEPS.items()})
def parent_killed_with_its_submit_at(site: Site, wire: Wire, cluster: Cluster, step: Match) -> None:
    """The request of that step takes effect, and the parent dies before it gets the answer."""
    old_token = read_token(site.kubeconfig)
    fault = wire.lose_reply(replace(step, token=old_token))
    wire.refuse(lambda request: fault.hits > 0 and request.token == old_token, FOREVER)
    job = site.launch(SLEEPS)
    eventually(lambda: fault.hits, 20, "the step is reached")
    wire.cut_watches()
    wire.kubeconfig(site.kubeconfig, cluster.kubectl("create", "token", "flargo-launcher"))
    site.restart_parent()
    cluster.wait_until_clear(job.id, job.name, within=60)
    relaunched = site.launch(exits(0), job_id=job.id)
    relaunched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    relaunched.expect_nothing_left()


ENDINGS = {"shutdown": Match("patch", "workflows"), "kill": Match("delete", "pods")}
"""The requests by which flargo ends a running program."""
SILENCE_SECONDS = 20.0
"""A delay that is longer than flargo waits for an answer."""
TROUBLES: dict[str, Callable[[Wire, Match], Fault]] = {
    "503 three times": lambda wire, match: wire.answer_with_status(match, 503, times=3),
    "its reply lost": lambda wire, match: wire.lose_reply(match),
    "no answer": lambda wire, match: wire.delay(match, SILENCE_SECONDS),
}


@scenario.variants(
    **{
        f"{request} {trouble}": {"request": match, "trouble": arm}
        for request, match in ENDINGS.items()
        for trouble, arm in TROUBLES.items()
    }
)
def abort_that_meets(
    site: Site, wire: Wire, cluster: Cluster, request: Match, trouble: Callable[[Wire, Match], Fault]
) -> None:
    """A request is repeated until its effect is observed; FLARE hears of the end only after it has happened."""
    job = site.launch(IGNORES_SIGTERM + SLEEPS).expect_running()
    fault = trouble(wire, request)
    times = fault.times
    job.abort()
    eventually(lambda: fault.hits, NOTICE_SECONDS, "the request is broken")
    assert job.launched_job.verdict is None
    assert cluster.processes(job.id)
    job.expect_end(Reason.ABORTED, 9, KILL_SECONDS)
    assert cluster.processes(job.id) == []
    assert fault.hits == times
    job.expect_nothing_left()


@scenario
def clock_of_the_parents_machine_jumps(site: Site, wire: Wire) -> None:
    """The clock jumps an hour ahead, then a day back: no decision of flargo's depends on it."""
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": 30}).expect_stage(Stage.SHORTAGE)
    start = time.monotonic()
    with shift_clock(3600):
        wire.cut_watches()
        time.sleep(5)
        with shift_clock(-86400):
            wire.cut_watches()
            time.sleep(5)
            assert (job.launched_job.verdict, waiting.launched_job.verdict) == (None, None)
            job.exit_program(3)
            job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    waiting.expect_end(Reason.SHORTAGE, 101, within=60)
    assert time.monotonic() - start > 20
    for each in (job, waiting):
        each.expect_nothing_left()


@contextmanager
def shift_clock(seconds: float) -> Iterator[None]:
    """Shift the time of day for this process, FLARE and all libraries included, until the end of the ``with``."""
    real = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + seconds)
        yield


# --- watches


def is_pod(item: Object) -> bool:
    return item.get("kind") == "Pod"


def has_ended(item: Object) -> bool:
    """Return whether an object is a pod whose main container has ended, or an ended Workflow."""
    rows = (item.get("status") or {}).get("containerStatuses") or []
    main = any(row["name"] == "main" and "terminated" in (row.get("state") or {}) for row in rows)
    return main or (item.get("status") or {}).get("phase") in {"Succeeded", "Failed", "Error"}


@scenario
def watches_half_open(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    wire.freeze_watches()
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, HALF_OPEN_SECONDS + 5)
    job.expect_nothing_left()


@scenario
def workflows_end_lost(site: Site, wire: Wire) -> None:
    event_filter = wire.drop_events(lambda item: not is_pod(item) and has_ended(item))
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    eventually(lambda: event_filter.hits, 60, "the Workflow's end was lost")
    # No event says that Argo has finished: flargo looks for itself after a minute.
    job.expect_nothing_left(within=100)


@scenario
def watches_cut_again_and_again(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3, after=1)
    for _ in range(5):
        wire.cut_watches()
        time.sleep(0.5)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def watches_too_old(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    wire.expire_watches(4)
    job.exit_program(3)
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()


@scenario
def pods_end_lost(site: Site, wire: Wire) -> None:
    """The Workflow's end arrives, and makes flargo read the pod."""
    event_filter = wire.drop_events(lambda item: is_pod(item) and has_ended(item))
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert event_filter.hits
    job.expect_nothing_left()


@scenario
def pods_and_workflows_beginnings_lost(site: Site, wire: Wire) -> None:
    event_filter = wire.drop_events(lambda item: not has_ended(item))
    job = site.launch(exits(0))
    job.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    assert event_filter.hits
    job.expect_nothing_left()


@scenario
def events_told_twice(site: Site, wire: Wire) -> None:
    event_filter = wire.repeat_events(lambda _: True)
    job = site.launch(exits(101))
    job.expect_end(Reason.PROGRAM_REPORTED, 101, START_SECONDS)
    assert event_filter.hits
    job.expect_nothing_left()


@scenario.variants(pods={"resource": "pods"}, workflows={"resource": "workflows"})
def argo_terminate_with_events_late_and_out_of_order(site: Site, wire: Wire, cluster: Cluster, resource: str) -> None:
    """Exit code 143 is observed before the shutdown that caused it, or the shutdown before the program's end."""
    job = site.launch(SLEEPS).expect_running()
    event_filter = wire.hold_events(lambda item: is_pod(item) == (resource == "pods"))
    cluster.argo("terminate", job.name)
    eventually(lambda: event_filter.hits >= 2, 20, "events are held back")
    time.sleep(4)
    wire.release_events()
    job.expect_end(Reason.SHUT_DOWN, 9, NOTICE_SECONDS)
    job.expect_nothing_left()


# --- the API server unreachable, or refusing


@scenario
def token_rotated(site: Site, wire: Wire, cluster: Cluster) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    old, new = read_token(site.kubeconfig), cluster.kubectl("create", "token", "flargo-launcher")
    fault = wire.answer_with_status(Match(token=old), 401, times=FOREVER)
    wire.kubeconfig(site.kubeconfig, new)
    wire.cut_watches()
    job.exit_program(0)
    job.expect_end(Reason.SUCCEEDED, 0, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert 1 <= fault.hits <= 4


@scenario
def everything_throttled_while_the_program_ends(site: Site, wire: Wire) -> None:
    job = site.launch(EXITS_ON_REQUEST).expect_running()
    job.exit_program(3, after=2)
    fault = wire.answer_with_status(Match(), 429, retry_after=1, times=FOREVER)
    wire.cut_watches()
    time.sleep(8)
    assert job.launched_job.verdict is None
    requests = fault.hits
    fault.disarm()
    job.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    job.expect_nothing_left()
    assert requests < 40


@scenario
def cut_off_for_thirty_seconds(site: Site, wire: Wire) -> None:
    """Meanwhile nothing is decided, no start timeout advances, an abort returns, and a launch waits."""
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
    aborted.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
    launched.expect_end(Reason.SUCCEEDED, 0, START_SECONDS)
    waiting.expect_end(Reason.SHORTAGE, 101, within=25)
    running.expect_stage(Stage.RUNNING).exit_program(3)
    running.expect_end(Reason.PROGRAM_FAILED, 1, NOTICE_SECONDS)
    for job in jobs:
        job.expect_nothing_left()


@scenario
def servers_launch_returns_when_the_api_is_lost(cluster: Cluster, wire: Wire) -> None:
    """FLARE aborts a process that it does not know yet, and this job's process may run by now."""
    with Site(cluster, wire=wire, role=Role.SERVER) as server:
        job = server.launch(SLEEPS, {"cpu": "900", "pending_timeout": None}).expect_stage(Stage.SHORTAGE)
        assert not job.is_launched(0.5)
        wire.stop_answering()
        assert job.is_launched(30), "the silence limit of a job that waits for room is 20 s"
        assert job.handle.poll() == 127
        wire.resume_answering()
        job.abort()
        job.expect_end(Reason.ABORTED, 9, NOTICE_SECONDS)
        job.expect_nothing_left()


@pytest.mark.parametrize("name", scenario.names)
def test_scenario(together: Together, name: str) -> None:
    together.result(name)
