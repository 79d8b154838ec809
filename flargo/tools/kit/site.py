"""What a kit says about its site: role, name, components, chart. By the rules that nvflare 2.9 reads it with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from flargo.job import validate
from flargo.job.validate import MISSING, InvalidInput
from flargo.terms import Object, Role
from flargo.tools.kit.files import Files, read_json, read_yaml

DEFAULT_RESOURCES = "local/resources.json.default"
"""Made by provisioning. `nvflare deploy k8s stage` looks for the stock launcher here, and only here."""
RESOURCES = "local/resources.json"
"""Where it exists, FLARE reads it and not the default (nvflare.apis.workspace.Workspace.get_resources_file_path)."""
LAUNCHER_RESOURCES = "local/flargo__p_resources.json"
"""Read by the parent only (WorkspaceConstants.PARENT_RESOURCE_FILE_NAME_PATTERN): job images need no flargo."""
COMM_CONFIG = "local/comm_config.json"
STUDY_RUNTIME, STUDY_DATA = "local/study_runtime.yaml", "local/study_data.yaml"
"""Version 2 and version 1 of what a site says about its studies."""
CHART_VALUES = "helm_chart/values.yaml"
ROLE_TEMPLATE = "helm_chart/templates/role.yaml"
DEPLOYMENT_TEMPLATES = {role: f"helm_chart/templates/{role}-deployment.yaml" for role in Role}
WRITTEN_FILES = frozenset(
    {RESOURCES, LAUNCHER_RESOURCES, COMM_CONFIG, CHART_VALUES, ROLE_TEMPLATE, *DEPLOYMENT_TEMPLATES.values()}
)
"""The files of a kit that `flargo prepare` writes, and the only ones that an undo restores."""
_ROLE_FILES = {Role.SERVER: "startup/fed_server.json", Role.CLIENT: "startup/fed_client.json"}
_LAUNCHER_IDS = {"process_launcher", "docker_launcher", "k8s_launcher", "slurm_launcher", "argo_launcher"}
_FOREIGN_IDS = {"docker_launcher": "docker", "slurm_launcher": "slurm"}


@dataclass(frozen=True, slots=True)
class Site:
    """A kit, read and not yet judged."""

    files: Files
    role: Role
    name: str
    startup: Object
    """fed_server.json or fed_client.json."""
    resources_file: str
    """The file that FLARE takes the components from now."""
    resources: Object
    """Its content."""
    values: Object | None
    """Of the Helm chart that `nvflare deploy prepare` made; None: there is no chart."""

    @property
    def flargo_launcher(self) -> Object | None:
        """The launcher of flargo, where the kit has it."""
        return next((part for _, part in self.launchers() if is_flargo_launcher(part)), None)

    @property
    def stock_launcher(self) -> Object | None:
        """The stock Kubernetes launcher, where `nvflare deploy prepare` has put it in."""
        found = [*components(self.resources, self.resources_file)]
        if DEFAULT_RESOURCES in self.files and self.resources_file != DEFAULT_RESOURCES:
            found += components(read_json(self.files, DEFAULT_RESOURCES), DEFAULT_RESOURCES)
        return next((part for part in found if part.get("id") == "k8s_launcher"), None)

    def launchers(self) -> Iterator[tuple[str, Object]]:
        """Every launcher that FLARE's parent would build, with its file."""
        for path in component_files(self.files, self.resources_file):
            for part in components(read_json(self.files, path), path):
                if is_launcher(part):
                    yield path, part


def read_site(files: Files) -> Site:
    """Read a kit.

    Raises:
        Refused: it is none, or one for another runtime; says which file, what is there and what would be right.
    """
    roles = [role for role, path in _ROLE_FILES.items() if path in files]
    if len(roles) != 1:
        found = " and ".join(_ROLE_FILES[role] for role in roles) or MISSING
        allowed = "exactly one of startup/fed_server.json and startup/fed_client.json: a server's or client's kit"
        raise InvalidInput("startup/", found, allowed)
    (role,) = roles
    source = RESOURCES if RESOURCES in files else DEFAULT_RESOURCES
    startup = read_json(files, _ROLE_FILES[role])
    site = Site(
        files=files,
        role=role,
        name=_site_name(startup, role),
        startup=startup,
        resources_file=source,
        resources=read_json(files, source),
        values=read_yaml(files, CHART_VALUES) if CHART_VALUES in files else None,
    )
    for path, part in site.launchers():
        if part.get("id") in _FOREIGN_IDS:
            runtime = _FOREIGN_IDS[part["id"]]
            allowed = f"a kit for Kubernetes, or a plain one: this is prepared for {runtime}"
            raise InvalidInput(f"{path}: components", part["id"], allowed)
    return site


def components(resources: Mapping[str, Any], path: str) -> list[Object]:
    """The components of a resources file.

    Raises:
        Refused: they are no list of objects.
    """
    found = resources.get("components", [])
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise InvalidInput(f"{path}: components", found, "a list of objects with id and path")
    return found


def is_launcher(part: Object) -> bool:
    """Whether a component launches jobs; FLARE wants exactly one that does."""
    return part.get("id") in _LAUNCHER_IDS or ".job_launcher." in str(part.get("path")) or is_flargo_launcher(part)


def is_flargo_launcher(part: Object) -> bool:
    """Whether a component is flargo's launcher."""
    path = str(part.get("path"))
    return path.startswith("flargo.") and path.endswith("ArgoJobLauncher")


def component_files(files: Files, source: str) -> list[str]:
    """The files that FLARE's parent takes its components from (Workspace.get_config_files_for_startup)."""
    patterns = [
        f"{folder}/*__{kind}" for folder in ("startup", "local") for kind in ("resources.json", "p_resources.json")
    ]
    return [source, *(path for path in sorted(files) if any(_matches(path, pattern) for pattern in patterns))]


def optional_mapping(where: str, value: Any) -> Object:
    """An object inside a file; missing counts as empty."""
    return validate.mapping(where, {} if value is None else value)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) and path.count("/") == 1


def _site_name(startup: Object, role: Role) -> str:
    """As nvflare.tool.deploy.deploy_common._detect_name finds it."""
    path = _ROLE_FILES[role]
    if role is Role.CLIENT:
        return validate.text(
            f"{path}: client.fqsn", optional_mapping(f"{path}: client", startup.get("client")).get("fqsn")
        )
    servers = startup.get("servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], dict):
        raise InvalidInput(f"{path}: servers", servers, "a list with the server")
    return validate.text(f"{path}: servers[0].identity", servers[0].get("identity") or servers[0].get("admin_server"))
