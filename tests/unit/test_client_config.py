"""A pod's own service account, and the token files of any configuration."""

import json
from pathlib import Path

import pytest

from flargo.cluster import service_account
from flargo.cluster.client_config import ConfigError, NoConfigError, choose, config_loader
from flargo.cluster.token_file import READ_INTERVAL_SECONDS, TokenFile, TokenFileError
from tests.harness.command_line import write_kubeconfig


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a pod's service account."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("a certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(service_account, "FOLDER", tmp_path)
    return tmp_path


def test_the_pods_account_is_loaded(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = config_loader(None)()
    assert (access.server, access.token_file) == ("https://10.96.0.1:443", str(account / "token"))
    assert access.tls.authorities == b"a certificate"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert config_loader(None)().server == "https://[fd00::1]:443"


def test_an_unusable_account_is_reported(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (account / "ca.crt").unlink()
    with pytest.raises(ConfigError, match=r"the pod's service account can't be used: .*ca.crt can't be read"):
        config_loader(None)()
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    with pytest.raises(ConfigError, match="this is no pod"):
        config_loader(None)()


def test_the_pods_namespace(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POD_NAMESPACE goes first, as for kubectl."""
    assert service_account.namespace() == "default"
    (account / "namespace").write_text("lab\n")
    assert service_account.namespace() == "lab"
    monkeypatch.setenv("POD_NAMESPACE", "flare")
    assert service_account.namespace() == "flare"


def test_a_pod_uses_its_account_if_no_context_is_chosen(
    account: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As kubectl does, also where a kubeconfig is there. An explicit one is never passed over."""
    (account / "namespace").write_text("lab")
    file = Path(write_kubeconfig(tmp_path / "config", "https://elsewhere:1", namespace="own"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "")

    def chosen(kubeconfig: str | None = None, context: str | None = None) -> tuple[str, str]:
        choice = choose(kubeconfig, context)
        return choice.load().server, choice.namespace

    in_pod = ("https://10.96.0.1:443", "lab")
    assert chosen() == in_pod
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/nowhere:{file}")
    assert chosen() == ("https://elsewhere:1", "own")
    assert chosen(None, "two") == ("https://elsewhere:1", "lab"), "the pod's namespace, where the context has none"
    file.write_text(file.read_text().replace("current-context: one", "current-context: ''"))
    assert chosen() == in_pod
    assert chosen(None, "one") == ("https://elsewhere:1", "own")
    with pytest.raises(ConfigError, match="it has no current-context"):
        chosen(str(file))
    (account / "token").unlink()
    with pytest.raises(ConfigError, match="it has no current-context"):
        chosen()
    file.unlink()
    with pytest.raises(NoConfigError, match="nowhere"):
        chosen()
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.delenv("HOME")
    with pytest.raises(NoConfigError, match=r"there is no ~/\.kube/config"):
        chosen()


def test_a_parent_keeps_its_context(tmp_path: Path) -> None:
    """Somebody may change the current one while it runs, and its jobs are not on that cluster."""
    file = tmp_path / "config"
    document = {
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example"}} for name in "ab"],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in "ab"],
        "current-context": "a",
    }
    file.write_text(json.dumps(document))
    load = config_loader(str(file))
    assert load().server == "https://a.example"
    file.write_text(json.dumps({**document, "current-context": "b"}))
    assert load().server == "https://a.example"
    assert config_loader(str(file))().server == "https://b.example"


def test_a_rotated_token_is_read(tmp_path: Path) -> None:
    """A token that Kubernetes has rotated is used within a minute, and the last one if the file is gone."""
    file, now = tmp_path / "token", [0.0]
    token = TokenFile(str(file), clock=lambda: now[0])
    with pytest.raises(TokenFileError, match="No such file"):
        token.read()
    file.write_text("")
    with pytest.raises(TokenFileError, match="is empty"):
        token.read()
    file.write_text(" first\n")
    assert token.read() == "first"
    file.write_text("second")
    assert token.read() == "first"
    now[0] += READ_INTERVAL_SECONDS
    assert token.read() == "second"
    file.unlink()
    now[0] += READ_INTERVAL_SECONDS
    assert token.read() == "second"


def test_a_token_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    """Kubectl reads the file first, and takes the kubeconfig's token as long as it can't."""
    token = TokenFile(str(tmp_path / "token"), "of the kubeconfig")
    assert token.read() == "of the kubeconfig"
    (tmp_path / "token").write_text("of the file")
    assert token.read() == "of the file"
