"""A client's parent begins once it is its site's only one, with the jobs of its earlier run taken back."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext

from flargo.backoff import Backoff
from flargo.control import authority
from flargo.control.lease import LeaseStage, LeaseStatus
from flargo.control.submit import SubmitError
from flargo.flare import takeover as takeover_module
from flargo.flare.job_adoption import AWAY_LIMIT
from flargo.flare.launch_records import RecordsError
from flargo.flare.takeover import DECISION_PATIENCE, LAUNCH_PATIENCE, START_PATIENCE, SiteTakenError, Takeover
from tests.harness.fake_api import THREAD_SECONDS
from tests.harness.parent_runs import wait_for

if TYPE_CHECKING:
    from flargo.control.lease_keeper import LeaseKeeper
    from flargo.flare.heartbeat import Heartbeat
    from flargo.flare.job_adoption import JobAdoption

FLARE_GIVES_UP_SECONDS = 20.0
"""Seconds after which FLARE's server gives up on a client's launch (nvflare 2.9, server_engine.py)."""
FLARE_FORGETS_SECONDS = 600.0
"""Seconds without a heartbeat after which FLARE's server takes a client for dead (heart_beat_timeout)."""
ACQUIRING = LeaseStatus(LeaseStage.ACQUIRING)
HELD = LeaseStatus(LeaseStage.HELD, 25.0)
FENCED = LeaseStatus(LeaseStage.FENCED, holder="host_e7")
LOST = LeaseStatus(LeaseStage.LOST, holder="host_e7")
UNAVAILABLE = LeaseStatus(LeaseStage.UNAVAILABLE, problem="403")
RELEASED = LeaseStatus(LeaseStage.RELEASED)


class FakeLease:
    """A Lease whose status the test sets."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.state = ACQUIRING
        self.events: list[str] = []

    def sets(self, status: LeaseStatus) -> None:
        with self.changed:
            self.state = status
            self.changed.notify_all()

    def start(self) -> None:
        self.events.append("start")

    def wait(self, until: Callable[[LeaseStatus], bool], seconds: float | None = None) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: until(self.state), seconds)

    def may_change(self, *, is_followed: bool) -> bool:
        return authority.may_change(self.state.stage, is_followed=is_followed)

    def close(self, *, release: bool = True) -> None:
        self.events.append(f"close {release}")
        self.sets(RELEASED)


class FakeHeartbeat:
    """What an earlier run has left, and how often this one has written."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.has_written = threading.Event()

    def seconds_since(self) -> float | None:
        assert not self.has_written.is_set(), "that is this run's own"
        return self.seconds

    def write(self) -> None:
        self.has_written.set()


class Run:
    """One run of a parent: its Lease, its takeover, and what that has done."""

    def __init__(self) -> None:
        self.lease, self.steps = FakeLease(), list[str]()
        self.has_started = threading.Event()
        self.on_step: Callable[[str], None] = lambda _: None
        """Called with each step; may fail."""
        ending = threading.Event()
        self.undecided: list[frozenset[str]] = []
        """What the next tries to take jobs back leave undecided."""
        self.recorded: frozenset[str] = frozenset()
        """The Workflows of recorded jobs."""
        adoption = SimpleNamespace(
            serve=self._serve,
            adopt_all=self._adopt,
            find_open=lambda: self.recorded,
            seal=lambda: None,
            drop=lambda: self._does("drop"),
        )
        self.heartbeat = FakeHeartbeat()
        self.takeover = Takeover(
            cast("LeaseKeeper", self.lease),
            cast("JobAdoption", adoption),
            cast("Heartbeat", self.heartbeat),
            self._start,
            lambda names: self._does(f"reserve {sorted(names)}"),
            ending,
        )

    def _serve(self, _: FLContext) -> None:
        assert not self.lease.events, "processes are served at once"
        self._does("serve")

    def _does(self, step: str) -> None:
        self.steps.append(step)
        self.on_step(step)

    def _adopt(self, fl_ctx: FLContext, away_seconds: float | None) -> frozenset[str]:
        assert fl_ctx == "a context of its own"
        self._does(f"adopt {away_seconds}")
        return self.undecided.pop(0) if self.undecided else frozenset()

    def _start(self) -> None:
        self._does("start")
        self.has_started.set()

    def prepares(self) -> None:
        self.takeover.prepare(FLContext())

    def begins(self, *, is_registered: bool = True) -> None:
        context = FLContext()
        engine = SimpleNamespace(new_context=lambda: "a context of its own")
        context.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
        context.set_prop(FLContextKey.CLIENT_TOKEN, "a token" if is_registered else None)
        self.takeover.begin(context)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FLARE's start go on at once, and launches fail at once."""
    for patience in ("START_PATIENCE", "OUTAGE_PATIENCE", "DECISION_PATIENCE", "LAUNCH_PATIENCE"):
        monkeypatch.setattr(takeover_module, patience, 0.05)


