"""FLARE's hold on a launched job."""

from collections.abc import Callable

from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode

from flargo.control.launched_job import LaunchedJob
from flargo.status.verdict import Cause


class ArgoJobHandle(JobHandleSpec):  # type: ignore[misc]  # nvflare is untyped
    """Speaks to FLARE of one job; reads its ticket, and asks for its end.

    FLARE calls ``wait`` and then ``poll`` once at a normal end, ``terminate`` none to three times and from any
    thread, and ``poll`` under a lock of its own, so that one never does I/O.
    """

    def __init__(self, ticket: LaunchedJob, stop: Callable[[Cause], None]) -> None:
        """Hold a ticket; ``stop`` asks for the end of this very launch, and returns at once."""
        super().__init__()
        self._ticket = ticket
        self._stop = stop

    def terminate(self) -> None:
        """A person, through FLARE, wants the job ended. Returns at once; ``wait`` ends when it is."""
        self._stop(Cause.ABORT)

    def _terminate_for_heartbeat_cleanup(self) -> None:
        """The job is no longer known to the server (nvflare looks for this name): no abort by a person."""
        self._stop(Cause.CLEANUP)

    def poll(self) -> int:
        """The job's return code; 127 (unknown) as long as there is none."""
        verdict = self._ticket.verdict
        return int(JobReturnCode.UNKNOWN) if verdict is None else verdict.code

    def wait(self) -> None:
        """Return when the program has ended, or is known never to run. Argo may still be tidying up."""
        self._ticket.wait(lambda ticket: ticket.verdict is not None)
