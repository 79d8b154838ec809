"""Tests of `flargo logs`: safe text on a terminal, the program's bytes elsewhere, valid JSON for programs."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from click.testing import Result

from flargo.cluster.api import Kind
from flargo.cluster.bodies import MAX_PIECE_BYTES, LogPiece, log_pieces
from flargo.tools.cli import logs, option_types
from flargo.tools.jobs.log_lines import Line, last_whole_lines
from tests.harness import command_line
from tests.harness.attacks import ATTACKS, BYTE_ATTACKS, bad_characters
from tests.harness.fake_api import RecordingApi
from tests.harness.objects import job_workflow, pod, terminated_state

TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIE" * 16 + b"\n" + b"MIIE" * 16 + b"\n-----END PRIVATE KEY-----\n"
ATTACK = "\n".join(ATTACKS.values()).encode(errors="surrogatepass") + b"\n" + b"\n".join(BYTE_ATTACKS.values())
EXECUTOR = (
    b'time="2026-11-24T12:53:48Z" level=info msg="sub-process exited" argo=true error="<nil>"\nError: exit status 3\n'
)
RunLogs = Callable[..., Result]


class ClusterWithLogs(RecordingApi):
    """A cluster with a job of one pod at each site, and the pods' logs."""

    def __init__(self, **logs_by_site: bytes) -> None:
        super().__init__()
        self.logs: dict[str, bytes] = {}
        self.requested: list[tuple[str, int | None]] = []
        """The `since` and `tail` of each request for a log."""
        for site, content in logs_by_site.items():
            workflow = job_workflow(f"job-{site}", site=site, uid=f"w-{site}", phase="Running")
            site_pod = pod(
                f"job-{site}", uid=f"p-{site}", owner=f"w-{site}", main=terminated_state(0), phase="Succeeded"
            )
            self.store[Kind.WORKFLOW, f"job-{site}"], self.store[Kind.POD, f"job-{site}"] = workflow, site_pod
            self.logs[f"job-{site}"] = content

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
        del container, follow, silence
        self.requested.append((since, tail))
        lines = self.logs[pod].split(b"\n")
        stamped = b"\n".join(b"2026-01-01T00:00:00.%09dZ " % at + line for at, line in enumerate(lines) if line)
        return log_pieces([stamped + b"\n" * self.logs[pod].endswith(b"\n")])


@pytest.fixture
def run_logs(monkeypatch: pytest.MonkeyPatch) -> RunLogs:
    def run(*options: str, terminal: bool = False, color: bool = False, **logs_by_site: bytes) -> Result:
        cluster = ClusterWithLogs(**logs_by_site)
        monkeypatch.setattr(logs, "api_for", lambda **_: cluster)
        monkeypatch.setattr(logs, "_is_terminal", lambda: terminal)
        return command_line.run("logs", "11111111", *options, color=color)

    return run


def test_terminal_lines_are_inert_and_redacted(run_logs: RunLogs) -> None:
    result = run_logs(terminal=True, site=ATTACK + b"\n" + TOKEN + b"\n" + KEY + b"the end\n")
    assert bad_characters(result.stdout_bytes) == set()
    assert result.stdout.splitlines()[0] == "\\x1b]52;c;cm0gLXJmIH4=\\x07"
    assert result.stdout.splitlines()[-6:] == [*["[redacted]"] * 5, "the end"]
    assert "\ufffd2J" in result.stdout


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(("options", "terminal"), [((), False), (("--raw",), False), (("--raw",), True)])
def test_raw_output_is_the_programs_bytes(
    run_logs: RunLogs, options: tuple[str, ...], end: bytes, *, terminal: bool
) -> None:
    content = (
        b"begins\n"
        + ATTACK.replace(b"\n\n", b"\n")
        + b"\n"
        + TOKEN
        + b"\n"
        + KEY
        + b"x" * 3 * MAX_PIECE_BYTES
        + b"\nend"
        + end
    )
    result = run_logs(*options, terminal=terminal, site=content)
    assert (result.exit_code, result.stdout_bytes) == (0, content)


def test_executor_lines_are_removed(run_logs: RunLogs) -> None:
    assert run_logs(site=b"one\nbye." + EXECUTOR).stdout_bytes == b"one\nbye."
    assert run_logs(site=b"x" * 2 * MAX_PIECE_BYTES + EXECUTOR).stdout_bytes == b"x" * 2 * MAX_PIECE_BYTES


