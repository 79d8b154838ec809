"""Checks of the cluster: the API server, the clocks, the namespace, Argo and its controller."""

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
from flargo.tools.doctor.helm import manager

WARNING_SKEW_SECONDS, MAX_SKEW_SECONDS = 5.0, 60.0
"""Limits for the difference between two clocks, in seconds.

The Date header's resolution and a slow answer explain no more than the first. The second is the leeway that Kubernetes
grants the times in a token (go-jose's DefaultLeeway).
"""
OLDEST_ARGO: Final = (3, 6)
CONFIG_MAP = "workflow-controller-configmap"
"""The name of a controller's ConfigMap, unless the controller was started with another name."""
_SETTINGS: Final = ("executor", "instanceID", "workflowDefaults", "workflowRestrictions")
"""The settings of a controller that the doctor reads. A ConfigMap can hold thousands of other keys."""
_REQUIRED_RESOURCES = ("workflows", "workflowtaskresults")
_VERSION = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(?:\.[!-~]+)?")
_MAX_TAG_LENGTH = 128
"""The limit for an image's tag, in characters (OCI distribution specification)."""
_MAX_NAMESPACES_SHOWN = 5
"""The limit for the namespaces that one line names."""
_ACCEPTED_PHASES = ("Running", "Succeeded")
_REFERENCE_MODE_MARK = "workflowTemplateRef"
"""A word in the controller's message if templateReferencing is Strict or Secure (setExecWorkflow in operator.go)."""


def api(facts: Facts) -> Iterator[CheckResult]:
    """Check that the API server answers and accepts the credentials."""
    if facts.is_reachable:
        version, user = facts.version.body.get("gitVersion", "of unknown version"), facts.username or "the current user"
        yield ok(f"Kubernetes {version} answers requests of {user}.")
    elif facts.version.lacks_permission:
        todo = "Renew the kubeconfig's token or certificate, or name another kubeconfig or context."
        yield failure(f"The cluster rejected the credentials: {facts.version}.", todo)
    else:
        todo = "Check the server's address in the kubeconfig, the network, and the cluster's certificate."
        yield failure(f"The cluster can't be reached: {facts.version}.", todo)


def clock(facts: Facts) -> Iterator[CheckResult]:
    """Check how much this machine's clock differs from the API server's."""
    date = http_date(facts.clock.date)
    if date is None:
        yield unknown("The API server's answers have no valid Date header.", "Compare the clocks by hand.")
        return
    skew = facts.clock.local - date.timestamp()
    what = f"This machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API server's."
    todo = "Synchronise both clocks (NTP)."
    certain_skew = abs(skew) - facts.clock.uncertainty
    if certain_skew > MAX_SKEW_SECONDS:
        yield failure(f"{what} Tokens and certificates may be rejected as expired or not valid yet.", todo)
    elif certain_skew > WARNING_SKEW_SECONDS:
        yield warning(what, todo)
    else:
        yield ok("This machine's clock and the API server's agree.")


def namespace(facts: Facts) -> Iterator[CheckResult]:
    """Check that the namespace exists."""
    name, answer = facts.needs.namespace, facts.namespace
    missing = f'namespaces "{name}" not found'
    if answer.ok and (answer.body.get("status") or {}).get("phase") == "Terminating":
        yield failure(f"Namespace {name} is being deleted.", "Wait until it is deleted, then create it again.")
    elif answer.ok or any(dry_run.ok for dry_run in facts.workflows.values()):
        yield ok(f"Namespace {name} exists.")
    elif answer.not_found or any(missing in dry_run.message for dry_run in facts.workflows.values()):
        command = shell_command("kubectl", "create", "namespace", name, names=(name,))
        create = f"Create it: `{command}`." if command else "Create it."
        todo = f"{create} Then create its accounts with deploy/ or the kit's chart. Or name another namespace."
        yield failure(f"There is no namespace {name}.", todo)
    else:
        yield unreadable(f"Namespace {name}", answer)


