"""A client's site whose parent has nvflare's own executor of jobs, so that its next run takes its jobs back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError

from flargo.flare.handle import ArgoJobHandle
from flargo.flare.nvflare_internals import adopt_job
from tests.harness.client_parent import ClientParent
from tests.harness.cluster import Cluster
from tests.harness.site import ConnectedCell, Job, Site

START_EVENTS = (EventType.SYSTEM_BOOTSTRAP, EventType.AFTER_CLIENT_REGISTER, EventType.SYSTEM_START)
"""The events of FLARE with which a client's parent starts, in their order."""


class ExecutorSite(Site):
    """A run of a client's parent. The next run is another object with the same ``root``, usually in another process."""

    def __init__(self, cluster: Cluster, root: Path, *, argo: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Set up the parent; it takes nothing back before ``start``.

        Args:
            cluster: where jobs run.
            root: the parent's workspace, which its runs share.
            argo: further settings of the launcher's ``argo``.
            more: further arguments of ``Site``.
        """
        super().__init__(cluster, root=root, argo=argo, **more)

    def start(self) -> str:
        """Start as FLARE's client does; return why the client has to end instead, or ""."""
        try:
            for event in START_EVENTS:
                self.launcher.handle_event(event, self._engine.new_context())
        except UnsafeComponentError as error:
            return str(error)
        return ""

    @property
    def has_begun(self) -> bool:
        """True once all jobs of the earlier run are taken back that can be, and jobs may be launched."""
        takeover = self.launcher._takeover
        return takeover is None or takeover._has_begun.is_set()

    def taken_back(self) -> dict[str, Job]:
        """Return the jobs that this run has taken back, by their ids, also those that have ended since."""
        return {job_id: Job(self, job_id, _returning(handle)) for job_id, handle in self._engine.table.adopted.items()}

    def abort(self, job_id: str) -> None:
        """Abort a job as FLARE's client does, which first gives the process of an adopted job ten seconds to end."""
        self._engine.client_executor.abort_app(job_id)

    def cleanup(self, job_id: str) -> None:
        """End a job as FLARE's client does when the server's heartbeat no longer names it."""
        self._engine.client_executor.abort_app(job_id, heartbeat_cleanup=True)

    def forget(self) -> None:
        """Forget the jobs that have ended."""
        self._engine.table.adopted.clear()
        self._engine.table.own.clear()
        self._engine.reports.clear()

    def _build_engine(self) -> "_Engine":
        cell = _Cell(self.name, self.server_jobs)
        return _Engine(self.root, cell, lambda: self._context("none", ""), self._handle_event)

    def _handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        self.launcher.handle_event(event_type, fl_ctx)

    def _launch(self, meta: dict[str, Any], code: str) -> ArgoJobHandle:
        """Launch a job, and register it with the executor as FLARE's client does."""
        job_id = meta["job_id"]
        (self.root / job_id).mkdir(exist_ok=True)
        handle = super()._launch(meta, code)
        self._engine.table.own.add(job_id)
        adopt_job(self._engine.new_context(), job_id, handle, str(self.root), has_started=False)
        return handle

    def _context(self, job_id: str, code: str) -> FLContext:
        context = super()._context(job_id, code)
        context.set_prop(FLContextKey.CLIENT_TOKEN, "a token", private=True, sticky=False)
        return context


class _Cell(ConnectedCell):
    def fire_and_forget(self, **_: Any) -> None:
        """Send nothing: the programs of these jobs have no cell that could hear of an abort."""


class _Engine(ClientParent):
    """FLARE's engine in a client's parent, whose contexts hold all that a launcher reads."""

    def __init__(
        self,
        root: Path,
        cell: _Cell,
        new_context: Callable[[], FLContext],
        handle_event: Callable[[str, FLContext], None],
    ) -> None:
        super().__init__(root, job_ids=())
        self._handle_event = handle_event
        self.cell = self.client.cell = cell
        self.new_context = new_context  # type: ignore[method-assign]
        self.table = self.client_executor.run_processes = _JobTable()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().fire_event(event_type, fl_ctx)
        self._handle_event(event_type, fl_ctx)


class _JobTable(dict[str, dict[str, Any]]):
    """The executor's table of jobs. The executor removes a job that has ended, perhaps at once."""

    def __init__(self) -> None:
        super().__init__()
        self.own: set[str] = set()
        """The jobs that this run has launched."""
        self.adopted: dict[str, ArgoJobHandle] = {}
        """The handles of all others."""

    def __setitem__(self, job_id: str, entry: dict[str, Any]) -> None:
        super().__setitem__(job_id, entry)
        if job_id not in self.own:
            self.adopted[job_id] = entry[RunProcessKey.JOB_HANDLE]._job_handle


def _returning(handle: ArgoJobHandle) -> Callable[[], ArgoJobHandle]:
    return lambda: handle
