"""The one place that touches nvflare's internals: its own names, loaders, renderer and workspace transfer.

nvflare 2.9 promises none of them; a release that moves one breaks this file and no other.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_opt.job_launcher.k8s_launcher import (
    K8sJobHandle,
    _job_args_dict,
    _keep_startup_file,
    job_pod_name,
    site_name_to_rfc1123,
    study_dataset_volume_name,
    study_secret_volume_name,
    uuid4_to_rfc1123,
)
from nvflare.app_opt.job_launcher.study_data import (
    load_study_data_file,
    resolve_study_dataset_mounts,
    should_mount_study_data,
)
from nvflare.app_opt.job_launcher.study_runtime import (
    _safe_relative_path,
    load_study_runtime_file,
    resolve_study_runtime,
    study_runtime_file_path,
)
from nvflare.app_opt.job_launcher.workspace_cell_transfer import (
    ENV_WORKSPACE_OWNER_FQCN,
    ENV_WORKSPACE_TRANSFER_TOKEN,
    WorkspaceTransferManager,
)
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.utils.job_launcher_utils import (
    get_client_job_args,
    get_credential_env,
    get_job_launcher_spec,
    get_portable_resource_spec,
    get_server_job_args,
)

from flargo.job.documents import MAX_TEXT_BYTES, load_yaml
from flargo.terms import Object, Role

OWNER_VARIABLE: str = ENV_WORKSPACE_OWNER_FQCN
"""Environment variable: the cell that a job's process gets its workspace from."""
TOKEN_VARIABLE: str = ENV_WORKSPACE_TRANSFER_TOKEN
"""Environment variable: what lets it have it."""
MODE = "k8s"
"""The key of launcher_spec under which a job speaks to this launcher; nvflare's server takes no other."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where the job's container sees it."""

    volume: Object
    mount: Object


@dataclass(frozen=True, slots=True)
class Study:
    """What a site's files say about a job's study."""

    image: str | None = None
    pod_template: Object | None = None
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] | None = None
    secret_env: tuple[Object, ...] = ()
    """Each with ``name``, ``source`` and ``key``, as the renderer takes them."""


def job_key(job_id: str) -> str:
    """A job id as part of Kubernetes names."""
    return str(uuid4_to_rfc1123(job_id))


def pod_name(key: str, site: str) -> str:
    """The name of the pod of a job (by ``job_key``) at a site."""
    return str(job_pod_name(key, site))


def site_key(site: str) -> str:
    """A site's name as part of Kubernetes names."""
    return str(site_name_to_rfc1123(site))


def is_startup_file(name: str) -> bool:
    """Whether a job's process reads this file of the startup kit."""
    return bool(_keep_startup_file(name))


def launcher_spec(job_meta: dict[str, Any], site: str) -> dict[str, Any]:
    """What a job says to this launcher for a site: its defaults and the site's part, merged."""
    return get_job_launcher_spec(job_meta, site, MODE)  # type: ignore[no-any-return]


def portable_spec(job_meta: dict[str, Any], site: str) -> dict[str, Any]:
    """The resources that a job asks for in nvflare's own words.

    Raises:
        ValueError: one of them is not what nvflare allows.
    """
    return get_portable_resource_spec(job_meta, site)  # type: ignore[no-any-return]


def exe_module(process_args: Mapping[str, Any]) -> str | None:
    """The Python module that a job's process runs."""
    entry = process_args.get(JobProcessArgs.EXE_MODULE)
    return str(entry[1]) if entry else None


