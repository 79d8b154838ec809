"""What the commands that render jobs share: a parent staged from a kit, a job's metadata, the launcher's warnings."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flargo.flare.dry_run import SimulatedParent, study_data_file
from flargo.flare.nvflare_internals import is_startup_file, pod_template_files
from flargo.flare.request import ROOT_CERTIFICATE
from flargo.job.documents import load_yaml
from flargo.job.settings import Settings, check_settings
from flargo.job.validate import InvalidInput, Verbatim
from flargo.terms import Role
from flargo.tools.cli import kit_disk
from flargo.tools.cli.output import say
from flargo.tools.kit.files import apply_changes, read_json
from flargo.tools.kit.preparation import Preparation, PrepareOptions, prepare
from flargo.tools.kit.site import COMM_CONFIG, STUDY_DATA, STUDY_RUNTIME, Site

_SERVER = "server"
"""What every FLARE server is called, whatever its host."""
_USUAL = ("the parent's workspace is", "has no study entries")
"""Warnings that tell a person nothing: a kit does not lie where the workspace will, and its study file is a stub."""
_EXAMPLE_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nZXhhbXBsZQ==\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True, slots=True)
class Staged:
    """A parent that is not there, and what it would launch with."""

    stage: SimulatedParent
    settings: Settings
    site: Site | None
    """The kit's; None: an example."""
    prepared: bool = True
    """Whether the kit is as `flargo prepare` would leave it."""


def job_meta(path: Path) -> dict[str, Any]:
    """The metadata of a job: of its meta.json, or of the folder with it.

    Raises:
        Refused: there is none, or it is too large or can't be read.
    """
    file = path / "meta.json" if path.is_dir() else path
    if not file.is_file():
        raise InvalidInput("META", str(path), "a job's meta.json, or a job folder with one")
    try:
        with file.open("rb") as opened:
            content = opened.read(kit_disk.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            "META", Verbatim(f"unreadable ({os.strerror(error.errno or 0)})"), "a file to read"
        ) from None
    if len(content) > kit_disk.MAX_FILE_BYTES:
        raise InvalidInput("META", Verbatim("too large a file"), f"at most {kit_disk.MAX_FILE_BYTES} bytes")
    return read_json({str(file): content}, str(file))


def example(root: Path, site: str | None = None, role: str | None = None) -> Staged:
    """A site with no files of its own, in a federation of which nothing is known."""
    for folder in ("startup", "local"):
        (root / folder).mkdir()
    (root / "startup" / ROOT_CERTIFICATE).write_text(_EXAMPLE_CERTIFICATE)
    side = Role(role or Role.CLIENT)
    name = site or (_SERVER if side is Role.SERVER else "site-1")
    return Staged(SimulatedParent(root, name, side, f"tcp://{name}:8102"), check_settings(), None)


def of_kit(kit: Path, root: Path, site: str | None = None, role: str | None = None) -> Staged:
    """A kit's site, as it is prepared, or would be.

    Args:
        kit: the kit.
        root: an empty folder of this process's own, for copies of the files that the launcher would read. The launcher
            itself follows links and reads keys, so it never sees the kit.
        site: the site's name, if not the kit's.
        role: the role that the kit must have, if any.

    Raises:
        Refused: it is no kit for Kubernetes, or another role's.
    """
    files = kit_disk.read_kit(kit, follow_links=True)
    try:
        prepared = prepare(files, PrepareOptions())
    except InvalidInput as refused:
        if not refused.field.startswith("--"):
            raise
        allowed = f"a kit for Kubernetes, or one that `flargo prepare` has been told {refused.field} for"
        raise InvalidInput(str(kit), Verbatim("not prepared"), allowed) from None
    side = prepared.site.role
    if role is not None and role != side:
        raise InvalidInput("--role", role, f"{side}, as the kit's is")
    name = _SERVER if side is Role.SERVER else prepared.site.name
    internal = read_json(apply_changes(files, prepared.changes), COMM_CONFIG)["internal"]
    listener = internal["resources"]
    servers = prepared.site.startup.get("servers") or [{}]
    _copy_what_a_launch_reads(kit, root, prepared.settings)
    stage = SimulatedParent(
        kit=root,
        site=site or name,
        role=side,
        parent_url=f"{internal['scheme']}://{listener['host']}:{listener['port']}",
        server=servers[0].get("service") or {},
        options=_options(prepared, site or name),
    )
    return Staged(stage, prepared.settings, prepared.site, prepared=not prepared.changes)


def _copy_what_a_launch_reads(kit: Path, root: Path, settings: Settings) -> None:
    """Copy study files, pod templates and the root certificate; of the startup kit's other files only the sizes.

    Their content is in no Workflow, only in a Secret, of which a rehearsal shows the keys.
    """
    for folder in ("startup", "local"):
        (root / folder).mkdir()
    certificate = f"startup/{ROOT_CERTIFICATE}"
    with kit_disk.open_kit(kit, follow_links=True) as reader:
        copied = {path: reader.read(path) for path in (certificate, *_study_files(reader, settings))}
        sizes = {}
        for name in reader.names("startup"):
            path = f"startup/{name}"
            status = reader.status(path) if path != certificate and is_startup_file(name) else None
            if status is not None:
                sizes[path] = status.st_size
    for path, content in copied.items():
        if content is not None and path not in sizes:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    for path, size in sizes.items():
        with (root / path).open("wb") as file:
            file.truncate(size)


def _study_files(reader: kit_disk.KitReader, settings: Settings) -> list[str]:
    """The study files and pod templates that a launch reads, by their paths under the kit."""
    found = [STUDY_RUNTIME, STUDY_DATA]
    # The rehearsal refuses both, for each job, and says why.
    with suppress(InvalidInput):
        found += filter(None, [study_data_file(settings)])
    runtime = reader.read(STUDY_RUNTIME)
    with suppress(InvalidInput):
        found += [f"local/{name}" for name in pod_template_files(load_yaml(STUDY_RUNTIME, runtime or b""))]
    return [*dict.fromkeys(found)]


def _options(prepared: Preparation, name: str) -> tuple[str, ...]:
    """What the chart starts the parent with, after ``--set``; without a chart, what a start script does."""
    args = (prepared.site.values or {}).get("args") or ["--set", "secure_train=true", "config_folder=config"]
    said = [str(argument) for argument in args]
    after = said[said.index("--set") + 1 :] if "--set" in said else []
    return (*after, f"uid={name}") if prepared.site.role is Role.CLIENT else (*after,)


@contextmanager
def warnings() -> Iterator[None]:
    """Show the launcher's warnings, but for those that each kit of `nvflare deploy prepare` would give."""

    class Passed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if not any(words in text for words in _USUAL):
                say(f"Warning: {text}")

    log, handler = logging.getLogger("flargo"), Passed(logging.WARNING)
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
