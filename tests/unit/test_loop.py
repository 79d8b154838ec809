"""Tests of the Loop's threads: nobody is left waiting, whatever breaks."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.command import Command
from flargo.control.inputs import Admitted, CommandDone, JobInput, SiteInput, WorkflowCreated
from flargo.control.loop import Loop
from flargo.control.result import Result
from flargo.control.submit import SubmitError
from flargo.status.job_state import Action, ActionKind, JobState, StopRequested, Submitted
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.terms import WORKFLOW_NAME_LABEL, Object, Plan, StartTimeouts, Uid
from tests.harness.fake_api import THREAD_SECONDS, HangingApi, IdleApi
from tests.harness.objects import RUNNING, pod
from tests.harness.plans import LABELS, submit_plan
from tests.harness.story import POD_RUNNING, WORKFLOW, Story, exited_pod


@pytest.fixture
def api() -> Iterator[IdleApi]:
    quiet_api = IdleApi()
    yield quiet_api
    quiet_api.test_ended.set()


def test_parents_end_reports_every_verdict(api: IdleApi) -> None:
    loop = Loop(api, "", "me", 3)
    verdicts: list[Verdict] = []
    launched = loop.launch(submit_plan(), lambda: False, lambda verdict, _: verdicts.append(verdict), collect_log=False)
    assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    assert [verdict.reason for verdict in verdicts] == [Reason.PARENT_ENDED]


def test_ended_parent_refuses_launches(api: IdleApi) -> None:
    loop = Loop(api, "", "me", 3)
    loop.end(Cause.PARENT_END, seconds=0.0)
    with pytest.raises(SubmitError, match="shutting down"):
        loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert api.named(Kind.WORKFLOW) == []


def test_launch_during_parents_end_is_not_lost(api: IdleApi) -> None:
    """A job that is neither refused nor ended would keep its waiting threads, and the parent's process, alive."""
    loop = Loop(api, "", "me", 3)

    class EndingEvent(threading.Event):
        """An event that the parent's end sets just after it was read as not set."""

        def is_set(self) -> bool:
            value = super().is_set()
            ending.start()
            ending.join(0.5)
            return value

    ending = threading.Thread(target=loop.end, args=(Cause.PARENT_END, 0.1))
    loop._is_ending = EndingEvent()
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    ending.join(THREAD_SECONDS)


def test_failed_report_does_not_hide_the_verdict(api: IdleApi) -> None:
    def fail(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 403, "Forbidden")

    def report(_: Verdict, __: str) -> None:
        raise OSError("disk full")

    api.trouble = fail
    loop = Loop(api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, report, collect_log=False)
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    assert launched.verdict is not None
    assert launched.verdict.reason is Reason.LAUNCH_FAILED
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_failed_state_callback_does_not_hide_the_verdict(api: IdleApi) -> None:
    def refuse(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 403, "Forbidden")

    def fail(_: JobState) -> None:
        raise ValueError("a defect")

    api.trouble = refuse
    loop = Loop(api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False, on_state=fail)
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    loop.end(Cause.PARENT_END, seconds=0.0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ApiError("log", "job-site", 404, "NotFound"), ""),
        (ApiError("log", "job-site", 0, message="timed out"), "the log could not be read: log job-site: no answer"),
    ],
)
def test_a_pod_that_is_gone_has_no_log(
    api: IdleApi, monkeypatch: pytest.MonkeyPatch, error: ApiError, text: str
) -> None:
    """A lost attempt's log that was read before would be replaced by the error."""

    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(api, "log", fail)
    told = Story().sees(WORKFLOW, POD_RUNNING).sees(WORKFLOW, exited_pod(143)).sees(WORKFLOW)
    assert Loop(api, "", "me", 3).read_log(told.state).startswith(text)
    assert bool(Loop(api, "", "me", 3).read_log(told.state)) == bool(text)


def test_given_up_launch_concludes_without_api(api: IdleApi) -> None:
    def no_response(_: int, when: str) -> None:
        if when == "before":
            raise ApiError("get", "secrets", 0)

    api.trouble = no_response
    loop = Loop(api, "", "me", 3)
    verdicts: list[Verdict] = []
    launched = loop.launch(submit_plan(), lambda: False, lambda verdict, _: verdicts.append(verdict), collect_log=True)
    loop.give_up(launched, "the launch took too long")
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    assert verdicts == [Verdict(Reason.LAUNCH_FAILED, 101, "the launch took too long")] == [launched.verdict]
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert len(verdicts) == 1, "reported once"
    assert launched.verdict == verdicts[0]


