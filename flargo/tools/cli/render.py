"""`flargo render`: print the Workflow that a site would submit for a job. It needs no cluster."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import yaml

from flargo.flare.dry_run import EXAMPLE_JOB_ID, dry_run
from flargo.flare.job_meta import read_meta
from flargo.terms import Plan, Role
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.option_types import SINGLE_LINE
from flargo.tools.cli.output import report_errors, write_document, write_line, write_message, write_result
from flargo.tools.cli.staged_kit import example_parent, parent_from_kit, show_warnings


@click.command(epilog=epilog("render"))
@click.argument("meta", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--kit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The site's startup kit. Default: an example site.",
)
@click.option("--site", type=SINGLE_LINE, help="The site's name in FLARE. Default: the kit's, else site-1.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="Whether the site is a server or a client. Default: as the kit, else client.",
)
@output_options(*DOCUMENTS)
@report_errors
def render(meta: Path, *, kit: Path | None, site: str | None, role: str | None, output_format: Format | None) -> None:
    """Print the Workflow that a site would submit for a job, or why the site would refuse the job.

    META is a job folder, or the meta.json, meta.conf or meta.yml in it, which is read as FLARE's server reads it. Ids,
    tokens and addresses that FLARE creates at run time are examples. Of Secrets, only names and keys are printed.
    """
    job_meta = read_meta(meta)
    with show_warnings(), tempfile.TemporaryDirectory() as folder:
        if kit is None:
            parent = example_parent(Path(folder), site, role)
        else:
            parent = parent_from_kit(kit, Path(folder), site, role)
        if not parent.is_prepared:
            write_message(f"{kit} is not prepared or has changed since: this is the result after `flargo prepare`.")
        plan = dry_run(job_meta, parent.simulation, parent.settings)
    if output_format is not None:
        write_result({"workflow": plan.workflow, "secrets": _secret_keys(plan)}, output_format)
        return
    write_document(yaml.safe_dump(json.loads(json.dumps(plan.workflow)), sort_keys=False, width=120))
    for secret in _secret_keys(plan):
        write_line(f"# Secret {secret['name']}: {', '.join(secret['keys'])}")
    if not job_meta.get("job_id"):
        write_message(f"The job has no id yet; the Workflow has the example id {EXAMPLE_JOB_ID}.")


def _secret_keys(plan: Plan) -> list[dict[str, Any]]:
    return [{"name": each.name, "keys": sorted(each.data)} for each in (plan.startup, plan.credentials)]
