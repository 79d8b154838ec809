"""Argo's archive on the test cluster while a test needs it: a PostgreSQL of its own, and Argo Servers."""

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
"""The user of Debian's package, since PostgreSQL does not run as root."""
SECRET = "flargo-test-archive"
START_SECONDS = 30.0
"""The time that PostgreSQL or an Argo Server may take to start."""
ARCHIVED_LABEL = "workflows.argoproj.io/workflow-archiving-status=Archived"
"""The label that Argo sets on a Workflow that is in the archive."""
UI_SETTINGS: dict[str, str] = yaml.safe_load((ROOT / "deploy" / "controller.yaml").read_text())["data"]
"""deploy/'s settings of Argo's UI."""


@dataclass(frozen=True)
class ArgoServer:
    """A running Argo Server, with the certificate that it has created."""

    url: str
    ca: Path
    process: "subprocess.Popen[bytes]"


@contextlib.contextmanager
def archive_workflows(cluster: Cluster) -> Iterator[None]:
    """Have Argo's controller archive Workflows, with deploy/'s UI settings, until the end of the ``with``."""
    password = secrets.token_hex(8)
    with _database(password) as port, _account(cluster):
        keys = {"username": USER, "password": password}
        cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": keys})
        try:
            with cluster.configure_argo(persistence=yaml.safe_dump(_persistence(port)), **UI_SETTINGS):
                yield
        finally:
            cluster.kubectl("delete", "secret", SECRET)


@contextlib.contextmanager
def argo_server(cluster: Cluster, config: str = "workflow-controller-configmap") -> Iterator[ArgoServer]:
    """Run an Argo Server with the settings of a ConfigMap.

    It needs the account that :func:`archive_workflows` creates.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="flargo-argo-server-")), _free_port()
    token = {"token": cluster.kubectl("create", "token", "argo-server")}
    pki.write_kubeconfig(folder / "kubeconfig", "argo-server", token, cluster.target.namespace)
    scope = (
        f"--namespace={cluster.target.namespace}",
        f"--managed-namespace={cluster.target.namespace}",
        "--namespaced",
    )
    argv = ("argo", "server", f"--kubeconfig={folder / 'kubeconfig'}", *scope, "--auth-mode=client")
    try:
        with _run_program(folder, *argv, f"--configmap={config}", f"--port={port}") as process:
            eventually(
                lambda: _is_listening(port) or _check_alive(process, folder), START_SECONDS, "the Argo Server listens"
            )
            certificate = folder / "ca.pem"
            certificate.write_text(ssl.get_server_certificate(("localhost", port)))
            url = f"https://localhost:{port}"
            eventually(lambda: _is_ready(url, certificate), START_SECONDS, "the Argo Server answers")
            yield ArgoServer(url, certificate, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_archived(cluster: Cluster, name: str) -> bool:
    """Return whether Argo has archived a Workflow, by its label."""
    label, _, value = ARCHIVED_LABEL.partition("=")
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
    """Run a PostgreSQL with a new database until the end of the ``with``; yield its port on the loopback device."""
    folder, port = Path(tempfile.mkdtemp(prefix="flargo-postgres-")), _free_port()
    shutil.chown(folder, USER, USER)
    try:
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)  # the folder belongs to the database's user alone
        program = Path(packages.PACKAGES["postgresql"])
        initdb = (program.with_name("initdb"), "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", "--no-sync")
        pwfile = f"--pwfile={folder / 'password'}"
        creation = subprocess.run(
            (*initdb, pwfile), user=USER, group=USER, extra_groups=(), capture_output=True, check=False
        )
        assert creation.returncode == 0, creation.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        argv = [str(program), "-D", str(folder / "data"), *(f"--{key}={value}" for key, value in settings.items())]
        with _run_program(folder, *argv, user=USER, group=USER, end=signal.SIGINT) as process:
            eventually(
                lambda: _is_listening(port) or _check_alive(process, folder), START_SECONDS, "PostgreSQL listens"
            )
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _run_program(
    folder: Path, *argv: str, user: str | None = None, group: str | None = None, end: signal.Signals = signal.SIGTERM
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a program until the end of the ``with``; its output is in ``log``."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
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


def _check_alive(process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Fail with the program's log if it has ended; else return False, for use in a condition."""
    assert process.poll() is None, (folder / "log").read_text(errors="replace")
    return False


def _is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _is_ready(url: str, ca: Path) -> bool:
    """Return whether the server answers; it listens before it has connected to itself, which it retries each second."""
    with contextlib.suppress(requests.RequestException):
        status = requests.get(f"{url}/api/v1/version", verify=str(ca), timeout=5).status_code
        return status != HTTPStatus.SERVICE_UNAVAILABLE
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