def test_given_up_launch_is_ended_later(api: IdleApi) -> None:
    """The job is ended once the API server answers again."""
    loop = Loop(api, "", "me", 3)
    verdicts: list[Verdict] = []
    launched = loop.launch(submit_plan(), lambda: False, lambda verdict, _: verdicts.append(verdict), collect_log=False)
    assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
    loop.give_up(launched, "the launch took too long")
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    deadline = time.monotonic() + THREAD_SECONDS

    def shut_down() -> bool:
        return any(item["spec"].get("shutdown") for item in api.list(Kind.WORKFLOW)[0])

    while not shut_down() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert shut_down() or api.named(Kind.WORKFLOW) == []
    assert [verdict.reason for verdict in verdicts] == [Reason.LAUNCH_FAILED]
    loop.end(Cause.PARENT_END, seconds=0.1)


def test_submit_hands_over_the_workflow_before_its_release(api: IdleApi) -> None:
    """The pod may show before the watch has delivered the Workflow that owns it."""
    loop, inputs = Loop(api, "", "me", 3), list[SiteInput]()
    loop._reconciler.on_handled = lambda input_, _: inputs.append(input_)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
    (created,) = (at for at, it in enumerate(inputs) if isinstance(it, WorkflowCreated))
    (submitted,) = (at for at, it in enumerate(inputs) if isinstance(it, JobInput) and isinstance(it.input, Submitted))
    assert created < submitted
    (workflow,) = (it.item for it in inputs if isinstance(it, WorkflowCreated))
    stored_uid = api.store[Kind.WORKFLOW, "job-site"]["metadata"]["uid"]
    assert (workflow["metadata"]["name"], workflow["metadata"]["uid"]) == ("job-site", stored_uid)
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_earlier_pod_is_deleted_before_the_release(api: IdleApi) -> None:
    """Argo finds a step's pod by its name, and would take the earlier pod's exit for the new job's."""
    metadata = {
        "name": "job-site",
        "uid": "uid-of-the-earlier-pod",
        "labels": LABELS | {WORKFLOW_NAME_LABEL: "job-site"},
        "ownerReferences": [{"kind": "Workflow", "name": "job-site", "uid": "uid-of-the-earlier-workflow"}],
    }
    api.store[Kind.POD, "job-site"] = {"metadata": metadata, "status": {"phase": "Running"}}
    loop = Loop(api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
    assert api.named(Kind.POD) == []
    loop.end(Cause.PARENT_END, seconds=0.0)


class StuckPodsApi(IdleApi):
    """A store whose pods never end, each found by its Workflow's name."""

    def list(self, kind: Kind, labels: str = "", *_: Any, **__: Any) -> tuple[list[Object], str]:
        items, version = super().list(kind)
        if kind is Kind.POD and WORKFLOW_NAME_LABEL in labels:
            items = [item for item in items if f"{WORKFLOW_NAME_LABEL}={item['metadata']['name']}," in labels]
        return items, version

    def _delete(self, kind: Kind, name: str, uid: Uid | None) -> Object:
        return {} if kind is Kind.POD else super()._delete(kind, name, uid)


def named_plan(name: str) -> Plan:
    base = submit_plan()
    workflow = {**base.workflow, "metadata": {**base.workflow["metadata"], "name": name}}
    credentials = replace(base.credentials, name=f"nvflare-cred-{name}-a1")
    return replace(base, name=name, workflow=workflow, credentials=credentials)


def test_launches_that_wait_for_old_pods_delay_no_other() -> None:
    """A node is lost with the pods of twenty jobs, which are launched again. On 5b90c11 they held all submitters."""
    api = StuckPodsApi()
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        api.store[Kind.POD, name] = pod(name, uid=f"old-{name}", owner=f"earlier-{name}", main=RUNNING)
        api.store[Kind.POD, name]["metadata"]["labels"] |= LABELS
    loop = Loop(api, "", "me", 3)
    try:
        waiting = [loop.launch(named_plan(name), lambda: False, lambda *_: None, collect_log=False) for name in names]
        healthy = loop.launch(named_plan("healthy"), lambda: False, lambda *_: None, collect_log=False)
        assert healthy.wait(lambda job: job.is_released, THREAD_SECONDS)
        assert not any(job.is_released or job.verdict for job in waiting)
        for name in names:
            api.store.pop((Kind.POD, name))
        assert all(job.wait(lambda it: it.is_released, THREAD_SECONDS) for job in waiting)
    finally:
        loop.end(Cause.PARENT_END, seconds=0.1)
        api.test_ended.set()


@pytest.fixture
def hanging_api() -> Iterator[HangingApi]:
    api = HangingApi()
    yield api
    api.test_ended.set()


def test_abort_ends_a_launch_whose_request_hangs(hanging_api: HangingApi) -> None:
    loop, verdicts = Loop(hanging_api, "", "me", 3), list[Verdict]()
    launched = loop.launch(submit_plan(), lambda: False, lambda verdict, _: verdicts.append(verdict), collect_log=False)
    assert hanging_api.submit_hangs.wait(THREAD_SECONDS)
    loop.stop(launched, Cause.ABORT)
    assert launched.wait(lambda it: it.verdict is not None, 3)
    assert [verdict.reason for verdict in verdicts] == [Reason.ABORTED]
    assert not launched.is_released
    deadline = time.monotonic() + THREAD_SECONDS
    while loop._jobs and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert loop._jobs == {}, "the job can be launched again"
    loop.end(Cause.PARENT_END, seconds=0.0)
    assert hanging_api.named(Kind.WORKFLOW) == []


def test_launch_whose_request_hangs_fails_in_time(hanging_api: HangingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flargo.control.loop.MAX_SUBMIT_SECONDS", 0.3)
    loop = Loop(hanging_api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.verdict is not None, 3)
    assert launched.verdict is not None
    assert launched.verdict.reason is Reason.LAUNCH_FAILED
    assert launched.verdict.detail == "nothing could be created within 0.3 s: no request was answered"
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_unreachable_api_fails_a_launch_in_time(hanging_api: HangingApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server is never heard, so its watches are never in sync, and no fresh read can succeed."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ApiError("get", "secrets", 0, message="Connection refused")

    hanging_api.list = hanging_api.get = refuse  # type: ignore[method-assign]
    monkeypatch.setattr("flargo.control.loop.MAX_SUBMIT_SECONDS", 0.5)
    loop = Loop(hanging_api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.verdict is not None, 3)
    assert launched.verdict is not None
    assert launched.verdict.reason is Reason.LAUNCH_FAILED
    assert "Connection refused" in launched.verdict.detail
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_second_launch_of_a_name_is_refused(api: IdleApi) -> None:
    loop = Loop(api, "", "me", 3)
    loop.launch(submit_plan("a1"), lambda: False, lambda *_: None, collect_log=False)
    with pytest.raises(SubmitError, match="still being cleaned up"):
        loop.launch(submit_plan("a2"), lambda: False, lambda *_: None, collect_log=False)
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_earlier_handle_does_not_stop_next_launch(api: IdleApi) -> None:
    """FLARE also terminates jobs that ended long before."""
    loop = Loop(api, "", "me", 3)

    def refuse_once(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 403, "Forbidden")

    api.trouble = refuse_once
    first = loop.launch(submit_plan("a1"), lambda: False, lambda *_: None, collect_log=False)
    assert first.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    deadline = time.monotonic() + THREAD_SECONDS
    while loop._jobs and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    second = loop.launch(submit_plan("a2"), lambda: False, lambda *_: None, collect_log=False)
    assert second.wait(lambda it: it.is_released, THREAD_SECONDS)
    loop.stop(first, Cause.ABORT)
    (job,) = loop._jobs.values()
    assert not job.cancelled.is_set()
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert second.verdict is not None
    assert second.verdict.reason is Reason.PARENT_ENDED


def test_requeue_in_centuries_ends_no_thread(api: IdleApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue cannot wait for centuries."""
    loop = Loop(api, "", "me", 3)
    monkeypatch.setattr(loop._reconciler, "next_requeue_at", lambda: 1e300)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    assert launched.wait(lambda it: it.is_released, THREAD_SECONDS)
    loop.end(Cause.PARENT_END, seconds=0.1)


def test_outage_is_logged_once_per_watch(api: IdleApi, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(api, "", "me", 3)
    for _ in range(3):
        for kind in (Kind.WORKFLOW, Kind.POD):
            loop.on_lost(kind, ApiError("watch", kind.value[1], 0))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    lost = "watch lost (last API contact 0 s ago); decisions paused until it recovers"
    assert [line.partition(":")[0] for line in warnings] == [f"Workflow {lost}", f"Pod {lost}"]


def test_a_start_goes_on_where_a_thread_was_refused(api: IdleApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the site would have a reconciler without watches."""
    loop, start = Loop(api, "app=x", "epoch", 1), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "flargo-pods":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            loop.start()
    loop.start()
    assert [thread.is_alive() for thread in loop._threads] == [True] * 3
    loop.end(Cause.PARENT_END, 0.0)


@pytest.fixture
def no_more_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the operating system refuse threads, except the loop's own and the watches'."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if any(word in thread.name for word in ("submit", "report", "perform", "clean")):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("no_more_threads")
def test_launch_without_threads_fails(api: IdleApi) -> None:
    """Neither the submit nor the fresh read nor the report of the verdict gets a thread."""
    loop = Loop(api, "", "me", 3)
    launched = loop.launch(submit_plan(), lambda: False, lambda *_: None, collect_log=False)
    loop.give_up(launched, "took too long")
    assert launched.wait(lambda it: it.verdict is not None, THREAD_SECONDS)
    assert launched.verdict is not None
    assert launched.verdict.reason is Reason.LAUNCH_FAILED
    loop.end(Cause.PARENT_END, seconds=0.0)


@dataclass
class ScriptedReconciler:
    """A reconciler that answers each stop with the given result, or raises it."""

    results: list[Result | Exception]
    inputs: list[SiteInput] = field(default_factory=list)
    states = ()

    def handle(self, input_: SiteInput, _now: float) -> Result:
        self.inputs.append(input_)
        answer = self.results.pop(0) if isinstance(input_, JobInput) and self.results else Result()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def next_requeue_at(self) -> float | None:
        return None

    def wait_for_results(self, count: int) -> list[CommandDone]:
        deadline = time.monotonic() + THREAD_SECONDS
        while ((done := [it for it in self.inputs if isinstance(it, CommandDone)]) and len(done) < count) or not done:
            assert time.monotonic() < deadline, f"{len(done)} of {count} results"
            time.sleep(0.01)
        return done


def command(kind: ActionKind, name: str = "job-site") -> Command:
    return Command(name, name, Action(kind, Uid("uid-1")), "secret", pod_name=name)


def test_a_verdict_has_no_credentials(api: IdleApi) -> None:
    """It is written on the Workflow when the job's credentials are forgotten already."""
    loop, now = Loop(api, "", "me", 3, lambda text: text.replace("t0ken", "[redacted]")), time.monotonic()
    loop._reconciler.handle(Admitted("job-site", "a1", StartTimeouts(), 3), now)
    failed = JobInput("job-site", "a1", Submitted("401 for t0ken", nothing_created=True))
    (verdict,) = {state.verdict for state in loop._reconciler.handle(failed, now).states}
    assert verdict is not None
    assert verdict.detail == "401 for [redacted]"


def test_state_that_cannot_be_published_drops_no_command(
    api: IdleApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = JobState("job-site", "a1", StartTimeouts(), 3, created_at=0.0)
    loop = Loop(api, "", "me", 3)
    reconciler = ScriptedReconciler([Result((command(ActionKind.DELETE_POD),), (state,))])
    loop._reconciler = reconciler  # type: ignore[assignment]
    monkeypatch.setattr(loop, "_publish", lambda _: (_ for _ in ()).throw(ValueError("a defect")))
    loop._inputs.put(JobInput("job-site", "a1", StopRequested(Cause.ABORT)))
    loop.start()
    assert [it.ok for it in reconciler.wait_for_results(1)] == [True]
    assert "job-site: state could not be published" in caplog.text
    loop.end(Cause.PARENT_END, seconds=0.0)
