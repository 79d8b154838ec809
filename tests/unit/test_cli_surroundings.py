"""Whatever a command meets, it prints no traceback: one message, which names --debug if flargo did not foresee it."""

import json
import os
import pwd
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flargo.parsing import http_date
from flargo.tools.cli import lazy_group, output, streams
from flargo.tools.cli.main import COMMANDS, group
from tests.harness import kubernetes_api
from tests.harness.command_line import run, write_kubeconfig
from tests.harness.kubernetes_api import KubernetesApi

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
WITHOUT_JSON = {"completion", "demo"}


@pytest.fixture
def command_lines(tmp_path: Path, shared_kits: Path) -> dict[str, list[str]]:
    """A command line for each command. No cluster answers."""
    cluster = ["--kubeconfig", write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")]
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"name": "ärzte", "launcher_spec": {"default": {"k8s": {"image": "a/b:1"}}}}))
    arguments = {
        "demo": ["--image", "x:1", *cluster],
        "doctor": ["--wait", "0.5", *cluster],
        "prepare": [str(shared_kits / "k8s/site-1"), "--dry-run"],
        "render": [str(meta)],
        "jobs": cluster,
        "why": ["x", *cluster],
        "logs": ["x", *cluster],
        "terminate": ["x", *cluster],
        "sweep": cluster,
        "completion": ["bash"],
    }
    assert arguments.keys() == COMMANDS.keys()
    return {name: [name, *each] for name, each in arguments.items()}


# Exceptions that no command foresees

UNFORESEEN = (
    RuntimeError(JWT),
    KeyError(JWT),
    AttributeError(JWT),
    AssertionError(),
    RecursionError(JWT),
    MemoryError(JWT),
    OSError(5, JWT),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, JWT),
    ModuleNotFoundError(JWT, name="yaml"),
    ValueError("\x1b]52;c;x\x07\ud800"),
)


