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

import flargo
from flargo.cluster import target
from flargo.cluster.access import Access
from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.connection import Connection
from flargo.cluster.error_text import describe
from flargo.cluster.errors import ApiError
from flargo.cluster.http_request import Request
from flargo.cluster.survey import Survey
from flargo.cluster.transport import Transport
from flargo.control.inputs import Listed
from flargo.control.perform import Performer
from flargo.control.reconciler import Reconciler
from flargo.flare import redact
from flargo.flare.redact import REDACTION
from flargo.terms import Parent, Role
from flargo.tools.cli import output
from tests.harness.command_line import run, write_kubeconfig
from tests.harness.objects import workflow

TOKEN = "sha256~0paque-t0psecret-0f-openshift"
"""Redaction does not recognise its form, so the text must not appear at all."""
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
    """Return every exception class of these modules."""
    classes: dict[str, type[Exception]] = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name) if isinstance(module_name, str) else module_name
        for name, each in inspect.getmembers(module, inspect.isclass):
            if issubclass(each, Exception) and name not in NOT_RAISED_BY_LIBRARIES:
                classes[f"{each.__module__}.{each.__qualname__}"] = each
    return [classes[name] for name in sorted(classes)]


def exception_with_token(kind: type[Exception]) -> Exception | None:
    """Create an exception that has the token in every part from which its text may come; None if it takes no text."""
    for arguments in ((TOKEN,), (None, TOKEN), (TOKEN, TOKEN), (None, TOKEN, TOKEN), (1, TOKEN), (TOKEN, TOKEN, 0)):
        try:
            instance = kind(*arguments)
        except Exception:  # noqa: BLE001, S112  (another signature)
            continue
        break
    else:
        return None
    for field in ("reason", "strerror", "filename", "verify_message", "doc", "msg", "message", "body"):
        try:
            if isinstance(getattr(instance, field, None), str | None) and hasattr(instance, field):
                setattr(instance, field, TOKEN)
        except (AttributeError, TypeError):
            continue
    return instance


CLASSES = [kind for kind in exception_classes() if exception_with_token(kind) is not None]
"""Without the few classes whose exceptions hold no text."""


def wrap(error: Exception | None) -> Iterator[Exception]:
    """Yield the exception itself, and wrapped in the ways of several libraries."""
    assert error is not None
    yield error
    pool = urllib3.HTTPConnectionPool("localhost")
    with suppress(TypeError):  # one that can't be written out can't be wrapped so either
        yield urllib3.exceptions.MaxRetryError(pool, f"/{TOKEN}", error)
    yield requests.ConnectionError(urllib3.exceptions.ProtocolError(TOKEN, error))
    chained = RuntimeError(TOKEN)
    chained.__cause__ = error
    yield chained


def test_exception_classes_hold_the_token() -> None:
    assert len(CLASSES) > 120
    texts = 0
    for kind in CLASSES:
        with suppress(Exception):  # a text of numbers only
            texts += TOKEN in str(exception_with_token(kind))
    assert texts > 100, "the token is in most of their texts"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_descriptions_quote_no_exception(kind: type[Exception]) -> None:
    for error in wrap(exception_with_token(kind)):
        text = describe(error)
        assert text
        assert "t0psecret" not in text
        assert text.isprintable()


