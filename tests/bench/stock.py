"""Run FLARE's own Kubernetes launcher on the test cluster: its account, its connection, and a site that uses it."""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiClient, Configuration, CoreV1Api
from kubernetes.config.incluster_config import SERVICE_HOST_ENV_NAME, SERVICE_PORT_ENV_NAME, InClusterConfigLoader
from nvflare.apis.event_type import EventType
from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher

from tests.harness.cluster import Cluster, Object
from tests.harness.site import Site, read_token

ACCOUNT = "stock-launcher"
PLAIN = "plain"
"""The study of jobs that need no study of their own."""
_RBAC = "rbac.authorization.k8s.io"


@contextmanager
def account(cluster: Cluster) -> Iterator[str]:
    """Create the launcher's account with the rights of nvflare's Helm chart, and yield its token."""
    try:
        for document in _documents(cluster.target.namespace):
            cluster.kubectl("apply", "--filename=-", document=document)
        yield cluster.kubectl("create", "token", ACCOUNT, "--duration=4h")
    finally:
        for kind in ("rolebinding", "role", "serviceaccount"):
            cluster.kubectl("delete", kind, ACCOUNT, "--ignore-not-found")


def _documents(namespace: str) -> list[Object]:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete", "get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "update", "patch", "delete"]},
    ]
    meta = {"name": ACCOUNT, "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ]


class StockSite(Site):
    """A parent with the stock launcher. Each job has a study whose pod template satisfies Pod Security."""

    def __init__(self, cluster: Cluster, *, studies: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Set up a parent; ``more`` are the arguments of Site, and ``token`` is that of the stock account."""
        restricted = {name: _restricted(study) for name, study in {PLAIN: {}, **(studies or {})}.items()}
        super().__init__(cluster, studies=restricted, **more)

    def restart_parent(self) -> None:
        """Create a new launcher; the old one has no threads, so that dropping its handles equals a kill."""
        self.launcher = self._build_launcher()
        self.launcher.handle_event(EventType.SYSTEM_START, self._context("none", ""))

    def _build_launcher(self) -> Any:
        arguments = {key: value for key, value in self._arguments.items() if key != "argo"}
        launcher = ClientK8sJobLauncher(**arguments)
        launcher.core_v1 = _connection(self.kubeconfig, self.root)
        return launcher


def _restricted(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study whose pods satisfy Pod Security "restricted", which the stock launcher's own pods do not."""
    template = study.get("pod_template") or {}
    pod = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    main = {
        "name": "nvflare_job",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {**(template.get("spec") or {}), "securityContext": pod, "containers": [main]}
    return {**study, "pod_template": {"metadata": {}, "spec": spec}}


def _connection(kubeconfig: Path, folder: Path) -> CoreV1Api:
    """Return the connection that a parent in a pod has (``load_incluster_config``); its token is read every minute.

    The launcher cannot create it: it would set its connection as the default of the whole process, and the process
    of this benchmark has many.
    """
    authority = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    ca, token = folder / "ca.crt", folder / "token"
    ca.write_bytes(
        base64.b64decode(authority["certificate-authority-data"])
        if "certificate-authority-data" in authority
        else Path(authority["certificate-authority"]).read_bytes()
    )
    token.write_text(read_token(kubeconfig))
    nowhere = {SERVICE_HOST_ENV_NAME: "nowhere", SERVICE_PORT_ENV_NAME: "443"}
    loader: Any = InClusterConfigLoader(str(token), str(ca), environ=nowhere)  # type: ignore[no-untyped-call]
    configuration = Configuration()
    loader.load_and_set(configuration)
    # The hook that refreshes the token also sets the address, each time.
    loader.host = configuration.host = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return CoreV1Api(ApiClient(configuration))


def kubeconfig_for(cluster: Cluster, token: str) -> Object:
    """Return the administrator's kubeconfig with another token."""
    view = ("config", "view", "--raw", "--flatten", "--minify", "--output=json")
    document: Object = json.loads(cluster.kubectl(*view))
    document["users"][0]["user"] = {"token": token}
    return document
