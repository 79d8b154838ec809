"""What flargo does with nvflare's internals: probes of the server's process of a job, and adoption of running jobs."""

import inspect
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.job_launcher_spec import JobHandleSpec
from nvflare.app_opt.job_launcher import workspace_cell_transfer
from nvflare.app_opt.job_launcher.workspace_cell_transfer import WorkspaceTransferManager
from nvflare.fuel.f3.cellnet import cell, core_cell, defs, net_agent
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode, ReturnReason
from nvflare.fuel.f3.cellnet.utils import make_reply
from nvflare.fuel.f3.message import Message
from nvflare.private.fed.client import client_executor
from nvflare.private.fed.client.client_executor import JobExecutor
from nvflare.private.fed.server.fed_server import FederatedServer

from flargo.flare.launch_records import FOLDER
from flargo.flare.nvflare_internals import (
    HEART_BEAT_TIMEOUT,
    PROBE_SECONDS,
    AdoptionError,
    ServerJobProbe,
    WorkspaceTransfer,
    adopt_job,
    find_changes,
    find_probe_changes,
)
from flargo.terms import ServerJob
from tests.harness.client_parent import ClientParent
from tests.harness.differential.cases import JOB_ID

TARGET = f"server.{JOB_ID}"


def reply(code: str, origin: str | None = None, reason: str | None = None) -> Message:
    """Return a reply as nvflare's cells build it: one of the cell's own has no origin."""
    message: Message = make_reply(code)
    headers = {MessageHeaderKey.ORIGIN: origin, MessageHeaderKey.RETURN_REASON: reason}
    message.add_headers({key: value for key, value in headers.items() if value is not None})
    return message


