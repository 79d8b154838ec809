"""A site's policy for jobs: allowed images and Python paths, and upper limits. Every part is optional.

``enforce`` decides what the policy forbids. Only ``running_time`` forbids nothing: flargo.job.pod gives it to the pod.
A job cannot change the policy. The site's own values, in its study file or its launcher's arguments, are not checked
against it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from flargo.job import validate
from flargo.job.trust import MAX_REJOIN
from flargo.job.validate import MISSING, Check, InvalidInput

_IMAGE_WITH_DIGEST = re.compile(r".*@sha256:[0-9a-f]{64}")


def _image_pattern(field: str, value: Any) -> str:
    """Check for an image pattern that has the registry in full.

    ``registry.example*`` would match ``registry.example.evil.com`` too.
    """
    prefix = re.split(r"[*?\[]", validate.line(field, value))[0]
    if prefix != value and "/" not in prefix:
        raise InvalidInput(
            field, value, "an image, or a pattern whose first wildcard comes after a slash, as in a.example/*"
        )
    return str(value)


def _list_of(check: Check) -> Check:
    def checked(field: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidInput(field, value, "a list")
        return tuple(check(f"{field}[{index}]", entry) for index, entry in enumerate(value))

    return checked


_OR_ANY = "null (any)"
"""The name of the default, None, in error messages: jobs may have any value."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The ``argo.policy`` of a launcher. A key that is not set limits nothing."""

    images: tuple[str, ...] | None = validate.key(validate.optional(_list_of(_image_pattern), _OR_ANY), None)
    """Patterns, of which a job's image must match one, compared as the job writes it; `*` stands for any text, slashes
    included."""
    digests: bool = validate.key(validate.boolean, default=False)
    """Require that a job's image ends in `@sha256:...`, so that nobody can replace it later."""
    python_paths: tuple[str, ...] | None = validate.key(validate.optional(_list_of(validate.plain_path), _OR_ANY), None)
    """The only values that a job may set as its `python_path`."""
    cpu: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """Upper limit for a job's cpu; a job without a cpu limit is refused."""
    memory: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """Upper limit for a job's memory; a job without a memory limit is refused."""
    ephemeral_storage: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """Upper limit for a job's ephemeral storage; a job that sets none has the launcher's `ephemeral_storage`."""
    gpus: int | None = validate.key(validate.optional(validate.at_least(0, "a whole number"), _OR_ANY), None)
    """Upper limit for the number of a job's GPUs."""
    running_time: int | None = validate.key(
        validate.optional(validate.at_least(1, "a whole number of seconds"), "null (no limit)"), None
    )
    """Seconds after which Kubernetes ends a job's pod, counted from its start on the node: the pod's
    `activeDeadlineSeconds`."""
    pending_timeout: float | None = validate.key(validate.optional(validate.seconds, _OR_ANY), None)
    """Upper limit, in seconds, for a job's `pending_timeout`; a job that asks for no timeout is refused."""
    rejoin: int = validate.key(validate.between(0, MAX_REJOIN), 0)
    """How often at most the process of a client's job that asks for it (`argo.rejoin`) is started again after the
    cluster has lost its pod; 0: never. A job that asks for more gets this many. See docs/rejoin.md."""


@dataclass(frozen=True, slots=True)
class Requested:
    """What a job asks for, as far as a site's policy limits it. None means that the job leaves the choice to the site.

    The values are checked for their form before, but not for their size.
    """

    places: Mapping[str, str]
    """Where the job's author has written each value, by its key in launcher_spec, for error messages."""
    limits: Mapping[str, Any]
    """The container's resource limits by Kubernetes' resource names; a resource that is absent has no limit."""
    gpu: str
    """The resource name of a GPU among them."""
    image: str | None = None
    python_path: str | None = None
    pending_timeout: float | None = None
    has_pending_timeout: bool = False
    """The job sets its ``pending_timeout``, perhaps to null, which means without limit."""


def enforce(policy: Policy, requested: Requested) -> None:
    """Check what a job asks for against a site's policy. The first value that is not allowed is reported.

    Raises:
        InvalidInput: the site does not allow a value, or requires one that the job lacks.
    """
    for field, value, allowed in _violations(policy, requested):
        raise InvalidInput(requested.places[field], value, allowed)


def _violations(policy: Policy, requested: Requested) -> Iterator[tuple[str, Any, str]]:
    """Yield the key, the value and the allowed values of everything that the policy forbids."""
    image, python = requested.image, requested.python_path
    if image is not None:
        if policy.images is not None and not any(fnmatchcase(image, pattern) for pattern in policy.images):
            yield "image", image, f"an image that this site allows: {', '.join(policy.images) or '(none)'}"
        if policy.digests and not _IMAGE_WITH_DIGEST.fullmatch(image):
            yield "image", image, "an image with a digest, which this site requires, as in name@sha256:..."
    yield from _limit_violations(policy, requested)
    if python is not None and policy.python_paths is not None and python not in policy.python_paths:
        yield "python_path", python, f"a path that this site allows: {', '.join(policy.python_paths) or '(none)'}"
    ceiling, seconds = policy.pending_timeout, requested.pending_timeout
    if requested.has_pending_timeout and ceiling is not None and (seconds is None or seconds > ceiling):
        yield "pending_timeout", seconds, f"at most {ceiling:g} seconds, the limit of this site"


def _limit_violations(policy: Policy, requested: Requested) -> Iterator[tuple[str, Any, str]]:
    limits = requested.limits
    for name, limit, ceiling in (
        ("cpu", limits.get("cpu"), policy.cpu),
        ("memory", limits.get("memory"), policy.memory),
        ("ephemeral_storage", limits.get("ephemeral-storage"), policy.ephemeral_storage),
    ):
        # The kubelet treats a limit of 0 as no limit.
        if ceiling is not None and (limit is None or not 0 < validate.amount(limit) <= validate.amount(ceiling)):
            allowed = f"more than 0 and at most {ceiling}, the limit of this site"
            yield name, MISSING if limit is None else limit, allowed
    gpus = limits.get(requested.gpu, 0)
    if policy.gpus is not None and int(gpus) > policy.gpus:
        yield "num_of_gpus", gpus, f"at most {policy.gpus}, the limit of this site"
