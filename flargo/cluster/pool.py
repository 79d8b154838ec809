"""Creates the pool of connections to a server: directly, or through a proxy of HTTP or SOCKS."""

import importlib.util
from typing import Any

import urllib3

from flargo.cluster.access import Access, basic_credentials
from flargo.cluster.error_text import OwnError
from flargo.cluster.proxies import Proxy
from flargo.cluster.tls_context import tls_context

_MAX_CONNECTIONS = 64
"""Size of the connection pool: more than the threads that use it (control/loop.py), so that no connection is dropped
and opened again."""


class ProxyError(OwnError):
    """The proxy can't be used."""


class _Unverified:
    """Makes a connection whose server is not verified, because the kubeconfig says so, pass for a verified one.

    urllib3 warns at each request of another one. flargo.cluster.connections warns once instead.
    """

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.is_verified = True


def create_pool(access: Access) -> urllib3.PoolManager:
    """Return the pool of a server's connections, which are opened by requests.

    Raises:
        OwnError: a certificate can't be used, or the proxy needs a package that is not installed.
    """
    options: dict[str, Any] = {"maxsize": _MAX_CONNECTIONS}
    if access.server.startswith("https:"):
        options["ssl_context"] = tls_context(access.tls)
        if access.tls.server_name:
            options["server_hostname"] = access.tls.server_name
    pool = _proxy_pool(access, access.proxy, options) if access.proxy is not None else urllib3.PoolManager(**options)
    if access.tls.is_insecure:
        pools: Any = pool.pool_classes_by_scheme
        connection = type("_UnverifiedConnection", (_Unverified, pools["https"].ConnectionCls), {})
        unverified = type("_UnverifiedPool", (pools["https"],), {"ConnectionCls": connection})
        pool.pool_classes_by_scheme = {**pools, "https": unverified}
    return pool


def _proxy_pool(access: Access, proxy: Proxy, options: dict[str, Any]) -> urllib3.PoolManager:
    if proxy.is_socks:
        return _socks_pool(proxy, options)
    headers = {}
    if proxy.username or proxy.password:
        headers = {"Proxy-Authorization": f"Basic {basic_credentials(proxy.username, proxy.password)}"}
    # kubectl trusts the same authorities for a proxy of HTTPS as for the server (net/http: Transport.TLSClientConfig).
    context = tls_context(access.tls) if proxy.scheme == "https" else None
    return urllib3.ProxyManager(proxy.url, proxy_headers=headers, proxy_ssl_context=context, **options)


def _socks_pool(proxy: Proxy, options: dict[str, Any]) -> urllib3.PoolManager:
    if importlib.util.find_spec("socks") is None:
        raise ProxyError(f"the proxy {proxy.url} speaks SOCKS, which needs `pip install PySocks`")
    from urllib3.contrib.socks import SOCKSProxyManager  # noqa: PLC0415  (imports PySocks, which few have)

    # Let the proxy resolve the server's name, as Go does.
    url = proxy.url.replace("socks5://", "socks5h://", 1)
    return SOCKSProxyManager(url, proxy.username or None, proxy.password or None, **options)