@pytest.fixture
def run() -> Iterator[Run]:
    parent = Run()
    yield parent
    parent.lease.close()


def test_patience_is_shorter_than_flares() -> None:
    assert LAUNCH_PATIENCE < FLARE_GIVES_UP_SECONDS
    assert DECISION_PATIENCE + START_PATIENCE < FLARE_FORGETS_SECONDS / 2


def test_a_parent_that_is_just_in_time_is_heard_before_flare_forgets_its_site() -> None:
    """Once it knows for how long the site had no parent, it registers and takes its jobs back before it heartbeats."""
    registration = 30.0
    assert AWAY_LIMIT + registration + START_PATIENCE < FLARE_FORGETS_SECONDS


def test_jobs_are_taken_back_before_the_work_begins(run: Run) -> None:
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert run.steps == ["serve", "adopt 25.0", "drop", "start"]
    run.takeover.require()


@pytest.mark.usefixtures("impatient")
def test_nothing_begins_before_the_lease_is_held(run: Run) -> None:
    """FLARE's start goes on: the server takes a client that is silent for longer for dead."""
    run.prepares()
    run.begins()
    assert run.steps == ["serve"]
    with pytest.raises(SubmitError, match="does not hold the Lease of its site yet"):
        run.takeover.require()
    run.lease.sets(HELD)
    assert run.has_started.wait(THREAD_SECONDS)
    assert run.steps == ["serve", "adopt 25.0", "drop", "start"]
    run.takeover.require()


@pytest.mark.usefixtures("impatient")
def test_a_launch_says_why_the_lease_is_missing(run: Run) -> None:
    run.lease.sets(LeaseStatus(LeaseStage.ACQUIRING, problem="Connection refused"))
    run.prepares()
    run.begins()
    with pytest.raises(SubmitError, match=r"yet: Connection refused$"):
        run.takeover.require()


