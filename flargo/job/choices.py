"""Choose the values of a job's container: the job's own, then the study's, then the site's, within the site's policy.

They take precedence as in nvflare 2.9's K8sJobLauncher.launch_job.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flargo.job import validate
from flargo.job.pod import STOCK_GPU
from flargo.job.policy import Requested, enforce
from flargo.job.settings import Settings
from flargo.job.trust import REJOIN
from flargo.job.validate import MISSING, InvalidInput
from flargo.terms import Object


@dataclass(frozen=True, slots=True)
class JobOptions:
    """A job's options for one site, and where the job's author has written each."""

    values: Mapping[str, Any]
    places: Mapping[str, str]
    """The path of each option in the job's metadata, such as ``launcher_spec['default']['k8s']['cpu']``."""
    block: str
    """The path of the block in which the author would write another option."""

    def place(self, key: str) -> str:
        """Return the path at which an option is written, or would be if it is missing."""
        return self.places.get(key, f"{self.block}[{key!r}]")


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job's metadata says about its container at one site."""

    site: str
    """FLARE's name of the site."""
    mode: str
    """The key of the launcher in launcher_spec."""
    launcher: JobOptions
    """The job's options in launcher_spec, checked by flargo.job.trust."""
    portable: JobOptions
    """The job's resources in resource_spec, checked by nvflare."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The values of the options in launcher_spec."""
        return self.launcher.values


@dataclass(frozen=True, slots=True)
class Choices:
    """The values of a job's container that a job may influence. The site allows all of them."""

    image: str
    python_path: str
    pending_timeout: float | None
    """Seconds that the job may wait for resources; 0: it does not wait; None: no limit."""
    ephemeral_storage: str
    resources: Object
    """The container's requests and limits."""
    rejoin: int
    """How often a client's process is started again if the infrastructure loses it: what the job asks for, up to the
    site's limit."""
    refused_attempts: str
    """Why that is less than the job asks for; empty if it is not."""


def choose(request: JobRequest, study_image: str | None, settings: Settings) -> Choices:
    """Choose the values of a job's container.

    Args:
        request: what the job asks for.
        study_image: the image that the site's study file gives the job's study, if it does.
        settings: the site's settings, with its policy.

    Raises:
        InvalidInput: no image is set, a quantity is invalid, or the site does not allow what the job asks for.
    """
    spec = request.spec
    image = spec.get("image") or study_image
    if not image:
        raise _missing_image(request)
    resources = _build_resources(request, settings)
    _check_resources(resources, request)
    requested = Requested(
        places=_places(request),
        limits=resources["limits"],
        gpu=STOCK_GPU,
        image=spec.get("image") or None,
        python_path=spec.get("python_path"),
        pending_timeout=spec.get("pending_timeout"),
        has_pending_timeout="pending_timeout" in spec,
    )
    enforce(settings.argo.policy, requested)
    wanted, limit = spec.get("argo", {}).get(REJOIN, 0), settings.argo.policy.rejoin
    return Choices(
        image=str(image),
        python_path=str(spec.get("python_path", settings.python_path)),
        pending_timeout=spec.get("pending_timeout", settings.pending_timeout),
        ephemeral_storage=_choose_ephemeral_storage(request, settings),
        resources=resources,
        rejoin=min(wanted, limit),
        refused_attempts=_refuse_attempts(wanted, limit) if wanted > limit else "",
    )


def _refuse_attempts(wanted: int, limit: int) -> str:
    asked = f"the job asks for {wanted} further attempts (argo.rejoin)"
    return f"{asked}, and this site grants {limit} (argo.policy.rejoin)"


