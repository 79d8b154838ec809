"""The pod: what nvflare's renderer makes, and the short list of what flargo makes different."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flargo.job import names, validate
from flargo.job.settings import Settings, unreserved_key
from flargo.job.site_errors import Place, SiteFileError, check_hidden
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
"""Argo mounts its own volume there in every container."""
STOCK_GPU = "nvidia.com/gpu"
"""The stock launcher's only name for a GPU."""
_CONTAINER_SHAPE: Mapping[str, Any] = {
    "name": "",
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
"""What of a pod template is looked into here, and so has to be of that type. Hera's models see the rest."""

TEMPLATE_PLACE = Place("pod_template")
"""Where errors about the pod begin: a site's template is the only part of it that can be wrong."""
_TYPE_NAMES: Mapping[type, str] = {dict: "a dictionary", list: "a list", str: "a text"}
_JSON_SCALARS = (str, int, float, type(None))


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which flargo's pod is not the stock launcher's."""

    name: str
    change: str
    reason: str
    apply: Callable[[Object, Launch, Settings], None]
    """Changes the pod in place."""


def containers(pod: Object) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every container of a pod, with the place where it stands."""
    for group in ("initContainers", "containers"):
        for index, container in enumerate(pod["spec"].get(group, ())):
            yield TEMPLATE_PLACE.key("spec").key(group).index(index), container


def without_nulls(value: Any) -> Any:
    """A copy without dictionary entries that are null, which to Kubernetes are not there."""
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(entry) for entry in value]
    return value


def main_container(pod: Object) -> dict[str, Any]:
    """The job's own container, once it is called so."""
    found: dict[str, Any] = next(each for each in pod["spec"]["containers"] if each.get("name") == MAIN_CONTAINER)
    return found


def _name_main_container(pod: Object, launch: Launch, _: Settings) -> None:
    for container in pod["spec"]["containers"]:
        if container.get("name") == launch.container:
            container["name"] = MAIN_CONTAINER


def _write_quantities(pod: Object, _: Launch, settings: Settings) -> None:
    known = ("ephemeral-storage", STOCK_GPU, settings.argo.gpu_resource)
    for where, container in containers(pod):
        resources = container.get("resources", {})
        for part in sorted({"limits", "requests"} & set(resources)):
            place = where.key("resources").key(part)
            resources[part] = {
                name: check_hidden(place.key(name, known), validate.quantity, amount)
                for name, amount in resources[part].items()
            }


def _rename_gpu_resource(pod: Object, _: Launch, settings: Settings) -> None:
    said = main_container(pod).get("resources", {})
    for amounts in (said.get("limits", {}), said.get("requests", {})):
        if STOCK_GPU in amounts:
            amounts[settings.argo.gpu_resource] = amounts.pop(STOCK_GPU)


def _set_pull_policy(pod: Object, _: Launch, settings: Settings) -> None:
    if settings.argo.image_pull_policy is not None:
        main_container(pod)["imagePullPolicy"] = settings.argo.image_pull_policy


def _restrict_main(pod: Object, _: Launch, settings: Settings) -> None:
    main = main_container(pod)
    of_pod = pod["spec"].get("securityContext", {})
    main["securityContext"] = restricted_context(main.get("securityContext", {}), of_pod, settings.argo.run_as_user)


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
    written = {mount.get("name") for mount in mounts if not mount.get("readOnly")} | devices
    # Two volumes of one claim share one mount on the node: read-only for one would be read-only for the other.
    written_claims = {claim.get("claimName") for name, claim in claims.items() if name in written}
    for name, claim in claims.items():
        if name in mounted and claim.get("claimName") not in written_claims:
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
    most = settings.argo.policy.running_time
    if most is not None:
        said = pod["spec"].get("activeDeadlineSeconds", most)
        if isinstance(said, bool) or not isinstance(said, int):
            raise SiteFileError(TEMPLATE_PLACE.key("spec").key("activeDeadlineSeconds"), "a whole number of seconds")
        pod["spec"]["activeDeadlineSeconds"] = min(said, most)


def _do_nothing(_: Object, __: Launch, ___: Settings) -> None:
    """Made so when the request is read: flargo.flare.request."""


