"""Runs of a client's parent, one after the other, in front of an API in memory."""

import base64
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager
from nvflare.fuel.f3.message import Message

import flargo
from flargo.cluster.api import Kind
from flargo.flare.heartbeat import FILE, WRITE_SECONDS
from flargo.flare.launch_records import FOLDER
from flargo.flare.nvflare_internals import TOKEN_VARIABLE
from flargo.status.verdict import Cause
from flargo.terms import Object, Role
from tests.harness.client_parent import ClientParent
from tests.harness.differential.cases import IMAGE, JOB_ID
from tests.harness.differential.parent import Parent
from tests.harness.fake_api import THREAD_SECONDS, IdleApi
from tests.harness.objects import RUNNING, pod

META: dict[str, Any] = {
    "job_id": JOB_ID,
    "name": "hearts",
    "launcher_spec": {"default": {"k8s": {"image": IMAGE, "argo": {"rejoin": 2}}}},
}
OTHER: dict[str, Any] = {**META, "job_id": "0ther0j0-0000-4000-8000-000000000000"}
"""Another job."""


class Engine(ClientParent):
    """FLARE's engine, whose contexts hold all that a launcher reads."""

    def __init__(self, root: Path) -> None:
        self.kit = Parent(root, Role.CLIENT)
        super().__init__(root)

    def new_context(self) -> FLContext:
        context = self.kit.context(JOB_ID)
        context.set_prop(ReservedKey.ENGINE, self, private=True, sticky=False)
        context.set_prop(FLContextKey.CLIENT_TOKEN, "a token", private=True, sticky=False)
        return context


class Run:
    """One run of a client's parent."""

    def __init__(self, root: Path, api: IdleApi, **argo: Any) -> None:
        self.root, self.api = root, api
        self.engine = Engine(root)
        self.engine.on_completed = lambda context: self.launcher.handle_event(EventType.JOB_COMPLETED, context)
        settings = {"policy": {"rejoin": 2}, **argo}
        self.launcher = flargo.ClientArgoJobLauncher(workspace_mount_path=str(root), argo=settings)
        self.launcher._api = api
        self.is_alive = True

    def fires(self, *events: str) -> None:
        for event in events:
            self.launcher.handle_event(event, self.engine.new_context())

    def starts(self) -> "Run":
        """Start as FLARE's client does."""
        self.fires(EventType.SYSTEM_BOOTSTRAP, EventType.AFTER_CLIENT_REGISTER, EventType.SYSTEM_START)
        return self

    def launches(self) -> Any:
        handle = self.launcher.launch_job(META, self.engine.new_context())
        assert handle._job.wait(lambda job: job.is_released, THREAD_SECONDS)
        return handle

    def is_killed(self, away: float = 5.0) -> None:
        """End without a trace, so many seconds ago."""
        self.is_alive = False
        if self.launcher._takeover is not None:
            self.launcher._takeover._lease.close(release=False)
            lease = next(item for (kind, _), item in self.api.store.items() if kind is Kind.LEASE)
            ended_at = datetime.now(UTC) - timedelta(seconds=away)
            lease["spec"] |= {"holderIdentity": "", "renewTime": ended_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            lease["metadata"]["managedFields"] = []
            self.launcher._takeover._ending.set()
            beat_at = ended_at - timedelta(seconds=min(away, WRITE_SECONDS))
            (self.root / FILE).write_text(beat_at.isoformat())
        if self.launcher._loop is not None:
            self.launcher._loop._stop_watching.set()
            self.launcher._loop._inputs.put(None)

    def ends(self) -> None:
        self.is_alive = False
        self.fires(EventType.SYSTEM_END)

    @property
    def workflow(self) -> Object:
        """The job's only Workflow."""
        (item,) = [item for (kind, _), item in self.api.store.items() if kind is Kind.WORKFLOW]
        return item

    @property
    def parent(self) -> str:
        """The run that is the Workflow's parent."""
        return str(self.workflow["metadata"]["labels"]["flargo.dev/parent"])

    @property
    def is_own(self) -> bool:
        return bool(self.parent == self.launcher._epoch)

    @property
    def credentials(self) -> Object:
        """The job's credentials Secret."""
        (item,) = [item for (kind, name), item in self.api.store.items() if kind is Kind.SECRET and "cred" in name]
        return item

    @property
    def records(self) -> list[str]:
        folder = self.root / FOLDER
        return sorted(file.name for file in folder.iterdir()) if folder.exists() else []

    def accepts_results(self, token: str) -> bool:
        """Return whether the job's process may deliver its results with a token."""
        manager = WorkspaceTransferManager.get_or_create(self.engine.cell)
        request = Message(payload={"job_id": JOB_ID, "transfer_token": token})
        return manager._authorize(request, "publish_results")[2] is None


class History:
    """The runs of a site's parent."""

    def __init__(self, root: Path) -> None:
        self.root, self.api = root, IdleApi()
        self.runs: list[Run] = []

    def begins(self, **argo: Any) -> Run:
        self.runs.append(Run(self.root, self.api, **argo))
        return self.runs[-1]

    def with_a_running_job(self) -> Run:
        """Return the first run, which is killed while its job runs."""
        first = self.begins().starts()
        first.launches()
        name, uid = first.workflow["metadata"]["name"], first.workflow["metadata"]["uid"]
        node = {"id": name, "type": "Pod", "phase": "Running", "templateName": "job"}
        first.workflow["status"] = {"phase": "Running", "nodes": {name: node}}
        self.api.store[Kind.POD, name] = pod(name, owner=uid, main=RUNNING, phase="Running")
        return first

    @property
    def token(self) -> str:
        """The job's transfer token, as its process has it."""
        return base64.b64decode(self.runs[0].credentials["data"][TOKEN_VARIABLE]).decode()

    def close(self) -> None:
        """End all runs that are alive, and the API."""
        for run in self.runs:
            if run.is_alive and run.launcher._loop is not None:
                if run.launcher._takeover is not None:
                    run.launcher._takeover.close()
                run.launcher._loop.end(Cause.PARENT_END, 0.0)
        self.api.test_ended.set()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + THREAD_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
