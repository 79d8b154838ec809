"""From FLARE's launch call to a launch: everything is read, checked and copied, and nothing of FLARE's is kept.

Who says what, and what of it is believed, is in flargo.job.trust. The order of precedence is
K8sJobLauncher.launch_job's: the job's value, then the study's, then the site's.
"""

import base64
import hashlib
import heapq
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
from flargo.flare.nvflare_internals import Mount, Study, WorkspaceTransfer
from flargo.flare.nvflare_messages import pod_template_error, study_file_error
from flargo.flare.report import Report
from flargo.job import names, validate
from flargo.job.documents import DocumentError
from flargo.job.pod import STOCK_GPU
from flargo.job.settings import Settings
from flargo.job.trust import JOB_META, JOB_SPEC
from flargo.job.validate import MISSING, InvalidInput, Verbatim
from flargo.parsing import is_attempt
from flargo.terms import Launch, Object, Parent, Role, SecretData

ROOT_CERTIFICATE = "rootCA.pem"
"""The certificate, in a site's startup kit, that all parties of a federation share."""
_PEM = re.compile("-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\\s]+)-----END CERTIFICATE-----")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_SECRET_LIMIT = 1024 * 1024
"""Bytes that a Secret may hold (Kubernetes' MaxSecretSize)."""
_TOLD = 10
"""Ignored keys that the one warning names."""
_SHAPES = {
    JobMetaKey.JOB_LAUNCHER_SPEC: {"default": {nvflare_internals.MODE: {"image": "registry.example/name:tag"}}},
    JobMetaKey.RESOURCE_SPEC: {"@default": {"num_of_gpus": 1}},
}
_VALUES = {
    JobMetaKey.JOB_LAUNCHER_SPEC: "a dictionary of dictionaries",
    JobMetaKey.RESOURCE_SPEC: (
        "num_of_gpus a whole number >= 0 (the same as in launcher_spec, if it is there too), num_of_cpus one > 0,"
        " memory one > 0 with Mi, Gi, or Ti, and no device_requests of Docker's beside them"
    ),
}
"""By get_job_launcher_spec and get_portable_resource_spec of nvflare/utils/job_launcher_utils.py."""
_WORKSPACE_VOLUME, _STARTUP_VOLUME = "workspace-job", "startup-kit"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _LaunchRequest:
    """What a launch starts from."""

    site: str
    job_id: str
    study: str | None
    workspace: str
    custom: str
    startup: Path
    set_options: tuple[str, ...]
    process_args: Mapping[str, Any]
    module: str
    cell: Any
    spec: Mapping[str, Any]
    """The job's part of launcher_spec, checked."""
    portable: Mapping[str, Any]
    where: str
    """How the job's author finds that part."""


@dataclass(frozen=True, slots=True)
class _Called:
    """The names of what a launch makes."""

    key: str
    """The job's id as part of names."""
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
    """Read one launch. No network, nothing kept of the context, and nothing registered unless all is well.

    Args:
        job_meta: the job's.
        fl_ctx: FLARE's, with the workspace, its arguments and the job process's.
        role: which side of the job.
        settings: the site's.
        attempt: a new random id, of lower-case letters and digits.
        epoch: the parent process's random id.

    Returns:
        The launch, and the registered transfer of its workspace: if the launch goes no further, ``remove`` it.

    Raises:
        Refused: something is missing or not allowed; says what, where and what would be.
    """
    if not is_attempt(attempt):
        raise InvalidInput("attempt", attempt, "1 to 20 lower-case letters and digits")
    asked = _ask(job_meta, fl_ctx, settings)
    study = _study(asked, settings)
    parent = Parent(asked.site, federation_id(asked.startup), epoch, role)
    called = _call(asked, parent, attempt)
    startup = SecretData(called.startup, _startup_files(asked.startup))
    credentials = {
        variable: value.encode() for variable, value in nvflare_internals.credential_env(asked.process_args).items()
    }
    transfer = WorkspaceTransfer(asked.cell, asked.job_id, asked.workspace)
    config: Object = {
        "name": called.pod,
        "image": _image(asked, study, settings),
        "container_name": called.container,
        "command": asked.module,
        "module_args": nvflare_internals.module_args(asked.process_args, role),
        "set_list": list(asked.set_options),
        "env": _env(asked, study, settings, transfer.owner),
        "secret_env": _secret_env(study, called.credentials, (*credentials, nvflare_internals.TOKEN_VARIABLE)),
        "resources": _resources(asked, settings),
        "image_pull_secrets": list(settings.image_pull_secrets),
        "security_context": settings.security_context,
        **_volumes(asked, study, settings, called.startup),
    }
    launch = Launch(
        job_id=asked.job_id,
        job_name=_of_meta(job_meta, JobMetaKey.JOB_NAME),
        study=asked.study or "",
        parent=parent,
        attempt=attempt,
        pod=_render(config, asked, study, called, settings),
        container=called.container,
        startup=startup,
        credentials=SecretData(called.credentials, credentials),
        pending=_pending_timeout(asked, settings),
    )
    # Last: from here on nothing can fail that would leave it registered.
    credentials = {**credentials, nvflare_internals.TOKEN_VARIABLE: transfer.register().encode()}
    return replace(launch, credentials=SecretData(called.credentials, credentials)), transfer


