"""Checks of the cluster: its API, its clock, the namespace, Argo and its controller."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from flargo.job.documents import load_yaml
from flargo.job.validate import InvalidInput
from flargo.parsing import http_date
from flargo.status import fields
from flargo.terms import Object
from flargo.text import shell_command
from flargo.tools.doctor.facts import Facts, Probe
from flargo.tools.doctor.findings import CheckResult, failure, kubectl, ok, unknown, unreadable, warning

WARNING_SKEW_SECONDS, MAX_SKEW_SECONDS = 5.0, 60.0
"""Seconds between two clocks: what the Date header's resolution and a slow answer do not explain, and the leeway
that Kubernetes grants the times in a token (go-jose's DefaultLeeway)."""
OLDEST_ARGO: Final = (3, 6)
CONFIG_MAP = "workflow-controller-configmap"
"""What a controller has its settings from, unless it was started with another name."""
_SETTINGS: Final = ("executor", "instanceID", "workflowDefaults", "workflowRestrictions")
"""What the doctor reads of a controller's settings. A ConfigMap can hold thousands of other keys."""
_REQUIRED_RESOURCES = ("workflows", "workflowtaskresults")
_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.[!-~]+)?")
_MAX_TAG_LENGTH = 128
"""Characters of an image's tag (OCI distribution specification)."""
_MAX_NAMESPACES_SHOWN = 5
"""Namespaces that one line names."""
_ACCEPTED_PHASES = ("Running", "Succeeded")
_REFERENCE_MODE_MARK = "workflowTemplateRef"
"""In the controller's message where templateReferencing is Strict or Secure (setExecWorkflow in operator.go)."""


def api(facts: Facts) -> Iterator[CheckResult]:
    """Whether the API server answers, and knows who asks."""
    if facts.is_reachable:
        version, me = facts.version.body.get("gitVersion", "of a version not shown"), facts.username or "whoever asks"
        yield ok(f"Kubernetes {version} answers, to {me}.")
    elif facts.version.lacks_permission:
        todo = "Renew the kubeconfig's token or certificate, or name another kubeconfig or context."
        yield failure(f"The API server turns whoever asks away: {facts.version}.", todo)
    else:
        todo = "Check the server's address in the kubeconfig, the network between, and the cluster's certificate."
        yield failure(f"The API server does not answer: {facts.version}.", todo)


def clock(facts: Facts) -> Iterator[CheckResult]:
    """How far the clocks are apart."""
    date = http_date(facts.clock.date)
    if date is None:
        yield unknown("The API server's answers bear no time.", "Compare the clocks by hand.")
        return
    skew = facts.clock.local - date.timestamp()
    said = f"This machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API server's."
    todo = "Have both synchronised (NTP)."
    certain = abs(skew) - facts.clock.uncertainty
    if certain > MAX_SKEW_SECONDS:
        yield failure(f"{said} Tokens and certificates are not valid yet, or no longer.", todo)
    elif certain > WARNING_SKEW_SECONDS:
        yield warning(said, todo)
    else:
        yield ok("This machine's clock and the API server's agree.")


def namespace(facts: Facts) -> Iterator[CheckResult]:
    """Whether the namespace is there."""
    name, seen = facts.needs.namespace, facts.namespace
    missing = f'namespaces "{name}" not found'
    if seen.ok and (seen.body.get("status") or {}).get("phase") == "Terminating":
        yield failure(f"Namespace {name} is being deleted.", "Wait until it is gone, and make it anew.")
    elif seen.ok or any(answer.ok for answer in facts.workflows.values()):
        yield ok(f"Namespace {name} is there.")
    elif seen.not_found or any(missing in answer.message for answer in facts.workflows.values()):
        command = shell_command("kubectl", "create", "namespace", name, names=(name,))
        todo = "and its accounts: deploy/, or the kit's chart; or name another."
        todo = f"`{command}`, {todo}" if command else f"Make it, {todo}"
        yield failure(f"There is no namespace {name}.", todo)
    else:
        yield unreadable(f"Whether there is a namespace {name}", seen)


