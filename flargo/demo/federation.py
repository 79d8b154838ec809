"""A FLARE federation in a folder: kits made by nvflare's own library, flargo put in each as README.md says.

The parents are the programs that a kit's start script runs, without its loop that starts them again.
"""

import json
import logging
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flargo.demo.children import Children
from flargo.demo.options import DemoError

SERVER, ADMIN, ORGANISATION = "server", "admin@flargo.demo", "flargo"
_PASSTHROUGH = "nvflare.app_common.resource_managers.passthrough_resource_manager.PassthroughResourceManager"


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
            f"Nothing can listen on {address} ({error.strerror or error}): name an address of this machine "
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
    kits = _kits(federation)
    for name in (*federation.names, ADMIN):
        shutil.rmtree(federation.root / name, ignore_errors=True)
        (kits / name).rename(federation.root / name)
    for name, port in zip(federation.names, federation.ports[1:], strict=True):
        _configure(federation, name, port, launcher)


def start(federation: Federation, children: Children) -> None:
    """Start the server and the sites."""
    temporary = federation.root / "tmp"
    for folder in (temporary, federation.log(SERVER).parent):
        folder.mkdir(exist_ok=True)
    # A parent that is ended by a signal leaves its temporary files behind.
    environment = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    for name in federation.names:
        folder = federation.root / name
        children.start(name, _command(name, folder), folder, federation.log(name), environment)


def wait_ready(federation: Federation, children: Children, names: Sequence[str], seconds: float) -> None:
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
    """The last line of a log that says something, and where the rest is."""
    lines = [line.strip() for line in _read(log).splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return f"{(errors or lines or ['nothing'])[-1][:200]} ({log})"


def _read(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _kits(federation: Federation) -> Path:
    from nvflare.lighter.constants import CtxKey  # noqa: PLC0415  (slow imports)
    from nvflare.lighter.entity import Project  # noqa: PLC0415
    from nvflare.lighter.impl.cert import CertBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.signature import SignatureBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.static_file import StaticFileBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.workspace import WorkspaceBuilder  # noqa: PLC0415
    from nvflare.lighter.provisioner import Provisioner  # noqa: PLC0415

    project = Project(name="flargo-demo", description="flargo's demo")
    port = federation.ports[0]
    listen = {"fed_learn_port": port, "admin_port": port, "default_host": federation.address}
    project.set_server(SERVER, ORGANISATION, listen)
    for site in federation.sites:
        project.add_client(site, ORGANISATION, {"allow_log_streaming": True})
    project.add_admin(ADMIN, ORGANISATION, {"role": "project_admin"})
    builders = [
        WorkspaceBuilder(template_file=["master_template.yml"]),
        StaticFileBuilder(config_folder="config"),
        CertBuilder(),
        SignatureBuilder(),
    ]
    shutil.rmtree(federation.root / "provision", ignore_errors=True)
    provisioner = Provisioner(str(federation.root / "provision"), builders)
    context = provisioner.provision(project, logger=logging.getLogger(__name__))
    if context.get(CtxKey.BUILD_ERROR):
        raise DemoError(f"FLARE could not make the startup kits: {context.get_errors()}")
    return Path(context[CtxKey.CURRENT_PROD_DIR])


def _configure(federation: Federation, name: str, port: int, launcher: Launcher) -> None:
    """README.md, "Install at a site": resources.json without another launcher, and flargo's in a file of its own."""
    folder = federation.root / name
    local = folder / "local"
    resources = json.loads((local / "resources.json.default").read_text())
    replaced = {"process_launcher", "resource_manager", "resource_consumer"}
    kept = [part for part in resources["components"] if part["id"] not in replaced]
    # Whether there is a GPU is for Kubernetes to say (nvflare deploy prepare does the same).
    resources["components"] = [*kept, {"id": "resource_manager", "path": _PASSTHROUGH, "args": {}}]
    if name == SERVER:
        _place_stores(folder, resources)
    role = "Server" if name == SERVER else "Client"
    arguments: dict[str, Any] = {
        "config_file_path": str(launcher.kubeconfig),
        "namespace": launcher.namespace,
        "workspace_mount_path": str(folder),
    }
    component = {"id": "argo_launcher", "path": f"flargo.{role}ArgoJobLauncher", "args": arguments}
    listener = {"host": federation.address, "port": port, "connection_security": "mtls"}
    _write(local / "resources.json", resources)
    _write(local / "flargo__p_resources.json", {"format_version": 2, "components": [component]})
    internal = {"scheme": "tcp", "resources": listener}
    _write(local / "comm_config.json", {"allow_adhoc_conns": False, "backbone_conn_gen": 2, "internal": internal})


def _place_stores(folder: Path, resources: dict[str, Any]) -> None:
    """The server's stores, which FLARE has in a place that all servers of a machine share."""
    snapshots, jobs = folder / "snapshot-storage", folder / "jobs-storage"
    for store in (snapshots, jobs):
        store.mkdir()
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(snapshots)
    (manager,) = (part for part in resources["components"] if part["id"] == "job_manager")
    manager["args"]["uri_root"] = str(jobs)


def _command(name: str, folder: Path) -> Sequence[str]:
    role = "server" if name == SERVER else "client"
    module = f"nvflare.private.fed.app.{role}.{role}_train"
    who = [] if name == SERVER else [f"uid={name}"]
    told = ["secure_train=true", *who, f"org={ORGANISATION}", "config_folder=config"]
    return [sys.executable, "-u", "-m", module, "-m", str(folder), "-s", f"fed_{role}.json", "--set", *told]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
