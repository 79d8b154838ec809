"""From a kit for Kubernetes, or a plain one, to one that uses flargo."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Any, Final

from flargo.job import validate
from flargo.job.settings import Settings, settings
from flargo.job.validate import MISSING, InvalidInput
from flargo.status import fields
from flargo.terms import Object, Role
from flargo.tools.kit import chart
from flargo.tools.kit.files import NO_MODES, Change, Files, Modes, plan_change, prefix_field, read_json, write_json
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

_DEFAULT_WORKSPACE: Final = str(inspect.signature(settings).parameters["workspace_mount_path"].default)
_PARENT_PORT, _SERVER_SERVICE = 8102, "nvflare-server"
"""nvflare.tool.deploy.k8s_deploy's defaults."""
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
"""They count and hand out the GPUs of the parent's own machine, which is not where jobs run."""
_SCHEDULER = "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler"


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What the site wants otherwise than its kit says; None: as the kit says."""

    namespace: str | None = None
    workspace: str | None = None
    """The parent's workspace, and the job's: they must be the same path."""
    config_file: str | None = None
    max_jobs: int | None = None
    argo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is to be done to a kit."""

    site: Site
    settings: Settings
    """The launcher's, as the prepared kit has them."""
    changes: list[Change]
    """In the order in which they are to be written; none: it is prepared already."""
    notes: list[str]
    """For the person who asked: what was taken out that said something."""


def prepare(files: Files, options: PrepareOptions, modes: Modes = NO_MODES) -> Preparation:
    """Find what a kit lacks. Applied once, there is nothing left to change.

    Args:
        files: the kit's.
        options: what the site wants otherwise than its kit says.
        modes: the files' permissions. A new file gets no wider ones than the file that its content is from.

    Raises:
        Refused: the kit or a wish is wrong; it names the file or option, the value, and what is allowed.
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
    """Exactly one launcher is left if all that are not flargo's are in the file that flargo rewrites."""
    for path, part in site.launchers():
        if path not in {site.resources_file, LAUNCHER_RESOURCES}:
            allowed = f"no launcher there: flargo's goes to {LAUNCHER_RESOURCES}, and FLARE takes no second one"
            raise InvalidInput(f"{path}: components", part.get("id"), allowed)


def _workspace_paths(site: Site, options: PrepareOptions) -> tuple[str, str]:
    """The parent's workspace now, and as it is to be."""
    launcher = site.flargo_launcher or site.stock_launcher or {}
    said = optional_mapping("args", launcher.get("args")).get("workspace_mount_path")
    old = chart.workspace_mount_path(site) or said or _DEFAULT_WORKSPACE
    return old, old if options.workspace is None else validate.absolute_path("--workspace", options.workspace).rstrip(
        "/"
    )


def _build_launcher_args(site: Site, options: PrepareOptions, old: str, new: str) -> Object:
    """The launcher's arguments: an earlier run's, else the stock launcher's, and over them what is wished."""
    launcher, source = site.flargo_launcher, LAUNCHER_RESOURCES
    if launcher is None:
        launcher, source = site.stock_launcher or {}, site.resources_file
    args: Object = {"config_file_path": None, **optional_mapping(f"{source}: args", launcher.get("args"))}
    if launcher == {} and STUDY_DATA in site.files:
        args["study_data_pvc_file_path"] = f"{new}/{STUDY_DATA}"
    if options.namespace is not None:
        args["namespace"] = validate.dns_label("--namespace", options.namespace)
    if "namespace" not in args:
        raise InvalidInput("--namespace", MISSING, "the namespace that jobs run in: this kit does not say")
    if options.config_file is not None:
        args["config_file_path"] = validate.absolute_path("--config-file", options.config_file)
    args["workspace_mount_path"] = new
    if "study_data_pvc_file_path" in args:
        args["study_data_pvc_file_path"] = _move_path(args["study_data_pvc_file_path"], old, new)
    own = chart.chart_accounts(site) if site.values is not None else {}
    _validate_args(source, args)
    argo = {**own, **(args.get("argo") or {}), **options.argo}
    together = {**args, "argo": argo} if argo else args
    _validate_args("--argo", together)
    return together


def _validate_args(source: str, args: Object) -> Settings:
    """A launcher's arguments, as the launcher itself checks them.

    Raises:
        Refused: one is wrong, or FLARE's launcher has no such argument.
    """
    try:
        validate.known_keys("args", args, inspect.signature(settings).parameters)
        return settings(**args)
    except InvalidInput as refused:
        raise prefix_field(source, refused) from None


def _build_launcher_file(site: Site, args: Object) -> bytes:
    path = f"flargo.{site.role.capitalize()}ArgoJobLauncher"
    launcher = {"id": "argo_launcher", "path": path, "args": args}
    before = site.files.get(LAUNCHER_RESOURCES)
    if before is None:
        return write_json({"format_version": 2, "components": [launcher]})
    found = read_json(site.files, LAUNCHER_RESOURCES)
    others = [part for part in components(found, LAUNCHER_RESOURCES) if not is_launcher(part)]
    made = {**found, "components": [*others, launcher]}
    return before if made == found else write_json(made, before)


def _max_launcher_mode(site: Site, modes: Modes) -> int | None:
    """The permissions of the launcher's file at most, where its arguments come from the stock launcher's files."""
    if site.flargo_launcher is not None:
        return None
    known = [modes[path] for path in (site.resources_file, DEFAULT_RESOURCES) if path in modes]
    return reduce(and_, known) if known else None


