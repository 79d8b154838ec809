"""A kit as files in memory, and what is changed in it."""

import difflib
import json
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
NO_MODES: Final[Modes] = MappingProxyType({})
"""Nothing is known of the modes."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file as it is and as it is to be; None: it is not there."""

    path: str
    before: bytes | None
    after: bytes | None
    mode: int | None = None
    """Permission bits that the file may have at most, such as those of the file that its content is from; None: those
    that it has, or of a new file the usual ones."""

    @property
    def verb(self) -> str:
        """What happens to the file."""
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "change"


def prefix_field(where: str, refused: InvalidInput) -> InvalidInput:
    """The same refusal, with the file or option that the value came from."""
    return InvalidInput(f"{where}: {refused.field}", Verbatim(refused.value), refused.allowed)


def apply_changes(files: Files, changes: Iterable[Change]) -> dict[str, bytes]:
    """The files after the changes."""
    made = {**files}
    for change in changes:
        if change.after is None:
            made.pop(change.path, None)
        else:
            made[change.path] = change.after
    return made


def plan_change(files: Files, path: str, after: bytes | None, mode: int | None = None) -> list[Change]:
    """The change that makes a file so; none if it is so already."""
    before = files.get(path)
    return [] if before == after else [Change(path, before, after, mode)]


def diff(change: Change, like: tuple[str, bytes] | None = None) -> str:
    """A change as a unified diff; ``like`` names the file that a new one is an edited copy of."""
    old_name, old = f"a/{change.path}", change.before
    if old is None:
        old_name, old = (f"a/{like[0]}", like[1]) if like else ("/dev/null", b"")
    new_name = "/dev/null" if change.after is None else f"b/{change.path}"
    lines = difflib.unified_diff(_lines(old), _lines(change.after or b""), old_name, new_name)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def read_json(files: Files, path: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        Refused: it is not there, or is something else.
    """
    return _read_mapping(files, path, "a JSON object", load_json)


def read_yaml(files: Files, path: str) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        Refused: it is not there, or is something else.
    """
    return _read_mapping(files, path, "a YAML mapping", load_yaml)


def _read_mapping(files: Files, path: str, allowed: str, load: Callable[[str, bytes, str], Any]) -> dict[str, Any]:
    if path not in files:
        raise InvalidInput(path, MISSING, f"a file with {allowed}")
    found = load(path, files[path], allowed)
    if not isinstance(found, dict):
        raise InvalidInput(path, found, allowed)
    return found


def write_json(value: Any, like: bytes | None = None) -> bytes:
    """JSON with the indentation of the file that it takes the place of, else nvflare's four."""
    second = (like or b"").split(b"\n", 2)[1:2]
    indent = len(second[0]) - len(second[0].lstrip(b" ")) if second else 0
    return (json.dumps(value, indent=indent or 4) + "\n").encode()


def write_yaml(value: Any) -> bytes:
    """YAML as nvflare writes its Helm values."""
    return yaml.safe_dump(value, default_flow_style=False, sort_keys=False).encode()


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines(keepends=True)
