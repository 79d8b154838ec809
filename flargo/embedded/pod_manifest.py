"""Builds the pod that Argo creates for a Workflow of one container step.

Source: Argo 3.7.18, workflow/controller/workflowpod.go. Everything here is pure.
"""

import copy
import json
from typing import Any

from flargo.embedded import schema
from flargo.embedded.model import Object

MAIN, WAIT, INIT = "main", "wait", "init"
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
_SPEC_FIELDS = ("serviceAccountName", "automountServiceAccountToken", "imagePullSecrets", "dnsPolicy", "dnsConfig")
_SHARED_FIELDS = (
    "hostNetwork",
    "volumes",
    "nodeSelector",
    "tolerations",
    "affinity",
    "schedulerName",
    "priorityClassName",
)
_TEMPLATE_FIELDS = (*_SHARED_FIELDS, "securityContext", "hostAliases", "activeDeadlineSeconds")
_SUPPORTED_SPEC_FIELDS = {
    *(
        *_SPEC_FIELDS,
        *_SHARED_FIELDS,
        "entrypoint",
        "templates",
        "suspend",
        "shutdown",
        "executor",
        "ttlStrategy",
        "podGC",
    ),
    *("securityContext", "hostAliases", "activeDeadlineSeconds", "arguments", "podMetadata", "archiveLogs"),
}
_SUPPORTED_TEMPLATE_FIELDS = {
    *(*_SHARED_FIELDS, "name", "container", "metadata", "securityContext", "hostAliases", "podSpecPatch"),
    *("inputs", "outputs", "serviceAccountName", "automountServiceAccountToken", "executor"),
    "activeDeadlineSeconds",
}


def find_problem(workflow: Object) -> str:
    """Return why the engine cannot run a Workflow, which must have one container step; empty if it can."""
    spec = workflow.get("spec") or {}
    templates = {template.get("name"): template for template in spec.get("templates") or []}
    entry = spec.get("entrypoint")
    if not entry:
        return "Spec.entrypoint is required"
    if entry not in templates:
        return f"template name '{entry}' undefined"
    template = templates[entry]
    unsupported = sorted({*set(spec) - _SUPPORTED_SPEC_FIELDS, *set(template) - _SUPPORTED_TEMPLATE_FIELDS})
    if unsupported or "container" not in template:
        return f"flargo.embedded runs Workflows of one container, without {', '.join(unsupported) or 'anything else'}"
    if "{{" in json.dumps(spec):
        return "flargo.embedded does not evaluate {{expressions}}"
    try:
        schema.decode_json(template.get("podSpecPatch") or "{}")
    except ValueError as error:
        return f"templates.{entry}.podSpecPatch: {error}"
    return ""


def executor_account(workflow: Object) -> str:
    """Return the name of the service account with which Argo's own containers report to Argo."""
    spec = workflow["spec"]
    return str((spec.get("executor") or {}).get("serviceAccountName") or spec.get("serviceAccountName") or "default")


def build_pod(workflow: Object) -> Object:
    """Return the pod of a Workflow in which ``find_problem`` has found none."""
    meta, spec = workflow["metadata"], workflow["spec"]
    template = next(template for template in spec["templates"] if template["name"] == spec["entrypoint"])
    template_meta = template.get("metadata") or {}
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"]}
    spec_manifest: Object = {
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        **{field: spec[field] for field in (*_SPEC_FIELDS, *_SHARED_FIELDS) if field in spec},
        **{field: template[field] for field in _TEMPLATE_FIELDS if field in template},
        "restartPolicy": "Never",
        "initContainers": [{"name": INIT, "image": "argoexec", "command": ["argoexec", "init"]}],
        "containers": [
            {"name": WAIT, "image": "argoexec", "command": ["argoexec", "wait"]},
            {**template["container"], "name": MAIN},
        ],
    }
    spec_manifest["volumes"] = [*(spec.get("volumes") or []), *(template.get("volumes") or [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta["name"],
            "labels": {
                **(template_meta.get("labels") or {}),
                WORKFLOW_LABEL: meta["name"],
                "workflows.argoproj.io/completed": "false",
            },
            "annotations": {
                **(template_meta.get("annotations") or {}),
                "kubectl.kubernetes.io/default-container": MAIN,
                "workflows.argoproj.io/node-id": meta["name"],
                "workflows.argoproj.io/node-name": meta["name"],
                "flargo.dev/executor-account": executor_account(workflow),
            },
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": schema.without_nulls(
            strategic_merge(spec_manifest, schema.decode_json(template.get("podSpecPatch") or "{}"))
        ),
        "status": {"phase": "Pending"},
    }


def strategic_merge(item: Any, patch: Any) -> Any:
    """Return the result of a strategic merge patch, as far as pods need it: lists of named entries merge by name."""
    if isinstance(item, dict) and isinstance(patch, dict):
        return {**item, **{key: strategic_merge(item.get(key), value) for key, value in patch.items()}}
    if _is_named_list(item) and _is_named_list(patch):
        additions = {row["name"]: row for row in patch}
        merged = [strategic_merge(row, additions.pop(row["name"], {})) for row in item]
        return [*merged, *additions.values()]
    return copy.deepcopy(patch)


def _is_named_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in value)
    )
