"""The table of docs/commands.md that sets flargo's options beside those of kubectl and argo.

flargo's column is read from its own parsers, so it cannot be wrong; tests/docs/test_conventions.py asks the other
tools' parsers about their columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from flargo.tools.cli.main import COMMANDS, group


@dataclass(frozen=True, slots=True)
class Convention:
    """What one of the tools' options means, and how each of them spells it."""

    meaning: str
    option: str
    """The long option of flargo's."""
    kubectl: tuple[str, str] | None
    """A command of kubectl's that has the option (`options`: all have it), and its spellings, as the help has them."""
    argo: tuple[str, str] | None
    """The same of argo's."""
    note: str = ""
    """Where flargo differs, or does more."""


CONVENTIONS = (
    Convention("one namespace", "--namespace", ("options", "-n, --namespace"), ("list", "-n, --namespace")),
    Convention("all namespaces", "--all-namespaces", ("get", "-A, --all-namespaces"), ("list", "-A, --all-namespaces")),
    Convention("a kubeconfig", "--kubeconfig", ("options", "--kubeconfig"), ("list", "--kubeconfig")),
    Convention("one of its contexts", "--context", ("options", "--context"), ("list", "--context")),
    Convention("objects with labels", "--selector", ("get", "-l, --selector"), ("list", "-l, --selector")),
    Convention(
        "the format of results",
        "--output",
        ("get", "-o, --output"),
        ("list", "-o, --output"),
        "errors have it too; `--json` is the same as `-o json`",
    ),
    Convention("show changes as they happen", "--watch", ("get", "-w, --watch"), None, "argo: `argo watch WORKFLOW`"),
    Convention("follow a log", "--follow", ("logs", "-f, --follow"), ("logs", "-f, --follow")),
    Convention("only newer lines", "--since", ("logs", "--since"), ("logs", "--since")),
    Convention("only the last lines", "--tail", ("logs", "--tail"), ("logs", "--tail")),
    Convention("change nothing", "--dry-run", ("delete", "--dry-run"), ("submit", "--dry-run")),
)


def listing() -> str:
    """Return the table."""
    rows = ["| what | kubectl | argo | flargo | |", "|---|---|---|---|---|"]
    for row in CONVENTIONS:
        others = [f"`{each[1].replace(', ', '`, `')}`" if each else "" for each in (row.kubectl, row.argo)]
        rows.append(f"| {row.meaning} | {' | '.join(others)} | {_own(row.option)} | {row.note} |")
    return "\n".join(rows)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield flargo's commands by name."""
    flargo = group()
    context = click.Context(flargo)
    for name in COMMANDS:
        command = flargo.get_command(context, name)
        assert command is not None
        yield name, command


def options(command: click.Command) -> dict[str, click.Option]:
    """Return a command's options by their long names."""
    return {max(each.opts, key=len): each for each in command.params if isinstance(each, click.Option)}


def _own(long_name: str) -> str:
    """Return how flargo spells an option, with its values if they are few, and which commands have it."""
    by_command = {name: options(command)[long_name] for name, command in commands() if long_name in options(command)}
    spelling = ", ".join(f"`{each}`" for each in sorted(next(iter(by_command.values())).opts, key=len))
    groups: dict[str, list[str]] = {}
    for name, option in by_command.items():
        values = f": `{'`, `'.join(option.type.choices)}`" if isinstance(option.type, click.Choice) else ""
        groups.setdefault(values, []).append(name)
    return f"{spelling} of " + "; ".join(f"{', '.join(names)}{values}" for values, names in groups.items())