def test_several_sites_have_prefixes(run_logs: RunLogs) -> None:
    result = run_logs("--raw", a=b"one\r\n\x1b[2J", bc=b"y" * MAX_PIECE_BYTES + b"\n\xff\n")
    first, second = b"a  | one\r\na  | \x1b[2J\n", b"bc | " + b"y" * MAX_PIECE_BYTES + b"\nbc | \xff\n"
    assert result.stdout_bytes == first + second


def test_json_is_valid_and_marks_pieces(run_logs: RunLogs) -> None:
    result = run_logs("--json", site=ATTACK + b"\n" + TOKEN + b"\n" + KEY + b"y" * 3 * MAX_PIECE_BYTES + b"\nend\n")
    assert result.stdout.isascii()
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(row["line"].encode().decode() == row["line"] for row in rows)
    assert rows[0]["line"] == ATTACKS["clipboard"]
    assert [row["line"] for row in rows].count("[redacted]") == 5
    assert any("\ufffd2J" in row["line"] for row in rows)
    long = [row for row in rows if "yy" in row["line"]]
    assert "".join(row["line"] for row in long) == "y" * 3 * MAX_PIECE_BYTES
    assert [row.get("continued") for row in long] == [True] * (len(long) - 1) + [None]
    assert {row["time"] for row in long} == {long[0]["time"]}
    assert rows[-1]["line"] == "end"


def test_terminal_marks_continued_lines(run_logs: RunLogs) -> None:
    *pieces, last, end = run_logs(terminal=True, site=b"y" * 3 * MAX_PIECE_BYTES + b"\nend\n").stdout.splitlines()
    assert pieces
    assert all(piece.endswith("y [continued]") for piece in pieces)
    assert "".join(piece.removesuffix(" [continued]") for piece in pieces) + last == "y" * 3 * MAX_PIECE_BYTES
    assert end == "end"


def test_raw_and_json_exclude_each_other(run_logs: RunLogs) -> None:
    result = run_logs("--raw", "--json", site=b"")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"] == "--raw and -o json cannot be combined."


# Where a log begins


@pytest.mark.parametrize(
    "options", [("--since", "soon"), ("--since", ""), ("--since", "5"), ("--since", "-5s"), ("--tail", "-2")]
)
def test_wrong_beginnings_are_usage_errors(run_logs: RunLogs, options: tuple[str, str]) -> None:
    result = run_logs(*options, site=b"x\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert options[0] in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("2m", 120), ("3h", 10800), ("1h30m", 5400), ("1m5s", 65)])
def test_durations_are_kubectls(text: str, seconds: int) -> None:
    assert option_types.DURATION.convert(text, None, None) == timedelta(seconds=seconds)


def test_tail_is_of_each_site_and_before_the_executors_lines(run_logs: RunLogs) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(9))
    result = run_logs("--tail", "2", a=lines + EXECUTOR, b=lines)
    assert result.stdout.splitlines() == ["a | line 7", "a | line 8", "b | line 7", "b | line 8"]
    assert run_logs("--tail", "0", a=lines).stdout == ""


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_last_lines_are_whole(number: int) -> None:
    lines = ["a", "bbb", "cc"]
    pieces = [Line("", letter, is_partial=at < len(line) - 1) for line in lines for at, letter in enumerate(line)]
    kept = last_whole_lines(pieces, number)
    assert "".join(piece.text for piece in kept) == "".join(lines[-number:] if number else [])


# Sites


def test_sites_have_colours_on_a_terminal(run_logs: RunLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets none, and neither does a terminal that is not to be coloured."""
    prefix = re.compile(r"\x1b\[(\d+)m(\w) \| \x1b\[0mx")
    coloured = run_logs(terminal=True, color=True, a=b"x\n", b=b"x\n").stdout
    assert [match[2] for match in prefix.finditer(coloured)] == ["a", "b"]
    assert len({match[1] for match in prefix.finditer(coloured)}) == 2
    assert run_logs("--raw", color=True, a=b"x\n", b=b"x\n").stdout == "a | x\nb | x\n"
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert run_logs(terminal=True, color=True, a=b"x\n", b=b"x\n").stdout == "a | x\nb | x\n"
    assert "\x1b" not in run_logs(terminal=True, color=True, a=b"x\n").stdout, "one site needs no name"
