"""Creates and starts a FLARE federation in a folder: nvflare's library makes the kits, `flargo prepare` changes them.

The parents are the programs that a kit's start script runs, without its loop that restarts them.
"""

import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flargo.cluster.error_text import describe
from flargo.flare.redact import REDACTION
from flargo.job.validate import InvalidInput
from flargo.log_errors import RECORD_START, find_errors
from flargo.tools.demo import kits
from flargo.tools.demo.child_processes import ChildProcesses
from flargo.tools.demo.kits import SERVER, KitError, Project
from flargo.tools.demo.options import DemoError
from flargo.tools.kit.files import write_json
from flargo.tools.kit.preparation import PrepareOptions, prepare
from flargo.tools.kit.site import COMM_CONFIG

ADMIN = "admin@flargo.demo"
LOGS = "logs"
"""The folder of the parents' logs. It exists once the parents are started."""
_MAX_LINES, _MAX_MESSAGE_LENGTH = 6, 200
"""The most lines of a traceback in a parent's log that are shown, and characters of its last error."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """The settings of flargo's launchers that depend on the cluster and on the demo's options."""

    kubeconfig: Path
    namespace: str
    argo: Mapping[str, Any] = field(default_factory=dict)
    """The launchers' ``argo`` settings."""


@dataclass(frozen=True, slots=True)
class Federation:
    """The participants of a federation, its folder and its addresses."""

    root: Path
    sites: tuple[str, ...]
    address: str
    """The address at which the parents listen and jobs connect to them."""
    ports: tuple[int, ...]
    """The server's port for sites, then for each parent (the server first) the port for its jobs."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parents, the server first."""
        return (SERVER, *self.sites)

    def log_path(self, name: str) -> Path:
        """Return the path of a parent's log."""
        return self.root / LOGS / f"{name}.log"


def free_ports(address: str, count: int) -> tuple[int, ...]:
    """Return ports on which no process listens.

    Raises:
        DemoError: the address is not one of this machine's.
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return tuple(each.getsockname()[1] for each in sockets)
    except OSError as error:
        raise DemoError(
            f"No process can listen on {address} ({describe(error)}): with --address, name an address of this machine "
            "that job pods can reach."
        ) from error
    finally:
        for each in sockets:
            each.close()


def provision(federation: Federation, launcher: Launcher) -> None:
    """Make and configure a startup kit for each party, with new certificates.

    Raises:
        DemoError: FLARE could not make the kits, or flargo rejects a path in them.
    """
    project = Project("flargo-demo", federation.sites, ADMIN, federation.address, federation.ports[0])
    try:
        kits.move(project, kits.make(project, federation.root / "provision"), federation.root)
        for name, port in zip(federation.names, federation.ports[1:], strict=True):
            _configure(federation, name, port, launcher)
    except (KitError, InvalidInput) as error:
        raise DemoError(str(error)) from error


def start_parents(federation: Federation, processes: ChildProcesses) -> None:
    """Start the parents of the server and of the sites."""
    temporary = federation.root / "tmp"
    for folder in (temporary, federation.log_path(SERVER).parent):
        folder.mkdir(exist_ok=True)
    # A parent that a signal ends does not delete its temporary files.
    environment = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    for name in federation.names:
        folder = federation.root / name
        processes.start(name, kits.parent_command(name, folder), folder, federation.log_path(name), environment)


def wait_until_ready(federation: Federation, processes: ChildProcesses, names: Sequence[str], seconds: float) -> None:
    """Wait until the server accepts commands, or until sites have registered with it.

    Raises:
        DemoError: a parent ended, or is not ready in time.
    """
    deadline = time.monotonic() + seconds
    pending = list(names)
    while pending:
        for name in processes.exited():
            raise parent_error(f"{name} ended during its start", federation.log_path(name))
        if time.monotonic() > deadline:
            text = f"{', '.join(pending)} did not start within {seconds:.0f} s"
            raise parent_error(text, federation.log_path(pending[0]))
        pending = [name for name in pending if _ready_message(name) not in _read(federation.log_path(name))]
        time.sleep(0.1)


def _ready_message(name: str) -> str:
    """Return the text that a parent of nvflare 2.9 logs when it is ready."""
    return "Server started" if name == SERVER else "Successfully registered client"


def parent_error(text: str, log: Path) -> DemoError:
    """Return an error with the last error in a parent's log, and the end of its traceback.

    Without an error, the log's last line may say something if it is no record of FLARE's, such as a loader's message.
    """
    content = REDACTION.redact(_read(log))
    errors = find_errors(content)
    if errors:
        lines = errors[-1].excerpt(_MAX_LINES) if errors[-1].is_exception else ()
        return DemoError(f"{text}: {errors[-1].message[:_MAX_MESSAGE_LENGTH]}", lines)
    *_, last = ("its log is empty", *filter(None, map(str.strip, content.splitlines())))
    message = "its log has no error" if re.match(RECORD_START, last) else last
    return DemoError(f"{text}: {message[:_MAX_MESSAGE_LENGTH]}")


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
    # Nobody restarts a parent of the demo, and its Lease would stay on the cluster: flargo has no right to delete one.
    argo = {"adopt": False, **launcher.argo}
    options = PrepareOptions(launcher.namespace, workspace=str(kit), config_file=str(launcher.kubeconfig), argo=argo)
    for change in prepare(files, options).changes:
        assert change.after is not None, "a kit is prepared by adding files"
        path = kit / change.path
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o666 if change.mode is None else change.mode)
        path.write_bytes(change.after)
    if name == SERVER:
        kits.make_stores(kit)
