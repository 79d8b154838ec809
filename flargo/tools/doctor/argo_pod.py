"""Builds the pod that Argo creates from a job's Workflow, with every field that admission looks at.

Source: createWorkflowPod in Argo's workflow/controller/workflowpod.go (3.7.18). Left out are the volumes, variables and
commands that Argo adds, which no admission plugin of Kubernetes checks, and what a controller's workflowDefaults add.
"""

import json
from copy import deepcopy
from typing import Any, Final

from flargo.job.pod import EXECUTOR_INIT, EXECUTOR_WAIT
from flargo.job.workflow import POD_FIELDS, Destination
from flargo.terms import MAIN_CONTAINER, Object

_EXECUTOR_IMAGE = "quay.io/argoproj/argoexec"
"""A placeholder for the image that the controller uses; a dry run pulls nothing."""
_EXECUTOR_FIELDS = ("securityContext", "resources")
"""The fields of the controller setting ``executor`` that admission looks at (newExecContainer in workflowpod.go)."""
_MERGED_BY_NAME: Final = frozenset({"containers", "initContainers"})
"""Among the lists that flargo patches, those that a strategic merge patch merges by the names of their entries."""


def build_pod(workflow: Object, executor: Object | None = None) -> Object:
    """Return the pod of a Workflow with one template.

    Args:
        workflow: the Workflow.
        executor: the controller's settings of its own containers.
    """
    spec = workflow["spec"]
    (template,) = spec["templates"]
    main = {"name": MAIN_CONTAINER, **template["container"]}
    fields = {key: executor[key] for key in _EXECUTOR_FIELDS if executor and key in executor}
    wait, init = ({"name": name, "image": _EXECUTOR_IMAGE, **fields} for name in (EXECUTOR_WAIT, EXECUTOR_INIT))
    pod: Object = {
        "restartPolicy": "Never",
        **{field: template[field] for field in _fields(Destination.TEMPLATE) if field in template},
        **{field: spec[field] for field in _fields(Destination.SPEC) if field in spec},
        "containers": [wait, main, *template.get("sidecars", [])],
        "initContainers": [init, *template.get("initContainers", [])],
    }
    meta = {key: workflow["metadata"][key] for key in ("name", "namespace")}
    merged = _merge(pod, json.loads(template.get("podSpecPatch", "{}")))
    return deepcopy(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, **template.get("metadata", {})}, "spec": merged}
    )


def patches_executor(workflow: Object) -> bool:
    """Return whether a Workflow itself patches Argo's own containers (``argo.patch_executor``)."""
    (template,) = workflow["spec"]["templates"]
    containers = json.loads(template.get("podSpecPatch", "{}")).get("containers", [])
    return any(container["name"] == EXECUTOR_WAIT for container in containers)


def _fields(destination: Destination) -> list[str]:
    return [field for field, place in POD_FIELDS.items() if place is destination]


def _merge(whole: Object, patch: Object) -> Object:
    result = {**whole}
    for key, value in patch.items():
        if key in _MERGED_BY_NAME:
            result[key] = _merge_by_name(result.get(key, []), value)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merge(result[key], value)
        else:
            result[key] = value
    return result


def _merge_by_name(entries: list[Any], patches: list[Any]) -> list[Object]:
    by_name = {entry["name"]: entry for entry in entries}
    for patch in patches:
        by_name[patch["name"]] = _merge(by_name.get(patch["name"], {}), patch)
    return [*by_name.values()]
