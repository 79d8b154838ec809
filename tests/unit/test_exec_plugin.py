"""Credential plugins: their credentials are used, and their output reaches only a caller that asks for it."""

import io
import json
import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flargo.cluster import exec_plugin
from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import ConfigError, config_loader
from flargo.cluster.errors import ApiError
from tests.harness.command_line import run

TOKEN = "0pa9ue-t0psecret"
VERSION = "client.authentication.k8s.io/v1"


def kubeconfig(folder: Path, script: str) -> Path:
    """Write a kubeconfig whose plugin is a shell script; return its path."""
    cluster = {"server": "https://127.0.0.1:1"}
    user = {"exec": {"apiVersion": VERSION, "command": "sh", "args": ["-c", script], "interactiveMode": "IfAvailable"}}
    content = {
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    file = folder / "config"
    file.write_text(json.dumps(content))
    return file


def credential_script(**status: str) -> str:
    """Return a script that prints credentials."""
    return f"echo '{json.dumps({'apiVersion': VERSION, 'kind': 'ExecCredential', 'status': status})}'"


def test_a_plugins_token_is_used(tmp_path: Path) -> None:
    assert config_loader(str(kubeconfig(tmp_path, credential_script(token=TOKEN))))().token == TOKEN


def test_a_plugins_certificate_is_used(tmp_path: Path) -> None:
    script = credential_script(clientCertificateData="a certificate", clientKeyData="a key")
    tls = config_loader(str(kubeconfig(tmp_path, script)))().tls
    assert (tls.certificate, tls.key) == (b"a certificate", b"a key")


FAILURES = {
    "it fails": (f"echo {TOKEN} >&2; exit 3", "ended with exit code 3"),
    "it prints something else": (f"echo {TOKEN}", "printed no JSON"),
    "it prints another version": (
        f'echo \'{{"apiVersion": "{TOKEN}", "kind": "ExecCredential", "status": {{}}}}\'',
        "printed no ExecCredential",
    ),
    "it returns nothing": (credential_script(message=TOKEN), "neither a token nor a certificate"),
}


@pytest.mark.parametrize(("script", "message"), FAILURES.values(), ids=FAILURES)
def test_plugin_failures_quote_no_output(
    script: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    load = config_loader(str(kubeconfig(tmp_path, script)))
    with pytest.raises(ConfigError, match=message) as error:
        load()
    with pytest.raises(ApiError, match=message) as api_error:
        Api(load, "ns").get(Kind.POD, "p")
    assert TOKEN not in f"{error.value} {api_error.value} {caplog.text}"


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "")
    file.write_text(file.read_text().replace('"sh"', '"/not/there"'))
    with pytest.raises(ConfigError, match="plugin there is not installed"):
        config_loader(str(file))()


def test_stderr_is_passed_on_by_line(tmp_path: Path) -> None:
    lines: list[str] = []
    script = f"echo first >&2; echo second >&2; {credential_script(token=TOKEN)}"
    config_loader(str(kubeconfig(tmp_path, script)), None, lines.append)()
    assert lines == ["first", "second"]


def test_much_stderr_takes_limited_memory(tmp_path: Path) -> None:
    """Nor does the plugin block because its pipe is full."""
    lines: list[str] = []
    script = (
        f"head -c 3000000 /dev/zero | tr '\\0' x >&2; yes >&2 | head -c 300000 >&2; {credential_script(token=TOKEN)}"
    )
    config_loader(str(kubeconfig(tmp_path, script.replace("yes >&2", "yes"))), None, lines.append)()
    assert max(map(len, lines)) <= exec_plugin.MAX_LINE_LENGTH
    assert len(lines) <= exec_plugin.MAX_LINES


def test_a_hanging_plugin_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a callback for its lines the plugin is not interactive, and has a deadline."""
    monkeypatch.setattr(exec_plugin, "TIMEOUT", 0.3)
    with pytest.raises(ConfigError, match=r"took more than 0.3 s, and was killed"):
        config_loader(str(kubeconfig(tmp_path, "sleep 600; true")))()


BACKGROUND = {
    "a child keeps stderr": "sleep 25 >/dev/null </dev/null & {}",
    "a child in a session of its own keeps stdout": "setsid sleep 25 2>/dev/null </dev/null & sleep 0.2; {}",
    "a child keeps both": "sleep 25 </dev/null & {}",
    "a child writes stderr for ever": "timeout 25 yes >&2 </dev/null & {}",
}


@pytest.mark.parametrize("script", BACKGROUND.values(), ids=BACKGROUND)
def test_background_processes_delay_nothing(script: str, tmp_path: Path) -> None:
    """A plugin's output ends when the plugin exits, although a process that it started holds a pipe open."""
    load = config_loader(str(kubeconfig(tmp_path, script.format(credential_script(token=TOKEN)))), None, lambda _: None)
    start = time.monotonic()
    assert load().token == TOKEN
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("script", ["yes", "timeout 25 yes & sleep 25", "yes & true"])
def test_endless_stdout_is_an_error(script: str, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError, match=f"printed more than {exec_plugin.MAX_OUTPUT_BYTES} bytes"):
        config_loader(str(kubeconfig(tmp_path, script)))()
    assert time.monotonic() - start < 10


def test_the_largest_allowed_output_is_read(tmp_path: Path) -> None:
    padding = exec_plugin.MAX_OUTPUT_BYTES - len(credential_script(token=TOKEN)) + len("echo ''") - 1
    script = f"head -c {padding} /dev/zero | tr '\\0' ' '; {credential_script(token=TOKEN)}"
    assert config_loader(str(kubeconfig(tmp_path, script)))().token == TOKEN


@pytest.mark.parametrize("script", ["yes >&2", "exec >&- 2>&-; sleep 25", "sleep 25 & wait"])
def test_the_deadline_holds_for_any_pipe(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_plugin, "TIMEOUT", 0.3)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"took more than|exit code 141"):
        config_loader(str(kubeconfig(tmp_path, script)), None, lambda _: None)()
    assert time.monotonic() - start < 10