def read_parent(fl_ctx: FLContext, role: Role, epoch: str) -> Parent:
    """Who this FLARE parent is.

    Raises:
        Refused: the context or the startup kit does not say.
    """
    site = _site(fl_ctx)
    workspace = _of_context(fl_ctx, FLContextKey.WORKSPACE_OBJECT, lambda found: found is not None)
    return Parent(site, federation_id(Path(workspace.get_startup_kit_dir())), epoch, role)


def read_report(job_meta: dict[str, Any], fl_ctx: FLContext, role: Role) -> Report:
    """Where a job's outcome is told.

    Raises:
        Refused: the context or the metadata does not say whose outcome it would be.
    """
    job_id, site = _of_meta(job_meta, JobMetaKey.JOB_ID), _site(fl_ctx)
    workspace = _of_context(fl_ctx, FLContextKey.WORKSPACE_OBJECT, lambda found: found is not None)
    return Report(
        job_id,
        site,
        role,
        run_dir=Path(workspace.get_run_dir(job_id)),
        error_log=Path(workspace.get_app_error_log_file_path(job_id)),
    )


def federation_id(startup: Path) -> str:
    """Which federation a site is in: 32 hex digits of the SHA-256 of its root certificate, as DER.

    Raises:
        Refused: the certificate is not in the startup kit, or is none.
    """
    file = startup / ROOT_CERTIFICATE
    allowed = "a file with the federation's root certificate, as `nvflare provision` makes it"
    try:
        found = _PEM.search(file.read_text("ascii", "replace"))
    except OSError as error:
        raise InvalidInput(str(file), MISSING, f"{allowed} ({error.strerror})") from None
    try:
        der = base64.b64decode("".join(found.group(1).split()), validate=True) if found else b""
    except ValueError:
        der = b""
    if not der:
        raise InvalidInput(str(file), "without a readable PEM certificate", allowed)
    return hashlib.sha256(der).hexdigest()[: names.FEDERATION_DIGITS]


def _call(asked: _LaunchRequest, parent: Parent, attempt: str) -> _Called:
    key = nvflare_internals.job_key(asked.job_id)
    pod = validate.dns_label("the pod's name", nvflare_internals.pod_name(key, asked.site))
    return _Called(
        key=key,
        pod=pod,
        container=f"container-{key}",
        startup=names.startup_secret(nvflare_internals.site_key(asked.site), parent.federation),
        credentials=names.credentials_secret(pod, attempt),
    )


