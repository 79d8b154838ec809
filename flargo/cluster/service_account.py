"""The service account of the pod that this process runs in, as kubectl uses it (client-go's rest/config.go)."""

import os
from pathlib import Path

from flargo.cluster.access import Access, Tls
from flargo.cluster.error_text import OwnError, describe
from flargo.cluster.proxies import proxy_for
from flargo.cluster.token_file import TokenFile

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder in which Kubernetes mounts the account's files."""


class ServiceAccountError(OwnError):
    """This process has no service account, or its files can't be used."""


def is_present() -> bool:
    """Return whether this process runs in a pod with a service account."""
    return bool(_address()) and (FOLDER / "token").is_file()


def load() -> Access:
    """Return the way to the pod's own cluster. The token is read again as it is rotated.

    Raises:
        OwnError: this process does not run in a pod, or the account's files can't be read.
    """
    server = _address()
    if not server:
        raise ServiceAccountError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod")
    token_file = str(FOLDER / "token")
    TokenFile(token_file).read()  # for its error
    try:
        authorities = (FOLDER / "ca.crt").read_bytes()
    except OSError as error:
        raise ServiceAccountError(f"{FOLDER / 'ca.crt'} can't be read: {describe(error)}") from None
    return Access(server, Tls(authorities), token_file=token_file, proxy=proxy_for(server, "", os.environ))


def namespace() -> str:
    """Return the namespace of the pod that this process runs in; ``default`` if it is not known."""
    name = os.environ.get("POD_NAMESPACE", "")
    try:
        return name or (FOLDER / "namespace").read_text().strip() or "default"
    except (OSError, ValueError):
        return "default"


def _address() -> str:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{each}", "") for each in ("HOST", "PORT"))
    if not host or not port:
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
