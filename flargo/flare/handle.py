"""The handle through which FLARE waits for a launched job and ends it."""

from collections.abc import Callable

from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode

from flargo.control.launched_job import LaunchedJob
from flargo.status.verdict import Cause


class ArgoJobHandle(JobHandleSpec):  # type: ignore[misc]  # nvflare is untyped
    """FLARE's handle of one job: reads the job's state, and requests its end.

    At a normal end FLARE calls ``wait`` and then ``poll`` once. It calls ``terminate`` up to three times, from any
    thread, and ``poll`` while it holds a lock of its own, so ``poll`` does no I/O.
    """

    def __init__(self, job: LaunchedJob, stop: Callable[[Cause], None]) -> None:
        """Create the handle of a launched job.

        Args:
            job: the job's state, which the loop updates.
            stop: requests the end of this launch, and returns at once.
        """
        super().__init__()
        self._job = job
        self._stop = stop

    def terminate(self) -> None:
        """End the job because a person aborted it. Returns at once; ``wait`` returns when the job has ended."""
        self._stop(Cause.ABORT)

    def _terminate_for_heartbeat_cleanup(self) -> None:
        """End the job because the server no longer knows it, not because a person aborted it.

        nvflare looks for this method's name.
        """
        self._stop(Cause.CLEANUP)

    def poll(self) -> int:
        """Return the job's return code; 127 (unknown) until the job has ended."""
        verdict = self._job.verdict
        return int(JobReturnCode.UNKNOWN) if verdict is None else verdict.code

    @property
    def has_ended(self) -> bool:
        """Return whether the job has its return code."""
        return self._job.verdict is not None

    def wait(self) -> None:
        """Return when the program has ended, or can never run. Argo may still be cleaning up."""
        self._job.wait(lambda job: job.verdict is not None)
