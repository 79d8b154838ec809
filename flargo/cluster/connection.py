"""A connection pool to one server, with the credentials of one configuration.

The ``kubernetes`` client supplies configuration, credentials and the pool.
"""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import urllib3

from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.http_request import Request
from flargo.cluster.target import Target

if TYPE_CHECKING:
    from datetime import datetime

    from kubernetes.client.configuration import Configuration

CONNECT_TIMEOUT = 5.0
"""Seconds to establish a connection."""
_MAX_CONNECTIONS = 64
"""Size of the connection pool: more than the threads that use it (control/loop.py), so that no connection is dropped
and opened again."""
_CREDENTIAL = re.compile(r"\s*(?:([!-~]+)\s+)?([!-~]+)\s*", re.ASCII)
"""The value of an Authorization header: usually a scheme, then a secret."""
_SCHEMES = frozenset({"bearer", "basic"})
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

    def __init__(self, configuration: "Configuration", on_credential: CredentialCallback = lambda _: None) -> None:
        """Create the pool; connections are opened by requests."""
        from kubernetes.client.rest import RESTClientObject  # noqa: PLC0415  (a slow import)

        configuration.connection_pool_maxsize = _MAX_CONNECTIONS
        self._configuration = configuration
        self._on_credential = on_credential
        self.expires_at: datetime | None = getattr(configuration, "credentials_expire_at", None)
        """The time at which the credentials expire, if that is known (client_config.py)."""
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager

    def request(self, request: Request) -> urllib3.BaseHTTPResponse:
        """Send one request; return the response with its body unread.

        Raises:
            OwnError: the request could not be sent, or got no response.
        """
        headers = {"Accept": request.accept, "User-Agent": "flargo", **self._credentials()}
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        url = _checked_url(self._configuration.host, request.target)
        try:
            return self._pool.request(
                request.method,
                url,
                body=json.dumps(request.body).encode() if request.body is not None else None,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=request.read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except Exception as error:
            server = urllib3.util.parse_url(url)
            raise NoAnswerError(f"{server.scheme}://{server.netloc}: {describe(error)}") from error

    def _credentials(self) -> dict[str, str]:
        """Return the headers that authenticate a request."""
        try:
            settings: Any = self._configuration.auth_settings()
        except Exception as error:  # the client or a plugin may refresh credentials here, and may raise anything
            raise CredentialError(f"the credentials can't be read: {describe(error)}") from error
        return {setting["key"]: self._credential(setting["value"]) for setting in settings.values()}

    def _credential(self, value: str) -> str:
        """Return a credential as a header's value, without the line end that most token files have.

        Raises:
            CredentialError: it can't be a header's value. (http.client would quote the secret in its error.)
        """
        match = _CREDENTIAL.fullmatch(value)
        scheme, secret = match.groups() if match is not None else (None, "")
        if not secret or (scheme is None and secret.lower() in _SCHEMES):
            raise CredentialError("the token of the Kubernetes configuration is empty or not one line of ASCII")
        self._on_credential(secret)
        return f"{scheme} {secret}" if scheme else secret


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
