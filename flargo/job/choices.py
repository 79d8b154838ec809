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
class JobRequest:
    """What a job's metadata says about its container at one site."""

    site: str
    """FLARE's name of the site."""
    mode: str
    """The key of the launcher in launcher_spec."""
    where: str
    """The path of ``spec`` in the job's metadata, for messages to the job's author."""
    spec: Mapping[str, Any]
    """The job's part of launcher_spec, checked by flargo.job.trust."""
    portable: Mapping[str, Any]
    """The job's part of resource_spec, checked by nvflare."""


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
    _check_resources(resources, request.where)
    requested = Requested(
        where=request.where,
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
    return InvalidInput(
        f"{request.where}['image']",
        MISSING,
        f"an image there, in launcher_spec['default'][{request.mode!r}]['image'] (shared default), in"
        f" resource_spec[{request.site!r}][{request.mode!r}]['image'] (legacy), or in"
        " studies.<study>.container.image of local/study_runtime.yaml (the site's default)",
    )


def _choose_ephemeral_storage(request: JobRequest, settings: Settings) -> str:
    quantity = request.spec.get("ephemeral_storage")
    return settings.ephemeral_storage if quantity is None else str(quantity)


def _build_resources(request: JobRequest, settings: Settings) -> Object:
    """Return the container's resources: launcher_spec's values, overridden by those of nvflare's resource_spec."""
    spec, portable = request.spec, request.portable
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


def _check_resources(resources: Object, where: str) -> None:
    for amounts in resources.values():
        for name, amount in amounts.items():
            validate.quantity(f"{where}: {name}", amount)
    for name, amount in resources["requests"].items():
        limit = resources["limits"].get(name)
        if limit is not None and validate.amount(amount) > validate.amount(limit):
            raise InvalidInput(f"{where}: the request of {name}", amount, f"at most its limit, {limit}")
