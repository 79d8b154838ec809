"""`flargo prepare`: make a startup kit use flargo, or take that back."""

from pathlib import Path
from typing import Any

import click

from flargo.job import validate
from flargo.job.documents import load_yaml
from flargo.job.settings import ArgoSettings
from flargo.job.validate import InvalidInput
from flargo.text import shell_command
from flargo.tools.cli import kit_disk
from flargo.tools.cli.output import data, data_json, document, json_option, reporting, say
from flargo.tools.kit import chart, undo
from flargo.tools.kit.files import Change, Files, diff, prefix_field
from flargo.tools.kit.preparation import Preparation, PrepareOptions, diff_base
from flargo.tools.kit.preparation import prepare as find_changes
from flargo.tools.kit.site import ROLE_TEMPLATE


@click.command()
@click.argument("kit", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--namespace", help="Where jobs run. Default: as the kit says.")
@click.option("--workspace", help="The parent's workspace, and the jobs'. Default: the Helm chart's mount path.")
@click.option("--config-file", help="A kubeconfig, as the parent sees it. Default: as the kit says, else in-cluster.")
@click.option("--max-jobs", type=int, help="How many jobs run at once; the others wait. For the server's kit.")
@click.option("--argo", "pairs", multiple=True, metavar="KEY=VALUE", help="One of flargo's own settings; repeatable.")
@click.option("--dry-run", is_flag=True, help="Show what would change, as a diff, and change nothing.")
@click.option("--undo", "take_back", is_flag=True, help="Make the kit what it was before.")
@json_option
@reporting
def prepare(kit: Path, *, pairs: tuple[str, ...], dry_run: bool, take_back: bool, as_json: bool, **given: Any) -> None:
    """Make a startup kit use flargo.

    KIT is a server's or client's kit, as `nvflare deploy prepare` made it for Kubernetes or `nvflare provision` left
    it. Doing it twice changes nothing more.
    """
    files = kit_disk.read_kit(kit)
    if take_back:
        wishes = {f"--{name.replace('_', '-')}": value for name, value in given.items()} | {"--argo": pairs or None}
        _only("--undo", wishes)
        changes, prepared = undo.plan_undo(files), None
    else:
        prepared = find_changes(files, PrepareOptions(**given, argo=_argo(pairs)), kit_disk.read_modes(kit, files))
        changes = prepared.changes
    if not dry_run:
        kit_disk.write(kit, changes)
    shown = [change for change in changes if change.path != undo.RECORD]
    if as_json:
        data_json(_report(kit, files, shown, prepared, dry_run=dry_run))
        return
    _tell(files, shown, dry_run=dry_run)
    if prepared is not None:
        for line in _advice(kit, prepared):
            say(line)


def _only(option: str, others: dict[str, Any]) -> None:
    for name, value in others.items():
        if value is not None:
            raise InvalidInput(name, value, f"nothing beside {option}")


def _argo(pairs: tuple[str, ...]) -> dict[str, Any]:
    settings = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not text.strip():
            allowed = "KEY=VALUE, as in keep_success=3600, keep_success=null or labels='{team: heart}'"
            raise InvalidInput("--argo", pair, allowed)
        settings[key] = _value(key, text)
    return settings


def _value(key: str, text: str) -> Any:
    """A setting's value as YAML, or as the text that it is, where only that is allowed (`instance_id=7`)."""
    try:
        parsed = load_yaml("--argo", text)
    except InvalidInput:
        parsed = text
    refused = _refusal(key, parsed)
    if refused is None:
        return parsed
    if _refusal(key, text) is None:
        return text
    raise prefix_field("--argo", refused)


def _refusal(key: str, value: Any) -> InvalidInput | None:
    try:
        validate.record(ArgoSettings)("argo", {key: value})
    except InvalidInput as refused:
        return refused
    return None


def _tell(files: Files, changes: list[Change], *, dry_run: bool) -> None:
    if not changes:
        say("Nothing to change.")
    for change in changes:
        if dry_run:
            document(diff(change, diff_base(files, change)))
        else:
            data(f"{change.verb:6}  {change.path}")


def _report(
    kit: Path, files: Files, changes: list[Change], prepared: Preparation | None, *, dry_run: bool
) -> dict[str, Any]:
    rows = [{"path": each.path, "action": each.verb, "diff": diff(each, diff_base(files, each))} for each in changes]
    about: dict[str, Any] = {"kit": str(kit), "dry_run": dry_run, "changes": rows}
    if prepared is not None:
        about |= {"site": prepared.site.name, "role": prepared.site.role.value}
        about |= {"namespace": prepared.settings.namespace, "workspace": prepared.settings.workspace_mount_path}
        about |= {"advice": _advice(kit, prepared)}
    return about


def _advice(kit: Path, prepared: Preparation) -> list[str]:
    """What is left for the person to do."""
    site, namespace = prepared.site, prepared.settings.namespace
    lines = [f"Note: {note}" for note in prepared.notes]
    if site.values is None:
        return [
            *lines,
            f"Next: make the accounts, in a checkout of flargo: {chart.accounts_command(namespace) or 'with deploy/'}",
            "Next: run the parent as flargo-launcher, in an image with nvflare and flargo",
            f"Next: put a Service before it, with the name and port of {kit / 'local/comm_config.json'}",
        ]
    image = site.values.get("image") or {}
    named = ":".join(str(part) for part in (image.get("repository"), image.get("tag")) if part)
    again = "again, since the cluster has the files from before" if chart.is_staged(site.values) else "on the cluster"
    elsewhere = ("--namespace", namespace) if _stages_elsewhere(prepared) else ()
    command = shell_command("nvflare", "deploy", "k8s", "stage", str(kit), *elsewhere, names=elsewhere[1:])
    if not (site.values.get("rbac") or {}).get("create", True):
        lines.append(f"Note: the chart's rbac.create is false: make the accounts of {ROLE_TEMPLATE} yourself")
    return [
        *lines,
        f"Next: see that the parent's image ({named}) has flargo in it, as one of deploy/images has",
        f"Next: put the kit {again}: {command or 'with nvflare deploy k8s stage'}",
    ]


def _stages_elsewhere(prepared: Preparation) -> bool:
    """Whether staging would take the stock launcher's namespace, which is not where jobs are to run."""
    said = ((prepared.site.stock_launcher or {}).get("args") or {}).get("namespace", "default")
    return bool(said != prepared.settings.namespace)
