"""The launcher's answer to FLARE: a handle, or an exception where a handle would mislead FLARE."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, RunStatus

import flargo
from flargo.cluster.api import Api
from flargo.cluster.errors import ApiError
from flargo.control.launched_job import LaunchedJob
from flargo.control.loop import MAX_SUBMIT_SECONDS, Loop
from flargo.flare.launcher import ArgoJobLauncher
from flargo.job.validate import InvalidInput
from flargo.status.reasons import Reason, ReturnCode
from flargo.status.verdict import Cause, Verdict
from flargo.terms import Role
from tests.harness.differential.cases import IMAGE, JOB_ID
from tests.harness.differential.parent import Cell, Parent
from tests.harness.fake_api import THREAD_SECONDS, HangingApi

JOB_META: dict[str, Any] = {
    "job_id": JOB_ID,
    "name": "x",
    "launcher_spec": {"default": {"k8s": {"image": IMAGE}}},
}
SITE_VALUE = "Mark3r/s3cr3t=7"
"""A value of the site's pod template that the API server quotes."""
NOT_STARTED = {
    "UNCLAIMED",
    "QUEUED",
    "QUOTA",
    "SHORTAGE",
    "UNSCHEDULABLE",
    "PULLING",
    "START_TIMEOUT",
    "TIMEOUT",
}
"""The reasons for which a server's launch fails."""


def create_launcher(root: Path, role: Role) -> ArgoJobLauncher:
    kind = flargo.ServerArgoJobLauncher if role is Role.SERVER else flargo.ClientArgoJobLauncher
    launcher: ArgoJobLauncher = kind(workspace_mount_path=str(root))
    return launcher


