"""A kit on the disk: its files read, and changes written."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from flargo.job.checks import Refused, Shown
from flargo.kit.files import Change
from flargo.kit.undo import RECORD

_READ = (
    "startup/fed_*.json",
    "startup/*resources.json",
    "local/*.json",
    "local/*.json.default",
    "local/study_*.yaml",
    "helm_chart/values.yaml",
    "helm_chart/templates/role.yaml",
    "helm_chart/templates/*-deployment.yaml",
    RECORD,
)
"""All that flargo needs of a kit. No key and no certificate."""


def read_kit(root: Path, *, only: bool = False) -> dict[str, bytes]:
    """A kit's files, by their paths under its root.

    Args:
        root: the kit.
        only: nothing is written later. In a parent's pod every file is a symbolic link: Kubernetes mounts so.

    Raises:
        Refused: one is a symbolic link, which would be written through, and which FLARE's staging refuses too.
    """
    found = sorted(path for pattern in _READ for path in root.glob(pattern))
    for path in found:
        if path.is_symlink() and not only:
            raise Refused(str(path), Shown("a symbolic link"), "a file of the kit's own")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found if path.is_file()}


def write(root: Path, changes: Iterable[Change]) -> None:
    """Write changes in their order, each file whole or not at all."""
    for change in changes:
        path = root / change.path
        if change.after is None:
            path.unlink(missing_ok=True)
            if change.path == RECORD:
                path.parent.rmdir()
            continue
        path.parent.mkdir(exist_ok=True)
        _replace(path, change.after)


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".flargo-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if path.exists():
            shutil.copymode(path, temporary)
        else:
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
