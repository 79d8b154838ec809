"""Reads role, name, components and Helm chart of a startup kit, by the rules that nvflare 2.9 reads a kit with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from flargo.job import validate
from flargo.job.validate import MISSING, InvalidInput, Sentence
from flargo.terms import Object, Role
from flargo.tools.kit.files import Files, read_json, read_yaml

DEFAULT_RESOURCES = "local/resources.json.default"
"""Provisioning makes this file. `nvflare deploy k8s stage` looks for the stock launcher here, and only here."""
RESOURCES = "local/resources.json"
"""If it exists, FLARE reads it and not the default (nvflare.apis.workspace.Workspace.get_resources_file_path)."""
LAUNCHER_RESOURCES = "local/flargo__p_resources.json"
"""Only the parent reads this file (WorkspaceConstants.PARENT_RESOURCE_FILE_NAME_PATTERN): job images need no flargo."""
COMM_CONFIG = "local/comm_config.json"
STUDY_RUNTIME, STUDY_DATA = "local/study_runtime.yaml", "local/study_data.yaml"
"""The files with a site's settings for its studies, in nvflare's format version 2 and version 1."""
CHART_VALUES = "helm_chart/values.yaml"
ROLE_TEMPLATE = "helm_chart/templates/role.yaml"
DEPLOYMENT_TEMPLATES = {role: f"helm_chart/templates/{role}-deployment.yaml" for role in Role}
WRITTEN_FILES = frozenset(
    {RESOURCES, LAUNCHER_RESOURCES, COMM_CONFIG, CHART_VALUES, ROLE_TEMPLATE, *DEPLOYMENT_TEMPLATES.values()}
)
"""The files of a kit that `flargo prepare` writes, and the only ones that --undo restores."""
_ROLE_FILES = {Role.SERVER: "startup/fed_server.json", Role.CLIENT: "startup/fed_client.json"}
_LAUNCHER_IDS = {"process_launcher", "docker_launcher", "k8s_launcher", "slurm_launcher", "argo_launcher"}
_OTHER_RUNTIMES = {"docker_launcher": "docker", "slurm_launcher": "slurm"}


@dataclass(frozen=True, slots=True)
class Site:
    """A kit's content as it was read; none of it has been checked beyond its form."""

    files: Files
    role: Role
    name: str
    startup: Object
    """The content of fed_server.json or fed_client.json."""
    resources_file: str
    """The file that FLARE takes the components from now."""
    resources: Object
    """The content of ``resources_file``."""
    values: Object | None
    """The values of the Helm chart that `nvflare deploy prepare` made; None if the kit has no chart."""

    @property
    def flargo_launcher(self) -> Object | None:
        """The component of flargo's launcher, if the kit has one."""
        return next((part for _, part in self.launchers() if is_flargo_launcher(part)), None)

    @property
    def stock_launcher(self) -> Object | None:
        """The component of nvflare's Kubernetes launcher, if `nvflare deploy prepare` has added it."""
        candidates = [*components(self.resources, self.resources_file)]
        if DEFAULT_RESOURCES in self.files and self.resources_file != DEFAULT_RESOURCES:
            candidates += components(read_json(self.files, DEFAULT_RESOURCES), DEFAULT_RESOURCES)
        return next((part for part in candidates if part.get("id") == "k8s_launcher"), None)

    def launchers(self) -> Iterator[tuple[str, Object]]:
        """Yield every launcher that FLARE's parent would build, with the path of its file."""
        for path in component_files(self.files, self.resources_file):
            for part in components(read_json(self.files, path), path):
                if is_launcher(part):
                    yield path, part


def read_site(files: Files) -> Site:
    """Read a kit from its files.

    Raises:
        InvalidInput: the files are no kit, or a kit for another runtime; names the file, its content, and what would
            be right.
    """
    roles = [role for role, path in _ROLE_FILES.items() if path in files]
    if len(roles) != 1:
        role_files = " and ".join(_ROLE_FILES[role] for role in roles) or MISSING
        form = "exactly one of startup/fed_server.json and startup/fed_client.json: a server's or client's kit"
        raise InvalidInput("startup/", role_files, form)
    (role,) = roles
    resources_file = RESOURCES if RESOURCES in files else DEFAULT_RESOURCES
    startup = read_json(files, _ROLE_FILES[role])
    site = Site(
        files=files,
        role=role,
        name=_site_name(startup, role),
        startup=startup,
        resources_file=resources_file,
        resources=read_json(files, resources_file),
        values=read_yaml(files, CHART_VALUES) if CHART_VALUES in files else None,
    )
    for path, part in site.launchers():
        runtime = _OTHER_RUNTIMES.get(part.get("id", ""))
        if runtime is not None:
            problem = f"include {part['id']}, so this kit is for {runtime}: use a plain kit or one for Kubernetes"
            raise InvalidInput(f"{path}: components", part["id"], Sentence(problem))
    return site


def components(resources: Mapping[str, Any], path: str) -> list[Object]:
    """Return the components of a resources file.

    Raises:
        InvalidInput: they are not a list of objects whose id and path are strings.
    """
    parts = resources.get("components", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InvalidInput(f"{path}: components", parts, "a list of objects with id and path")
    for index, part in enumerate(parts):
        for key in ("id", "path"):
            if not isinstance(part.get(key, ""), str):
                raise InvalidInput(f"{path}: components[{index}].{key}", part[key], "a string")
    return parts


def is_launcher(part: Object) -> bool:
    """Return whether a component launches jobs; FLARE demands exactly one such component."""
    return part.get("id") in _LAUNCHER_IDS or ".job_launcher." in str(part.get("path")) or is_flargo_launcher(part)


def is_flargo_launcher(part: Object) -> bool:
    """Return whether a component is one of flargo's launchers."""
    path = str(part.get("path"))
    return path.startswith("flargo.") and path.endswith("ArgoJobLauncher")


def component_files(files: Files, resources_file: str) -> list[str]:
    """Return the files that FLARE's parent takes components from (Workspace.get_config_files_for_startup)."""
    patterns = [
        f"{folder}/*__{kind}" for folder in ("startup", "local") for kind in ("resources.json", "p_resources.json")
    ]
    return [resources_file, *(path for path in sorted(files) if any(_matches(path, pattern) for pattern in patterns))]


def optional_mapping(field: str, value: Any) -> Object:
    """Check that a field of a file is an object; a missing field (None) counts as an empty one."""
    return validate.mapping(field, {} if value is None else value)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) and path.count("/") == 1


def _site_name(startup: Object, role: Role) -> str:
    """Return the site's name, found as nvflare.tool.deploy.deploy_common._detect_name finds it."""
    path = _ROLE_FILES[role]
    if role is Role.CLIENT:
        client = optional_mapping(f"{path}: client", startup.get("client"))
        return validate.text(f"{path}: client.fqsn", client.get("fqsn"))
    servers = startup.get("servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], dict):
        raise InvalidInput(f"{path}: servers", servers, "a list with the server")
    return validate.text(f"{path}: servers[0].identity", servers[0].get("identity") or servers[0].get("admin_server"))
