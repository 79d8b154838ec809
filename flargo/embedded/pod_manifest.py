"""The pod that Argo makes of a Workflow of one container step (workflow/controller/workflowpod.go, 3.7.18). Pure."""

import copy
import json
from typing import Any

from flargo.embedded import schema
from flargo.embedded.model import Object

MAIN, WAIT, INIT = "main", "wait", "init"
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
_SPEC = ("serviceAccountName", "automountServiceAccountToken", "imagePullSecrets", "dnsPolicy", "dnsConfig")
_BOTH = ("hostNetwork", "volumes", "nodeSelector", "tolerations", "affinity", "schedulerName", "priorityClassName")
_OF_TEMPLATE = (*_BOTH, "securityContext", "hostAliases", "activeDeadlineSeconds")
_KNOWN_SPEC = {
    *(*_SPEC, *_BOTH, "entrypoint", "templates", "suspend", "shutdown", "executor", "ttlStrategy", "podGC"),
    *("securityContext", "hostAliases", "activeDeadlineSeconds", "arguments", "podMetadata", "archiveLogs"),
}
_KNOWN_TEMPLATE = {
    *(*_BOTH, "name", "container", "metadata", "securityContext", "hostAliases", "podSpecPatch"),
    *("inputs", "outputs", "serviceAccountName", "automountServiceAccountToken", "executor"),
    "activeDeadlineSeconds",
}


def problem(workflow: Object) -> str:
    """Why this is no Workflow of one container step; nothing if it is one."""
    spec = workflow.get("spec") or {}
    templates = {template.get("name"): template for template in spec.get("templates") or []}
    entry = spec.get("entrypoint")
    if not entry:
        return "Spec.entrypoint is required"
    if entry not in templates:
        return f"template name '{entry}' undefined"
    template = templates[entry]
    strange = sorted({*set(spec) - _KNOWN_SPEC, *set(template) - _KNOWN_TEMPLATE})
    if strange or "container" not in template:
        return f"flargo.embedded runs Workflows of one container, without {', '.join(strange) or 'anything else'}"
    if "{{" in json.dumps(spec):
        return "flargo.embedded evaluates no {{expressions}}"
    try:
        schema.decoded(template.get("podSpecPatch") or "{}")
    except ValueError as error:
        return f"templates.{entry}.podSpecPatch: {error}"
    return ""


def executor_account(workflow: Object) -> str:
    """The account of Argo's own containers."""
    spec = workflow["spec"]
    return str((spec.get("executor") or {}).get("serviceAccountName") or spec.get("serviceAccountName") or "default")


def pod(workflow: Object) -> Object:
    """The pod of a Workflow in which :func:`problem` finds none."""
    meta, spec = workflow["metadata"], workflow["spec"]
    template = next(template for template in spec["templates"] if template["name"] == spec["entrypoint"])
    extra = template.get("metadata") or {}
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"]}
    made: Object = {
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        **{field: spec[field] for field in (*_SPEC, *_BOTH) if field in spec},
        **{field: template[field] for field in _OF_TEMPLATE if field in template},
        "restartPolicy": "Never",
        "initContainers": [{"name": INIT, "image": "argoexec", "command": ["argoexec", "init"]}],
        "containers": [
            {"name": WAIT, "image": "argoexec", "command": ["argoexec", "wait"]},
            {**template["container"], "name": MAIN},
        ],
    }
    made["volumes"] = [*(spec.get("volumes") or []), *(template.get("volumes") or [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta["name"],
            "labels": {
                **(extra.get("labels") or {}),
                WORKFLOW_LABEL: meta["name"],
                "workflows.argoproj.io/completed": "false",
            },
            "annotations": {
                **(extra.get("annotations") or {}),
                "kubectl.kubernetes.io/default-container": MAIN,
                "workflows.argoproj.io/node-id": meta["name"],
                "workflows.argoproj.io/node-name": meta["name"],
                "flargo.dev/executor-account": executor_account(workflow),
            },
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": schema.cleaned(patched(made, schema.decoded(template.get("podSpecPatch") or "{}"))),
        "status": {"phase": "Pending"},
    }


def patched(item: Any, patch: Any) -> Any:
    """A strategic merge patch's outcome, as far as pods need it: lists of named things are merged by their names."""
    if isinstance(item, dict) and isinstance(patch, dict):
        return {**item, **{key: patched(item.get(key), value) for key, value in patch.items()}}
    if _named(item) and _named(patch):
        by_name = {row["name"]: row for row in patch}
        old = [patched(row, by_name.pop(row["name"], {})) for row in item]
        return [*old, *by_name.values()]
    return copy.deepcopy(patch)


def _named(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in value)
    )