def _render(config: Object, asked: _LaunchRequest, study: Study, called: _Called, settings: Settings) -> Object:
    """The stock launcher's pod, in the launcher's namespace whatever its template says."""
    template = study.pod_template
    # Credentials must not land on a sidecar, so a template with several containers has to say which is the job's.
    whole = {**config, "require_main_container": template is not None}
    python = _python(asked, settings)
    try:
        pod = nvflare_internals.render_pod(whole, name=called.pod, key=called.key, python=python, pod_template=template)
    except Exception as error:  # noqa: BLE001  (nvflare looks into whatever shape the template has)
        raise pod_template_error(error) from None
    namespace = pod["metadata"].get("namespace")
    if namespace is not None and namespace != settings.namespace:
        _log.warning("the pod template's own namespace is not taken: jobs run in %r", settings.namespace)
        pod["metadata"]["namespace"] = settings.namespace
    return pod


def _ask(job_meta: dict[str, Any], fl_ctx: FLContext, settings: Settings) -> _LaunchRequest:
    site = _site(fl_ctx)
    job_id = _of_meta(job_meta, JobMetaKey.JOB_ID)
    workspace = _of_context(fl_ctx, FLContextKey.WORKSPACE_OBJECT, lambda found: found is not None)
    args = _of_context(fl_ctx, FLContextKey.ARGS, lambda found: found is not None)
    spec, where = _job_spec(job_meta, site)
    process_args = _of_context(fl_ctx, FLContextKey.JOB_PROCESS_ARGS, bool)
    module = nvflare_internals.exe_module(process_args)
    if not module:
        raise InvalidInput(f"exe_module in {FLContextKey.JOB_PROCESS_ARGS} of FLContext", MISSING, "a Python module")
    cell = getattr(fl_ctx.get_engine(), "cell", None)
    if cell is None:
        raise InvalidInput("the parent's cell in FLContext's engine", MISSING, "the cell that job processes connect to")
    if str(args.workspace) != settings.workspace_mount_path:
        # The stock launcher says nothing, and the job's process does not find its workspace.
        said = "the parent's workspace is %s, where the job's process looks for it; workspace_mount_path puts it at %s"
        _log.warning(said, args.workspace, settings.workspace_mount_path)
    return _LaunchRequest(
        site=site,
        job_id=job_id,
        study=_of_meta(job_meta, JobMetaKey.STUDY),
        workspace=str(args.workspace),
        custom=str(workspace.get_app_custom_dir(job_id) or ""),
        startup=Path(workspace.get_startup_kit_dir()),
        set_options=tuple(str(option) for option in getattr(args, "set", None) or ()),
        process_args=process_args,
        module=module,
        cell=cell,
        spec=spec,
        portable=_of_job(job_meta, JobMetaKey.RESOURCE_SPEC, site, nvflare_internals.portable_spec),
        where=where,
    )


def _of_meta(job_meta: dict[str, Any], key: JobMetaKey) -> Any:
    return JOB_META[key.value].validate(f"job_meta[{key.value!r}]", job_meta.get(key.value))


def _site(fl_ctx: FLContext) -> str:
    field, site = "the site's name in FLContext", fl_ctx.get_identity_name()
    if not site:
        raise InvalidInput(field, MISSING, "a name")
    if "{{" in validate.line(field, site):
        raise InvalidInput(field, site, "a name without {{, which Argo would evaluate")
    return str(site)


def _of_context(fl_ctx: FLContext, key: str, is_there: Callable[[Any], bool]) -> Any:
    found = fl_ctx.get_prop(key)
    if not is_there(found):
        raise InvalidInput(f"{key} in FLContext", MISSING if found is None else found, "what FLARE puts there")
    return found


def _of_job(
    job_meta: dict[str, Any],
    key: JobMetaKey,
    site: str,
    resolve: Callable[[dict[str, Any], str], dict[str, Any]],
) -> dict[str, Any]:
    """What a job says for a site, by nvflare's own rules."""
    field = f"job_meta[{key.value!r}]"
    try:
        return validate.mapping(field, resolve(job_meta, site))
    except InvalidInput:
        raise
    except ValueError:
        allowed = f"what nvflare takes for site {site!r}: {_VALUES[key]}, as in {_SHAPES[key]}"
        raise InvalidInput(field, job_meta.get(key.value), allowed) from None
    except (TypeError, AttributeError, LookupError, RecursionError):
        # nvflare looks into whatever shape it finds, and what it trips over there helps nobody.
        allowed = f"a dictionary of dictionaries, as in {_SHAPES[key]}"
        raise InvalidInput(field, job_meta.get(key.value), allowed) from None