def probe(answer: Any) -> ServerJob:
    """Probe with a cell that gives an answer, or raises it."""

    def send_request(**_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return ServerJobProbe(SimpleNamespace(core_cell=SimpleNamespace(send_request=send_request)), JOB_ID).probe()


def test_an_answer_of_the_process_means_it_runs() -> None:
    assert probe(reply(ReturnCode.OK, TARGET)) is ServerJob.RUNS


def test_the_servers_return_means_the_process_is_gone() -> None:
    """The server cannot forward the request, because no such cell is connected to it."""
    assert probe(reply(ReturnCode.COMM_ERROR, "server", ReturnReason.CANT_FORWARD)) is ServerJob.GONE


@pytest.mark.parametrize(
    "answer",
    [
        reply(ReturnCode.TIMEOUT),
        reply(ReturnCode.TARGET_UNREACHABLE),  # this parent has lost the server
        reply(ReturnCode.COMM_ERROR),  # this parent's own cell could not send
        reply(ReturnCode.COMM_ERROR, "relay-1", ReturnReason.CANT_FORWARD),  # the relay has lost the server
        reply(ReturnCode.UNAUTHENTICATED, "server", ReturnReason.INTERCEPT),  # the server does not know this client
        reply(ReturnCode.PROCESS_EXCEPTION, TARGET),
        reply(ReturnCode.OK, "server"),
        RuntimeError("Messenger is not running"),
        AttributeError("core_cell"),
        None,
    ],
    ids=range(10),
)
def test_anything_else_is_unknown(answer: object) -> None:
    """An attempt must not be given up because of a lost connection."""
    assert probe(answer) is ServerJob.UNKNOWN


def test_a_probe_is_bounded_and_silent() -> None:
    """Cells log failed requests as errors unless they are optional."""
    requests: list[dict[str, Any]] = []
    cell = SimpleNamespace(core_cell=SimpleNamespace(send_request=lambda **request: requests.append(request)))
    ServerJobProbe(cell, JOB_ID).probe()
    (request,) = requests
    assert (request["target"], request["timeout"], request["optional"]) == (TARGET, PROBE_SECONDS, True)
    assert PROBE_SECONDS <= 5


class Handle(JobHandleSpec):  # type: ignore[misc]  # nvflare is untyped
    """A job's handle, which notes how FLARE ends it."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.ends: list[str] = []
        self.has_ended = threading.Event()

    def terminate(self) -> None:
        self.ends.append("abort")
        self.has_ended.set()

    def _terminate_for_heartbeat_cleanup(self) -> None:
        self.ends.append("cleanup")
        self.has_ended.set()

    def poll(self) -> int:
        return self.code

    def wait(self) -> None:
        self.has_ended.wait(10)


def adopt(parent: ClientParent, handle: Handle, *, has_started: bool = True) -> None:
    adopt_job(parent.new_context(), JOB_ID, handle, parent.workspace, has_started=has_started)


@pytest.fixture
def parent(tmp_path: Path) -> ClientParent:
    return ClientParent(tmp_path)


@pytest.fixture
def handle() -> Iterator[Handle]:
    handle = Handle(0)
    yield handle
    handle.has_ended.set()


@pytest.mark.parametrize(("code", "has_started", "reported"), [(0, True, 0), (1, True, 101), (1, False, 104)])
def test_an_adopted_jobs_end_is_reported(code: int, has_started: bool, reported: int, parent: ClientParent) -> None:  # noqa: FBT001
    """FLARE tells the server the return code, as for a job that this parent has launched."""
    handle = Handle(code)
    adopt(parent, handle, has_started=has_started)
    assert parent.jobs == [JOB_ID]
    handle.has_ended.set()
    assert parent.completed.wait(10)
    assert (parent.reports, parent.jobs, parent.completed_job) == ([(JOB_ID, reported)], [], JOB_ID)


@pytest.mark.parametrize(("is_cleanup", "end"), [(False, "abort"), (True, "cleanup")])
def test_an_adopted_job_can_be_aborted(is_cleanup: bool, end: str, parent: ClientParent, handle: Handle) -> None:  # noqa: FBT001
    """A job that the server no longer runs ends through the heartbeat, which is not a person's abort."""
    adopt(parent, handle, has_started=False)
    parent.client_executor.abort_app(JOB_ID, heartbeat_cleanup=is_cleanup)
    assert handle.ends == [end]


def test_an_adopted_job_is_started_for_flare(parent: ClientParent, handle: Handle) -> None:
    """FLARE asks a started process to end before it terminates the handle."""
    adopt(parent, handle)
    assert parent.client_executor.check_status(JOB_ID) == "started"
    assert parent.client_executor.run_processes[JOB_ID][RunProcessKey.JOB_HANDLE].poll() == 0


def test_a_job_is_adopted_once(parent: ClientParent, handle: Handle) -> None:
    adopt(parent, handle)
    with pytest.raises(AdoptionError, match="knows job"):
        adopt(parent, Handle(0))


def test_a_restored_transfer_has_the_old_token(parent: ClientParent) -> None:
    """The process presents the token that an earlier run of the parent gave it."""
    transfer = WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace)
    transfer.restore("the old token")
    manager = WorkspaceTransferManager.get_or_create(parent.cell)
    request = Message(payload={"job_id": JOB_ID, "transfer_token": "the old token"})
    record, _, error = manager._authorize(request, "publish_results")
    assert (record.workspace_root, error, transfer.has_results) == (parent.workspace, None, False)
    manager.remove_job(JOB_ID)  # as it does itself when it has extracted the results
    assert transfer.has_results


class Request(threading.Thread):
    """A request of a job's process to the workspace transfer, which may have to wait."""

    def __init__(self, parent: ClientParent, token: str) -> None:
        super().__init__(daemon=True)
        manager, payload = WorkspaceTransferManager.get_or_create(parent.cell), {"job_id": JOB_ID}
        self.message = Message(payload=payload | {"transfer_token": token})
        self.authorize = manager._authorize
        self.record: Any = None
        self.code: str | None = None
        self.start()

    def run(self) -> None:
        self.record, _, error = self.authorize(self.message, "publish_results")
        self.code = None if error is None else error.get_header(MessageHeaderKey.RETURN_CODE)

    @property
    def waits(self) -> bool:
        self.join(0.2)
        return self.is_alive()


@pytest.mark.parametrize(("token", "code"), [("the old token", None), ("another", ReturnCode.UNAUTHENTICATED)])
def test_an_expected_process_waits_for_its_token(token: str, code: str | None, parent: ClientParent) -> None:
    """It asks once, and its job fails if it is refused because the parent has just restarted."""
    transfer = WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace)
    transfer.expect()
    assert not transfer.has_results
    request = Request(parent, token)
    assert request.waits
    transfer.restore("the old token")
    request.join(10)
    assert (request.code, request.record is None) == (code, code is not None)
    transfer.restore("the old token")
    assert Request(parent, token).waits is False
    WorkspaceTransferManager.get_or_create(parent.cell).remove_job(JOB_ID)
    assert transfer.has_results


