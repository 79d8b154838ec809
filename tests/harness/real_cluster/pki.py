"""Keys and certificates of one cluster, created with ``openssl`` at each start."""

import base64
from pathlib import Path

import yaml

from tests.harness.real_cluster import parts, state

SERVER = "https://127.0.0.1:443"
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=system:coredns",
    "kubelet": "/O=system:nodes/CN=system:node:flargo",
}
"""The clients that authenticate with a certificate, by its subject: the user, and the group if it needs one."""
BY_CA = ("-CA", state.PKI / "ca.crt", "-CAkey", state.PKI / "ca.key")
"""The options by which openssl signs a certificate with the cluster's authority."""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


def make() -> None:
    """Create the authority, the certificates of the API server and of its clients, and the service accounts' key."""
    state.PKI.mkdir(mode=0o700)
    _certificate("ca", "/CN=flargo-test-cluster", "basicConstraints=critical,CA:TRUE", ())
    addresses = "IP:127.0.0.1,IP:10.96.0.1,IP:10.88.0.1"
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    _certificate("kube-apiserver", "/CN=kube-apiserver", f"subjectAltName={addresses},{names}", BY_CA)
    for name, subject in CLIENTS.items():
        make_client(name, subject, state.ADMIN if name == "admin" else kubeconfig_path(name))
    parts.run("openssl", "genrsa", "-out", state.PKI / "service-accounts.key", "2048")


def make_client(name: str, subject: str, path: Path, server: str = SERVER) -> None:
    """Create the certificate of a client, and write the client's kubeconfig."""
    _certificate(name, subject, "extendedKeyUsage=clientAuth", BY_CA)
    user = {f"client-{kind}-data": _data(name, end) for kind, end in (("certificate", "crt"), ("key", "key"))}
    write_kubeconfig(path, name, user, server=server)


def kubeconfig_path(name: str) -> Path:
    """Return the path of a daemon's kubeconfig."""
    return state.PKI / f"{name}.kubeconfig"


def write_kubeconfig(
    path: Path, name: str, user: dict[str, str], namespace: str = "default", server: str = SERVER
) -> None:
    """Write a kubeconfig of this cluster that needs no other file."""
    cluster = {"server": server, "certificate-authority-data": _data("ca", "crt")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "flargo", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "flargo", "context": {"cluster": "flargo", "user": name, "namespace": namespace}}],
        "current-context": "flargo",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))


def _certificate(name: str, subject: str, extension: str, signer: tuple[str | Path, ...]) -> None:
    key, certificate = state.PKI / f"{name}.key", state.PKI / f"{name}.crt"
    options = ("-subj", subject, "-addext", extension, "-keyout", key, "-out", certificate)
    parts.run("openssl", "req", "-x509", *NEW_KEY, *options, *signer)


def _data(name: str, end: str) -> str:
    return base64.b64encode((state.PKI / f"{name}.{end}").read_bytes()).decode()
