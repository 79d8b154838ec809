"""The launcher's answer to FLARE: a handle, or an exception where a handle would mislead FLARE."""

from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey

import flargo
from flargo.control.launched_job import LaunchedJob
from flargo.flare.launcher import ArgoJobLauncher
from flargo.job.validate import InvalidInput
from flargo.status.reasons import Reason
from flargo.status.verdict import Verdict
from flargo.terms import Role
from tests.harness.differential.cases import IMAGE, JOB_ID
from tests.harness.differential.parent import Parent

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
