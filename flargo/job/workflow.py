"""Build the Argo Workflow whose single step is a job's pod. No field of the pod is dropped.

A Workflow cannot contain a whole pod. The pod's fields go to the step's template, to the Workflow's spec, or, if
neither has such a field, into the template's ``podSpecPatch``. POD_FIELDS and CONTAINER_FIELDS say which field goes
where; a field that is in neither table is refused by name. The Workflow is built with Hera, whose models silently drop
fields that they do not know. So the manifest that Hera returns is compared with its input, leaf by leaf.

Sources: createWorkflowPod in Argo's workflow/controller/workflowpod.go (3.7.18); Kubernetes' PodSpec (1.33, the version
that Argo 3.7 is built with: it drops fields of later versions).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from flargo.job import argo_ui, names
from flargo.job.pod import EXECUTOR_INIT, EXECUTOR_WAIT, TEMPLATE_PLACE, job_labels, main_container, restricted_context
from flargo.job.settings import Settings
from flargo.job.site_errors import Place, SiteFileError
from flargo.terms import MAIN_CONTAINER, STEP_TEMPLATE, Annotation, Launch, Object, Role, TemplateAnnotation

INSTANCE_ID = "workflows.argoproj.io/controller-instanceid"
"""The label that selects the Workflows of a controller that has an instance id."""


class Destination(Enum):
    """The part of a Workflow that a field of a pod goes to."""

    CONTAINERS = "the template's container and sidecars"
    TEMPLATE = "the field of that name of the template"
    SPEC = "the field of that name of the Workflow's spec"
    PATCH = "the template's podSpecPatch"
    ARGO = "nowhere: Argo sets it to the only value allowed"


POD_FIELDS: Final[Mapping[str, Destination]] = {
    "containers": Destination.CONTAINERS,
    "initContainers": Destination.TEMPLATE,
    "volumes": Destination.TEMPLATE,
    "securityContext": Destination.TEMPLATE,
    "nodeSelector": Destination.TEMPLATE,
    "affinity": Destination.TEMPLATE,
    "tolerations": Destination.TEMPLATE,
    "schedulerName": Destination.TEMPLATE,
    "priorityClassName": Destination.TEMPLATE,
    "hostAliases": Destination.TEMPLATE,
    "activeDeadlineSeconds": Destination.TEMPLATE,
    "serviceAccountName": Destination.SPEC,
    "automountServiceAccountToken": Destination.SPEC,
    "imagePullSecrets": Destination.SPEC,
    "hostNetwork": Destination.SPEC,
    "dnsPolicy": Destination.SPEC,
    "dnsConfig": Destination.SPEC,
    "restartPolicy": Destination.ARGO,
    "enableServiceLinks": Destination.PATCH,
    "hostIPC": Destination.PATCH,
    "hostPID": Destination.PATCH,
    "hostUsers": Destination.PATCH,
    "hostname": Destination.PATCH,
    "nodeName": Destination.PATCH,
    "os": Destination.PATCH,
    "overhead": Destination.PATCH,
    "preemptionPolicy": Destination.PATCH,
    "priority": Destination.PATCH,
    "readinessGates": Destination.PATCH,
    "resourceClaims": Destination.PATCH,
    "resources": Destination.PATCH,
    "runtimeClassName": Destination.PATCH,
    "schedulingGates": Destination.PATCH,
    "setHostnameAsFQDN": Destination.PATCH,
    "shareProcessNamespace": Destination.PATCH,
    "subdomain": Destination.PATCH,
    "terminationGracePeriodSeconds": Destination.PATCH,
    "topologySpreadConstraints": Destination.PATCH,
}
"""All fields that a pod's spec may have."""

CONTAINER_FIELDS: Final[Mapping[str, Destination]] = {
    "name": Destination.TEMPLATE,
    "image": Destination.TEMPLATE,
    "command": Destination.TEMPLATE,
    "args": Destination.TEMPLATE,
    "workingDir": Destination.TEMPLATE,
    "ports": Destination.TEMPLATE,
    "env": Destination.TEMPLATE,
    "envFrom": Destination.TEMPLATE,
    "resources": Destination.TEMPLATE,
    "resizePolicy": Destination.TEMPLATE,
    "restartPolicy": Destination.TEMPLATE,
    "volumeMounts": Destination.TEMPLATE,
    "volumeDevices": Destination.TEMPLATE,
    "terminationMessagePath": Destination.TEMPLATE,
    "terminationMessagePolicy": Destination.TEMPLATE,
    "imagePullPolicy": Destination.TEMPLATE,
    "securityContext": Destination.TEMPLATE,
    "stdin": Destination.TEMPLATE,
    "stdinOnce": Destination.TEMPLATE,
    "tty": Destination.TEMPLATE,
    # Hera's models accept only port numbers, Kubernetes also port names.
    "livenessProbe": Destination.PATCH,
    "readinessProbe": Destination.PATCH,
    "startupProbe": Destination.PATCH,
    "lifecycle": Destination.PATCH,
}
"""All fields that a container may have."""

