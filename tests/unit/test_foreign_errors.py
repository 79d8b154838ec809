"""No text of a foreign exception, and no token in it, reaches a message, a log or --json.

Every exception class of the libraries that flargo calls is provoked with a planted token, wherever flargo lets such
an exception come up.
"""

import ast
import http.client
import importlib
import inspect
import json
import logging
import pkgutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import requests
import urllib3
import yaml
from kubernetes.client.configuration import Configuration

import flargo
from flargo.cluster import target
from flargo.cluster.api import Api, Connection, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.survey import Survey
from flargo.control.loop import Loop
from flargo.control.reconciler import Reconciler
from flargo.flare import redact
from flargo.flare.redact import REDACTION
from flargo.terms import Parent, Role
from flargo.tools.cli import output
from tests.harness.command_line import run, write_kubeconfig
from tests.harness.objects import workflow

TOKEN = "sha256~0paque-t0psecret-0f-openshift"
"""Of a shape that redaction does not know: the text must not come up at all."""
MODULES = (
    urllib3.exceptions,
    requests.exceptions,
    http.client,
    ssl,
    socket,
    subprocess,
    yaml,
    json,
    "kubernetes.config.config_exception",
    "kubernetes.client.exceptions",
    "pydantic_core",
    "hera.exceptions",
    "nvflare.apis.fl_exception",
    "builtins",
)
NOT_RAISED_BY_LIBRARIES = {"SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseExceptionGroup", "ExceptionGroup"}


def exception_classes() -> list[type[Exception]]:
    """Every exception class that these modules have."""
    found: dict[str, type[Exception]] = {}
    for named in MODULES:
        module = importlib.import_module(named) if isinstance(named, str) else named
        for name, each in inspect.getmembers(module, inspect.isclass):
            if issubclass(each, Exception) and name not in NOT_RAISED_BY_LIBRARIES:
                found[f"{each.__module__}.{each.__qualname__}"] = each
    return [found[name] for name in sorted(found)]


def planted(kind: type[Exception]) -> Exception | None:
    """An exception of a class, with the token wherever its text could come from."""
    for arguments in ((TOKEN,), (None, TOKEN), (TOKEN, TOKEN), (None, TOKEN, TOKEN), (1, TOKEN), (TOKEN, TOKEN, 0)):
        try:
            made = kind(*arguments)
        except Exception:  # noqa: BLE001, S112  (another signature)
            continue
        break
    else:
        return None
    for field in ("reason", "strerror", "filename", "verify_message", "doc", "msg", "message", "body"):
        try:
            if isinstance(getattr(made, field, None), str | None) and hasattr(made, field):
                setattr(made, field, TOKEN)
        except (AttributeError, TypeError):
            continue
    return made


CLASSES = [kind for kind in exception_classes() if planted(kind) is not None]
"""Without the few that take arguments of their own kinds only, and can hold no text."""


def wrapped(error: Exception | None) -> Iterator[Exception]:
    """The exception, and the ways in which libraries pass it on."""
    assert error is not None
    yield error
    pool = urllib3.HTTPConnectionPool("localhost")
    with suppress(TypeError):  # one that can't be written out can't be wrapped so either
        yield urllib3.exceptions.MaxRetryError(pool, f"/{TOKEN}", error)
    yield requests.ConnectionError(urllib3.exceptions.ProtocolError(TOKEN, error))
    chained = RuntimeError(TOKEN)
    chained.__cause__ = error
    yield chained


def test_there_are_many_of_them() -> None:
    assert len(CLASSES) > 120
    texts = 0
    for kind in CLASSES:
        with suppress(Exception):  # a text of numbers only
            texts += TOKEN in str(planted(kind))
    assert texts > 100, "the token is in most of their texts"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_a_failure_is_described_in_flargos_own_words(kind: type[Exception]) -> None:
    for error in wrapped(planted(kind)):
        words = describe(error)
        assert words
        assert "t0psecret" not in words
        assert words.isprintable()


class Broken(Connection):
    """A connection whose requests raise."""

    def __init__(self, error: Exception, *, in_credentials: bool) -> None:
        self.error, self.in_credentials = error, in_credentials
        self._configuration = Configuration(host="http://127.0.0.1:1")
        self._on_credential = lambda _: None
        self._pool: Any = self

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("preload_content") is False:  # by the pool
            raise self.error
        return super().request(*args, **kwargs)

    def _credentials(self) -> dict[str, str]:
        if self.in_credentials:
            raise self.error
        return {}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@pytest.mark.parametrize("in_credentials", [False, True], ids=["a request", "its credentials"])
