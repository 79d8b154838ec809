"""`flargo render`: the Workflow that a site would submit for a job, without a cluster."""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

from flargo.cli import disk
from flargo.cli.output import data, data_json, json_option, reporting, say
from flargo.flare.rehearsal import EXAMPLE_JOB, Stage, rehearse
from flargo.flare.request import ROOT_CERTIFICATE
from flargo.job.checks import Refused
from flargo.job.settings import Settings, settings
from flargo.kit.files import Shown, applied, read_json
from flargo.kit.prepare import Prepared, Wishes, prepare
from flargo.kit.site import COMM_CONFIG
from flargo.terms import Plan, Role

_SERVER = "server"
"""What every FLARE server is called, whatever its host."""
_EXAMPLE_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nZXhhbXBsZQ==\n-----END CERTIFICATE-----\n"


@click.command()
@click.argument("meta", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--kit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The site's startup kit. Default: a plain example site.",
)
@click.option("--site", help="The site's name in FLARE. Default: the kit's, else site-1.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="Default: the kit's, else client.")
@json_option
@reporting
def render(meta: Path, *, kit: Path | None, site: str | None, role: str | None, as_json: bool) -> None:
    """Print the Workflow that a site would submit for a job, or why it would refuse to.

    META is a job's meta.json, or the folder with it. Ids, tokens and addresses that FLARE makes up at run time are
    examples; of Secrets only names are shown.
    """
    job_meta = _job_meta(meta)
    with _warnings(), tempfile.TemporaryDirectory() as nothing:
        if kit is None:
            stage, arguments = _example(Path(nothing), site, role)
        else:
            stage, arguments = _of_kit(kit, site, role)
        made = rehearse(job_meta, stage, arguments)
    if as_json:
        data_json({"workflow": made.workflow, "secrets": _secrets(made)})
        return
    data(yaml.safe_dump(json.loads(json.dumps(made.workflow)), sort_keys=False, width=120))
    for secret in _secrets(made):
        data(f"# Secret {secret['name']}: {', '.join(secret['keys'])}")
    if not job_meta.get("job_id"):
        say(f"The job has no id yet; shown is {EXAMPLE_JOB}.")


def _job_meta(path: Path) -> dict[str, Any]:
    file = path / "meta.json" if path.is_dir() else path
    if not file.is_file():
        raise Refused("META", str(path), "a job's meta.json, or a job folder with one")
    return read_json({str(file): file.read_bytes()}, str(file))


def _secrets(made: Plan) -> list[dict[str, Any]]:
    return [{"name": each.name, "keys": sorted(each.data)} for each in (made.startup, made.credentials)]


def _example(root: Path, site: str | None, role: str | None) -> tuple[Stage, Settings]:
    """A site with no files of its own, in a federation of which nothing is known."""
    for folder in ("startup", "local"):
        (root / folder).mkdir()
    (root / "startup" / ROOT_CERTIFICATE).write_text(_EXAMPLE_CERTIFICATE)
    side = Role(role or Role.CLIENT)
    name = site or (_SERVER if side is Role.SERVER else "site-1")
    return Stage(root, name, side, f"tcp://{name}:8102"), settings()


def _of_kit(kit: Path, site: str | None, role: str | None) -> tuple[Stage, Settings]:
    files = disk.read_kit(kit)
    try:
        prepared = prepare(files, Wishes())
    except Refused as refused:
        if not refused.field.startswith("--"):
            raise
        allowed = f"a kit for Kubernetes, or one that `flargo prepare` has been told {refused.field} for"
        raise Refused(str(kit), Shown("not prepared"), allowed) from None
    if prepared.changes:
        say(f"{kit} is not prepared, or no longer: shown is what would be if `flargo prepare` had been run.")
    side = prepared.site.role
    if role is not None and role != side:
        raise Refused("--role", role, f"{side}, as the kit's is")
    name = _SERVER if side is Role.SERVER else prepared.site.name
    internal = read_json(applied(files, prepared.changes), COMM_CONFIG)["internal"]
    listener = internal["resources"]
    servers = prepared.site.startup.get("servers") or [{}]
    stage = Stage(
        kit=kit.resolve(),
        site=site or name,
        role=side,
        parent_url=f"{internal['scheme']}://{listener['host']}:{listener['port']}",
        server=servers[0].get("service") or {},
        options=_options(prepared, site or name),
    )
    return stage, prepared.settings


def _options(prepared: Prepared, name: str) -> tuple[str, ...]:
    """What the chart starts the parent with, after ``--set``; without a chart, what a start script does."""
    args = (prepared.site.values or {}).get("args") or ["--set", "secure_train=true", "config_folder=config"]
    said = [str(argument) for argument in args]
    after = said[said.index("--set") + 1 :] if "--set" in said else []
    return (*after, f"uid={name}") if prepared.site.role is Role.CLIENT else (*after,)


@contextmanager
def _warnings() -> Iterator[None]:
    """Show the launcher's warnings, but for the one that the kit does not lie where the workspace will."""

    class Passed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if "the parent's workspace is" not in text:
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
