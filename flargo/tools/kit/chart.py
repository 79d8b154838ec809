"""Changes a kit's Helm chart: it gets the accounts and rights that flargo needs, not those of nvflare's launcher."""

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
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "create"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"]},
]
"""The rights of the FLARE parent, as in deploy/launcher.yaml; a test compares the two."""
EXECUTOR_RULES: Final[list[Object]] = [
    {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
]
"""The rights of Argo's containers in a job's pod, as in deploy/executor.yaml."""
_RBAC = "rbac.authorization.k8s.io"
_DEPLOY_NAMESPACE = "flare"
"""The namespace in deploy/kustomization.yaml."""
_NAME, _LABELS, _NAMESPACE = "@name@", "@labels@", "@namespace@"


def accounts_command(namespace: str) -> str:
    """Return the command that creates the accounts of deploy/ in a namespace; empty if the name is not valid.

    kubectl's own --namespace does not do it: kubectl rejects a file that names another namespace.
    """
    if namespace == _DEPLOY_NAMESPACE:
        return "kubectl apply --kustomize deploy"
    replace = shell_command("sed", f"s/namespace: {_DEPLOY_NAMESPACE}$/namespace: {namespace}/", names=(namespace,))
    return f"kubectl kustomize deploy | {replace} | kubectl apply --filename -" if replace else ""


def parent_account(site: Site) -> str:
    """Return the service account that the chart runs the parent with."""
    values = site.values or {}
    name = values.get("name") or f"nvflare-{site.role}"
    if site.role is Role.CLIENT:
        name = values.get("serviceName") or name
    # The chart's templates shorten names this way: trunc 63 | trimSuffix "-".
    return str(name)[:63].removesuffix("-")


def chart_accounts(site: Site) -> dict[str, str]:
    """Return the accounts that the chart creates for job pods and for Argo's containers, by their keys in ``argo``.

    Their names contain the parent's, because two Helm releases in a namespace cannot own the same object.
    """
    parent = parent_account(site)
    return {"service_account": f"{parent}-flargo-job", "executor_service_account": f"{parent}-flargo-executor"}


def grants_rights(site: Site) -> bool:
    """Return whether the kit has a chart that grants the rights, and creates the accounts besides the parent's."""
    return _creates(site, "rbac")


def created_accounts(site: Site) -> frozenset[str]:
    """Return the accounts that the kit's chart creates; empty if there is no chart, or it creates none."""
    parent = {parent_account(site)} if _creates(site, "serviceAccount") else set()
    return frozenset({*parent, *(chart_accounts(site).values() if grants_rights(site) else ())})


def _creates(site: Site, part: str) -> bool:
    return site.values is not None and bool((site.values.get(part) or {}).get("create", True))


def role_template(site: Site, argo: Object) -> bytes:
    """Return the chart's templates/role.yaml: the launcher's rights, and the accounts that ``argo`` takes from it."""
    accounts = chart_accounts(site)
    objects = [_role(_launcher_name(), LAUNCHER_RULES), _binding(_launcher_name(), _NAME)]
    job, executor = accounts["service_account"], accounts["executor_service_account"]
    if argo.get("service_account") == job:
        objects.append(_account(job))
    if argo.get("executor_service_account") == executor:
        objects += [_account(executor), _token(executor), _role(executor, EXECUTOR_RULES), _binding(executor, executor)]
    text = "---\n".join(write_yaml(each).decode() for each in objects)
    # The stock template has the same expressions, so they work in every chart that nvflare makes.
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
"""The fields that Pod Security "restricted" demands of a container and that the stock chart's values cannot set.

Only a parent that does not run as root gets them: root without capabilities cannot write to another user's workspace.
"""
_COMMAND = "          command:\n"
_GRACE_FIELD = "terminationGracePeriodSeconds:"
_GRACE = f"""\
      # FLARE's parents do not handle SIGTERM: as process 1 of a container they are only ended by SIGKILL, after these
      # seconds. Until then a client's parent holds the Lease of its site, and the pod that replaces it cannot take the
      # jobs over. (A server's takes none over, so its pod keeps Kubernetes' default.) With 0, Kubernetes would not wait
      # for the old parent's end.
      {_GRACE_FIELD} 5
"""
_POD = "\n    spec:\n"


def deployment_template(site: Site) -> bytes | None:
    """Return the chart's Deployment, fit for Pod Security "restricted", and with a short grace period for a client.

    What is not nvflare's own stays as it is.
    """
    template = site.files.get(DEPLOYMENT_TEMPLATES[site.role])
    if template is None:
        return None
    template = _replace_once(template, _COMMAND, _RESTRICTED + _COMMAND)
    if site.role is Role.CLIENT and _GRACE_FIELD.encode() not in template:
        template = _replace_once(template, _POD, _POD + _GRACE)
    return template


def _replace_once(template: bytes, old: str, new: str) -> bytes:
    """Return a template with a text replaced; unchanged if there is not exactly one, or if the new text is there."""
    is_unchanged = template.count(old.encode()) != 1 or new.encode() in template
    return template if is_unchanged else template.replace(old.encode(), new.encode())


def workspace_mount_path(site: Site) -> str | None:
    """Return the path at which the chart mounts the parent's workspace; None if there is no chart.

    Raises:
        InvalidInput: the chart's values do not name the path.
    """
    if site.values is None:
        return None
    workspace = optional_mapping(f"{CHART_VALUES}: persistence", site.values.get("persistence")).get("workspace")
    path = optional_mapping(f"{CHART_VALUES}: persistence.workspace", workspace).get("mountPath")
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidInput(f"{CHART_VALUES}: persistence.workspace.mountPath", path, "an absolute path")
    return path


def move_workspace(site: Site, old: str, new: str) -> bytes | None:
    """Return the chart's values with another path for the parent's workspace, also in the parent's arguments."""
    before = site.files.get(CHART_VALUES)
    if before is None or old == new:
        return before
    values = read_yaml(site.files, CHART_VALUES)
    values["persistence"]["workspace"]["mountPath"] = new
    values["args"] = [new if argument == old else argument for argument in values.get("args") or []]
    return write_yaml(values)


def is_staged(values: Object | None) -> bool:
    """Return whether `nvflare deploy k8s stage` has copied this kit to a cluster."""
    config = optional_mapping(f"{CHART_VALUES}: workspaceConfig", (values or {}).get("workspaceConfig"))
    local, startup = config.get("local") or {}, config.get("startup") or {}
    return bool(local.get("configMapName") or startup.get("secretName"))


def _launcher_name() -> str:
    return f"{_NAME}-launcher"


def _meta(name: str) -> Object:
    return {"name": name, "labels": _LABELS}


def _role(name: str, rules: list[Object]) -> Object:
    # Lists are copied, because YAML writes a shared list as an alias.
    plain = [{key: [*values] for key, values in rule.items()} for rule in rules]
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