def test_an_expected_process_that_is_given_up_is_refused(parent: ClientParent) -> None:
    transfer = WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace)
    transfer.expect()
    request = Request(parent, "")
    other = Request(parent, "a token")
    transfer.remove()
    for each in (request, other):
        each.join(10)
        assert each.record is None
    assert WorkspaceTransferManager.get_or_create(parent.cell).jobs == {}


def test_an_expected_process_does_not_wait_for_ever(parent: ClientParent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flargo.flare.nvflare_internals.TOKEN_SECONDS", 0.05)
    WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace).expect()
    request = Request(parent, "a token")
    assert not request.waits
    assert request.code == ReturnCode.UNAUTHENTICATED


def test_a_launch_replaces_an_expected_process(parent: ClientParent) -> None:
    """FLARE launches the job anew; the earlier launch's registration must not remove that of the later one."""
    first, later = (WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace) for _ in range(2))
    first.expect()
    later.register()
    first.remove()
    assert list(WorkspaceTransferManager.get_or_create(parent.cell).jobs) == [JOB_ID]
    assert not later.has_results


def test_job_pods_do_not_get_the_records_of_launches(tmp_path: Path) -> None:
    """A job's process gets the folder ``local`` and its own run directory, and its results may only go there."""
    folder = tmp_path / FOLDER
    for file in (folder / "other.json", tmp_path / "local" / "log.json", tmp_path / "job-1" / "app" / "config.json"):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    bundle = tmp_path / "bundle.zip"
    workspace_cell_transfer._zip_workspace_to_file(str(tmp_path), "job-1", str(bundle))
    with zipfile.ZipFile(bundle) as archive:
        assert sorted(archive.namelist()) == ["job-1/app/config.json", "local/log.json"]
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr(str(FOLDER / "other.json"), "forged")
    with zipfile.ZipFile(bundle) as archive, pytest.raises(ValueError, match="outside job workspace"):
        workspace_cell_transfer._validate_job_zip_members(archive, "job-1")


def test_a_restored_transfer_is_removed_as_any(parent: ClientParent) -> None:
    """A later launch's registration stays."""
    first, later = (WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace) for _ in range(2))
    manager = WorkspaceTransferManager.get_or_create(parent.cell)
    first.restore("the old token")
    first.remove()
    assert manager.jobs == {}
    first.restore("the old token")
    later.register()
    first.remove()
    assert list(manager.jobs) == [JOB_ID]


def test_a_transfer_is_restored_once(parent: ClientParent) -> None:
    token = WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace).register()
    second = WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace)
    with pytest.raises(AdoptionError, match="registered already"):
        second.restore("the old token")
    assert WorkspaceTransferManager.get_or_create(parent.cell).jobs[JOB_ID].transfer_token == token
    assert not second.has_results


def test_a_transfer_needs_a_token(parent: ClientParent) -> None:
    with pytest.raises(AdoptionError, match="no workspace transfer token"):
        WorkspaceTransfer(parent.cell, JOB_ID, parent.workspace).restore("")


@pytest.mark.parametrize("job_id", ["f0000000-0000-4000-8000-000000000000", "", ".", "..", "../site-1", "/tmp", "a\0"])
def test_only_a_job_with_a_run_directory_is_adopted(job_id: str, parent: ClientParent, handle: Handle) -> None:
    """The id comes from an object in the cluster, and must not name another folder."""
    with pytest.raises(AdoptionError, match=r"run directory|id of a job"):
        adopt_job(parent.new_context(), job_id, handle, parent.workspace, has_started=True)
    with pytest.raises(AdoptionError, match=r"run directory|id of a job"):
        WorkspaceTransfer(parent.cell, job_id, parent.workspace).restore("the old token")
    assert (parent.jobs, WorkspaceTransferManager.get_or_create(parent.cell).jobs) == ([], {})


