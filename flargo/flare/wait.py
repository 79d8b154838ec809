"""Hold a server's launch until its process runs.

FLARE 2.9 registers a server job's process only after launch_job has returned, which sets three limits:

- The process itself gives up after 30 s of being unknown, or is told to abort if its heartbeats come before that.
  So the launch also returns once the process has connected with the parent, whatever the API says or does not say,
  and when the API can no longer be heard once the Workflow is released.
- An abort meanwhile reaches no handle; it only shows in the stored job status.
- One thread launches all jobs of a server, so the wait is bounded: a job that does not run in time is ended, and then
  its launch fails (launcher.py). FLARE starts the clients of every job whose launch returned a handle, even if that
  handle has ended.
"""

import logging
import time
from collections.abc import Callable

from nvflare.apis.fl_constant import SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, RunStatus

from flargo.control.launched_job import LaunchedJob
from flargo.flare.handle import ArgoJobHandle
from flargo.job.plan import SERVER_START_SECONDS
from flargo.status.diagnosis import Stage

MAX_WAIT = SERVER_START_SECONDS + 60.0
"""Seconds, by the wall clock, for which a launch holds up the server's other jobs. A job is ended before that, by a
limit that only runs while the cluster is heard; in the last minute its end is waited for."""
POLL_INTERVAL = 1.0
"""Seconds between looks at the stored status."""
API_SILENCE_LIMIT = 2.0
"""Seconds without the API after which a released Workflow's process is taken to run, if it was seen to have a node."""
API_SILENCE_LIMIT_WITHOUT_NODE = 6.0
"""The same, if it was seen without a node: longer than a watch takes to begin anew, and far less than the 30 s for
which a process that has got a node since puts up with a parent that does not know it."""
_log = logging.getLogger(__name__)


def wait_until_running(
    handle: ArgoJobHandle,
    ticket: LaunchedJob,
    out_of_sync_for: Callable[[], float],
    connected: Callable[[], bool],
    give_up: Callable[[str], None],
    job_id: str,
    fl_ctx: FLContext,
) -> bool:
    """Return when the job's process runs, has ended, was aborted, or has been given up; whether it was given up.

    Args:
        handle: the job's.
        ticket: the job's.
        out_of_sync_for: seconds since the cluster was heard last.
        connected: whether the job's process is connected with the parent.
        give_up: fails the launch with the given reason; the handle then ends even if the API is unreachable.
        job_id: FLARE's.
        fl_ctx: FLARE's, for the stored status.
    """
    limit = time.monotonic() + MAX_WAIT
    while True:
        runs_or_ended = ticket.wait(_runs_or_ended, POLL_INTERVAL)
        # Also of what runs by now: FLARE writes over the aborted status as soon as this returns.
        if ticket.verdict is None and _truth(lambda: _is_aborted(job_id, fl_ctx), ticket.name):
            _log.info("%s: aborted during its launch", ticket.name)
            handle.terminate()
            return False
        if runs_or_ended:
            return False
        if not ticket.is_stopping and _truth(connected, ticket.name):
            _log.info("%s: its process has connected before it was seen to run", ticket.name)
            return False
        if ticket.is_released and not ticket.is_stopping and out_of_sync_for() > _silence_limit(ticket):
            _log.warning("%s: released, but the API is not heard; taken to run", ticket.name)
            return False
        if time.monotonic() > limit:
            _log.warning("%s: not seen to run after %.0f s; given up, for other jobs wait", ticket.name, MAX_WAIT)
            give_up(f"its process was not seen to run within {MAX_WAIT:g} s; {_last_seen(ticket, out_of_sync_for())}")
            handle.wait()
            return True


def _silence_limit(ticket: LaunchedJob) -> float:
    return API_SILENCE_LIMIT if ticket.stage > Stage.TAINTED else API_SILENCE_LIMIT_WITHOUT_NODE


def _last_seen(ticket: LaunchedJob, silence: float) -> str:
    seen = f"it was seen last as {ticket.stage.label}"
    return f"{seen}, and the Kubernetes API has not been heard for {silence:.0f} s" if silence else seen


def _truth(question: Callable[[], bool], name: str) -> bool:
    """The answer of FLARE's; its trouble is no reason to give up a launch, and the next look may be better."""
    try:
        return question()
    except Exception:  # noqa: BLE001
        _log.exception("%s: FLARE could not be asked", name)
        return False


def _runs_or_ended(ticket: LaunchedJob) -> bool:
    # Not the stage ENDED: what is seen of an end still has to be confirmed, and the handle ends with the verdict.
    # Nor a job that runs at last while it is being ended.
    return (ticket.stage is Stage.RUNNING and not ticket.is_stopping) or ticket.verdict is not None


def _is_aborted(job_id: str, fl_ctx: FLContext) -> bool:
    engine = fl_ctx.get_engine()
    manager = engine.get_component(SystemComponents.JOB_MANAGER) if engine is not None else None
    job = manager.get_job(job_id, fl_ctx) if manager is not None else None
    return job is not None and job.meta.get(JobMetaKey.STATUS.value) == RunStatus.FINISHED_ABORTED.value
