"""What a site lets jobs ask for: images, Pythons, ceilings. All of it is optional, and none of it is a job's to set.

What the site itself says, in its study file or its arguments, is not held against its own lists.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from flargo.job import validate
from flargo.job.validate import MISSING, Check, InvalidInput

_BY_DIGEST = re.compile(r".*@sha256:[0-9a-f]{64}")


def _image_pattern(field: str, value: Any) -> str:
    """The registry stands in it in full: ``registry.example*`` would be ``registry.example.evil.com`` too."""
    before = re.split(r"[*?\[]", validate.line(field, value))[0]
    if before != value and "/" not in before:
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


@dataclass(frozen=True, slots=True)
class Policy:
    """The ``argo.policy`` of a launcher. Where nothing is said, nothing is held."""

    images: tuple[str, ...] | None = validate.key(validate.optional(_list_of(_image_pattern), _OR_ANY), None)
    """Patterns that a job's image has to fit, as the job writes it; `*` is any text, slashes too."""
    digests: bool = validate.key(validate.boolean, default=False)
    """Whether a job's image has to end in `@sha256:...`, so that nobody can change it later."""
    python_paths: tuple[str, ...] | None = validate.key(validate.optional(_list_of(validate.plain_path), _OR_ANY), None)
    """The only paths that a job's `python_path` may be."""
    cpu: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """Most of it that a job may have; one that names no limit is refused."""
    memory: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """The same."""
    ephemeral_storage: str | None = validate.key(validate.optional(validate.quantity, _OR_ANY), None)
    """The same; a job that names none has the launcher's `ephemeral_storage`."""
    gpus: int | None = validate.key(validate.optional(validate.at_least(0, "a whole number"), _OR_ANY), None)
    """Most GPUs of a job."""
    running_time: int | None = validate.key(
        validate.optional(validate.at_least(1, "a whole number of seconds"), "null (no limit)"), None
    )
    """Seconds after which a job's pod is ended, from when its node took it: the pod's `activeDeadlineSeconds`."""
    pending_timeout: float | None = validate.key(validate.optional(validate.seconds, _OR_ANY), None)
    """Longest `pending_timeout`, in seconds, that a job may ask for; one that asks for no limit is refused."""

    def enforce_image(self, field: str, image: str) -> None:
        """Hold a job's own image to the policy.

        Raises:
            Refused: it may not have it.
        """
        if self.images is not None and not any(fnmatchcase(image, pattern) for pattern in self.images):
            raise InvalidInput(field, image, f"at this site an image like {', '.join(self.images) or '(none at all)'}")
        if self.digests and not _BY_DIGEST.fullmatch(image):
            raise InvalidInput(field, image, "at this site an image with its digest, as in name@sha256:...")

    def enforce_python(self, field: str, path: str) -> None:
        """Hold a job's own Python to the policy.

        Raises:
            Refused: it may not have it.
        """
        if self.python_paths is not None and path not in self.python_paths:
            raise InvalidInput(field, path, f"at this site one of {', '.join(self.python_paths) or '(none at all)'}")

    def enforce_pending_timeout(self, field: str, seconds: float | None) -> None:
        """Hold a job's own ``pending_timeout`` to the policy.

        Args:
            field: how the job's author finds it.
            seconds: what the job asks for; None: no limit.

        Raises:
            Refused: it is longer than the site allows.
        """
        ceiling = self.pending_timeout
        if ceiling is not None and (seconds is None or seconds > ceiling):
            raise InvalidInput(field, seconds, f"at this site at most {ceiling:g} seconds")

    def enforce_limits(self, where: str, limits: Mapping[str, Any], gpu: str) -> None:
        """Hold the limits of a job's container to the policy.

        Args:
            where: how the job's author finds them.
            limits: by Kubernetes' names; a resource that is not there has none.
            gpu: what a GPU is called among them.

        Raises:
            Refused: there is more than the ceiling, or no limit where there is a ceiling.
        """
        for name, said, ceiling in (
            ("cpu", limits.get("cpu"), self.cpu),
            ("memory", limits.get("memory"), self.memory),
            ("ephemeral_storage", limits.get("ephemeral-storage"), self.ephemeral_storage),
        ):
            # To a node a limit of 0 is no limit.
            if ceiling is not None and (said is None or not 0 < validate.amount(said) <= validate.amount(ceiling)):
                allowed = f"at this site more than 0 and at most {ceiling}"
                raise InvalidInput(f"{where}[{name!r}]", MISSING if said is None else said, allowed)
        gpus = limits.get(gpu, 0)
        if self.gpus is not None and int(gpus) > self.gpus:
            raise InvalidInput(f"{where}['num_of_gpus']", gpus, f"at this site at most {self.gpus}")
