"""What `flargo logs` writes: safe on a terminal, the program's own bytes elsewhere, valid JSON for programs."""

import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result

from flargo.cluster.api import MAX_PIECE_BYTES, Kind, LogPiece, _pieces
from flargo.tools.cli import logs
from tests.harness import command_line
from tests.harness.attacks import ATTACKS, BYTE_ATTACKS, bad_characters
from tests.harness.fake_api import Cluster
from tests.harness.objects import ended, job, pod

TOKEN = b"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmbGFyZ28ifQ.c2lnbmF0dXJl"
KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"MIIE" * 16 + b"\n" + b"MIIE" * 16 + b"\n-----END PRIVATE KEY-----\n"
ATTACK = "\n".join(ATTACKS.values()).encode(errors="surrogatepass") + b"\n" + b"\n".join(BYTE_ATTACKS.values())
EXECUTOR = (
    b'time="2026-11-24T12:53:48Z" level=info msg="sub-process exited" argo=true error="<nil>"\nError: exit status 3\n'
)
Logs = Callable[..., Result]


class Talks(Cluster):
    """With a pod at each of some sites, and their logs."""

    def __init__(self, **said: bytes) -> None:
        super().__init__()
        self.logs: dict[str, bytes] = {}
        for site, content in said.items():
            workflow = job(f"job-{site}", site=site, uid=f"w-{site}", phase="Running")
            its_pod = pod(f"job-{site}", uid=f"p-{site}", owner=f"w-{site}", main=ended(0), phase="Succeeded")
            self.store[Kind.WORKFLOW, f"job-{site}"], self.store[Kind.POD, f"job-{site}"] = workflow, its_pod
            self.logs[f"job-{site}"] = content

    def log_lines(
        self, pod: str, container: str, *, follow: bool, since: str = "", silence: float = 0
    ) -> Iterator[LogPiece]:
        del container, follow, since, silence
        lines = self.logs[pod].split(b"\n")
        stamped = b"\n".join(b"2026-01-01T00:00:00.%09dZ " % at + line for at, line in enumerate(lines) if line)
        return _pieces([stamped + b"\n" * self.logs[pod].endswith(b"\n")])


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Logs:
    def run(*options: str, terminal: bool = False, **said: bytes) -> Result:
        made = Talks(**said)
        monkeypatch.setattr(logs, "api_for", lambda **_: made)
        monkeypatch.setattr(logs, "_is_terminal", lambda: terminal)
        return command_line.run("logs", "11111111", *options)

    return run


def test_a_terminal_is_shown_each_line_inert_and_without_secrets(show: Logs) -> None:
    done = show(terminal=True, site=ATTACK + b"\n" + TOKEN + b"\n" + KEY + b"the end\n")
    assert bad_characters(done.stdout_bytes) == set()
    assert done.stdout.splitlines()[0] == "\\x1b]52;c;cm0gLXJmIH4=\\x07"
    assert done.stdout.splitlines()[-6:] == [*["[redacted]"] * 5, "the end"]
    assert "\ufffd2J" in done.stdout


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(("options", "terminal"), [((), False), (("--raw",), False), (("--raw",), True)])
def test_elsewhere_and_where_asked_for_it_is_the_programs_bytes(
    show: Logs, options: tuple[str, ...], end: bytes, *, terminal: bool
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
    done = show(*options, terminal=terminal, site=content)
    assert (done.exit_code, done.stdout_bytes) == (0, content)


def test_the_executors_lines_are_no_bytes_of_the_programs(show: Logs) -> None:
    assert show(site=b"one\nbye." + EXECUTOR).stdout_bytes == b"one\nbye."
    assert show(site=b"x" * 2 * MAX_PIECE_BYTES + EXECUTOR).stdout_bytes == b"x" * 2 * MAX_PIECE_BYTES


def test_of_several_sites_the_bytes_have_their_names_before_each_line(show: Logs) -> None:
    done = show("--raw", a=b"one\r\n\x1b[2J", bc=b"y" * MAX_PIECE_BYTES + b"\n\xff\n")
    first, second = b"a  | one\r\na  | \x1b[2J\n", b"bc | " + b"y" * MAX_PIECE_BYTES + b"\nbc | \xff\n"
    assert done.stdout_bytes == first + second


def test_json_is_valid_and_says_that_a_line_goes_on(show: Logs) -> None:
    done = show("--json", site=ATTACK + b"\n" + TOKEN + b"\n" + KEY + b"y" * 3 * MAX_PIECE_BYTES + b"\nend\n")
    assert done.stdout.isascii()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(row["line"].encode().decode() == row["line"] for row in rows)
    assert rows[0]["line"] == ATTACKS["clipboard"]
    assert [row["line"] for row in rows].count("[redacted]") == 5
    assert any("\ufffd2J" in row["line"] for row in rows)
    long = [row for row in rows if "yy" in row["line"]]
    assert "".join(row["line"] for row in long) == "y" * 3 * MAX_PIECE_BYTES
    assert [row.get("continued") for row in long] == [True] * (len(long) - 1) + [None]
    assert {row["time"] for row in long} == {long[0]["time"]}
    assert rows[-1]["line"] == "end"


def test_a_terminal_is_told_that_a_line_goes_on(show: Logs) -> None:
    *pieces, last, end = show(terminal=True, site=b"y" * 3 * MAX_PIECE_BYTES + b"\nend\n").stdout.splitlines()
    assert pieces
    assert all(piece.endswith("y [continued]") for piece in pieces)
    assert "".join(piece.removesuffix(" [continued]") for piece in pieces) + last == "y" * 3 * MAX_PIECE_BYTES
    assert end == "end"


def test_raw_bytes_are_no_json(show: Logs) -> None:
    done = show("--raw", "--json", site=b"")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["message"] == "--raw and --json cannot be combined."
