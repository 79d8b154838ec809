"""The Helm chart of a kit: the accounts and rights that flargo needs, in place of the stock launcher's."""

from typing import Final

from flargo.job.validate import InvalidInput
from flargo.terms import Object, Role
from flargo.text import shell_command
from flargo.tools.kit.files import read_yaml, write_yaml
from flargo.tools.kit.site import CHART_VALUES, DEPLOYMENT_TEMPLATES, Site, optional_mapping

LAUNCHER_RULES: Final[list[Object]] = [
    {
        "apiGroups": ["argoproj.io"],
        "resources": ["workflows"],
        "verbs": ["create", "get", "list", "watch", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "update", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
]
"""What the FLARE parent may do: deploy/launcher.yaml, and a test holds the two equal."""
EXECUTOR_RULES: Final[list[Object]] = [
    {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
]
"""What Argo's containers in a job's pod may do: deploy/executor.yaml."""
_RBAC = "rbac.authorization.k8s.io"
_DEPLOYED_TO = "flare"
"""The namespace that deploy/kustomization.yaml says."""
_NAME, _LABELS, _NAMESPACE = "@name@", "@labels@", "@namespace@"


def accounts_command(namespace: str) -> str:
    """What makes deploy/'s accounts in a namespace; empty if no namespace can have that name.

    kubectl's own --namespace is refused where a file says another one.
    """
    if namespace == _DEPLOYED_TO:
        return "kubectl apply --kustomize deploy"
    there = shell_command("sed", f"s/namespace: {_DEPLOYED_TO}$/namespace: {namespace}/", names=(namespace,))
    return f"kubectl kustomize deploy | {there} | kubectl apply --filename -" if there else ""


def parent_account(site: Site) -> str:
    """The account that the chart runs the parent as."""
    values = site.values or {}
    name = values.get("name") or f"nvflare-{site.role}"
    if site.role is Role.CLIENT:
        name = values.get("serviceName") or name
    # The chart's own rule for its names: trunc 63 | trimSuffix "-".
    return str(name)[:63].removesuffix("-")


def chart_accounts(site: Site) -> dict[str, str]:
    """The accounts of job pods and of Argo's containers that the chart makes, by their keys in ``argo``.

    They carry the parent's name, since Helm lets no two releases in a namespace own one object.
    """
    parent = parent_account(site)
    return {"service_account": f"{parent}-flargo-job", "executor_service_account": f"{parent}-flargo-executor"}


def role_template(site: Site, argo: Object) -> bytes:
    """The chart's templates/role.yaml: the launcher's rights, and those accounts of ``argo`` that the chart makes."""
    own = chart_accounts(site)
    objects = [_role(_launcher_name(), LAUNCHER_RULES), _binding(_launcher_name(), _NAME)]
    job, executor = own["service_account"], own["executor_service_account"]
    if argo.get("service_account") == job:
        objects.append(_account(job))
    if argo.get("executor_service_account") == executor:
        objects += [_account(executor), _token(executor), _role(executor, EXECUTOR_RULES), _binding(executor, executor)]
    text = "---\n".join(write_yaml(each).decode() for each in objects)
    # Only expressions that the stock template has too.
    chart = f"nvflare-{site.role}"
    for mark, expression in {
        f"labels: '{_LABELS}'": f'labels:\n    {{{{- include "{chart}.labels" . | nindent 4 }}}}',
        f"'{_NAME}'": f'{{{{ include "{chart}.name" . }}}}',
        f"'{_launcher_name()}'": f'{{{{ include "{chart}.name" . }}}}-launcher',
        f"'{_NAMESPACE}'": "{{ .Release.Namespace }}",
    }.items():
        text = text.replace(mark, expression)
    head = "# Written by `flargo prepare`: what a FLARE parent and its jobs need with flargo, and nothing more.\n"
    return f"{{{{- if .Values.rbac.create }}}}\n{head}{text}{{{{- end }}}}\n".encode()


_RESTRICTED = """\
          {{- with .Values.securityContext }}
          {{- if .runAsNonRoot }}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities:
              drop: [ALL]
          {{- end }}
          {{- end }}
"""
"""What Pod Security "restricted" asks of a container, and the stock chart's values cannot say. Only for a parent that
is said not to be root: root without capabilities could not write to a workspace that is another user's."""
_COMMAND = "          command:\n"


def deployment_template(site: Site) -> bytes | None:
    """The chart's Deployment, fit for Pod Security "restricted"; as it is, where it is not nvflare's own."""
    before = site.files.get(DEPLOYMENT_TEMPLATES[site.role])
    if before is None or before.count(_COMMAND.encode()) != 1 or _RESTRICTED.encode() in before:
        return before
    return before.replace(_COMMAND.encode(), f"{_RESTRICTED}{_COMMAND}".encode())


def workspace_mount_path(site: Site) -> str | None:
    """Where the chart puts the parent's workspace; None: there is no chart.

    Raises:
        Refused: it does not say.
    """
    if site.values is None:
        return None
    workspace = optional_mapping(f"{CHART_VALUES}: persistence", site.values.get("persistence")).get("workspace")
    path = optional_mapping(f"{CHART_VALUES}: persistence.workspace", workspace).get("mountPath")
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidInput(f"{CHART_VALUES}: persistence.workspace.mountPath", path, "an absolute path")
    return path


def move_workspace(site: Site, old: str, new: str) -> bytes | None:
    """The chart's values with the parent's workspace in another place, in its arguments too."""
    before = site.files.get(CHART_VALUES)
    if before is None or old == new:
        return before
    values = read_yaml(site.files, CHART_VALUES)
    values["persistence"]["workspace"]["mountPath"] = new
    values["args"] = [new if argument == old else argument for argument in values.get("args") or []]
    return write_yaml(values)


def is_staged(values: Object | None) -> bool:
    """Whether `nvflare deploy k8s stage` has put this kit on a cluster."""
    config = optional_mapping(f"{CHART_VALUES}: workspaceConfig", (values or {}).get("workspaceConfig"))
    local, startup = config.get("local") or {}, config.get("startup") or {}
    return bool(local.get("configMapName") or startup.get("secretName"))


def _launcher_name() -> str:
    return f"{_NAME}-launcher"


def _meta(name: str) -> Object:
    return {"name": name, "labels": _LABELS}


def _role(name: str, rules: list[Object]) -> Object:
    # Plain copies: YAML would show what is shared as an alias.
    plain = [{key: [*said] for key, said in rule.items()} for rule in rules]
    return {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": _meta(name), "rules": plain}


def _binding(role: str, account: str) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _meta(role),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": _NAMESPACE}],
    }


def _account(name: str) -> Object:
    meta = _meta(name)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}


def _token(account: str) -> Object:
    annotations = {"kubernetes.io/service-account.name": account}
    meta = {**_meta(f"{account}.service-account-token"), "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"}
