"""Build a job's pod: the pod that nvflare renders, with a short list of differences."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flargo.job import names, validate
from flargo.job.settings import Settings, unreserved_key
from flargo.job.site_errors import Place, SiteFileError, check_hidden
from flargo.job.validate import Sentence
from flargo.terms import MAIN_CONTAINER, Label, Launch, Object

EXECUTOR_INIT, EXECUTOR_WAIT = "init", "wait"
"""Argo's own containers in the pod of a step."""
RESERVED_CONTAINERS = frozenset({MAIN_CONTAINER, EXECUTOR_INIT, EXECUTOR_WAIT, "supervisor"})
RESERVED_VOLUMES = frozenset(
    {
        "var-run-argo",
        "tmp-dir-argo",
        "input-artifacts",
        "exec-sa-token",
        "argo-staging",
        "argo-env-config",
        "argoexec-bin",
    }
)
RESERVED_PATH = "/var/run/argo"
"""Argo mounts a volume of its own at this path in every container."""
_DEFAULT_GRACE = 30
"""Seconds of a pod's grace period if its template sets none (Kubernetes' DefaultTerminationGracePeriodSeconds)."""
STOCK_GPU = "nvidia.com/gpu"
"""The resource name that FLARE's own launcher always uses for a GPU."""
_CONTAINER_SHAPE: Mapping[str, Any] = {
    "name": "",
    "lifecycle": {},
    "resources": {"limits": {}, "requests": {}},
    "securityContext": {"capabilities": {"add": []}},
    "volumeMounts": [{"name": ""}],
    "volumeDevices": [{"name": ""}],
}
SHAPE: Mapping[str, Any] = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [_CONTAINER_SHAPE],
        "initContainers": [_CONTAINER_SHAPE],
        "volumes": [{"name": "", "persistentVolumeClaim": {"claimName": ""}}],
        "securityContext": {},
    },
}
"""The parts of a pod template that this module reads, and their types. Hera's models check the other parts."""

TEMPLATE_PLACE = Place("pod_template")
"""The beginning of every place in an error about the pod: only a site's template can make the pod invalid."""
_TYPE_NAMES: Mapping[type, str] = {dict: "a dictionary", list: "a list", str: "a string"}
_JSON_SCALARS = (str, int, float, type(None))


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between flargo's pod and the pod of FLARE's own launcher."""

    name: str
    change: str
    reason: str
    apply: Callable[[Object, Launch, Settings], None]
    """Function that changes the pod in place."""


def containers(pod: Object) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield every container of a pod and its place."""
    for group in ("initContainers", "containers"):
        for index, container in enumerate(pod["spec"].get(group, ())):
            yield TEMPLATE_PLACE.key("spec").key(group).index(index), container


def without_nulls(value: Any) -> Any:
    """Return a copy without the dictionary entries that are null, which Kubernetes treats as absent."""
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(entry) for entry in value]
    return value


def main_container(pod: Object) -> dict[str, Any]:
    """Return the job's container of a pod in which it has Argo's name for it already."""
    container: dict[str, Any] = next(each for each in pod["spec"]["containers"] if each.get("name") == MAIN_CONTAINER)
    return container


def _name_main_container(pod: Object, launch: Launch, _: Settings) -> None:
    for container in pod["spec"]["containers"]:
        if container.get("name") == launch.container:
            container["name"] = MAIN_CONTAINER


def _write_quantities(pod: Object, _: Launch, settings: Settings) -> None:
    known_names = ("ephemeral-storage", STOCK_GPU, settings.argo.gpu_resource)
    for where, container in containers(pod):
        resources = container.get("resources", {})
        for part in sorted({"limits", "requests"} & set(resources)):
            place = where.key("resources").key(part)
            resources[part] = {
                name: check_hidden(place.key(name, known_names), validate.quantity, amount)
                for name, amount in resources[part].items()
            }