def test_a_launch_waits_for_the_takeover(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("START_PATIENCE", "OUTAGE_PATIENCE", "DECISION_PATIENCE"):
        monkeypatch.setattr(takeover_module, patience, 0.05)
    run.prepares()
    run.begins()
    threading.Timer(0.05, run.lease.sets, (HELD,)).start()
    run.takeover.require()


def test_a_second_parent_does_not_start(run: Run) -> None:
    """It gives back no Lease, and answers no process that another parent answers."""
    run.lease.sets(FENCED)
    with pytest.raises(SiteTakenError, match="holds its Lease: host_e7; end it first"):
        run.prepares()
    assert (run.steps, run.lease.events) == (["serve", "drop"], ["start", "close False"])


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_slow_decision_is_waited_for_while_requests_are_answered(
    run: Run, monkeypatch: pytest.MonkeyPatch, *, is_answered: bool
) -> None:
    """A parent that registers undecided would stay beside the other one; but an API server may be away for long."""
    monkeypatch.setattr(takeover_module, "OUTAGE_PATIENCE", 0.05)
    run.lease.sets(ACQUIRING if is_answered else replace(ACQUIRING, problem="Connection refused"))
    fenced = threading.Timer(0.5, run.lease.sets, (FENCED,))
    fenced.start()
    if is_answered:
        with pytest.raises(SiteTakenError):
            run.prepares()
    else:
        run.prepares()
        assert not run.lease.state.is_fenced
    fenced.join()


@pytest.mark.usefixtures("impatient")
def test_a_parent_that_is_fenced_later_waits(run: Run) -> None:
    """The other parent showed only after FLARE's start had gone on."""
    run.prepares()
    run.lease.sets(FENCED)
    run.begins()
    with pytest.raises(SubmitError, match=r"another FLARE parent of this site is alive.*host_e7"):
        run.takeover.require()
    assert run.steps == ["serve"]
    run.lease.sets(HELD)
    assert run.has_started.wait(THREAD_SECONDS)
    run.takeover.require()


def test_without_a_lease_the_parent_works_as_before(run: Run) -> None:
    """Nobody knows then for how long the site had no parent, or whether it has another one."""
    run.lease.sets(UNAVAILABLE)
    run.prepares()
    run.begins()
    assert run.steps == ["serve", "drop", "start"]
    run.takeover.require()


def test_the_lease_is_not_looked_at_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be lost between two looks. A parent that starts then without its jobs would end them."""
    statuses = iter([HELD])

    def wait(until: Callable[[LeaseStatus], bool], _: float | None = None) -> bool:
        status = next(statuses, None)
        return status is not None and until(status)

    monkeypatch.setattr(run.lease, "wait", wait)
    run.begins()
    assert run.steps == ["adopt 25.0", "drop", "start"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a failed takeover again at once."""
    monkeypatch.setattr(takeover_module, "RETRY", Backoff((0.0,)))


FAILURES: dict[str, Exception] = {
    "an unexpected RuntimeError": RuntimeError("can't start new thread, says a secret"),
    "the records cannot be read": RecordsError("the records cannot be read"),
}


@pytest.mark.parametrize("step", ["adopt 25.0", "drop", "start"])
@pytest.mark.parametrize("why", FAILURES)
@pytest.mark.usefixtures("impatient", "at_once")
def test_a_failed_takeover_is_tried_again(step: str, why: str, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails: a parent that went on would end jobs that can be taken back."""
    may_succeed = threading.Event()

    def fail(name: str) -> None:
        if name == step and not may_succeed.is_set():
            may_succeed.wait(0.02)
            raise FAILURES[why]

    run.on_step = fail
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    with pytest.raises(SubmitError, match=f"has not taken over its site yet: {why}; see its log$"):
        run.takeover.require()
    assert not run.has_started.is_set()
    may_succeed.set()
    assert run.has_started.wait(THREAD_SECONDS)
    assert run.steps[-3:] == ["adopt 25.0", "drop", "start"]
    assert "Its running jobs go on" in caplog.text
    assert "argo.adopt" in caplog.text
    run.takeover.require()


JOB = frozenset({"job-site"})


@pytest.mark.usefixtures("impatient", "at_once")
def test_one_job_that_cannot_be_taken_back_yet_holds_up_no_launch(run: Run) -> None:
    """Its Workflow is left alone before the work begins, and until the job is taken back."""
    run.undecided = [JOB, JOB]
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    wait_for(lambda: run.steps[-1] == "drop")
    assert run.steps == [
        "serve",
        "adopt 25.0",
        "reserve ['job-site']",
        "start",
        "adopt 25.0",
        "adopt 25.0",
        "reserve []",
        "drop",
    ]
    run.takeover.require()


@pytest.mark.usefixtures("impatient", "at_once")
@pytest.mark.parametrize("status", [ACQUIRING, LOST])
def test_nothing_begins_while_the_lease_is_late_and_jobs_are_left(status: LeaseStatus, run: Run) -> None:
    """The renewal was late just then, so it is not known who the site's parent is."""

    def miss_the_renewal(step: str) -> None:
        if step.startswith("adopt") and run.steps.count(step) == 1:
            run.lease.sets(status)

    run.on_step = miss_the_renewal
    run.undecided = [JOB]
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert not run.has_started.wait(0.2)
    run.lease.sets(HELD)
    assert run.has_started.wait(THREAD_SECONDS)
    assert run.steps == ["serve", "adopt 25.0", "adopt 25.0", "drop", "start"]


@pytest.mark.usefixtures("impatient", "at_once")
def test_jobs_that_another_parent_had_meanwhile_are_not_taken_back(run: Run) -> None:
    """This run took them back late, after another parent had: that one may have ended them, or begun another."""

    def lose(step: str) -> None:
        if step == "start":
            run.lease.sets(replace(HELD, other_terms=1))

    run.on_step = lose
    run.undecided = [JOB] * 9
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert run.takeover._thread is not None
    run.takeover._thread.join(THREAD_SECONDS)
    assert run.steps == ["serve", "adopt 25.0", "reserve ['job-site']", "start", "drop"]


@pytest.mark.usefixtures("impatient", "at_once")
def test_a_refused_lease_ends_no_recorded_job(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody replaces the parent's RoleBinding. Launches go on."""
    run.recorded = JOB
    run.lease.sets(UNAVAILABLE)
    run.prepares()
    run.begins()
    assert run.has_started.wait(THREAD_SECONDS)
    run.takeover.require()
    assert run.steps == ["serve", "reserve ['job-site']", "start"]
    assert "deploy/launcher.yaml" in caplog.text
    run.lease.sets(HELD)
    wait_for(lambda: run.steps[-1] == "drop")
    assert run.steps == ["serve", "reserve ['job-site']", "start", "adopt 25.0", "reserve []", "drop"]


@pytest.mark.usefixtures("impatient", "at_once")
def test_a_lease_that_stays_refused_ends_the_recorded_jobs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Role is that of an earlier flargo, and nobody repairs it."""
    assert takeover_module.UNAVAILABLE_PATIENCE >= 3600
    monkeypatch.setattr(takeover_module, "UNAVAILABLE_PATIENCE", 0.2)
    run.recorded = JOB
    run.lease.sets(UNAVAILABLE)
    run.prepares()
    run.begins()
    wait_for(lambda: run.steps[-1] == "drop")
    assert run.steps == ["serve", "reserve ['job-site']", "start", "reserve []", "drop"]


@pytest.mark.usefixtures("impatient")
def test_a_shutdown_ends_the_tries(run: Run) -> None:
    def fail(name: str) -> None:
        if name.startswith("adopt"):
            raise ValueError("a defect")

    run.on_step = fail
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    run.takeover.cancel()
    assert run.takeover._thread is not None
    run.takeover._thread.join(THREAD_SECONDS)
    assert not run.takeover._thread.is_alive()
    assert "start" not in run.steps


def test_a_later_event_begins_what_an_earlier_one_could_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE swallows the exception of a thread that the operating system refuses."""
    run.lease.sets(HELD)
    run.prepares()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_thread)
        with pytest.raises(RuntimeError):
            run.begins()
    run.begins()
    assert run.has_started.wait(THREAD_SECONDS)
    run.takeover.require()


def refuse_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("step", ["serve", "acquire"])
def test_a_failed_preparation_leaves_nothing(step: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a defect")

    if step == "acquire":
        monkeypatch.setattr(run.lease, "wait", fail)
    else:
        run.on_step = fail
    with pytest.raises(ValueError, match="a defect"):
        run.prepares()
    assert (run.steps[-1], run.lease.events[-1]) == ("drop", "close False")


def test_a_client_that_was_refused_takes_nothing_back(run: Run) -> None:
    """FLARE fires the event, and ends the client then."""
    run.lease.sets(HELD)
    run.prepares()
    run.begins(is_registered=False)
    assert run.steps == ["serve"]


def test_jobs_are_taken_back_once(run: Run) -> None:
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    run.begins()
    assert run.steps.count("start") == 1


@pytest.mark.usefixtures("impatient")
def test_a_shutdown_during_the_takeover_starts_nothing(run: Run) -> None:
    """The loop would end the jobs that were not taken back, and nobody would end the loop."""
    run.on_step = lambda step: run.takeover.cancel() if step.startswith("adopt") else None
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert run.takeover._thread is not None
    run.takeover._thread.join(THREAD_SECONDS)
    assert run.steps == ["serve", "adopt 25.0", "drop"]
    with pytest.raises(SubmitError):
        run.takeover.require()


@pytest.mark.usefixtures("impatient")
def test_a_shutdown_before_the_lease_is_held_ends_the_wait(run: Run) -> None:
    run.prepares()
    run.begins()
    run.takeover.cancel()
    run.takeover.close()
    assert run.takeover._thread is not None
    run.takeover._thread.join(THREAD_SECONDS)
    assert not run.takeover._thread.is_alive()
    assert (run.steps, run.lease.events[-1]) == (["serve", "drop"], "close True")


@pytest.mark.parametrize(
    ("status", "own", "others"), [(HELD, True, True), (ACQUIRING, True, False), (LOST, False, False)]
)
def test_the_lease_limits_what_the_loop_changes(status: LeaseStatus, own: bool, others: bool, run: Run) -> None:  # noqa: FBT001
    run.lease.sets(status)
    assert (run.takeover.may_change(is_followed=True), run.takeover.may_change(is_followed=False)) == (own, others)
    assert run.takeover.is_certain is (status is HELD)


@pytest.mark.parametrize(("heartbeat", "away"), [(None, 25.0), (3.0, 3.0), (40.0, 25.0)])
def test_a_parent_that_could_not_renew_its_lease_was_there(heartbeat: float | None, away: float, run: Run) -> None:
    """The API server was away, and FLARE's server had a client all the time."""
    run.heartbeat.seconds = heartbeat
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert f"adopt {away}" in run.steps
    assert run.heartbeat.has_written.wait(THREAD_SECONDS)


@pytest.mark.parametrize("heartbeat", [None, 3.0, 9999.0])
def test_a_new_lease_tells_nothing(heartbeat: float | None, run: Run) -> None:
    """Somebody has deleted it. A heartbeat's file that is old proves nothing: it may not have been written since."""
    run.heartbeat.seconds = heartbeat
    run.lease.sets(replace(HELD, away_seconds=None))
    run.prepares()
    run.begins()
    assert "adopt None" in run.steps


def test_a_heartbeat_does_not_tell_of_another_parents_time(run: Run) -> None:
    run.heartbeat.seconds = 3.0
    run.lease.sets(replace(HELD, other_terms=1))
    run.prepares()
    run.begins()
    assert "adopt 25.0" in run.steps


@pytest.mark.usefixtures("impatient")
def test_a_parent_beats_while_it_waits_for_the_lease(run: Run) -> None:
    """It is registered with FLARE's server. While another parent has the site, it does not count."""
    run.prepares()
    assert not run.heartbeat.has_written.is_set()
    run.begins()
    assert run.heartbeat.has_written.wait(THREAD_SECONDS)
    other = Run()
    other.prepares()
    other.lease.sets(FENCED)
    other.begins()
    assert not other.heartbeat.has_written.wait(0.2)
    other.takeover.cancel()
    other.lease.close()


def test_a_regained_site_has_jobs_that_are_left_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The other parent has launched them, or has taken them back, and has ended: a new run can take them back."""
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert run.takeover.may_change(is_followed=False)
    run.lease.sets(LOST)
    assert not run.takeover.may_change(is_followed=False)
    run.lease.sets(replace(HELD, other_terms=1))
    assert [run.takeover.may_change(is_followed=own) for own in (True, False, False)] == [True, False, False]
    assert [text for text in caplog.messages if "until it is started again" in text] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("impatient")
def test_a_site_that_was_lost_while_jobs_were_taken_back_is_taken_over_again(run: Run) -> None:
    """However short the other parent's time was."""

    def lose_for_a_moment(step: str) -> None:
        if step.startswith("adopt") and run.steps.count(step) == 1:
            run.lease.sets(LOST)
            run.lease.sets(replace(HELD, other_terms=1))

    run.on_step = lose_for_a_moment
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    assert run.has_started.wait(THREAD_SECONDS)
    assert run.steps == ["serve", "adopt 25.0", "adopt 25.0", "drop", "start"]
    assert run.takeover.may_change(is_followed=False)


def test_a_parent_that_has_lost_its_site_launches_nothing(run: Run) -> None:
    run.lease.sets(HELD)
    run.prepares()
    run.begins()
    run.lease.sets(LOST)
    with pytest.raises(SubmitError, match="another FLARE parent of this site is alive"):
        run.takeover.require()
    run.lease.sets(LeaseStatus(LeaseStage.ACQUIRING, problem="no answer"))
    run.takeover.require()
