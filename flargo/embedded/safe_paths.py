"""Creates files, folders and links below a folder, and never outside of it.

A path with ``..`` is refused, and no link is followed on the way. Each folder is opened relative to the descriptor of
its parent, so a link that appears meanwhile is not followed either.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_folder(root: Path, relative: str) -> Path:
    """Create a folder below ``root`` with its parents; existing folders are kept.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: a part of the path is a link or a file.
    """
    parts = _split(relative)
    with _open_folder(root, parts):
        return root.joinpath(*parts)


def write(root: Path, relative: str, content: bytes, mode: int) -> None:
    """Create a file below ``root``, with its parents.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: the file exists, or a parent is a link or a file.
    """
    *folders, name = _split(relative) or [""]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _open_folder(root, folders) as folder, os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)


def link(root: Path, relative: str, target: Path) -> None:
    """Create a link below ``root``, with its parents, to a folder that may be anywhere.

    Raises:
        ValueError: the path would lead out of ``root``.
        OSError: the path exists, or a parent is a link or a file.
    """
    *folders, name = _split(relative) or [""]
    with _open_folder(root, folders) as folder:
        os.symlink(target, name, dir_fd=folder)


def _split(relative: str) -> list[str]:
    parts = [part for part in relative.split("/") if part not in {"", "."}]
    if relative.startswith("/") or ".." in parts:
        raise ValueError("a path leads out of its folder")
    return parts


@contextlib.contextmanager
def _open_folder(root: Path, folders: list[str]) -> Iterator[int]:
    """Open a folder below ``root``, creating it and its parents if needed, and yield its descriptor."""
    folder = os.open(root, _OPEN_FLAGS)
    try:
        for name in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
            inner = os.open(name, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)
