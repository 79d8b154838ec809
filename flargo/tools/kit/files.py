"""A startup kit as a mapping of paths to bytes, and changes to it. Nothing here reads or writes the disk."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import yaml

from flargo.job.documents import load_json, load_yaml
from flargo.job.validate import MISSING, InvalidInput, Verbatim

Files = Mapping[str, bytes]
"""The files of a kit, by their paths under its root, with forward slashes."""
Modes = Mapping[str, int]
"""The permission bits of files of a kit, by the same paths."""
_SETTING: Final = re.compile(r"^argo\['(\w+)'\]")
NO_MODES: Final[Modes] = MappingProxyType({})
"""Use this where the modes of the files are not known."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file's content before and after; None means that the file does not exist."""

    path: str
    before: bytes | None
    after: bytes | None
    mode: int | None = None
    """An upper limit for the file's permission bits, such as the mode of the file that the content comes from.

    None keeps the mode of an existing file, and gives a new file the usual mode.
    """

    @property
    def verb(self) -> str:
        """The change as a verb for people: create, remove or change."""
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "change"


def prefix_field(source: str, error: InvalidInput) -> InvalidInput:
    """Return the same error, its field prefixed with the file or option that the value comes from."""
    return InvalidInput(f"{source}: {error.field}", Verbatim(error.value), error.allowed)


def name_argo_option(error: InvalidInput) -> InvalidInput:
    """Return the same error, with a setting named as a user writes it: ``--argo queued``, not ``argo['queued']``."""
    field = _SETTING.sub(r"--argo \1", error.field)
    return InvalidInput(field, Verbatim(error.value), error.allowed)


def apply_changes(files: Files, changes: Iterable[Change]) -> dict[str, bytes]:
    """Return a copy of the files with the changes made."""
    result = {**files}
    for change in changes:
        if change.after is None:
            result.pop(change.path, None)
        else:
            result[change.path] = change.after
    return result


def plan_change(files: Files, path: str, after: bytes | None, mode: int | None = None) -> list[Change]:
    """Return the one change that gives a file this content; an empty list if the file has it already."""
    before = files.get(path)
    return [] if before == after else [Change(path, before, after, mode)]


def diff(change: Change, base: tuple[str, bytes] | None = None) -> str:
    """Return a change as a unified diff.

    Args:
        change: the change.
        base: path and content of the file that a new file is an edited copy of; the diff is then against that file.
    """
    old_name, old = f"a/{change.path}", change.before
    if old is None:
        old_name, old = (f"a/{base[0]}", base[1]) if base else ("/dev/null", b"")
    new_name = "/dev/null" if change.after is None else f"b/{change.path}"
    lines = difflib.unified_diff(_lines(old), _lines(change.after or b""), old_name, new_name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def read_json(files: Files, path: str) -> dict[str, Any]:
    """Parse a JSON file that holds an object.

    Raises:
        InvalidInput: the file does not exist, or holds something else.
    """
    return _read_mapping(files, path, "a JSON object", load_json)


def read_yaml(files: Files, path: str) -> dict[str, Any]:
    """Parse a YAML file that holds a mapping.

    Raises:
        InvalidInput: the file does not exist, or holds something else.
    """
    return _read_mapping(files, path, "a YAML mapping", load_yaml)


def _read_mapping(files: Files, path: str, form: str, load: Callable[[str, bytes, str], Any]) -> dict[str, Any]:
    if path not in files:
        raise InvalidInput(path, MISSING, f"a file with {form}")
    document = load(path, files[path], form)
    if not isinstance(document, dict):
        raise InvalidInput(path, document, form)
    return document


def write_json(value: Any, like: bytes | None = None) -> bytes:
    """Return JSON, indented as the file that it replaces; without one by four spaces, as nvflare writes it."""
    second_line = (like or b"").split(b"\n", 2)[1:2]
    indent = len(second_line[0]) - len(second_line[0].lstrip(b" ")) if second_line else 0
    return (json.dumps(value, indent=indent or 4) + "\n").encode()


def write_yaml(value: Any) -> bytes:
    """Return YAML in the style of nvflare's Helm values."""
    return yaml.safe_dump(value, default_flow_style=False, sort_keys=False).encode()


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines(keepends=True)
