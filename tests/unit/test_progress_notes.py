"""The rounds of running server's jobs: read from their logs, and noted on their Workflows, once a second at most."""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flargo.cluster.api import Kind
from flargo.cluster.bodies import LogPiece
from flargo.cluster.errors import ApiError
from flargo.control import progress_notes
from flargo.control.progress_notes import READ_SECONDS, ProgressNotes
from flargo.flare.job_files import read_round_count
from flargo.log_rounds import MAX_NUMBER, Rounds, parse_note, parse_started_round
from flargo.status.diagnosis import Stage
from flargo.status.views import PodView, WorkflowView
from flargo.terms import Annotation, Uid
from tests.harness.fake_api import MemoryApi


class LogApi(MemoryApi):
    """A store whose pods have logs; it counts requests of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, list[str | LogPiece]] = {}
        self.sinces: list[str] = []
        self.read_names: list[str] = []
        self.merges = 0
        self.refusal: ApiError | None = None
        self.open_connections = 0

    def log_lines(self, pod: str, *_: Any, since: str = "", **__: Any) -> Iterator[LogPiece]:
        self.sinces.append(since)
        self.read_names.append(pod)
        if self.refusal is not None:
            raise self.refusal
        return self._pieces(pod)

    def _pieces(self, pod: str) -> Iterator[LogPiece]:
        self.open_connections += 1
        try:
            yield from (each if isinstance(each, LogPiece) else LogPiece(each) for each in self.lines.get(pod, []))
        finally:
            self.open_connections -= 1

    def merge(self, kind: Kind, name: str, patch: Any) -> Any:
        self.merges += 1
        return super().merge(kind, name, patch)


class Story:
    """A parent with the logs of some running jobs, and a clock that the test sets."""

    def __init__(self, count: int = 1, total: int | None = 5, *, may_change: bool = True) -> None:
        self.api = LogApi()
        self.now = 1000.0
        self.may_change = may_change
        self.notes = ProgressNotes(self.api, lambda: self.may_change, lambda: self.now)
        self.notes._is_running = True  # the test calls `step` itself
        for number in range(count):
            name = f"job-{number}"
            self.api.store[Kind.WORKFLOW, name] = {"metadata": {"name": name, "uid": f"w-{number}"}, "spec": {}}
            pod = PodView(Uid(f"p-{number}"), f"pod-{number}", Uid(f"w-{number}"), name)
            self.notes.follow(WorkflowView(Uid(f"w-{number}"), name), pod, total)

    def run(self, seconds: int) -> None:
        """Let the thread's steps happen for a number of seconds."""
        for _ in range(seconds):
            self.notes.step()
            self.now += 1

    def note(self, number: int = 0) -> str | None:
        annotations = self.api.store[Kind.WORKFLOW, f"job-{number}"]["metadata"].get("annotations") or {}
        value: str | None = annotations.get(Annotation.PROGRESS)
        return value


def line(round_number: int, second: int = 0) -> str:
    return f"2026-01-01T00:00:{second:02}.5Z 2026-01-01 - FedAvg - INFO - Round {round_number} started."


def test_round_is_noted_once_it_has_changed() -> None:
    story = Story()
    story.run(6)
    assert (story.note(), story.api.merges) == (None, 0)
    story.api.lines["pod-0"] = [line(0), "2026-01-01T00:00:01Z sites train"]
    story.run(15)
    assert (story.note(), story.api.merges) == ("1/5", 1)
    story.api.lines["pod-0"] += [line(1, 2), line(2, 3)]
    story.run(5)
    assert (story.note(), story.api.merges) == ("3/5", 2)
    assert story.api.sinces[-1] == "2026-01-01T00:00:01Z", "only what is new is read"
    assert story.api.open_connections == 0


@pytest.mark.parametrize("count", [1, 3, 50])
def test_requests_do_not_grow_with_the_jobs(count: int) -> None:
    """One read and one write a second at most, and each job has its turn."""
    story = Story(count)
    for number in range(count):
        story.api.lines[f"pod-{number}"] = [line(0)]
    for _ in range(60):
        reads, merges = len(story.api.sinces), story.api.merges
        story.run(1)
        assert len(story.api.sinces) - reads <= 1
        assert story.api.merges - merges <= 1
    assert len(story.api.sinces) == min(60, count * 60 / READ_SECONDS)
    assert {story.note(number) for number in range(count)} == {"1/5"}


