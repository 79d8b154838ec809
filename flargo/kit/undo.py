"""How a prepared kit becomes again what it was: the first state of each file, kept in the kit."""

import base64
import hashlib
import json
from typing import Any

from flargo.job.checks import MISSING, Refused, Shown
from flargo.kit.chart import is_staged
from flargo.kit.files import Change, Files, read_json, read_yaml
from flargo.kit.site import VALUES

RECORD = ".flargo/undo.json"
"""At the kit's root: what lies in local/ travels to job pods, and both local/ and startup/ to the cluster."""
_KEYS = {"before", "after"}


def recorded(files: Files, changes: list[Change]) -> list[Change]:
    """The changes, and before them the record of what it takes to undo them all.

    A file that was changed again keeps its first state. One that somebody else has edited since flargo wrote it
    keeps its old hash too, so that `undo` does not throw that edit away.
    """
    if not changes:
        return []
    record = _entries(files)
    for change in changes:
        entry = record.get(change.path)
        if entry is None:
            record[change.path] = {"before": _kept(change.before), "after": _hash(change.after)}
        elif entry["after"] == _hash(change.before):
            entry["after"] = _hash(change.after)
    text = json.dumps({"format_version": 1, "files": record}, indent=2) + "\n"
    return [Change(RECORD, files.get(RECORD), text.encode()), *changes]


def undo(files: Files) -> list[Change]:
    """The changes that make a kit what it was before flargo first prepared it; the record goes last.

    Raises:
        Refused: flargo has not prepared it, or one of its files was edited since.
    """
    if RECORD not in files:
        raise Refused(
            RECORD, MISSING, "the record that `flargo prepare` leaves in a kit; this one was not prepared by it"
        )
    record = _entries(files)
    if VALUES in record and VALUES in files and is_staged(read_yaml(files, VALUES)):
        raise Refused(f"{VALUES}: workspaceConfig", Shown("staged"), "nothing: run `nvflare deploy k8s unstage` first")
    changes = [_restored(files, path, entry) for path, entry in record.items()]
    return [*(each for each in changes if each.before != each.after), Change(RECORD, files[RECORD], None)]


def _restored(files: Files, path: str, entry: dict[str, Any]) -> Change:
    now, before = files.get(path), _unkept(entry["before"])
    if now is not None and now != before and _hash(now) != entry["after"]:
        allowed = "the file as flargo wrote it: keep elsewhere what you want of it, delete it, and undo again"
        raise Refused(path, Shown("edited since"), allowed)
    return Change(path, now, before)


def _entries(files: Files) -> dict[str, dict[str, Any]]:
    if RECORD not in files:
        return {}
    found = read_json(files, RECORD).get("files")
    fine = isinstance(found, dict) and all(isinstance(each, dict) and {*each} >= _KEYS for each in found.values())
    if not fine:
        raise Refused(f"{RECORD}: files", found, "what `flargo prepare` wrote there")
    return dict(found or {})


def _hash(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _kept(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _unkept(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
