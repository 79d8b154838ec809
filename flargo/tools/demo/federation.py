"""A FLARE federation in a folder: kits made by nvflare's own library, flargo put in each as README.md says.

The parents are the programs that a kit's start script runs, without its loop that starts them again.
"""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flargo.cluster.error_text import describe
from flargo.job.validate import InvalidInput
from flargo.tools.demo import kits
from flargo.tools.demo.child_processes import ChildProcesses
from flargo.tools.demo.kits import SERVER, KitError, Project
from flargo.tools.demo.options import DemoError
from flargo.tools.kit.files import write_json
from flargo.tools.kit.preparation import PrepareOptions, prepare
from flargo.tools.kit.site import COMM_CONFIG

ADMIN = "admin@flargo.demo"


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
        kits.move(project, kits.make(project, federation.root / "provision"), federation.root)
        for name, port in zip(federation.names, federation.ports[1:], strict=True):
            _configure(federation, name, port, launcher)
    except (KitError, InvalidInput) as error:
        raise DemoError(str(error)) from error


def start(federation: Federation, children: ChildProcesses) -> None:
    """Start the server and the sites."""
    temporary = federation.root / "tmp"
    for folder in (temporary, federation.log(SERVER).parent):
        folder.mkdir(exist_ok=True)
    # A parent that is ended by a signal leaves its temporary files behind.
    environment = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    for name in federation.names:
        folder = federation.root / name
        children.start(name, kits.parent_command(name, folder), folder, federation.log(name), environment)


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
    """Configure a kit as `flargo prepare` does, for a parent that runs on this machine.

    Raises:
        InvalidInput: the kubeconfig or the folder has a path that the launcher does not take.
    """
    kit = federation.root / name
    # `prepare` keeps this address. Without the file it would expect a Service in front of a parent's pod.
    (kit / COMM_CONFIG).write_bytes(write_json(kits.comm_config(federation.address, port)))
    paths = [path for folder in ("startup", "local") for path in (kit / folder).glob("*.json*")]
    files = {path.relative_to(kit).as_posix(): path.read_bytes() for path in paths}
    options = PrepareOptions(launcher.namespace, workspace=str(kit), config_file=str(launcher.kubeconfig))
    for change in prepare(files, options).changes:
        assert change.after is not None, "a kit is prepared by adding files"
        path = kit / change.path
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o666 if change.mode is None else change.mode)
        path.write_bytes(change.after)
    if name == SERVER:
        kits.make_stores(kit)
