"""The pod as the single step of an Argo Workflow, built with Hera. Nothing of the pod is dropped.

Argo's Workflow has no place for a whole pod: its fields go to the step's template, to the Workflow's spec, or, where
neither has a word for them, into the template's ``podSpecPatch``. The tables say which goes where; what is in none
of them is refused by name. Hera's models drop in silence what they do not know, so the manifest that comes out of
them is held against what went in, leaf by leaf.

Sources: createWorkflowPod in Argo's workflow/controller/workflowpod.go (3.7.18); Kubernetes' PodSpec (1.33, which
is the one that Argo 3.7 knows: it drops younger fields).
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from flargo.job import names
from flargo.job.pod import EXECUTOR_INIT, EXECUTOR_WAIT, TEMPLATE_PLACE, job_labels, main_container, restricted_context
from flargo.job.settings import Settings
from flargo.job.site_errors import Place, SiteFileError
from flargo.terms import MAIN_CONTAINER, Annotation, Launch, Object, Role

TEMPLATE = "job"
"""The name of the one step."""
INSTANCE_ID = "workflows.argoproj.io/controller-instanceid"
"""The label by which a controller that was given an instance id knows its Workflows."""


class Destination(Enum):
    """Where a field of a pod goes in a Workflow."""

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
"""Every field that a pod's spec may have."""

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
    # Hera's models take a port by its number only, and Kubernetes by its name too.
    "livenessProbe": Destination.PATCH,
    "readinessProbe": Destination.PATCH,
    "startupProbe": Destination.PATCH,
    "lifecycle": Destination.PATCH,
}
"""Every field that a container may have."""

POD_PARTS: Final = frozenset({"apiVersion", "kind", "metadata", "spec"})
POD_METADATA: Final = frozenset({"name", "namespace", "labels", "annotations"})
"""All of a pod's metadata that has a place: the first two are the Workflow's own."""
_FIXED: Final[Mapping[str, Any]] = {"restartPolicy": "Never"}
_TYPE_ERRORS: Final[Mapping[str, str]] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a dictionary",
    "enum": "one of the words that it knows",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "missing": "this field is missing",
    "model_type": "a dictionary",
    "string_type": "a text",
}
"""What the codes of pydantic's errors mean for people."""
_PYDANTIC_CODE = re.compile(r"[a-z]+(?:_[a-z]+){0,4}")


def build_workflow(launch: Launch, pod: Object, settings: Settings) -> Object:
    """The Workflow that makes Argo make this pod: suspended, for its Secrets come after it.

    Args:
        launch: for names and labels.
        pod: flargo's pod, as ``flargo.job.pod`` makes it.
        settings: the site's.

    Raises:
        SiteFileError: something of the pod has no place in a Workflow, is not Kubernetes, or would be evaluated by
            Argo.
    """
    _refuse_unknown(pod, POD_PARTS, TEMPLATE_PLACE)
    _refuse_unknown(pod["metadata"], POD_METADATA, TEMPLATE_PLACE.key("metadata"))
    refuse_expressions(pod, "pod")
    template, spec = _place(pod, settings)
    template |= _synchronization(launch, settings)
    meta: Object = {
        "name": pod["metadata"]["name"],
        "namespace": settings.namespace,
        "labels": _labels(launch, settings),
        "annotations": _annotations(launch, settings),
    }
    spec = {
        **spec,
        "entrypoint": TEMPLATE,
        "suspend": True,
        "executor": {"serviceAccountName": settings.argo.executor_service_account},
        **_retention(settings),
    }
    manifest = render_with_hera(meta, spec, template)
    refuse_losses({"metadata": meta, "spec": {**spec, "templates": [template]}}, manifest)
    refuse_expressions(manifest, "workflow")
    return manifest


