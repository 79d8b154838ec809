"""Builds the plan that a site would submit for a job, without a running FLARE parent and without a cluster."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from nvflare.apis.fl_constant import FLContextKey, JobConstants, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, get_job_meta_study
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.workspace import Workspace

from flargo.flare.request import read_launch
from flargo.job.plan import build_plan
from flargo.job.settings import Settings
from flargo.job.validate import InvalidInput
from flargo.terms import Plan, Role

EXAMPLE_JOB_ID = "00000000-0000-0000-0000-000000000000"
"""The id of a job that has none yet: FLARE's server assigns an id when the job is submitted."""
_ATTEMPT, _EPOCH = "example", "example"
_WORKSPACE = "."
"""The parent's workspace; the dry run works in this folder."""


@dataclass(frozen=True, slots=True)
class SimulatedParent:
    """Everything that a launch reads of a FLARE parent, without a running parent."""

    kit: Path
    """A folder of this process with startup/ and local/, which takes the place of the parent's workspace."""
    site: str
    role: Role
    parent_url: str
    """The URL at which the parent's jobs connect to it."""
    server: Mapping[str, str] = field(default_factory=dict)
    """The federation's server: ``scheme`` and ``target``."""
    options: tuple[str, ...] = ()
    """The options that the parent is started with after ``--set``."""


def dry_run(job_meta: dict[str, Any], parent: SimulatedParent, settings: Settings) -> Plan:
    """Build the plan of a launch with the launcher's own code. Values that FLARE sets at run time are examples.

    Raises:
        InvalidInput: the launch would be refused, for this reason.
    """
    meta = {
        **job_meta,
        JobConstants.JOB_ID: job_meta.get(JobConstants.JOB_ID) or EXAMPLE_JOB_ID,
        # FLARE's server sets the study of the session that submits the job, which is this one if it names none.
        JobMetaKey.STUDY.value: get_job_meta_study(job_meta),
    }
    # Files are read from the kit, but everything that goes to the pod has the paths of the real workspace.
    kit_settings = replace(settings, study_data_pvc_file_path=study_data_file(settings))
    # Inside the kit's folder, so that messages name files by their paths in the kit.
    with contextlib.chdir(parent.kit):
        context = _build_context(meta[JobConstants.JOB_ID], parent, settings.workspace_mount_path)
        launch, transfer = read_launch(meta, context, parent.role, kit_settings, attempt=_ATTEMPT, epoch=_EPOCH)
    transfer.remove()
    return build_plan(launch, settings)


def study_data_file(settings: Settings) -> str | None:
    """Return the path of study_data.yaml relative to the parent's workspace; None if the site has no such file.

    Raises:
        InvalidInput: the file is outside the workspace, so the kit does not have it. A file of this machine at the same
            path belongs to another program.
    """
    file, workspace = settings.study_data_pvc_file_path, settings.workspace_mount_path
    if file is None:
        return None
    path = PurePosixPath(file)
    if ".." in path.parts or not path.is_relative_to(workspace) or path == PurePosixPath(workspace):
        allowed = f"a file below the parent's workspace, {workspace}, since a kit holds no other files"
        raise InvalidInput("study_data_pvc_file_path", file, allowed)
    return str(path.relative_to(workspace))


class _Cell:
    """The part of a parent's cell that the workspace transfer uses."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_fqcn(self) -> str:
        return self._name

    def register_request_cb(self, channel: str, topic: str, cb: Callable[..., Any]) -> None:
        """Ignore the callback, since no message ever arrives."""


def _build_context(job_id: str, parent: SimulatedParent, workspace: str) -> FLContext:
    context = FLContext()
    entries = {
        ReservedKey.IDENTITY_NAME: parent.site,
        ReservedKey.ENGINE: Namespace(cell=_Cell(parent.site)),
        FLContextKey.WORKSPACE_OBJECT: Workspace(_WORKSPACE, parent.site),
        FLContextKey.ARGS: Namespace(workspace=_WORKSPACE, set=[*parent.options]),
        FLContextKey.JOB_PROCESS_ARGS: _build_process_args(job_id, parent, workspace),
    }
    for key, value in entries.items():
        context.set_prop(key, value, private=True, sticky=False)
    return context


def _build_process_args(job_id: str, parent: SimulatedParent, workspace: str) -> dict[str, Any]:
    """Build the arguments as nvflare's server_engine.py and client_executor.py do, with examples for the tokens."""
    scheme, target = parent.server.get("scheme", "grpc"), parent.server.get("target", "server:8002")
    both = {
        JobProcessArgs.JOB_ID: ("-n", job_id),
        JobProcessArgs.WORKSPACE: ("-m", workspace),
        JobProcessArgs.AUTH_TOKEN: ("-t", "example"),
        JobProcessArgs.TOKEN_SIGNATURE: ("-ts", "example"),
        JobProcessArgs.SSID: ("-d", "example"),
        JobProcessArgs.PARENT_URL: ("-p", parent.parent_url),
        JobProcessArgs.PARENT_CONN_SEC: ("--parent_conn_sec", "mtls"),
        JobProcessArgs.OPTIONS: ("--set", " ".join(parent.options)),
    }
    if parent.role is Role.SERVER:
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
        JobProcessArgs.CLIENT_NAME: ("-c", parent.site),
        JobProcessArgs.STARTUP_DIR: ("-w", f"{workspace}/startup"),
        JobProcessArgs.SCHEME: ("-scheme", scheme),
        JobProcessArgs.TARGET: ("-g", target),
        JobProcessArgs.STARTUP_CONFIG_FILE: ("-s", "fed_client.json"),
    }