def _rename_gpu_resource(pod: Object, _: Launch, settings: Settings) -> None:
    resources = main_container(pod).get("resources", {})
    for amounts in (resources.get("limits", {}), resources.get("requests", {})):
        if STOCK_GPU in amounts:
            amounts[settings.argo.gpu_resource] = amounts.pop(STOCK_GPU)


def _set_pull_policy(pod: Object, _: Launch, settings: Settings) -> None:
    if settings.argo.image_pull_policy is not None:
        main_container(pod)["imagePullPolicy"] = settings.argo.image_pull_policy


def _restrict_main(pod: Object, _: Launch, settings: Settings) -> None:
    main = main_container(pod)
    pod_context = pod["spec"].get("securityContext", {})
    main["securityContext"] = restricted_context(
        main.get("securityContext", {}), pod_context, settings.argo.run_as_user
    )


def _mark_read_only_claims(pod: Object, _: Launch, __: Settings) -> None:
    claims = {
        volume.get("name"): volume["persistentVolumeClaim"]
        for volume in pod["spec"].get("volumes") or ()
        if volume.get("persistentVolumeClaim")
    }
    mounts = [mount for _, container in containers(pod) for mount in container.get("volumeMounts") or ()]
    devices = {
        device.get("name") for _, container in containers(pod) for device in container.get("volumeDevices") or ()
    }
    mounted = {mount.get("name") for mount in mounts}
    writable = {mount.get("name") for mount in mounts if not mount.get("readOnly")} | devices
    # Two volumes of one claim share a mount on the node: if one of them is read-only, so is the other.
    writable_claims = {claim.get("claimName") for name, claim in claims.items() if name in writable}
    for name, claim in claims.items():
        if name in mounted and claim.get("claimName") not in writable_claims:
            claim["readOnly"] = True


def _add_labels(pod: Object, launch: Launch, settings: Settings) -> None:
    meta = pod["metadata"]
    meta["labels"] = {**settings.argo.labels, **meta.get("labels", {}), **job_labels(launch)}
    annotations = {**settings.argo.annotations, **meta.get("annotations", {})}
    if annotations:
        meta["annotations"] = annotations


def _set_account(pod: Object, _: Launch, settings: Settings) -> None:
    pod["spec"].setdefault("serviceAccountName", settings.argo.service_account)


def _disable_token_mount(pod: Object, _: Launch, __: Settings) -> None:
    pod["spec"].setdefault("automountServiceAccountToken", False)


def _limit_running_time(pod: Object, _: Launch, settings: Settings) -> None:
    limit = settings.argo.policy.running_time
    if limit is not None:
        deadline = pod["spec"].get("activeDeadlineSeconds", limit)
        if isinstance(deadline, bool) or not isinstance(deadline, int):
            raise SiteFileError(TEMPLATE_PLACE.key("spec").key("activeDeadlineSeconds"), "a whole number of seconds")
        pod["spec"]["activeDeadlineSeconds"] = min(deadline, limit)


def _delay_drain(pod: Object, _: Launch, settings: Settings) -> None:
    delay, main = settings.argo.drain_delay, main_container(pod)
    if not delay:
        return
    command = [main["command"][0], "-c", f"import time; time.sleep({delay})"]
    # A native sleep action needs Kubernetes 1.30, and a shell's sleep is not in every image. Python is.
    main.setdefault("lifecycle", {}).setdefault("preStop", {"exec": {"command": command}})
    spec = pod["spec"]
    grace = spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE)
    if isinstance(grace, int):
        spec["terminationGracePeriodSeconds"] = grace + delay


def _do_nothing(_: Object, __: Launch, ___: Settings) -> None:
    """Leave the pod alone: flargo.flare.request has applied the difference when it read the launch."""


