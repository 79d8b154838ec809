"""Writes files of the site's disk."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, *, is_durable: bool = False) -> None:
    """Write a file that exists as a whole or not at all, readable for its owner only; its folder is not created.

    Args:
        path: the file.
        text: its content.
        is_durable: the content must outlive the loss of this machine. Without it, the file may be empty then.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if is_durable:
                file.flush()
                os.fsync(descriptor)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def append_durably(path: Path, text: str) -> None:
    """Append a text to a file, so that it outlives the loss of this machine. A loss meanwhile may leave part of it.

    Raises:
        OSError: the file does not exist, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
