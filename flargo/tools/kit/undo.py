"""How a prepared kit becomes again what it was: the first state of each file, kept in the kit.

The record is in the kit, and a kit comes from another institution: what it says is checked like any other input.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from flargo.job.validate import MISSING, InvalidInput, Verbatim
from flargo.tools.kit.chart import is_staged
from flargo.tools.kit.files import NO_MODES, Change, Files, Modes, read_json, read_yaml
from flargo.tools.kit.site import CHART_VALUES, WRITTEN_FILES

RECORD = ".flargo/undo.json"
"""At the kit's root: what lies in local/ travels to job pods, and both local/ and startup/ to the cluster."""
_RECORD_MODE: Final = 0o600
"""The record holds the content of files that others may not be allowed to read."""
_HASH = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0[0-7]{3}")


def prepend_record(files: Files, changes: list[Change], modes: Modes = NO_MODES) -> list[Change]:
    """The changes, and before them the record of what it takes to undo them all.

    A file that was changed again keeps its first state. One that somebody else has edited since flargo wrote it
    keeps its old hash too, so that `undo` does not throw that edit away.
    """
    if not changes:
        return []
    record = _read_record(files)
    for change in changes:
        entry = record.get(change.path)
        if entry is None:
            record[change.path] = {"before": _encode(change.before), "after": _hash(change.after)}
            if change.before is not None and change.path in modes:
                record[change.path]["mode"] = f"{modes[change.path]:04o}"
        elif entry["after"] == _hash(change.before):
            entry["after"] = _hash(change.after)
    text = json.dumps({"format_version": 1, "files": record}, indent=2) + "\n"
    return [Change(RECORD, files.get(RECORD), text.encode(), _RECORD_MODE), *changes]


def plan_undo(files: Files) -> list[Change]:
    """The changes that make a kit what it was before flargo first prepared it; the record goes last.

    Raises:
        Refused: flargo has not prepared it, one of its files was edited since, or the record is not flargo's.
    """
    if RECORD not in files:
        raise InvalidInput(
            RECORD, MISSING, "the record that `flargo prepare` leaves in a kit; this one was not prepared by it"
        )
    record = _read_record(files)
    if CHART_VALUES in record and CHART_VALUES in files and is_staged(read_yaml(files, CHART_VALUES)):
        raise InvalidInput(
            f"{CHART_VALUES}: workspaceConfig", Verbatim("staged"), "nothing: run `nvflare deploy k8s unstage` first"
        )
    changes = [_restore(files, path, entry) for path, entry in record.items()]
    return [*(each for each in changes if each.before != each.after), Change(RECORD, files[RECORD], None)]


def _restore(files: Files, path: str, entry: Mapping[str, Any]) -> Change:
    now, before = files.get(path), _decode(entry["before"])
    if now is not None and now != before and _hash(now) != entry["after"]:
        allowed = "the file as flargo wrote it: keep elsewhere what you want of it, delete it, and undo again"
        raise InvalidInput(path, Verbatim("edited since"), allowed)
    mode = entry.get("mode")  # a record of an earlier version has none
    return Change(path, now, before, None if mode is None else int(mode, 8))


def _read_record(files: Files) -> dict[str, dict[str, Any]]:
    """The record, checked; empty where there is none.

    Raises:
        Refused: it says what flargo would not have written there; names the entry.
    """
    if RECORD not in files:
        return {}
    found = read_json(files, RECORD).get("files")
    if not isinstance(found, dict):
        raise InvalidInput(f"{RECORD}: files", found, "what `flargo prepare` wrote there")
    for path, entry in found.items():
        _check_entry(path, entry)
    return dict(found)


def _check_entry(path: str, entry: Any) -> None:
    where = f"{RECORD}: files[{path!r}]"
    if path not in WRITTEN_FILES:
        raise InvalidInput(
            where, Verbatim("another file"), f"one of those that flargo writes: {', '.join(sorted(WRITTEN_FILES))}"
        )
    if not isinstance(entry, dict) or not {"before", "after"} <= {*entry} <= {"before", "after", "mode"}:
        raise InvalidInput(where, Verbatim("of another shape"), "an object with before, after and mode")
    if not _is_base64(entry["before"]):
        raise InvalidInput(
            f"{where}['before']", Verbatim("something else"), "the file's earlier content in Base64, or null"
        )
    if not _matches(entry["after"], _HASH):
        raise InvalidInput(
            f"{where}['after']", Verbatim("something else"), "a SHA-256 as 64 hexadecimal digits, or null"
        )
    if not _matches(entry.get("mode"), _MODE):
        raise InvalidInput(
            f"{where}['mode']", Verbatim("something else"), "permissions as four octal digits, as in 0644"
        )


def _is_base64(value: Any) -> bool:
    if value is None:
        return True
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except ValueError:
        return False


def _matches(value: Any, pattern: re.Pattern[str]) -> bool:
    return value is None or (isinstance(value, str) and pattern.fullmatch(value) is not None)


def _hash(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _encode(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decode(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
