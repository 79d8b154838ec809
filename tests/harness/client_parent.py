"""A client's parent with nvflare's own executor of jobs, and without a network."""

import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import ReturnCode
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.private.fed.client.client_executor import JobExecutor

from tests.harness.differential.cases import JOB_ID
from tests.harness.differential.parent import Cell

if TYPE_CHECKING:
    from collections.abc import Callable


class ClientParent:
    """FLARE's engine in a client's parent, as far as jobs concern it; it notes what the server is told."""

    def __init__(self, root: Path, job_ids: Iterable[str] = (JOB_ID,)) -> None:
        """Create the parent, with the run directories of these jobs in its workspace."""
        self.workspace = str(root)
        for job_id in job_ids:
            (root / job_id).mkdir(exist_ok=True)
        self.reports: list[tuple[str, int]] = []
        self.completed = threading.Event()
        self.completed_job = ""
        self.on_completed: Callable[[FLContext], None] = lambda _: None
        """Called with the event that a job has ended, as FLARE's components are."""
        self.client = SimpleNamespace(client_name="site-1", send_request_before_shutdown=self._report)
        self.client_executor = JobExecutor(self.client, "")
        self.cell = Cell("site-1")

    def _report(self, request: Message, **_: Any) -> Message:
        self.reports.append((request.payload["job_id"], request.payload["code"]))
        return make_reply(ReturnCode.OK)

    def new_context(self) -> FLContext:
        context = FLContext()
        context.set_prop(ReservedKey.ENGINE, self, private=True, sticky=False)
        return context

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        assert event_type == EventType.JOB_COMPLETED
        self.completed_job = fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID)
        self.on_completed(fl_ctx)
        self.completed.set()

    @property
    def jobs(self) -> list[str]:
        """The jobs that the parent names in its heartbeats."""
        jobs: list[str] = self.client_executor.get_run_processes_keys()
        return jobs