def argo(facts: Facts) -> Iterator[CheckResult]:
    """Whether Argo's API is there, and in which version."""
    todo = "Install Argo Workflows 3.6 or newer: its custom resource definitions, and a controller."
    if facts.argo.not_found:
        yield failure("The cluster does not know Argo's API, argoproj.io/v1alpha1.", todo)
        return
    if not facts.argo.ok:
        yield unreadable("Argo's API", facts.argo)
        return
    names = {resource.get("name") for resource in facts.argo.body.get("resources") or []}
    lacking = [name for name in _REQUIRED_RESOURCES if name not in names]
    if lacking:
        yield failure(f"Argo's API lacks {' and '.join(lacking)}.", todo)
        return
    versions = dict(_versions(facts))
    old = [where for where, version in versions.items() if version < OLDEST_ARGO]
    upgrade = "Upgrade Argo to 3.6 or newer."
    if old and len(old) == len(versions):
        yield failure(f"Argo is older than flargo can do with: {', '.join(old)}.", upgrade)
    elif old:
        yield warning(f"One of Argo's controllers is older than flargo can do with: {', '.join(old)}.", upgrade)
    else:
        shown = ", ".join(versions) or "not in sight: no pod of a controller is"
        yield ok(f"Argo's API is there; its version is {shown}.{_mention_others(facts)}")


def controller(facts: Facts) -> Iterator[CheckResult]:
    """Whether a controller takes notice of Workflows here. Only one that does so proves it."""
    lacking = [right for right, answer in facts.probe_rights.items() if not is_allowed(answer.body)]
    if not facts.probes:
        needed = ", ".join(str(right) for right in lacking) or "a namespace"
        yield unknown(f"No probe was submitted: that takes {needed}.", "Run flargo doctor as somebody who has it.")
        return
    first, *others = facts.probes
    if first.created.lacks_permission:
        yield unreadable("Who takes notice of a probe", first.created)
    elif not first.created.ok:
        yield failure(f"A Workflow cannot be submitted: {first.created}.", "See the message: a policy or a webhook.")
    elif not first.phase and not first.latest.ok:
        yield unreadable("Who takes notice of a probe", first.latest)
    else:
        yield _judge_probe(first, others, facts)
    for probe in facts.probes:
        if probe.undeleted_name:
            delete = ("delete", "workflows.argoproj.io", probe.undeleted_name)
            command = kubectl(facts.needs.namespace, delete, names=(probe.undeleted_name,))
            yield warning(
                "A probe could not be deleted.", f"`{command}`" if command else f"Delete {probe.undeleted_name}."
            )


def restrictions(facts: Facts) -> Iterator[CheckResult]:
    """Whether the controller's settings keep flargo's Workflows from running, or run a job twice."""
    first = facts.probes[0] if facts.probes else None
    runs = first is not None and first.phase in _ACCEPTED_PHASES
    todo = "Take workflowRestrictions.templateReferencing out of the controller's ConfigMap, or have a controller of"
    todo = f"{todo} its own for this namespace: flargo's Workflows are made from no template."
    settings = {where: parse_settings(answer.body) for where, answer in facts.settings.items() if answer.ok}
    restricted = {where: said for where, found in settings.items() if (said := _template_referencing(found))}
    if first is not None and _REFERENCE_MODE_MARK in first.message:
        yield failure(f"The controller refuses Workflows that are made from no template: {first.message}.", todo)
    elif restricted and not runs:
        said = ", ".join(f"{value} in namespace {where}" for where, value in restricted.items())
        yield failure(f"The controller's templateReferencing is {said}.", todo)
    elif not runs and not settings:
        hidden = [*facts.settings.values()]
        none = unknown("No settings of a controller are in sight.", "See the check of the controller first.")
        yield unreadable("The controller's settings", hidden[0]) if hidden else none
    elif runs:
        yield ok("The controller takes Workflows that are made from no template.")
    else:
        yield ok(f"The controller's settings, in namespace {', '.join(settings)}, refuse no Workflow of flargo's.")
    for where, found in settings.items():
        if _retries_steps(found):
            todo = "Take the retryStrategy away: each job that fails gets a second pod, which flargo ends at once."
            yield warning(f"The controller of namespace {where} runs failed steps again (workflowDefaults).", todo)