def _job_spec(job_meta: dict[str, Any], site: str) -> tuple[dict[str, Any], str]:
    """The job's part of launcher_spec, checked. As with the stock launcher, other keys say nothing."""
    where = f"launcher_spec[{site!r}][{nvflare_internals.MODE!r}]"
    given = _of_job(job_meta, JobMetaKey.JOB_LAUNCHER_SPEC, site, nvflare_internals.launcher_spec)
    ignored = set(given) - set(JOB_SPEC)
    if ignored:
        known = ", ".join(sorted({*JOB_SPEC} - {"argo"}))
        first = [names.display_text(key) for key in heapq.nsmallest(_TOLD, ignored)]
        _log.warning("%s: %d keys without meaning are ignored: %s; known are %s", where, len(ignored), first, known)
    return {key: row.validate(f"{where}[{key!r}]", given[key]) for key, row in JOB_SPEC.items() if key in given}, where


def _image(asked: _LaunchRequest, study: Study, settings: Settings) -> str:
    field = f"{asked.where}['image']"
    if asked.spec.get("image"):
        settings.argo.policy.enforce_image(field, asked.spec["image"])
        return str(asked.spec["image"])
    if not study.image:
        raise InvalidInput(
            field,
            MISSING,
            f"an image, there or in launcher_spec['default'][{nvflare_internals.MODE!r}]['image'] (shared default), in"
            f" resource_spec[{asked.site!r}][{nvflare_internals.MODE!r}]['image'] (legacy), or as"
            " studies.<study>.container.image in local/study_runtime.yaml (the site's default)",
        )
    return study.image


def _pending_timeout(asked: _LaunchRequest, settings: Settings) -> float | None:
    if "pending_timeout" not in asked.spec:
        return settings.pending_timeout
    seconds: float | None = asked.spec["pending_timeout"]
    settings.argo.policy.enforce_pending_timeout(f"{asked.where}['pending_timeout']", seconds)
    return seconds


def _python(asked: _LaunchRequest, settings: Settings) -> str:
    if "python_path" not in asked.spec:
        return settings.python_path
    settings.argo.policy.enforce_python(f"{asked.where}['python_path']", asked.spec["python_path"])
    return str(asked.spec["python_path"])


def _study(asked: _LaunchRequest, settings: Settings) -> Study:
    """What the site's study file says: version 2 if it is there, else version 1, and never both.

    Raises:
        SiteFileError: the file is not what nvflare takes.
        Refused: there are both.
    """
    runtime_file = nvflare_internals.study_runtime_file(asked.workspace)
    old_file = settings.study_data_pvc_file_path
    if not Path(runtime_file).exists():
        return _loaded(nvflare_internals.load_study_data, old_file, asked.study)
    legacy = {str(Path(asked.workspace, "local", "study_data.yaml")), *([old_file] if old_file else [])}
    conflicts = sorted(path for path in legacy if Path(path).exists())
    if conflicts:
        raise InvalidInput(
            runtime_file,
            Verbatim(f"beside {', '.join(conflicts)}"),
            "one study file only: move all studies to study_runtime.yaml and delete the old file",
        )
    return _loaded(nvflare_internals.load_study_runtime, runtime_file, asked.study)


def _loaded(load: Callable[[str | None, str | None], Study], file: str | None, study: str | None) -> Study:
    try:
        return load(file, study)
    except DocumentError:
        raise  # an error that carries no value
    except Exception as error:  # noqa: BLE001  (nvflare looks into whatever shape the file has)
        raise study_file_error(str(file), error) from None


def _env(asked: _LaunchRequest, study: Study, settings: Settings, owner: str) -> dict[str, str]:
    env = dict(study.env or {})
    if asked.custom:
        root, custom = os.path.abspath(asked.workspace), os.path.abspath(asked.custom)  # noqa: PTH100  (no symlinks)
        if os.path.commonpath([root, custom]) != root:
            raise InvalidInput(
                "the job's custom folder", asked.custom, f"a path under the workspace, {asked.workspace}"
            )
        env["PYTHONPATH"] = str(Path(settings.workspace_mount_path, Path(custom).relative_to(root)))
    return {**env, nvflare_internals.OWNER_VARIABLE: owner}


