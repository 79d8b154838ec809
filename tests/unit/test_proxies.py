"""Which proxy a request passes: Go's rules, and what becomes of credentials, SOCKS and unverified servers."""

import importlib.machinery
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flargo.cluster.api import Api, Kind
from flargo.cluster.client_config import config_loader
from flargo.cluster.errors import ApiError
from flargo.cluster.proxies import Proxy, ProxyAddressError, proxy_for
from tests.harness.kubeconfigs.programs import run_flargo
from tests.harness.kubeconfigs.rows import Row, write_files
from tests.harness.kubeconfigs.servers import Servers

PROXY = "http://proxy.example:3128"
DIRECT = [
    # a server, and a NO_PROXY that exempts it
    ("https://cluster.example", "*"),
    ("https://cluster.example", " x , Cluster.Example "),
    ("https://cluster.example", "example"),
    ("https://cluster.example", ".example"),
    ("https://cluster.example", "*.example"),
    ("https://cluster.example", "cluster.example:443"),
    ("https://cluster.example:6443", "cluster.example:6443"),
    ("https://10.1.2.3", "10.0.0.0/8"),
    ("https://10.1.2.3", "10.1.2.3:443"),
    ("https://[fd00::1]", "fd00::/8"),
    ("https://[fd00::1]", "fd00:0::1"),
    ("https://[fd00::1]:6443", "[fd00::1]:6443"),
    ("https://localhost:6443", ""),
    ("https://127.1.2.3", ""),
    ("https://[::1]", ""),
]
PROXIED = [
    ("https://cluster.example", ""),
    ("https://cluster.example", "luster.example"),
    ("https://cluster.example", ".cluster.example"),
    ("https://cluster.example", "*.cluster.example"),
    ("https://cluster.example", "*cluster.example"),
    ("https://cluster.example", "cluster.example:6443"),
    ("https://cluster.example", "10.0.0.0/8,:443,/,["),
    ("https://10.1.2.3", "11.0.0.0/8,2.3,10.1.2.3:80,.3"),
    ("https://[fd00::1]", "fd00::2,[fd00::1]:80"),
    ("https://kubernetes.localhost", ""),
]


@pytest.mark.parametrize(("server", "no_proxy"), DIRECT)
def test_no_proxy_exempts(server: str, no_proxy: str) -> None:
    assert proxy_for(server, "", {"HTTPS_PROXY": PROXY, "no_proxy": no_proxy}) is None
    assert proxy_for(server, PROXY, {"NO_PROXY": no_proxy}) == Proxy("http", "proxy.example", 3128)


@pytest.mark.parametrize(("server", "no_proxy"), PROXIED)
def test_other_servers_are_not_exempt(server: str, no_proxy: str) -> None:
    assert proxy_for(server, "", {"https_proxy": PROXY, "NO_PROXY": no_proxy}) == Proxy("http", "proxy.example", 3128)


@pytest.mark.parametrize("address", ["http://[", "http://proxy:port", "ftp://x", "http://", "http://user:t0psecret@"])
def test_a_wrong_address_is_not_quoted(address: str) -> None:
    with pytest.raises(ProxyAddressError) as error:
        proxy_for("https://cluster.example", address, {})
    assert "t0psecret" not in str(error.value)


def test_credentials_are_not_part_of_the_url() -> None:
    proxy = proxy_for("https://cluster.example", "https://us%40er:t0psecret@[fd00::1]", {})
    assert proxy is not None
    assert (proxy.url, proxy.username, proxy.password) == ("https://[fd00::1]:443", "us@er", "t0psecret")
    assert "t0psecret" not in repr(proxy)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path).running() as running:
        yield running


def test_socks_works_with_pysocks(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PySocks is no dependency, so a stand-in takes its place. The proxy resolves the server's name (rdns)."""
    options: list[Any] = []

    def connect(address: tuple[str, int], *_: Any, **kwargs: Any) -> socket.socket:
        options.append(kwargs)
        return socket.create_connection(("127.0.0.1", address[1]))

    module: Any = ModuleType("socks")
    module.__spec__ = importlib.machinery.ModuleSpec("socks", None)
    module.PROXY_TYPE_SOCKS4, module.PROXY_TYPE_SOCKS5, module.create_connection = 1, 2, connect
    monkeypatch.setitem(sys.modules, "socks", module)
    monkeypatch.delitem(sys.modules, "urllib3.contrib.socks", raising=False)
    cluster = {
        "server": "https://cluster.example:$mainport",
        "proxy-url": "socks5://us%40er:secret@127.0.0.1:$socksport",
        "certificate-authority-data": None,
        "insecure-skip-tls-verify": True,
    }
    assert run_flargo(Row("socks", cluster=cluster), servers, tmp_path)["server"] == "main"
    sys.modules.pop("urllib3.contrib.socks")
    assert options[0]["proxy_rdns"] is True
    assert (options[0]["proxy_username"], options[0]["proxy_password"]) == ("us@er", "secret")


def test_a_proxys_refusal_is_told(tmp_path: Path) -> None:
    """The proxy demands a password, and its words are not quoted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 407 t0psecret\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        cluster = {"proxy-url": f"http://127.0.0.1:{listener.getsockname()[1]}", "certificate-authority-data": None}
        values = {"main": "https://cluster.example"}
        write_files(Row("refusal", cluster=cluster), tmp_path, values)
        with pytest.raises(ApiError) as error:
            Api(config_loader(str(tmp_path / "config")), "ns").get(Kind.POD, "p")
    assert "the proxy refuses to connect to the server (407 Proxy Authentication Required)" in str(error.value)
    assert "t0psecret" not in str(error.value)


def test_an_unverified_server_is_told_once(
    servers: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """urllib3 warns at each request."""
    caplog.set_level(logging.WARNING, "flargo")
    cluster = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    write_files(Row("insecure", cluster=cluster), tmp_path, servers.values)
    api = Api(config_loader(str(tmp_path / "config")), "ns")
    for _ in range(3):
        api.list(Kind.POD)
    api._transport.connect()
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        f"The certificate of {servers.values['main']} is not verified"
    ]
    assert not recwarn.list
