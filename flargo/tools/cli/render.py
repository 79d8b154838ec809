"""`flargo render`: the Workflow that a site would submit for a job, without a cluster."""

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import yaml

from flargo.flare.dry_run import EXAMPLE_JOB_ID, dry_run
from flargo.terms import Plan, Role
from flargo.tools.cli.option_types import WORD
from flargo.tools.cli.output import data, data_json, document, json_option, reporting, say
from flargo.tools.cli.staged_kit import example, job_meta, of_kit, warnings


@click.command()
@click.argument("meta", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--kit",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The site's startup kit. Default: a plain example site.",
)
@click.option("--site", type=WORD, help="The site's name in FLARE. Default: the kit's, else site-1.")
@click.option("--role", type=click.Choice([role.value for role in Role]), help="Default: the kit's, else client.")
@json_option
@reporting
def render(meta: Path, *, kit: Path | None, site: str | None, role: str | None, as_json: bool) -> None:
    """Print the Workflow that a site would submit for a job, or why it would refuse to.

    META is a job's meta.json, or the folder with it. Ids, tokens and addresses that FLARE makes up at run time are
    examples; of Secrets only names are shown.
    """
    asked = job_meta(meta)
    with warnings(), tempfile.TemporaryDirectory() as folder:
        staged = example(Path(folder), site, role) if kit is None else of_kit(kit, Path(folder), site, role)
        if not staged.prepared:
            say(f"{kit} is not prepared, or no longer: shown is what would be if `flargo prepare` had been run.")
        made = dry_run(asked, staged.stage, staged.settings)
    if as_json:
        data_json({"workflow": made.workflow, "secrets": _secrets(made)})
        return
    document(yaml.safe_dump(json.loads(json.dumps(made.workflow)), sort_keys=False, width=120))
    for secret in _secrets(made):
        data(f"# Secret {secret['name']}: {', '.join(secret['keys'])}")
    if not asked.get("job_id"):
        say(f"The job has no id yet; shown is {EXAMPLE_JOB_ID}.")


def _secrets(made: Plan) -> list[dict[str, Any]]:
    return [{"name": each.name, "keys": sorted(each.data)} for each in (made.startup, made.credentials)]
