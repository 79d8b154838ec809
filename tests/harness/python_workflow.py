"""Workflows whose one step is Python code, for tests of the embedded engine alone."""

from typing import Any

from tests.harness.embedded_cluster import EmbeddedCluster


def workflow(name: str, *code: str, suspend: bool = True, **spec: Any) -> dict[str, Any]:
    """Return a Workflow whose one step runs these lines of Python; ``spec`` holds further fields of its spec."""
    container = {"image": "any", "command": ["python", "-u", "-c"], "args": ["\n".join(code)]}
    base: dict[str, Any] = {
        "suspend": suspend,
        "executor": {"serviceAccountName": "flargo-executor"},
        "entrypoint": "step",
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "labels": {"of": name}},
        "spec": {**base, "templates": [{"name": "step", "container": container}], **spec},
    }


def phase(cluster: EmbeddedCluster, name: str) -> str:
    """Return the Workflow's phase; an empty text before it has one."""
    return str((cluster.workflow(name).get("status") or {}).get("phase", ""))
