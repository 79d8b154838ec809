"""Reads a launch from FLARE's call of ``launch_job``: everything is checked and copied, and no FLARE object is kept.

flargo.job.trust says who controls each value, and which values are allowed. flargo.job.choices decides between the
job's values and the site's, and flargo.job.policy what the site allows.
"""

import base64
import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey

from flargo.flare import nvflare_internals
from flargo.flare.job_options import read_launcher_options, read_portable_options
from flargo.flare.nvflare_internals import Mount, Study, WorkspaceTransfer
from flargo.flare.nvflare_messages import pod_template_error, study_file_error
from flargo.flare.report import Report
from flargo.job import names, validate
from flargo.job.choices import Choices, JobRequest, choose
from flargo.job.documents import DocumentError
from flargo.job.settings import Settings
from flargo.job.trust import JOB_META
from flargo.job.validate import MISSING, InvalidInput, Sentence, Verbatim
from flargo.parsing import is_attempt
from flargo.terms import Launch, Object, Parent, Role, SecretData

ROOT_CERTIFICATE = "rootCA.pem"
"""The certificate, in a site's startup kit, that all parties of a federation share."""
WORKSPACE_WARNING = (
    "the job's process looks for its workspace at %s, as the parent does, but workspace_mount_path mounts it at %s"
)
"""The format of the warning that the parent's workspace is at another path than the job's."""
_PEM = re.compile("-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\\s]+)-----END CERTIFICATE-----")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MAX_SECRET_BYTES = 1024 * 1024
"""Bytes that a Secret may hold (Kubernetes' MaxSecretSize)."""
_WORKSPACE_VOLUME, _STARTUP_VOLUME = "workspace-job", "startup-kit"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _LaunchRequest:
    """Everything that FLARE's metadata and context say about one launch."""

    site: str
    job_id: str
    study: str | None
    workspace: str
    """The parent's workspace folder."""
    custom: str
    """The folder of the job's custom code; empty if there is none."""
    startup: Path
    """The folder of the startup kit."""
    set_options: tuple[str, ...]
    """The options that the parent was started with after ``--set``."""
    process_args: Mapping[str, Any]
    module: str
    """The Python module that the job's process runs."""
    cell: Any
    """The parent's cell, to which job processes connect."""
    job: JobRequest
    """What the job asks for."""


@dataclass(frozen=True, slots=True)
class _ObjectNames:
    """The names of the objects that a launch creates."""

    key: str
    """The job's id in the form that it has in names."""
    pod: str
    container: str
    startup: str
    credentials: str


def read_launch(
    job_meta: dict[str, Any],
    fl_ctx: FLContext,
    role: Role,
    settings: Settings,
    *,
    attempt: str,
    epoch: str,
) -> tuple[Launch, WorkspaceTransfer]:
    """Read one launch, without network access. The workspace transfer is registered only if nothing is wrong.

    Args:
        job_meta: the job's metadata.
        fl_ctx: FLARE's context, with the workspace, its arguments and those of the job process.
        role: which side of the job the launch is.
        settings: the site's settings.
        attempt: a new random id, of lower-case letters and digits.
        epoch: the random id of this parent process.

    Returns:
        The launch, and the registered transfer of its workspace: call its ``remove`` if the launch goes no further.

    Raises:
        InvalidInput: something is missing or not allowed. The message says what, where, and what is expected.
    """
    if not is_attempt(attempt):
        raise InvalidInput("attempt", attempt, "1 to 20 lower-case letters and digits")
    request = _read_request(job_meta, fl_ctx, settings)
    study = _read_study(request, settings)
    parent = Parent(request.site, federation_id(request.startup), epoch, role)
    object_names = _name_objects(request, parent, attempt)
    startup = SecretData(object_names.startup, _read_startup_files(request.startup))
    credentials = {
        variable: value.encode() for variable, value in nvflare_internals.credential_env(request.process_args).items()
    }
    transfer = WorkspaceTransfer(request.cell, request.job_id, request.workspace)
    secret_variables = (*credentials, nvflare_internals.TOKEN_VARIABLE)
    choices = choose(request.job, study.image, settings)
    rejoin, refused_attempts = _grant_attempts(choices) if role is Role.CLIENT else (0, "")
    if refused_attempts:
        _log.warning("%s", refused_attempts)
    config: Object = {
        "name": object_names.pod,
        "image": choices.image,
        "container_name": object_names.container,
        "command": request.module,
        "module_args": nvflare_internals.module_args(request.process_args, role),
        "set_list": list(request.set_options),
        "env": _build_env(request, study, settings, transfer.owner),
        "secret_env": _build_secret_env(study, object_names.credentials, secret_variables),
        "resources": choices.resources,
        "image_pull_secrets": list(settings.image_pull_secrets),
        "security_context": settings.security_context,
        **_build_volumes(study, settings.workspace_mount_path, object_names.startup, choices.ephemeral_storage),
    }
    launch = Launch(
        job_id=request.job_id,
        job_name=_meta_value(job_meta, JobMetaKey.JOB_NAME),
        study=request.study or "",
        parent=parent,
        attempt=attempt,
        pod=_render_pod(config, study, object_names, choices.python_path, settings),
        container=object_names.container,
        startup=startup,
        credentials=SecretData(object_names.credentials, credentials),
        pending=choices.pending_timeout,
        max_attempts=1 + rejoin,
        refused_attempts=refused_attempts,
    )
    # Registered last: no later step can fail and leave the transfer registered.
    credentials = {**credentials, nvflare_internals.TOKEN_VARIABLE: transfer.register().encode()}
    return replace(launch, credentials=SecretData(object_names.credentials, credentials)), transfer


