"""Plans the changes that make a startup kit use flargo; the kit is prepared for Kubernetes by nvflare, or plain."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any, Final

from flargo.job import validate
from flargo.job.settings import Settings, check_settings
from flargo.job.validate import MISSING, InvalidInput, Sentence
from flargo.status import fields
from flargo.terms import Object, Role
from flargo.tools.kit import chart
from flargo.tools.kit.files import (
    NO_MODES,
    Change,
    Files,
    Modes,
    name_argo_option,
    plan_change,
    prefix_field,
    read_json,
    write_json,
)
from flargo.tools.kit.site import (
    CHART_VALUES,
    COMM_CONFIG,
    DEFAULT_RESOURCES,
    DEPLOYMENT_TEMPLATES,
    LAUNCHER_RESOURCES,
    RESOURCES,
    ROLE_TEMPLATE,
    STUDY_DATA,
    Site,
    components,
    is_flargo_launcher,
    is_launcher,
    optional_mapping,
    read_site,
)
from flargo.tools.kit.undo import prepend_record

_DEFAULT_WORKSPACE: Final = str(inspect.signature(check_settings).parameters["workspace_mount_path"].default)
_PARENT_PORT, _SERVER_SERVICE = 8102, "nvflare-server"
"""Defaults of nvflare.tool.deploy.k8s_deploy."""
_PROVISIONED_STORES = "/tmp/nvflare/"  # noqa: S108  (where provisioning puts the server's stores)
_MANAGERS = "nvflare.app_common.resource_managers"
PASSTHROUGH_MANAGER: Final[Object] = {
    "id": "resource_manager",
    "path": f"{_MANAGERS}.passthrough_resource_manager.PassthroughResourceManager",
    "args": {},
}
"""Grants a job any resources: Kubernetes decides which resources there are (`nvflare deploy prepare` uses it too)."""
_GPU_COMPONENTS = {
    f"{_MANAGERS}.gpu_resource_manager.GPUResourceManager",
    "nvflare.app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer",
}
"""Components that count and hand out the GPUs of the parent's own machine, which is not where jobs run."""
_SCHEDULER = "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler"


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """The settings that the user asks for; None leaves a setting as the kit has it."""

    namespace: str | None = None
    workspace: str | None = None
    """The path of the parent's workspace, and of the job's: they must be the same."""
    config_file: str | None = None
    max_jobs: int | None = None
    argo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The changes that prepare a kit, and what else the user should know."""

    site: Site
    settings: Settings
    """The launcher's settings in the prepared kit."""
    changes: list[Change]
    """The changes, in the order in which they must be written; empty if the kit is prepared already."""
    notes: list[str]
    """Messages for the user about components that are removed although they have arguments."""


def prepare(files: Files, options: PrepareOptions, modes: Modes = NO_MODES) -> Preparation:
    """Plan the changes that prepare a kit. Preparing the changed kit again plans no changes.

    Args:
        files: the kit's files.
        options: the settings that the user asks for.
        modes: the permissions of the files. A new file gets no more permissions than the file that its content is from.

    Raises:
        InvalidInput: the kit or an option is wrong; names the file or option, its value, and what is allowed.
    """
    site = read_site(files)
    _reject_other_launchers(site)
    old, new = _workspace_paths(site, options)
    args = _build_launcher_args(site, options, old, new)
    resources, notes = _build_resources(site, options, old, new)
    changes = [
        *_plan_resources_change(site, resources, modes.get(site.resources_file)),
        *plan_change(files, LAUNCHER_RESOURCES, _build_launcher_file(site, args), _max_launcher_mode(site, modes)),
        *plan_change(files, COMM_CONFIG, _build_comm_config(site)),
        *plan_change(files, CHART_VALUES, chart.move_workspace(site, old, new)),
    ]
    if site.values is not None:
        changes += plan_change(files, ROLE_TEMPLATE, chart.role_template(site, args.get("argo") or {}))
        changes += plan_change(files, DEPLOYMENT_TEMPLATES[site.role], chart.deployment_template(site))
    return Preparation(site, _validate_args(LAUNCHER_RESOURCES, args), prepend_record(files, changes, modes), notes)


def _reject_other_launchers(site: Site) -> None:
    """Check that launchers stand only in files that flargo rewrites, so that exactly one launcher is left."""
    for path, part in site.launchers():
        if path not in {site.resources_file, LAUNCHER_RESOURCES}:
            problem = (
                f"must not hold a launcher: FLARE accepts one only, flargo's in {LAUNCHER_RESOURCES}; remove this one"
            )
            raise InvalidInput(f"{path}: components", part.get("id"), Sentence(problem))


def _workspace_paths(site: Site, options: PrepareOptions) -> tuple[str, str]:
    """Return the path of the parent's workspace now, and its path in the prepared kit."""
    launcher = site.flargo_launcher or site.stock_launcher or {}
    configured = optional_mapping("args", launcher.get("args")).get("workspace_mount_path")
    old = chart.workspace_mount_path(site) or configured or _DEFAULT_WORKSPACE
    if options.workspace is None:
        return old, old
    return old, validate.absolute_path("--workspace", options.workspace).rstrip("/")


