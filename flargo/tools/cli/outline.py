"""Commands as far as a shell's completion needs them, without the modules that run them.

Those modules take a third of a second to import, and a shell asks after every key. So the commands' parameters are
kept in outline.json, which `make docs` writes from the commands' own parsers.
"""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import click
from click.shell_completion import CompletionItem

FILE = "outline.json"
_VALUES = {"--site": "sites", "--context": "contexts", "--argo": "settings", "JOB": "jobs"}
"""What completes the values of options and arguments."""
_COMMANDS_OF_SITES = {"jobs", "why", "logs", "terminate", "sweep"}
"""The commands whose --site is a site that has jobs on the cluster."""


def describe(name: str, command: click.Command, settings: list[str]) -> list[dict[str, Any]]:
    """Return the outline of a command's parameters, as it is kept in the file.

    Args:
        name: the command's name.
        command: the command.
        settings: the keys of ``--argo``.
    """
    rows = []
    for each in command.params:
        is_option = isinstance(each, click.Option)
        label = max(each.opts, key=len) if is_option else each.human_readable_name.upper()
        row: dict[str, Any] = {"opts": each.opts, "is_option": is_option}
        if isinstance(each, click.Option):
            row |= {"is_flag": each.is_flag, "multiple": each.multiple, "help": (each.help or "").partition(". ")[0]}
        if isinstance(each.type, click.Choice):
            row["choices"] = [*each.type.choices]
        elif isinstance(each.type, click.Path):
            row["path"] = "dir" if not each.type.file_okay else "file"
        elif label in _VALUES and (label != "--site" or name in _COMMANDS_OF_SITES):
            row["values"] = [f"{key}=" for key in settings] if label == "--argo" else _VALUES[label]
        rows.append(row)
    return rows


def load(name: str, summary: str) -> click.Command:
    """Return a command that can be completed, and not run."""
    text = resources.files("flargo.tools.cli").joinpath(FILE).read_text()
    params = [_parameter(row) for row in json.loads(text)[name]]
    return click.Command(name, params=params, help=summary)


def _parameter(row: Mapping[str, Any]) -> click.Parameter:
    kind: Any = None
    if "choices" in row:
        kind = click.Choice(row["choices"])
    elif "path" in row:
        kind = click.Path(file_okay=row["path"] == "file")
    complete = _completer(row.get("values"))
    if not row["is_option"]:
        return click.Argument(row["opts"], type=kind, shell_complete=complete)
    return click.Option(
        row["opts"],
        type=kind,
        is_flag=row["is_flag"],
        multiple=row["multiple"],
        help=row["help"],
        shell_complete=complete,
    )


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(values: str | list[str] | None) -> Completer | None:
    if values is None:
        return None

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if isinstance(values, list):
            found = [(value, "") for value in values]
        else:
            from flargo.tools.cli.completion_values import find_values  # noqa: PLC0415  (slow: asks the cluster)

            found = find_values(values, ctx.params)
        return [CompletionItem(value, help=text or None) for value, text in found if value.startswith(incomplete)]

    return complete