def test_a_request_that_fails_quotes_nothing(
    kind: type[Exception], caplog: pytest.LogCaptureFixture, *, in_credentials: bool
) -> None:
    redact.install_filter()
    caplog.set_level(logging.DEBUG)
    for error in wrapped(planted(kind)):
        broken = Broken(error, in_credentials=in_credentials)
        api = Api(lambda: None, "ns")  # type: ignore[arg-type,return-value]
        api._connection = broken
        with pytest.raises(ApiError) as refused:
            api.get(Kind.POD, "p")
        assert "t0psecret" not in str(refused.value)
        survey = Survey.__new__(Survey)
        survey._connection = broken
        answer = survey.get(target.version)
        assert "t0psecret" not in f"{answer} {answer.message}"
        loop = Loop(api, "x=y", "this-run", 3)
        engine = Reconciler(lambda _: False, 0.0, epoch="this-run")
        orders = [*engine.on_listed(Kind.WORKFLOW, [workflow(parent="another", phase="Failed")], 0.0).commands]
        for order in [*orders, *engine.on_listed(Kind.POD, [], 0.0).commands]:
            loop._perform(order)
    text = logged(caplog)
    assert "t0psecret" not in text


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was logged, as a handler of FLARE's would write it."""
    formatter = logging.Formatter("%(message)s")
    return "\n".join(formatter.format(record) for record in caplog.records)


def test_a_trace_in_a_parents_log_has_lines_of_code_and_no_text_of_an_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redact.install_filter()
    log = logging.getLogger(redact.LOGGERS[0])
    try:
        try:
            raise ValueError(TOKEN)  # noqa: TRY301
        except ValueError as inner:
            raise RuntimeError(f"{TOKEN} again") from inner
    except RuntimeError:
        log.exception("it broke")
    text = logged(caplog)
    assert "it broke" in text
    assert "ValueError" in text
    assert "RuntimeError" in text
    assert "test_foreign_errors.py" in text
    assert "t0psecret" not in text


