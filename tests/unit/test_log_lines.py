"""A log's lines over connections that break: each once, in their order, and only the program's."""

import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster.api import Api, Kind, LogPiece
from flargo.cluster.errors import ApiError
from flargo.terms import Object, Uid
from flargo.tools.jobs import log_lines
from flargo.tools.jobs.log_lines import ExecutorLineFilter, Line, LogDeduplicator, parse_line
from flargo.tools.jobs.log_tail import LogTail
from tests.harness.fake_api import connect_to_nothing
from tests.harness.objects import RUNNING, ended, pod, workflow

# As a real node has them (argo 3.7.18, Kubernetes 1.34): the program writes without an end of line, and exits with 3.
EXITED = 'time="2026-11-24T12:53:48.300Z" level=info msg="sub-process exited" argo=true error="<nil>"'
REAL = [
    "2026-11-24T12:53:45.319194725Z hello",
    f"2026-11-24T12:53:48.301837924Z {EXITED}",
    "2026-11-24T12:53:48.301861739Z Error: exit status 3",
    "2026-11-24T12:53:48.304306824Z no newline",
]


def sieved(*lines: str) -> list[str]:
    sieve = ExecutorLineFilter()
    return [said.text for line in lines if (said := sieve.filter(Line("", line))) is not None]


def test_the_executors_lines_are_not_the_programs() -> None:
    assert sieved(*(parse_line(raw).text for raw in REAL)) == ["hello", "no newline"]


def test_what_the_program_said_last_without_an_end_stays() -> None:
    assert sieved(f"bye.{EXITED}") == ["bye."]


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
def test_what_the_program_says_itself_stays(line: str) -> None:
    assert sieved(line) == [line]


@pytest.mark.parametrize(
    "line",
    [
        'time="2026-11-24T12:53:45Z" level=info msg="capturing logs" argo=true',
        'time=2026-11-24T12:53:45Z level=INFO msg="capturing logs" argo=true',
        '{"argo":true,"level":"info","msg":"capturing logs","time":"2026-11-24T12:53:45Z"}',
    ],
)
def test_the_executor_is_known_in_any_of_its_formats(line: str) -> None:
    assert sieved(line) == []


SLOG = '{"time":"2026-11-24T12:53:45Z","level":"INFO","msg":"capturing logs","argo":true}'


@pytest.mark.parametrize(
    "words",
    [
        EXITED,
        'time="2026-11-24T12:53:45Z" level=info msg="time=now level=x msg=y" argo=true',
        'time="2026-11-24T12:53:45Z" level=error msg="it said" argo=true error="a { b"',
        '{"argo":true,"level":"info","msg":"{ \\"level\\": {","time":"2026-11-24T12:53:45Z"}',
        SLOG,
        '{"error":{"argo":true,"level":1},"level":"ERROR","argo":true,"more":{"a":{}}}',
    ],
)
@pytest.mark.parametrize("said", ["bye.", "time=", "{", '{"a": 1}', "time=1 level=x msg=", "x" * 300_000])
def test_the_executors_words_are_cut_off_what_the_program_said(words: str, said: str) -> None:
    assert sieved(f"{said}{words}") == [said]


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
def test_what_only_resembles_the_executors_words_stays(line: str) -> None:
    assert sieved(line) == [line]


