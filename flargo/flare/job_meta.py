"""Reads the metadata of a job that is not submitted yet, as FLARE's server reads it when the job is.

The server looks for ``meta.json``, ``meta.conf``, ``meta.yml`` and more in the job's folder, and reads the first one
that is there (nvflare/private/fed/server/job_meta_validator.py). It stores the metadata as JSON, so that launchers see
what JSON can hold, whatever the author has written it in.
"""

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from flargo.flare.config_text import load_hocon, load_omegaconf
from flargo.flare.nvflare_internals import config_endings
from flargo.job.documents import load_json, too_deep, unreadable
from flargo.job.validate import InvalidInput, Sentence, Verbatim

MAX_META_BYTES: Final = 4 * 1024 * 1024
_STEM = "meta"
_FORMS = {"JSON": "a JSON object", "PYHOCON": "a HOCON object", "OMEGACONF": "a YAML mapping"}
"""What a file of each of FLARE's formats holds, for messages."""
MAIN_NAMES = "meta.json, meta.conf, meta.yml or meta.yaml"
"""The names that FLARE documents; it also reads them with .default behind."""


def meta_names() -> tuple[str, ...]:
    """Return the names of a job's metadata; FLARE reads the first one that a job folder has."""
    return tuple(_STEM + ending for ending in config_endings())


def find_meta(path: Path) -> Path:
    """Return the file with a job's metadata.

    Args:
        path: a job folder; the file itself in one; or any other file with metadata in JSON.

    Raises:
        InvalidInput: there is no such file, or FLARE would read another file of the same job.
    """
    names = meta_names()
    if not path.is_dir() and path.name not in names and path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None or not (path.is_dir() or path.is_file()):
        problem = f"has no {MAIN_NAMES}: name one, or the folder with it"
        raise InvalidInput(str(path), Verbatim("no job"), Sentence(problem))
    if not path.is_dir() and path.name != file.name:
        problem = f"is not what FLARE reads, which is {file.name} in the same folder: remove one of them"
        raise InvalidInput(str(path), Verbatim("not read"), Sentence(problem))
    return file


def read_meta(path: Path) -> dict[str, Any]:
    """Return a job's metadata as FLARE's server stores it. ``path`` is that of ``find_meta``.

    Raises:
        InvalidInput: the file does not exist, is too large, or cannot be read; or FLARE's server could not store it.
    """
    file = find_meta(path)
    config_format = config_endings().get(file.name.removeprefix(_STEM), "JSON")
    source, form = str(file), _FORMS[config_format]
    try:
        text = _read(file).decode()
    except UnicodeDecodeError:
        raise unreadable(source, f"{form} in UTF-8", None) from None
    if config_format == "JSON":
        document = load_json(source, text, form)
    else:
        document = (load_hocon if config_format == "PYHOCON" else load_omegaconf)(source, text)
        document = _to_json(source, document, form)
    if not isinstance(document, dict):
        raise InvalidInput(source, document, form)
    return document


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_META_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read ({os.strerror(error.errno or 0)})"
        raise InvalidInput(str(file), Verbatim("unreadable"), Sentence(problem)) from None
    if len(content) > MAX_META_BYTES:
        raise InvalidInput(str(file), Verbatim("too large a file"), f"at most {MAX_META_BYTES} bytes")
    return content


def _to_json(source: str, document: Any, form: str) -> Any:
    """Return a document as it is after FLARE's server has stored and read it: keys are texts."""
    try:
        for place, value in _other_values(document, ""):
            is_duration = isinstance(value, timedelta) or type(value).__name__ == "relativedelta"
            state = "a duration (HOCON reads 500m as minutes)" if is_duration else f"a {type(value).__name__}"
            raise InvalidInput(f"{source}: {place}", Verbatim(state), 'a value that JSON has: quote it, as in "500m"')
        return load_json(source, json.dumps(document), form)
    except RecursionError:
        raise too_deep(source, form) from None


def _other_values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the values that JSON does not have, and their places as flargo writes them: launcher_spec['default']."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _other_values(each, f"{place}[{key!r}]" if place else str(key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _other_values(each, f"{place}[{number}]")
    elif not isinstance(value, str | int | float | None):
        yield place, value
