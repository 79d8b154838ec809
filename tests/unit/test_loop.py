"""The threads around the engine: nobody is left waiting, whatever breaks."""

import threading
import time
from collections.abc import Iterator

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.errors import ApiError
from flargo.control.loop import MAX_ENDING_DETAIL_LENGTH, Loop
from flargo.control.reconciler import Command, Result
from flargo.control.submit import SubmitError
from flargo.status.job_state import Action, ActionKind
from flargo.status.reasons import Reason
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Annotation
from tests.harness.fake_api import LONG, QuietApi
from tests.harness.plans import plan


@pytest.fixture
def api() -> Iterator[QuietApi]:
    made = QuietApi()
    yield made
    made.over.set()


def test_a_parent_that_ends_leaves_nobody_waiting_and_tells_each_outcome(api: QuietApi) -> None:
    loop = Loop(api, "", "me", 3)
    told: list[Verdict] = []
    ticket = loop.launch(plan(), lambda: False, lambda verdict, _: told.append(verdict), collect_log=False)
    assert ticket.wait(lambda it: it.is_released, LONG)
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    assert [verdict.reason for verdict in told] == [Reason.PARENT_ENDED]


def test_a_parent_that_has_ended_launches_nothing(api: QuietApi) -> None:
    loop = Loop(api, "", "me", 3)
    loop.end(Cause.PARENT_END, seconds=0.0)
    with pytest.raises(SubmitError, match="shutting down"):
        loop.launch(plan(), lambda: False, lambda *_: None, collect_log=False)
    assert api.named(Kind.WORKFLOW) == []


def test_a_launch_that_meets_the_parents_end_is_refused_or_told(api: QuietApi) -> None:
    """Whoever waits for a job that fell between would wait for ever, and keep the parent's process alive."""
    loop = Loop(api, "", "me", 3)

    class Meeting(threading.Event):
        """No end is in sight, and in the next moment there it is."""

        def is_set(self) -> bool:
            found = super().is_set()
            ending.start()
            ending.join(0.5)
            return found

    ending = threading.Thread(target=loop.end, args=(Cause.PARENT_END, 0.1))
    loop._is_ending = Meeting()
    ticket = loop.launch(plan(), lambda: False, lambda *_: None, collect_log=False)
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    ending.join(LONG)


def test_a_report_that_fails_does_not_keep_the_verdict_from_flare(api: QuietApi) -> None:
    def trouble(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 403, "Forbidden")

    def report(_: Verdict, __: str) -> None:
        raise OSError("disk full")

    api.trouble = trouble
    api.trouble = trouble
    loop = Loop(api, "", "me", 3)
    ticket = loop.launch(plan(), lambda: False, report, collect_log=False)
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    assert ticket.verdict is not None
    assert ticket.verdict.reason is Reason.LAUNCH_FAILED
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_a_launch_that_is_given_up_is_over_for_flare_though_the_api_answers_nothing(api: QuietApi) -> None:
    def silent(_: int, when: str) -> None:
        if when == "before":
            raise ApiError("get", "secrets", 0)

    api.trouble = silent
    loop = Loop(api, "", "me", 3)
    told: list[Verdict] = []
    ticket = loop.launch(plan(), lambda: False, lambda verdict, _: told.append(verdict), collect_log=True)
    loop.give_up(ticket, "nobody waits for it")
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    assert told == [Verdict(Reason.LAUNCH_FAILED, 101, "nobody waits for it")] == [ticket.verdict]
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert len(told) == 1, "once"
    assert ticket.verdict == told[0]


def test_a_launch_that_is_given_up_is_ended_once_the_api_answers(api: QuietApi) -> None:
    loop = Loop(api, "", "me", 3)
    told: list[Verdict] = []
    ticket = loop.launch(plan(), lambda: False, lambda verdict, _: told.append(verdict), collect_log=False)
    assert ticket.wait(lambda it: it.is_released, LONG)
    loop.give_up(ticket, "nobody waits for it")
    assert ticket.wait(lambda it: it.verdict is not None, LONG)
    deadline = time.monotonic() + LONG

    def shut_down() -> bool:
        return any(item["spec"].get("shutdown") for item in api.list(Kind.WORKFLOW)[0])

    while not shut_down() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert shut_down() or api.named(Kind.WORKFLOW) == []
    assert [verdict.reason for verdict in told] == [Reason.LAUNCH_FAILED]
    loop.end(Cause.PARENT_END, seconds=0.1)


def test_a_job_of_the_same_name_is_not_launched_over_the_first(api: QuietApi) -> None:
    loop = Loop(api, "", "me", 3)
    loop.launch(plan("a1"), lambda: False, lambda *_: None, collect_log=False)
    with pytest.raises(SubmitError, match="still being cleaned up"):
        loop.launch(plan("a2"), lambda: False, lambda *_: None, collect_log=False)
    loop.end(Cause.PARENT_END, seconds=0.0)