def argo(facts: Facts) -> Iterator[CheckResult]:
    """Check that Argo's API is served, by a version that flargo supports."""
    todo = "Install Argo Workflows 3.6 or newer: its custom resource definitions and a controller."
    if facts.argo.is_not_served:
        yield failure("The cluster does not serve Argo's API, argoproj.io/v1alpha1.", todo)
        return
    if not facts.argo.ok:
        yield unreadable("Argo's API", facts.argo)
        return
    names = {resource.get("name") for resource in facts.argo.body.get("resources") or []}
    missing = [name for name in _REQUIRED_RESOURCES if name not in names]
    if missing:
        yield failure(f"Argo's API lacks {' and '.join(missing)}.", todo)
        return
    versions = dict(_versions(facts))
    old = [where for where, version in versions.items() if version < OLDEST_ARGO]
    upgrade = "Upgrade Argo to 3.6 or newer."
    if old and len(old) == len(versions):
        yield failure(f"Argo is older than 3.6, which flargo needs: {', '.join(old)}.", upgrade)
    elif old:
        yield warning(f"One of Argo's controllers is older than 3.6, which flargo needs: {', '.join(old)}.", upgrade)
    else:
        version = ", ".join(versions) or "unknown, since no pod of a controller is visible"
        yield ok(f"Argo's API is served; its version is {version}.{_mention_others(facts)}")


def controller(facts: Facts) -> Iterator[CheckResult]:
    """Check that a Workflow controller watches the namespace. Only a controller that picks up a probe proves it."""
    missing = [str(right) for right, answer in facts.probe_rights.items() if not is_allowed(answer.body)]
    if not facts.probes:
        requirement = f"the right to {', '.join(missing)}" if missing else "a namespace"
        todo = "Run flargo doctor as a user who has that right."
        yield unknown(f"No probe was submitted, because it needs {requirement}.", todo)
        return
    first, *others = facts.probes
    if first.created.lacks_permission:
        yield unreadable("A controller's reaction to a probe", first.created)
    elif not first.created.ok:
        yield failure(
            f"A Workflow cannot be submitted: {first.created}.",
            "Read the message: a policy or a webhook rejects Workflows.",
        )
    elif not first.phase and not first.latest.ok:
        yield unreadable("A controller's reaction to a probe", first.latest)
    else:
        yield _judge_probe(first, others, facts)
    for probe in facts.probes:
        if probe.undeleted_name:
            delete = ("delete", "workflows.argoproj.io", probe.undeleted_name)
            command = kubectl(facts.needs.namespace, delete, names=(probe.undeleted_name,))
            todo = f"Delete it: `{command}`." if command else "Delete it."
            yield warning(f"The probe {probe.undeleted_name} could not be deleted.", todo)


def restrictions(facts: Facts) -> Iterator[CheckResult]:
    """Check that no setting of the controller stops flargo's Workflows, or makes Argo run a job twice."""
    first = facts.probes[0] if facts.probes else None
    is_accepted = first is not None and first.phase in _ACCEPTED_PHASES
    who = next(filter(None, (manager(answer.body) for answer in facts.settings.values())), "")
    place = f"the values of {who}" if who else "the controller's ConfigMap"
    todo = (
        f"Remove workflowRestrictions.templateReferencing from {place}, or run a separate controller for this "
        "namespace: flargo's Workflows have no workflowTemplateRef."
    )
    settings = {where: parse_settings(answer.body) for where, answer in facts.settings.items() if answer.ok}
    modes = {where: mode for where, each in settings.items() if (mode := _template_referencing(each))}
    if first is not None and _REFERENCE_MODE_MARK in first.message:
        yield failure(f"The controller rejects Workflows without a workflowTemplateRef: {first.message}.", todo)
    elif modes and not is_accepted:
        shown = ", ".join(f"{mode} in namespace {where}" for where, mode in modes.items())
        yield failure(f"The controller's templateReferencing is {shown}.", todo)
    elif not is_accepted and not settings:
        answers = [*facts.settings.values()]
        none = unknown("No settings of a controller are visible.", "Look at the result of the check controller first.")
        yield unreadable("The controller's settings", answers[0]) if answers else none
    elif is_accepted:
        yield ok("The controller accepts Workflows without a workflowTemplateRef.")
    else:
        yield ok(f"The controller's settings in namespace {', '.join(settings)} reject none of flargo's Workflows.")
    for where, each in settings.items():
        if _retries_steps(each):
            todo = f"Remove the retryStrategy from {place}: "
            todo += "each job that fails gets a second pod, which flargo ends at once."
            yield warning(f"The controller in namespace {where} retries failed steps (workflowDefaults).", todo)
        if _has_handlers(each):
            yield ok(
                f"The controller in namespace {where} runs an exit handler or hooks for every Workflow "
                "(workflowDefaults): after a job's own end, and not after a job that was ended."
            )


