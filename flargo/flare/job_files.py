"""Reads files in a job's run directory, which the job or its author has written."""

import os
import stat
from pathlib import Path
from typing import Any

from flargo.log_rounds import MAX_NUMBER
from flargo.parsing import load_json

_MAX_CONFIG_BYTES = 1024 * 1024


def read_end(file: Path, max_bytes: int) -> bytes:
    """Return the end of a regular file; empty if it is none.

    The job may have delivered a link to another file, or a FIFO, at which opening would block.

    Raises:
        OSError: the file cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        details = os.fstat(descriptor)
        if not stat.S_ISREG(details.st_mode):
            return b""
        stream.seek(max(0, details.st_size - max_bytes))
        return stream.read(max_bytes)


def read_round_count(run_dir: Path) -> int | None:
    """Return the number of rounds of a server's job; None if its configuration does not say one number.

    Args:
        run_dir: the job's run directory at the server's parent, to which FLARE has deployed the job's application.
    """
    try:
        config = load_json(read_end(run_dir / "app_server" / "config" / "config_fed_server.json", _MAX_CONFIG_BYTES))
    except (OSError, ValueError):
        return None  # the configuration may also be HOCON or YAML
    workflows = config.get("workflows") if isinstance(config, dict) else None
    counts = {_round_count(each) for each in workflows} - {None} if isinstance(workflows, list) else set()
    return counts.pop() if len(counts) == 1 else None


def _round_count(workflow: Any) -> int | None:
    arguments = workflow.get("args") if isinstance(workflow, dict) else None
    count = arguments.get("num_rounds") if isinstance(arguments, dict) else None
    is_count = isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MAX_NUMBER
    return count if is_count else None
