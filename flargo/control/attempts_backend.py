"""What the attempts of a job need from the loop and from FLARE, and whom the loop reports to."""

from collections.abc import Sequence
from typing import Protocol

from flargo.control.launched_job import LaunchedJob
from flargo.control.workers import Task
from flargo.status.job_state import JobState
from flargo.status.verdict import Cause, Verdict
from flargo.status.views import WorkflowView
from flargo.terms import Plan, ServerJob


class Listener(Protocol):
    """Whom the loop tells how an attempt goes on, with the attempt's number."""

    def on_state(self, number: int, state: JobState) -> None:
        """Take a new state of an attempt. Called on the reconciler's thread; does no I/O."""

    def on_verdict(self, number: int, verdict: Verdict, tail: str) -> None:
        """Take the verdict on an attempt, and the end of its log."""


class Backend(Protocol):
    """What the attempts of a job need from the loop and from FLARE. Its methods may do I/O, except ``launch``."""

    def build_plan(self, number: int, loss: Verdict, lost: WorkflowView | None) -> Plan:
        """Return the plan of an attempt after the first, and note that the attempt is about to begin.

        Args:
            number: which attempt it is.
            loss: the verdict on the attempt before.
            lost: the Workflow of the attempt before, whose credentials the new one replaces; None: it was never seen.

        Raises:
            SubmitError: no job may be launched any more.
        """

    def launch(self, listener: Listener, plan: Plan, number: int) -> LaunchedJob:
        """Start to launch an attempt, which reports to ``listener`` with its number, and return at once.

        Raises:
            SubmitError: no job may be launched any more.
        """

    def adopt(self, listener: Listener, number: int) -> LaunchedJob:
        """Follow an attempt that an earlier run of this parent has launched, and return at once.

        Raises:
            SubmitError: the parent is shutting down.
        """

    def stop(self, launched: LaunchedJob, cause: Cause) -> None:
        """Request the end of an attempt, and return at once."""

    def release_secret(self, launched: LaunchedJob) -> None:
        """Let an attempt's credentials be deleted, and return at once. Until then they are kept."""

    def run(self, task: Task, delay: float = 0.0) -> bool:
        """Run a task on another thread, after a delay in seconds; return False if there is none."""

    def probe_server(self) -> ServerJob:
        """Return whether the server's process of the job runs."""

    def read_log(self, state: JobState) -> str:
        """Return the end of an attempt's log, or "" if there is none."""

    def on_lost(self, number: int, verdict: Verdict, tail: str, workflow: WorkflowView | None) -> None:
        """Note that an attempt was lost, and that the next one will be tried."""

    def on_next(self, number: int, pods: tuple[str, ...], workflow: str, lost: WorkflowView | None) -> None:
        """Note that an attempt after the first has begun; ``pods`` of the one before may still run on a lost node.

        Args:
            number: which attempt it is.
            pods: those pods.
            workflow: the name of its Workflow.
            lost: the Workflow of the attempt before.
        """

    def on_end(self, verdict: Verdict, workflow: str, tail: str) -> None:
        """Report the verdict on the job."""

    def note_verdict(self, verdict: Verdict, workflows: Sequence[WorkflowView]) -> None:
        """Note the verdict for people, on the first of these Workflows that exists, and return at once."""