def test_unknown_or_wrong_number_of_rounds_is_left_out() -> None:
    unknown, wrong = Story(total=None), Story(total=2)
    for story in (unknown, wrong):
        story.api.lines["pod-0"] = [line(2)]
        story.run(1)
        assert story.note() == "3"


def test_ended_job_is_read_once_more() -> None:
    """The last round may have begun since the last read."""
    story = Story(2)
    story.run(2)
    story.api.lines["pod-0"] = [line(4)]
    story.notes.finish("job-0")
    story.notes.finish("job-0")
    story.run(1)
    assert story.note() == "5/5"
    story.run(20)
    assert story.api.read_names.count("pod-0") == 2
    story.notes.finish("no such job")


def test_end_during_a_read_leads_to_a_last_read() -> None:
    story = Story()

    def end(*_: Any, **__: Any) -> Iterator[LogPiece]:
        story.notes.finish("job-0")
        del story.api.log_lines  # the next read is a normal one
        yield LogPiece("nothing")

    story.api.log_lines = end  # type: ignore[method-assign]
    story.run(1)
    story.api.lines["pod-0"] = [line(4)]
    story.run(1)
    assert story.note() == "5/5"
    assert story.notes._jobs == {}


@pytest.mark.parametrize("status", [403, 503, 0])
def test_refused_reads_become_rare(status: int, caplog: pytest.LogCaptureFixture) -> None:
    story = Story()
    story.api.refusal = ApiError("log", "pods pod-0", status, "Forbidden" if status == 403 else "")
    with caplog.at_level(logging.INFO):
        story.run(701)
    assert len(story.api.sinces) == 6, "after 0, 10, 40, 100, 400 and 700 s"
    assert not caplog.text, "nothing depends on it"
    story.api.refusal, story.api.lines["pod-0"] = None, [line(0)]
    story.run(301)
    assert story.note() == "1/5"


def test_job_whose_pod_is_gone_is_forgotten() -> None:
    story = Story()
    story.api.refusal = ApiError("log", "pods pod-0", 404, "NotFound")
    story.run(100)
    assert len(story.api.sinces) == 1


def test_parent_that_lost_its_site_writes_nothing() -> None:
    story = Story(may_change=False)
    story.api.lines["pod-0"] = [line(0)]
    story.run(10)
    assert story.api.merges == 0
    story.may_change = True
    story.run(5)
    assert story.note() == "1/5"


def test_note_that_was_refused_is_tried_again() -> None:
    story = Story()
    story.api.lines["pod-0"] = [line(0)]
    story.api.trouble = lambda number, _: refuse() if number == 1 else None
    story.run(11)
    assert (story.note(), story.api.merges) == ("1/5", 2)


def refuse() -> None:
    raise ApiError("patch", "workflows job-0", 503)


def test_long_and_foreign_lines_are_read_safely() -> None:
    story = Story()
    endless = LogPiece("2026-01-01T00:00:01Z xxx", is_partial=True)
    story.api.lines["pod-0"] = [line(0), endless, LogPiece("Round 3 started", is_partial=True), LogPiece("9999")]
    story.run(1)
    assert story.note() == "1/5"
    story.api.lines["pod-0"] = [*["9" * 100 + " Round " + "9" * 5000 + " started"] * 10_000, line(2)]
    story.run(5)
    assert story.note() == "1/5", "one read is limited"
    assert story.api.open_connections == 0


def test_job_is_followed_while_its_program_runs() -> None:
    story = Story(0)
    workflow, pod = WorkflowView(Uid("w-9"), "job-9"), PodView(Uid("p-9"), "pod-9", Uid("w-9"), "job-9")

    def state(stage: Stage, verdict: Any = None, pods: tuple[PodView, ...] = (pod,)) -> Any:
        observation = SimpleNamespace(workflow=workflow, pods=pods)
        return SimpleNamespace(
            name="job-9", stage=stage, verdict=verdict, observation=observation, first_pod_uid=Uid("p-9")
        )

    for each in (state(Stage.STARTING), state(Stage.RUNNING, pods=()), state(Stage.RUNNING, verdict="x")):
        story.notes.on_state(each, 5)
        assert story.notes._jobs == {}
    story.notes.on_state(state(Stage.RUNNING), 5)
    story.notes.on_state(state(Stage.RUNNING), 5)
    assert story.notes._jobs["job-9"].total == 5
    story.notes.on_state(state(Stage.ENDED), 5)
    story.run(1)
    assert story.notes._jobs == {}


