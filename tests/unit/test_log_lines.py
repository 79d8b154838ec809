"""A log's lines over connections that break: each once, in their order, and only the program's."""

import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Api, Kind
from flargo.cluster.bodies import LogPiece
from flargo.cluster.errors import ApiError
from flargo.terms import Object, Uid
from flargo.tools.jobs import log_lines
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line, LogDeduplicator, parse_line
from flargo.tools.jobs.log_tail import LogTail
from tests.harness.fake_api import connect_to_nothing
from tests.harness.objects import RUNNING, pod, terminated_state, workflow

# As a real node has them (argo 3.7.18, Kubernetes 1.34): the program writes without an end of line, and exits with 3.
EXITED = 'time="2026-11-24T12:53:48.300Z" level=info msg="sub-process exited" argo=true error="<nil>"'
REAL = [
    "2026-11-24T12:53:45.319194725Z hello",
    f"2026-11-24T12:53:48.301837924Z {EXITED}",
    "2026-11-24T12:53:48.301861739Z Error: exit status 3",
    "2026-11-24T12:53:48.304306824Z no newline",
]


def filter_lines(*lines: str) -> list[str]:
    executor_filter = ExecutorLineFilter()
    return [output.text for line in lines if (output := executor_filter.filter(Line("", line))) is not None]


def test_executor_lines_are_removed() -> None:
    assert filter_lines(*(parse_line(raw).text for raw in REAL)) == ["hello", "no newline"]


def test_last_text_without_newline_is_kept() -> None:
    assert filter_lines(f"bye.{EXITED}") == ["bye."]


@pytest.mark.parametrize(
    "line",
    [
        "Error: exit status 3",
        'time="2026-11-24T12:53:48Z" level=info msg="my own logger"',
        "",
        '  File "x.py", line 3',
        "argo=true",
    ],
)
def test_program_lines_are_kept(line: str) -> None:
    assert filter_lines(line) == [line]


@pytest.mark.parametrize(
    "line",
    [
        'time="2026-11-24T12:53:45Z" level=info msg="capturing logs" argo=true',
        'time=2026-11-24T12:53:45Z level=INFO msg="capturing logs" argo=true',
        '{"argo":true,"level":"info","msg":"capturing logs","time":"2026-11-24T12:53:45Z"}',
    ],
)
def test_every_executor_format_is_recognised(line: str) -> None:
    assert filter_lines(line) == []


SLOG = '{"time":"2026-11-24T12:53:45Z","level":"INFO","msg":"capturing logs","argo":true}'


@pytest.mark.parametrize(
    "record",
    [
        EXITED,
        'time="2026-11-24T12:53:45Z" level=info msg="time=now level=x msg=y" argo=true',
        'time="2026-11-24T12:53:45Z" level=error msg="it said" argo=true error="a { b"',
        '{"argo":true,"level":"info","msg":"{ \\"level\\": {","time":"2026-11-24T12:53:45Z"}',
        SLOG,
        '{"error":{"argo":true,"level":1},"level":"ERROR","argo":true,"more":{"a":{}}}',
    ],
)
@pytest.mark.parametrize("text", ["bye.", "time=", "{", '{"a": 1}', "time=1 level=x msg=", "x" * 300_000])
def test_executor_record_is_cut_off_program_text(record: str, text: str) -> None:
    assert filter_lines(f"{text}{record}") == [text]


@pytest.mark.parametrize(
    "line",
    [
        '{"x": {"argo":true}, "level": 1}',
        '{"argo":false,"level":"info"}',
        '{"argo":true,"level":"info"} and on',
        "time=1 level=info msg=x argo=trues",
        "time=1 level=info msg=x cargo=true",
        "argo=true time=1 level=info msg=x",
        '"argo":true "level":}',
    ],
)
def test_similar_program_lines_are_kept(line: str) -> None:
    assert filter_lines(line) == [line]