def _build_launcher_args(site: Site, options: PrepareOptions, old: str, new: str) -> Object:
    """Return the launcher's arguments: an earlier run's, else the stock launcher's, overridden by the options."""
    launcher, source = site.flargo_launcher, LAUNCHER_RESOURCES
    if launcher is None:
        launcher, source = site.stock_launcher or {}, site.resources_file
    args: Object = {"config_file_path": None, **optional_mapping(f"{source}: args", launcher.get("args"))}
    if launcher == {} and STUDY_DATA in site.files:
        args["study_data_pvc_file_path"] = f"{new}/{STUDY_DATA}"
    if options.namespace is not None:
        args["namespace"] = validate.dns_label("--namespace", options.namespace)
    if "namespace" not in args:
        problem = "is required, because this kit does not name a namespace: add the one in which jobs run"
        raise InvalidInput("--namespace", MISSING, Sentence(problem))
    if options.config_file is not None:
        args["config_file_path"] = validate.absolute_path("--config-file", options.config_file)
    args["workspace_mount_path"] = new
    if "study_data_pvc_file_path" in args:
        args["study_data_pvc_file_path"] = _move_path(args["study_data_pvc_file_path"], old, new)
    accounts = chart.chart_accounts(site) if site.values is not None else {}
    _validate_args(source, args)
    argo = {**accounts, **(args.get("argo") or {}), **options.argo}
    if argo:
        args = {**args, "argo": argo}
    try:
        check_settings(**args)
    except InvalidInput as error:  # all but argo has been checked
        raise name_argo_option(error) from None
    return args


def _validate_args(source: str, args: Object) -> Settings:
    """Check a launcher's arguments as the launcher itself checks them.

    Raises:
        InvalidInput: a value is not allowed, or FLARE's launcher has no such argument.
    """
    try:
        validate.refuse_unknown_keys("args", args, inspect.signature(check_settings).parameters)
        return check_settings(**args)
    except InvalidInput as error:
        raise prefix_field(source, error) from None


def _build_launcher_file(site: Site, args: Object) -> bytes:
    """Return the file with flargo's launcher; components of the site's own in it stay, unless they are launchers."""
    path = f"flargo.{site.role.capitalize()}ArgoJobLauncher"
    launcher = {"id": "argo_launcher", "path": path, "args": args}
    before = site.files.get(LAUNCHER_RESOURCES)
    if before is None:
        return write_json({"format_version": 2, "components": [launcher]})
    old = read_json(site.files, LAUNCHER_RESOURCES)
    others = [part for part in components(old, LAUNCHER_RESOURCES) if not is_launcher(part)]
    new = {**old, "components": [*others, launcher]}
    return before if new == old else write_json(new, before)


def _max_launcher_mode(site: Site, modes: Modes) -> int | None:
    """Return the most permissions that the launcher's file may have if its arguments are the stock launcher's."""
    if site.flargo_launcher is not None:
        return None
    source_modes = [modes[path] for path in (site.resources_file, DEFAULT_RESOURCES) if path in modes]
    return reduce(and_, source_modes) if source_modes else None


def _plan_resources_change(site: Site, resources: Object, mode: int | None) -> list[Change]:
    """Write other components to RESOURCES; `nvflare deploy k8s stage` still needs the default file as it is."""
    if resources == site.resources:
        return []
    return plan_change(site.files, RESOURCES, write_json(resources, site.files[site.resources_file]), mode)


def _build_resources(site: Site, options: PrepareOptions, old: str, new: str) -> tuple[Object, list[str]]:
    """Return the components of the parent and of jobs without any launcher, and notes on what was removed."""
    resources = deepcopy(site.resources)
    parts: list[Object] = []
    notes = []
    for part in components(resources, site.resources_file):
        if is_launcher(part) or part.get("path") in _GPU_COMPONENTS:
            # Provisioning's own components have empty or zero arguments, so removing them loses nothing.
            if not is_flargo_launcher(part) and part.get("id") != "k8s_launcher" and _has_values(part.get("args")):
                notes.append(f"{site.resources_file}: {part.get('id')} is removed, with its arguments {part['args']}")
            continue
        parts.append(part)
    if not any(part.get("id") == "resource_manager" for part in parts):
        parts.append(deepcopy(PASSTHROUGH_MANAGER))
    resources["components"] = parts
    if site.role is Role.SERVER:
        _move_stores(resources, parts, old, new)
    if options.max_jobs is not None:
        _limit_jobs(site, parts, options.max_jobs)
    return resources, notes


def _has_values(args: Any) -> bool:
    return any(value for key, value in (args or {}).items() if key != "expiration_period")