def test_thread_ends_with_the_last_job_and_starts_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_notes, "TICK_SECONDS", 0.01)
    api = LogApi()
    api.lines["pod"] = [line(1)]
    api.store[Kind.WORKFLOW, "job"] = {"metadata": {"name": "job", "uid": "w"}, "spec": {}}
    notes = ProgressNotes(api, lambda: True)
    workflow, pod = WorkflowView(Uid("w"), "job"), PodView(Uid("p"), "pod", Uid("w"), "job")
    for _ in range(2):
        notes.follow(workflow, pod, None)
        notes.finish("job")
        wait_until(lambda: not notes._is_running)
    assert api.store[Kind.WORKFLOW, "job"]["metadata"]["annotations"][Annotation.PROGRESS] == "2"
    notes.close()
    notes.follow(workflow, pod, None)
    assert notes._jobs == {}
    assert not any(thread.name == "flargo-progress" for thread in threading.enumerate())


def test_thread_works_once_a_second() -> None:
    """However many jobs run, it reads one log between two waits, and so writes one note at most."""
    story = Story(3)
    waits: list[float] = []
    reads: list[int] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        reads.append(len(story.api.sinces))
        return len(waits) > 4

    story.notes._is_closed = SimpleNamespace(wait=wait)  # type: ignore[assignment]
    story.notes._run()
    assert waits == [1.0] * 5
    assert reads == [0, 1, 2, 3, 3]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)


# The pure parts


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Round 0 started.", 1),
        ("  Round 41 started  ", 42),
        (f"Round {MAX_NUMBER} started", MAX_NUMBER + 1),
        (f"Round {MAX_NUMBER + 1} started", None),
        ("Round 9999999999999999999999 started", None),
        ("Round ٣ started", None),
        ("Round -1 started", None),
        ("a round started", None),
    ],
)
def test_started_round(text: str, number: int | None) -> None:
    assert parse_started_round(text) == number


@pytest.mark.parametrize(("note", "rounds"), [("2/5", Rounds(2, 5)), ("2", Rounds(2)), ("5/5", Rounds(5, 5))])
def test_note_is_read_as_it_was_written(note: str, rounds: Rounds) -> None:
    assert parse_note(note) == rounds
    assert rounds.note == note


@pytest.mark.parametrize(
    "note", ["", "0", "0/5", "6/5", "2/", "/5", "2/5/6", "2/99999999", "²", "2/5\n", "9" * 5000, "x"]
)
def test_nonsense_is_no_note(note: str) -> None:
    assert parse_note(note) is None


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ('{"workflows": [{"args": {"num_rounds": 3}}]}', 3),
        ('{"workflows": [{"args": {"num_rounds": 3}}, {"args": {}}, {"id": "x"}]}', 3),
        ('{"workflows": [{"args": {"num_rounds": 3}}, {"args": {"num_rounds": 4}}]}', None),
        ('{"workflows": [{"args": {"num_rounds": true}}]}', None),
        ('{"workflows": [{"args": {"num_rounds": -3}}]}', None),
        ('{"workflows": [{"args": {"num_rounds": 99999999}}]}', None),
        ('{"workflows": [{"args": {"num_rounds": "3"}}, 3, null, [[]]]}', None),
        ('{"workflows": {}}', None),
        ("[1]", None),
        ("workflows = [{args.num_rounds = 3}]", None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_number_of_rounds_is_the_configurations(config: str, count: int | None, tmp_path: Path) -> None:
    file = tmp_path / "app_server" / "config" / "config_fed_server.json"
    assert read_round_count(tmp_path) is None
    file.parent.mkdir(parents=True)
    file.write_text(config)
    assert read_round_count(tmp_path) == count


def test_configuration_behind_a_link_is_not_read(tmp_path: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "app_server" / "config" / "config_fed_server.json"
    other.write_text('{"workflows": [{"args": {"num_rounds": 3}}]}')
    file.parent.mkdir(parents=True)
    file.symlink_to(other)
    assert read_round_count(tmp_path) is None