DIFFERENCES = (
    Difference(
        "secret names",
        "The Secrets' names contain the federation's hash (startup kit) and the launch's id (credentials).",
        "Every FLARE server is called `server`: two federations in a namespace would overwrite each other's kit.",
        _do_nothing,
    ),
    Difference(
        "main",
        f"The job's container is called `{MAIN_CONTAINER}`.",
        "Argo requires this name.",
        _name_main_container,
    ),
    Difference(
        "quantities",
        "Resource amounts are strings, GPU counts included.",
        "The API's quantities are strings; typed clients refuse the number that FLARE's own launcher writes.",
        _write_quantities,
    ),
    Difference(
        "GPU resource",
        f"`{STOCK_GPU}` becomes the site's `argo.gpu_resource`.",
        "MIG slices and GPUs of other vendors have other resource names.",
        _rename_gpu_resource,
    ),
    Difference(
        "image pull policy",
        "The job's container has the site's `argo.image_pull_policy`, if it is set.",
        "FLARE's own launcher always pulls, which a site with preloaded or pinned images does not need.",
        _set_pull_policy,
    ),
    Difference(
        "restricted",
        "The job's container has the security context that Pod Security `restricted` requires, except for fields that"
        " the site sets on the container or the pod.",
        "A namespace with this standard refuses the pods of FLARE's own launcher.",
        _restrict_main,
    ),
    Difference(
        "read-only claims",
        "A volume claim that no container of the pod writes to is read-only itself, not only its mounts.",
        "Argo mounts the job's volumes in its own container too, where the mounts are not read-only.",
        _mark_read_only_claims,
    ),
    Difference(
        "labels",
        "The pod has flargo's labels and the site's `argo.labels` and `argo.annotations`.",
        "People and watches find the job's pods by them.",
        _add_labels,
    ),
    Difference(
        "service account",
        "The pod runs as `argo.service_account` unless its pod template names an account.",
        "The namespace's default account may have permissions that no job should have.",
        _set_account,
    ),
    Difference(
        "no token",
        "No service account token is mounted unless the pod template asks for it.",
        "A job's code has no need for the Kubernetes API.",
        _disable_token_mount,
    ),
    Difference(
        "running time",
        "The pod has the site's `argo.policy.running_time` as its deadline, if it is set and the pod template has no"
        " shorter one.",
        "FLARE's own launcher has no limit for the running time.",
        _limit_running_time,
    ),
    Difference(
        "drain delay",
        "The job's container has a preStop hook that sleeps for the site's `argo.drain_delay`, if it is set, and the"
        " pod that much more grace period.",
        "A drain sends SIGTERM at once, and an upload that it interrupts ends the whole federated job.",
        _delay_drain,
    ),
)
"""All differences. The differential test has a list of its own, and compares flargo's pods with FLARE's by it."""


def build_pod(launch: Launch, settings: Settings) -> Object:
    """Return a copy of the launch's pod with flargo's differences applied.

    Raises:
        SiteFileError: the pod template uses a name that Argo reserves, or a value of a type that Kubernetes does not
            accept.
    """
    pod: Object = without_nulls(launch.pod)
    _refuse_non_json(pod, TEMPLATE_PLACE)
    _refuse_wrong_types(pod, SHAPE, TEMPLATE_PLACE)
    _refuse_reserved(pod, launch)
    for difference in DIFFERENCES:
        difference.apply(pod, launch, settings)
    return pod


def job_labels(launch: Launch) -> dict[str, str]:
    """Return flargo's labels for a launch's Workflow and pod."""
    return {
        **names.site_labels(launch.parent),
        Label.ROLE.value: launch.parent.role.value,
        Label.JOB_ID.value: names.label_value(launch.job_id),
        Label.PARENT.value: names.label_value(launch.parent.epoch),
        **({Label.STUDY.value: names.label_value(launch.study)} if launch.study else {}),
        **({Label.ATTEMPT_NUMBER.value: str(launch.number)} if launch.max_attempts > 1 else {}),
    }