def read_parent(fl_ctx: FLContext, role: Role, epoch: str) -> Parent:
    """Read the identity of this FLARE parent.

    Raises:
        InvalidInput: the context or the startup kit lacks a part of it.
    """
    site = _read_site(fl_ctx)
    workspace = _context_property(fl_ctx, FLContextKey.WORKSPACE_OBJECT)
    return Parent(site, federation_id(Path(workspace.get_startup_kit_dir())), epoch, role)


def read_workspace(fl_ctx: FLContext) -> str:
    """Read the path of the parent's workspace folder.

    Raises:
        InvalidInput: the context lacks the parent's arguments.
    """
    return str(_context_property(fl_ctx, FLContextKey.ARGS).workspace)


def read_cell(fl_ctx: FLContext) -> Any:
    """Return the parent's cell, to which job processes connect.

    Raises:
        InvalidInput: the parent has none.
    """
    cell = getattr(fl_ctx.get_engine(), "cell", None)
    if cell is None:
        raise InvalidInput("the parent's cell in FLContext's engine", MISSING, "the cell that job processes connect to")
    return cell


def read_startup_kit(fl_ctx: FLContext) -> dict[str, bytes]:
    """Read the files of the parent's startup kit that a job's process needs.

    Raises:
        InvalidInput: the context lacks the workspace, the kit lacks its root certificate, or a file does not fit into a
            Secret.
        OSError: a file cannot be read.
    """
    startup = Path(_context_property(fl_ctx, FLContextKey.WORKSPACE_OBJECT).get_startup_kit_dir())
    files = _read_startup_files(startup)
    if ROOT_CERTIFICATE not in files:
        # Its volume may be away for a moment. The kit's Secret, which other jobs share, must not lose its content.
        raise InvalidInput(str(startup / ROOT_CERTIFICATE), Verbatim("missing"), "a file of the startup kit")
    return files


def read_report(job_meta: dict[str, Any], fl_ctx: FLContext, role: Role) -> Report:
    """Read the job's id and the files to which its outcome is reported.

    Raises:
        InvalidInput: the context or the metadata does not say which job it is, or where its files are.
    """
    job_id, site = _meta_value(job_meta, JobMetaKey.JOB_ID), _read_site(fl_ctx)
    workspace = _context_property(fl_ctx, FLContextKey.WORKSPACE_OBJECT)
    return Report(
        job_id,
        site,
        role,
        run_dir=Path(workspace.get_run_dir(job_id)),
        error_log=Path(workspace.get_app_error_log_file_path(job_id)),
    )


def federation_id(startup: Path) -> str:
    """Return the id of the federation that a startup kit belongs to.

    It is the first 32 hex digits of the SHA-256 of the kit's root certificate (DER).

    Raises:
        InvalidInput: the kit has no root certificate, or the file is not a certificate.
    """
    file = startup / ROOT_CERTIFICATE
    allowed = "a file with the federation's root certificate, as written by `nvflare provision`"
    try:
        match = _PEM.search(file.read_text("ascii", "replace"))
    except OSError as error:
        raise InvalidInput(str(file), MISSING, f"{allowed} ({error.strerror})") from None
    try:
        der = base64.b64decode("".join(match.group(1).split()), validate=True) if match else b""
    except ValueError:
        der = b""
    if not der:
        raise InvalidInput(str(file), Verbatim("without a readable PEM certificate"), allowed)
    return hashlib.sha256(der).hexdigest()[: names.FEDERATION_DIGITS]