@pytest.mark.parametrize("reason", Reason)
def test_a_server_launch_fails_without_a_node(reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLARE starts the clients of every job that has a handle, so a job without a node must raise instead."""

    class Loop:
        def launch(self, *_: Any, **__: Any) -> LaunchedJob:
            job = LaunchedJob("wf")
            job.conclude(Verdict(reason, int(reason.code or 0), f'spec.x: Invalid value: "{SITE_VALUE}"'))
            return job

        def seconds_out_of_sync(self) -> float:
            return 0.0

    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", lambda *_: Loop())
    context = Parent(tmp_path, Role.SERVER).context(JOB_ID)
    details: list[str] = ["site-1: OK"]
    context.set_prop(FLContextKey.JOB_DEPLOY_DETAIL, details, private=True, sticky=False)
    launcher = create_launcher(tmp_path, Role.SERVER)
    if reason.name not in NOT_STARTED:
        handle = launcher.launch_job(JOB_META, context)
        assert (handle.poll(), details) == (int(reason.code or 0), ["site-1: OK"])
        return
    with pytest.raises(RuntimeError, match=f"was not started: {reason.name}: ") as error:
        launcher.launch_job(JOB_META, context)
    assert details[1].startswith(f"site-1: {reason.name}: ") or details[1].startswith(f"server: {reason.name}: ")
    assert "Mark3r" not in f"{error.value} {details}"


@pytest.mark.parametrize("role", Role, ids=str)
def test_an_incomplete_context_raises_to_flare(role: Role, tmp_path: Path) -> None:
    launcher, parent = create_launcher(tmp_path, role), Parent(tmp_path, role)
    with pytest.raises(InvalidInput, match="job_id"):
        launcher.launch_job({}, parent.context(JOB_ID))
    context = parent.context(JOB_ID)
    context.props.pop(FLContextKey.WORKSPACE_OBJECT)
    with pytest.raises(InvalidInput, match="workspace"):
        launcher.launch_job({"job_id": JOB_ID}, context)


def test_a_launch_during_shutdown_raises(tmp_path: Path) -> None:
    launcher = create_launcher(tmp_path, Role.CLIENT)
    launcher._shut_down()
    with pytest.raises(RuntimeError, match="shutting down"):
        launcher.launch_job(JOB_META, Parent(tmp_path, Role.CLIENT).context(JOB_ID))


LAUNCH_LIMIT_SECONDS = 120.0
"""Seconds within which a launch fails if no request was ever answered."""


def silent_api(_: threading.Event) -> Api:
    """Return an API none of whose requests is answered."""

    class SilentApi(HangingApi):
        def _hang(self) -> NoReturn:
            raise ApiError("get", "secrets", 0, message="Connection refused")

    return SilentApi()


def hanging_api(test_ended: threading.Event) -> Api:
    """Return an API whose requests hang."""
    api = HangingApi()
    api.test_ended = test_ended
    return api


def api_without_credentials(test_ended: threading.Event) -> Api:
    """Return an API whose credential plugin hangs."""

    def load() -> Any:
        test_ended.wait(THREAD_SECONDS)
        raise OSError("the plugin has ended")

    return Api(load, "flare")


BROKEN_APIS = (silent_api, hanging_api, api_without_credentials)


@pytest.fixture
def test_ended() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class JobStore:
    """A server's job store, with one job, which may be aborted."""

    def __init__(self) -> None:
        self.status = RunStatus.DISPATCHED
        self.is_read = threading.Event()

    def get_job(self, _job_id: str, _fl_ctx: object) -> object:
        self.is_read.set()
        return SimpleNamespace(meta={JobMetaKey.STATUS.value: self.status.value})


def server_context(root: Path, store: JobStore) -> FLContext:
    context = Parent(root, Role.SERVER).context(JOB_ID)
    components = {SystemComponents.JOB_MANAGER: store}
    engine = SimpleNamespace(cell=Cell("server"), get_component=components.get)
    context.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
    return context


@pytest.mark.parametrize("broken_api", BROKEN_APIS, ids=lambda it: it.__name__)
def test_server_launch_without_an_answer_fails_in_time(
    broken_api: Callable[[threading.Event], Api],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    test_ended: threading.Event,
) -> None:
    """One thread launches all jobs of a server, so its other jobs wait meanwhile."""
    assert MAX_SUBMIT_SECONDS <= LAUNCH_LIMIT_SECONDS
    monkeypatch.setattr("flargo.control.loop.MAX_SUBMIT_SECONDS", 0.5)
    loop = Loop(broken_api(test_ended), "", "me", 3)
    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", lambda *_: loop)
    began_at = time.monotonic()
    handle = create_launcher(tmp_path, Role.SERVER).launch_job(JOB_META, server_context(tmp_path, JobStore()))
    assert time.monotonic() - began_at < 3
    assert handle.poll() == ReturnCode.NEVER_STARTED
    loop.end(Cause.PARENT_END, seconds=0.0)


@pytest.mark.parametrize("broken_api", BROKEN_APIS, ids=lambda it: it.__name__)
def test_abort_ends_a_server_launch_without_an_answer(
    broken_api: Callable[[threading.Event], Api],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    test_ended: threading.Event,
) -> None:
    monkeypatch.setattr("flargo.flare.wait.POLL_INTERVAL", 0.05)
    loop, store = Loop(broken_api(test_ended), "", "me", 3), JobStore()
    monkeypatch.setattr(ArgoJobLauncher, "_get_loop", lambda *_: loop)

    def abort() -> None:
        store.is_read.wait(THREAD_SECONDS)
        time.sleep(0.3)  # the launch's first request is on its way
        store.status = RunStatus.FINISHED_ABORTED

    threading.Thread(target=abort, daemon=True).start()
    began_at = time.monotonic()
    handle = create_launcher(tmp_path, Role.SERVER).launch_job(JOB_META, server_context(tmp_path, store))
    handle.wait()
    assert time.monotonic() - began_at < 3
    assert handle.poll() == ReturnCode.ABORTED
    loop.end(Cause.PARENT_END, seconds=0.0)