def _plan_resources_change(site: Site, resources: Object, mode: int | None) -> list[Change]:
    """Where the components are other than FLARE reads them now; the default file stays, for staging."""
    if resources == site.resources:
        return []
    return plan_change(site.files, RESOURCES, write_json(resources, site.files[site.resources_file]), mode)


def _build_resources(site: Site, options: PrepareOptions, old: str, new: str) -> tuple[Object, list[str]]:
    """The parent's and the jobs' components: without launcher, and everything else as it was."""
    resources = deepcopy(site.resources)
    parts: list[Object] = []
    notes = []
    for part in components(resources, site.resources_file):
        if is_launcher(part) or part.get("path") in _GPU_COMPONENTS:
            # What comes ready-made has empty or zero arguments: then nobody loses anything.
            if not is_flargo_launcher(part) and part.get("id") != "k8s_launcher" and _has_values(part.get("args")):
                notes.append(f"{site.resources_file}: {part.get('id')} is taken out, with its arguments {part['args']}")
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
    said = {key: value for key, value in (args or {}).items() if key != "expiration_period"}
    return any(said.values())


def _move_stores(resources: Object, parts: list[Object], old: str, new: str) -> None:
    """The server's stores move with its workspace, and into it from where provisioning puts them.

    The server's job opens them too, and its workspace is the one place that it can surely write to. A place that
    the site chose itself stays.
    """
    storage = fields.mapping(resources, "snapshot_persistor", "args", "storage", "args")
    managers = [fields.mapping(part, "args") for part in parts if part.get("id") == "job_manager"]
    for args, key in [(storage, "root_dir"), *((each, "uri_root") for each in managers)]:
        place = args.get(key)
        if isinstance(place, str):
            fresh = place.startswith(_PROVISIONED_STORES)
            args[key] = f"{new}/{place.removeprefix(_PROVISIONED_STORES)}" if fresh else _move_path(place, old, new)


def _move_path(place: Any, old: str, new: str) -> Any:
    """A path under the workspace, where the workspace is to be."""
    return f"{new}{place.removeprefix(old)}" if isinstance(place, str) and place.startswith(f"{old}/") else place


def _limit_jobs(site: Site, parts: list[Object], most: int) -> None:
    """How many jobs run at once: the server's scheduler looks at no job while so many run, so they wait, uncounted.

    A client's resource manager would be no such bound: FLARE gives a job up that a client has refused ten times.
    """
    if site.role is not Role.SERVER:
        allowed = "nothing, for a client's kit: FLARE's server decides for all sites how many jobs run at once"
        raise InvalidInput("--max-jobs", most, allowed)
    validate.at_least(1, "a whole number")("--max-jobs", most)
    found = [part for part in parts if part.get("id") == "job_scheduler"]
    if len(found) != 1 or found[0].get("path") != _SCHEDULER:
        said = found[0].get("path") if found else MISSING
        raise InvalidInput(
            f"{site.resources_file}: components['job_scheduler'].path", said, f"{_SCHEDULER}, for --max-jobs"
        )
    found[0]["args"] = {
        **optional_mapping(f"{site.resources_file}: job_scheduler.args", found[0].get("args")),
        "max_jobs": most,
    }


def _build_comm_config(site: Site) -> bytes:
    """The parent's listener for its jobs: at its Service, by TCP, encrypted unless the site has said otherwise.

    Raises:
        Refused: what is there cannot be right, or the Service has no name yet.
    """
    before = site.files.get(COMM_CONFIG)
    config: Object = {"allow_adhoc_conns": False, "backbone_conn_gen": 2}
    if before is not None:
        config = read_json(site.files, COMM_CONFIG)
    internal = optional_mapping(f"{COMM_CONFIG}: internal", config.get("internal"))
    validate.one_of("tcp")(f"{COMM_CONFIG}: internal.scheme", internal.get("scheme", "tcp"))
    given = optional_mapping(f"{COMM_CONFIG}: internal.resources", internal.get("resources"))
    security = given.get("connection_security", "mtls")
    validate.one_of("mtls", "clear")(f"{COMM_CONFIG}: internal.resources.connection_security", security)
    host, port = _service_address(site, given)
    resources = {**given, "connection_security": security, "host": host, "port": port}
    made = {**config, "internal": {**internal, "scheme": "tcp", "resources": resources}}
    return before if before is not None and made == config else write_json(made, before)


def _service_address(site: Site, given: Object) -> tuple[Any, Any]:
    """The name and port of the parent's Service: the chart's, else the kit's own, else nvflare's defaults."""
    if site.values is not None:
        port = "parentPort" if site.role is Role.SERVER else "port"
        host, port_number = site.values.get("serviceName"), site.values.get(port)
        validate.text(f"{CHART_VALUES}: serviceName", host)
        return host, validate.at_least(1, "a port")(f"{CHART_VALUES}: {port}", port_number)
    host = given.get("host") or (_SERVER_SERVICE if site.role is Role.SERVER else site.name)
    if "host" not in given:
        try:
            validate.dns_label("the Service's name", host)
        except InvalidInput:
            allowed = (
                "the name of the Service in front of the parent: the site's own name is none that a Service may have"
            )
            raise InvalidInput(f"{COMM_CONFIG}: internal.resources.host", MISSING, allowed) from None
    return host, given.get("port", _PARENT_PORT)


def diff_base(files: Files, change: Change) -> tuple[str, bytes] | None:
    """The file that a new one is an edited copy of, for its diff; laid out alike, as provisioning's lists are not."""
    if change.path != RESOURCES or change.before is not None or DEFAULT_RESOURCES not in files:
        return None
    return DEFAULT_RESOURCES, write_json(read_json(files, DEFAULT_RESOURCES), files[DEFAULT_RESOURCES])
