"""Builds a FLARE parent from a kit without running one, for the commands that render jobs.

It also shows the launcher's warnings.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flargo.flare.dry_run import SimulatedParent, study_data_file
from flargo.flare.nvflare_internals import is_startup_file, pod_template_files
from flargo.flare.request import ROOT_CERTIFICATE, WORKSPACE_WARNING
from flargo.job.documents import load_yaml
from flargo.job.settings import Settings, check_settings
from flargo.job.validate import InvalidInput, Sentence, Verbatim
from flargo.terms import Role
from flargo.tools.cli import kit_disk
from flargo.tools.cli.output import write_message
from flargo.tools.kit.files import apply_changes, read_json
from flargo.tools.kit.preparation import Preparation, PrepareOptions, prepare
from flargo.tools.kit.site import COMM_CONFIG, STUDY_DATA, STUDY_RUNTIME, Site

_SERVER = "server"
"""The site name of every FLARE server, whatever its host is called."""
_HIDDEN_WARNINGS = (WORKSPACE_WARNING.partition("%s")[0], "has no study entries")
"""Texts in warnings that every kit causes: it is never where the parent's workspace will be, and its study file is a
stub, which nvflare's study loaders warn of."""
_EXAMPLE_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nZXhhbXBsZQ==\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True, slots=True)
class StagedParent:
    """A FLARE parent that does not run, and the settings with which it would launch jobs."""

    simulation: SimulatedParent
    settings: Settings
    site: Site | None
    """The kit's site; None: an example."""
    is_prepared: bool = True
    """True if `flargo prepare` would change nothing in the kit."""


def example_parent(root: Path, site: str | None = None, role: str | None = None) -> StagedParent:
    """Build an example parent, whose site has no files of its own.

    Args:
        root: an empty folder for the parent's files.
        site: the site's name; None: an example.
        role: the site's role; None: a client.
    """
    for folder in ("startup", "local"):
        (root / folder).mkdir()
    (root / "startup" / ROOT_CERTIFICATE).write_text(_EXAMPLE_CERTIFICATE)
    side = Role(role or Role.CLIENT)
    name = site or (_SERVER if side is Role.SERVER else "site-1")
    return StagedParent(SimulatedParent(root, name, side, f"tcp://{name}:8102"), check_settings(), None)


def parent_from_kit(kit: Path, root: Path, site: str | None = None, role: str | None = None) -> StagedParent:
    """Build the parent of a kit's site, as it is after `flargo prepare`.

    Args:
        kit: the kit, prepared or not.
        root: an empty folder of this process's own, for copies of the files that the launcher would read. The launcher
            itself follows links and reads keys, so it never gets the kit.
        site: the site's name; None: the kit's.
        role: the role that the kit must have; None: any.

    Raises:
        InvalidInput: the kit is not for Kubernetes, or has another role.
    """
    files = kit_disk.read_kit(kit, follow_links=True)
    try:
        prepared = prepare(files, PrepareOptions())
    except InvalidInput as error:
        if not error.field.startswith("--"):
            raise
        problem = Sentence(f"is not prepared for Kubernetes: run `flargo prepare` with {error.field} first")
        raise InvalidInput(str(kit), Verbatim("not prepared"), problem) from None
    kit_role = prepared.site.role
    if role is not None and role != kit_role:
        raise InvalidInput("--role", role, f"{kit_role}, the kit's role")
    name = site or (_SERVER if kit_role is Role.SERVER else prepared.site.name)
    internal = read_json(apply_changes(files, prepared.changes), COMM_CONFIG)["internal"]
    listener = internal["resources"]
    servers = prepared.site.startup.get("servers") or [{}]
    _copy_launch_files(kit, root, prepared.settings)
    simulation = SimulatedParent(
        kit=root,
        site=name,
        role=kit_role,
        parent_url=f"{internal['scheme']}://{listener['host']}:{listener['port']}",
        server=servers[0].get("service") or {},
        options=_parent_options(prepared, name),
    )
    return StagedParent(simulation, prepared.settings, prepared.site, is_prepared=not prepared.changes)


def _copy_launch_files(kit: Path, root: Path, settings: Settings) -> None:
    """Copy study files, pod templates and the root certificate; create the startup kit's other files with their sizes.

    The content of the other files appears in no Workflow but only in a Secret, of which a dry run shows the keys.
    """
    for folder in ("startup", "local"):
        (root / folder).mkdir()
    certificate = f"startup/{ROOT_CERTIFICATE}"
    with kit_disk.open_kit(kit, follow_links=True) as reader:
        contents = {path: reader.read(path) for path in (certificate, *_study_files(reader, settings))}
        sizes = {}
        for name in reader.list_names("startup"):
            path = f"startup/{name}"
            status = reader.status(path) if path != certificate and is_startup_file(name) else None
            if status is not None:
                sizes[path] = status.st_size
    for path, content in contents.items():
        if content is not None and path not in sizes:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    for path, size in sizes.items():
        with (root / path).open("wb") as file:
            file.truncate(size)


def _study_files(reader: kit_disk.KitReader, settings: Settings) -> list[str]:
    """Return the paths, under the kit, of the study files and pod templates that a launch reads."""
    paths = [STUDY_RUNTIME, STUDY_DATA]
    # A wrong setting or file is ignored here: the dry run of each job refuses it with a message.
    with suppress(InvalidInput):
        paths += filter(None, [study_data_file(settings)])
    runtime = reader.read(STUDY_RUNTIME)
    with suppress(InvalidInput):
        paths += [f"local/{name}" for name in pod_template_files(load_yaml(STUDY_RUNTIME, runtime or b""))]
    return [*dict.fromkeys(paths)]


def _parent_options(prepared: Preparation, name: str) -> tuple[str, ...]:
    """Return what follows ``--set`` in the parent's arguments in the chart, or without a chart in its start script."""
    args = (prepared.site.values or {}).get("args") or ["--set", "secure_train=true", "config_folder=config"]
    texts = [str(argument) for argument in args]
    options = texts[texts.index("--set") + 1 :] if "--set" in texts else []
    return (*options, f"uid={name}") if prepared.site.role is Role.CLIENT else (*options,)


@contextmanager
def show_warnings() -> Iterator[None]:
    """Write the launcher's warnings as messages, except those that every kit of `nvflare deploy prepare` causes."""

    class MessageHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if not any(part in text for part in _HIDDEN_WARNINGS):
                write_message(f"Warning: {text}")

    logger, handler = logging.getLogger("flargo"), MessageHandler(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
