"""Reads the table of kubeconfigs, and writes a row's files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import yaml

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
Object = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A kubeconfig, or several, and the command line and environment with which they are used."""

    name: str
    cluster: Object = field(default_factory=dict)
    """Fields of the cluster ``c``, besides its server and authority. A field that is null is left out."""
    user: Object = field(default_factory=lambda: {"token": "t"})
    """The user ``u``."""
    context: Object = field(default_factory=dict)
    """Fields of the current context ``x``, besides its cluster and user."""
    top: Object = field(default_factory=dict)
    """Further fields of the kubeconfig."""
    files: dict[str, Any] = field(default_factory=dict)
    """Further files by their paths, as text or as a mapping. One that is null is not written."""
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    problem: str = ""
    """Part of flargo's message, where it sends no request."""
    flargo: Object | None = None
    """What flargo does, where that is not the same as kubectl. Empty: it sends no request."""
    why: str = ""
    """Why flargo differs."""


def read_rows() -> list[Row]:
    """Return all rows."""
    documents = yaml.safe_load((HERE / "rows.yaml").read_text())
    return [Row(**{**each, "options": tuple(each.get("options", ()))}) for each in documents]


def read_recorded() -> Object:
    """Return what kubectl did, by the rows' names."""
    recorded: Object = json.loads(RECORDED.read_text())["rows"]
    return recorded


def kubeconfig(row: Row) -> Object:
    """Return a row's main kubeconfig, with placeholders."""
    cluster = {"server": "$main", "certificate-authority-data": "$ca", **row.cluster}
    context = {"cluster": "c", "user": "u", **row.context}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": _without_null(cluster)}],
        "users": [{"name": "u", "user": row.user}],
        "contexts": [{"name": "x", "context": _without_null(context)}],
        "current-context": "x",
        **row.top,
    }


def write_files(row: Row, folder: Path, values: dict[str, str]) -> dict[str, str]:
    """Write a row's files, with placeholders replaced; return the environment that the programs get."""
    for name, content in {"config": kubeconfig(row), **row.files}.items():
        if content is None:
            continue
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(text).safe_substitute(values))
        file.chmod(0o700)
    environment = {"HOME": str(folder), "KUBECONFIG": "config", **row.environment}
    return {key: Template(value).safe_substitute(values) for key, value in environment.items()}


def _without_null(fields: Object) -> Object:
    return {key: value for key, value in fields.items() if value is not None}