def _name_objects(request: _LaunchRequest, parent: Parent, attempt: str) -> _ObjectNames:
    key = nvflare_internals.job_key(request.job_id)
    pod = validate.dns_label("the pod's name", nvflare_internals.pod_name(key, request.site))
    return _ObjectNames(
        key=key,
        pod=pod,
        container=f"container-{key}",
        startup=names.startup_secret(nvflare_internals.site_key(request.site), parent.federation),
        credentials=names.credentials_secret(pod, attempt),
    )


def _render_pod(config: Object, study: Study, object_names: _ObjectNames, python: str, settings: Settings) -> Object:
    """Render the stock launcher's pod, in the launcher's namespace even if its template names another one."""
    template = study.pod_template
    # Credentials must not reach a sidecar, so a template with several containers has to say which one is the job's.
    complete_config = {**config, "require_main_container": template is not None}
    try:
        pod = nvflare_internals.render_pod(
            complete_config, name=object_names.pod, key=object_names.key, python=python, pod_template=template
        )
    except Exception as error:  # noqa: BLE001  (nvflare reads the template without checking its shape)
        raise pod_template_error(error) from None
    namespace = pod["metadata"].get("namespace")
    if namespace is not None and namespace != settings.namespace:
        _log.warning("the namespace of the pod template is ignored: jobs run in %r", settings.namespace)
        pod["metadata"]["namespace"] = settings.namespace
    return pod


def _read_request(job_meta: dict[str, Any], fl_ctx: FLContext, settings: Settings) -> _LaunchRequest:
    site = _read_site(fl_ctx)
    job_id = _meta_value(job_meta, JobMetaKey.JOB_ID)
    workspace = _context_property(fl_ctx, FLContextKey.WORKSPACE_OBJECT)
    args = _context_property(fl_ctx, FLContextKey.ARGS)
    launcher = read_launcher_options(job_meta, site)
    process_args = _context_property(fl_ctx, FLContextKey.JOB_PROCESS_ARGS)
    if not process_args:
        raise _context_error(FLContextKey.JOB_PROCESS_ARGS, process_args)
    module = nvflare_internals.exe_module(process_args)
    if not module:
        raise InvalidInput(f"exe_module in {FLContextKey.JOB_PROCESS_ARGS} of FLContext", MISSING, "a Python module")
    cell = read_cell(fl_ctx)
    if str(args.workspace) != settings.workspace_mount_path:
        # The stock launcher does not warn, and the job's process then does not find its workspace.
        _log.warning(WORKSPACE_WARNING, args.workspace, settings.workspace_mount_path)
    return _LaunchRequest(
        site=site,
        job_id=job_id,
        study=_meta_value(job_meta, JobMetaKey.STUDY),
        workspace=str(args.workspace),
        custom=str(workspace.get_app_custom_dir(job_id) or ""),
        startup=Path(workspace.get_startup_kit_dir()),
        set_options=tuple(str(option) for option in getattr(args, "set", None) or ()),
        process_args=process_args,
        module=module,
        cell=cell,
        job=JobRequest(site, nvflare_internals.MODE, launcher, read_portable_options(job_meta, site)),
    )


def _meta_value(job_meta: dict[str, Any], key: JobMetaKey) -> Any:
    return JOB_META[key.value].validate(f"job_meta[{key.value!r}]", job_meta.get(key.value))


def _read_site(fl_ctx: FLContext) -> str:
    field, site = "the site's name in FLContext", fl_ctx.get_identity_name()
    if not site:
        raise InvalidInput(field, MISSING, "a name")
    if "{{" in validate.line(field, site):
        raise InvalidInput(field, site, "a name without {{, which Argo would evaluate")
    return str(site)


def _context_property(fl_ctx: FLContext, key: str) -> Any:
    value = fl_ctx.get_prop(key)
    if value is None:
        raise _context_error(key, MISSING)
    return value


def _context_error(key: str, value: object) -> InvalidInput:
    return InvalidInput(f"{key} in FLContext", value, "the value that FLARE sets before it launches a job")


