"""Run a kube-apiserver and its etcd on the loop-back device, with no node, no controllers and no other load."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.bench.wire import Client, Refusal
from tests.harness.real_cluster import parts

DRIVER = "driver"
START_SECONDS = 120.0
"""Seconds within which the API server must answer, and later serve Argo's Workflow definition."""
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"]}


@dataclass(frozen=True)
class ApiServer:
    """A running API server: its address, its audit log and its CPU time."""

    folder: Path
    port: int
    pid: int

    @property
    def audit_log(self) -> Path:
        """The log of every request except the driver's."""
        return self.folder / "audit.log"

    @property
    def cpu(self) -> float:
        """CPU seconds that the API server has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def client(self) -> Client:
        """Return a new connection with the driver's token."""
        return Client(self.port, str(self.folder / "apiserver.crt"), DRIVER)

    def kubeconfig(self, user: str) -> Path:
        """Write and return the kubeconfig of a user, whose token is the user's name."""
        path = self.folder / f"{user}.kubeconfig"
        server = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.folder / "apiserver.crt"),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": server}],
            "users": [{"name": user, "user": {"token": user}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
            "current-context": "bench",
        }
        path.write_text(yaml.safe_dump(document))
        return path


@contextmanager
def running(folder: Path, users: tuple[str, ...]) -> Iterator[ApiServer]:
    """Start etcd and the API server, and define Workflows; stop both daemons by their pids afterwards."""
    _prepare(folder, users)
    etcd, peer, port = _free_port(), _free_port(), _free_port()
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(folder, _etcd_argv(folder, etcd, peer)))
        daemons.append(_start(folder, _apiserver_argv(folder, etcd, port)))
        server = ApiServer(folder, port, daemons[-1].pid)
        _wait_until_ready(server, daemons)
        _define_workflows(server.client())
        yield server
    finally:
        for process in reversed(daemons):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _prepare(folder: Path, users: tuple[str, ...]) -> None:
    parts.run("openssl", "genrsa", "-out", folder / "accounts.key", "2048")
    rows = [f'{DRIVER},{DRIVER},0,"system:masters"', *(f"{user},{user},{user}" for user in users)]
    (folder / "tokens.csv").write_text("\n".join(rows) + "\n")
    rules: list[dict[str, Any]] = [{"level": "Metadata", "users": list(users)}, {"level": "None"}]
    (folder / "audit-policy.yaml").write_text(yaml.safe_dump(AUDIT_POLICY | {"rules": rules}))


def _etcd_argv(folder: Path, port: int, peer: int) -> list[str | Path]:
    urls = {"client": f"http://127.0.0.1:{port}", "peer": f"http://127.0.0.1:{peer}"}
    return [
        parts.program("etcd"),
        f"--data-dir={folder}/etcd",
        "--name=bench",
        "--log-level=warn",
        "--unsafe-no-fsync",
        *(f"--listen-{kind}-urls={url}" for kind, url in urls.items()),
        f"--advertise-client-urls={urls['client']}",
        f"--initial-advertise-peer-urls={urls['peer']}",
        f"--initial-cluster=bench={urls['peer']}",
    ]


def _apiserver_argv(folder: Path, etcd: int, port: int) -> list[str | Path]:
    return [
        parts.program("kube-apiserver"),
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--cert-dir={folder}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=AlwaysAllow",
        f"--token-auth-file={folder}/tokens.csv",
        "--disable-admission-plugins=ServiceAccount",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder}/accounts.key",
        f"--service-account-signing-key-file={folder}/accounts.key",
        f"--audit-log-path={folder}/audit.log",
        "--audit-log-maxsize=4096",
        f"--audit-policy-file={folder}/audit-policy.yaml",
    ]


def _start(folder: Path, argv: list[str | Path]) -> subprocess.Popen[bytes]:
    log = (folder / f"{Path(argv[0]).name}.log").open("wb")
    return subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, cwd=folder)


def _wait_until_ready(server: ApiServer, daemons: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in daemons):
            break
        try:
            server.client().request("GET", "/readyz")
        except (OSError, Refusal):
            time.sleep(0.5)
        else:
            return
    log = (server.folder / "kube-apiserver.log").read_text(errors="replace")
    sys.exit(f"the API server did not start:\n{log[-2000:]}")


def _define_workflows(client: Client) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    definition = yaml.load((parts.crds() / "argoproj.io_workflows.yaml").read_text(), yaml.CSafeLoader)
    client.request("POST", path, definition)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            client.request("GET", "/apis/argoproj.io/v1alpha1/workflows?limit=1")
        except Refusal:
            time.sleep(0.3)
        else:
            return
    sys.exit("the API server does not serve Workflows, though their definition was created")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