class Broken(Connection):
    """A connection whose requests, or their credentials, raise an exception."""

    def __init__(self, error: Exception, *, in_credentials: bool) -> None:
        self.error, self.in_credentials = error, in_credentials
        self.access = Access("http://127.0.0.1:1")
        self._on_credential = lambda _: None
        self._pool: Any = self

    def request(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("preload_content") is False:  # by the pool
            raise self.error
        return super().request(*args, **kwargs)

    def _authorization(self) -> str:
        if self.in_credentials:
            raise self.error
        return ""


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
@pytest.mark.parametrize("in_credentials", [False, True], ids=["a request", "its credentials"])
def test_a_failed_request_quotes_nothing(
    kind: type[Exception], caplog: pytest.LogCaptureFixture, *, in_credentials: bool
) -> None:
    redact.install_filter()
    caplog.set_level(logging.DEBUG)
    for error in wrap(exception_with_token(kind)):
        connection = Broken(error, in_credentials=in_credentials)
        api = Api(lambda: None, "ns")  # type: ignore[arg-type,return-value]
        api._transport = Transport(lambda: None)  # type: ignore[arg-type,return-value]
        api._transport._connections._connection = connection
        with pytest.raises(ApiError) as api_error:
            api.get(Kind.POD, "p")
        assert "t0psecret" not in str(api_error.value)
        survey = Survey.__new__(Survey)
        survey._transport = api._transport
        answer = survey.get(target.version)
        assert "t0psecret" not in f"{answer} {answer.message}"
        performer = Performer(api)
        reconciler = Reconciler(lambda _: False, 0.0, epoch="this-run")
        commands = [
            *reconciler.handle(Listed(Kind.WORKFLOW, (workflow(parent="another", phase="Failed"),)), 0.0).commands
        ]
        for command in [*commands, *reconciler.handle(Listed(Kind.POD, ()), 0.0).commands]:
            performer.perform(command)
    text = log_text(caplog)
    assert "t0psecret" not in text


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    """Return all log messages in the form that a handler of FLARE's writes."""
    formatter = logging.Formatter("%(message)s")
    return "\n".join(formatter.format(record) for record in caplog.records)


def test_tracebacks_have_no_exception_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A traceback in a parent's log shows types and lines of code only."""
    redact.install_filter()
    log = logging.getLogger(redact.LOGGERS[0])
    try:
        try:
            raise ValueError(TOKEN)  # noqa: TRY301
        except ValueError as inner:
            raise RuntimeError(f"{TOKEN} again") from inner
    except RuntimeError:
        log.exception("it broke")
    text = log_text(caplog)
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


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("error", LIBRARY_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_commands_quote_no_library(
    argv: list[str], error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_json: bool
) -> None:
    def raise_error(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(urllib3.PoolManager, "request", raise_error)
    options = ["--kubeconfig", write_kubeconfig(tmp_path / "config"), *(["--json"] if as_json else [])]
    result = run(*argv, *options)
    assert result.exit_code in {1, 2}
    assert "t0psecret" not in result.output + result.stderr


@pytest.mark.parametrize("step", ["the command itself", "its configuration"])
def test_unexpected_errors_show_their_type(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only --debug shows the traceback, redacted and without control characters."""
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"

    def raise_error(*_: Any, **__: Any) -> Any:
        raise LookupError(f"\x1b]52;c;x\x07 {jwt}")

    monkeypatch.setattr(Api, "list" if step == "the command itself" else "time", raise_error)
    monkeypatch.setattr(Api, "list", raise_error)
    options = ["--kubeconfig", write_kubeconfig(tmp_path / "config")]
    result = run("jobs", *options)
    assert result.exit_code == output.EXIT_PROBLEM
    assert "LookupError" in result.stderr
    assert "--debug" in result.stderr
    assert jwt not in result.stderr
    assert "Traceback" not in result.stderr
    result = run("jobs", "--debug", *options)
    assert result.exit_code == output.EXIT_PROBLEM
    assert "Traceback" in result.stderr
    assert "test_foreign_errors.py" in result.stderr
    assert "\\x1b]52" in result.stderr
    assert "\x1b" not in result.stderr
    assert jwt not in result.stderr


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
def test_token_files_are_stripped_and_checked(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_usable: bool
) -> None:
    headers_sent: list[str] = []

    def answer(_: Any, __: str, ___: str, **kwargs: Any) -> Any:
        headers_sent.append(kwargs["headers"]["Authorization"])
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib3.PoolManager, "request", answer)
    (tmp_path / "token").write_bytes(content.encode("latin-1"))
    file = Path(write_kubeconfig(tmp_path / "config"))
    config = yaml.safe_load(file.read_text())
    config["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
    file.write_text(yaml.safe_dump(config))
    for more in ([], ["--json"]):
        result = run("jobs", "--kubeconfig", file, *more)
        assert result.exit_code == 1
        assert "t0psecret" not in result.output + result.stderr
    assert headers_sent == [f"Bearer {TOKEN}"] * (2 if is_usable else 0)


def test_own_tokens_are_redacted() -> None:
    """The current token and the two before it are redacted, and older ones are not."""
    tokens_learned: list[str] = []
    connection = Connection(Access("http://127.0.0.1:1", token=TOKEN), tokens_learned.append)
    with pytest.raises(Exception, match="Connection refused"):
        connection.request(Request("get", "version", "GET", target.version()))
    assert tokens_learned == [TOKEN]
    REDACTION.learn_own_token(TOKEN)
    assert TOKEN not in REDACTION.redact(f"a page that quotes {TOKEN} in its text")
    for number in range(5):
        REDACTION.learn_own_token(f"rotated-token-{number}")
    assert "rotated-token-4" not in REDACTION.redact("rotated-token-4")
    assert REDACTION.redact(TOKEN) == TOKEN, "one that was rotated away long ago is good for nothing"


def test_plugin_stderr_is_redacted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Commands show it without secrets and control characters. A parent's log does not show it."""
    script = tmp_path / "plugin"
    lines = [
        "first \x1b]52;c;x\x07",
        "-----BEGIN PRIVATE KEY-----",
        "MIIEsecretline",
        "-----END PRIVATE KEY-----",
        "last",
    ]
    stderr = "".join(f"{line}\n" for line in lines)
    script.write_text(f"#!/bin/sh\ncat >&2 <<'EOF'\n{stderr}EOF\nexit 1\n")
    script.chmod(0o755)
    file = Path(write_kubeconfig(tmp_path / "config"))
    content = yaml.safe_load(file.read_text())
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": plugin}
    file.write_text(yaml.safe_dump(content))
    for command in (["jobs"], ["doctor", "--wait", "0.5"]):
        result = run(*command, "--kubeconfig", file)
        assert "\\x1b]52" in result.stderr
        assert "last" in result.stderr
        assert "ended with exit code 1" in result.stderr
        assert "\x1b" not in result.stderr
        assert "secretline" not in result.stderr
    redact.install_filter()
    with pytest.raises(ApiError, match="ended with exit code 1"):
        Api(config_loader(str(file)), "ns").get(Kind.POD, "p")
    assert "first" not in log_text(caplog)


def test_a_parent_redacts_its_own_token(tmp_path: Path) -> None:
    token = "opaque-token-of-a-launcher"
    file = Path(write_kubeconfig(tmp_path / "config"))
    file.write_text(file.read_text().replace("t0psecret", token))
    launcher = flargo.ClientArgoJobLauncher(config_file_path=str(file), workspace_mount_path=str(tmp_path))
    loop = launcher._get_loop(Parent("site-1", "f" * 32, "epoch", Role.CLIENT))
    assert token in REDACTION.redact(token)
    with pytest.raises(ApiError):
        loop._api.get(Kind.POD, "p")
    assert token not in REDACTION.redact(f"a page that quotes {token}")


@pytest.mark.parametrize("command", [["jobs"], ["doctor", "--wait", "0.5"]], ids=" ".join)
def test_a_command_redacts_its_own_token(command: list[str], tmp_path: Path) -> None:
    token = f"opaque-token-of-{command[0]}"
    file = Path(write_kubeconfig(tmp_path / "config"))
    file.write_text(file.read_text().replace("t0psecret", token))
    run(*command, "--kubeconfig", file)
    assert token not in REDACTION.redact(f"a page that quotes {token}")


OWN = {
    "AdoptionError",
    "ApiError",
    "ArchiveError",
    "ConfigError",
    "DemoError",
    "DocumentError",
    "InvalidInput",
    "InvalidTargetError",
    "KitError",
    "KubeconfigError",
    "NotFoundError",
    "OwnError",
    "NotThereError",
    "OptionsError",
    "ReclaimError",
    "RecordsError",
    "SiteTakenError",
    "SubmitError",
    "TooLongError",
    "UsageError",
}
"""Exceptions whose text is flargo's own. (click's UsageError quotes the command line.)"""


def lines_using_text(handler: ast.ExceptHandler) -> Iterator[int]:
    """Yield the lines of a handler that make the text of its exception part of another text."""
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


def test_no_handler_uses_foreign_exception_text() -> None:
    offences = []
    for module in pkgutil.walk_packages(flargo.__path__, "flargo."):
        if module.name.startswith("flargo.embedded"):
            continue
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module.name)))):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                names = {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in kinds}
                if not names <= OWN:
                    offences += [
                        f"{module.name}:{line} ({', '.join(sorted(names))})" for line in lines_using_text(node)
                    ]
    assert offences == []