def test_the_handle_of_an_earlier_launch_ends_nothing_of_the_next_one(api: QuietApi) -> None:
    """FLARE also terminates what has ended long before."""
    loop = Loop(api, "", "me", 3)

    def refuse_once(number: int, when: str) -> None:
        if (number, when) == (1, "before"):
            raise ApiError("get", "secrets", 403, "Forbidden")

    api.trouble = refuse_once
    first = loop.launch(plan("a1"), lambda: False, lambda *_: None, collect_log=False)
    assert first.wait(lambda it: it.verdict is not None, LONG)
    deadline = time.monotonic() + LONG
    while loop._jobs and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    second = loop.launch(plan("a2"), lambda: False, lambda *_: None, collect_log=False)
    assert second.wait(lambda it: it.is_released, LONG)
    loop.stop(first, Cause.ABORT)
    (job,) = loop._jobs.values()
    assert not job.cancelled.is_set()
    loop.end(Cause.PARENT_END, seconds=0.1)
    assert second.verdict is not None
    assert second.verdict.reason is Reason.PARENT_ENDED


def test_a_moment_beyond_all_clocks_ends_nobodys_following(api: QuietApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """No queue can be told to wait for centuries."""
    loop = Loop(api, "", "me", 3)
    monkeypatch.setattr(loop._reconciler, "next_requeue_at", lambda: 1e300)
    ticket = loop.launch(plan(), lambda: False, lambda *_: None, collect_log=False)
    assert ticket.wait(lambda it: it.is_released, LONG)
    loop.end(Cause.PARENT_END, seconds=0.1)


def test_a_workflow_that_is_ended_says_why_without_secrets_and_without_templates(api: QuietApi) -> None:
    api.create(Kind.WORKFLOW, {"metadata": {"name": "job-site"}, "spec": {}})
    uid = api.get(Kind.WORKFLOW, "job-site")["metadata"]["uid"]
    loop = Loop(api, "", "me", 3, redact=lambda text: text.replace("s3cret", "[redacted]"))
    detail = "image {{workflow.uid}} of s3cret " + "x" * 2000
    loop._send(
        Command("job-site", "job-site", Action(ActionKind.SHUTDOWN, uid), "", end_reason=Reason.IMAGE, detail=detail)
    )
    found = api.get(Kind.WORKFLOW, "job-site")
    notes = found["metadata"]["annotations"]
    assert found["spec"] == {"shutdown": "Terminate"}
    assert notes[Annotation.ENDING] == "IMAGE"
    assert notes[Annotation.ENDING_DETAIL].startswith("image { {workflow.uid}} of [redacted] xxx")
    assert len(notes[Annotation.ENDING_DETAIL]) == MAX_ENDING_DETAIL_LENGTH


def test_an_api_that_is_away_is_said_once_a_stream_and_not_at_each_try(
    api: QuietApi, caplog: pytest.LogCaptureFixture
) -> None:
    def trouble(_number: int, _when: str) -> None:
        raise ApiError("patch", "workflows", 0, message="refused")

    loop, order = Loop(api, "", "me", 3), Command("job-site", "job-site", Action(ActionKind.SHUTDOWN), "")
    api.trouble = trouble
    for _ in range(3):
        for kind in (Kind.WORKFLOW, Kind.POD):
            loop.on_lost(kind, ApiError("watch", kind.value[1], 0))
        loop._perform(order)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    lost = "watch lost (last API contact 0 s ago); decisions paused until it recovers"
    assert [line.partition(":")[0] for line in warnings] == [f"Workflow {lost}", f"Pod {lost}"]


def test_what_fails_while_the_api_is_heard_is_said(api: QuietApi, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(api, "", "me", 3)
    api.trouble = lambda *_: (_ for _ in ()).throw(ApiError("patch", "workflows", 403, "Forbidden"))
    loop._perform(Command("job-site", "job-site", Action(ActionKind.SHUTDOWN), ""))
    assert "job-site: failed to shut down the Workflow" in caplog.text


def test_the_credentials_of_many_jobs_that_end_at_once_hold_up_no_kill(api: QuietApi) -> None:
    api.create(Kind.WORKFLOW, {"metadata": {"name": "job-site"}, "spec": {}})
    uid, goes_on = api.get(Kind.WORKFLOW, "job-site")["metadata"]["uid"], threading.Event()
    loop, ended = Loop(api, "", "me", 3), threading.Event()
    api.delete = lambda *_, **__: goes_on.wait(LONG)  # type: ignore[assignment, method-assign]
    api.merge = lambda *_, **__: ended.set()  # type: ignore[assignment, method-assign]
    drops = [
        Command(f"job-{number}", f"job-{number}", Action(ActionKind.DELETE_SECRET), "secret") for number in range(20)
    ]
    loop._execute(Result((*drops, Command("job-site", "job-site", Action(ActionKind.SHUTDOWN, uid), ""))))
    assert ended.wait(LONG)
    goes_on.set()
    loop.end(Cause.PARENT_END, seconds=0.0)
