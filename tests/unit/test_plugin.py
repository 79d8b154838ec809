"""Credential plugins: their credentials are used, their words reach a person who asked and nobody else."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flargo.cluster import plugin
from flargo.cluster.api import Api, Kind
from flargo.cluster.connect import ConfigError, configuration
from flargo.cluster.errors import ApiError

TOKEN = "0pa9ue-t0psecret"
VERSION = "client.authentication.k8s.io/v1"


def kubeconfig(folder: Path, script: str) -> Path:
    """A kubeconfig whose plugin is a shell script."""
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


def gives(**status: str) -> str:
    """A script that prints credentials."""
    return f"echo '{json.dumps({'apiVersion': VERSION, 'kind': 'ExecCredential', 'status': status})}'"


def test_a_plugins_token_is_sent(tmp_path: Path) -> None:
    loaded = configuration(str(kubeconfig(tmp_path, gives(token=TOKEN))))()
    settings: Any = loaded.auth_settings()
    assert settings["BearerToken"]["value"] == f"Bearer {TOKEN}"


def test_a_plugins_certificate_is_sent(tmp_path: Path) -> None:
    script = gives(clientCertificateData="a certificate", clientKeyData="a key")
    loaded = configuration(str(kubeconfig(tmp_path, script)))()
    assert Path(str(loaded.cert_file)).read_text() == "a certificate"
    assert Path(str(loaded.key_file)).read_text() == "a key"


FAILURES = {
    "it fails": (f"echo {TOKEN} >&2; exit 3", "ended with exit code 3"),
    "it prints something else": (f"echo {TOKEN}", "printed no JSON"),
    "it prints another version": (
        f'echo \'{{"apiVersion": "{TOKEN}", "kind": "ExecCredential", "status": {{}}}}\'',
        "printed no ExecCredential",
    ),
    "it gives nothing": (gives(message=TOKEN), "neither a token nor a certificate"),
}


@pytest.mark.parametrize(("script", "words"), FAILURES.values(), ids=FAILURES)
def test_a_plugin_without_credentials_is_an_error_of_flargos_own_words(
    script: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    load = configuration(str(kubeconfig(tmp_path, script)))
    with pytest.raises(ConfigError, match=words) as error:
        load()
    with pytest.raises(ApiError, match=words) as refused:
        Api(load, "ns").get(Kind.POD, "p")
    assert TOKEN not in f"{error.value} {refused.value} {caplog.text}"


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "")
    file.write_text(file.read_text().replace('"sh"', '"/not/there"'))
    with pytest.raises(ConfigError, match="can't be run: No such file or directory"):
        configuration(str(file))()


def test_what_a_plugin_says_reaches_who_asked_line_by_line(tmp_path: Path) -> None:
    said: list[str] = []
    script = f"echo first >&2; echo second >&2; {gives(token=TOKEN)}"
    configuration(str(kubeconfig(tmp_path, script)), None, said.append)()
    assert said == ["first", "second"]


def test_a_plugin_that_says_much_fills_neither_a_pipe_nor_memory(tmp_path: Path) -> None:
    said: list[str] = []
    script = f"head -c 3000000 /dev/zero | tr '\\0' x >&2; yes >&2 | head -c 300000 >&2; {gives(token=TOKEN)}"
    configuration(str(kubeconfig(tmp_path, script.replace("yes >&2", "yes"))), None, said.append)()
    assert max(map(len, said)) <= plugin.MAX_LINE_LENGTH
    assert len(said) <= plugin.MAX_LINES


def test_a_plugin_that_hangs_is_ended_where_nobody_can_talk_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "TIMEOUT", 0.3)
    with pytest.raises(ConfigError, match="ended with exit code -9"):
        configuration(str(kubeconfig(tmp_path, "sleep 600; true")))()
