"""Turns the selected context of a kubeconfig into an Access: reads its files, and runs its credential plugin."""

import base64
import binascii
import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flargo.cluster.access import Access, Tls, impersonation_headers, server_url
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.exec_plugin import LineCallback, run_plugin
from flargo.cluster.kubeconfig import AuthProvider, Cluster, Selection, User
from flargo.cluster.proxies import proxy_for
from flargo.cluster.token_file import TokenFile

_EXPIRY_MARGIN = timedelta(seconds=10)
"""The time before its expiry from which kubectl takes an OIDC token for expired."""
_ID_TOKEN_PARTS = 3
_REMOVED_PROVIDERS = {
    "gcp": "install gke-gcloud-auth-plugin, then run `gcloud container clusters get-credentials`",
    "azure": "install kubelogin, then run `kubelogin convert-kubeconfig`",
}
"""What to do about the logins that kubectl no longer has."""


class CredentialsError(OwnError):
    """The selected user's credentials can't be used."""


def load_selection(selection: Selection, on_plugin_line: LineCallback | None) -> Access:
    """Return the way to the selected cluster, with the selected user's credentials.

    Args:
        selection: the context, with its cluster and user.
        on_plugin_line: called with each line that the credential plugin writes to stderr; None: the plugin runs without
            anybody who could read them.

    Raises:
        OwnError: a file can't be read, the plugin failed, or something else can't be used.
    """
    cluster, user = selection.cluster, selection.user
    server = server_url(cluster.server)
    access = Access(
        server=server,
        proxy=proxy_for(server, cluster.proxy_url, os.environ),
        impersonation=impersonation_headers(user.impersonation),
    )
    tls = _tls(cluster, user)
    if not server.startswith("https:"):
        # kubectl sends neither a certificate nor a token without TLS, and does not run a plugin for one.
        return access
    if tls.is_insecure and tls.authorities:
        raise CredentialsError("it has both insecure-skip-tls-verify and a certificate-authority; remove one")
    access = replace(access, tls=tls)
    if user.auth_provider is not None:
        user = replace(user, token=user.token or _id_token(user.auth_provider))
    if user.token_file and not user.token:
        TokenFile(user.token_file).read()  # for its error
    credentials = {key: getattr(user, key) for key in ("token", "token_file", "username", "password")}
    if user.plugin is not None and not any(credentials.values()) and not tls.certificate:
        return _with_plugin(access, selection, on_plugin_line)
    return replace(access, **credentials)


def _tls(cluster: Cluster, user: User) -> Tls:
    certificate = user.certificate_data or _read(user.certificate_file, "client-certificate")
    return Tls(
        authorities=cluster.ca_data or _read(cluster.ca_file, "certificate-authority"),
        server_name=cluster.tls_server_name,
        is_insecure=cluster.is_insecure,
        certificate=certificate,
        key=user.key_data or _read(user.key_file, "client-key") if certificate else b"",
    )


def _read(path: str, field: str) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise CredentialsError(f"its {field} {path} is not there") from None
    except OSError as error:
        raise CredentialsError(f"its {field} {path} can't be read: {describe(error)}") from None


def _with_plugin(access: Access, selection: Selection, on_line: LineCallback | None) -> Access:
    assert selection.user.plugin is not None
    cluster = _cluster_info(selection.cluster, access.tls) if selection.user.plugin.needs_cluster else None
    credential = run_plugin(selection.user.plugin, cluster, on_line)
    tls = replace(access.tls, certificate=credential.certificate.encode(), key=credential.key.encode())
    return replace(access, tls=tls, token=credential.token, expires_at=credential.expires_at)


def _cluster_info(cluster: Cluster, tls: Tls) -> dict[str, Any]:
    """Return what a plugin gets to know about the cluster (client-go's ConfigToExecCluster)."""
    fields = {
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.is_insecure,
        "certificate-authority-data": base64.b64encode(tls.authorities).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disables_compression,
    }
    given = {key: value for key, value in fields.items() if value}
    return {"server": cluster.server, **given, "config": cluster.plugin_config}


def _id_token(provider: AuthProvider) -> str:
    """Return the token of a login that is built into kubectl: of ``oidc``, as long as its last token is valid.

    Raises:
        CredentialsError: kubectl no longer has this login, or would now renew its token.
    """
    if provider.name != "oidc":
        todo = _REMOVED_PROVIDERS.get(provider.name, "use a credential plugin (exec) instead")
        raise CredentialsError(f"its user has an auth-provider that kubectl no longer supports either: {todo}")
    if not _is_valid(provider.id_token):
        raise CredentialsError(
            "its user's id-token (auth-provider oidc) has expired; run any kubectl command, which renews it, or use a "
            "credential plugin (exec) such as kubelogin"
        )
    return provider.id_token


def _is_valid(id_token: str) -> bool:
    parts = id_token.split(".")
    if len(parts) != _ID_TOKEN_PARTS:
        return False
    try:
        claims = json.loads(base64.urlsafe_b64decode(f"{parts[1]}==="))
        return datetime.now(UTC) + _EXPIRY_MARGIN < datetime.fromtimestamp(claims["exp"], UTC)
    except (binascii.Error, ValueError, KeyError, TypeError, OverflowError, OSError):
        return False
