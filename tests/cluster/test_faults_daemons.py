"""The fault matrix, where a part of the cluster stands still, ends, or starts anew. Not on somebody's own cluster."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from flargo.status.diagnosis import Stage
from flargo.status.reasons import Reason
from tests.cluster import state, up
from tests.cluster.place import Place
from tests.cluster.site import DEAF, SLEEPS, STARTS, WAITS, Site, exits, token_of
from tests.cluster.wire import Match, Wire
from tests.cluster.world import World, eventually

NOTICED = 15.0
"""Seconds within which what happens to a running job is known."""
CONTROLLER = "workflow-controller"
SERVER = "kube-apiserver"


@pytest.fixture(scope="module")
def world(place: Place) -> World:
    if place.own:
        pytest.skip("daemons are out of reach")
    return World(place)


@pytest.fixture(scope="module")
def site(world: World) -> Iterator[Site]:
    with Site(world) as made:
        yield made


# --- Argo's controller


def test_controller_away_at_the_launch(site: Site, world: World) -> None:
    with world.frozen(CONTROLLER):
        job = site.launch(exits(0)).reaches(Stage.UNCLAIMED)
        time.sleep(3)
        assert job.ticket.verdict is None
    job.ends(Reason.SUCCEEDED, 0, STARTS)
    job.leaves_nothing()


def test_controller_away_for_too_long(world: World) -> None:
    with Site(world, argo={"unclaimed": 5}) as impatient:
        with world.frozen(CONTROLLER):
            job = impatient.launch(SLEEPS)
            job.ends(Reason.UNCLAIMED, 101, within=25)
        job.leaves_nothing()
        assert job.pods == []


def test_controller_away_while_the_program_ends(site: Site, world: World) -> None:
    job, failing = site.launch(WAITS).runs(), site.launch(WAITS).runs()
    with world.frozen(CONTROLLER):
        job.ends_itself(0)
        failing.ends_itself(3)
        job.ends(Reason.SUCCEEDED, 0, NOTICED)
        failing.ends(Reason.PROGRAM_FAILED, 1, NOTICED)
    job.leaves_nothing()
    failing.leaves_nothing()


def test_controller_away_during_an_abort(site: Site, world: World) -> None:
    """The pod is deleted all the same, and not made again when the controller is back."""
    job = site.launch(DEAF + SLEEPS).runs()
    with world.frozen(CONTROLLER):
        job.abort()
        job.ends(Reason.ABORTED, 9, NOTICED)
        assert world.processes(job.id) == []
    time.sleep(5)
    job.leaves_nothing()


def test_pod_deleted_while_the_controller_is_away(site: Site, world: World) -> None:
    """Argo's status says Pending, and so it makes another pod when it is back: the job would be run twice."""
    with world.frozen(CONTROLLER):
        job = site.launch(SLEEPS).reaches(Stage.UNCLAIMED)
    eventually(lambda: job.pods, STARTS, "its pod is there")
    with world.frozen(CONTROLLER):
        job.runs()
        world.delete("pod", job.pods[0])
        eventually(lambda: not job.pods, STARTS, "its pod is gone")
    job.ticket.wait(lambda seen: seen.verdict is not None, 30)
    assert job.ticket.verdict is not None
    assert job.ticket.verdict.reason in {Reason.POD_DELETED, Reason.RUN_TWICE}
    assert job.handle.poll() == 104
    time.sleep(5)
    job.leaves_nothing()


def test_controller_restarted_while_it_runs(site: Site) -> None:
    job = site.launch(WAITS).runs()
    up.restart(CONTROLLER)
    job.ends_itself(0)
    job.ends(Reason.SUCCEEDED, 0, NOTICED)
    job.leaves_nothing()


def test_suspended_by_a_person_before_its_start_and_resumed(site: Site, world: World) -> None:
    # Ended rather than frozen: the next one sees only how things are by then, not each step on the way.
    with world.stopped(CONTROLLER):
        job = site.launch(exits(0)).reaches(Stage.UNCLAIMED)
        world.patch(job.workflow, suspend=True)
        job.reaches(Stage.HELD)
    time.sleep(5)
    assert job.ticket.verdict is None
    world.patch(job.workflow, suspend=None)
    job.ends(Reason.SUCCEEDED, 0, STARTS)
    job.leaves_nothing()


def test_suspended_by_a_person_before_its_start_and_aborted(site: Site, world: World) -> None:
    with world.stopped(CONTROLLER):
        job = site.launch(SLEEPS).reaches(Stage.UNCLAIMED)
        world.patch(job.workflow, suspend=True)
        job.reaches(Stage.HELD)
        job.abort()
        job.ends(Reason.ABORTED, 9, NOTICED)
    job.leaves_nothing()


@pytest.fixture
def controllers_wire(world: World) -> Iterator[Wire]:
    """A wire between Argo's controller and the API server."""
    del world
    original, token = state.ARGO.read_text(), token_of(state.ARGO)
    # Go's client sends no token over plain HTTP, so the wire has to.
    with Wire(state.ARGO, token) as wire:
        try:
            wire.kubeconfig(state.ARGO, token)
            up.restart(CONTROLLER)
            yield wire
        finally:
            state.ARGO.write_text(original)
            up.restart(CONTROLLER)


def test_controller_overlooks_the_release(world: World, controllers_wire: Wire) -> None:
    """Argo 3 writes the answer to its own update into its cache, over what came after it (INFORMER_WRITE_BACK)."""
    with Wire(world.place.launcher_kubeconfig) as wire, Site(world, wire=wire) as site:
        late = controllers_wire.late_reply(Match("update", "workflows"), 3)
        # Between the controller's update and its answer.
        wire.delay(Match("patch", "workflows"), 1)
        job = site.launch(exits(0))
        job.ends(Reason.SUCCEEDED, 0, within=45)
        assert late.hits == 1
        job.leaves_nothing()


# --- the API server

Outage = Callable[[str], AbstractContextManager[None]]


@pytest.mark.parametrize("way", ["frozen", "stopped"])
def test_api_server_away_for_thirty_seconds(site: Site, world: World, way: str) -> None:
    """While jobs are pending, run, end, are aborted and are launched. Nothing is decided meanwhile."""
    outage: Outage = world.frozen if way == "frozen" else world.stopped
    waiting = site.launch(SLEEPS, {"cpu": "900", "pending_timeout": 20}).reaches(Stage.SHORTAGE)
    running = site.launch(WAITS).runs()
    aborted = site.launch(DEAF + SLEEPS).runs()
    ending = site.launch(WAITS).runs()
    ending.ends_itself(0, after=5)
    with outage(SERVER):
        time.sleep(1)
        launched = site.launch(exits(0))
        aborted.abort()
        time.sleep(29)
        jobs = (waiting, running, aborted, ending, launched)
        assert [job.ticket.verdict for job in jobs] == [None] * len(jobs)
    ending.ends(Reason.SUCCEEDED, 0, within=40)
    aborted.ends(Reason.ABORTED, 9, within=40)
    launched.ends(Reason.SUCCEEDED, 0, STARTS)
    waiting.ends(Reason.SHORTAGE, 101, within=40)
    running.reaches(Stage.RUNNING).ends_itself(3)
    running.ends(Reason.PROGRAM_FAILED, 1, NOTICED)
    for job in jobs:
        job.leaves_nothing(within=60)
    assert len(launched.workflows) == 1