def module_args(process_args: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """The options of that module, without credentials and without ``--set``."""
    wanted = get_server_job_args if role is Role.SERVER else get_client_job_args
    return dict(_job_args_dict(process_args, wanted(False, False)))


def credential_env(process_args: Mapping[str, Any]) -> dict[str, str]:
    """The job process's credentials, by the environment variables that it reads them from."""
    return dict(get_credential_env(process_args))


def study_runtime_file(workspace: str) -> str:
    """Where a site's study_runtime.yaml (version 2) is, if it has one."""
    return str(study_runtime_file_path(workspace))


def pod_template_files(runtime: Any) -> list[str]:
    """The pod templates that a study_runtime.yaml names by their files, relative to its own folder."""
    studies = runtime.get("studies") if isinstance(runtime, dict) else None
    entries = studies.values() if isinstance(studies, dict) else ()
    named = [entry.get("pod_template") for entry in entries if isinstance(entry, dict)]
    found = []
    for name in named:
        if isinstance(name, str) and name:
            with suppress(ValueError):  # nvflare refuses it, in words of its own
                found.append(str(_safe_relative_path(name, "pod_template", "")))
    return sorted({*found})


def load_study_runtime(file: str | None, study: str | None) -> Study:
    """What study_runtime.yaml says about a study.

    Raises:
        Refused: the file, or a pod template that it names, is no YAML or exceeds the limits of YAML.
        ValueError: the file is not what nvflare allows; the message may quote it.
    """
    if file is not None:
        for template in pod_template_files(_load_if_there(file)):
            _load_if_there(str(Path(file).parent / template))
    found = resolve_study_runtime(load_study_runtime_file(file, MODE, logger=_log), study, file, logger=_log)
    secrets = tuple(_secret_mount(mount) for mount in found.secret_mounts)
    return Study(
        image=found.container_image,
        pod_template=found.pod_template,
        mounts=tuple(_dataset_mount(mount) for mount in found.datasets) + secrets,
        env=dict(found.env),
        secret_env=tuple({"name": ref.name, "source": ref.source, "key": ref.key} for ref in found.secret_env),
    )


def load_study_data(file: str | None, study: str | None) -> Study:
    """What study_data.yaml (version 1) says about a study.

    Raises:
        Refused: the file is no YAML or exceeds the limits of YAML.
        ValueError: the file is not what nvflare allows; the message may quote it.
    """
    if file is None or not should_mount_study_data(study):
        return Study()
    _load_if_there(file)
    found = resolve_study_dataset_mounts(load_study_data_file(file, logger=_log), study, file, logger=_log)
    return Study(mounts=tuple(_dataset_mount(mount) for mount in found))


def render_pod(job_config: Object, *, name: str, key: str, python: str, pod_template: Object | None) -> Object:
    """The pod that the stock launcher would create, by its own renderer; nothing of the arguments is kept in it.

    Raises:
        ValueError: the pod template cannot be merged with the job.
    """
    handle = K8sJobHandle(
        key,
        None,
        job_config,
        python_path=python,
        pod_name=name,
        pod_manifest_template=pod_template,
    )
    pod: Object = handle.get_manifest()
    return pod


def add_deploy_detail(fl_ctx: FLContext, text: str) -> None:
    """Add a line to what FLARE's server keeps in a job's metadata when its start fails (job_runner.py, ``run``)."""
    details = fl_ctx.get_prop(FLContextKey.JOB_DEPLOY_DETAIL)
    if isinstance(details, list):
        details.append(text)


class WorkspaceTransfer:
    """A job's place in the parent's workspace transfer, from which its process fetches its workspace."""

    def __init__(self, cell: Any, job_id: str, workspace: str) -> None:
        """Nothing is registered yet.

        Args:
            cell: the parent's cell.
            job_id: FLARE's.
            workspace: the parent's workspace directory.
        """
        self._cell = cell
        self._manager = WorkspaceTransferManager.get_or_create(cell)
        self._job_id = job_id
        self._workspace = workspace
        self._token: str | None = None

    @property
    def owner(self) -> str:
        """The name of the parent's cell."""
        return str(self._manager.owner_fqcn)

    def register(self) -> str:
        """Let a process that has the returned token fetch the job's workspace and bring home its results."""
        self._token = str(self._manager.add_job(self._job_id, self._workspace))
        return self._token

    def remove(self) -> None:
        """Take that back. It may be asked for again; a later launch of the same job is left alone."""
        if self._is_registered:
            self._manager.remove_job(self._job_id)
        self._token = None

    @property
    def is_connected(self) -> bool:
        """Whether the job's own process is connected with the parent now."""
        return bool(self._cell.is_cell_connected(FQCN.join([self.owner, self._job_id])))

    @property
    def is_published(self) -> bool:
        """Whether the job's results have come home: the manager drops its record when they have."""
        return self._token is not None and self._job_id not in self._manager.jobs

    @property
    def _is_registered(self) -> bool:
        record = self._manager.jobs.get(self._job_id)
        return self._token is not None and record is not None and record.transfer_token == self._token


def _load_if_there(file: str) -> Any:
    """A YAML file, parsed within limits before nvflare's loaders, which have none, read it."""
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_TEXT_BYTES + 1)
    except OSError:
        return None  # nvflare says what is wrong with it
    return load_yaml(file, text)


def _dataset_mount(dataset: Any) -> Mount:
    name = study_dataset_volume_name(dataset.study, dataset.dataset)
    return Mount(
        volume={"name": name, "persistentVolumeClaim": {"claimName": dataset.source}},
        mount={"name": name, "mountPath": dataset.mount_path, "readOnly": dataset.read_only},
    )


def _secret_mount(secret: Any) -> Mount:
    name = study_secret_volume_name(secret.study, secret.name)
    source: Object = {"secretName": secret.source}
    if secret.items:
        source["items"] = [{"key": key, "path": path} for key, path in secret.items]
    return Mount(
        volume={"name": name, "secret": source},
        mount={"name": name, "mountPath": secret.mount_path, "readOnly": True},
    )
