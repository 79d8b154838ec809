"""Keys and certificates of one cluster, made with ``openssl`` anew at each start."""

import base64
from pathlib import Path

import yaml

from tests.harness.real_cluster import parts, state

SERVER = "https://127.0.0.1:443"
# Who speaks to the API server with a certificate: user, and group where it needs one.
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=system:coredns",
    "kubelet": "/O=system:nodes/CN=system:node:flargo",
}
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


def make() -> None:
    """The authority, the API server's certificate, the clients', the service accounts' key."""
    state.PKI.mkdir(mode=0o700)
    _certificate("ca", "/CN=flargo-test-cluster", "basicConstraints=critical,CA:TRUE", ())
    by_ca = ("-CA", state.PKI / "ca.crt", "-CAkey", state.PKI / "ca.key")
    addresses = "IP:127.0.0.1,IP:10.96.0.1,IP:10.88.0.1"
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    _certificate("kube-apiserver", "/CN=kube-apiserver", f"subjectAltName={addresses},{names}", by_ca)
    for name, subject in CLIENTS.items():
        _certificate(name, subject, "extendedKeyUsage=clientAuth", by_ca)
        where = state.ADMIN if name == "admin" else kubeconfig_of(name)
        user = {f"client-{kind}-data": _data(name, end) for kind, end in (("certificate", "crt"), ("key", "key"))}
        write_kubeconfig(where, name, user)
    parts.run("openssl", "genrsa", "-out", state.PKI / "service-accounts.key", "2048")


def kubeconfig_of(name: str) -> Path:
    """Where a daemon's kubeconfig is."""
    return state.PKI / f"{name}.kubeconfig"


def write_kubeconfig(path: Path, name: str, user: dict[str, str], namespace: str = "default") -> None:
    """A kubeconfig of this cluster that needs no other file."""
    cluster = {"server": SERVER, "certificate-authority-data": _data("ca", "crt")}
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
    key, made = state.PKI / f"{name}.key", state.PKI / f"{name}.crt"
    options = ("-subj", subject, "-addext", extension, "-keyout", key, "-out", made)
    parts.run("openssl", "req", "-x509", *NEW_KEY, *options, *signer)


def _data(name: str, end: str) -> str:
    return base64.b64encode((state.PKI / f"{name}.{end}").read_bytes()).decode()