def _missing_image(request: JobRequest) -> InvalidInput:
    place = request.launcher.place("image")
    others = {
        f"launcher_spec[{request.site!r}][{request.mode!r}]['image']": "this site",
        f"launcher_spec['default'][{request.mode!r}]['image']": "shared default",
        f"resource_spec[{request.site!r}][{request.mode!r}]['image']": "legacy",
    }
    alternatives = ", ".join(f"in {path} ({note})" for path, note in others.items() if path != place)
    return InvalidInput(
        place,
        MISSING,
        f"an image there, {alternatives}, or in studies.<study>.container.image of local/study_runtime.yaml (the site's"
        " default)",
    )


def _choose_ephemeral_storage(request: JobRequest, settings: Settings) -> str:
    quantity = request.spec.get("ephemeral_storage")
    return settings.ephemeral_storage if quantity is None else str(quantity)


def _build_resources(request: JobRequest, settings: Settings) -> Object:
    """Return the container's resources: launcher_spec's values, overridden by those of nvflare's resource_spec."""
    spec, portable = request.spec, request.portable.values
    storage = _choose_ephemeral_storage(request, settings)
    limits: Object = {"ephemeral-storage": storage}
    requests: Object = {"ephemeral-storage": storage}
    for name in ("cpu", "memory"):
        limit = spec.get(name)
        # The limit is also the default of the request: some admission webhooks require a request.
        amount = spec.get(f"{name}_request", limit)
        limits |= {name: limit} if limit else {}
        requests |= {name: amount} if amount else {}
    gpus = spec.get("num_of_gpus", portable.get("num_of_gpus", 0))
    both: Object = {
        **({"cpu": str(portable["num_of_cpus"])} if "num_of_cpus" in portable else {}),
        **({"memory": portable["memory"]} if "memory" in portable else {}),
        **({STOCK_GPU: gpus} if gpus else {}),
    }
    return {"requests": {**requests, **both}, "limits": {**limits, **both}}


def _check_resources(resources: Object, request: JobRequest) -> None:
    places = {kind: _resource_places(request, kind) for kind in resources}
    for kind, amounts in resources.items():
        for name, amount in amounts.items():
            validate.quantity(places[kind][name], amount)
    for name, amount in resources["requests"].items():
        limit = resources["limits"].get(name)
        if limit is not None and validate.amount(amount) > validate.amount(limit):
            allowed = f"at most its limit, {limit} in {places['limits'][name]}"
            raise InvalidInput(places["requests"][name], amount, allowed)


def _resource_places(request: JobRequest, kind: str) -> dict[str, str]:
    """Return where the container's requests or limits are written, by Kubernetes' names of the resources."""
    places = _places(request)
    by_resource = {
        "cpu": places["cpu"],
        "memory": places["memory"],
        "ephemeral-storage": places["ephemeral_storage"],
        STOCK_GPU: places["num_of_gpus"],
    }
    if kind == "requests":
        own = {name: request.launcher.places.get(f"{name}_request") for name in ("cpu", "memory")}
        portable = _portable_places(request)
        by_resource |= {name: place for name, place in own.items() if place and name not in portable}
    return by_resource


def _places(request: JobRequest) -> dict[str, str]:
    """Return where the value that counts is written, by the key of each option that a policy can limit."""
    keys = ("image", "python_path", "pending_timeout", "cpu", "memory", "ephemeral_storage", "num_of_gpus")
    places = {key: request.launcher.place(key) for key in keys} | _portable_places(request)
    if request.spec.get("ephemeral_storage") is None:
        places["ephemeral_storage"] = "ephemeral_storage (the site's default)"
    return places


def _portable_places(request: JobRequest) -> dict[str, str]:
    """Return where resource_spec has the values that count, by the keys of the same options in launcher_spec."""
    keys = {"num_of_cpus": "cpu", "memory": "memory", "num_of_gpus": "num_of_gpus"}
    places = {own: request.portable.place(key) for key, own in keys.items() if key in request.portable.values}
    if "num_of_gpus" in request.spec:  # launcher_spec has precedence for GPUs, and resource_spec for all else
        places.pop("num_of_gpus", None)
    return places