POD_PARTS: Final = frozenset({"apiVersion", "kind", "metadata", "spec"})
POD_METADATA: Final = frozenset({"name", "namespace", "labels", "annotations"})
"""All metadata of a pod that a Workflow can carry; name and namespace become the Workflow's own."""
_FIXED: Final[Mapping[str, Any]] = {"restartPolicy": "Never"}
_TYPE_ERRORS: Final[Mapping[str, str]] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a dictionary",
    "enum": "one of the values that Kubernetes defines",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "missing": "this field is missing",
    "model_type": "a dictionary",
    "string_type": "a string",
}
"""Descriptions of the expected value, by the codes of pydantic's errors."""
_MAX_REFUSAL_LENGTH = 1000
"""The most characters of the text that says why a job gets fewer attempts than it asks for."""
_PYDANTIC_CODE = re.compile(r"[a-z]+(?:_[a-z]+){0,4}")


def build_workflow(launch: Launch, pod: Object, settings: Settings) -> Object:
    """Return the Workflow from which Argo creates this pod. It is suspended, since its Secrets are created after it.

    Args:
        launch: the source of names and labels.
        pod: flargo's pod, from ``flargo.job.pod``.
        settings: the site's settings.

    Raises:
        SiteFileError: the pod has a field that a Workflow cannot carry, a value of a type that Kubernetes does not
            accept, or text that Argo would evaluate.
    """
    _refuse_unknown_keys(pod, POD_PARTS, TEMPLATE_PLACE)
    _refuse_unknown_keys(pod["metadata"], POD_METADATA, TEMPLATE_PLACE.key("metadata"))
    refuse_expressions(pod, "pod")
    template, spec = _distribute_fields(pod, settings)
    template |= _synchronization(launch, settings)
    template["annotations"] = {TemplateAnnotation.DISPLAY_NAME.value: argo_ui.node_name(launch)}
    meta: Object = {
        "name": pod["metadata"]["name"],
        "namespace": settings.namespace,
        "labels": _labels(launch, settings),
        "annotations": _annotations(launch, settings),
    }
    spec = {
        **spec,
        "entrypoint": STEP_TEMPLATE,
        "suspend": True,
        "executor": {"serviceAccountName": settings.argo.executor_service_account},
        **_retention(settings),
    }
    manifest = render_with_hera(meta, spec, template)
    refuse_losses({"metadata": meta, "spec": {**spec, "templates": [template]}}, manifest)
    refuse_expressions(manifest, "workflow")
    return manifest


def render_with_hera(meta: Object, spec: Object, template: Object) -> Object:
    """Return the manifest that Hera makes, with its Workflow builder and its typed models of templates.

    The template is built with the models and not with Hera's ``Container``, which sets a default image and accepts
    fewer units of memory than Kubernetes does.

    Raises:
        SiteFileError: a value has another type than Kubernetes requires. Pydantic's message quotes the value, so only
            the error's location and code are used.
    """
    # Imported late: importing Hera takes a second, and callers that only read settings do not need it.
    from hera.workflows import Workflow  # noqa: PLC0415
    from hera.workflows.models import Template, WorkflowSpec  # noqa: PLC0415
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        typed = WorkflowSpec.model_validate(spec)
        step = Template.model_validate(template)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = Place("pod")
        for part in first["loc"]:
            place = place.index(part) if isinstance(part, int) else place.key(part)
        raise SiteFileError(
            place, f"a value that Kubernetes accepts there{_describe_type_error(first['type'])}"
        ) from None
    workflow = Workflow(
        name=meta["name"],
        namespace=meta["namespace"],
        labels=meta["labels"],
        annotations=meta["annotations"],
        templates=[step],
        **{field: getattr(typed, field) for field in typed.model_fields_set},
    )
    manifest: Object = json.loads(json.dumps(workflow.to_dict()))
    return manifest