def parse_settings(config_map: Object) -> Object:
    """A controller's settings, read as it reads them (parseConfigMap in config/controller.go)."""
    data = config_map.get("data") or {}
    try:
        if "config" in data:
            found = load_yaml(CONFIG_MAP, str(data["config"]))
        else:
            found = {key: load_yaml(CONFIG_MAP, str(data[key])) for key in _SETTINGS if key in data}
    except InvalidInput:
        return {}
    return found if isinstance(found, dict) else {}


def executor_settings(settings: Iterable[Object]) -> Object:
    """What controllers' settings say of Argo's own containers; of several, the first that says something."""
    return next((found for each in settings if isinstance(found := each.get("executor"), dict)), {})


def is_allowed(review: Object) -> bool:
    """What an access review says."""
    return bool((review.get("status") or {}).get("allowed"))


def _judge_probe(first: Probe, others: list[Probe], facts: Facts) -> CheckResult:
    of_id = f" of instance id {first.instance_id}" if first.instance_id else ""
    if first.phase in _ACCEPTED_PHASES or _REFERENCE_MODE_MARK in first.message:
        return ok(f"A Workflow controller{of_id} took notice of a probe after {first.seconds:.1f} s.")
    if first.phase == "Pending":
        todo = "Raise the controller's parallelism or namespaceParallelism, or wait for other Workflows."
        return warning(f"The controller lets the probe wait: {first.message}.", todo)
    if first.phase:
        return failure(f"The probe is {first.phase}: {first.message}.", "See the message, and the controller's log.")
    said = f"No Workflow controller{of_id} took notice of a probe within {first.seconds:.0f} s."
    for other in others:
        if other.phase:
            value = other.instance_id or "null"
            told = f"with instance id {other.instance_id}" if other.instance_id else "without an instance id"
            command = shell_command("flargo", "prepare", "KIT", "--argo", f"instance_id={value}", names=(value,))
            return failure(f"{said} One answers {told}.", f"Set it: `{command}`." if command else "Set instance_id.")
    todo = f"See that a controller runs and watches namespace {facts.needs.namespace} (--managed-namespace), and"
    return failure(said, f"{todo} set argo.instance_id if it was given an instance id.")


def _versions(facts: Facts) -> Iterator[tuple[str, tuple[int, int]]]:
    for pod in facts.controllers.body.get("items") or []:
        for container in pod["spec"].get("containers") or []:
            image = str(container.get("image"))
            if "workflow-controller" not in f"{image} {container.get('name')}":
                continue
            tag = image.partition("@")[0].rpartition(":")[2]
            found = _VERSION.fullmatch(tag) if len(tag) <= _MAX_TAG_LENGTH else None
            if found:
                yield f"{tag} in namespace {pod['metadata'].get('namespace')}", (int(found[1]), int(found[2]))


def _mention_others(facts: Facts) -> str:
    """A word on pods that only call themselves a controller."""
    names = facts.other_controllers
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMESPACES_SHOWN} more" if len(names) > _MAX_NAMESPACES_SHOWN else ""
    shown = f"{', '.join(names[:_MAX_NAMESPACES_SHOWN])}{more}"
    return f" A controller is also seen in namespace {shown}: name it by --argo-namespace if it serves this site."


def _template_referencing(settings: Object) -> Any:
    return fields.value(settings, "workflowRestrictions", "templateReferencing")


def _retries_steps(settings: Object) -> bool:
    spec = ("workflowDefaults", "spec")
    kinds = (("retryStrategy",), ("templateDefaults", "retryStrategy"))
    return any(fields.value(settings, *spec, *keys) for keys in kinds)
