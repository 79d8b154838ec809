"""What a site would submit for a job, found out without FLARE running and without a cluster."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from nvflare.apis.fl_constant import FLContextKey, JobConstants, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.workspace import Workspace

from flargo.flare.request import read_launch
from flargo.job.plan import build_plan
from flargo.job.settings import Settings
from flargo.job.validate import InvalidInput
from flargo.terms import Plan, Role

EXAMPLE_JOB_ID = "00000000-0000-0000-0000-000000000000"
"""The id of a job that has none yet: FLARE's server gives it one when it is submitted."""
_ATTEMPT, _EPOCH = "example", "example"
_HERE = "."
"""The workspace, as seen from inside."""


@dataclass(frozen=True, slots=True)
class SimulatedParent:
    """A FLARE parent that is not there: what a launch reads of it."""

    kit: Path
    """A folder of this process's own, with startup/ and local/; stands for the parent's workspace."""
    site: str
    role: Role
    parent_url: str
    """Where the parent listens for its jobs."""
    server: Mapping[str, str] = field(default_factory=dict)
    """The federation's server: ``scheme`` and ``target``."""
    options: tuple[str, ...] = ()
    """What the parent was started with after ``--set``."""


def dry_run(job_meta: dict[str, Any], stage: SimulatedParent, settings: Settings) -> Plan:
    """The plan of a launch, by the launcher's own path: what FLARE would fill in at run time is an example's.

    Raises:
        Refused: the launch would be refused, for this reason.
        ValueError: a study file is not what nvflare allows.
    """
    meta = {**job_meta, JobConstants.JOB_ID: job_meta.get(JobConstants.JOB_ID) or EXAMPLE_JOB_ID}
    # Files are read from the kit here; everything that goes to the pod has the real workspace's paths.
    here = replace(settings, study_data_pvc_file_path=study_data_file(settings))
    # From inside the folder: messages then name files as they are called in the kit.
    with contextlib.chdir(stage.kit):
        context = _context(meta[JobConstants.JOB_ID], stage, settings.workspace_mount_path)
        launch, transfer = read_launch(meta, context, stage.role, here, attempt=_ATTEMPT, epoch=_EPOCH)
    transfer.remove()
    return build_plan(launch, settings)


def study_data_file(settings: Settings) -> str | None:
    """Where study_data.yaml is, relative to the parent's workspace; None: the site has none.

    Raises:
        Refused: it is outside the workspace. A kit, which is all that there is here, has no such file, and a file of
            this machine at the same place is none of the parent's.
    """
    file, workspace = settings.study_data_pvc_file_path, settings.workspace_mount_path
    if file is None:
        return None
    path = PurePosixPath(file)
    if ".." in path.parts or not path.is_relative_to(workspace) or path == PurePosixPath(workspace):
        allowed = f"a file below the parent's workspace, {workspace}: one elsewhere cannot be looked at in a kit"
        raise InvalidInput("study_data_pvc_file_path", file, allowed)
    return str(path.relative_to(workspace))


class _Cell:
    """As much of a parent's cell as the workspace transfer asks for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_fqcn(self) -> str:
        return self._name

    def register_request_cb(self, channel: str, topic: str, cb: Callable[..., Any]) -> None:
        """Nobody calls."""


def _context(job_id: str, stage: SimulatedParent, workspace: str) -> FLContext:
    context = FLContext()
    entries = {
        ReservedKey.IDENTITY_NAME: stage.site,
        ReservedKey.ENGINE: Namespace(cell=_Cell(stage.site)),
        FLContextKey.WORKSPACE_OBJECT: Workspace(_HERE, stage.site),
        FLContextKey.ARGS: Namespace(workspace=_HERE, set=[*stage.options]),
        FLContextKey.JOB_PROCESS_ARGS: _process_args(job_id, stage, workspace),
    }
    for key, value in entries.items():
        context.set_prop(key, value, private=True, sticky=False)
    return context


def _process_args(job_id: str, stage: SimulatedParent, workspace: str) -> dict[str, Any]:
    """As nvflare's server_engine.py and client_executor.py make them; tokens are examples."""
    scheme, target = stage.server.get("scheme", "grpc"), stage.server.get("target", "server:8002")
    both = {
        JobProcessArgs.JOB_ID: ("-n", job_id),
        JobProcessArgs.WORKSPACE: ("-m", workspace),
        JobProcessArgs.AUTH_TOKEN: ("-t", "example"),
        JobProcessArgs.TOKEN_SIGNATURE: ("-ts", "example"),
        JobProcessArgs.SSID: ("-d", "example"),
        JobProcessArgs.PARENT_URL: ("-p", stage.parent_url),
        JobProcessArgs.PARENT_CONN_SEC: ("--parent_conn_sec", "mtls"),
        JobProcessArgs.OPTIONS: ("--set", " ".join(stage.options)),
    }
    if stage.role is Role.SERVER:
        host, _, port = target.rpartition(":")
        return {
            **both,
            JobProcessArgs.EXE_MODULE: ("-m", "nvflare.private.fed.app.server.runner_process"),
            JobProcessArgs.STARTUP_CONFIG_FILE: ("-s", "fed_server.json"),
            JobProcessArgs.APP_ROOT: ("-r", f"{workspace}/{job_id}/app_server"),
            JobProcessArgs.ROOT_URL: ("-u", f"{scheme}://{target}"),
            JobProcessArgs.SERVICE_HOST: ("--host", host),
            JobProcessArgs.SERVICE_PORT: ("--port", port),
            JobProcessArgs.SSID: ("--ssid", "example"),
        }
    return {
        **both,
        JobProcessArgs.EXE_MODULE: ("-m", "nvflare.private.fed.app.client.worker_process"),
        JobProcessArgs.CLIENT_NAME: ("-c", stage.site),
        JobProcessArgs.STARTUP_DIR: ("-w", f"{workspace}/startup"),
        JobProcessArgs.SCHEME: ("-scheme", scheme),
        JobProcessArgs.TARGET: ("-g", target),
        JobProcessArgs.STARTUP_CONFIG_FILE: ("-s", "fed_client.json"),
    }