@pytest.mark.parametrize(
    "word",
    ['{"argo":true,"level":', "time=x level=y msg=", "argo=true ", '{"a":', "{", "Error: signal: ", '"', "argo"],
)
@pytest.mark.parametrize("end", ["", "}", " argo=true"])
def test_long_similar_lines_are_searched_fast(word: str, end: str) -> None:
    """With a search from each place to the end of the line, each of these takes days."""
    line = word * (3_000_000 // len(word)) + end
    begin = log_lines.find_executor_text(line)
    assert begin is None or begin > len(line) - 2**14


def in_pieces(text: str, size: int) -> list[Line]:
    cuts = range(0, len(text), size)
    return [Line("", text[at : at + size], at + size < len(text), at + size >= len(text)) for at in cuts]


@pytest.mark.parametrize("size", [10_000, 65_536])
@pytest.mark.parametrize("shift", [0, 5, 60, 9_000])
@pytest.mark.parametrize("record", [EXITED, SLOG])
def test_executor_record_is_found_across_pieces(record: str, shift: int, size: int) -> None:
    text = "x" * (3 * size - shift)
    executor_filter = ExecutorLineFilter()
    pieces = map(executor_filter.filter, in_pieces(f"{text}{record}", size))
    lines = [line for line in pieces if line is not None]
    assert "".join(line.text for line in lines) == text
    assert [line.is_partial for line in lines] == [True] * (len(lines) - 1) + [False]
    assert not lines[-1].has_newline, "the program wrote no line end"


@pytest.mark.parametrize("raw", ["no time at all", "2026-01-01 date only", "", "2026-01-01T00:00:00 x"])
def test_line_without_time_is_all_text(raw: str) -> None:
    assert parse_line(raw) == Line("", raw)


NO_STAMPS = [
    "0001-01-01T00:00:00+14:00 x",
    "9999-12-31T23:59:59-14:00 x",
    "9997-01-01T00:00:00Z x",
    "1999-12-31T23:59:59Z x",
    "2026-01-01T00:00:00+99:99 x",
    "2026-13-01T00:00:00Z x",
    "2026-W01-1T00:00:00Z x",
    "20260101T000000Z x",
    "2026-01-01 00:00:00Z x",
    "2026-01-01T00:00Z x",
    "2026-01-01T00:00:00,5Z x",
    "2026-01-01T00:00:00+00:00:01 x",
    "2026-01-01T00:00:00.1234567890123456789Z x",
    "\uff12\uff10\uff12\uff16-01-01T00:00:00Z x",
    "2026-01-01T00:00:0\u0663Z x",
    "2026-01-01T00:00:00Z\n x",
]


@pytest.mark.parametrize("raw", NO_STAMPS)
def test_invalid_times_are_text(raw: str) -> None:
    assert parse_line(raw) == Line("", raw)


@given(st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{0,9})?(Z|[+-][0-9:]{0,8})? x"))
def test_any_line_can_be_parsed_and_resumed(raw: str) -> None:
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    for line in (parse_line(raw), Line(raw, "x")):
        deduplicator.is_new(line)
        assert line.parsed_time is None or 2000 <= line.parsed_time.year <= 2200
    deduplicator.connect()


def test_programs_time_does_not_move_resume_time() -> None:
    """A connection may begin in the middle of a line, whose rest has no time of the kubelet's before it."""
    deduplicator = LogDeduplicator()
    for year in (2100, 2150):
        deduplicator.connect()
        new_lines(deduplicator, [Line(f"{year}-01-01T00:00:00Z", "no")] if year > 2100 else [stamped(5, "a")])
    assert deduplicator.connect() == "2026-01-01T00:00:04+00:00"
    repeated = [stamped(5, "a"), stamped(9, "b"), stamped(30, "c")]
    assert new_lines(deduplicator, repeated) == ["b", "c"], "nothing is lost"
    assert deduplicator.connect() == "2026-01-01T00:00:29+00:00"


def test_pieces_do_not_move_the_resume_time() -> None:
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    deduplicator.is_new(stamped(5, "a"))
    deduplicator.connect()
    for text in ("one", "two", "three"):
        deduplicator.is_new(Line("2150-01-01T00:00:00Z", text, is_partial=True, has_newline=False))
    assert deduplicator.connect() == "2026-01-01T00:00:04+00:00"


def stamped(second: int, text: str, nanos: int = 0) -> Line:
    return Line(f"2026-01-01T00:00:{second:02}.{nanos:09}Z", text)


def new_lines(deduplicator: LogDeduplicator, lines: list[Line]) -> list[str]:
    return [line.text for line in lines if deduplicator.is_new(line)]


def test_repeated_lines_pass_once() -> None:
    deduplicator = LogDeduplicator()
    assert deduplicator.connect() == ""
    first = [stamped(5, "a"), stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b")]
    assert new_lines(deduplicator, first) == ["a", "same", "same", "b"]
    assert deduplicator.connect() == "2026-01-01T00:00:05+00:00"
    repeated = [*first[:2], stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b"), stamped(6, "c")]
    assert new_lines(deduplicator, repeated) == ["same", "c"], "a third one like it was new"


def test_lines_out_of_order_are_kept() -> None:
    """The lines of stdout and stderr are written by two threads, so their times may be out of order."""
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    assert new_lines(deduplicator, [stamped(5, "late", 9), stamped(5, "early", 1)]) == ["late", "early"]


def test_resume_time_respects_time_zones() -> None:
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    deduplicator.is_new(Line("2026-01-01T02:00:05.5+02:00", "x"))
    assert datetime.fromisoformat(deduplicator.connect()) == datetime.fromisoformat("2026-01-01T00:00:04Z")


def test_only_repeatable_lines_are_remembered() -> None:
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    for second in range(50):
        new_lines(deduplicator, [stamped(second, str(n)) for n in range(100)])
    assert len(deduplicator._recent) <= 200


# The reading of it, over and over


def test_endless_line_is_not_kept_in_memory() -> None:
    deduplicator = LogDeduplicator()
    deduplicator.connect()
    for _ in range(1000):
        assert deduplicator.is_new(Line("2026-01-01T00:00:00Z", "x" * 65_536, is_partial=True, has_newline=False))
    assert sum(len(line.text) for line in deduplicator._recent) < 100_000


class Node(Api):
    """Serves one pod's log, of which each connection breaks as a seed has it."""

    def __init__(self, log: list[str], seed: int = 0, *, max_lines: int = 10**9) -> None:
        super().__init__(connect_to_nothing, "ns")
        self.raw_lines, self.max_lines = log, max_lines
        self.random = random.Random(seed)  # noqa: S311  (no secret)
        self.written_lines = 0
        self.state: Object = RUNNING
        self.since_times: list[str] = []
        self.tails: list[int | None] = []
        self.is_pod_deleted = False
        self.workflow = workflow(phase="Running")

    def list(self, kind: Kind, labels: str = "", *_: Any, **__: Any) -> tuple[list[Object], str]:
        del labels
        if kind is Kind.POD and self.random.random() < 0.1 and self.max_lines < 10**9:
            raise ApiError("list", "pods", 0, message="reset")
        return ([] if self.is_pod_deleted else [pod(main=self.state, phase="Running")]), "1"

    def get(self, kind: Kind, name: str) -> Object:
        del kind, name
        return self.workflow

    def log_lines(
        self,
        pod: str,
        container: str,
        *,
        follow: bool,
        since: str = "",
        tail: int | None = None,
        silence: float = 0,
    ) -> Iterator[LogPiece]:
        del pod, container, silence
        self.since_times.append(since)
        self.tails.append(tail)
        begin = datetime.fromisoformat(since) if since else None
        sent = 0
        first = max(0, self.written_lines - tail) if tail is not None else 0
        for at, raw in enumerate(self.raw_lines[first:], first):
            if at >= self.written_lines:
                if not follow:
                    return
                self.written_lines += 1
            time = parse_line(raw).parsed_time
            if begin is not None and time is not None and time < begin:
                continue
            if sent >= self.random.randint(1, self.max_lines):
                raise ApiError("log", "p", 0, message="cut")
            sent += 1
            yield LogPiece(raw)
        self.state = terminated_state(0)


def read(node: Node, *, follow: bool = True) -> tuple[list[str], list[str]]:
    messages: list[str] = []
    tail = LogTail(node, "job-site", Uid("w1"), lambda _: None, messages.append)
    return [line.text for line in tail.lines(follow=follow)], messages


@pytest.mark.parametrize("seed", range(30))
def test_broken_connections_lose_and_repeat_no_line(seed: int) -> None:
    texts = [f"line {n // 3}" if n % 7 else "the same" for n in range(300)]
    log = [f"2026-01-01T00:00:{n // 10:02}.{n % 10 // 3:09}Z {text}" for n, text in enumerate(texts)]
    node = Node(log, seed, max_lines=60)
    lines, _ = read(node)
    assert lines == texts
    assert len(node.since_times) > 3


def test_follow_ends_with_the_program() -> None:
    node = Node(REAL)
    node.written_lines = 1
    assert read(node, follow=False)[0] == ["hello"]
    assert read(node)[0] == ["hello", "no newline"]


def test_last_lines_are_read_after_the_end() -> None:
    """A connection may end before all of it was told."""

    class Hasty(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            if options["follow"]:
                self.state = terminated_state(0)
                return iter([LogPiece(self.raw_lines[0])])
            self.written_lines = len(self.raw_lines)
            return super().log_lines(pod, container, **options)

    assert read(Hasty(REAL))[0] == ["hello", "no newline"]


def test_deleted_pod_is_reported() -> None:
    class Goes(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            del pod, container, options
            self.is_pod_deleted = True
            yield LogPiece(self.raw_lines[0])
            raise ApiError("log", "p", 0, message="cut")

    class Refuses(Goes):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            if self.is_pod_deleted:
                raise ApiError("log", "p", 404, "NotFound")
            yield from super().log_lines(pod, container, **options)

    lines, messages = read(Refuses(REAL))
    assert lines == ["hello"]
    assert "its pod was deleted" in messages[0]


def test_refused_log_request_is_raised() -> None:
    class Forbids(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            del options
            raise ApiError("log", f"pods {pod} {container}", 403)

    with pytest.raises(ApiError, match="403"):
        read(Forbids(REAL))


def test_only_follow_waits_for_the_program() -> None:
    node = Node(REAL)
    node.state = {"waiting": {"reason": "PodInitializing"}}
    lines, messages = read(node, follow=False)
    assert (lines, messages) == ([], ["job-site: its program has not started"])
    looks = iter(range(3))

    def pause(_: float) -> None:
        if next(looks, None) is None:
            node.state = RUNNING

    waits: list[str] = []
    tail = LogTail(node, "job-site", Uid("w1"), pause, waits.append)
    assert [line.text for line in tail.lines(follow=True)] == ["hello", "no newline"]
    assert waits == ["job-site: its program has not started yet"], "said once"


def test_program_that_never_starts_is_reported() -> None:
    node = Node(REAL)
    node.is_pod_deleted = True
    node.workflow = workflow(phase="Failed")
    assert read(node) == ([], ["job-site: its program has not started"])


def test_a_log_that_went_with_its_pod_is_reported() -> None:
    """After `flargo terminate`, for example. Argo has had a pod, and nobody knows whether its program had started."""
    node = Node(REAL)
    node.is_pod_deleted = True
    node.workflow = workflow(phase="Failed", nodes={"n": {"id": "n", "type": "Pod", "phase": "Failed"}})
    assert read(node) == ([], ["job-site: its pod is gone, and the log with it"])


# Lines in pieces


def long_lines() -> tuple[list[LogPiece], list[str]]:
    """A log as a node serves it: lines of up to six pieces, each with its time before the first; and their texts."""
    pieces, texts = [], []
    for number in range(40):
        parts = ["same" * 3000 if part % 2 else f"{number}-" * 4000 for part in range(number % 7)] or ["short"]
        texts.append("".join(parts))
        parts[0] = f"2026-01-01T00:00:{number:02}Z {parts[0]}"
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            pieces.append(LogPiece(part, is_partial=not last, has_newline=last))
    return pieces, texts


class Cutting(Node):
    """Serves a log in pieces, from whole lines on, over connections that break."""

    def __init__(self, pieces: list[LogPiece], seed: int, max_lines: int) -> None:
        super().__init__([], seed, max_lines=max_lines)
        self.pieces = pieces

    def log_lines(
        self,
        pod: str,
        container: str,
        *,
        follow: bool,
        since: str = "",
        tail: int | None = None,
        silence: float = 0,
    ) -> Iterator[LogPiece]:
        del pod, container, silence, follow, tail
        self.since_times.append(since)
        begin = datetime.fromisoformat(since) if since else None
        sent, is_requested, is_first = 0, True, True
        for piece in self.pieces:
            if is_first:
                time = parse_line(piece.text).parsed_time
                is_requested = begin is None or time is None or time >= begin
            is_first = not piece.is_partial
            if not is_requested:
                continue
            if sent >= self.random.randint(1, self.max_lines):
                raise ApiError("log", "p", 0, message="cut")
            sent += 1
            yield piece
        self.state = terminated_state(0)


def join_pieces(pieces: list[Line]) -> list[str]:
    """Join the pieces of lines to whole lines."""
    lines, text = [], ""
    for piece in pieces:
        text += piece.text
        if not piece.is_partial:
            lines.append(text)
            text = ""
    assert text == "", "the last piece of a line is not partial"
    return lines


def read_pieces(node: Node, *, follow: bool = True) -> list[Line]:
    tail = LogTail(node, "job-site", Uid("w1"), lambda _: None, lambda _: None)
    return list(tail.lines(follow=follow))


@pytest.mark.parametrize("seed", range(20))
def test_broken_connections_lose_and_repeat_no_piece(seed: int) -> None:
    pieces, texts = long_lines()
    node = Cutting(pieces, seed, max_lines=90)
    lines = read_pieces(node)
    assert join_pieces(lines) == texts
    assert len(node.since_times) > 3
    times = [line.time for line in lines]
    assert times == sorted(times), "a piece has its line's time"
    assert all(times)


def test_line_with_lost_end_is_closed() -> None:
    class Goes(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            del pod, container, options
            if self.since_times:
                raise ApiError("log", "p", 404, "NotFound")
            self.since_times.append("")
            yield LogPiece("2026-01-01T00:00:00Z " + "x" * 65_000, is_partial=True, has_newline=False)
            raise ApiError("log", "p", 0, message="cut")

    lines = read_pieces(Goes([]))
    assert join_pieces(lines) == ["x" * 65_000]
    assert not lines[-1].has_newline


def test_rest_of_an_earlier_line_is_skipped() -> None:
    """A node leaves out the beginning of a line that was written over more than a second."""

    class Slow(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            del pod, container
            if not options["since"]:
                yield LogPiece("2026-01-01T00:00:01Z slowly written")
                yield LogPiece("2026-01-01T00:00:09Z next")
                raise ApiError("log", "p", 0, message="cut")
            yield LogPiece(" written")
            yield LogPiece("2026-01-01T00:00:09Z next")
            yield LogPiece("2026-01-01T00:00:10Z last")
            self.state = terminated_state(0)

    assert join_pieces(read_pieces(Slow([]))) == ["slowly written", "next", "last"]


def test_last_line_without_newline_comes_once() -> None:
    class Prompts(Node):
        def log_lines(self, pod: str, container: str, **options: Any) -> Iterator[LogPiece]:
            del pod, container
            if options["follow"]:
                self.state = terminated_state(0)
                yield LogPiece("2026-01-01T00:00:01Z beg", has_newline=False)
                return
            yield LogPiece("2026-01-01T00:00:01Z begun", has_newline=False)

    (line,) = read_pieces(Prompts([]))
    assert line == Line("2026-01-01T00:00:01Z", "begun", has_newline=False)