COMMANDS = (
    ["jobs"],
    ["jobs", "--watch"],
    ["why", "x"],
    ["logs", "x"],
    ["terminate", "x"],
    ["sweep"],
    ["doctor", "--wait", "0.5"],
)
LIBRARY_ERRORS = (
    ValueError(f"Invalid header value b'Bearer {TOKEN}\\n'"),
    requests.exceptions.InvalidHeader(TOKEN),
    urllib3.exceptions.LocationParseError(TOKEN),
    UnicodeEncodeError("latin-1", TOKEN, 0, 1, TOKEN),
    kubernetes.config.ConfigException(TOKEN),
    KeyError(TOKEN),
    RuntimeError(TOKEN),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("error", LIBRARY_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_command_quotes_no_library(
    words: list[str], error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(urllib3.PoolManager, "request", broken)
    options = ["--kubeconfig", write_kubeconfig(tmp_path / "config"), *(["--json"] if as_json else [])]
    done = run(*words, *options)
    assert done.exit_code in {1, 2}
    assert "t0psecret" not in done.output + done.stderr


@pytest.mark.parametrize("step", ["the command itself", "its configuration"])
def test_an_unforeseen_error_is_told_by_its_type_and_debug_shows_the_trace_redacted(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError(f"\x1b]52;c;x\x07 {jwt}")

    monkeypatch.setattr(Api, "list" if step == "the command itself" else "time", broken)
    monkeypatch.setattr(Api, "list", broken)
    options = ["--kubeconfig", write_kubeconfig(tmp_path / "config")]
    done = run("jobs", *options)
    assert done.exit_code == output.EXIT_PROBLEM
    assert "LookupError" in done.stderr
    assert "--debug" in done.stderr
    assert jwt not in done.stderr
    assert "Traceback" not in done.stderr
    done = run("jobs", "--debug", *options)
    assert done.exit_code == output.EXIT_PROBLEM
    assert "Traceback" in done.stderr
    assert "test_foreign_errors.py" in done.stderr
    assert "\\x1b]52" in done.stderr
    assert "\x1b" not in done.stderr
    assert jwt not in done.stderr


TOKEN_FILES = {
    "a line end": (f"{TOKEN}\n", True),
    "a line end of Windows": (f"{TOKEN}\r\n", True),
    "space around it": (f"  {TOKEN} \n", True),
    "two lines": (f"{TOKEN}\nmore\n", False),
    "another header": (f"{TOKEN}\r\nX-Injected: 1", False),
    "no ASCII": (f"{TOKEN}\u00e9", False),
    "nothing": ("\n", False),
}


@pytest.mark.parametrize(("content", "is_usable"), TOKEN_FILES.values(), ids=TOKEN_FILES)
def test_a_token_file_is_stripped_and_checked_when_it_is_read(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_usable: bool
) -> None:
    sent: list[str] = []

    def answer(_: Any, __: str, ___: str, **kwargs: Any) -> Any:
        sent.append(kwargs["headers"]["authorization"])
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib3.PoolManager, "request", answer)
    (tmp_path / "token").write_bytes(content.encode("latin-1"))
    file = Path(write_kubeconfig(tmp_path / "config"))
    said = yaml.safe_load(file.read_text())
    said["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
    file.write_text(yaml.safe_dump(said))
    for more in ([], ["--json"]):
        done = run("jobs", "--kubeconfig", file, *more)
        assert done.exit_code == 1
        assert "t0psecret" not in done.output + done.stderr
    assert sent == [f"Bearer {TOKEN}"] * (2 if is_usable else 0)


def test_the_launchers_own_token_is_blanked_from_now_on() -> None:
    learned: list[str] = []
    configuration = Configuration(host="http://127.0.0.1:1")
    configuration.api_key["BearerToken"] = f"Bearer {TOKEN}"
    connection = Connection(configuration, learned.append)
    with pytest.raises(Exception, match="Connection refused"):
        connection.request("GET", target.version(), None, None, 1.0, "application/json")
    assert learned == [TOKEN]
    REDACTION.learn_own_token(TOKEN)
    assert TOKEN not in REDACTION.redact(f"a page that quotes {TOKEN} in its text")
    for number in range(5):
        REDACTION.learn_own_token(f"rotated-token-{number}")
    assert "rotated-token-4" not in REDACTION.redact("rotated-token-4")
    assert REDACTION.redact(TOKEN) == TOKEN, "one that was rotated away long ago is good for nothing"


def test_a_plugins_stderr_is_shown_redacted_and_inert_and_in_a_parent_not_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "plugin"
    lines = [
        "first \x1b]52;c;x\x07",
        "-----BEGIN PRIVATE KEY-----",
        "MIIEsecretline",
        "-----END PRIVATE KEY-----",
        "last",
    ]
    said = "".join(f"{line}\n" for line in lines)
    script.write_text(f"#!/bin/sh\ncat >&2 <<'EOF'\n{said}EOF\nexit 1\n")
    script.chmod(0o755)
    file = Path(write_kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(file.read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": plugin}
    file.write_text(yaml.safe_dump(content))
    for command in (["jobs"], ["doctor", "--wait", "0.5"]):
        done = run(*command, "--kubeconfig", file)
        assert "\\x1b]52" in done.stderr
        assert "last" in done.stderr
        assert "ended with exit code 1" in done.stderr
        assert "\x1b" not in done.stderr
        assert "secretline" not in done.stderr
    redact.install_filter()
    with pytest.raises(ApiError, match="ended with exit code 1"):
        Api(config_loader(str(file)), "ns").get(Kind.POD, "p")
    assert "first" not in logged(caplog)


def test_a_parent_learns_the_token_that_it_sends(tmp_path: Path) -> None:
    token = "opaque-token-of-a-launcher"
    file = Path(write_kubeconfig(tmp_path / "config"))
    file.write_text(file.read_text().replace("t0psecret", token))
    made = flargo.ClientArgoJobLauncher(config_file_path=str(file), workspace_mount_path=str(tmp_path))
    loop = made._get_loop(Parent("site-1", "f" * 32, "epoch", Role.CLIENT))
    assert token in REDACTION.redact(token)
    with pytest.raises(ApiError):
        loop._api.get(Kind.POD, "p")
    assert token not in REDACTION.redact(f"a page that quotes {token}")


@pytest.mark.parametrize("command", [["jobs"], ["doctor", "--wait", "0.5"]], ids=" ".join)
def test_a_command_learns_the_token_that_it_sends(command: list[str], tmp_path: Path) -> None:
    token = f"opaque-token-of-{command[0]}"
    file = Path(write_kubeconfig(tmp_path / "config"))
    file.write_text(file.read_text().replace("t0psecret", token))
    run(*command, "--kubeconfig", file)
    assert token not in REDACTION.redact(f"a page that quotes {token}")


OWN = {
    "ApiError",
    "ArchiveError",
    "ConfigError",
    "DemoError",
    "DocumentError",
    "InvalidInput",
    "InvalidTargetError",
    "KitError",
    "NotFoundError",
    "OwnError",
    "SubmitError",
    "TooLongError",
    "UsageError",
}
"""Exceptions whose text is flargo's own. (click's UsageError quotes what the person has typed.)"""


def spoken(handler: ast.ExceptHandler) -> Iterator[int]:
    """The lines of a handler in which the text of its exception becomes part of another text."""
    for node in ast.walk(handler):
        if not isinstance(node, ast.expr):
            continue
        inside: list[ast.expr] = []
        if isinstance(node, ast.FormattedValue):
            inside = [node.value]
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            inside = [*node.args] if name in SPEAKS else []
        if any(isinstance(each, ast.Name) and each.id == handler.name for each in inside):
            yield node.lineno


SPEAKS = {"str", "repr", "ascii", "debug", "info", "warning", "error", "log", "echo"}


def test_no_handler_makes_a_text_of_a_foreign_exception() -> None:
    found = []
    for module in pkgutil.walk_packages(flargo.__path__, "flargo."):
        if module.name.startswith("flargo.embedded"):
            continue
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module.name)))):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                names = {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in kinds}
                if not names <= OWN:
                    found += [f"{module.name}:{line} ({', '.join(sorted(names))})" for line in spoken(node)]
    assert found == []