def test_flare_knows_no_job_for_which_it_has_no_thread(
    parent: ClientParent, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats would name the job, and the server would wait for it for ever."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            adopt(parent, handle)
    assert parent.jobs == []
    adopt(parent, handle)
    assert parent.jobs == [JOB_ID]


def test_a_disk_that_fails_is_no_missing_run_directory(
    parent: ClientParent, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        with pytest.raises(OSError, match="Stale"):
            adopt(parent, handle)


def test_the_installed_nvflare_is_known() -> None:
    """A release of nvflare that moves what adoption relies on fails here; `find_changes` says what it is."""
    assert find_changes() == ()


def test_the_servers_default_timeout_is_flares() -> None:
    assert inspect.signature(FederatedServer).parameters["heart_beat_timeout"].default == HEART_BEAT_TIMEOUT


class MoreState(JobExecutor):  # type: ignore[misc]  # nvflare is untyped
    """An executor with state that an adopted job would lack."""

    def __init__(self, client: object, startup: str) -> None:
        super().__init__(client, startup)
        self.job_metas: dict[str, Any] = {}


class MoreKeys(JobExecutor):  # type: ignore[misc]  # nvflare is untyped
    """An executor whose entries have one more key."""

    def get_status(self, job_id: str) -> object:
        return self.run_processes[job_id][RunProcessKey.CONNECTION]


@dataclass
class MoreFields:
    """A record of a transfer with one more field."""

    job_id: str
    workspace_root: str
    transfer_token: str
    download_tx_id: str
    download_bundle_path: str
    owner: str


class MoreParameters(JobExecutor):  # type: ignore[misc]  # nvflare is untyped
    """An executor whose waiter needs the job's metadata."""

    def _wait_child_process_finish(self, client: object, job_id: str, job_meta: object) -> None:
        """Wait for nothing."""


@pytest.mark.parametrize(
    ("module", "name", "member", "change"),
    [
        (client_executor, "JobExecutor", MoreState, "JobExecutor has 'job_metas'"),
        (client_executor, "JobExecutor", MoreKeys, "JobExecutor has 'CONNECTION'"),
        (
            client_executor,
            "JobExecutor",
            MoreParameters,
            "_wait_child_process_finish has 'self client job_id job_meta'",
        ),
        (client_executor, "_PendingJobHandle", None, "_PendingJobHandle cannot be read"),
        (
            client_executor,
            "_ABORT_REQUESTED_KEY",
            "_abort",
            "_ABORT_REQUESTED_KEY has '_abort', not '_abort_requested'",
        ),
        (workspace_cell_transfer, "_JobTransferRecord", MoreFields, "download_bundle_path owner', not"),
        (net_agent, "_TOPIC_ECHO", "ping", "_TOPIC_ECHO has 'ping', not 'echo'"),
    ],
    ids=lambda it: getattr(it, "__name__", str(it)),
)
def test_a_change_of_nvflare_is_named(
    module: Any, name: str, member: Any, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, member)
    assert any(change in line for line in find_changes()), find_changes()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (net_agent, "_TOPIC_ECHO"),
        (net_agent, "_CHANNEL"),
        (defs.ReturnReason, "CANT_FORWARD"),
        (defs.ReturnCode, "OK"),
        (defs.MessageHeaderKey, "RETURN_CODE"),
        (defs.MessageHeaderKey, "RETURN_REASON"),
        (defs.MessageHeaderKey, "ORIGIN"),
        (core_cell.CoreCell, "send_request"),
        (cell, "Cell"),
    ],
    ids=lambda it: getattr(it, "__name__", it),
)
def test_what_the_probe_lacks_is_named(module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe itself would only never have an answer. Adoption needs the probe, too."""
    assert find_probe_changes() == ()
    monkeypatch.delattr(module, name)
    assert any(name in line for line in find_probe_changes()), find_probe_changes()
    assert set(find_probe_changes()) <= set(find_changes())


def test_a_change_for_adoption_only_leaves_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_executor, "JobExecutor", MoreState)
    assert find_changes()
    assert find_probe_changes() == ()


def test_a_module_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches do not need it, so flargo itself can still be imported."""
    monkeypatch.setitem(sys.modules, client_executor.__name__, None)
    assert f"{client_executor.__name__}.JobExecutor cannot be read (ModuleNotFoundError)" in find_changes()