def test_a_reaped_plugins_group_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have the number of a reaped process."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    monkeypatch.setattr(exec_plugin, "TIMEOUT", 0.5)
    config_loader(str(kubeconfig(tmp_path, f"sleep 2 & {credential_script(token=TOKEN)}")), None, lambda _: None)()
    assert killed == []


def test_an_unkillable_plugin_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that runs as another user, for example under sudo, gets no signal."""

    def refuse(_group: int, _signal: int) -> None:
        raise PermissionError(1, TOKEN)

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(exec_plugin, "TIMEOUT", 0.1)
    monkeypatch.setattr(exec_plugin, "_KILL_SECONDS", 0.2)
    with pytest.raises(ConfigError, match="can't be ended"):
        config_loader(str(kubeconfig(tmp_path, "sleep 4; true")))()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_prompts_are_shown_while_plugin_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt has no line end. The plugin continues only after the prompt was passed on."""
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(exec_plugin, "TIMEOUT", 0.1)  # an interactive plugin has no deadline
    prompt_shown = tmp_path / "shown"
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        prompt_shown.touch()

    wait = f"for _ in $(seq 50); do test -e {prompt_shown} && break; sleep 0.1; done; test -e {prompt_shown} || exit 7"
    script = f"printf 'Password: ' >&2; {wait}; echo >&2; echo thanks >&2; {credential_script(token=TOKEN)}"
    config_loader(str(kubeconfig(tmp_path, script)), None, show)()
    assert lines == ["Password: ", "thanks"]


def test_slow_lines_stay_whole_without_terminal(tmp_path: Path) -> None:
    """A secret that is split into two lines would not be redacted."""
    lines: list[str] = []
    script = f"printf {TOKEN[:6]} >&2; sleep 0.4; echo {TOKEN[6:]} >&2; {credential_script(token=TOKEN)}"
    config_loader(str(kubeconfig(tmp_path, script)), None, lines.append)()
    assert lines == [TOKEN]


