"""A log's lines over connections that break: each once, in their order, and only the program's."""

import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.errors import ApiError
from flargo.inspect.log import Line, Seam, Sieve, parsed
from flargo.inspect.tail import Tail
from flargo.terms import Object, Uid
from tests.unit.memory import connect_to_nothing
from tests.unit.objects import RUNNING, ended, pod, workflow

# As a real node has them (argo 3.7.18, Kubernetes 1.34): the program writes without an end of line, and exits with 3.
EXITED = 'time="2026-11-24T12:53:48.300Z" level=info msg="sub-process exited" argo=true error="<nil>"'
REAL = [
    "2026-11-24T12:53:45.319194725Z hello",
    f"2026-11-24T12:53:48.301837924Z {EXITED}",
    "2026-11-24T12:53:48.301861739Z Error: exit status 3",
    "2026-11-24T12:53:48.304306824Z no newline",
]


def sieved(*lines: str) -> list[str]:
    sieve = Sieve()
    return [text for line in lines if (text := sieve.text(line)) is not None]


def test_the_executors_lines_are_not_the_programs() -> None:
    assert sieved(*(parsed(raw).text for raw in REAL)) == ["hello", "no newline"]


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


@pytest.mark.parametrize("raw", ["no time at all", "2026-01-01 date only", "", "2026-01-01T00:00:00 x"])
def test_a_line_without_a_time_is_a_line_all_the_same(raw: str) -> None:
    assert parsed(raw) == Line("", raw)


def stamped(second: int, text: str, nanos: int = 0) -> Line:
    return Line(f"2026-01-01T00:00:{second:02}.{nanos:09}Z", text)


def through(seam: Seam, lines: list[Line]) -> list[str]:
    return [line.text for line in lines if seam.is_new(line)]


def test_lines_that_are_told_again_are_let_through_once() -> None:
    seam = Seam()
    assert seam.connect() == ""
    first = [stamped(5, "a"), stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b")]
    assert through(seam, first) == ["a", "same", "same", "b"]
    assert seam.connect() == "2026-01-01T00:00:05+00:00"
    again = [*first[:2], stamped(5, "same", 7), stamped(5, "same", 7), stamped(6, "b"), stamped(6, "c")]
    assert through(seam, again) == ["same", "c"], "a third one like it was new"


def test_lines_out_of_their_times_order_are_not_lost() -> None:
    """Those of stdout and stderr are written down by two threads."""
    seam = Seam()
    seam.connect()
    assert through(seam, [stamped(5, "late", 9), stamped(5, "early", 1)]) == ["late", "early"]


def test_a_node_in_another_time_zone_is_asked_for_the_right_second() -> None:
    seam = Seam()
    seam.connect()
    seam.is_new(Line("2026-01-01T02:00:05.5+02:00", "x"))
    assert datetime.fromisoformat(seam.connect()) == datetime.fromisoformat("2026-01-01T00:00:04Z")


def test_no_more_is_remembered_than_can_be_told_again() -> None:
    seam = Seam()
    seam.connect()
    for second in range(50):
        through(seam, [stamped(second, str(n)) for n in range(100)])
    assert len(seam._told) <= 200


# The reading of it, over and over


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
    ) -> Iterator[str]:
        del pod, container, silence
        self.asked.append(since)
        begin = datetime.fromisoformat(since) if since else None
        told = 0
        for at, raw in enumerate(self.all):
            if at >= self.written:
                if not follow:
                    return
                self.written += 1
            moment = parsed(raw).moment
            if begin is not None and moment is not None and moment < begin:
                continue
            if told >= self.random.randint(1, self.most):
                raise ApiError("log", "p", 0, message="cut")
            told += 1
            yield raw
        self.state = ended(0)


def read(node: Node, *, follow: bool = True) -> tuple[list[str], list[str]]:
    said: list[str] = []
    tail = Tail(node, "job-site", Uid("w1"), lambda _: None, said.append)
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
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[str]:
            if asked["follow"]:
                self.state = ended(0)
                return iter([self.all[0]])
            self.written = len(self.all)
            return super().log_lines(pod, container, **asked)

    assert read(Hasty(REAL))[0] == ["hello", "no newline"]


def test_a_pod_that_goes_meanwhile_is_told_of() -> None:
    class Goes(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[str]:
            del pod, container, asked
            self.gone = True
            yield self.all[0]
            raise ApiError("log", "p", 0, message="cut")

    class Refuses(Goes):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[str]:
            if self.gone:
                raise ApiError("log", "p", 404)
            yield from super().log_lines(pod, container, **asked)

    told, said = read(Refuses(REAL))
    assert told == ["hello"]
    assert "its pod is gone" in said[0]


def test_what_the_cluster_refuses_is_no_reason_to_go_on() -> None:
    class Forbids(Node):
        def log_lines(self, pod: str, container: str, **asked: Any) -> Iterator[str]:
            del asked
            raise ApiError("log", f"pods {pod} {container}", 403)

    with pytest.raises(ApiError, match="403"):
        read(Forbids(REAL))


def test_a_program_that_has_not_begun_is_waited_for_only_if_it_is_followed() -> None:
    node = Node(REAL)
    node.state = {"waiting": {"reason": "PodInitializing"}}
    told, said = read(node, follow=False)
    assert (told, said) == ([], ["job-site: its program has not begun"])
    looks = iter(range(3))

    def pause(_: float) -> None:
        if next(looks, None) is None:
            node.state = RUNNING

    waits: list[str] = []
    tail = Tail(node, "job-site", Uid("w1"), pause, waits.append)
    assert [line.text for line in tail.lines(follow=True)] == ["hello", "no newline"]
    assert waits == ["job-site: its program has not begun yet"], "said once"


def test_one_that_will_never_begin_is_not_waited_for() -> None:
    node = Node(REAL)
    node.gone = True
    node.workflow = workflow(phase="Failed")
    assert read(node) == ([], ["job-site: its program has not begun"])