def _grant_attempts(choices: Choices) -> tuple[int, str]:
    """Return how many further attempts a client's job gets, and why that is less than it asks for, if it is.

    None is granted if the server cannot be asked whether its process of the job still runs: each would be given up
    after a minute, with a reason that blames the server.
    """
    changes = nvflare_internals.find_probe_changes() if choices.rejoin else ()
    if changes:
        refused = "this site grants none of the further attempts (argo.rejoin) that the job asks for"
        return 0, f"{refused}: its nvflare has changed how a server is asked about a job: {changes[0]}"
    return choices.rejoin, choices.refused_attempts


def _read_study(request: _LaunchRequest, settings: Settings) -> Study:
    """Read the site's study file: version 2 if it exists, else version 1.

    Raises:
        SiteFileError: nvflare does not accept the file.
        InvalidInput: both files exist.
    """
    runtime_file = nvflare_internals.study_runtime_file(request.workspace)
    data_file = settings.study_data_pvc_file_path
    if not Path(runtime_file).exists():
        return _load_study(nvflare_internals.load_study_data, data_file, request.study)
    legacy = {str(Path(request.workspace, "local", "study_data.yaml")), *([data_file] if data_file else [])}
    conflicts = sorted(path for path in legacy if Path(path).exists())
    if conflicts:
        raise InvalidInput(
            runtime_file,
            Verbatim(f"used together with {', '.join(conflicts)}"),
            "one study file only: move all studies to study_runtime.yaml and delete the old file",
        )
    return _load_study(nvflare_internals.load_study_runtime, runtime_file, request.study)


def _load_study(load: Callable[[str | None, str | None], Study], file: str | None, study: str | None) -> Study:
    try:
        return load(file, study)
    except DocumentError:
        raise  # its text holds no value of the file
    except Exception as error:  # noqa: BLE001  (nvflare reads the file without checking its shape)
        raise study_file_error(str(file), error) from None


def _build_env(request: _LaunchRequest, study: Study, settings: Settings, owner: str) -> dict[str, str]:
    env = dict(study.env or {})
    if request.custom:
        root, custom = os.path.abspath(request.workspace), os.path.abspath(request.custom)  # noqa: PTH100  (no symlinks)
        if os.path.commonpath([root, custom]) != root:
            raise InvalidInput(
                "the job's custom folder", request.custom, f"a path under the workspace, {request.workspace}"
            )
        env["PYTHONPATH"] = str(Path(settings.workspace_mount_path, Path(custom).relative_to(root)))
    return {**env, nvflare_internals.OWNER_VARIABLE: owner}


def _build_secret_env(study: Study, secret: str, variables: tuple[str, ...]) -> list[Object]:
    """Return the variables that the container reads from Secrets: the job's credentials, and the study's variables."""
    return [*({"name": each, "source": secret, "key": each} for each in variables), *study.secret_env]


def _build_volumes(study: Study, mount_path: str, startup_secret: str, size_limit: str) -> Object:
    own_mounts = (
        Mount(
            volume={"name": _WORKSPACE_VOLUME, "emptyDir": {"sizeLimit": size_limit}},
            mount={"name": _WORKSPACE_VOLUME, "mountPath": mount_path},
        ),
        Mount(
            volume={"name": _STARTUP_VOLUME, "secret": {"secretName": startup_secret}},
            mount={"name": _STARTUP_VOLUME, "mountPath": str(Path(mount_path, "startup")), "readOnly": True},
        ),
    )
    mounts = (*own_mounts, *study.mounts)
    return {"volume_list": [each.volume for each in mounts], "volume_mount_list": [each.mount for each in mounts]}


def _read_startup_files(startup: Path) -> dict[str, bytes]:
    """Read the files of the startup kit that a job's process needs."""
    entries = sorted(startup.iterdir()) if startup.is_dir() else []
    files = {
        file.name: file.read_bytes()
        for file in entries
        if nvflare_internals.is_startup_file(file.name) and file.is_file()
    }
    for name in files:
        if not _SECRET_KEY.fullmatch(name):
            raise InvalidInput(
                str(startup / name),
                Verbatim("a file of the startup kit"),
                Sentence("has a name that no Secret can hold: use only letters, digits, ., - and _"),
            )
    size = sum(len(content) for content in files.values())
    if size > _MAX_SECRET_BYTES:
        raise InvalidInput(
            str(startup),
            Verbatim(f"{size} bytes of startup kit"),
            Sentence(f"has {size} bytes of files for jobs, but a Secret can hold only {_MAX_SECRET_BYTES}"),
        )
    return files