@pytest.mark.parametrize(
    "word",
    ['{"argo":true,"level":', "time=x level=y msg=", "argo=true ", '{"a":', "{", "Error: signal: ", '"', "argo"],
)
@pytest.mark.parametrize("end", ["", "}", " argo=true"])
def test_a_long_line_that_resembles_the_executors_is_little_work(word: str, end: str) -> None:
    """With a search from each place to the end of the line, each of these takes days."""
    line = word * (3_000_000 // len(word)) + end
    begin = log_lines.find_executor_text(line)
    assert begin is None or begin > len(line) - 2**14


def in_pieces(text: str, size: int) -> list[Line]:
    cuts = range(0, len(text), size)
    return [Line("", text[at : at + size], at + size < len(text), at + size >= len(text)) for at in cuts]


@pytest.mark.parametrize("size", [10_000, 65_536])
@pytest.mark.parametrize("shift", [0, 5, 60, 9_000])
@pytest.mark.parametrize("words", [EXITED, SLOG])
def test_the_executors_words_are_found_wherever_a_line_is_cut(words: str, shift: int, size: int) -> None:
    said = "x" * (3 * size - shift)
    sieve = ExecutorLineFilter()
    told = [line for piece in in_pieces(f"{said}{words}", size) if (line := sieve.filter(piece)) is not None]
    assert "".join(line.text for line in told) == said
    assert [line.is_partial for line in told] == [True] * (len(told) - 1) + [False]
    assert not told[-1].has_newline, "the program wrote no line end"


@pytest.mark.parametrize("raw", ["no time at all", "2026-01-01 date only", "", "2026-01-01T00:00:00 x"])
def test_a_line_without_a_time_is_a_line_all_the_same(raw: str) -> None:
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
def test_what_a_kubelet_does_not_write_is_no_time(raw: str) -> None:
    assert parse_line(raw) == Line("", raw)


@given(st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{0,9})?(Z|[+-][0-9:]{0,8})? x"))
def test_whatever_begins_a_line_its_moment_can_be_told_and_asked_for(raw: str) -> None:
    seam = LogDeduplicator()
    seam.connect()
    for line in (parse_line(raw), Line(raw, "x")):
        seam.is_new(line)
        assert line.parsed_time is None or 2000 <= line.parsed_time.year <= 2200
    seam.connect()


def test_what_a_program_wrote_in_a_times_place_does_not_move_what_is_asked_for() -> None:
    """A connection may begin in the middle of a line, whose rest has no time of the kubelet's before it."""
    seam = LogDeduplicator()
    for year in (2100, 2150):
        seam.connect()
        through(seam, [Line(f"{year}-01-01T00:00:00Z", "no")] if year > 2100 else [stamped(5, "a")])
    assert seam.connect() == "2026-01-01T00:00:04+00:00"
    again = [stamped(5, "a"), stamped(9, "b"), stamped(30, "c")]
    assert through(seam, again) == ["b", "c"], "nothing is lost"
    assert seam.connect() == "2026-01-01T00:00:29+00:00"


def test_pieces_of_a_line_with_a_programs_time_do_not_move_it_either() -> None:
    seam = LogDeduplicator()
    seam.connect()
    seam.is_new(stamped(5, "a"))
    seam.connect()
    for text in ("one", "two", "three"):
        seam.is_new(Line("2150-01-01T00:00:00Z", text, is_partial=True, has_newline=False))
    assert seam.connect() == "2026-01-01T00:00:04+00:00"


def stamped(second: int, text: str, nanos: int = 0) -> Line:
    return Line(f"2026-01-01T00:00:{second:02}.{nanos:09}Z", text)


def through(seam: LogDeduplicator, lines: list[Line]) -> list[str]:
    return [line.text for line in lines if seam.is_new(line)]


def test_lines_that_are_told_again_are_let_through_once() -> None:
    seam = LogDeduplicator()
    assert seam.connect() == ""
    first = [stamped(5, "a"), stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b")]
    assert through(seam, first) == ["a", "same", "same", "b"]
    assert seam.connect() == "2026-01-01T00:00:05+00:00"
    again = [*first[:2], stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b"), stamped(6, "c")]
    assert through(seam, again) == ["same", "c"], "a third one like it was new"


def test_lines_out_of_their_times_order_are_not_lost() -> None:
    """Those of stdout and stderr are written down by two threads."""
    seam = LogDeduplicator()
    seam.connect()
    assert through(seam, [stamped(5, "late", 9), stamped(5, "early", 1)]) == ["late", "early"]


def test_a_node_in_another_time_zone_is_asked_for_the_right_second() -> None:
    seam = LogDeduplicator()
    seam.connect()
    seam.is_new(Line("2026-01-01T02:00:05.5+02:00", "x"))
    assert datetime.fromisoformat(seam.connect()) == datetime.fromisoformat("2026-01-01T00:00:04Z")


def test_no_more_is_remembered_than_can_be_told_again() -> None:
    seam = LogDeduplicator()
    seam.connect()
    for second in range(50):
        through(seam, [stamped(second, str(n)) for n in range(100)])
    assert len(seam._recent) <= 200


# The reading of it, over and over


def test_a_line_without_an_end_is_not_kept_in_memory() -> None:
    seam = LogDeduplicator()
    seam.connect()
    for _ in range(1000):
        assert seam.is_new(Line("2026-01-01T00:00:00Z", "x" * 65_536, is_partial=True, has_newline=False))
    assert sum(len(line.text) for line in seam._recent) < 100_000


class Node(Api):
    """Serves one pod's log, of which each connection breaks as a seed has it."""

    def __init__(self, log: list[str], seed: int = 0, *, most: int = 10**9) -> None:
        super().__init__(connect_to_nothing, "ns")
        self.all, self.most = log, most
        self.random = random.Random(seed)  # noqa: S311  (no secret)
        self.written = 0
        self.state: Object = RUNNING
        self.asked: list[str] = []
        self.gone = False
        self.workflow = workflow(phase="Running")

    def list(self, kind: Kind, labels: str = "", *_: Any, **__: Any) -> tuple[list[Object], str]:
        del labels
        if kind is Kind.POD and self.random.random() < 0.1 and self.most < 10**9:
            raise ApiError("list", "pods", 0, message="reset")
        return ([] if self.gone else [pod(main=self.state, phase="Running")]), "1"

    def get(self, kind: Kind, name: str) -> Object:
        del kind, name
        return self.workflow

    def log_lines(
        self, pod: str, container: str, *, follow: bool, since: str = "", silence: float = 0
    ) -> Iterator[LogPiece]:
        del pod, container, silence
        self.asked.append(since)
        begin = datetime.fromisoformat(since) if since else None
        told = 0
        for at, raw in enumerate(self.all):
            if at >= self.written:
                if not follow:
                    return
                self.written += 1
            moment = parse_line(raw).parsed_time
            if begin is not None and moment is not None and moment < begin:
                continue
            if told >= self.random.randint(1, self.most):
                raise ApiError("log", "p", 0, message="cut")
            told += 1
            yield LogPiece(raw)
        self.state = ended(0)


def read(node: Node, *, follow: bool = True) -> tuple[list[str], list[str]]:
    said: list[str] = []
    tail = LogTail(node, "job-site", Uid("w1"), lambda _: None, said.append)
    return [line.text for line in tail.lines(follow=follow)], said


@pytest.mark.parametrize("seed", range(30))
def test_however_often_it_breaks_each_line_is_told_once_and_in_order(seed: int) -> None:
    texts = [f"line {n // 3}" if n % 7 else "the same" for n in range(300)]
    log = [f"2026-01-01T00:00:{n // 10:02}.{n % 10 // 3:09}Z {text}" for n, text in enumerate(texts)]
    node = Node(log, seed, most=60)
    told, _ = read(node)
    assert told == texts
    assert len(node.asked) > 3


def test_a_log_that_is_not_followed_ends_at_once_and_one_that_is_with_its_program() -> None:
    node = Node(REAL)
    node.written = 1
    assert read(node, follow=False)[0] == ["hello"]
    assert read(node)[0] == ["hello", "no newline"]


def test_what_was_written_at_the_very_end_is_read_after_it() -> None:
    """A connection may end before all of it was told."""

    class Hasty(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            if asked["follow"]:
                self.state = ended(0)
                return iter([LogPiece(self.all[0])])
            self.written = len(self.all)
            return super().log_lines(pod, container, **asked)

    assert read(Hasty(REAL))[0] == ["hello", "no newline"]


def test_a_pod_that_goes_meanwhile_is_told_of() -> None:
    class Goes(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            del pod, container, asked
            self.gone = True
            yield LogPiece(self.all[0])
            raise ApiError("log", "p", 0, message="cut")

    class Refuses(Goes):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            if self.gone:
                raise ApiError("log", "p", 404)
            yield from super().log_lines(pod, container, **asked)

    told, said = read(Refuses(REAL))
    assert told == ["hello"]
    assert "its pod was deleted" in said[0]


def test_what_the_cluster_refuses_is_no_reason_to_go_on() -> None:
    class Forbids(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            del asked
            raise ApiError("log", f"pods {pod} {container}", 403)

    with pytest.raises(ApiError, match="403"):
        read(Forbids(REAL))


def test_a_program_that_has_not_begun_is_waited_for_only_if_it_is_followed() -> None:
    node = Node(REAL)
    node.state = {"waiting": {"reason": "PodInitializing"}}
    told, said = read(node, follow=False)
    assert (told, said) == ([], ["job-site: its program has not started"])
    looks = iter(range(3))

    def pause(_: float) -> None:
        if next(looks, None) is None:
            node.state = RUNNING

    waits: list[str] = []
    tail = LogTail(node, "job-site", Uid("w1"), pause, waits.append)
    assert [line.text for line in tail.lines(follow=True)] == ["hello", "no newline"]
    assert waits == ["job-site: its program has not started yet"], "said once"


def test_one_that_will_never_begin_is_not_waited_for() -> None:
    node = Node(REAL)
    node.gone = True
    node.workflow = workflow(phase="Failed")
    assert read(node) == ([], ["job-site: its program has not started"])


# Lines in pieces


def long_lines() -> tuple[list[LogPiece], list[str]]:
    """A log as a node serves it: lines of up to six pieces, each with its time before the first; and their texts."""
    served, texts = [], []
    for number in range(40):
        parts = ["same" * 3000 if part % 2 else f"{number}-" * 4000 for part in range(number % 7)] or ["short"]
        texts.append("".join(parts))
        parts[0] = f"2026-01-01T00:00:{number:02}Z {parts[0]}"
        for at, part in enumerate(parts):
            last = at == len(parts) - 1
            served.append(LogPiece(part, is_partial=not last, has_newline=last))
    return served, texts


class Cutting(Node):
    """Serves a log in pieces, from whole lines on, over connections that break."""

    def __init__(self, served: list[LogPiece], seed: int, most: int) -> None:
        super().__init__([], seed, most=most)
        self.served = served

    def log_lines(
        self, pod: str, container: str, *, follow: bool, since: str = "", silence: float = 0
    ) -> Iterator[LogPiece]:
        del pod, container, silence, follow
        self.asked.append(since)
        begin = datetime.fromisoformat(since) if since else None
        told, tells, first = 0, True, True
        for piece in self.served:
            if first:
                moment = parse_line(piece.text).parsed_time
                tells = begin is None or moment is None or moment >= begin
            first = not piece.is_partial
            if not tells:
                continue
            if told >= self.random.randint(1, self.most):
                raise ApiError("log", "p", 0, message="cut")
            told += 1
            yield piece
        self.state = ended(0)


def whole(told: list[Line]) -> list[str]:
    """The lines that pieces make up."""
    lines, text = [], ""
    for line in told:
        text += line.text
        if not line.is_partial:
            lines.append(text)
            text = ""
    assert text == "", "the last piece of a line is not continued"
    return lines


def pieces_of(node: Node, *, follow: bool = True) -> list[Line]:
    tail = LogTail(node, "job-site", Uid("w1"), lambda _: None, lambda _: None)
    return list(tail.lines(follow=follow))


@pytest.mark.parametrize("seed", range(20))
def test_no_piece_is_lost_or_told_twice_however_often_it_breaks(seed: int) -> None:
    served, texts = long_lines()
    node = Cutting(served, seed, most=90)
    told = pieces_of(node)
    assert whole(told) == texts
    assert len(node.asked) > 3
    times = [line.time for line in told]
    assert times == sorted(times), "a piece has its line's time"
    assert all(times)


def test_a_line_whose_end_is_lost_is_ended() -> None:
    class Goes(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            del pod, container, asked
            if self.asked:
                raise ApiError("log", "p", 404)
            self.asked.append("")
            yield LogPiece("2026-01-01T00:00:00Z " + "x" * 65_000, is_partial=True, has_newline=False)
            raise ApiError("log", "p", 0, message="cut")

    told = pieces_of(Goes([]))
    assert whole(told) == ["x" * 65_000]
    assert not told[-1].has_newline


def test_the_rest_of_a_line_that_began_before_is_not_told_again() -> None:
    """A node leaves out the beginning of a line that was written over more than a second."""

    class Slow(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            del pod, container
            if not asked["since"]:
                yield LogPiece("2026-01-01T00:00:01Z slowly written")
                yield LogPiece("2026-01-01T00:00:09Z next")
                raise ApiError("log", "p", 0, message="cut")
            yield LogPiece(" written")
            yield LogPiece("2026-01-01T00:00:09Z next")
            yield LogPiece("2026-01-01T00:00:10Z last")
            self.state = ended(0)

    assert whole(pieces_of(Slow([]))) == ["slowly written", "next", "last"]


def test_a_last_line_without_an_end_is_told_once_it_is_known_to_be_the_last() -> None:
    class Prompts(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[LogPiece]:
            del pod, container
            if asked["follow"]:
                self.state = ended(0)
                yield LogPiece("2026-01-01T00:00:01Z beg", has_newline=False)
                return
            yield LogPiece("2026-01-01T00:00:01Z begun", has_newline=False)

    (told,) = pieces_of(Prompts([]))
    assert told == Line("2026-01-01T00:00:01Z", "begun", has_newline=False)
