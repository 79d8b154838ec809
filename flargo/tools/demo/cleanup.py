"""Cleans up the cluster even if the demo is killed: a separate process waits for the demo's end.

Without it Workflows would continue to run: FLARE's job processes run for minutes without their parents.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flargo.tools.demo.backend import ClusterNamespace

_CLEANUP_DONE = b"done"
_PARENT_EXIT_SECONDS = 2.0
"""The time in which the reaper kills the demo's parents, so that they submit no more Workflows."""


@contextlib.contextmanager
def start_cleanup(
    cluster: ClusterNamespace, federation: str, names: tuple[str, ...], problems: list[str]
) -> Iterator[None]:
    """Clean up the cluster when the context ends, and also if this process is killed before.

    Args:
        cluster: the namespace of the federation's jobs.
        federation: the federation's id, as its objects are labelled.
        names: the names of the server and the sites.
        problems: gets a message for each object that could not be deleted.
    """
    argv = [str(cluster.kubeconfig), cluster.namespace, federation, *names]
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        problems += cluster.clean_up(federation, names)
        child.communicate(_CLEANUP_DONE)


def main(kubeconfig: str, namespace: str, federation: str, *names: str) -> None:
    """Wait for the demo's end, and clean up the cluster unless the demo reports that it has done so."""
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    if sys.stdin.buffer.read() == _CLEANUP_DONE:
        return
    time.sleep(_PARENT_EXIT_SECONDS)
    ClusterNamespace(Path(kubeconfig), namespace, embedded=False).clean_up(federation, names)


if __name__ == "__main__":
    main(*sys.argv[1:])
