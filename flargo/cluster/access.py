"""How a server is reached, and as whom: the result of loading a configuration, as data. Pure."""

import base64
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

from flargo.cluster.error_text import OwnError
from flargo.cluster.kubeconfig import Impersonation
from flargo.cluster.proxies import Proxy

_HEADER_NAME_CHARACTERS = "!#$&'*+^`|"
"""The punctuation that a header's name may contain, besides ``%`` and what ``quote`` never escapes (RFC 9110)."""


class ServerAddressError(OwnError):
    """A server's address can't be used."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates of a connection, as PEM."""

    authorities: bytes = b""
    """The authorities that are trusted; empty: those of the machine."""
    server_name: str = ""
    """The name that the server's certificate must have; empty: the host of the server's address."""
    is_insecure: bool = False
    """Whether the server's certificate is not verified."""
    certificate: bytes = b""
    """The client's certificate; empty: it has none."""
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached, and as whom."""

    server: str
    """The URL, without a slash at its end."""
    tls: Tls = Tls()
    token: str = field(default="", repr=False)
    token_file: str = ""
    """A file with a token. It is read again and again, and goes before ``token``."""
    username: str = ""
    password: str = field(default="", repr=False)
    impersonation: tuple[tuple[str, str], ...] = ()
    """The headers that ask the server to take a request for another user's. A name may occur several times."""
    proxy: Proxy | None = None
    expires_at: datetime | None = None
    """The time at which the credentials expire, if that is known."""


def server_url(address: str) -> str:
    """Return the URL of an address that a kubeconfig has, as kubectl completes it: ``host:port`` is ``http``.

    Raises:
        ServerAddressError: it is no address of a server. The address is not quoted, since it may hold a password.
    """
    try:
        parts = urlsplit(address)
        if not parts.scheme or not parts.netloc:
            parts = urlsplit(f"http://{address}")
            if parts.path not in {"", "/"}:
                raise ServerAddressError("the server is neither a URL nor HOST:PORT")
        _ = parts.port
    except ValueError:
        raise ServerAddressError("the server's address is not a URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ServerAddressError("the server's address is not a URL of http or https")
    if "@" in parts.netloc:
        raise ServerAddressError("the server's address contains a user name; write it into the kubeconfig's user")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def basic_credentials(username: str, password: str) -> str:
    """Return what follows ``Basic`` in the header of a server or a proxy (RFC 7617), in UTF-8 as by Go."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def impersonation_headers(impersonation: Impersonation) -> tuple[tuple[str, str], ...]:
    """Return the headers of an impersonation, as client-go writes them (transport/round_trippers.go)."""
    if not impersonation.user:
        return ()
    headers = [("Impersonate-User", impersonation.user)]
    if impersonation.uid:
        headers.append(("Impersonate-Uid", impersonation.uid))
    headers += [("Impersonate-Group", group) for group in impersonation.groups]
    for key, values in impersonation.extra:
        name = f"Impersonate-Extra-{quote(key, safe=_HEADER_NAME_CHARACTERS)}"
        headers += [(name, value) for value in values]
    return tuple(headers)