DIFFERENCES = (
    Difference(
        "secret names",
        "The Secrets' names carry the federation's hash (startup kit) and the launch's id (credentials).",
        "Every FLARE server is called `server`: two federations in a namespace would overwrite each other's kit.",
        _do_nothing,
    ),
    Difference(
        "main",
        f"The job's container is called `{MAIN_CONTAINER}`.",
        "Argo calls it so and takes no other name.",
        _name_main_container,
    ),
    Difference(
        "quantities",
        "Resource amounts are strings, GPU counts included.",
        "The API's quantities are strings; the stock launcher's number is refused by typed clients.",
        _write_quantities,
    ),
    Difference(
        "GPU resource",
        f"`{STOCK_GPU}` becomes the site's `argo.gpu_resource`.",
        "MIG slices and other makers' GPUs have other names.",
        _rename_gpu_resource,
    ),
    Difference(
        "image pull policy",
        "The job's container has the site's `argo.image_pull_policy`, where it is set.",
        "The stock launcher always pulls, which a site with loaded or pinned images need not.",
        _set_pull_policy,
    ),
    Difference(
        "restricted",
        "The job's container has the security context that Pod Security `restricted` asks for, where the site has"
        " not said otherwise on the container or the pod.",
        "The stock launcher's pods are refused in such a namespace.",
        _restrict_main,
    ),
    Difference(
        "read-only claims",
        "A volume claim that the whole pod only reads is read-only itself, not only where it is mounted.",
        "Argo mounts what the job mounts in its own container too, and there without read-only.",
        _mark_read_only_claims,
    ),
    Difference(
        "labels",
        "The pod carries flargo's labels and the site's `argo.labels` and `argo.annotations`.",
        "People and watches find the job's pods by them.",
        _add_labels,
    ),
    Difference(
        "service account",
        "The pod runs as `argo.service_account` unless its pod template names an account.",
        "The namespace's default account may have been given rights that no job should have.",
        _set_account,
    ),
    Difference(
        "no token",
        "No service account token is mounted unless the pod template asks for it.",
        "A job's code has no business with the Kubernetes API.",
        _disable_token_mount,
    ),
    Difference(
        "running time",
        "The pod has the site's `argo.policy.running_time` as its deadline, where it is set and the pod template"
        " has no shorter one.",
        "The stock launcher has no ceiling for it.",
        _limit_running_time,
    ),
)
"""All there is. The differential test holds its own list against the stock launcher's pods."""


def build_pod(launch: Launch, settings: Settings) -> Object:
    """The launch's pod with flargo's differences; the launch's own is left alone.

    Raises:
        SiteFileError: the pod template holds what Argo reserves for itself, or what is not Kubernetes.
    """
    made: Object = without_nulls(launch.pod)
    _refuse_non_json(made, TEMPLATE_PLACE)
    _refuse_wrong_types(made, SHAPE, TEMPLATE_PLACE)
    _refuse_reserved(made, launch)
    for difference in DIFFERENCES:
        difference.apply(made, launch, settings)
    return made


def job_labels(launch: Launch) -> dict[str, str]:
    """What the launch's Workflow and pod carry."""
    return {
        **names.site_labels(launch.parent),
        Label.ROLE.value: launch.parent.role.value,
        Label.JOB_ID.value: names.label_value(launch.job_id),
        Label.PARENT.value: names.label_value(launch.parent.epoch),
        **({Label.STUDY.value: names.label_value(launch.study)} if launch.study else {}),
    }


def restricted_context(said: Mapping[str, Any], of_pod: Mapping[str, Any], user: int | None) -> dict[str, Any]:
    """A container's security context, filled up to what Pod Security "restricted" asks for.

    Nothing that the site said is overruled: neither on the container (``said``) nor on the pod (``of_pod``). A
    site that wants root, or privileges, gets them, and the namespace's own policy is the judge of that.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    both = {**of_pod, **said}
    filled: dict[str, Any] = dict(said)
    if not _needs_privileges(said):
        filled.setdefault("allowPrivilegeEscalation", False)
    if not said.get("privileged"):
        filled.setdefault("capabilities", {"drop": ["ALL"]})
    if "seccompProfile" not in both:
        filled["seccompProfile"] = {"type": "RuntimeDefault"}
    if "runAsUser" not in both and both.get("runAsNonRoot") is not False and user is not None:
        filled["runAsUser"] = both["runAsUser"] = user
    if "runAsNonRoot" not in both and both.get("runAsUser"):
        filled["runAsNonRoot"] = True
    return filled


def _needs_privileges(said: Mapping[str, Any]) -> bool:
    """Whether the API would refuse ``allowPrivilegeEscalation: false`` beside it."""
    added = said.get("capabilities", {}).get("add", ())
    return bool(said.get("privileged")) or "SYS_ADMIN" in added or "CAP_SYS_ADMIN" in added


def _refuse_non_json(value: Any, place: Place) -> None:
    """YAML has more than JSON: dates, binary data, sets, infinity, and numbers for keys."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise SiteFileError(place.key(key), "a text as the key")
            _refuse_non_json(entry, place.key(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_non_json(entry, place.index(index))
    elif not isinstance(value, _JSON_SCALARS) or (isinstance(value, float) and not math.isfinite(value)):
        raise SiteFileError(place, "what JSON has: a text (in quotes), a number, true, false, a list or a dictionary")


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
            raise SiteFileError(place.key("name"), f"any name but {reserved}: Argo's own")
        for index, mount in enumerate(container.get("volumeMounts", ())):
            path = str(mount.get("mountPath", ""))
            if path.rstrip("/") == RESERVED_PATH or path.startswith(f"{RESERVED_PATH}/"):
                mount_place = place.key("volumeMounts").index(index).key("mountPath")
                raise SiteFileError(mount_place, f"any path but {RESERVED_PATH} and below: Argo's own")
    for index, volume in enumerate(pod["spec"].get("volumes", ())):
        if volume.get("name") in RESERVED_VOLUMES:
            allowed = f"any name but {', '.join(sorted(RESERVED_VOLUMES))}: Argo's own"
            raise SiteFileError(TEMPLATE_PLACE.key("spec").key("volumes").index(index).key("name"), allowed)
    for group in ("labels", "annotations"):
        for key in pod["metadata"].get(group, {}):
            # A template made by Helm or Kustomize may say who manages it; flargo's own value takes that place.
            if key != Label.MANAGED_BY:
                check_hidden(TEMPLATE_PLACE.key("metadata").key(group), unreserved_key, key)
