"""The finished Workflows of the parent's earlier runs whose credentials may be left: cleaned one after the other."""

from collections.abc import Container

from flargo.status.views import WorkflowView
from flargo.terms import Uid


class Cleaning:
    """Keeps which Workflows wait to be cleaned and which are being cleaned, and counts those that were."""

    def __init__(self) -> None:
        """Start without any Workflows."""
        self._queued: dict[str, WorkflowView] = {}
        self._running: set[str] = set()
        self._count = 0

    @property
    def has_queued(self) -> bool:
        """Return whether a Workflow waits."""
        return bool(self._queued)

    def queue(self, view: WorkflowView) -> None:
        """Let a Workflow wait until it is cleaned."""
        if view.uid not in self._running:
            self._queued[view.uid] = view

    def keep(self, uids: Container[Uid]) -> None:
        """Let only Workflows with these uids wait."""
        self._queued = {uid: view for uid, view in self._queued.items() if view.uid in uids}

    def unqueue(self, uid: str) -> None:
        """Let a Workflow wait no longer."""
        self._queued.pop(uid, None)

    def begin_next(self) -> WorkflowView:
        """Return the Workflow that has waited longest; it is being cleaned from now on."""
        uid = next(iter(self._queued))
        self._running.add(uid)
        return self._queued.pop(uid)

    def finish(self, uid: str) -> bool:
        """Return whether a Workflow was being cleaned; it no longer is."""
        was_running = uid in self._running
        self._running.discard(uid)
        self._count += was_running
        return was_running

    def take_count(self) -> int:
        """Return how many Workflows were cleaned if none is left, and count from 0 again; else return 0."""
        if self._queued or self._running:
            return 0
        count, self._count = self._count, 0
        return count