def restricted_context(
    container_context: Mapping[str, Any], pod_context: Mapping[str, Any], user: int | None
) -> dict[str, Any]:
    """Return a container's security context, completed to what Pod Security "restricted" requires.

    Fields that the site sets, on the container or on the pod, are never overruled. A site that wants root or
    privileges gets them; the namespace's Pod Security admission decides whether it allows that.

    Args:
        container_context: the security context that the site sets on the container.
        pod_context: the security context that the site sets on the pod.
        user: the numeric user id to set where the site sets none; None: set no user.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    effective = {**pod_context, **container_context}
    context: dict[str, Any] = dict(container_context)
    if not _needs_privileges(container_context):
        context.setdefault("allowPrivilegeEscalation", False)
    if not container_context.get("privileged"):
        context.setdefault("capabilities", {"drop": ["ALL"]})
    if "seccompProfile" not in effective:
        context["seccompProfile"] = {"type": "RuntimeDefault"}
    if "runAsUser" not in effective and effective.get("runAsNonRoot") is not False and user is not None:
        context["runAsUser"] = effective["runAsUser"] = user
    if "runAsNonRoot" not in effective and effective.get("runAsUser"):
        context["runAsNonRoot"] = True
    return context


def _needs_privileges(context: Mapping[str, Any]) -> bool:
    """Return whether the API server refuses ``allowPrivilegeEscalation: false`` in this security context."""
    capabilities = context.get("capabilities", {}).get("add", ())
    return bool(context.get("privileged")) or "SYS_ADMIN" in capabilities or "CAP_SYS_ADMIN" in capabilities


def _refuse_non_json(value: Any, place: Place) -> None:
    """Refuse what YAML has and JSON has not: dates, binary data, sets, infinity, and numbers as keys."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise SiteFileError(place.key(key), Sentence("has a key that is not a string: put it in quotes"))
            _refuse_non_json(entry, place.key(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_non_json(entry, place.index(index))
    elif not isinstance(value, _JSON_SCALARS) or (isinstance(value, float) and not math.isfinite(value)):
        raise SiteFileError(
            place, "a value of JSON: a string (in quotes), a number, true, false, a list or a dictionary"
        )


def _refuse_wrong_types(value: Any, shape: Any, place: Place) -> None:
    if not isinstance(value, type(shape)):
        raise SiteFileError(place, _TYPE_NAMES[type(shape)])
    if isinstance(shape, list):
        for index, entry in enumerate(value):
            for entry_shape in shape:
                _refuse_wrong_types(entry, entry_shape, place.index(index))
    elif isinstance(shape, Mapping):
        for key, entry_shape in shape.items():
            if key in value:
                _refuse_wrong_types(value[key], entry_shape, place.key(key))


def _refuse_reserved(pod: Object, launch: Launch) -> None:
    for place, container in containers(pod):
        name = container.get("name")
        if name != launch.container and name in RESERVED_CONTAINERS:
            reserved = ", ".join(sorted(RESERVED_CONTAINERS))
            raise SiteFileError(place.key("name"), f"a name that Argo does not reserve: not {reserved}")
        for index, mount in enumerate(container.get("volumeMounts", ())):
            path = str(mount.get("mountPath", ""))
            if path.rstrip("/") == RESERVED_PATH or path.startswith(f"{RESERVED_PATH}/"):
                mount_place = place.key("volumeMounts").index(index).key("mountPath")
                raise SiteFileError(mount_place, f"a path outside {RESERVED_PATH}, which Argo uses itself")
    for index, volume in enumerate(pod["spec"].get("volumes", ())):
        if volume.get("name") in RESERVED_VOLUMES:
            allowed = f"a name that Argo does not reserve: not {', '.join(sorted(RESERVED_VOLUMES))}"
            raise SiteFileError(TEMPLATE_PLACE.key("spec").key("volumes").index(index).key("name"), allowed)
    for group in ("labels", "annotations"):
        for key in pod["metadata"].get(group, {}):
            # A template made by Helm or Kustomize may have the managed-by label; flargo's value replaces it.
            if key != Label.MANAGED_BY:
                check_hidden(TEMPLATE_PLACE.key("metadata").key(group), unreserved_key, key)
