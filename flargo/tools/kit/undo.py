"""Restores a prepared kit: `flargo prepare` records the first state of each file in the kit, and --undo reads it.

A kit comes from another institution, and so does the record in it: it is checked like any other input.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from flargo.job.validate import MISSING, InvalidInput, Sentence, Verbatim
from flargo.tools.kit.chart import is_staged
from flargo.tools.kit.files import NO_MODES, Change, Files, Modes, read_json, read_yaml
from flargo.tools.kit.site import CHART_VALUES, WRITTEN_FILES

RECORD = ".flargo/undo.json"
"""The record's path. Files in local/ would travel to job pods, and files in local/ and startup/ to the cluster."""
_RECORD_MODE: Final = 0o600
"""The record holds the content of files that other users may not be allowed to read."""
_HASH = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0[0-7]{3}")


def prepend_record(files: Files, changes: list[Change], modes: Modes = NO_MODES) -> list[Change]:
    """Return the changes, preceded by the change that records how to undo them all.

    A file that was changed before keeps its first state in the record. If somebody else has edited a file since flargo
    wrote it, its old hash stays in the record, so that `undo` does not discard that edit.
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
    """Return the changes that restore a kit to its state before flargo first prepared it; the record goes last.

    Raises:
        InvalidInput: flargo has not prepared the kit, one of the files was edited since, or the record is not flargo's.
    """
    if RECORD not in files:
        problem = "is missing: this kit was not prepared by `flargo prepare`, so there is nothing to undo"
        raise InvalidInput(RECORD, MISSING, Sentence(problem))
    record = _read_record(files)
    if CHART_VALUES in record and CHART_VALUES in files and is_staged(read_yaml(files, CHART_VALUES)):
        problem = "names the cluster's copy of this kit: run `nvflare deploy k8s unstage` first"
        raise InvalidInput(f"{CHART_VALUES}: workspaceConfig", Verbatim("staged"), Sentence(problem))
    changes = [_restore(files, path, entry) for path, entry in record.items()]
    return [*(change for change in changes if change.before != change.after), Change(RECORD, files[RECORD], None)]


def _restore(files: Files, path: str, entry: Mapping[str, Any]) -> Change:
    now, before = files.get(path), _decode(entry["before"])
    if now is not None and now != before and _hash(now) != entry["after"]:
        problem = (
            "was edited after flargo wrote it, and undo would lose that edit: copy what you need, delete the file, "
            "and undo again"
        )
        raise InvalidInput(path, Verbatim("edited since"), Sentence(problem))
    mode = entry.get("mode")  # records of early versions have none
    return Change(path, now, before, None if mode is None else int(mode, 8))


def _read_record(files: Files) -> dict[str, dict[str, Any]]:
    """Return the checked record; empty if the kit has none.

    Raises:
        InvalidInput: the record holds something that flargo would not have written; names the entry.
    """
    if RECORD not in files:
        return {}
    entries = read_json(files, RECORD).get("files")
    if not isinstance(entries, dict):
        raise InvalidInput(f"{RECORD}: files", entries, "an object, as `flargo prepare` writes it")
    for path, entry in entries.items():
        _check_entry(path, entry)
    return dict(entries)


def _check_entry(path: str, entry: Any) -> None:
    field = f"{RECORD}: files[{path!r}]"
    if path not in WRITTEN_FILES:
        problem = f"is not one of the files that flargo writes: {', '.join(sorted(WRITTEN_FILES))}"
        raise InvalidInput(field, Verbatim("another file"), Sentence(problem))
    if not isinstance(entry, dict) or not {"before", "after"} <= {*entry} <= {"before", "after", "mode"}:
        raise InvalidInput(field, Verbatim("something else"), "an object with before, after and mode")
    if not _is_base64(entry["before"]):
        raise InvalidInput(
            f"{field}['before']", Verbatim("something else"), "the file's earlier content in Base64, or null"
        )
    if not _matches(entry["after"], _HASH):
        raise InvalidInput(
            f"{field}['after']", Verbatim("something else"), "a SHA-256 as 64 hexadecimal digits, or null"
        )
    if not _matches(entry.get("mode"), _MODE):
        raise InvalidInput(
            f"{field}['mode']", Verbatim("something else"), "permissions as four octal digits, as in 0644"
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
