"""The pod that Argo makes of a job's Workflow, as far as admission looks at it.

Source: createWorkflowPod in Argo's workflow/controller/workflowpod.go (3.7.18). What Argo adds that no admission
plugin of Kubernetes has a say in (its volumes, variables, commands) is left out, and so is what a controller's
workflowDefaults add.
"""

import json
from copy import deepcopy
from typing import Any, Final

from flargo.job.pod import EXECUTOR_INIT, EXECUTOR_WAIT
from flargo.job.workflow import POD_FIELDS, Destination
from flargo.terms import MAIN_CONTAINER, Object

_EXECUTOR_IMAGE = "quay.io/argoproj/argoexec"
"""Stands for whatever the controller was given; a dry run pulls nothing."""
_EXECUTOR_FIELDS = ("securityContext", "resources")
"""Of the settings' ``executor``, what admission looks at (newExecContainer in workflowpod.go)."""
_MERGED_BY_NAME: Final = frozenset({"containers", "initContainers"})
"""Lists that a strategic merge patch merges by their entries' names, of those that flargo patches."""


def build_pod(workflow: Object, executor: Object | None = None) -> Object:
    """The pod of a Workflow with one template.

    Args:
        workflow: the Workflow.
        executor: what the controller's settings say of its own containers.
    """
    spec = workflow["spec"]
    (template,) = spec["templates"]
    main = {"name": MAIN_CONTAINER, **template["container"]}
    said = {key: executor[key] for key in _EXECUTOR_FIELDS if executor and key in executor}
    wait, init = ({"name": name, "image": _EXECUTOR_IMAGE, **said} for name in (EXECUTOR_WAIT, EXECUTOR_INIT))
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
    """Whether a Workflow itself says what Argo's containers are like (``argo.patch_executor``)."""
    (template,) = workflow["spec"]["templates"]
    patched = json.loads(template.get("podSpecPatch", "{}")).get("containers", [])
    return any(container["name"] == EXECUTOR_WAIT for container in patched)


def _fields(place: Destination) -> list[str]:
    return [field for field, goes in POD_FIELDS.items() if goes is place]


def _merge(whole: Object, patch: Object) -> Object:
    made = {**whole}
    for key, value in patch.items():
        if key in _MERGED_BY_NAME:
            made[key] = _merge_by_name(made.get(key, []), value)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = _merge(made[key], value)
        else:
            made[key] = value
    return made


def _merge_by_name(entries: list[Any], patches: list[Any]) -> list[Object]:
    by_name = {entry["name"]: entry for entry in entries}
    for patch in patches:
        by_name[patch["name"]] = _merge(by_name.get(patch["name"], {}), patch)
    return [*by_name.values()]