def _secret_env(study: Study, secret: str, variables: tuple[str, ...]) -> list[Object]:
    """The variables that the container reads from Secrets: its credentials, and the study's."""
    return [*({"name": each, "source": secret, "key": each} for each in variables), *study.secret_env]


def _volumes(asked: _LaunchRequest, study: Study, settings: Settings, startup_secret: str) -> Object:
    mount_path = settings.workspace_mount_path
    own = (
        Mount(
            volume={"name": _WORKSPACE_VOLUME, "emptyDir": {"sizeLimit": _ephemeral_storage(asked, settings)}},
            mount={"name": _WORKSPACE_VOLUME, "mountPath": mount_path},
        ),
        Mount(
            volume={"name": _STARTUP_VOLUME, "secret": {"secretName": startup_secret}},
            mount={"name": _STARTUP_VOLUME, "mountPath": str(Path(mount_path, "startup")), "readOnly": True},
        ),
    )
    mounts = (*own, *study.mounts)
    return {"volume_list": [each.volume for each in mounts], "volume_mount_list": [each.mount for each in mounts]}


def _ephemeral_storage(asked: _LaunchRequest, settings: Settings) -> str:
    said = asked.spec.get("ephemeral_storage")
    return settings.ephemeral_storage if said is None else str(said)


def _resources(asked: _LaunchRequest, settings: Settings) -> Object:
    """The container's resources: what the job says to this launcher, and over it what it says in nvflare's words."""
    spec, portable = asked.spec, asked.portable
    storage = _ephemeral_storage(asked, settings)
    limits: Object = {"ephemeral-storage": storage}
    requests: Object = {"ephemeral-storage": storage}
    for name in ("cpu", "memory"):
        limit = spec.get(name)
        # Without a request of its own the limit is requested: some admission webhooks ask for one.
        request = spec.get(f"{name}_request", limit)
        limits |= {name: limit} if limit else {}
        requests |= {name: request} if request else {}
    gpus = spec.get("num_of_gpus", portable.get("num_of_gpus", 0))
    both: Object = {
        **({"cpu": str(portable["num_of_cpus"])} if "num_of_cpus" in portable else {}),
        **({"memory": portable["memory"]} if "memory" in portable else {}),
        **({STOCK_GPU: gpus} if gpus else {}),
    }
    made: Object = {"requests": {**requests, **both}, "limits": {**limits, **both}}
    _build_resources(made, asked, settings)
    return made


def _build_resources(made: Object, asked: _LaunchRequest, settings: Settings) -> None:
    where = asked.where
    for part in made.values():
        for name, amount in part.items():
            validate.quantity(f"{where}: {name}", amount)
    for name, request in made["requests"].items():
        limit = made["limits"].get(name)
        if limit is not None and validate.amount(request) > validate.amount(limit):
            raise InvalidInput(f"{where}: the request of {name}", request, f"at most its limit, {limit}")
    settings.argo.policy.enforce_limits(where, made["limits"], STOCK_GPU)


def _startup_files(startup: Path) -> dict[str, bytes]:
    """The files of the startup kit that a job's process reads."""
    found = sorted(startup.iterdir()) if startup.is_dir() else []
    files = {
        file.name: file.read_bytes()
        for file in found
        if nvflare_internals.is_startup_file(file.name) and file.is_file()
    }
    for name in files:
        if not _SECRET_KEY.fullmatch(name):
            raise InvalidInput(
                str(startup / name), "a file of the startup kit", "a name of letters, digits, ., - and _"
            )
    size = sum(len(content) for content in files.values())
    if size > _SECRET_LIMIT:
        raise InvalidInput(
            str(startup), f"{size} bytes of startup kit", f"at most {_SECRET_LIMIT}: all a Secret can hold"
        )
    return files
