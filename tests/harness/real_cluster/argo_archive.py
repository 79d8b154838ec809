"""Argo's archive on the test cluster, for as long as a test needs it: a PostgreSQL of its own, and Argo Servers."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests
import yaml

from tests.harness.cluster import Cluster, eventually
from tests.harness.paths import ROOT
from tests.harness.real_cluster import packages, pki

ACCOUNT = Path(__file__).with_name("argo") / "server.yaml"
USER = "postgres"
"""Of Debian's package: PostgreSQL does not run as root."""
SECRET = "flargo-test-archive"
STARTS = 30.0
ARCHIVED = "workflows.argoproj.io/workflow-archiving-status=Archived"
"""The label by which Argo says that a Workflow is in the archive."""
SHOWN: dict[str, str] = yaml.safe_load((ROOT / "deploy" / "controller.yaml").read_text())["data"]
"""What of Argo's settings is for its UI."""


@dataclass(frozen=True)
class Server:
    """An Argo Server with the certificate that it has made itself."""

    url: str
    ca: Path
    process: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def archiving(cluster: Cluster) -> Iterator[None]:
    """Argo's controller keeps an archive, and has deploy/'s settings; neither before and after the ``with``."""
    password = secrets.token_hex(8)
    with _database(password) as port, _account(cluster):
        keys = {"username": USER, "password": password}
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})
        try:
            with cluster.configure_argo(persistence=yaml.safe_dump(_persistence(port)), **SHOWN):
                yield
        finally:
            cluster.kubectl("delete", "secret", SECRET)


@contextlib.contextmanager
def argo_server(cluster: Cluster, config: str = "workflow-controller-configmap") -> Iterator[Server]:
    """An Argo Server, with the settings of that ConfigMap; in ``archiving``, which makes its account."""
    folder, port = Path(tempfile.mkdtemp(prefix="flargo-argo-server-")), _free_port()
    token = {"token": cluster.kubectl("create", "token", "argo-server")}
    pki.write_kubeconfig(folder / "kubeconfig", "argo-server", token, cluster.target.namespace)
    only = (
        f"--namespace={cluster.target.namespace}",
        f"--managed-namespace={cluster.target.namespace}",
        "--namespaced",
    )
    words = ("argo", "server", f"--kubeconfig={folder / 'kubeconfig'}", *only, "--auth-mode=client")
    try:
        with _running(folder, *words, f"--configmap={config}", f"--port={port}") as process:
            eventually(lambda: _listens(port) or _over(process, folder), STARTS, "the Argo Server listens")
            certificate = folder / "ca.pem"
            certificate.write_text(ssl.get_server_certificate(("localhost", port)))
            url = f"https://localhost:{port}"
            eventually(lambda: _answers(url, certificate), STARTS, "the Argo Server answers")
            yield Server(url, certificate, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def archived(cluster: Cluster, name: str) -> bool:
    """Whether Argo says that it has archived a Workflow."""
    label, _, value = ARCHIVED.partition("=")
    return bool(cluster.workflow(name)["metadata"]["labels"].get(label) == value)


def _persistence(port: int) -> dict[str, object]:
    keys = {f"{key}Secret": {"name": SECRET, "key": key.lower()} for key in ("userName", "password")}
    database = {"host": "127.0.0.1", "port": port, "database": USER, "tableName": "argo_workflows", **keys}
    return {"archive": True, "postgresql": database}


@contextlib.contextmanager
def _account(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("apply", f"--filename={ACCOUNT}")
    try:
        yield
    finally:
        cluster.kubectl("delete", f"--filename={ACCOUNT}")


@contextlib.contextmanager
def _database(password: str) -> Iterator[int]:
    """A PostgreSQL whose data is of no more use than the ``with``; its port on the loop-back device."""
    folder, port = Path(tempfile.mkdtemp(prefix="flargo-postgres-")), _free_port()
    shutil.chown(folder, USER, USER)
    try:
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)  # in a folder that nobody else looks into
        program = Path(packages.NEEDED["postgresql"])
        make = (program.with_name("initdb"), "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", "--no-sync")
        pwfile = f"--pwfile={folder / 'password'}"
        made = subprocess.run((*make, pwfile), user=USER, group=USER, extra_groups=(), capture_output=True, check=False)
        assert made.returncode == 0, made.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        words = [str(program), "-D", str(folder / "data"), *(f"--{key}={value}" for key, value in settings.items())]
        with _running(folder, *words, user=USER, group=USER, end=signal.SIGINT) as process:
            eventually(lambda: _listens(port) or _over(process, folder), STARTS, "PostgreSQL listens")
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(
    folder: Path, *words: str, user: str | None = None, group: str | None = None, end: signal.Signals = signal.SIGTERM
) -> "Iterator[subprocess.Popen[bytes]]":
    """A program that runs for as long as the ``with``; what it says is in ``log``."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words,
            user=user,
            group=group,
            extra_groups=() if user else None,
            cwd=folder,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.send_signal(end)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _over(process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text(errors="replace")
    return False


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _answers(url: str, ca: Path) -> bool:
    """It listens before it has connected to itself, which it tries again after a second."""
    with contextlib.suppress(requests.RequestException):
        status = requests.get(f"{url}/api/v1/version", verify=str(ca), timeout=5).status_code
        return status != HTTPStatus.SERVICE_UNAVAILABLE
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
