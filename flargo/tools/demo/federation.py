"""A FLARE federation in a folder: kits made by nvflare's own library, flargo put in each as README.md says.

The parents are the programs that a kit's start script runs, without its loop that starts them again.
"""

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flargo.cluster.error_text import describe
from flargo.tools.demo import kits
from flargo.tools.demo.child_processes import ChildProcesses
from flargo.tools.demo.kits import SERVER, KitError, Project
from flargo.tools.demo.options import DemoError

ADMIN = "admin@flargo.tools.demo"


@dataclass(frozen=True, slots=True)
class Launcher:
    """What flargo's launchers need to know of the cluster."""

    kubeconfig: Path
    namespace: str


@dataclass(frozen=True, slots=True)
class Federation:
    """Who takes part, and where."""

    root: Path
    sites: tuple[str, ...]
    address: str
    """Where the parents listen and jobs find them."""
    ports: tuple[int, ...]
    """The server's, then for each parent the one that its jobs use."""

    @property
    def names(self) -> tuple[str, ...]:
        """All parents, the server first."""
        return (SERVER, *self.sites)

    def log(self, name: str) -> Path:
        """What a parent says."""
        return self.root / "logs" / f"{name}.log"


def free_ports(address: str, count: int) -> tuple[int, ...]:
    """So many ports that nobody listens on.

    Raises:
        DemoError: this machine does not have the address.
    """
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind((address, 0))
        return tuple(each.getsockname()[1] for each in held)
    except OSError as error:
        raise DemoError(
            f"Nothing can listen on {address} ({describe(error)}): name an address of this machine "
            "that job pods reach, with --address."
        ) from error
    finally:
        for each in held:
            each.close()


def provision(federation: Federation, launcher: Launcher) -> None:
    """Make a kit for each party, with new certificates, and configure it.

    Raises:
        DemoError: FLARE could not do it.
    """
    project = Project("flargo-demo", federation.sites, ADMIN, federation.address, federation.ports[0])
    try:
        kits.take(project, kits.make(project, federation.root / "provision"), federation.root)
    except KitError as error:
        raise DemoError(str(error)) from error
    for name, port in zip(federation.names, federation.ports[1:], strict=True):
        _configure(federation, name, port, launcher)


def start(federation: Federation, children: ChildProcesses) -> None:
    """Start the server and the sites."""
    temporary = federation.root / "tmp"
    for folder in (temporary, federation.log(SERVER).parent):
        folder.mkdir(exist_ok=True)
    # A parent that is ended by a signal leaves its temporary files behind.
    environment = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    for name in federation.names:
        folder = federation.root / name
        children.start(name, kits.command(name, folder), folder, federation.log(name), environment)


def wait_ready(federation: Federation, children: ChildProcesses, names: Sequence[str], seconds: float) -> None:
    """Wait until the server takes commands, or sites have registered with it.

    Raises:
        DemoError: a parent ended, or it takes too long.
    """
    deadline = time.monotonic() + seconds
    waiting = list(names)
    while waiting:
        for name in children.ended():
            raise DemoError(f"{name} ended while it started: {last_words(federation.log(name))}")
        if time.monotonic() > deadline:
            said = last_words(federation.log(waiting[0]))
            raise DemoError(f"{', '.join(waiting)} did not come up within {seconds:.0f} s: {said}")
        waiting = [name for name in waiting if _ready_words(name) not in _read(federation.log(name))]
        time.sleep(0.1)


def _ready_words(name: str) -> str:
    """What a parent of nvflare 2.9 logs when it is up."""
    return "Server started" if name == SERVER else "Successfully registered client"


def last_words(log: Path) -> str:
    """The last line of a log that tells of an error, else the last one."""
    lines = [line.strip() for line in _read(log).splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["its log is empty"])[-1][:200]


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _configure(federation: Federation, name: str, port: int, launcher: Launcher) -> None:
    """README.md, "Install at a site": resources.json without another launcher, and flargo's in a file of its own."""
    folder = federation.root / name
    local = folder / "local"
    resources = json.loads((local / "resources.json.default").read_text())
    replaced = {"process_launcher", "resource_manager", "resource_consumer"}
    kept = [part for part in resources["components"] if part["id"] not in replaced]
    resources["components"] = [*kept, {**kits.PASSTHROUGH}]
    if name == SERVER:
        kits.place_stores(folder, resources)
    role = "Server" if name == SERVER else "Client"
    arguments: dict[str, Any] = {
        "config_file_path": str(launcher.kubeconfig),
        "namespace": launcher.namespace,
        "workspace_mount_path": str(folder),
    }
    component = {"id": "argo_launcher", "path": f"flargo.{role}ArgoJobLauncher", "args": arguments}
    _write(local / "resources.json", resources)
    _write(local / "flargo__p_resources.json", {"format_version": 2, "components": [component]})
    _write(local / "comm_config.json", kits.listener(federation.address, port))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
