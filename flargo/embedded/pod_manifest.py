"""Builds the pods that Argo creates for a Workflow of one container step, its exit handler and its hooks.

Source: Argo 3.7.18, workflow/controller/workflowpod.go. Everything here is pure.
"""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flargo.embedded import schema
from flargo.embedded.model import Object

MAIN, WAIT, INIT = "main", "wait", "init"
WORKFLOW_LABEL, COMPLETED_LABEL = "workflows.argoproj.io/workflow", "workflows.argoproj.io/completed"
NODE_ANNOTATION = "workflows.argoproj.io/node-id"
_EXIT_LABEL = "workflows.argoproj.io/on-exit"
_DISPLAY_NAME_ANNOTATION = "workflows.argoproj.io/display-name"
_EXIT_HOOK = "exit"
"""The name of the hook that Argo runs as the exit handler."""
_EXPRESSION = re.compile(r"""\s*workflow\.status\s*==\s*['"](\w*)['"]\s*""")
"""The only form of a hook's expression that the engine evaluates."""
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
        "onExit",
        "hooks",
    ),
    *("securityContext", "hostAliases", "activeDeadlineSeconds", "arguments", "podMetadata", "archiveLogs"),
}
_SUPPORTED_TEMPLATE_FIELDS = {
    *(*_SHARED_FIELDS, "name", "container", "metadata", "securityContext", "hostAliases", "podSpecPatch"),
    *("inputs", "outputs", "serviceAccountName", "automountServiceAccountToken", "executor"),
    "activeDeadlineSeconds",
    "annotations",
    "synchronization",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a Workflow that is one pod: its entry point, a hook, or its exit handler."""

    workflow: str
    """The name of the Workflow."""
    template: str
    node: str
    """The name of its node."""
    status: str = ""
    """For a hook, the status of the Workflow in which it starts."""
    is_exit_handler: bool = False

    @property
    def node_id(self) -> str:
        """The id of its node (workflow_types.go, NodeID)."""
        return self.workflow if self.node == self.workflow else f"{self.workflow}-{_fnv32a(self.node)}"

    @property
    def pod_name(self) -> str:
        """The name of its pod (workflow/util/pod_name.go, GeneratePodName)."""
        return self.workflow if self.node == self.workflow else f"{self.workflow}-{self.template}-{_fnv32a(self.node)}"


def entry_step(workflow: Object) -> Step:
    """Return the step of a Workflow's entry point."""
    name = workflow["metadata"]["name"]
    return Step(name, workflow["spec"]["entrypoint"], name)


def hook_steps(workflow: Object) -> list[Step]:
    """Return the hooks of a Workflow in which ``find_problem`` has found none."""
    name = workflow["metadata"]["name"]
    hooks = {key: hook for key, hook in (workflow["spec"].get("hooks") or {}).items() if key != _EXIT_HOOK}
    matches = {key: _EXPRESSION.fullmatch(hook.get("expression", "")) for key, hook in hooks.items()}
    return [
        Step(name, hooks[key]["template"], f"{name}.hooks.{key}", status=match[1])
        for key, match in matches.items()
        if match is not None
    ]


def exit_step(workflow: Object) -> Step | None:
    """Return a Workflow's exit handler; None if it has none. A hook named ``exit`` has precedence over ``onExit``."""
    name, spec = workflow["metadata"]["name"], workflow["spec"]
    hook = (spec.get("hooks") or {}).get(_EXIT_HOOK) or {}
    template = hook.get("template") or spec.get("onExit")
    return Step(name, template, f"{name}.onExit", is_exit_handler=True) if template else None


def _fnv32a(text: str) -> int:
    """Return the 32 bit FNV-1a hash of a text (Go's hash/fnv)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def find_problem(workflow: Object) -> str:
    """Return why the engine cannot run a Workflow, which must have one container step; empty if it can."""
    spec = workflow.get("spec") or {}
    if not spec.get("entrypoint"):
        return "Spec.entrypoint is required"
    hooks = spec.get("hooks") or {}
    for name, hook in hooks.items():
        if name != _EXIT_HOOK and not _EXPRESSION.fullmatch(hook.get("expression", "")):
            return f"hooks.{name}: flargo.embedded evaluates only workflow.status == '...'"
    handlers = [hook.get("template") for hook in hooks.values()]
    names = [spec["entrypoint"], *filter(None, [spec.get("onExit"), *handlers])]
    if problem := next(_template_problems(spec, names), ""):
        return problem
    if "{{" in json.dumps(spec):
        return "flargo.embedded does not evaluate {{expressions}}"
    return ""


def _template_problems(spec: Object, names: list[str]) -> Iterator[str]:
    templates = {template.get("name"): template for template in spec.get("templates") or []}
    for name in names:
        template = templates.get(name)
        if template is None:
            yield f"template name '{name}' undefined"
            continue
        unsupported = sorted({*set(spec) - _SUPPORTED_SPEC_FIELDS, *set(template) - _SUPPORTED_TEMPLATE_FIELDS})
        if unsupported or "container" not in template:
            fields = ", ".join(unsupported) or "anything else"
            yield f"flargo.embedded runs Workflows of one container, without {fields}"
        try:
            schema.decode_json(template.get("podSpecPatch") or "{}")
        except ValueError as error:
            yield f"templates.{name}.podSpecPatch: {error}"


def template_of(workflow: Object, step: Step) -> Object:
    """Return a step's template."""
    templates: list[Object] = workflow["spec"]["templates"]
    return next(template for template in templates if template.get("name") == step.template)


def display_name(workflow: Object, step: Step) -> str:
    """Return the name that a step's template asks for its node in the UI; empty if it asks for none."""
    annotations = template_of(workflow, step).get("annotations") or {}
    return str(annotations.get(_DISPLAY_NAME_ANNOTATION, ""))


def executor_account(workflow: Object) -> str:
    """Return the name of the service account with which Argo's own containers report to Argo."""
    spec = workflow["spec"]
    return str((spec.get("executor") or {}).get("serviceAccountName") or spec.get("serviceAccountName") or "default")


def build_pod(workflow: Object, step: Step | None = None) -> Object:
    """Return a step's pod, by default the entry point's, of a Workflow in which ``find_problem`` has found none."""
    meta, spec = workflow["metadata"], workflow["spec"]
    step = step or entry_step(workflow)
    template = template_of(workflow, step)
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
            "name": step.pod_name,
            "labels": {
                **(template_meta.get("labels") or {}),
                WORKFLOW_LABEL: meta["name"],
                COMPLETED_LABEL: "false",
                **({_EXIT_LABEL: "true"} if step.is_exit_handler else {}),
            },
            "annotations": {
                **(template_meta.get("annotations") or {}),
                "kubectl.kubernetes.io/default-container": MAIN,
                NODE_ANNOTATION: step.node_id,
                "workflows.argoproj.io/node-name": step.node,
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