def _describe_type_error(code: str) -> str:
    """Return a description of a pydantic error's code, as a suffix of a message."""
    if code in _TYPE_ERRORS:
        return f": {_TYPE_ERRORS[code]}"
    return f" ({code})" if _PYDANTIC_CODE.fullmatch(code) else ""


def refuse_losses(source: Object, manifest: Object) -> None:
    """Refuse input that Hera has dropped or changed.

    Raises:
        SiteFileError: names the first leaf of the source that the manifest does not have unchanged.
    """
    for place in _losses(source, manifest, Place("")):
        raise SiteFileError(place, "a field and a value that Argo's Workflow can carry (Hera's models drop this one)")


def refuse_expressions(value: Any, where: str) -> None:
    """Refuse a value that has ``{{`` anywhere, also in a key: Argo would evaluate it.

    Args:
        value: JSON of any depth.
        where: flargo's own name for the value, with which the place in the error begins.

    Raises:
        SiteFileError: names the first place, which may be a key.
    """
    if "{{" in repr(value):  # this check is many times faster than the search for the place, and hardly ever true
        _refuse_expressions(value, Place(where))


def _refuse_expressions(value: Any, place: Place) -> None:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _refuse_expressions(str(key), place.key(key))
            _refuse_expressions(entry, place.key(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_expressions(entry, place.index(index))
    elif isinstance(value, str) and "{{" in value:
        raise SiteFileError(place, "a string without {{, which Argo would evaluate")


def _distribute_fields(pod: Object, settings: Settings) -> tuple[Object, Object]:
    """Return the template and the fields of the Workflow's spec that a pod becomes. They share values with the pod."""
    template: Object = {"name": STEP_TEMPLATE, "metadata": _pod_metadata(pod)}
    spec: Object = {}
    patch: Object = {}
    spec_place = TEMPLATE_PLACE.key("spec")
    for field, value in pod["spec"].items():
        match _destination(POD_FIELDS, field, spec_place):
            case Destination.CONTAINERS:
                _add_containers(pod, template, patch)
            case Destination.TEMPLATE if field == "initContainers":
                place = spec_place.key(field)
                template[field] = [
                    _split_container(entry, patch, field, place.index(index)) for index, entry in enumerate(value)
                ]
            case Destination.TEMPLATE:
                template[field] = value
            case Destination.SPEC:
                spec[field] = value
            case Destination.PATCH:
                patch[field] = value
            case Destination.ARGO if value != _FIXED[field]:
                raise SiteFileError(spec_place.key(field), repr(_FIXED[field]))
    if settings.argo.patch_executor:
        _patch_executor(pod, patch, settings)
    _refuse_zero_grace(pod)
    if patch:
        template["podSpecPatch"] = json.dumps(patch, sort_keys=True)
    return template, spec


def _add_containers(pod: Object, template: Object, patch: Object) -> None:
    place = TEMPLATE_PLACE.key("spec").key("containers")
    containers = [
        _split_container(container, patch, "containers", place.index(index))
        for index, container in enumerate(pod["spec"]["containers"])
    ]
    template["container"] = next(container for container in containers if container.get("name") == MAIN_CONTAINER)
    # Argo sets the name itself.
    del template["container"]["name"]
    sidecars = [container for container in containers if container is not template["container"]]
    if sidecars:
        template["sidecars"] = sidecars


def _split_container(container: Mapping[str, Any], patch: Object, group: str, place: Place) -> Object:
    """Return a container's fields that a template can have. The others are added to the patch, by the container's name.

    Args:
        container: the container as the pod has it.
        patch: the pod patch, which is changed in place.
        group: ``containers`` or ``initContainers``.
        place: the container's place, for errors.
    """
    destinations = {field: _destination(CONTAINER_FIELDS, field, place) for field in container}
    patch_fields = {field: container[field] for field, goal in destinations.items() if goal is Destination.PATCH}
    if patch_fields:
        patch.setdefault(group, []).append({"name": container.get("name"), **patch_fields})
    return {field: container[field] for field, goal in destinations.items() if goal is Destination.TEMPLATE}


def _destination(table: Mapping[str, Destination], field: str, place: Place) -> Destination:
    if field not in table:
        is_alias = field == "serviceAccount"
        allowed = "serviceAccountName instead" if is_alias else f"one of the fields {', '.join(sorted(table))}"
        raise SiteFileError(place.key(field), allowed)
    return table[field]


def _patch_executor(pod: Object, patch: Object, settings: Settings) -> None:
    """Give Argo's own containers a security context, resources and the job container's user, since they share files."""
    pod_context = pod["spec"].get("securityContext", {})
    main_context = main_container(pod).get("securityContext", {})
    user = {key: main_context[key] for key in ("runAsUser", "runAsGroup", "runAsNonRoot") if key in main_context}
    fields = {
        "securityContext": restricted_context(user, pod_context, None),
        **({"resources": settings.argo.executor_resources} if settings.argo.executor_resources else {}),
    }
    patch.setdefault("initContainers", []).append({"name": EXECUTOR_INIT, **fields})
    patch.setdefault("containers", []).append({"name": EXECUTOR_WAIT, **fields})


def _refuse_zero_grace(pod: Object) -> None:
    """Refuse a termination grace period of 0, with which Argo never sends SIGKILL after SIGTERM."""
    grace = pod["spec"].get("terminationGracePeriodSeconds", 1)
    if not isinstance(grace, int) or grace < 1:
        place = TEMPLATE_PLACE.key("spec").key("terminationGracePeriodSeconds")
        raise SiteFileError(place, "a whole number of seconds >= 1")


def _pod_metadata(pod: Object) -> Object:
    meta = pod["metadata"]
    return {key: dict(meta[key]) for key in ("labels", "annotations") if meta.get(key)}


def _refuse_unknown_keys(value: Mapping[str, Any], keys: Collection[str], place: Place) -> None:
    for unknown in sorted(set(value) - set(keys)):
        raise SiteFileError(place.key(unknown), f"one of the fields {', '.join(sorted(keys))}")


def _labels(launch: Launch, settings: Settings) -> dict[str, str]:
    instance = settings.argo.instance_id
    return {**settings.argo.labels, **job_labels(launch), **({INSTANCE_ID: instance} if instance else {})}


def _annotations(launch: Launch, settings: Settings) -> dict[str, str]:
    has_attempts, refused = launch.max_attempts > 1, names.display_text(launch.refused_attempts, _MAX_REFUSAL_LENGTH)
    return {
        **settings.argo.annotations,
        Annotation.ATTEMPT.value: launch.attempt,
        **({Annotation.MAX_ATTEMPTS.value: str(launch.max_attempts)} if has_attempts else {}),
        **({Annotation.REFUSED_ATTEMPTS.value: refused} if refused else {}),
        Annotation.JOB_NAME.value: names.display_text(launch.job_name),
        Annotation.SITE_NAME.value: names.display_text(launch.parent.site),
        Annotation.TITLE.value: argo_ui.title(launch),
        Annotation.DESCRIPTION.value: argo_ui.description(launch),
    }


def _synchronization(launch: Launch, settings: Settings) -> Object:
    """Return the template's ``synchronization``, with the site's semaphore if this is a client's job.

    It is a field of the template, since a suspended Workflow would already hold a lock of the Workflow's own. A
    server's job never waits: FLARE's server launches one job after the other and waits until each one runs.
    """
    semaphore = settings.argo.semaphore
    if semaphore is None or launch.parent.role is not Role.CLIENT:
        return {}
    return {"synchronization": {"semaphores": [{"configMapKeyRef": {"name": semaphore.name, "key": semaphore.key}}]}}


def _retention(settings: Settings) -> Object:
    ttls = {"secondsAfterSuccess": settings.argo.keep_success, "secondsAfterFailure": settings.argo.keep_failure}
    strategy = {key: seconds for key, seconds in ttls.items() if seconds is not None}
    return {"ttlStrategy": strategy} if strategy else {}


def _losses(source: Any, result: Any, place: Place) -> Iterator[Place]:
    """Yield the place of every leaf of the source that the result does not have at the same place."""
    if isinstance(source, Mapping) and isinstance(result, Mapping):
        for key, value in source.items():
            if key in result:
                yield from _losses(value, result[key], place.key(key))
            else:
                yield place.key(key)
    elif isinstance(source, list) and isinstance(result, list) and len(source) == len(result):
        for index, (one, other) in enumerate(zip(source, result, strict=True)):
            yield from _losses(one, other, place.index(index))
    elif type(source) is not type(result) or source != result:
        yield place
