"""A site's policy for jobs: allowed images and Python paths, and upper limits. Every part is optional.

A job cannot change the policy. The site's own values, in its study file or its launcher's arguments, are not checked
against it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from flargo.job import validate
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

    def enforce_image(self, field: str, image: str) -> None:
        """Check an image that a job asks for against the policy.

        Raises:
            InvalidInput: the site does not allow the image.
        """
        if self.images is not None and not any(fnmatchcase(image, pattern) for pattern in self.images):
            patterns = ", ".join(self.images) or "(none)"
            raise InvalidInput(field, image, f"an image that this site allows: {patterns}")
        if self.digests and not _IMAGE_WITH_DIGEST.fullmatch(image):
            raise InvalidInput(field, image, "an image with a digest, which this site requires, as in name@sha256:...")

    def enforce_python(self, field: str, path: str) -> None:
        """Check a Python path that a job asks for against the policy.

        Raises:
            InvalidInput: the site does not allow the path.
        """
        if self.python_paths is not None and path not in self.python_paths:
            paths = ", ".join(self.python_paths) or "(none)"
            raise InvalidInput(field, path, f"a path that this site allows: {paths}")

    def enforce_pending_timeout(self, field: str, seconds: float | None) -> None:
        """Check the ``pending_timeout`` that a job asks for against the policy.

        Args:
            field: the field's name, as the job's author wrote it.
            seconds: the timeout; None: no timeout.

        Raises:
            InvalidInput: the timeout is longer than the site allows.
        """
        ceiling = self.pending_timeout
        if ceiling is not None and (seconds is None or seconds > ceiling):
            raise InvalidInput(field, seconds, f"at most {ceiling:g} seconds, the limit of this site")

    def enforce_limits(self, where: str, limits: Mapping[str, Any], gpu: str) -> None:
        """Check the resource limits of a job's container against the policy.

        Args:
            where: the part of the job's metadata that sets the limits, as its author wrote it.
            limits: quantities by Kubernetes' resource names; a resource that is absent has no limit.
            gpu: the resource name of a GPU among them.

        Raises:
            InvalidInput: a limit exceeds the policy's, or is absent where the policy has one.
        """
        for name, limit, ceiling in (
            ("cpu", limits.get("cpu"), self.cpu),
            ("memory", limits.get("memory"), self.memory),
            ("ephemeral_storage", limits.get("ephemeral-storage"), self.ephemeral_storage),
        ):
            # The kubelet treats a limit of 0 as no limit.
            if ceiling is not None and (limit is None or not 0 < validate.amount(limit) <= validate.amount(ceiling)):
                allowed = f"more than 0 and at most {ceiling}, the limit of this site"
                raise InvalidInput(f"{where}[{name!r}]", MISSING if limit is None else limit, allowed)
        gpus = limits.get(gpu, 0)
        if self.gpus is not None and int(gpus) > self.gpus:
            raise InvalidInput(f"{where}['num_of_gpus']", gpus, f"at most {self.gpus}, the limit of this site")