def parse_settings(config_map: Object) -> Object:
    """Return a controller's settings, parsed as the controller parses them (parseConfigMap in config/controller.go)."""
    data = config_map.get("data") or {}
    try:
        if "config" in data:
            settings = load_yaml(CONFIG_MAP, str(data["config"]))
        else:
            settings = {key: load_yaml(CONFIG_MAP, str(data[key])) for key in _SETTINGS if key in data}
    except InvalidInput:
        return {}
    return settings if isinstance(settings, dict) else {}


def executor_settings(settings: Iterable[Object]) -> Object:
    """Return the settings of Argo's own containers: those of the first controller that has any."""
    return next((executor for each in settings if isinstance(executor := each.get("executor"), dict)), {})


def is_allowed(review: Object) -> bool:
    """Return whether an access review grants the right."""
    return bool((review.get("status") or {}).get("allowed"))


def _judge_probe(first: Probe, others: list[Probe], facts: Facts) -> CheckResult:
    suffix = f" with instance id {first.instance_id}" if first.instance_id else ""
    if first.phase in _ACCEPTED_PHASES or _REFERENCE_MODE_MARK in first.message:
        return ok(f"A Workflow controller{suffix} picked up the probe after {first.seconds:.1f} s.")
    if first.phase == "Pending":
        todo = "Raise the controller's parallelism or namespaceParallelism, or wait until other Workflows end."
        return warning(f"The controller keeps the probe pending: {first.message}.", todo)
    if first.phase:
        todo = "Read the message and the controller's log."
        return failure(f"The phase of the probe is {first.phase}: {first.message}.", todo)
    what = f"No Workflow controller{suffix} picked up the probe within {first.seconds:.0f} s."
    for other in others:
        if other.phase:
            value = other.instance_id or "null"
            which = f"with instance id {other.instance_id}" if other.instance_id else "without an instance id"
            command = shell_command("flargo", "prepare", "KIT", "--argo", f"instance_id={value}", names=(value,))
            todo = f"Use that instance id: `{command}`." if command else "Set argo.instance_id to that instance id."
            return failure(f"{what} A controller {which} did.", todo)
    todo = f"Check that a controller runs and watches namespace {facts.needs.namespace} (--managed-namespace), and"
    return failure(what, f"{todo} set argo.instance_id if that controller has an instance id.")


def _versions(facts: Facts) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the version of each visible controller, as its image's tag with the namespace, and as two numbers."""
    for pod in facts.controllers.body.get("items") or []:
        for container in pod["spec"].get("containers") or []:
            image = str(container.get("image"))
            if "workflow-controller" not in f"{image} {container.get('name')}":
                continue
            tag = image.partition("@")[0].rpartition(":")[2]
            match = _VERSION.fullmatch(tag) if len(tag) <= _MAX_TAG_LENGTH else None
            if match:
                yield f"{tag} in namespace {pod['metadata'].get('namespace')}", (int(match[1]), int(match[2]))


def _mention_others(facts: Facts) -> str:
    """Return a sentence about pods in other namespaces that are labelled as a controller, which anybody can do."""
    names = facts.other_controllers
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMESPACES_SHOWN} more" if len(names) > _MAX_NAMESPACES_SHOWN else ""
    shown = f"{', '.join(names[:_MAX_NAMESPACES_SHOWN])}{more}"
    return (
        f" Pods labelled as a controller are also in namespace {shown}: "
        "if one of them serves this site, name its namespace with --argo-namespace."
    )


def _template_referencing(settings: Object) -> Any:
    return fields.value(settings, "workflowRestrictions", "templateReferencing")


def _retries_steps(settings: Object) -> bool:
    spec = ("workflowDefaults", "spec")
    kinds = (("retryStrategy",), ("templateDefaults", "retryStrategy"))
    return any(fields.value(settings, *spec, *keys) for keys in kinds)


def _has_handlers(settings: Object) -> bool:
    return any(fields.value(settings, "workflowDefaults", "spec", key) for key in ("onExit", "hooks"))