def render_with_hera(meta: Object, spec: Object, template: Object) -> Object:
    """Say it with Hera: its Workflow builder, and its typed models for what stands in a template.

    The template goes through the models rather than through Hera's ``Container``: that one fills in an image of its
    own and takes fewer units of memory than Kubernetes does.

    Raises:
        SiteFileError: a value has not the type that Kubernetes gives it. What pydantic says of it quotes the value,
            so only its location and its code of the error are used.
    """
    # Late: importing Hera takes a second, and who only asks for flargo's settings does not need it.
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
        raise SiteFileError(place, f"what Kubernetes takes there{_describe_type_error(first['type'])}") from None
    made = Workflow(
        name=meta["name"],
        namespace=meta["namespace"],
        labels=meta["labels"],
        annotations=meta["annotations"],
        templates=[step],
        **{field: getattr(typed, field) for field in typed.model_fields_set},
    )
    manifest: Object = json.loads(json.dumps(made.to_dict()))
    return manifest


def _describe_type_error(code: str) -> str:
    """A pydantic error's code in words."""
    if code in _TYPE_ERRORS:
        return f": {_TYPE_ERRORS[code]}"
    return f" ({code})" if _PYDANTIC_CODE.fullmatch(code) else ""


def refuse_losses(said: Object, manifest: Object) -> None:
    """Refuse what Hera did not take along.

    Raises:
        SiteFileError: names the first leaf that is not in the manifest as it was said.
    """
    for place in _losses(said, manifest, Place("")):
        raise SiteFileError(place, "a field and a value that Argo's Workflow can carry (Hera's models drop this one)")


def refuse_expressions(value: Any, where: str) -> None:
    """Refuse ``{{``, which Argo would evaluate.

    Args:
        value: what is looked through.
        where: what it is, in words of flargo's own.

    Raises:
        SiteFileError: names the first place, which may be a key.
    """
    if "{{" in repr(value):  # hardly ever; to look for its place takes many times as long
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
        raise SiteFileError(place, "a text without {{, which Argo would evaluate")


def _place(pod: Object, settings: Settings) -> tuple[Object, Object]:
    """Every field of a pod to its place: the template, and the fields of the Workflow's spec. Values are shared."""
    template: Object = {"name": TEMPLATE, "metadata": _pod_metadata(pod)}
    spec: Object = {}
    patch: Object = {}
    spec_place = TEMPLATE_PLACE.key("spec")
    for field, value in pod["spec"].items():
        match _destination(POD_FIELDS, field, spec_place):
            case Destination.CONTAINERS:
                _place_containers(pod, template, patch)
            case Destination.TEMPLATE if field == "initContainers":
                place = spec_place.key(field)
                template[field] = [_split(entry, patch, field, place.index(at)) for at, entry in enumerate(value)]
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


def _place_containers(pod: Object, template: Object, patch: Object) -> None:
    place = TEMPLATE_PLACE.key("spec").key("containers")
    split = [_split(entry, patch, "containers", place.index(at)) for at, entry in enumerate(pod["spec"]["containers"])]
    template["container"] = next(container for container in split if container.get("name") == MAIN_CONTAINER)
    # Argo gives the name itself.
    del template["container"]["name"]
    sidecars = [container for container in split if container is not template["container"]]
    if sidecars:
        template["sidecars"] = sidecars


def _split(container: Mapping[str, Any], patch: Object, group: str, place: Place) -> Object:
    """What of a container the template can say; the rest is added to the patch, by the container's name."""
    goes = {field: _destination(CONTAINER_FIELDS, field, place) for field in container}
    patched = {field: container[field] for field, goal in goes.items() if goal is Destination.PATCH}
    if patched:
        patch.setdefault(group, []).append({"name": container.get("name"), **patched})
    return {field: container[field] for field, goal in goes.items() if goal is Destination.TEMPLATE}


def _destination(table: Mapping[str, Destination], field: str, place: Place) -> Destination:
    if field not in table:
        hint = "serviceAccountName instead" if field == "serviceAccount" else f"one of {', '.join(sorted(table))}"
        raise SiteFileError(place.key(field), hint)
    return table[field]


