"""Makes startup kits with nvflare's library, and returns what a parent needs beside its kit to run from it.

The demo's federation and the tests' federation are built with these functions.
"""

import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER, ORGANISATION = "server", "flargo"


class KitError(Exception):
    """FLARE could not make the startup kits."""


@dataclass(frozen=True, slots=True)
class Project:
    """The participants of a federation and the address of its server."""

    name: str
    sites: Sequence[str]
    admin: str
    address: str
    port: int
    allow_log_streaming: bool = True
    """True if sites send their jobs' error logs to the server."""


def make(project: Project, folder: Path) -> Path:
    """Make a startup kit for each participant, with new certificates.

    Returns:
        The folder that holds the kits, by the names of the participants.

    Raises:
        KitError: FLARE could not make the kits.
    """
    from nvflare.lighter import entity  # noqa: PLC0415  (slow imports)
    from nvflare.lighter.constants import CtxKey  # noqa: PLC0415
    from nvflare.lighter.impl.cert import CertBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.signature import SignatureBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.static_file import StaticFileBuilder  # noqa: PLC0415
    from nvflare.lighter.impl.workspace import WorkspaceBuilder  # noqa: PLC0415
    from nvflare.lighter.provisioner import Provisioner  # noqa: PLC0415

    definition = entity.Project(name=project.name, description="a federation of flargo's")
    listen = {"fed_learn_port": project.port, "admin_port": project.port, "default_host": project.address}
    definition.set_server(SERVER, ORGANISATION, listen)
    for site in project.sites:
        definition.add_client(site, ORGANISATION, {"allow_log_streaming": project.allow_log_streaming})
    definition.add_admin(project.admin, ORGANISATION, {"role": "project_admin"})
    builders = [
        WorkspaceBuilder(template_file=["master_template.yml"]),
        StaticFileBuilder(config_folder="config"),
        CertBuilder(),
        SignatureBuilder(),
    ]
    shutil.rmtree(folder, ignore_errors=True)
    context = Provisioner(str(folder), builders).provision(definition, logger=logging.getLogger(__name__))
    if context.get(CtxKey.BUILD_ERROR):
        raise KitError(f"FLARE could not make the startup kits: {context.get_errors()}")
    return Path(context[CtxKey.CURRENT_PROD_DIR])


def move(project: Project, kits: Path, root: Path) -> None:
    """Move each participant's kit to a folder of the participant's name, and replace a folder that exists."""
    for name in (SERVER, *project.sites, project.admin):
        shutil.rmtree(root / name, ignore_errors=True)
        (kits / name).rename(root / name)


def comm_config(address: str, port: int) -> dict[str, Any]:
    """Return the content of a parent's ``comm_config.json``, which says where the parent listens for its jobs."""
    resources = {"host": address, "port": port, "connection_security": "mtls"}
    internal = {"scheme": "tcp", "resources": resources}
    return {"allow_adhoc_conns": False, "backbone_conn_gen": 2, "internal": internal}


def make_stores(workspace: Path) -> None:
    """Create the folders for the server's snapshots and jobs, where `flargo prepare` places them in its workspace.

    Every user may write to them, because a job's process may run as another user than the server.
    """
    for name in ("snapshot-storage", "jobs-storage"):
        store = workspace / name
        store.mkdir()
        store.chmod(0o777)  # mkdir's mode is subject to the umask


def parent_command(name: str, workspace: Path) -> list[str]:
    """Return the command that a kit's start script runs for a parent, without the script's loop that restarts it."""
    role = "server" if name == SERVER else "client"
    user = [] if name == SERVER else [f"uid={name}"]
    settings = ["secure_train=true", *user, f"org={ORGANISATION}", "config_folder=config"]
    module = f"nvflare.private.fed.app.{role}.{role}_train"
    return [sys.executable, "-u", "-m", module, "-m", str(workspace), "-s", f"fed_{role}.json", "--set", *settings]
