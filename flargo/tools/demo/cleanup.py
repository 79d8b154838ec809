"""Cleans a cluster up when the demo was killed: a process of its own, which waits for the demo's end.

Without it Workflows would run on: FLARE's job processes go on for minutes without their parents.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flargo.tools.demo.backend import Cluster

_DONE = b"done"
_PARENTS_SECONDS = 2.0
"""In which the demo's parents are killed, and submit no more."""


@contextlib.contextmanager
def start_cleanup(cluster: Cluster, federation: str, names: tuple[str, ...], left: list[str]) -> Iterator[None]:
    """Clean a cluster up on leaving, and if this process is killed before; what is left is added to ``left``."""
    words = [str(cluster.kubeconfig), cluster.namespace, federation, *names]
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        left += cluster.clean(federation, names)
        child.communicate(_DONE)


def main(kubeconfig: str, namespace: str, federation: str, *names: str) -> None:
    """Wait for the demo's end, and clean up after it unless it says that it has."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    if sys.stdin.buffer.read() == _DONE:
        return
    time.sleep(_PARENTS_SECONDS)
    Cluster(Path(kubeconfig), namespace, embedded=False).clean(federation, names)


if __name__ == "__main__":
    main(*sys.argv[1:])
