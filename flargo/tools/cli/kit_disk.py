"""Reads and writes a kit's files on disk. No other module does.

A kit comes from another institution, so a path in it may be a link to anywhere on this machine. Every path is
therefore walked from the kit's own directory, component by component, by descriptors that follow no link
(``openat`` with ``O_NOFOLLOW``). A link is read and its target walked in the same way, or refused. So nothing that is
replaced in the meantime can lead outside the kit.
"""

import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final

from flargo.job.validate import InvalidInput, Sentence, Verbatim
from flargo.tools.kit.files import Change
from flargo.tools.kit.site import WRITTEN_FILES
from flargo.tools.kit.undo import RECORD

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""The largest size of one file. The largest that nvflare makes has 40 KB."""
MAX_KIT_BYTES: Final = 16 * 1024 * 1024
"""The largest total size of the files that are read from one kit."""
MAX_ENTRIES: Final = 10_000
"""The most entries of one directory."""
MAX_LINKS: Final = 40
"""The most links on the path to one file; Linux follows as many."""
READ_PATTERNS: Final = (
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
"""All files that flargo needs from a kit: no key and no certificate."""
_WRITABLE: Final = WRITTEN_FILES | {RECORD}
_ROOT_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY_FLAGS: Final = _ROOT_FLAGS | os.O_NOFOLLOW
# Without O_NONBLOCK, opening a FIFO that has replaced the file would wait for a writer.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS: Final = 0o777


class KitReader:
    """Reads files of an open kit, within limits. Paths are relative to the kit, with forward slashes."""

    def __init__(self, root: int, *, follow_links: bool) -> None:
        """Create a reader.

        Args:
            root: the descriptor of the kit's directory.
            follow_links: whether links to files of the same kit are followed; else every link is refused.
        """
        self._root, self._follow_links = root, follow_links
        self._bytes_left = MAX_KIT_BYTES

    def list_names(self, directory: str) -> list[str]:
        """Return the sorted names in a directory; none if there is no such directory.

        Raises:
            InvalidInput: the directory is behind a link that is not followed, or has too many entries.
        """
        with self._open(directory) as descriptor:
            if descriptor is None or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return []
            with os.scandir(descriptor) as entries:
                names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
        if len(names) > MAX_ENTRIES:
            raise InvalidInput(directory, Verbatim("too large a directory"), f"at most {MAX_ENTRIES} entries")
        return sorted(names)

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if there is no such file.

        Raises:
            InvalidInput: the file is not regular, too large, or behind a link that is not followed.
        """
        with self._open(path) as descriptor:
            if descriptor is None:
                return None
            self._count_bytes(path, _regular_status(path, descriptor).st_size)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:  # the file has grown since its size was read
            raise _too_large(path, len(content))
        return content

    def status(self, path: str) -> os.stat_result | None:
        """Return the status of a regular file; None if there is no such file. Its size counts as read.

        Raises:
            InvalidInput: the file is not regular, too large, or behind a link that is not followed.
        """
        with self._open(path) as descriptor:
            if descriptor is None:
                return None
            status = _regular_status(path, descriptor)
        self._count_bytes(path, status.st_size)
        return status

    def _count_bytes(self, path: str, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise _too_large(path, size)
        self._bytes_left -= size
        if self._bytes_left < 0:
            problem = f"makes the kit too large: its files may have at most {MAX_KIT_BYTES} bytes together"
            raise InvalidInput(path, Verbatim("too large"), Sentence(problem))

    @contextmanager
    def _open(self, path: str) -> Iterator[int | None]:
        """Open a file or directory, and give its descriptor; None if there is none."""
        trail = [os.dup(self._root)]
        try:
            exists = self._walk(path, trail)
            yield trail[-1] if exists else None
        finally:
            for descriptor in trail:
                os.close(descriptor)

    def _walk(self, path: str, trail: list[int]) -> bool:
        """Open every component of a path, and append the descriptors to the trail. Return whether the path exists."""
        rest = deque(components(path))
        links = 0
        while rest:
            name = rest.popleft()
            if name == "..":  # comes from a link's target: `components` refuses it in the path itself
                if len(trail) == 1:
                    raise InvalidInput(path, Verbatim("a symbolic link that leaves the kit"), _LINK_ALLOWED)
                os.close(trail.pop())
                continue
            try:
                mode = os.stat(name, dir_fd=trail[-1], follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    links += 1
                    rest.extendleft(reversed(self._link_target(path, name, trail[-1], links)))
                else:
                    flags = _DIRECTORY_FLAGS if rest or stat.S_ISDIR(mode) else _FILE_FLAGS
                    trail.append(_open_regular_or_directory(path, name, mode, flags, trail[-1]))
            except (FileNotFoundError, NotADirectoryError):
                return False
            except OSError as error:
                raise _unreadable(path, error) from None
        return True

    def _link_target(self, path: str, name: str, directory: int, links: int) -> list[str]:
        """Return the components of a link's target."""
        if not self._follow_links:
            raise InvalidInput(path, Verbatim("a symbolic link, or behind one"), "a file of the kit's own")
        if links > MAX_LINKS:
            raise InvalidInput(path, Verbatim("behind too many symbolic links"), f"at most {MAX_LINKS}")
        target = os.readlink(name, dir_fd=directory)
        if target.startswith("/"):
            raise InvalidInput(path, Verbatim("a symbolic link that leaves the kit"), _LINK_ALLOWED)
        return [each for each in target.split("/") if each not in {"", "."}]


_LINK_ALLOWED: Final = "a file of the kit, or a relative link to one"


@contextmanager
def open_kit(root: Path, *, follow_links: bool = False) -> Iterator[KitReader]:
    """Open a kit for reading. The root itself may be a link, since the caller named it.

    Raises:
        OSError: the root cannot be opened.
    """
    with _open_root(root) as descriptor:
        yield KitReader(descriptor, follow_links=follow_links)


def read_kit(root: Path, *, follow_links: bool = False) -> dict[str, bytes]:
    """Return the content of a kit's files, by their paths under its root.

    Args:
        root: the kit.
        follow_links: follow links to files of the same kit. Kubernetes mounts ConfigMaps and Secrets with such links.
            Only for commands that write nothing: a file behind a link is not the kit's own to be changed.

    Raises:
        InvalidInput: a file is behind a link that is not followed, is not regular, or is too large.
    """
    with open_kit(root, follow_links=follow_links) as kit:
        contents = {path: kit.read(path) for path in _matching_paths(kit)}
    return {path: content for path, content in contents.items() if content is not None}


def read_modes(root: Path, paths: Iterable[str]) -> dict[str, int]:
    """Return the permission bits of a kit's files. Links are not followed, and paths that do not exist are left out.

    Raises:
        InvalidInput: a file is behind a link, or is not regular.
    """
    with open_kit(root) as kit:
        statuses = {path: kit.status(path) for path in paths}
    return {path: status.st_mode & _PERMISSIONS for path, status in statuses.items() if status is not None}


def write(root: Path, changes: Iterable[Change]) -> None:
    """Write changes in their order, each file whole or not at all. No link is followed, in any component.

    A changed file keeps its mode and, where that is allowed, its owner; ``Change.mode`` can only narrow the mode.

    Raises:
        ValueError: a change is to a file that flargo never writes. Nothing has been written then.
        InvalidInput: a directory in the path is a link or not a directory, or the file itself is a link.
    """
    changes = [*changes]
    for change in changes:
        if change.path not in _WRITABLE:
            raise ValueError(f"not a file that flargo writes: {change.path!r}")
    with _open_root(root) as kit:
        for change in changes:
            _apply(kit, change)


def components(path: str) -> list[str]:
    """Split a path below a kit into its components.

    Raises:
        InvalidInput: the path is absolute, or could lead out of the kit.
    """
    names = path.split("/")
    if any(each in {"", ".", ".."} or "\0" in each for each in names):
        raise InvalidInput("path in the kit", path, "a relative path without empty components, . and ..")
    return names


def _matching_paths(kit: KitReader) -> Iterator[str]:
    """Yield the paths in a kit that match ``READ_PATTERNS``."""
    for pattern in READ_PATTERNS:
        directory, _, name = pattern.rpartition("/")
        yield from (f"{directory}/{each}" for each in kit.list_names(directory) if fnmatchcase(each, name))


@contextmanager
def _open_root(root: Path) -> Iterator[int]:
    descriptor = os.open(root, _ROOT_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_regular_or_directory(path: str, name: str, mode: int, flags: int, directory: int) -> int:
    # Opening a device can have effects, so the file's type is checked before.
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _not_regular(path)
    return os.open(name, flags, dir_fd=directory)


def _regular_status(path: str, descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    return status


def _apply(kit: int, change: Change) -> None:
    *directories, name = components(change.path)
    try:
        directory = _open_parent(kit, directories, create=change.after is not None)
    except FileNotFoundError:
        if change.after is not None:
            raise
        return  # the file is to be removed, and even its directory does not exist
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        raise InvalidInput(
            change.path, Verbatim("behind a symbolic link or a file"), "a file in the kit's own directories"
        ) from None
    try:
        if change.after is None:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        else:
            _replace(directory, name, change, change.after)
    finally:
        os.close(directory)
    if change.path == RECORD and change.after is None:
        with suppress(OSError):  # the directory contains another file
            os.rmdir(directories[0], dir_fd=kit)


def _open_parent(kit: int, names: list[str], *, create: bool) -> int:
    directory = os.dup(kit)
    try:
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=directory)
            inner = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
            os.close(directory)
            directory = inner
    except BaseException:
        os.close(directory)
        raise
    return directory


def _replace(directory: int, name: str, change: Change, content: bytes) -> None:
    """Write a new file next to the old one, and rename it to the old one's name."""
    allowed_bits = _PERMISSIONS if change.mode is None else change.mode
    old_status = _old_status(directory, name, change.path)
    temporary = f".flargo-{secrets.token_hex(8)}"
    # The umask applies to the mode of a new file, but not to that of a file that exists.
    mode = 0o600 if old_status is not None else 0o666 & allowed_bits
    descriptor = os.open(temporary, _NEW_FILE_FLAGS, mode, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _set_owner(descriptor, old_status, directory)
            if old_status is not None:
                os.fchmod(descriptor, old_status.st_mode & _PERMISSIONS & allowed_bits)
            file.write(content)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _old_status(directory: int, name: str, path: str) -> os.stat_result | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular(path)
    return status


def _set_owner(descriptor: int, old_status: os.stat_result | None, directory: int) -> None:
    """Give a file the owner of the file that it replaces. A new file of root's gets the owner of its directory."""
    if old_status is None and os.geteuid() != 0:
        return
    owner = old_status or os.fstat(directory)
    with suppress(PermissionError):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _not_regular(path: str) -> InvalidInput:
    return InvalidInput(path, Verbatim("a symbolic link, a directory or a device"), "a regular file")


def _too_large(path: str, size: int) -> InvalidInput:
    return InvalidInput(path, Verbatim(f"a file of {size} bytes"), f"at most {MAX_FILE_BYTES} bytes")


def _unreadable(path: str, error: OSError) -> InvalidInput:
    problem = os.strerror(error.errno) if error.errno else "an I/O error"
    return InvalidInput(path, Verbatim("unreadable"), Sentence(f"cannot be read: {problem}"))
