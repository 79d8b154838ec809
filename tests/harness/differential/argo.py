"""Compute the pod that Argo creates for a Workflow's only step. Written from Argo's source, without flargo's code.

Additions that Argo makes to every pod (its volumes, variables, labels, the emissary before the command) are left out.
Source: createWorkflowPod in workflow/controller/workflowpod.go of Argo 3.7.18.
"""

import json
from copy import deepcopy
from typing import Any

Object = dict[str, Any]

TEMPLATE_FIELDS = (
    "volumes",
    "securityContext",
    "nodeSelector",
    "affinity",
    "tolerations",
    "schedulerName",
    "priorityClassName",
    "hostAliases",
    "activeDeadlineSeconds",
)
SPEC_FIELDS = (
    "serviceAccountName",
    "automountServiceAccountToken",
    "imagePullSecrets",
    "hostNetwork",
    "dnsPolicy",
    "dnsConfig",
)
MERGED_BY_NAME = ("containers", "initContainers", "volumes")
"""Lists of a pod's spec that flargo patches, and that a strategic merge patch merges by their entries' names."""


def pod_from_workflow(workflow: Object) -> Object:
    """Return the pod of a Workflow with one template."""
    spec = workflow["spec"]
    (template,) = spec["templates"]
    assert template["name"] == spec["entrypoint"]
    init, wait = {"name": "init"}, {"name": "wait"}
    pod_spec: Object = {
        "restartPolicy": "Never",
        "containers": [wait, {"name": "main", **template["container"]}, *template.get("sidecars", [])],
        "initContainers": [init, *template.get("initContainers", [])],
        **{field: template[field] for field in TEMPLATE_FIELDS if field in template},
        **{field: spec[field] for field in SPEC_FIELDS if field in spec},
    }
    _merge(pod_spec, json.loads(template.get("podSpecPatch", "{}")))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": workflow["metadata"]["name"],
            "namespace": workflow["metadata"]["namespace"],
            **template.get("metadata", {}),
        },
        "spec": deepcopy(pod_spec),
    }


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if key in MERGED_BY_NAME:
            by_name = {entry["name"]: entry for entry in target[key]}
            for entry in value:
                _merge(by_name[entry["name"]], entry)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
