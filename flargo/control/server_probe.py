"""Ask whether the server's process of a job still runs, until the answer is clear."""

import threading
from collections.abc import Callable

from flargo.terms import ServerJob

PROBE_SECONDS = 60.0
"""Seconds for which a server that cannot be asked is asked again before an attempt is given up. FLARE's client takes as
long to reconnect (nvflare's ``max_runner_sync_timeout``)."""
PROBE_INTERVAL = 2.0
"""Seconds between two such questions."""
GONE_ANSWERS = 3
"""Answers in a row after which the server's process of the job counts as gone: it may have lost its connection with the
server for a moment."""


def ask_server(probe: Callable[[], ServerJob], stopped: threading.Event, clock: Callable[[], float]) -> ServerJob:
    """Ask for the server's process of a job until the answer is clear, for PROBE_SECONDS at most.

    Args:
        probe: asks once.
        stopped: ends the questions when it is set; the answer is UNKNOWN then.
        clock: returns the current time in seconds.
    """
    last_try_at = clock() + PROBE_SECONDS - PROBE_INTERVAL
    gone_answers = 0
    while True:
        answer = probe()
        gone_answers = gone_answers + 1 if answer is ServerJob.GONE else 0
        if answer is ServerJob.RUNS or gone_answers == GONE_ANSWERS:
            return answer
        if clock() > last_try_at or stopped.wait(PROBE_INTERVAL):
            return ServerJob.UNKNOWN