def _patch_executor(pod: Object, patch: Object, settings: Settings) -> None:
    """Argo's own containers get a security context and resources, and main's user, for they share files."""
    of_pod = pod["spec"].get("securityContext", {})
    of_main = main_container(pod).get("securityContext", {})
    shared = {key: of_main[key] for key in ("runAsUser", "runAsGroup", "runAsNonRoot") if key in of_main}
    fields = {
        "securityContext": restricted_context(shared, of_pod, None),
        **({"resources": settings.argo.executor_resources} if settings.argo.executor_resources else {}),
    }
    patch.setdefault("initContainers", []).append({"name": EXECUTOR_INIT, **fields})
    patch.setdefault("containers", []).append({"name": EXECUTOR_WAIT, **fields})


def _refuse_zero_grace(pod: Object) -> None:
    """With 0 Argo never follows a SIGTERM with a SIGKILL."""
    grace = pod["spec"].get("terminationGracePeriodSeconds", 1)
    if not isinstance(grace, int) or grace < 1:
        place = TEMPLATE_PLACE.key("spec").key("terminationGracePeriodSeconds")
        raise SiteFileError(place, "a whole number of seconds >= 1")


def _pod_metadata(pod: Object) -> Object:
    meta = pod["metadata"]
    return {key: dict(meta[key]) for key in ("labels", "annotations") if meta.get(key)}


def _refuse_unknown(value: Mapping[str, Any], known: Collection[str], place: Place) -> None:
    for key in sorted(set(value) - set(known)):
        raise SiteFileError(place.key(key), f"one of {', '.join(sorted(known))}")


def _labels(launch: Launch, settings: Settings) -> dict[str, str]:
    instance = settings.argo.instance_id
    return {**settings.argo.labels, **job_labels(launch), **({INSTANCE_ID: instance} if instance else {})}


def _annotations(launch: Launch, settings: Settings) -> dict[str, str]:
    site, job = launch.parent.site, launch.job_name or launch.job_id
    job_id = names.markdown_code(launch.job_id)
    study = f", study {names.markdown_code(launch.study)}" if launch.study else ""
    return {
        **settings.argo.annotations,
        Annotation.ATTEMPT.value: launch.attempt,
        Annotation.JOB_NAME.value: names.display_text(launch.job_name),
        Annotation.SITE_NAME.value: names.display_text(site),
        Annotation.TITLE.value: f"{names.markdown_code(job)} at {names.markdown_code(site)}",
        Annotation.DESCRIPTION.value: f"NVIDIA FLARE job {job_id}, {launch.parent.role}{study}",
    }


def _synchronization(launch: Launch, settings: Settings) -> Object:
    """What a job waits for: on the template, since a suspended Workflow would hold a lock of the Workflow's own.

    A server's job never waits: FLARE's server launches jobs one after the other and waits for each.
    """
    semaphore = settings.argo.semaphore
    if semaphore is None or launch.parent.role is not Role.CLIENT:
        return {}
    return {"synchronization": {"semaphores": [{"configMapKeyRef": {"name": semaphore.name, "key": semaphore.key}}]}}


def _retention(settings: Settings) -> Object:
    kept = {
        "secondsAfterSuccess": settings.argo.keep_success,
        "secondsAfterFailure": settings.argo.keep_failure,
    }
    said = {key: seconds for key, seconds in kept.items() if seconds is not None}
    return {"ttlStrategy": said} if said else {}


def _losses(said: Any, got: Any, place: Place) -> Iterator[Place]:
    """The place of every leaf of ``said`` that ``got`` does not have at the same place."""
    if isinstance(said, Mapping) and isinstance(got, Mapping):
        for key, value in said.items():
            if key in got:
                yield from _losses(value, got[key], place.key(key))
            else:
                yield place.key(key)
    elif isinstance(said, list) and isinstance(got, list) and len(said) == len(got):
        for index, (one, other) in enumerate(zip(said, got, strict=True)):
            yield from _losses(one, other, place.index(index))
    elif type(said) is not type(got) or said != got:
        yield place
