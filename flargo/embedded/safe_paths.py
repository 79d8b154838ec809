"""Files and folders below a folder, and never outside of it: no ``..``, and no link is followed on the way.

Each folder is opened from the one before by a descriptor, so a link that appears meanwhile is not followed either.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_folder(root: Path, relative: str) -> Path:
    """Make a folder below ``root``, and those on the way to it; those that are there stay.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: something on the way is a link or a file.
    """
    parts = _parts(relative)
    with _opened(root, parts):
        return root.joinpath(*parts)


def write(root: Path, relative: str, content: bytes, mode: int) -> None:
    """Write a new file below ``root``.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: the file is there, or something on the way to it is a link or a file.
    """
    *folders, name = _parts(relative) or [""]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _opened(root, folders) as folder, os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)


def link(root: Path, relative: str, target: Path) -> None:
    """Make a new link below ``root`` to a folder of anywhere.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: the link's place is taken, or something on the way to it is a link or a file.
    """
    *folders, name = _parts(relative) or [""]
    with _opened(root, folders) as folder:
        os.symlink(target, name, dir_fd=folder)


def _parts(relative: str) -> list[str]:
    parts = [part for part in relative.split("/") if part not in {"", "."}]
    if relative.startswith("/") or ".." in parts:
        raise ValueError("a path leads out of its folder")
    return parts


@contextlib.contextmanager
def _opened(root: Path, folders: list[str]) -> Iterator[int]:
    """The descriptor of a folder below ``root``, made if it is not there."""
    folder = os.open(root, _FOLDER)
    try:
        for name in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)
