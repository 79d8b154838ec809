"""`flargo prepare`: configure a startup kit to use flargo, or undo that."""

from pathlib import Path
from typing import Any

import click

from flargo.job import validate
from flargo.job.documents import load_yaml
from flargo.job.settings import ArgoSettings
from flargo.job.validate import InvalidInput
from flargo.text import shell_command
from flargo.tools.cli import kit_disk
from flargo.tools.cli.examples import epilog
from flargo.tools.cli.formats import DOCUMENTS, Format, output_options
from flargo.tools.cli.option_types import NAMESPACE
from flargo.tools.cli.output import report_errors, write_diff, write_line, write_message, write_result
from flargo.tools.kit import chart, undo
from flargo.tools.kit.files import Change, Files, diff, name_argo_option
from flargo.tools.kit.preparation import Preparation, PrepareOptions, diff_base
from flargo.tools.kit.preparation import prepare as find_changes
from flargo.tools.kit.site import ROLE_TEMPLATE


@click.command(epilog=epilog("prepare"))
@click.argument("kit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--namespace", "-n", type=NAMESPACE, help="The namespace for jobs. Default: the kit's.")
@click.option(
    "--workspace", help="The workspace folder in the parent and in jobs. Default: the Helm chart's mount path."
)
@click.option(
    "--config-file",
    help="The path of a kubeconfig in the parent. Default: the kit's, else the pod's service account.",
)
@click.option(
    "--max-jobs",
    type=int,
    help="The maximum number of jobs that run at once; others wait. Applies only to a server's kit.",
)
@click.option("--argo", "pairs", multiple=True, metavar="KEY=VALUE", help="Set one of flargo's settings; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the changes as a diff, and write nothing.")
@click.option("--undo", "is_undo", is_flag=True, help="Restore the kit as it was before flargo prepare.")
@output_options(*DOCUMENTS)
@report_errors
def prepare(
    kit: Path, *, pairs: tuple[str, ...], dry_run: bool, is_undo: bool, output_format: Format | None, **options: Any
) -> None:
    """Configure a startup kit to use flargo.

    KIT is the folder of a server's or a client's kit that `nvflare provision` made, or that `nvflare deploy prepare`
    made for Kubernetes. Running the command again changes nothing more.
    """
    if is_undo:
        others = {f"--{name.replace('_', '-')}": value for name, value in options.items()} | {"--argo": pairs or None}
        for option, value in others.items():
            if value is not None:
                raise click.UsageError(f"{option} and --undo cannot be combined.")
    files = kit_disk.read_kit(kit)
    if is_undo:
        changes, prepared = undo.plan_undo(files), None
    else:
        prepared = find_changes(
            files, PrepareOptions(**options, argo=_parse_settings(pairs)), kit_disk.read_modes(kit, files)
        )
        changes = prepared.changes
    if not dry_run:
        kit_disk.write(kit, changes)
    visible_changes = [change for change in changes if change.path != undo.RECORD]
    if output_format is not None:
        write_result(_report(kit, files, visible_changes, prepared, dry_run=dry_run), output_format)
        return
    _write_changes(files, visible_changes, dry_run=dry_run)
    if prepared is not None:
        for line in _next_steps(kit, prepared):
            write_message(line)


def _parse_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not text.strip():
            expected = "KEY=VALUE, as in keep_success=3600, keep_success=null or labels='{team: heart}'"
            raise InvalidInput("--argo", pair, expected)
        settings[key] = _parse_value(key, text)
    return settings


def _parse_value(key: str, text: str) -> Any:
    """Parse a setting's value as YAML; where only a text is allowed, take it literally (`instance_id=7`)."""
    try:
        value = load_yaml("--argo", text)
    except InvalidInput:
        value = text
    error = _settings_error(key, value)
    if error is None:
        return value
    if _settings_error(key, text) is None:
        return text
    raise name_argo_option(error)


def _settings_error(key: str, value: Any) -> InvalidInput | None:
    try:
        validate.record(ArgoSettings)("argo", {key: value})
    except InvalidInput as error:
        return error
    return None


def _write_changes(files: Files, changes: list[Change], *, dry_run: bool) -> None:
    if not changes:
        write_message("Nothing to change.")
    for change in changes:
        if dry_run:
            write_diff(diff(change, diff_base(files, change)))
        else:
            write_line(f"{change.verb:6}  {change.path}")
    if changes and dry_run:
        write_message("Nothing was written: this was a dry run.")


def _report(
    kit: Path, files: Files, changes: list[Change], prepared: Preparation | None, *, dry_run: bool
) -> dict[str, Any]:
    rows = [{"path": each.path, "action": each.verb, "diff": diff(each, diff_base(files, each))} for each in changes]
    report: dict[str, Any] = {"kit": str(kit), "dry_run": dry_run, "changes": rows}
    if prepared is not None:
        report |= {"site": prepared.site.name, "role": prepared.site.role.value}
        report |= {"namespace": prepared.settings.namespace, "workspace": prepared.settings.workspace_mount_path}
        report |= {"advice": _next_steps(kit, prepared)}
    return report


def _next_steps(kit: Path, prepared: Preparation) -> list[str]:
    """Return the notes on the kit, and the steps that remain for the person, as lines."""
    site, namespace = prepared.site, prepared.settings.namespace
    lines = [f"Note: {note}" for note in prepared.notes]
    if site.values is None:
        accounts = chart.accounts_command(namespace) or "with the manifests in deploy/"
        return [
            *lines,
            f"Next: create the service accounts, in a checkout of flargo: {accounts}",
            "Next: run the parent with the service account flargo-launcher, in an image with nvflare and flargo",
            f"Next: create a Service for the parent, with the name and port in {kit / 'local/comm_config.json'}",
        ]
    values = site.values.get("image") or {}
    image = ":".join(str(part) for part in (values.get("repository"), values.get("tag")) if part)
    target = (
        "on the cluster again, which still has the previous files" if chart.is_staged(site.values) else "on the cluster"
    )
    namespace_option = ("--namespace", namespace) if _stages_elsewhere(prepared) else ()
    command = shell_command(
        "nvflare", "deploy", "k8s", "stage", str(kit), *namespace_option, names=namespace_option[1:]
    )
    if not chart.grants_rights(site):
        lines.append(f"Note: the chart has rbac.create=false: create the accounts of {ROLE_TEMPLATE} yourself")
    return [
        *lines,
        f"Next: make sure that the parent's image ({image}) has flargo in it, like those of deploy/images",
        f"Next: put the kit {target}: {command or 'with nvflare deploy k8s stage'}",
    ]


def _stages_elsewhere(prepared: Preparation) -> bool:
    """Return whether `nvflare deploy k8s stage` would by default use another namespace than the jobs'.

    It uses the namespace of the stock launcher.
    """
    stage_namespace = ((prepared.site.stock_launcher or {}).get("args") or {}).get("namespace", "default")
    return bool(stage_namespace != prepared.settings.namespace)
