"""Run the installed stock launcher against a fake API that accepts every object and reports every pod as running."""

import base64
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from nvflare.app_opt.job_launcher.k8s_launcher import ClientK8sJobLauncher, ServerK8sJobLauncher

from flargo.terms import Role
from tests.harness.differential.parent import Parent

Object = dict[str, Any]


@dataclass
class FakeCoreV1Api:
    """A fake of kubernetes.client.CoreV1Api that records the objects it receives."""

    pods: list[Object] = field(default_factory=list)
    secrets: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def create_namespaced_secret(self, namespace: str, body: Object) -> None:
        assert body["metadata"]["namespace"] == namespace
        plain = {key: value.encode() for key, value in body.get("stringData", {}).items()}
        coded = {key: base64.b64decode(value) for key, value in body.get("data", {}).items()}
        self.secrets[body["metadata"]["name"]] = {**plain, **coded}

    def patch_namespaced_secret(self, name: str, namespace: str, body: Object) -> None:
        """Ignore the patch: it sets the owner of the credentials, which is another object with flargo."""

    def create_namespaced_pod(self, body: Object, namespace: str) -> SimpleNamespace:
        # A copy, as over the network: the launcher may still change its dictionary.
        self.pods.append(deepcopy({**body, "metadata": {**body["metadata"], "namespace": namespace}}))
        return SimpleNamespace(metadata=SimpleNamespace(uid="1"))

    def read_namespaced_pod(self, **_: str) -> SimpleNamespace:
        return SimpleNamespace(status=SimpleNamespace(phase="Running"))

    def delete_namespaced_secret(self, name: str, namespace: str) -> None:
        """Ignore the deletion: it follows a failed launch, whose Secrets no test reads."""


def launch(
    parent: Parent, job_meta: Object, arguments: Mapping[str, Any]
) -> tuple[Object, dict[str, dict[str, bytes]]]:
    """Launch a job with the stock launcher, and return its pod and its Secrets by name."""
    kind = ServerK8sJobLauncher if parent.role is Role.SERVER else ClientK8sJobLauncher
    launcher = kind(**{"config_file_path": None, **deepcopy(dict(arguments))})
    launcher.core_v1 = cluster = FakeCoreV1Api()
    launcher.launch_job(deepcopy(job_meta), parent.context(job_meta["job_id"]))
    (pod,) = cluster.pods
    return pod, cluster.secrets