@given(st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\r", "xyz"])), st.integers(1, 5))
def test_lines_do_not_depend_on_chunks(parts: list[str], size: int) -> None:
    text = "".join(parts)
    content = text.encode()
    lines: list[str] = []
    line_splitter = exec_plugin._Lines(lines.append)
    for at in range(0, len(content), size):
        line_splitter.add(content[at : at + size])
    line_splitter.end()
    assert lines == io.StringIO(text, newline=None).read().removesuffix("\n").split("\n") * bool(text)


INTERACTIVE = {
    # interactiveMode, whether a person reads, whether there is a terminal: what the plugin gets; None: an error
    ("Never", True, True): False,
    ("IfAvailable", True, True): True,
    ("IfAvailable", True, False): False,
    ("IfAvailable", False, True): False,
    ("Always", True, True): True,
    ("Always", True, False): None,
    ("Always", False, True): None,
}


@pytest.mark.parametrize(("mode", "has_reader", "has_terminal"), INTERACTIVE)
def test_interactive_mode_is_obeyed(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_reader: bool, has_terminal: bool
) -> None:
    """A parent has no reader, and never gives a plugin its terminal."""
    monkeypatch.setattr("sys.stdin", Terminal() if has_terminal else io.StringIO())
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/info; {credential_script(token=TOKEN)}'
    file = kubeconfig(tmp_path, script)
    file.write_text(file.read_text().replace("IfAvailable", mode))
    load = config_loader(str(file), None, (lambda _: None) if has_reader else None)
    expected = INTERACTIVE[mode, has_reader, has_terminal]
    if expected is None:
        with pytest.raises(ConfigError, match="plugin sh needs a terminal"):
            load()
        assert not (tmp_path / "info").exists()
        return
    assert load().token == TOKEN
    assert json.loads((tmp_path / "info").read_text())["spec"] == {"interactive": expected}


def test_an_install_hint_is_one_harmless_line(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "")
    content = json.loads(file.read_text())
    plugin = {"command": "no\x1b[1mplugin", "installHint": "brew\n  install\x1b[1m it " + "x" * 600}
    content["users"][0]["user"]["exec"] |= plugin
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        config_loader(str(file))()
    text = str(error.value)
    assert (
        r"the credential plugin no\x1b[1mplugin is not installed, or not in the PATH: brew install\x1b[1m it x" in text
    )
    assert text.isprintable()
    assert len(text) < 800


def test_a_failure_says_what_to_do(tmp_path: Path) -> None:
    """In a parent's log it quotes nothing of the plugin, and says how to see that."""
    loud, silent = kubeconfig(tmp_path, f"echo {TOKEN} >&2; exit 3"), tmp_path / "silent"
    silent.write_text(loud.read_text().replace(f"echo {TOKEN} >&2; ", ""))
    for file, reader, advice in (
        (loud, lambda _: None, "exit code 3; its own words are on stderr. It may help to sign in again"),
        (silent, lambda _: None, "exit code 3 and wrote no message; run it by hand"),
        (loud, None, "exit code 3; its own words are not logged, since they may hold a token: run it by hand"),
    ):
        with pytest.raises(ConfigError, match=advice):
            config_loader(str(file), None, reader)()


def test_the_program_is_looked_up_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process's PATH, not in one that the plugin's env sets."""
    for name, token in (("own", "right"), ("of the env", "wrong")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plugin").write_text(f"#!/bin/sh\n{credential_script(token=token)}\n")
        (tmp_path / name / "plugin").chmod(0o755)
    file = kubeconfig(tmp_path, "")
    content = json.loads(file.read_text())
    env = [{"name": "PATH", "value": str(tmp_path / "of the env")}]
    content["users"][0]["user"]["exec"] |= {"command": "plugin", "env": env}
    file.write_text(json.dumps(content))
    monkeypatch.setenv("PATH", f"{tmp_path / 'own'}:{os.environ['PATH']}")
    assert config_loader(str(file))().token == "right"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2030-01-02T03:04:05Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04:05.123456789Z", datetime(2030, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("2030-01-02T04:04:05+01:00", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("soon", None),
    ],
)
def test_the_expiry_is_read(text: str, expected: datetime | None, tmp_path: Path) -> None:
    load = config_loader(str(kubeconfig(tmp_path, credential_script(token=TOKEN, expirationTimestamp=text))))
    if expected is None:
        with pytest.raises(ConfigError, match="an expirationTimestamp that is no time"):
            load()
    else:
        assert load().expires_at == expected


COMMANDS = (["jobs"], ["why", "x"], ["logs", "x"], ["terminate", "x"], ["sweep"], ["doctor", "--wait", "0.5"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_runs_the_plugin_once(command: list[str], tmp_path: Path) -> None:
    """However many requests it sends."""
    script = f"echo run >> {tmp_path}/runs; {credential_script(token=TOKEN)}"
    result = run(*command, "--kubeconfig", kubeconfig(tmp_path, script))
    assert result.exit_code == 1
    assert (tmp_path / "runs").read_text() == "run\n"