def fail_at(step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step of every command raise an exception."""

    def raise_error(*_: Any, **__: Any) -> Any:
        raise error

    if step == "import":
        monkeypatch.setattr(lazy_group, "import_module", raise_error)
    elif step == "parse":
        monkeypatch.setattr(click.Command, "parse_args", raise_error)
    else:
        monkeypatch.setattr(output, "_run", raise_error)


@pytest.mark.parametrize("step", ["import", "parse", "run"])
@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_unforeseen_errors_are_one_line(
    step: str, error: Exception, command_lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --debug they are shown, redacted; with --json they have the form of all errors."""
    with monkeypatch.context() as patch:
        fail_at(step, error, patch)
        for name, line in command_lines.items():
            result = run(*line)
            assert (name, result.exit_code, result.stdout) == (name, 1, "")
            assert result.stderr.startswith("Error: unexpected error: ")
            assert result.stderr.endswith(" (--debug prints the traceback)\n")
            assert result.stderr.count("\n") == 1
            traced = run(*line, "--debug").stderr
            assert "Traceback" in traced
            assert traced.splitlines()[-1].startswith("Error: unexpected error: ")
            for text in (result.stderr, traced):
                assert JWT not in text
                assert "\x1b" not in text
            if name not in WITHOUT_JSON:
                result = run(*line, "--json")
                assert (result.exit_code, result.stderr) == (1, "")
                assert json.loads(result.stdout)["error"]["message"].startswith("unexpected error: ")


@pytest.mark.parametrize("step", ["import", "parse", "run"])
def test_an_interrupt_is_silent(
    step: str, command_lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_at(step, KeyboardInterrupt(), patch)
        for name, line in command_lines.items():
            result = run(*line)
            assert (name, result.exit_code, result.output) == (name, 130, "")


# Arguments

TEXTS = st.binary(max_size=6).filter(lambda text: 0 not in text).map(os.fsdecode) | st.sampled_from(
    ["\udcff", "-", "--", "/dev/null", "/", "/proc/self/mem", "é" * 300]
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(COMMANDS)), data=st.data())
def test_any_argument_gives_a_message(name: str, data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    command = group().get_command(click.Context(group()), name)
    assert command is not None
    options = [each for param in command.params for each in param.opts if each.startswith("--")]
    arguments = data.draw(st.lists(TEXTS | st.sampled_from(options), max_size=5))
    safe = ["--kubeconfig", "/nonexistent"] if name == "demo" else []  # it would run the demo
    result = run(name, *arguments, *safe)
    assert result.exit_code in {0, 1, 2}
    assert "unexpected error" not in result.stderr
    assert result.stderr.isprintable() or "\x1b" not in result.stderr


# The environment


def test_no_command_needs_a_home(command_lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HOME, nor an entry of the user in /etc/passwd: so are containers with a random user."""

    def raise_error(*_: Any) -> Any:
        raise KeyError

    for variable in ("HOME", "USER", "LOGNAME", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", raise_error)
    for line in command_lines.values():
        assert "unexpected error" not in run(*line).stderr
    result = run("jobs")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no cluster: there is no ~/.kube/config")
    assert result.stderr.count("\n") == 1


@pytest.fixture
def deleted_directory(tmp_path: Path) -> Iterator[None]:
    """Work in a directory that does not exist any more."""
    before = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    yield
    os.chdir(before)


@pytest.mark.usefixtures("deleted_directory")
def test_a_deleted_working_directory_is_named(command_lines: dict[str, list[str]]) -> None:
    for name, line in command_lines.items():
        result = run(*line)
        assert "unexpected error" not in result.stderr, name
        assert "Traceback" not in result.output, name
    result = run(*command_lines["render"])
    assert result.stderr == "Error: the working directory does not exist any more: change to another one\n"


# Kubeconfigs

KUBECONFIGS: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "empty": lambda file: file.write_bytes(b""),
    "a list": lambda file: file.write_text("[1, 2]"),
    "a text": lambda file: file.write_text("hello"),
    "deep": lambda file: file.write_text("[" * 5000),
    "wrong types": lambda file: file.write_text('{"contexts": 1, "clusters": {"a": []}, "users": [[1]]}'),
    "wrong names": lambda file: file.write_text(
        '{"contexts": [{"name": {"a": 1}, "context": 3}], "current-context": []}'
    ),
    "wrong fields": lambda file: file.write_text('{"clusters": [{"name": "c", "cluster": {"server": {"a": 1}}}]}'),
    "endless": lambda file: file.symlink_to("/dev/zero"),
    "a link to itself": lambda file: file.symlink_to(file),
    "no UTF-8": lambda file: file.write_bytes(b"current-context: \xff\n"),
    "a bad date": lambda file: file.write_text("a: 2001-99-99"),
}
CLUSTER_COMMANDS = ("jobs", "why", "logs", "terminate", "sweep", "doctor", "demo")


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *((case, "jobs") for case in KUBECONFIGS),
        *(("wrong types", name) for name in CLUSTER_COMMANDS if name != "jobs"),
    ],
)
def test_a_wrong_kubeconfig_is_one_message(
    case: str, name: str, tmp_path: Path, command_lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kubeconfig with one command, and each command with one kubeconfig, named by an option or a variable."""
    file, usable = tmp_path / "wrong", str(tmp_path / "config")
    KUBECONFIGS[case](file)
    monkeypatch.setenv("KUBECONFIG", str(file))
    line = command_lines[name]
    results = [run(*(str(file) if each == usable else each for each in line))]
    if name != "demo":  # without --kubeconfig it runs on the embedded engine
        results.append(run(*(each for each in line if each not in {"--kubeconfig", usable})))
    for result in results:
        assert result.exit_code in {1, 2}
        assert "unexpected error" not in result.output
        if name != "doctor":  # it reports what it cannot reach as findings
            assert len([each for each in result.stderr.splitlines() if each.startswith("Error: ")]) == 1


# What a server or a plugin sends

DATES = ["", "x", "Mon", "Mon, 30 Nov 2026 14:48:47", "Mon, 30 Nov 2026 14:48:47 +9999", "\xff" * 60, "9" * 5000]
USABLE_DATES = [
    "Mon, 30 Nov 2026 14:48:47 GMT",
    "Mon, 30 Nov 2026 14:48:47 EST",
    "Mon, 30 Nov 2026 14:48:47 +1400",
    "Mon, 30 Nov 26 14:48:47 GMT",
    "Monday, 30-Nov-26 14:48:47 GMT",
]
OVERFLOWS = ["Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -1200", "Thu, 01 Jan 0099 00:00:00 +1400"]


@pytest.mark.parametrize("date", [*DATES, *USABLE_DATES, *OVERFLOWS])
def test_an_unusual_date_is_no_traceback(
    date: str, tmp_path: Path, command_lines: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api._Handler, "date_time_string", lambda *_: date)
    with kubernetes_api.kubernetes_api(tmp_path) as api:
        add_job(api)
        for name in ("jobs", "sweep", "doctor"):
            line = [str(api.kubeconfig) if each == str(tmp_path / "config") else each for each in command_lines[name]]
            result = run(*line)
            assert "unexpected error" not in result.stderr, name
            assert result.exit_code in {0, 1}, name


@given(
    st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S"))
    | st.text(st.sampled_from("MonTue0123456789 :,-+GT²٣"), max_size=70),
    st.sampled_from(["", " GMT", " -1200", " +1400", " EST", " +9999"]),
)
def test_dates_are_computable(text: str, zone: str) -> None:
    moment = http_date(text + zone)
    if moment is not None:
        assert moment.utcoffset() is not None
        assert (moment - moment.replace(year=2000, day=1)).total_seconds() is not None
        assert (moment.astimezone().year, moment.timestamp()) > (0, -1e12)


PLUGINS = {
    "binary": "head -c 3000 /dev/urandom; head -c 3000 /dev/urandom >&2",
    "endless": "exec cat /dev/zero",
    "endless lines": "exec yes",
    "endless messages": "yes >&2 & sleep 1; kill $!; exit 1",
    "half of JSON": "printf '{\"a\":'",
    "deep": "yes '[' | head -c 100000",
    "large numbers": "printf '{\"status\": '; yes 9 | head -c 9000 | tr -d '\\n'; printf '}'",
    "nothing": "true",
}
STATUSES: dict[str, Any] = {
    "a surrogate": {"token": "\ud800"},
    "a line end": {"token": "a\r\nb: c"},
    "no Latin": {"token": "日本"},
    "a null byte": {"token": "a\x00"},
    "surrogates in a certificate": {"clientCertificateData": "\ud800", "clientKeyData": "\ud800"},
    "a null byte in a certificate": {"clientCertificateData": "\x00", "clientKeyData": "\x00"},
    "a far expiry": {"token": "a", "expirationTimestamp": "9999-12-31T23:59:59-23:59"},
    "an early expiry": {"token": "a", "expirationTimestamp": "0001-01-01T00:00:00+23:59"},
    "an expiry that is none": {"token": "a", "expirationTimestamp": "٣"},
    "a list": [1],
    "numbers": {"token": 1},
}
VERSION = "client.authentication.k8s.io/v1"


def write_plugin(folder: Path, script: str, server: str) -> str:
    """Write a kubeconfig whose plugin is a shell script; return its path."""
    file = Path(write_kubeconfig(folder / "config", server))
    plugin = {"apiVersion": VERSION, "command": "sh", "args": ["-c", script], "interactiveMode": "Never"}
    text = file.read_text().replace("token: t0psecret", f"exec: {json.dumps(plugin)}")
    assert "exec" in text
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("case", [*PLUGINS, *STATUSES])
def test_a_plugin_that_prints_junk_is_one_message(case: str, tmp_path: Path) -> None:
    script = PLUGINS.get(case, "")
    if not script:
        answer = {"apiVersion": VERSION, "kind": "ExecCredential", "status": STATUSES[case]}
        (tmp_path / "answer").write_text(json.dumps(answer))
        script = f"cat '{tmp_path}/answer'"
    result = run("jobs", "--kubeconfig", write_plugin(tmp_path, script, "https://127.0.0.1:1"), "--json")
    assert result.exit_code == 1
    message = json.loads(result.stdout)["error"]["message"]
    assert "unexpected error" not in message
    assert "\x00" not in result.stderr


def add_job(api: KubernetesApi) -> None:
    """Add a job's Workflow that has ended."""
    labels = {"flargo.dev/site": "site-1", "flargo.dev/job-id": "x", "flargo.dev/federation": "f" * 32}
    meta = {"name": "x-site-1", "labels": labels, "creationTimestamp": "2026-11-30T10:00:00Z"}
    api.put(kubernetes_api.WORKFLOWS, {"metadata": meta, "spec": {}, "status": {"phase": "Failed"}})


# Real processes: streams that are closed, full or of another encoding

FLARGO = [sys.executable, "-c", "import sys; sys.argv[0] = 'flargo'; from flargo.tools.cli.main import main; main()"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def closing(*descriptors: int) -> Callable[[], None]:
    """Return a function that closes descriptors in a new process."""

    def close() -> None:
        for each in descriptors:
            os.close(each)

    return close


def start(line: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run flargo in a process of its own."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([*FLARGO, *line], check=False, text=True, errors="replace", **{**pipes, **options})


@pytest.mark.parametrize("name", ["render", "prepare", "jobs", "completion"])
def test_a_terminal_without_unicode_gets_escapes(name: str, command_lines: dict[str, list[str]]) -> None:
    """And a command runs without any variable."""
    result = start(command_lines[name], env={**ASCII, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert "Traceback" not in result.stderr
    assert result.returncode == (1 if name == "jobs" else 0)


def test_characters_without_an_encoding_are_escaped() -> None:
    code = "from flargo.tools.cli import streams; streams.prepare(); print('\\u2192 \\udcff')"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, **ASCII}, capture_output=True, check=True)
    assert result.stdout == b"\\u2192 \\udcff\n"


@pytest.mark.parametrize("descriptors", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams_change_no_exit_code(descriptors: tuple[int, ...], command_lines: dict[str, list[str]]) -> None:
    result = start(command_lines["render"], preexec_fn=closing(*descriptors))
    assert result.returncode == 0
    assert ("kind: Workflow" in result.stdout) is (1 not in descriptors)
    assert "Error" not in result.stderr


@pytest.mark.parametrize("line", [("render",), ("render", "--json"), ("--help",), ("completion",)], ids=" ".join)
def test_a_full_disk_is_one_message(line: tuple[str, ...], command_lines: dict[str, list[str]]) -> None:
    arguments = [*command_lines.get(line[0], [line[0]]), *line[1:]]
    with Path("/dev/full").open("w") as full:
        result = start(arguments, stdout=full)
        silent = start(arguments, stdout=full, stderr=full)
    assert (result.returncode, silent.returncode) == (1, 1)
    assert result.stderr.endswith("Error: the output, or a file, cannot be written: No space left on device\n")
    assert len([each for each in result.stderr.splitlines() if "rror" in each]) == 1


@pytest.mark.parametrize("line", [("render",), ("render", "--json"), ("--help",)], ids=" ".join)
def test_a_reader_that_stops_ends_a_command_silently(
    line: tuple[str, ...], command_lines: dict[str, list[str]]
) -> None:
    """As `flargo render | head -1`."""
    arguments = [*command_lines.get(line[0], [line[0]]), *line[1:]]
    reader, writer = os.pipe()
    os.close(reader)
    result = start(arguments, stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert "rror" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_disk_that_takes_no_file_is_one_message(command_lines: dict[str, list[str]]) -> None:
    """The folder that `render` works in is created, but none of its files can be written."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # noqa: E731
    result = start(command_lines["render"], preexec_fn=limit)
    assert result.returncode == 1
    assert result.stderr == "Error: no temporary folder can be written to: free some space, or set TMPDIR\n"


def test_streams_are_as_python_left_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a process with usable streams nothing changes."""
    streams.prepare()
    assert streams.finish() == ""
    streams.write_error("x\n")
    assert capsys.readouterr() == ("", "x\n")
    assert CliRunner().invoke(group(), ["--version"]).exit_code == 0