def _move_stores(resources: Object, parts: list[Object], old: str, new: str) -> None:
    """Move the server's stores along with its workspace, or into it from where provisioning puts them.

    The server's job opens the stores too, and its workspace is the one place that it can certainly write to. A path
    that the site chose itself does not change.
    """
    storage = fields.mapping(resources, "snapshot_persistor", "args", "storage", "args")
    managers = [fields.mapping(part, "args") for part in parts if part.get("id") == "job_manager"]
    for args, key in [(storage, "root_dir"), *((manager, "uri_root") for manager in managers)]:
        path = args.get(key)
        if isinstance(path, str):
            provisioned = f"{new}/{path.removeprefix(_PROVISIONED_STORES)}"
            args[key] = provisioned if path.startswith(_PROVISIONED_STORES) else _move_path(path, old, new)


def _move_path(path: Any, old: str, new: str) -> Any:
    """Return a path below the old workspace as the same path below the new one; other values unchanged."""
    return f"{new}{path.removeprefix(old)}" if isinstance(path, str) and path.startswith(f"{old}/") else path


def _limit_jobs(site: Site, parts: list[Object], max_jobs: int) -> None:
    """Set how many jobs run at once.

    The server's scheduler looks at no job while that many run, so jobs may wait as long as they like. A client's
    resource manager cannot set this limit: FLARE gives up a job that a client has refused ten times.
    """
    if site.role is not Role.SERVER:
        problem = "applies only to a server's kit: FLARE's server decides for all sites how many jobs run at once"
        raise InvalidInput("--max-jobs", max_jobs, Sentence(problem))
    validate.at_least(1, "a whole number")("--max-jobs", max_jobs)
    schedulers = [part for part in parts if part.get("id") == "job_scheduler"]
    if len(schedulers) != 1 or schedulers[0].get("path") != _SCHEDULER:
        path = schedulers[0].get("path") if schedulers else MISSING
        field = f"{site.resources_file}: components['job_scheduler'].path"
        raise InvalidInput(field, path, f"{_SCHEDULER}, which --max-jobs needs")
    (scheduler,) = schedulers
    args = optional_mapping(f"{site.resources_file}: job_scheduler.args", scheduler.get("args"))
    scheduler["args"] = {**args, "max_jobs": max_jobs}


def _build_comm_config(site: Site) -> bytes:
    """Return the configuration of the parent's listener for its jobs: TCP, at the parent's Service.

    Connections are encrypted (mtls) unless the file says otherwise.

    Raises:
        InvalidInput: the existing file cannot be right, or no name for the Service is known.
    """
    before = site.files.get(COMM_CONFIG)
    old: Object = {"allow_adhoc_conns": False, "backbone_conn_gen": 2}
    if before is not None:
        old = read_json(site.files, COMM_CONFIG)
    internal = optional_mapping(f"{COMM_CONFIG}: internal", old.get("internal"))
    validate.one_of("tcp")(f"{COMM_CONFIG}: internal.scheme", internal.get("scheme", "tcp"))
    resources = optional_mapping(f"{COMM_CONFIG}: internal.resources", internal.get("resources"))
    security = resources.get("connection_security", "mtls")
    validate.one_of("mtls", "clear")(f"{COMM_CONFIG}: internal.resources.connection_security", security)
    host, port = _service_address(site, resources)
    listener = {**resources, "connection_security": security, "host": host, "port": port}
    new = {**old, "internal": {**internal, "scheme": "tcp", "resources": listener}}
    return before if before is not None and new == old else write_json(new, before)


def _service_address(site: Site, resources: Object) -> tuple[Any, Any]:
    """Return name and port of the parent's Service: the chart's, else the kit's own, else nvflare's defaults."""
    if site.values is not None:
        port_key = "parentPort" if site.role is Role.SERVER else "port"
        host, port = site.values.get("serviceName"), site.values.get(port_key)
        validate.text(f"{CHART_VALUES}: serviceName", host)
        return host, validate.at_least(1, "a port")(f"{CHART_VALUES}: {port_key}", port)
    host = resources.get("host") or (_SERVER_SERVICE if site.role is Role.SERVER else site.name)
    if "host" not in resources:
        try:
            validate.dns_label("the Service's name", host)
        except InvalidInput:
            problem = "is required, because no Service can have the site's name: add the name of the parent's Service"
            raise InvalidInput(f"{COMM_CONFIG}: internal.resources.host", MISSING, Sentence(problem)) from None
    return host, resources.get("port", _PARENT_PORT)


def diff_base(files: Files, change: Change) -> tuple[str, bytes] | None:
    """Return path and content of the file that a new file is an edited copy of, for its diff; None if there is none.

    The content is laid out as flargo writes JSON, because provisioning lays its lists out differently.
    """
    if change.path != RESOURCES or change.before is not None or DEFAULT_RESOURCES not in files:
        return None
    return DEFAULT_RESOURCES, write_json(read_json(files, DEFAULT_RESOURCES), files[DEFAULT_RESOURCES])
