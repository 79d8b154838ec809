"""Waits until the process of a server's job runs.

FLARE 2.9 registers a server job's process only after launch_job has returned, which sets three limits:

- The process gives up after 30 s of being unknown to the parent, or is told to abort if its heartbeats arrive earlier.
  So the launch also returns once the process has connected with the parent, whatever the API server reports, and once
  the API server is silent after the Workflow was released.
- An abort during the wait reaches no handle; it only shows in the stored job status.
- One thread launches all jobs of a server, so the wait is limited: a job that does not run in time is ended, and then
  its launch fails (launcher.py). FLARE starts the clients of every job whose launch returned a handle, even if that
  handle has ended.
"""

import logging
import time
from collections.abc import Callable, Mapping

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus

from flargo.control.launched_job import LaunchedJob
from flargo.flare.final_status import read_status
from flargo.flare.handle import ArgoJobHandle
from flargo.job.plan import SERVER_START_SECONDS
from flargo.status.diagnosis import Stage

MAX_WAIT = SERVER_START_SECONDS + 60.0
"""Seconds of wall-clock time for which a launch may block the server's other jobs. A job is ended earlier, by a limit
that only counts time with contact to the API server; the last minute is for its end."""
POLL_INTERVAL = 1.0
"""Seconds between checks of the stored job status."""
_LIMIT_IF_RUNNING, _LIMIT_IF_STARTING, _LIMIT_IF_WAITING = 2.0, 6.0, 20.0
API_SILENCE_LIMITS: Mapping[Stage, float] = {
    Stage.ABSENT: _LIMIT_IF_STARTING,
    Stage.SUBMITTED: _LIMIT_IF_STARTING,
    Stage.UNCLAIMED: _LIMIT_IF_WAITING,
    Stage.QUEUED: _LIMIT_IF_WAITING,
    Stage.QUOTA: _LIMIT_IF_WAITING,
    Stage.WAITING: _LIMIT_IF_STARTING,
    Stage.SHORTAGE: _LIMIT_IF_WAITING,
    Stage.TAINTED: _LIMIT_IF_WAITING,
    Stage.STARTING: _LIMIT_IF_STARTING,
    Stage.PULLING: _LIMIT_IF_WAITING,
    Stage.RUNNING: _LIMIT_IF_RUNNING,
    Stage.ENDED: _LIMIT_IF_RUNNING,
}
"""Seconds without contact to the API server after which a released Workflow's process is assumed to run, by the job's
last known stage. A pod that has just got its node, or gets one unseen, runs within seconds; but it may also pull an
image, which only events show, and those are listed later. Six seconds are more than a watch takes to start again. A job
that waits for something, such as an image, a lock or a GPU, hardly starts just then; if it does, its process connects
with the parent, which ends the wait. All limits are below the 30 s after which a process gives up if its parent does
not know it."""
_log = logging.getLogger(__name__)


def wait_until_running(
    handle: ArgoJobHandle,
    job: LaunchedJob,
    seconds_out_of_sync: Callable[[], float],
    is_connected: Callable[[], bool],
    give_up: Callable[[str], None],
    job_id: str,
    fl_ctx: FLContext,
) -> bool:
    """Wait until a job's process runs, or the job has ended, was aborted, or was given up.

    Args:
        handle: the job's handle.
        job: the job's state.
        seconds_out_of_sync: returns the seconds since the watches of the cluster were last in sync; 0 if they are.
        is_connected: returns True if the job's process is connected with the parent.
        give_up: fails the launch with the given reason; the handle then ends even if the API server is unreachable.
        job_id: FLARE's id of the job.
        fl_ctx: FLARE's context, to read the stored job status.

    Returns:
        True if the job was given up.
    """
    limit = time.monotonic() + MAX_WAIT
    while True:
        is_over = job.wait(_runs_or_ended, POLL_INTERVAL)
        # Checked even if the process runs: FLARE overwrites the aborted status as soon as the launch returns.
        if job.verdict is None and _ask_flare(lambda: _is_aborted(job_id, fl_ctx), job.name):
            _log.info("%s: aborted during its launch", job.name)
            handle.terminate()
            return False
        if is_over:
            return False
        if not job.is_stopping and _ask_flare(is_connected, job.name):
            _log.info("%s: its process connected to the parent before the pod was seen running", job.name)
            return False
        if job.is_released and not job.is_stopping and seconds_out_of_sync() > API_SILENCE_LIMITS[job.stage]:
            _log.warning("%s: released, but the Kubernetes API is silent; assuming that the job runs", job.name)
            return False
        if time.monotonic() > limit:
            _log.warning("%s: not running after %.0f s; launch given up, since other jobs wait", job.name, MAX_WAIT)
            last_state = _describe_last_state(job, seconds_out_of_sync())
            give_up(f"its process was not seen running within {MAX_WAIT:g} s; {last_state}")
            handle.wait()
            return True


def _describe_last_state(job: LaunchedJob, silence: float) -> str:
    state = f"its last known state is {job.stage.label}"
    return f"{state}, and the Kubernetes API has been silent for {silence:.0f} s" if silence else state


def _ask_flare(question: Callable[[], bool], name: str) -> bool:
    """Return FLARE's answer, or False if it raises: the next poll may succeed, and the launch need not fail."""
    try:
        return question()
    except Exception:  # noqa: BLE001
        _log.exception("%s: FLARE raised an exception when asked about the job", name)
        return False


def _runs_or_ended(job: LaunchedJob) -> bool:
    # The stage ENDED does not count: an observed end is confirmed first, and the handle ends with the verdict.
    # Neither does a job that starts to run while it is being ended.
    return (job.stage is Stage.RUNNING and not job.is_stopping) or job.verdict is not None


def _is_aborted(job_id: str, fl_ctx: FLContext) -> bool:
    return read_status(job_id, fl_ctx) == str(RunStatus.FINISHED_ABORTED.value)
