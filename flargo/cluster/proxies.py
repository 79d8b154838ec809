"""Which proxy a request passes, by the rules of kubectl, which are those of Go. Pure.

The sources are golang.org/x/net/http/httpproxy and net/http's transport.go. Python's own rules differ: NO_PROXY has
neither address ranges nor ports, and requests to this machine itself pass the proxy too.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from flargo.cluster.error_text import OwnError

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class ProxyAddressError(OwnError):
    """The address of a proxy can't be used. The address itself, which may hold a password, is not quoted."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address, and the credentials for it."""

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it is a SOCKS proxy, not one of HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The address without the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(server: str, proxy_url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a server; None if requests go to it directly.

    Args:
        server: the server's URL.
        proxy_url: the kubeconfig's ``proxy-url``. It holds for every server, whatever NO_PROXY says.
        environment: the environment, whose HTTPS_PROXY, HTTP_PROXY and NO_PROXY count if there is no ``proxy-url``.

    Raises:
        ProxyAddressError: the proxy's address can't be used.
    """
    if proxy_url:
        return _parse(proxy_url, "the kubeconfig's proxy-url")
    target = urlsplit(server)
    name = "HTTPS_PROXY" if target.scheme == "https" else "HTTP_PROXY"
    address = _variable(environment, name)
    if not address or _is_direct(target, _variable(environment, "NO_PROXY")):
        return None
    return _parse(address if _has_host(address) else f"http://{address}", name)


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _has_host(address: str) -> bool:
    try:
        return bool(urlsplit(address).netloc)
    except ValueError:
        return False


def _parse(address: str, source: str) -> Proxy:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ProxyAddressError(f"{source} is not the address of a proxy") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ProxyAddressError(f"{source} is not the address of a proxy (http, https or socks5)")
    return Proxy(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def _is_direct(target: SplitResult, no_proxy: str) -> bool:
    """Return whether NO_PROXY, or being this machine itself, exempts a server from proxies."""
    host = (target.hostname or "").lower()
    port = str(target.port or _PORTS.get(target.scheme, 0))
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = [entry.strip().lower() for entry in no_proxy.split(",")]
    return "*" in entries or any(_matches(entry, host, port, address) for entry in entries if entry)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _matches(entry: str, host: str, port: str, address: Address | None) -> bool:
    """Return whether an entry of NO_PROXY is about a host: an address, a range of them, or a domain."""
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port and entry_port != port:
        return False
    if _address(name) is not None or address is not None:
        return _address(name) == address
    domain = name[1:] if name.startswith("*.") else name
    return bool(domain) and (host.endswith(f".{domain.removeprefix('.')}") or host == domain)


def _split_port(entry: str) -> tuple[str, str]:
    """Split ``host:port``, ``[IPv6]:port`` or a host alone."""
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, colon, port = entry.rpartition(":")
    return (name, port) if colon and ":" not in name else (entry, "")
