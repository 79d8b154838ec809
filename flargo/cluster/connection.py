"""A connection pool to one server, with the credentials of one configuration."""

import json
import re
from collections.abc import Callable

import urllib3

from flargo.cluster.access import Access, basic_credentials
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.http_request import Request
from flargo.cluster.pool import create_pool
from flargo.cluster.target import Target
from flargo.cluster.token_file import TokenFile

CONNECT_TIMEOUT = 5.0
"""Seconds to establish a connection."""
_SECRET = re.compile(r"[!-~]+", re.ASCII)
"""A token, as it can be part of a header."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header's value may contain (Go's httpguts.ValidHeaderFieldValue)."""
CredentialCallback = Callable[[str], None]
"""Called with each secret that is about to be sent as a credential, so that it can be redacted from texts."""


class UnsafeUrlError(OwnError):
    """The HTTP library would send a request to another URL than the intended one."""


class CredentialError(OwnError):
    """A credential can't be read, or can't be part of a request."""


class NoAnswerError(OwnError):
    """A request got no response."""


class Connection:
    """A connection pool to one server, with the credentials that its requests carry."""

    def __init__(self, access: Access, on_credential: CredentialCallback = lambda _: None) -> None:
        """Create the pool; connections are opened by requests.

        Raises:
            OwnError: a certificate, or the proxy, can't be used.
        """
        self.access = access
        self._on_credential = on_credential
        self._token_file = TokenFile(access.token_file, access.token) if access.token_file else None
        self._pool = create_pool(access)
        for secret in (access.password, access.proxy.password if access.proxy is not None else ""):
            if secret:
                on_credential(secret)

    def request(self, request: Request) -> urllib3.BaseHTTPResponse:
        """Send one request; return the response with its body unread.

        Raises:
            OwnError: the request could not be sent, or got no response.
        """
        url = _checked_url(self.access.server, request.target)
        try:
            return self._pool.request(
                request.method,
                url,
                body=json.dumps(request.body).encode() if request.body is not None else None,
                headers=self._headers(request),
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=request.read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except OwnError:
            raise
        except Exception as error:
            server = urllib3.util.parse_url(url)
            raise NoAnswerError(f"{server.scheme}://{server.netloc}: {describe(error)}") from error

    def _headers(self, request: Request) -> urllib3.HTTPHeaderDict:
        headers = urllib3.HTTPHeaderDict({"Accept": request.accept, "User-Agent": "flargo"})
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        authorization = self._authorization()
        if authorization:
            headers["Authorization"] = authorization
        for name, value in self.access.impersonation:
            headers.add(name, _header_text(value))
        return headers

    def _authorization(self) -> str:
        """Return the header that authenticates a request; empty if there is none.

        Raises:
            CredentialError: the credential can't be a header's value. (http.client would quote it in its error.)
        """
        if self._token_file is not None or self.access.token:
            token = self._token_file.read() if self._token_file is not None else self.access.token
            return f"Bearer {self._checked_secret(token)}"
        if self.access.username or self.access.password:
            credentials = basic_credentials(self.access.username, self.access.password)
            return f"Basic {self._checked_secret(credentials)}"
        return ""

    def _checked_secret(self, value: str) -> str:
        secret = value.strip()
        if _SECRET.fullmatch(secret) is None:
            raise CredentialError("the token of the Kubernetes configuration is empty, or not of ASCII without spaces")
        self._on_credential(secret)
        return secret


def _header_text(value: str) -> str:
    """Return text such that http.client sends it as UTF-8, as kubectl does, and not as Latin-1.

    Raises:
        CredentialError: it can't be a header's value.
    """
    if _CONTROL.search(value):
        raise CredentialError("the user, group or extra to impersonate contains a control character")
    return value.encode().decode("latin-1")


def _checked_url(host: str, target: Target) -> str:
    """Return the URL of a request, after checking how the HTTP library parses it.

    Raises:
        UnsafeUrlError: the library would send another request than the intended one.
    """
    base, parsed = urllib3.util.parse_url(host), urllib3.util.parse_url(f"{host}{target.url}")
    expected = (base.scheme, base.host, base.port, f"{(base.path or '').rstrip('/')}{target.url}")
    if (parsed.scheme, parsed.host, parsed.port, parsed.request_uri) != expected or parsed.auth or parsed.fragment:
        raise UnsafeUrlError("the HTTP library would send the request to another path than the intended one")
    return f"{host}{target.url}"
